"""The methods that are installed, and their presets: what a name means."""

from __future__ import annotations

import sys
from functools import lru_cache

from arbench.generators.spec import Method, Preset
from arbench.registry import GENERATORS, unknown_name
from arbench.settings import SETTINGS, Setting, settings_of

_given: dict[str, Method] = {}  # those that were named as module:Name in this process


def get_method(name: str) -> Method:
    """The method called `name`. Raises ValueError for an unknown one and for a plug-in that cannot be used."""
    if name in _given:
        return _given[name]
    if name not in GENERATORS.installed():
        raise unknown_name("method", name, method_names())
    return _load(name, tuple(sys.path))


def method_names() -> list[str]:
    """The names of all methods, nothing imported."""
    return [*GENERATORS.installed(), *_given]


def methods() -> dict[str, Method]:
    """Every method that can be used, in the order of listings."""
    found = [*_usable(tuple(sys.path))[0].values(), *_given.values()]
    return {method.name: method for method in sorted(found, key=lambda method: (method.order, method.name))}


def unusable() -> tuple[str, ...]:
    """A line for each plug-in that cannot be used, with what is wrong."""
    return (*_usable(tuple(sys.path))[1].values(), *GENERATORS.clashes())


def method_by_module(name: str) -> Method:
    """The method that `module:Name` is, from now on known by its own name in this process.

    Raises ValueError where it cannot be imported, is none, or has the name of an installed one.
    """
    method = _checked(name, GENERATORS.find(name))
    installed = GENERATORS.installed().get(method.name)
    if installed is None:
        _given[method.name] = method
    elif installed.value != name:
        raise ValueError(f"method {name!r} is called {method.name!r}, which is the name of an installed one")
    return get_method(method.name)


def presets() -> dict[str, Preset]:
    """Every preset by name: those of the digits first, then as the methods are listed; of two, the earlier one's."""
    known: dict[str, Preset] = {}
    for method in methods().values():
        for preset in method.presets:
            known.setdefault(preset.name, preset)
    return dict(sorted(known.items(), key=lambda item: item[1].data is None))


def all_settings() -> dict[str, Setting]:
    """Every sampling setting by name: those that have an option, then what methods of others bring."""
    known = dict(SETTINGS)
    for method in methods().values():
        for sampling_type in method.sampling:
            for name, setting in settings_of(sampling_type).items():
                known.setdefault(name, setting)
    return known


def get_preset(name: str) -> Preset:
    """The preset called `name`; an unknown name is a ValueError with the nearest one."""
    known = presets()
    if name not in known:
        raise unknown_name("model", name, known)
    return known[name]


def _checked(name: str, found: object) -> Method:
    if not isinstance(found, Method):
        raise ValueError(f"method {name!r} is of type {type(found).__name__}; expected an arbench.Method")
    return found


@lru_cache(maxsize=64)
def _load(name: str, path: tuple[str, ...]) -> Method:
    """The installed method called `name`, on the module search path `path`."""
    method = _checked(name, GENERATORS.find(name))
    if method.name != name:
        raise ValueError(f"method {name!r} calls itself {method.name!r}; expected the name of its entry point")
    return method


@lru_cache(maxsize=64)
def _usable(path: tuple[str, ...]) -> tuple[dict[str, Method], dict[str, str]]:
    """The installed methods by name, and for the others what is wrong."""
    found, wrong = {}, {}
    for name in GENERATORS.installed():
        try:
            found[name] = _load(name, path)
        except ValueError as error:
            wrong[name] = str(error)
    return found, wrong
