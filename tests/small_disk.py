"""A disk with little room: a real one, a tmpfs, where this machine allows mounts, and one that only says so."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Tmpfs:
    """A file system in memory, mounted at `folder`."""

    def __init__(self, folder: Path, room: int) -> None:
        self.folder = folder
        self._mount("-t", "tmpfs", "-o", f"size={room}", "tmpfs")

    def _mount(self, *how: str) -> None:
        subprocess.run(["mount", *how, str(self.folder)], check=True, capture_output=True)

    def enlarge(self, room: int) -> None:
        self._mount("-o", f"remount,size={room}")

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


class FakeDisk:
    """`os.fsync` and `os.write` as they are on a disk that has `room` bytes for what lies in `folder`."""

    def __init__(self, folder: Path, room: int, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.room = folder, room
        self._fsync, self._write = os.fsync, os.write
        patch.setattr(os, "fsync", self.fsync)
        patch.setattr(os, "write", self.write)

    def left(self) -> int:
        return self.room - sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def fsync(self, descriptor: int) -> None:
        if self.left() < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(descriptor)

    def write(self, descriptor: int, data: bytes) -> int:
        left = self.left()
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(descriptor, data[:left])

    def enlarge(self, room: int) -> None:
        self.room = room

    def close(self) -> None:
        pass


@contextmanager
def small_disk(kind: str, folder: Path, room: int) -> Iterator[Tmpfs | FakeDisk]:
    """A disk with `room` bytes at `folder`, `kind` "tmpfs" or "fake". Skips the test where mounts are not allowed."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        try:
            disk = Tmpfs(folder, room) if kind == "tmpfs" else FakeDisk(folder, room, patch)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this machine allows no mounts")
        try:
            yield disk
        finally:
            disk.close()
