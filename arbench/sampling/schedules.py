"""The shipped schedules: an order of the tokens, and how many of them each step reveals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from arbench.generators.methods import get_method
from arbench.generators.spec import MakeSchedule
from arbench.machine.transfer import sent
from arbench.protocols import Generator, Noise, Schedule
from arbench.registry import unknown_name
from arbench.sampling.noise import ImageNoise
from arbench.settings import CHECKERBOARD, RANDOM_ORDER, REVEAL_ORDER, DiffusionSampling, Guidance, MaskedSampling

HiddenShare = Callable[[int, int], float]  # (step, num_iter) -> share of the tokens that is hidden after that step


class AlongCurve(Protocol):
    """Sampling settings that name the curve along which tokens are revealed."""

    @property
    def num_iter(self) -> int: ...

    def hidden_share(self, step: int, num_iter: int) -> float: ...


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


def cosine_share(step: int, num_iter: int) -> float:
    """Share of the tokens that is hidden after `step` of `num_iter` iterations (MAR, section 3.3)."""
    return math.cos(math.pi / 2 * step / num_iter)


def masked_sizes(num_tokens: int, num_iter: int, hidden_share: HiddenShare = cosine_share) -> list[int]:
    """Tokens revealed by each of `num_iter` iterations, along a falling curve; MAR's is the cosine.

    At least one is revealed a step and at least one stays for the last, so with as many iterations as tokens, or more,
    each step reveals one; steps that would reveal nothing are left out. Raises ValueError for a count below 1.
    """
    if num_iter < 1:
        raise ValueError(f"num_iter {num_iter}: expected 1 or more")
    if num_iter >= num_tokens:
        return [1] * num_tokens
    sizes, hidden = [], num_tokens
    for step in range(1, num_iter):
        wanted = math.floor(num_tokens * hidden_share(step, num_iter))
        after = max(1, min(hidden - 1, wanted))
        sizes.append(hidden - after)
        hidden = after
    return [*sizes, hidden]


def sequential(generator: Any, settings: Guidance, noise: Noise, labels: Tensor) -> Schedule:
    """The generator's own order, or a random one for each image, with groups of `generator.parallel`."""
    total, device = generator.num_tokens, labels.device
    if generator.order is None:
        order = noise.orders(total).to(device)
    else:  # sent to the device once, where the generator keeps it there
        shared = generator.order_on(device) if hasattr(generator, "order_on") else sent(generator.order, device)
        order = shared.expand(len(labels), -1)
    groups = (total, generator.singles, generator.parallel)
    return Schedule(order=order, sizes=sequential_sizes(*groups), clocks=sequential_clocks(*groups))


def in_two_stages(sizes: list[int], first: int) -> list[int]:
    """`sizes` with the step that comes nearest to revealing the `first` tokens ending just there; one step stays one.

    The steps are as many as before, and none is empty.
    """
    ends = list(itertools.accumulate(sizes))
    if len(ends) > 1:
        ends[min(range(len(ends) - 1), key=lambda step: abs(ends[step] - first))] = first
    return [end - start for start, end in itertools.pairwise([0, *ends])]


def checkerboard_first(order: Tensor, grid: tuple[int, int]) -> tuple[Tensor, int]:
    """`order` (B, N) with the places of one colour of a checkerboard, that of (0, 0), before the others, and how many.

    Among those of a colour the order stays.
    """
    between = (order // grid[1] + order % grid[1]) % 2
    return order.gather(1, between.argsort(dim=1, stable=True)), -(-order.shape[1] // 2)


def masked(generator: Generator, settings: MaskedSampling, noise: Noise, labels: Tensor) -> Schedule:
    """A random order for each image, whose last entries are revealed first (MAR release).

    Where the settings ask for a checkerboard the structure comes before what lies between (`checkerboard_first`).
    """
    total = math.prod(generator.grid)
    sizes = masked_sizes(total, settings.num_iter)
    order = noise.orders(total).to(labels.device).flip(1)
    if getattr(settings, REVEAL_ORDER.name, RANDOM_ORDER) == CHECKERBOARD:
        order, first = checkerboard_first(order, generator.grid)
        sizes = in_two_stages(sizes, first)
    return Schedule(order=order, sizes=sizes, clocks=list(range(-1, len(sizes) - 1)))


def randomised(generator: Generator, settings: AlongCurve, noise: Noise, labels: Tensor) -> Schedule:
    """A random order for each image, revealed along the curve that the settings name (ARPG release)."""
    total = math.prod(generator.grid)
    sizes = masked_sizes(total, settings.num_iter, settings.hidden_share)
    order = noise.orders(total).to(labels.device)
    return Schedule(order=order, sizes=sizes, clocks=list(range(-1, len(sizes) - 1)), least_hidden=0)


def joint(generator: Generator, settings: DiffusionSampling, noise: Noise, labels: Tensor) -> Schedule:
    """All tokens in one step, in raster order, by as many passes as there are denoising steps."""
    total = math.prod(generator.grid)
    order = torch.arange(total, device=labels.device).expand(len(labels), -1)
    return Schedule(order=order, sizes=[total], clocks=[-1], passes=settings.head_steps)


SCHEDULES: dict[str, MakeSchedule] = {
    "sequential": sequential,
    "masked": masked,
    "randomised": randomised,
    "joint": joint,
}


def make_schedule(generator: Generator, settings: Guidance, noise: Noise, labels: Tensor) -> Schedule:
    """The schedule of `generator` under its sampling `settings` for a batch of `labels` (B,): that of its method.

    Raises ValueError where the method names a schedule that is not shipped.
    """
    schedule = get_method(generator.method).schedule
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise unknown_name(f"schedule of method {generator.method!r}", schedule, SCHEDULES)
        schedule = SCHEDULES[schedule]
    return schedule(generator, settings, noise, labels)


def one_schedule(generator: Generator, settings: Guidance) -> Schedule:
    """The schedule of one image under `settings`: how many steps, whatever its class and noise."""
    label = torch.zeros(1, dtype=torch.int64)
    return make_schedule(generator, settings, ImageNoise(0, label), label)
