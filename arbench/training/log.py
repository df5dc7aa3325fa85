"""The log of a training: a JSON line every few steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from arbench.machine.distributed import Processes, gathered
from arbench.machine.log import append_line

LOG_NAME = "log.jsonl"


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
