"""Which configuration a generator gets: checked values, and what a state dict, a preset and the caller say together."""

from __future__ import annotations

import dataclasses
from math import isqrt, prod
from typing import Annotated, Any, get_origin

from arbench.generators.common.config import Grid, as_grid
from arbench.generators.methods import get_method, known_presets, presets
from arbench.generators.spec import Preset
from arbench.protocols import GENERATOR_MEMBERS, Generator, missing_members
from arbench.validation import SHORT, Limits, check, check_names, hints_of

# What a state dict tells in place of names of the configuration.
DERIVED = ("num_tokens", "token_width")


def build_generator(method: str, config: dict[str, Any]) -> Generator:
    """A generator of `method` with random weights from `torch.manual_seed`.

    Raises ValueError for unknown, missing and impossible configuration values, and for a plug-in that lacks a member.
    """
    spec, config = get_method(method), expand_config(method, config)
    fields = dataclasses.fields(spec.config)
    required = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in config]
    if missing:
        raise ValueError(f"{method}: needs {', '.join(missing)}; give them, a preset's name, or a weights file")
    generator = spec.model(spec.config(**config))
    lacking = missing_members(generator, GENERATOR_MEMBERS)
    if lacking:
        raise ValueError(f"method {method!r}: its model lacks {', '.join(lacking)}; see arbench.protocols.Generator")
    return generator


def full_config(preset: Preset) -> dict[str, Any]:
    """The configuration of a preset with what it leaves to the defaults: a file has to agree with that as well."""
    return dataclasses.asdict(get_method(preset.method).config(**preset.config))


def expand_config(method: str, config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the method's shorthands, as MAR's `width`, spelled out.

    Raises ValueError for an unknown name, a value of another type and a part that contradicts its shorthand.
    """
    spec, config = get_method(method), dict(config)
    for key, parts in spec.shorthands.items():
        if key in config:
            value = config.pop(key)
            for part in parts:
                if config.setdefault(part, value) != value:
                    raise ValueError(f"{part} {config[part]} contradicts {key} {value}, which stands for both parts")
    hints = {field.name: hints_of(spec.config)[field.name] for field in dataclasses.fields(spec.config)}
    hints = {name: Grid if name == "grid" else hint for name, hint in hints.items()}  # a side is enough
    check_names(f"configuration name of {method}", config, {**hints, **spec.shorthands})
    for name, value in config.items():
        check(name, value, hints[name], SHORT)
        if get_origin(hints[name]) is not Annotated and isinstance(value, (int, float)) and not isinstance(value, bool):
            least = 1 if isinstance(value, int) else 0  # where the hint has no limits of its own
            check(name, value, Annotated[float, Limits(least=least, meaning=f"{least} or more")], SHORT)
    return config


def merge_config(method: str, told: dict[str, Any], given: dict[str, Any], where: str) -> dict[str, Any]:
    """The whole configuration from what the tensors tell and what preset and caller give.

    Raises ValueError where both speak and differ, and where neither tells the heads or the grid.
    """
    for name, value in told.items():
        if name not in DERIVED and name in given and given[name] != value:
            fitting = ", ".join(fitting_presets(method, told))
            hint = f"; it fits {fitting}" if fitting else ""
            raise ValueError(f"{where}: its tensors say {name} {value}, not {given[name]}{hint}")
    config = {**given, **{name: value for name, value in told.items() if name not in DERIVED}}
    if "token_width" in told:
        config.update(_split_token(told["token_width"], config, where))
    config["grid"] = _find_grid(method, told, config, where)
    untold = {name: _find_untold(name, method, told, config, where) for name in untold_names(method)}
    return {**config, **untold}


def untold_names(method: str) -> tuple[str, ...]:
    """The names of a method's configuration that no tensor tells, the grid aside."""
    release = get_method(method).release
    return () if release is None else release.untold


def _split_token(token_width: int, config: dict[str, Any], where: str) -> dict[str, int]:
    """Channels and patch size of a continuous token; a patch is 1 where nobody says otherwise."""
    channels, patch = config.get("channels"), config.get("patch_size")
    if patch is None:
        patch = 1 if channels is None else isqrt(token_width // channels)
    if channels is None:
        channels = token_width // patch**2
    if channels * patch**2 != token_width:
        raise ValueError(
            f"{where}: a token has {token_width} channels, which is not {channels} channels x patch {patch} x {patch}"
        )
    return {"channels": channels, "patch_size": patch}


def _find_grid(method: str, told: dict[str, Any], config: dict[str, Any], where: str) -> Any:
    """The grid that is given, else the square of as many tokens, else that of the presets of this shape."""
    num_tokens = told.get("num_tokens")
    if num_tokens is None:
        return _find_untold("grid", method, told, config, where)
    if "grid" in config:
        if prod(as_grid(config["grid"])) != num_tokens:
            raise ValueError(f"{where}: its tensors say {num_tokens} tokens, not grid {config['grid']}")
        return config["grid"]
    if isqrt(num_tokens) ** 2 != num_tokens:
        raise ValueError(f"{where}: {num_tokens} tokens are no square; give grid=(rows, columns)")
    return isqrt(num_tokens)


def _find_untold(name: str, method: str, told: dict[str, Any], config: dict[str, Any], where: str) -> Any:
    """What no tensor tells: as given, or as all presets of this very shape have it."""
    if name in config:
        return config[name]
    known = presets()
    fitting = {preset: known[preset].config[name] for preset in fitting_presets(method, told)}
    if len(set(fitting.values())) == 1:
        return next(iter(fitting.values()))
    choices = ", ".join(f"{value} fits {preset}" for preset, value in fitting.items())
    raise ValueError(f"{where}: tensors do not tell {name}; give {name}={f' ({choices})' if choices else '...'}")


def fitting_presets(method: str, told: dict[str, Any]) -> list[str]:
    """The presets of a method whose configuration agrees with all that the tensors tell."""
    get_method(method)  # its presets are known from here on
    names = []
    for preset in known_presets().values():
        if preset.method == method:
            full = full_config(preset)
            full["num_tokens"] = prod(as_grid(full["grid"]))
            if "channels" in full:
                full["token_width"] = full["channels"] * full.get("patch_size", 1) ** 2
            if all(full.get(name) == value for name, value in told.items()):
                names.append(preset.name)
    return names
