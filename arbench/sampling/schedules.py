"""Schedules as data: an order of the tokens and how many of them each step reveals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arbench.generators.base import Generator, Step
from arbench.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`order` (B, N): raster index of the k-th revealed token; `sizes`: tokens a step, adding up to N; `clocks`: what
    `cfg_interval` is compared with at each step; `passes`: how often a step runs the network."""

    order: Tensor
    sizes: list[int]
    clocks: list[int]
    passes: int = 1

    def __iter__(self) -> Iterator[Step]:
        known, total = 0, self.order.shape[1]
        for size, clock in zip(self.sizes, self.clocks, strict=True):
            yield Step(positions=self.order[:, known : known + size], known=known, total=total, clock=clock)
            known += size

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_passes(self) -> int:
        """What a table calls steps: passes of the network through one image."""
        return len(self) * self.passes


def sequential_sizes(num_tokens: int, singles: int, parallel: int) -> list[int]:
    """`singles` tokens one by one, then `parallel` at a time. AR: N singles; PAR: n, so n + (N - n) / n steps."""
    return [1] * singles + [parallel] * ((num_tokens - singles) // parallel)


def sequential_clocks(num_tokens: int, singles: int, parallel: int) -> list[int]:
    """Decode steps after the first token; in the parallel phase tokens, counted from 0 again (PAR release).

    Where the first step draws a group already, the count starts with the second.
    """
    if singles == 0:
        return [-1, *range(0, num_tokens - parallel, parallel)]
    return [*range(-1, singles - 1), *range(0, num_tokens - singles, parallel)]


def masked_sizes(num_tokens: int, num_iter: int) -> list[int]:
    """Tokens revealed by each of `num_iter` iterations, the hidden share falling as a cosine (MAR, section 3.3).

    At least one is revealed a step and at least one stays for the last, so with as many iterations as tokens, or more,
    each step reveals one; steps that would reveal nothing are left out. Raises ValueError for a count below 1.
    """
    if num_iter < 1:
        raise ValueError(f"num_iter {num_iter}: expected 1 or more")
    if num_iter >= num_tokens:
        return [1] * num_tokens
    sizes, hidden = [], num_tokens
    for step in range(1, num_iter):
        wanted = math.floor(num_tokens * math.cos(math.pi / 2 * step / num_iter))
        after = max(1, min(hidden - 1, wanted))
        sizes.append(hidden - after)
        hidden = after
    return [*sizes, hidden]


def sequential(generator: Any, settings: Any, noise: Noise, batch: int, like: Tensor) -> Schedule:
    """The generator's own order, or a random one for each image, with groups of `generator.parallel`."""
    total = generator.num_tokens
    fixed = generator.order
    order = noise.orders(total).to(like.device) if fixed is None else fixed.to(like.device).expand(batch, -1)
    groups = (total, generator.singles, generator.parallel)
    return Schedule(order=order, sizes=sequential_sizes(*groups), clocks=sequential_clocks(*groups))


def masked(generator: Any, settings: Any, noise: Noise, batch: int, like: Tensor) -> Schedule:
    """A random order for each image, whose last entries are revealed first (MAR release)."""
    sizes = masked_sizes(generator.num_tokens, settings.num_iter)
    order = noise.orders(generator.num_tokens).to(like.device).flip(1)
    return Schedule(order=order, sizes=sizes, clocks=list(range(-1, len(sizes) - 1)))


def joint(generator: Any, settings: Any, noise: Noise, batch: int, like: Tensor) -> Schedule:
    """All tokens in one step, in raster order, by as many passes as there are denoising steps."""
    total = generator.num_tokens
    order = torch.arange(total, device=like.device).expand(batch, -1)
    return Schedule(order=order, sizes=[total], clocks=[-1], passes=settings.head_steps)


SCHEDULES = {"sequential": sequential, "masked": masked, "joint": joint}


def make_schedule(generator: Generator, settings: Any, noise: Noise, labels: Tensor) -> Schedule:
    """The schedule of `generator` under its sampling `settings` for a batch of `labels` (B,)."""
    return SCHEDULES[generator.schedule](generator, settings, noise, len(labels), labels)
