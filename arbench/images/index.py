"""Saved indexes of what is long to list: arrays in a safetensors file below `$ARBENCH_INDEXES`, checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from arbench.machine.files import whole_file

HOME_VARIABLE = "ARBENCH_INDEXES"
DEFAULT_HOME = Path("~/.cache/arbench/indexes")
SAVED_FROM = 10_000  # files; fewer are listed in the time in which an index is read
SETTLED = 2_000_000_000  # ns: what changed so short before it was listed may have changed again unseen
VERSION = "2"  # of the file; others are not read

Arrays = dict[str, np.ndarray]


def index_file(source: str) -> Path:
    """Where the index of what `source` names lies: below $ARBENCH_INDEXES, else ~/.cache/arbench/indexes."""
    home = Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()
    return home / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:24]}.safetensors"


def read_index(path: Path, names: Sequence[str]) -> tuple[Arrays, dict[str, str]] | None:
    """The arrays called `names` and the words of an index; None where none is whole and of this version."""
    try:
        with safe_open(path, "np") as stored:
            told = dict(stored.metadata() or {})
            if told.pop("version", None) != VERSION:
                return None
            return {name: stored.get_tensor(name) for name in names}, told
    except (OSError, SafetensorError, ValueError):
        return None


def files_digest(names: np.ndarray, ends: np.ndarray, sizes: np.ndarray) -> str:
    """SHA-256 of files that follow each other in `names` (uint8): what each is called, and its bytes."""
    digest = hashlib.sha256(names.tobytes())
    for numbers in (ends, sizes):
        digest.update(numbers.astype("<i8").tobytes())
    return digest.hexdigest()


def file_keys(
    names: np.ndarray, starts: np.ndarray, ends: np.ndarray, numbers: Sequence[np.ndarray], salt: str
) -> np.ndarray:
    """(N,) uint64, one a file: of what it is called, of its `numbers` (N,) each, and of `salt`."""
    held, keys, first = names.tobytes(), bytearray(), salt.encode()
    told = zip(*(part.tolist() for part in numbers), strict=True)
    for start, end, values in zip(starts.tolist(), ends.tolist(), told, strict=True):
        keys += hashlib.blake2b(b"%s\0%r\0%s" % (first, values, held[start:end]), digest_size=8).digest()
    return np.frombuffer(bytes(keys), "<u8").astype(np.uint64)


def keep_index(path: Path, arrays: Arrays, told: Mapping[str, str], *, files: int, listed: int, changed: int) -> None:
    """Save an index of so many `files`, where it pays, can be written, and nothing had `changed` just before it was
    `listed` (both in ns)."""
    if files < SAVED_FROM or listed - changed <= SETTLED:
        return
    with contextlib.suppress(OSError):  # a home that cannot be written costs time, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            save_file(arrays, partial, {**told, "version": VERSION})
