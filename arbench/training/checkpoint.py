"""Training checkpoints: written whole or not at all, read without executing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from arbench.evaluation.files import read_torch
from arbench.machine.files import whole_file

FILE_NAME = "checkpoint.pt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` beside `path` and move it there, so that a crash leaves the checkpoint before it intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU.

    Raises ValueError where the file is missing or broken: a run is never started afresh instead.
    """
    if not path.is_file():
        raise ValueError(f"--resume: no checkpoint at {path}; train without --resume to start one")
    state = read_torch(path)
    wanted = {"step", "config", "model", "ema", "optimizer", "rng"}
    if not isinstance(state, dict) or not wanted <= set(state):
        raise ValueError(f"{path}: not a training checkpoint; expected the entries {', '.join(sorted(wanted))}")
    return state
