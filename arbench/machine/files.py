"""Files written whole or not at all, their SHA-256, and the line beside a file that says what that should be."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKSUM_SUFFIX = ".sha256"
PARTIAL = ".partial"  # how the name of a file ends while it is written


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden path beside `path` to write to; it takes the place of `path` once everything inside has succeeded.

    A crash leaves the old file or the new one, never a half. OSError where the folder cannot be written.
    """
    # Random, for processes on other machines may write to the same folder.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | memoryview | str) -> None:
    """Write `data` (text as UTF-8), whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)


def remove_partials(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`."""
    for left in folder.glob(f".*{PARTIAL}"):
        left.unlink()


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception's message on one line, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def checksum_path(file: Path) -> Path:
    """Where the checksum of `file` stands: beside it."""
    return file.with_name(file.name + CHECKSUM_SUFFIX)


def sha256_line(file: Path, sha256: str) -> str:
    """What stands there: a line as `sha256sum` writes and checks it."""
    return f"{sha256}  {file.name}\n"


def checksum_line(file: Path, data: bytes | memoryview) -> str:
    """What stands there when `file` holds `data`."""
    return sha256_line(file, hashlib.sha256(data).hexdigest())


def is_intact(file: Path) -> bool:
    """Whether the file is there and its SHA-256 is the one beside it."""
    beside = checksum_path(file)
    if not (file.exists() and beside.exists()):
        return False
    return beside.read_text(encoding="ascii", errors="replace").split()[:1] == [file_sha256(file)]
