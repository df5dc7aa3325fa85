"""Training checkpoints: written whole or not at all, read without executing anything."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from arbench.evaluation.files import read_torch
from arbench.machine.files import remove_partials, whole_file

FILE_NAME = "checkpoint.pt"
PARTS: dict[str, type] = {"step": int, "config": dict, "model": dict, "ema": dict, "optimizer": dict, "rng": dict}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` beside `path` and move it there, so that a crash leaves the checkpoint before it intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU, each part against its checksum.

    Raises ValueError where the file is missing or broken: a run is never started afresh instead.
    """
    if not path.is_file():
        raise ValueError(f"--resume: no checkpoint at {path}; train without --resume to start one")
    state = read_torch(path)
    check_sums(path)
    wrong = sorted(PARTS) if not isinstance(state, dict) else _wrong_parts(state)
    if wrong:
        raise ValueError(f"{path}: not a training checkpoint; expected one with the entries {', '.join(wrong)}")
    return state


def _wrong_parts(state: dict[str, Any]) -> list[str]:
    """Entries that are not there, or are of another type than the loop writes."""
    wrong = [name for name, kind in PARTS.items() if not isinstance(state.get(name), kind)]
    if "config" not in wrong:
        wrong += [name for name in ("steps", "warmup_steps") if not isinstance(state["config"].get(name), int)]
    return wrong


def check_sums(path: Path) -> None:
    """Raise ValueError where a byte of a torch file is not what was written: zip files hold a CRC-32 of each member.

    PyTorch writes them and does not look at them again.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged, or no checkpoint of arbench ({error}); expected an intact one") from None
    if damaged is not None:
        raise ValueError(f"{path}: damaged: {damaged} is not what was written; expected an intact checkpoint")


def begin_folder(folder: Path) -> None:
    """Make the folder of a run, or clear it of what a killed process left half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
