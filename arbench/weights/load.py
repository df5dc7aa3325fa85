"""`load_generator`: a preset or a family, with its weights, ready to sample."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arbench.generators.ar import AR, ARConfig
from arbench.generators.mar import MAR, MARConfig
from arbench.generators.par import PAR, PARConfig
from arbench.generators.presets import PRESETS, Preset
from arbench.registry import unknown_name

FAMILIES: dict[str, tuple[type, type]] = {"ar": (AR, ARConfig), "par": (PAR, PARConfig), "mar": (MAR, MARConfig)}


def shipped_weights(preset: Preset) -> Path:
    """The file that travels with the package for `preset`."""
    return Path(str(resources.files("arbench") / "assets" / f"{preset.name}.safetensors"))


def build_generator(method: str, config: dict[str, Any]) -> Any:
    """A generator of `method` with random weights from `torch.manual_seed`; unknown configuration names are errors."""
    generator_type, config_type = FAMILIES[method]
    fields = {field.name: field for field in dataclasses.fields(config_type)}
    for name in config:
        if name not in fields:
            raise unknown_name(f"configuration name of {method}", name, fields)
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in config]
    if missing:
        raise ValueError(f"{method}: needs {', '.join(missing)}; give them, a preset's name, or a weights file")
    return generator_type(config_type(**config))


def load_generator(
    name: str,
    *,
    weights: str | Path | None = None,
    which: str = "ema",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Any:
    """The generator called `name`, a preset or a family (ar, par, mar), in evaluation mode.

    `weights` is a file; None takes the file that ships with the preset, and random weights where none does; "random"
    takes random weights. `which` picks "ema" or "raw" inside a checkpoint. `config` gives what a preset or the file does
    not say. Raises ValueError for unknown names and for a configuration that contradicts the file.
    """
    preset = PRESETS.get(name)
    if preset is None and name not in FAMILIES:
        raise unknown_name("model", name, [*PRESETS, *FAMILIES])
    method = preset.method if preset else name
    merged = {**(preset.config if preset else {}), **config}
    if weights is None and preset is not None and preset.shipped:
        weights = shipped_weights(preset)
    generator: nn.Module = build_generator(method, merged)
    if weights is not None and str(weights) != "random":
        from safetensors.torch import load_file

        generator.load_state_dict(load_file(weights))
    return generator.to(device=device, dtype=dtype).eval()
