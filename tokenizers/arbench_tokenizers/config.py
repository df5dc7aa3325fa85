"""Configurations of the convolutional tokenizers: given by the caller, or read off a state dict's names and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from arbench.registry import unknown_name
from arbench.weights.keys import Shapes

KINDS = ("discrete", "continuous")


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Widths and depths of encoder and decoder.

    `channels` is the width of the bottleneck. Attention stands at the levels whose resolution, counted from
    `resolution`, is in `attention_resolutions`; in the decoder only where `decoder_attention` says so. The middle
    always attends. `scale` brings latents to unit deviation.
    """

    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    decoder_attention: bool = True
    resolution: int = 256
    channels: int = 16
    scale: float = 1.0

    @property
    def downsample(self) -> int:
        """Image pixels per token side."""
        return 2 ** (len(self.channel_multipliers) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.base_channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def encoder_channels(self) -> int:
        """Channels of the encoder's output."""
        return self.channels

    @property
    def latent_channels(self) -> int:
        """Channels of a latent as a generator sees it."""
        return self.channels

    def attends(self, level: int) -> bool:
        """Whether the blocks of `level` (0 = finest) are followed by attention."""
        return self.resolution // 2**level in self.attention_resolutions


@dataclass(frozen=True, kw_only=True)
class KLConfig(AutoencoderConfig):
    """A continuous tokenizer: the encoder gives mean and log-variance."""

    @property
    def encoder_channels(self) -> int:
        return 2 * self.channels


@dataclass(frozen=True, kw_only=True)
class VQConfig(AutoencoderConfig):
    """A discrete tokenizer; `kind="continuous"` makes its latents before quantisation the tokens."""

    channels: int = 256
    vocab_size: int = 16384
    codebook_dim: int = 256
    kind: str = "discrete"

    @property
    def latent_channels(self) -> int:
        return self.codebook_dim


Config = TypeVar("Config", bound=AutoencoderConfig)


def make_config(name: str, default: Config, given: Mapping[str, Any]) -> Config:
    """`default` with what is `given`. Raises ValueError for an unknown name or an impossible value."""
    known = {field.name: getattr(default, field.name) for field in fields(default)}
    checked = {}
    for key, value in given.items():
        if key not in known:
            raise unknown_name(f"setting of tokenizer {name!r}", key, known)
        checked[key] = _check_value(key, value, known[key])
    return replace(default, **checked)


def _check_value(key: str, value: object, default: object) -> Any:
    """`value` in the type of `default`; ValueError where it cannot be that."""
    if key == "kind":
        if value not in KINDS:
            raise unknown_name("kind", str(value), KINDS)
        return value
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{key} is {value!r}; expected true or false")
        return value
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)) or (key == "channel_multipliers" and not value):
            raise ValueError(f"{key} is {value!r}; expected a list of positive integers")
        return tuple(_positive_integer(key, entry) for entry in value)
    if isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{key} is {value!r}; expected a positive number")
        return float(value)
    return _positive_integer(key, value)


def _positive_integer(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} holds {value!r}; expected a positive integer")
    return value


def merge_config(name: str, default: Config, told: Mapping[str, Any], given: Mapping[str, Any], where: str) -> Config:
    """What the file tells and the caller gives, together. Raises ValueError where they contradict each other."""
    asked = make_config(name, default, given)
    for key in given:
        if key in told and getattr(asked, key) != told[key]:
            raise ValueError(f"{key} {given[key]!r} contradicts {where}, which has {told[key]!r}")
    return make_config(name, asked, told)


def read_config(shapes: Shapes, resolution: int, where: str) -> dict[str, Any]:
    """The configuration that a state dict in LDM's names tells, for images of `resolution` pixels a side.

    Raises ValueError, begun with `where`, for a state dict that is no such autoencoder.
    """
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    attending = sorted({int(match[1]) for name in shapes if (match := re.match(r"encoder\.down\.(\d+)\.attn\.", name))})
    base = _width(shapes, "encoder.conv_in.weight", where)
    widths = [_width(shapes, f"encoder.down.{level}.block.0.conv2.weight", where) for level in range(levels)]
    told: dict[str, Any] = {
        "base_channels": base,
        "channel_multipliers": tuple(width // base for width in widths),
        "num_res_blocks": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "attention_resolutions": tuple(resolution // 2**level for level in attending),
        "channels": _width(shapes, "decoder.conv_in.weight", where, axis=1),
    }
    if attending:
        told["decoder_attention"] = any(re.match(r"decoder\.up\.\d+\.attn\.", name) for name in shapes)
    if "quantize.embedding.weight" in shapes:
        told["vocab_size"] = _width(shapes, "quantize.embedding.weight", where)
        told["codebook_dim"] = _width(shapes, "quantize.embedding.weight", where, axis=1)
    return told


def _count(shapes: Shapes, pattern: str) -> int:
    """How many different indices stand where `pattern` has its group."""
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})


def _width(shapes: Shapes, name: str, where: str, axis: int = 0) -> int:
    """The size of a tensor along `axis`, which has to be there."""
    shape = shapes.get(name)
    if shape is None:
        raise ValueError(f"{where}: incomplete weights: {name} is missing")
    if len(shape) <= axis or shape[axis] < 1:
        raise ValueError(f"{where}: {name} has shape {shape}; expected at least {axis + 1} dimensions")
    return shape[axis]
