"""Files written whole or not at all, their SHA-256, and the line beside a file that says what that should be."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKSUM_SUFFIX = ".sha256"
PARTIAL = ".partial"  # how the name of a file ends while it is written
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk is full, or the user's share of it
PROBE_BYTES = 1 << 16  # a disk that has not even these left is full


class NoSpaceError(OSError):
    """The disk is full: in which folder, and what is safe, on one line."""

    def __init__(self, told: str) -> None:
        super().__init__(errno.ENOSPC, told)

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden path beside `path` to write to; it takes the place of `path` once everything inside has succeeded.

    A crash leaves the old file or the new one, never a half. Raises NoSpaceError where the disk is full, whatever the
    writer makes of that, and OSError where the folder cannot be written.
    """
    # Random, for processes on other machines may write to the same folder.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())  # some disks find only now that they are full
        os.replace(partial, path)
    except Exception as error:
        if is_full(error, path.parent):
            left = "the earlier one is whole" if path.exists() else "nothing half-written was left"
            raise NoSpaceError(f"no space left in {path.parent}: {path.name} was not written, {left}") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | memoryview | str) -> None:
    """Write `data` (text as UTF-8), whole or not at all. Raises as `whole_file` does."""
    content = memoryview(data.encode() if isinstance(data, str) else data)
    with whole_file(path) as partial:
        partial.write_bytes(content)
        written = partial.stat().st_size
        if written != content.nbytes:
            raise OSError(f"{path}: {written} of {content.nbytes} bytes were written")


def require_writable(folder: Path) -> None:
    """Raise OSError where no file can be made in `folder`, or in the next one above where it is not there yet.

    What is made to find that out is removed again.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".writable.", suffix=PARTIAL, dir=there):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether `error`, of something that wrote to `folder`, means that the disk is full.

    PyTorch and NumPy tell only that fewer bytes went than were given: then a small file is tried.
    """
    if isinstance(error, NoSpaceError):
        return False  # told already
    if getattr(error, "errno", None) in FULL or os.strerror(errno.ENOSPC) in str(error):
        return True
    return isinstance(error, (OSError, RuntimeError)) and not _has_room(folder)


def _has_room(folder: Path) -> bool:
    """Whether a small file can be written to `folder`; also where it cannot for another reason than room."""
    probe = folder / f".room.{secrets.token_hex(4)}{PARTIAL}"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        return error.errno not in FULL
    finally:
        probe.unlink(missing_ok=True)
    return True


def remove_partials(folder: Path, *, idle: float = 0.0) -> None:
    """Remove what killed processes left half-written in `folder`; only what nobody has written to for `idle` seconds,
    where others may be at work there."""
    for left in folder.glob(f".*{PARTIAL}"):
        with contextlib.suppress(FileNotFoundError):  # it has just become whole
            if time.time() - left.stat().st_mtime >= idle:
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
