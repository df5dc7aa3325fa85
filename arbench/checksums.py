"""SHA-256 of files, and the line that stands beside a file and says what its SHA-256 should be."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHECKSUM_SUFFIX = ".sha256"


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


def checksum_line(file: Path, data: bytes | memoryview) -> str:
    """What stands there when `file` holds `data`: a line as `sha256sum` writes and checks it."""
    return f"{hashlib.sha256(data).hexdigest()}  {file.name}\n"


def is_intact(file: Path) -> bool:
    """Whether the file is there and its SHA-256 is the one beside it."""
    beside = checksum_path(file)
    if not (file.exists() and beside.exists()):
        return False
    return beside.read_text(encoding="ascii", errors="replace").split()[:1] == [file_sha256(file)]
