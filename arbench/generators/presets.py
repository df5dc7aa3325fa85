"""Every named generator as one table: shape, tokenizer, the paper's sampling settings, published FID and IS.

Shapes: LlamaGen (arXiv:2406.06525, Table 1), PAR (arXiv:2412.15119, Table 1), MAR (arXiv:2406.11838, section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from arbench.registry import unknown_name


@dataclass(frozen=True, kw_only=True)
class Published:
    """A paper's FID-50k and IS for a preset at its sampling settings, with the place where they stand."""

    fid: float
    inception_score: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named generator. `config` are fields of the method's configuration, `sampling` its default settings."""

    name: str
    method: str
    config: Mapping[str, Any]
    tokenizer: str
    image_size: int
    sampling: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None  # name of its weights card
    shipped: bool = False  # whether its weights travel with the package
    published: Published | None = None
    evaluated_at: int | None = None  # side to which images are brought before evaluation, where it differs


DIGITS = {"num_classes": 10, "grid": 8}
DIGITS_GPT = {"width": 96, "depth": 5, "heads": 3, "vocab_size": 256, **DIGITS}
DIGITS_MASKED = {
    **{
        f"{part}_{key}": value
        for part in ("encoder", "decoder")
        for key, value in (("width", 96), ("depth", 3), ("heads", 3))
    },
    "buffer_size": 8,
    **DIGITS,
}
DIGITS_HEAD = {"channels": 4, "head_depth": 3, "head_width": 96}

DIGITS_PRESETS = (
    Preset(
        name="ar-digits",
        method="ar",
        config=DIGITS_GPT,
        tokenizer="digits-vq",
        image_size=32,
        sampling={"cfg_scale": 1.5},
        shipped=True,
    ),
    Preset(
        name="par-digits",
        method="par",
        config={**DIGITS_GPT, "parallel": 4},
        tokenizer="digits-vq",
        image_size=32,
        sampling={"cfg_scale": 1.5},
        shipped=True,
    ),
    Preset(
        name="mar-digits",
        method="mar",
        config={**DIGITS_MASKED, **DIGITS_HEAD},
        tokenizer="digits-kl",
        image_size=32,
        sampling={"num_iter": 8, "cfg_scale": 2.0, "head_steps": 25, "head_sampler": "ddpm-trimmed"},
        shipped=True,
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in DIGITS_PRESETS}


def get_preset(name: str) -> Preset:
    """The preset called `name`; an unknown name is a ValueError with the nearest one."""
    if name not in PRESETS:
        raise unknown_name("model", name, PRESETS)
    return PRESETS[name]


__all__ = ["PRESETS", "Preset", "Published", "get_preset", "replace"]
