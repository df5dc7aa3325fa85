"""Operations of a DiT's denoising, and the memory of an image."""

from __future__ import annotations

from collections.abc import Iterator

from arbench.generators.common.work import activation_bytes, block_flops, num_tokens
from arbench.generators.dit.config import JointSampling
from arbench.heads.diffusion import TIME_CHANNELS
from arbench.heads.work import item_size, num_visited
from arbench.machine.work import PlannedStep, Work
from arbench.protocols import Generator


def class_work(generator: Generator, step: PlannedStep, batch_size: int) -> Work:
    """A class embedding alone is a look-up."""
    return Work(flops=0, bytes=0)


def denoising_work(generator: Generator, settings: JointSampling, step: PlannedStep, batch_size: int) -> Iterator[Work]:
    """The whole transformer over all tokens at every denoising step; time and class are embedded a sequence."""
    config, rows, item = generator.config, batch_size * step.head_rows, item_size(generator)
    width, depth, channels = config.width, config.depth, config.channels * config.patch_size**2
    once = TIME_CHANNELS * width + width**2 + (6 * depth + 2) * width**2  # weights that meet a sequence once
    flops = 2 * once + depth * block_flops(width, step.size, step.size) + 2 * step.size * 3 * channels * width
    weights = once + 12 * depth * width**2 + 3 * channels * width
    yield Work(flops=rows * flops, bytes=weights * item, repeats=num_visited(settings))


def joint_memory(generator: Generator) -> int:
    """Bytes an image takes: activations."""
    return activation_bytes(generator, num_tokens(generator), generator.config.width)
