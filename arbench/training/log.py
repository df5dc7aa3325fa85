"""What is told of a training while it goes on: a JSON line every few steps, the logs asked for, the progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from arbench.machine.distributed import Processes, gathered
from arbench.machine.hardware import peak_memory_gib
from arbench.machine.log import append_line
from arbench.report.logs import Logs

LOG_NAME = "log.jsonl"
TRAINING = "training/"  # how the names of a training's numbers begin in the logs that evaluations share

# Called after every step with the number of steps done and what was logged, as far as it is known yet.
Watcher = Callable[[int, dict[str, float]], None]


class Stopwatch:
    """Seconds of the clock and of this process's threads, without those that are `paused`."""

    def __init__(self) -> None:
        self._began = self._now()

    def _now(self) -> dict[str, float]:
        return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}

    def read(self) -> dict[str, float]:
        return {name: value - self._began[name] for name, value in self._now().items()}

    @contextmanager
    def paused(self) -> Iterator[None]:
        before = self.read()
        yield
        self._began = {name: value - before[name] for name, value in self._now().items()}


class Reporter:
    """Gathers what the steps of a training give, and tells it: a line of log.jsonl, the same in other logs, `watch`."""

    def __init__(
        self,
        folder: Path,
        mine: Processes,
        device: torch.device,
        *,
        step: int,
        batch_size: int,
        epoch: int,
        watch: Watcher | None = None,
        logs: Logs | None = None,
        share_of_peak: float | None = None,
    ) -> None:
        """From `step` on, `batch_size` images each; an `epoch` has so many. `share_of_peak` is what one image a second
        is of the devices' peak, None where that is not known."""
        self._path, self._mine, self._device = folder / LOG_NAME, mine, device
        self._batch_size, self._epoch, self._share_of_peak = batch_size, epoch, share_of_peak
        self._tell, self._logs = watch, logs or Logs()
        self._first = self._last = step
        self._recent: list[dict[str, Any]] = []
        self._known: dict[str, float] = {}
        self._watch, self._before = Stopwatch(), 0.0

    def stepped(self, step: int, row: dict[str, Any]) -> None:
        """Step `step` gave `row`; some of it may be on the device still."""
        self._recent.append(row)
        if self._tell is not None:
            if self._device.type == "cpu":
                self._known = means([row])
            rate = (step - self._first) * self._batch_size / max(self._watch.read()["seconds"], 1e-9)
            self._tell(step, {**self._known, "images_per_second": rate})

    def line(self, step: int) -> None:
        """Log the means of all processes, each of which calls it, since the line before."""
        self._known = means_of_all(self._recent, self._mine)
        check_finite(self._known["gradient_norm"], step)
        taken = self._watch.read()
        a_step = {f"{name}_per_step": value / (step - self._first) for name, value in taken.items()}
        told = {**self._known, **self._measure(step, taken["seconds"])}
        if self._mine.is_first:
            append_log(self._path, step, told, a_step)
            self._logs.scalars({f"{TRAINING}{name}": value for name, value in told.items()}, step)
        self._recent, self._last, self._before = [], step, taken["seconds"]

    def _measure(self, step: int, seconds: float) -> dict[str, float]:
        """Epochs done, images a second since the line before, most memory of this process, share of the peak."""
        rate = (step - self._last) * self._batch_size / max(seconds - self._before, 1e-9)
        told = {
            "epoch": step * self._batch_size / self._epoch,
            "images_per_second": rate,
            "memory_gib": peak_memory_gib(self._device),
        }
        if self._share_of_peak is not None:
            told["mfu"] = rate * self._share_of_peak
        return {name: float(f"{value:.5g}") for name, value in told.items()}

    def check(self, step: int) -> None:
        """Raise ValueError where a gradient that nobody has looked at yet is not finite."""
        if self._recent:
            check_finite(means(self._recent)["gradient_norm"], step)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within it is no part of any step's time."""
        with self._watch.paused():
            yield


def check_finite(norm: float, step: int) -> None:
    """Raise ValueError where a gradient has grown beyond all numbers."""
    if norm != norm or norm in (float("inf"), float("-inf")):
        raise ValueError(f"step {step}: the gradient is not finite; try a smaller --learning-rate")


def append_log(path: Path, step: int, logged: Mapping[str, float], times: Mapping[str, float]) -> None:
    """Append one line, which never fails: the step, the means since the line before it, and times of a step.

    Clock seconds count other processes' load, CPU seconds those of this process's threads alone.
    """
    append_line(path, {"step": step, **logged, **{name: round(value, 5) for name, value in times.items()}})


def means(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each scalar over the rows that hold it; what is on a device is waited for once a scalar."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: _mean(values) for name, values in columns.items()}


def _mean(values: list[Any]) -> float:
    if any(isinstance(value, torch.Tensor) for value in values):
        values = torch.stack([torch.as_tensor(value) for value in values]).tolist()
    return sum(values) / len(values)


def means_of_all(rows: Iterable[Mapping[str, Any]], mine: Processes) -> dict[str, float]:
    """`means` over all processes, each of which calls it."""
    parts = gathered(means(rows), mine)
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
