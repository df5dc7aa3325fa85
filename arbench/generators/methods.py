"""The methods that are installed, and their presets: what a name means.

A stranger's method is imported once it is named, or once a name is none of ours, or all are asked for.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from contextlib import nullcontext
from functools import lru_cache
from typing import TypeVar

from arbench.generators.spec import Method, Preset
from arbench.registry import GENERATORS, SCAN_SECONDS, time_limit, unknown_name
from arbench.settings import SETTINGS, Setting, settings_of

Value = TypeVar("Value")

_given: dict[str, Method] = {}  # those that were named as module:Name in this process
_named: set[str] = set()  # installed ones of strangers that were named in this process


class OursFirst(Mapping[str, Value]):
    """What methods bring, by name: that of `known_methods` first, that of all where it is not there."""

    def __init__(self, collect: Callable[[Iterable[Method]], dict[str, Value]]) -> None:
        self._collect, self._known = collect, collect(known_methods())

    def _all(self) -> dict[str, Value]:
        return {**self._known, **{k: v for k, v in self._collect(methods().values()).items() if k not in self._known}}

    def __getitem__(self, name: str) -> Value:
        return self._known[name] if name in self._known else self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def values(self) -> ValuesView[Value]:
        return self._all().values()

    def items(self) -> ItemsView[str, Value]:
        return self._all().items()


class PluginWarning(UserWarning):
    """A plug-in that nobody named has held things up."""


def get_method(name: str) -> Method:
    """The method called `name`. Raises ValueError for an unknown one and for a plug-in that cannot be used."""
    if name in _given:
        return _given[name]
    if name not in GENERATORS.installed():
        raise unknown_name("method", name, method_names())
    method = _load(name, tuple(sys.path))
    _named.add(name)
    return method


def find_method(name: str) -> Method | None:
    """The method called `name`, or None where none is, or it cannot be used."""
    return OursFirst(_in_order).get(name) if name in method_names() else None


def method_names() -> list[str]:
    """The names of all methods, nothing imported."""
    return [*GENERATORS.installed(), *_given]


def methods() -> dict[str, Method]:
    """Every method that can be used, in the order of listings."""
    return _in_order([*_usable(tuple(sys.path))[0].values(), *_given.values()])


def known_methods() -> tuple[Method, ...]:
    """Those that ship with arbench, and those that were named in this process: no stranger's is imported for it."""
    path = tuple(sys.path)
    names = [name for name in GENERATORS.installed() if GENERATORS.is_own(name) or name in _named]
    return tuple(_in_order([*(_load(name, path) for name in names), *_given.values()]).values())


def _in_order(found: Iterable[Method]) -> dict[str, Method]:
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


def presets() -> Mapping[str, Preset]:
    """Every preset by name: those of the digits first, then as the methods are listed; of two, the earlier one's."""
    return OursFirst(_presets)


def known_presets() -> dict[str, Preset]:
    """Those of `known_methods`."""
    return _presets(known_methods())


def _presets(of: Iterable[Method]) -> dict[str, Preset]:
    known: dict[str, Preset] = {}
    for method in of:
        for preset in method.presets:
            known.setdefault(preset.name, preset)
    return dict(sorted(known.items(), key=lambda item: item[1].data is None))


def all_settings() -> Mapping[str, Setting]:
    """Every sampling setting by name: those that have an option, then what methods of others bring."""
    return OursFirst(_settings)


def settings_with(names: Iterable[str]) -> Mapping[str, Setting]:
    """The settings of `known_methods`; all of them where one of `names` is none of these."""
    known = _settings(known_methods())
    return known if known.keys() >= set(names) else all_settings()


def _settings(of: Iterable[Method]) -> dict[str, Setting]:
    known = dict(SETTINGS)
    for method in of:
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
    """The installed methods by name, and for the others what is wrong. A stranger's import is given a time limit."""
    found, wrong = {}, {}
    for name in GENERATORS.installed():
        began = time.monotonic()
        try:
            with nullcontext() if GENERATORS.is_own(name) else time_limit(SCAN_SECONDS):
                found[name] = _load(name, path)
        except ValueError as error:
            wrong[name] = str(error)
            if time.monotonic() - began > SCAN_SECONDS:
                warnings.warn(f"{error}; reinstall or remove {GENERATORS.package(name)}", PluginWarning, stacklevel=2)
    return found, wrong
