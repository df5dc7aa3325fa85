"""Repeated timing: warm-up apart, device synchronised, phases apart, and two ways of doing a thing alternately."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from arbench.machine.hardware import peak_memory_gib, synchronize
from arbench.machine.timing import PhaseTimer
from arbench.runs.memory import is_out_of_memory

# Batches before those that count, by engine: a graph is recorded when a shape comes again.
WARM_UPS = {"eager": 1, "graph": 2}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds per image of a batch: every repeat, medians by phase, and what came before."""

    batch_size: int
    seconds: tuple[float, ...]
    phases: dict[str, float]
    warm_up_seconds: float  # of the first batch, per batch: memory is mapped, kernels are chosen and compiled
    peak_memory_gib: float
    cpu_share: float | None = None  # of its threads' time that the process got; None off the CPU

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def time_batch(
    draw: Callable[[PhaseTimer], object], batch_size: int, device: torch.device, repeats: int, warm_ups: int = 1
) -> Timing:
    """Time `draw` of a batch `repeats` times after `warm_ups`. Raises ValueError where memory does not suffice."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        warm_up = sum(time_once(draw, device)[0] for _ in range(warm_ups))
        busy = time.process_time()
        runs = [time_once(draw, device) for _ in range(repeats)]
        busy = time.process_time() - busy
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"batch_size {batch_size}: does not fit into the memory of {device}; expected a smaller --batch-size"
        ) from error
    elapsed = sum(seconds for seconds, _ in runs) * torch.get_num_threads()
    names = {name: None for _, phases in runs for name in phases}
    return Timing(
        batch_size=batch_size,
        seconds=tuple(seconds / batch_size for seconds, _ in runs),
        phases={name: statistics.median(phases.get(name, 0.0) for _, phases in runs) / batch_size for name in names},
        warm_up_seconds=warm_up,
        peak_memory_gib=peak_memory_gib(device),
        cpu_share=busy / elapsed if device.type == "cpu" else None,
    )


def time_once(draw: Callable[[PhaseTimer], object], device: torch.device) -> tuple[float, dict[str, float]]:
    """Seconds of one call until the device is done, and seconds by phase."""
    timer = PhaseTimer(device)
    synchronize(device)
    start = time.perf_counter()
    draw(timer)
    synchronize(device)
    return time.perf_counter() - start, timer.seconds()


def time_alternately(
    ways: Sequence[Callable[[PhaseTimer], object]], device: torch.device, repeats: int, warm_ups: int = 1
) -> list[list[float]]:
    """Seconds of each of `ways`, called in turn (A B A B …) so that a machine's drift meets all alike.

    Each is called `warm_ups` times before, which does not count.
    """
    for way in [*ways] * warm_ups:
        time_once(way, device)
    rounds = [[time_once(way, device)[0] for way in ways] for _ in range(repeats)]
    return [list(seconds) for seconds in zip(*rounds, strict=True)]


def summary(timing: Timing) -> dict[str, Any]:
    """A timing under the names of a record's `speed`, with the spread of its repeats."""
    return {
        "batch_size": timing.batch_size,
        "seconds_per_image": timing.median,
        "seconds_per_image_min": min(timing.seconds),
        "seconds_per_image_max": max(timing.seconds),
        "repeats": len(timing.seconds),
        "images_per_second": 1 / timing.median,
        "phases": timing.phases,
        "warm_up_seconds": timing.warm_up_seconds,
        "peak_memory_gib": timing.peak_memory_gib,
        "cpu_share": timing.cpu_share,
    }
