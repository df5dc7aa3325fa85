"""What a row will cost before it runs: operations from first principles, hours and memory from those.

Operations count two for each multiply-add of matrix products and convolutions; norms, activations and softmax are
left out. Hours are what those operations take at a stated share of a device's peak: an estimate, not a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arbench.sampling.schedules import masked_sizes

# Convolutions of the LDM decoder at 128 base channels and 16 pixels a token, in operations a pixel: 250 GFLOP at
# 256×256 (KL-16) and 570 GFLOP at 384×384 (LlamaGen VQ) both come to this.
DECODER_FLOPS_PER_PIXEL = 3.85e6
A100_PEAK = 312e12  # bfloat16, dense, NVIDIA's data sheet
# Of the peak that generation reaches in batches: between the floor and the published systems, which lie 10 to 40
# times above it.
SHARE_OF_PEAK = 0.25
BLOCK_WEIGHTS = 12  # times width²: attention 4, MLP 8 (SwiGLU of 8/3 the width, or two layers of 4)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the memory estimate asks of a generator, without its weights."""

    config: Any

    @property
    def grid(self) -> tuple[int, int]:
        return self.config.grid

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size if self.config.head == "categorical" else 0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations of one image (generator, head and decoder) and the memory of a batch."""

    flops_per_image: float
    memory_gib: float

    def a100_hours(self, num_images: int) -> float:
        """Hours on one A100 at `SHARE_OF_PEAK`."""
        return num_images * self.flops_per_image / (A100_PEAK * SHARE_OF_PEAK) / 3600


def image_flops(method: str, config: Any, sampling: Mapping[str, Any], image_size: int) -> float:
    """Operations of one image of `image_size` pixels a side: backbone, head and decoder, both rows of guidance.

    `config` is a generator's configuration, `sampling` its resolved settings.
    """
    rows = 2 if sampling.get("cfg_scale", 1.0) != 1.0 else 1
    tokens = math.prod(config.grid)
    backbone = _masked(config, tokens, sampling["num_iter"]) if method == "mar" else _causal(config, tokens)
    head = tokens * _head(config, sampling)
    return rows * (backbone + head) + DECODER_FLOPS_PER_PIXEL * image_size**2


def weight_count(method: str, config: Any) -> float:
    """Weights of a generator: blocks, head, token and class tables; norms and biases are left out."""
    if method == "mar":
        parts = ((config.encoder_depth, config.encoder_width), (config.decoder_depth, config.decoder_width))
        blocks = sum(depth * BLOCK_WEIGHTS * width**2 for depth, width in parts)
        positions = (2 * config.buffer_size + 3 * math.prod(config.grid)) * config.decoder_width
    else:
        blocks, positions = config.depth * BLOCK_WEIGHTS * config.width**2, 0
    width = _width(config)
    tables = (config.num_classes + 1) * width
    tables += config.vocab_size * width if config.head == "categorical" else 0
    return blocks + positions + tables + _head_weights(config)


def _width(config: Any) -> int:
    return config.decoder_width if hasattr(config, "decoder_width") else config.width


def _causal(config: Any, tokens: int) -> float:
    """Each token goes through the blocks once and looks at those before it."""
    blocks = 2 * config.depth * BLOCK_WEIGHTS * config.width**2 * tokens
    attention = 4 * config.depth * config.width * tokens * (tokens + 1) / 2
    return blocks + attention


def _masked(config: Any, tokens: int, num_iter: int) -> float:
    """Each iteration encodes the known tokens behind the buffer and decodes all."""
    buffer, known, total = config.buffer_size, 0, 0.0
    for size in masked_sizes(tokens, num_iter):
        total += _blocks(config.encoder_depth, config.encoder_width, buffer + known)
        total += _blocks(config.decoder_depth, config.decoder_width, buffer + tokens)
        known += size
    return total


def _blocks(depth: int, width: int, length: int) -> float:
    return depth * (2 * BLOCK_WEIGHTS * width**2 * length + 4 * width * length**2)


def _head(config: Any, sampling: Mapping[str, Any]) -> float:
    """Operations of one token's draw: one product with the codebook, or the denoising MLP at every step."""
    return 2 * _head_weights(config) * (sampling["head_steps"] if config.head == "diffusion" else 1)


def _head_weights(config: Any) -> float:
    if config.head == "categorical":
        return _width(config) * config.vocab_size
    inner, depth, channels = config.head_width, config.head_depth, config.channels * config.patch_size**2
    # Each block: a 2-layer MLP and its three modulations; the final layer has two modulations; in front stand the
    # embeddings of token, time (256 wide, 2 layers) and condition.
    return inner**2 * (5 * depth + 2) + inner * (3 * channels + _width(config) + 256 + inner)
