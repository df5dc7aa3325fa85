"""What a training without a cache spends on its frozen tokenizer: weights, and operations and memory of an image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from arbench.generators.methods import get_preset
from arbench.runs.memory import DECODER_FLOATS_PER_PIXEL
from arbench.tokenizer.load import encode_images, find_tokenizer
from arbench.training.job import Job
from arbench.weights.load import without_memory

FLOAT = 4  # bytes: a frozen tokenizer encodes in float32


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Bytes of all weights, bytes an image takes while it is encoded, and its operations, None where not known."""

    weights: int
    image_bytes: int
    flops: float | None


def encoding_of(job: Job) -> Encoding | None:
    """What encoding takes of a generator's job; None where its tokens are made beforehand."""
    if job.config.cached:
        return None
    preset = get_preset(job.target)
    return count_encoding(str(job.tokenizer or preset.tokenizer), job.size or preset.image_size)


@cache
@torch.no_grad()
def count_encoding(name: str, size: int) -> Encoding:
    """Counted on the tokenizer `name` without memory, with its usual configuration, for images of `size` pixels a side.

    The widest map of an encoder is as wide as a decoder's.
    """
    image_bytes = FLOAT * DECODER_FLOATS_PER_PIXEL * size**2
    build = find_tokenizer(name)
    try:
        with without_memory():
            tokenizer = build()
        with FlopCounterMode(display=False) as counter:
            encode_images(tokenizer, torch.zeros(1, 3, size, size, device="meta"))
    except (RuntimeError, TypeError, ValueError, OSError):  # it is made from a file alone, or looks at values
        return Encoding(weights=0, image_bytes=image_bytes, flops=None)
    if not isinstance(tokenizer, nn.Module):
        return Encoding(weights=0, image_bytes=image_bytes, flops=None)
    weights = FLOAT * sum(weight.numel() for weight in tokenizer.parameters())
    return Encoding(weights=weights, image_bytes=image_bytes, flops=counter.get_total_flops())
