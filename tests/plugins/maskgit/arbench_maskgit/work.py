"""Operations of an iteration, and the memory of an image: for the roofline and the choice of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from arbench.generators.common.work import activation_bytes, block_flops, logit_bytes, num_tokens
from arbench.heads.work import head_work as drawn_work
from arbench.heads.work import item_size
from arbench.machine.work import PlannedStep, Work
from arbench.protocols import Generator


def backbone_work(generator: Generator, step: PlannedStep, batch_size: int) -> Work:
    """All tokens go through all blocks; the last one computes the hidden ones alone."""
    config, length = generator.config, step.total + 1
    flops = (config.depth - 1) * block_flops(config.width, length, length)
    flops += block_flops(config.width, step.total - step.known, length)
    weights = 12 * config.depth * config.width**2
    return Work(flops=batch_size * step.rows * flops, bytes=weights * item_size(generator))


def head_work(generator: Generator, settings: Any, step: PlannedStep, batch_size: int) -> Iterator[Work]:
    """Every hidden token is drawn, whether it is kept or not."""
    yield from drawn_work(generator, settings, replace(step, size=step.total - step.known), batch_size)


def memory(generator: Generator) -> int:
    """Bytes an image takes: activations of a block, and the logits of all tokens."""
    length = num_tokens(generator)
    return activation_bytes(generator, length + 1, generator.config.width) + length * logit_bytes(generator)
