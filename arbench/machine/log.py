"""Logs: JSON objects, one a line, appended by any process. Nothing ever depends on one: what cannot be written is left
out, what cannot be read is said and skipped."""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arbench.machine.files import FULL, one_line

CHECKSUM = "crc32"  # of the line without it: a bit that flipped would be another time, not an error


class LogWarning(UserWarning):
    """A line of a log could not be written, or lines of one could not be read."""


def append_line(path: Path, facts: Mapping[str, Any]) -> None:
    """Append one line; a `LogWarning` where it cannot be written. A full disk is told by the first write that matters.

    One write in append mode, so that lines of several processes never mix, and on a line of its own where the last
    one was cut.
    """
    text = json.dumps(dict(facts))
    line = f'{text[:-1]}{", " if facts else ""}"{CHECKSUM}": {zlib.crc32(text.encode())}}}\n'.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            whole = line if _ends_a_line(descriptor) else b"\n" + line
            os.write(descriptor, whole)  # less than whole on a full disk: readers pass a cut line over
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in FULL:
            told = f"a line was not logged ({error.strerror or one_line(error)}); nothing depends on it"
            warnings.warn(f"{path}: {told}", LogWarning, stacklevel=2)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that can be read, oldest first; a `LogWarning` tells how many cannot. None at all without the file."""
    try:
        lines = [line for line in path.read_bytes().split(b"\n") if line]
    except OSError:
        return []
    found = [facts for facts in map(_parsed, lines) if facts is not None]
    if len(found) < len(lines):
        skipped = f"{len(lines) - len(found)} of {len(lines)} lines cannot be read and are skipped"
        warnings.warn(f"{path}: {skipped}; nothing depends on them", LogWarning, stacklevel=2)
    return found


def _ends_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The facts of a line, or None where it is not as it was written. Lines of older versions have no checksum."""
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(facts, dict):
        return None
    told = facts.pop(CHECKSUM, None)
    return facts if told in (None, zlib.crc32(json.dumps(facts).encode())) else None
