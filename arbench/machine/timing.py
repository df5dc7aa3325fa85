"""Time by phase: generator, head and decode apart, on the device's own clock where it has one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from arbench.machine.hardware import synchronize


class PhaseTimer:
    """Seconds spent in each named phase; an inner phase's time is not counted in the outer one.

    On CUDA the stamps are events in the stream that is current, so that timing adds no synchronisation; elsewhere they
    are the host's clock, read after the device has finished. A phase is a span of its stream: of two streams that run
    beside each other both count in full, and the phases add up to more than passed on the clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._open: list[str | None] = [None]
        self._stamps: list[tuple[str | None, float | torch.cuda.Event]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the `with` block as `name`."""
        self._open.append(name)
        self._stamp()
        try:
            yield
        finally:
            self._open.pop()
            self._stamp()

    def _stamp(self) -> None:
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._stamps.append((self._open[-1], event))
        else:
            synchronize(self._device)
            self._stamps.append((self._open[-1], time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """Seconds by phase so far; waits for the last of them, and for nothing that was queued since."""
        if self._stamps and isinstance(self._stamps[-1][1], torch.cuda.Event):
            self._stamps[-1][1].synchronize()
        totals: dict[str, float] = {}
        for (name, start), (_, end) in itertools.pairwise(self._stamps):
            if name is not None:
                totals[name] = totals.get(name, 0.0) + _between(start, end)
        return totals


def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, float) and isinstance(end, float):
        return end - start
    assert isinstance(start, torch.cuda.Event)
    assert isinstance(end, torch.cuda.Event)
    return start.elapsed_time(end) / 1000  # events count milliseconds
