"""Operations and compulsory bytes of drawing from a head: what a step's tokens cost beside the backbone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from torch import nn

from arbench.heads.categorical import CategoricalHead
from arbench.heads.diffusion import TIME_CHANNELS, DiffusionHead, make_solver, steps_at_once
from arbench.machine.precision import precision_of
from arbench.machine.work import PlannedStep, Work
from arbench.protocols import Generator
from arbench.settings import DiffusionSampling

LOGIT_BYTES = 4  # logits are float32 whatever the network runs in


def head_work(generator: Generator, settings: Any, step: PlannedStep, batch_size: int) -> Iterator[Work]:
    """The work of drawing a step's tokens of a batch by a categorical or a diffusion head."""
    head, rows = generator.draw_head(), batch_size * step.head_rows * step.size
    if isinstance(head, CategoricalHead):
        yield from categorical_work(head, rows)
    else:
        assert isinstance(head, DiffusionHead)
        yield from diffusion_work(head, settings, rows, is_first=step.is_first)


def categorical_work(head: CategoricalHead, rows: int) -> Iterator[Work]:
    """One product with the codebook; the logits are written and read once."""
    weights = head.in_features * head.out_features
    traffic = weights * item_size(head) + 2 * rows * head.out_features * LOGIT_BYTES
    yield Work(flops=rows * 2 * weights, bytes=traffic)


def diffusion_work(head: DiffusionHead, settings: DiffusionSampling, rows: int, is_first: bool) -> Iterator[Work]:
    """The modulations of all blocks and denoising steps in one product, then step after step what depends on x.

    The times are embedded once a generation, for the first draw of these settings.
    """
    net, item = head.net, item_size(head)
    inner, depth, channels = net.width, net.depth, net.channels
    visited = num_visited(settings)
    condition, time = net.cond_embed.in_features * inner, is_first * (TIME_CHANNELS * inner + inner**2)
    modulations = (3 * depth + 2) * inner  # values a row and step
    table = visited * rows * modulations
    yield Work(
        flops=2 * (table * inner + rows * condition + visited * time),
        bytes=(modulations * inner + condition + time + 2 * table) * item,
    )
    sequential = 2 * depth * inner**2 + 3 * channels * inner
    yield Work(flops=rows * 2 * sequential, bytes=sequential * item, repeats=visited)


def prepared_bytes(head: object) -> int:
    """Bytes of what a diffusion head joins for a generation: the modulations' weights and biases; none of another."""
    if not isinstance(head, DiffusionHead):
        return 0
    return (3 * head.net.depth + 2) * head.net.width * (head.net.width + 1) * item_size(head)


def modulation_bytes(head: DiffusionHead, settings: DiffusionSampling, rows: int) -> int:
    """Bytes of the modulations that a diffusion head holds at once while it draws from `rows` conditions."""
    values = (3 * head.net.depth + 2) * head.net.width * rows
    steps = steps_at_once(values, head.net.cond_embed.weight.device.type)
    return min(num_visited(settings), steps) * values * item_size(head)


@lru_cache
def num_visited(settings: DiffusionSampling) -> int:
    """How many denoising steps the solver of these settings takes."""
    return len(make_solver(settings).visited)


def item_size(module: Generator | nn.Module) -> int:
    """Bytes of one weight of a matrix product."""
    return precision_of(module).products.itemsize
