"""Configurations of the convolutional tokenizers: given by the caller, or read off a state dict's names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

from arbench.generators.common.shapes import count_blocks
from arbench.validation import Limits, check_fields
from arbench.weights.keys import Shapes

KINDS = ("discrete", "continuous")
Positive = Annotated[int, Limits(least=1, meaning="a positive integer")]


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Widths and depths of encoder and decoder.

    `channels` is the width of the bottleneck. Attention stands at the levels whose resolution, counted from
    `resolution`, is in `attention_resolutions`; in the decoder only where `decoder_attention` says so. The middle
    always attends. `scale` brings latents to unit deviation.
    """

    base_channels: Positive = 128
    channel_multipliers: tuple[Positive, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: Positive = 2
    attention_resolutions: tuple[Positive, ...] = (16,)
    decoder_attention: bool = True
    resolution: Positive = 256
    channels: Positive = 16
    scale: Annotated[float, Limits(above=0, meaning="a positive number")] = 1.0

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

    channels: Positive = 256
    vocab_size: Positive = 16384
    codebook_dim: Positive = 256
    kind: Annotated[str, Limits(choices=KINDS)] = "discrete"

    @property
    def latent_channels(self) -> int:
        return self.codebook_dim


Config = TypeVar("Config", bound=AutoencoderConfig)


def make_config(name: str, default: Config, given: Mapping[str, Any]) -> Config:
    """`default` with what is `given`. Raises ValueError for an unknown name or an impossible value."""
    check_fields(type(default), given, kind=f"setting of tokenizer {name!r}")
    lists = {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    config = replace(default, **{**given, **lists})
    if not config.channel_multipliers:
        raise ValueError("channel_multipliers is (); expected a list of positive integers, one a level")
    return config


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
    levels = count_blocks(shapes, r"encoder\.down\.(\d+)\.")
    attending = sorted({int(match[1]) for name in shapes if (match := re.match(r"encoder\.down\.(\d+)\.attn\.", name))})
    base = _width(shapes, "encoder.conv_in.weight", where)
    widths = [_width(shapes, f"encoder.down.{level}.block.0.conv2.weight", where) for level in range(levels)]
    told: dict[str, Any] = {
        "base_channels": base,
        "channel_multipliers": tuple(width // base for width in widths),
        "num_res_blocks": count_blocks(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "attention_resolutions": tuple(resolution // 2**level for level in attending),
        "channels": _width(shapes, "decoder.conv_in.weight", where, axis=1),
    }
    if attending:
        told["decoder_attention"] = any(re.match(r"decoder\.up\.\d+\.attn\.", name) for name in shapes)
    if "quantize.embedding.weight" in shapes:
        told["vocab_size"] = _width(shapes, "quantize.embedding.weight", where)
        told["codebook_dim"] = _width(shapes, "quantize.embedding.weight", where, axis=1)
    return told


def _width(shapes: Shapes, name: str, where: str, axis: int = 0) -> int:
    """The size of a tensor along `axis`, which has to be there."""
    shape = shapes.get(name)
    if shape is None:
        raise ValueError(f"{where}: incomplete weights: {name} is missing")
    if len(shape) <= axis or shape[axis] < 1:
        raise ValueError(f"{where}: {name} has shape {shape}; expected at least {axis + 1} dimensions")
    return shape[axis]
