"""Image shards: fixed blocks of image ids, written whole or not at all by a background thread, checked on resume.

A shard is finished when its file and the checksum beside it are both there; the checksum file is written last and
reads like the output of `sha256sum`, so `cd shards && sha256sum -c *.sha256` checks a run without arbench. Its second
line, a comment to `sha256sum`, binds the shard to its run and place.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from arbench.evaluation.stored_run import Place, ShardLine, is_bound, read_shard_line, shard_line
from arbench.machine.files import checksum_path, is_intact, remove_partials, whole_file, write_whole

# Images a shard: the unit that one process claims and the most that a killed process loses. 12.6 MB at 256 px.
SHARD_SIZE = 64


class Shards:
    """The shards of one run: `num_images` images cut into blocks of `size`, in image order by file name.

    `run` is the hash of the run's settings, to which every shard is bound.
    """

    def __init__(self, folder: Path, num_images: int, size: int = SHARD_SIZE, run: str = "-") -> None:
        self.folder, self.num_images, self.size, self.run = folder, num_images, size, run

    def __len__(self) -> int:
        return -(-self.num_images // self.size)

    def ids(self, index: int) -> range:
        """Image ids of shard `index`."""
        return range(index * self.size, min((index + 1) * self.size, self.num_images))

    def place(self, index: int) -> Place:
        """What shard `index` is bound to."""
        ids = self.ids(index)
        return Place(run=self.run, index=index, first=ids.start, count=len(ids), total=self.num_images)

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.npy"

    def checksum_path(self, index: int) -> Path:
        return checksum_path(self.path(index))

    def is_finished(self, index: int) -> bool:
        """Whether the shard was written to its end; `is_intact` is what reads it."""
        return self.checksum_path(index).exists() and self.path(index).exists()

    def unfinished(self) -> list[int]:
        return [index for index in range(len(self)) if not self.is_finished(index)]

    def num_written(self) -> int:
        """How many images are in finished shards."""
        return sum(len(self.ids(index)) for index in range(len(self)) if self.is_finished(index))

    def write(self, index: int, images: np.ndarray, batches: tuple[int, ...] = ()) -> None:
        """Write uint8 images (n, H, W, 3) of shard `index`: the file first, then its checksum, each in one rename.

        `batches` are the batches that they were drawn in, for the line beside them.
        """
        assert images.dtype == np.uint8, f"shards hold uint8, not {images.dtype}"
        assert len(images) == len(self.ids(index)), f"shard {index} holds {len(self.ids(index))} images"
        self.folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.save(content, images)
        data = content.getbuffer()
        path = self.path(index)
        self.checksum_path(index).unlink(missing_ok=True)  # an old checksum never stands beside new data
        write_whole(path, data)
        write_whole(self.checksum_path(index), shard_line(path, data, self.place(index), batches))

    def read(self, index: int) -> np.ndarray:
        """Images (n, H, W, 3) uint8 of one finished shard, mapped and not copied."""
        return np.load(self.path(index), mmap_mode="r", allow_pickle=False)

    def is_intact(self, index: int) -> bool:
        """Whether the file's SHA-256 is the one beside it, and that line is of this run, place and number of images."""
        path = self.path(index)
        return is_intact(path) and is_bound(path, self.place(index)) and len(self.read(index)) == len(self.ids(index))

    def lines(self) -> list[ShardLine | None]:
        """What stands beside every shard; None where nothing of a run does."""
        return [read_shard_line(self.path(index)) for index in range(len(self))]

    def sha256(self) -> str:
        """SHA-256 over those of all shards in their order: other images, another one."""
        digests = [line.sha256 if line else "" for line in self.lines()]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def batch_sizes(self) -> list[int]:
        """The batches that the images were drawn in, largest first; those of shards of earlier versions are unknown."""
        return sorted({size for line in self.lines() if line for size in line.batches}, reverse=True)

    def unbound(self) -> list[int]:
        """Finished shards of an earlier version, whose line says nothing of run and place."""
        return [index for index, line in enumerate(self.lines()) if line is not None and line.place is None]

    def strangers(self) -> list[str]:
        """Names of shard files that are none of this run's: more than its images fill."""
        own = {self.path(index) for index in range(len(self))}
        return sorted(file.name for file in self.folder.glob("*.npy") if file not in own)

    def drop_damaged(self) -> list[int]:
        """Remove every shard that is cut off, altered or of another run or place, and what a killed process left.

        Returns those that were removed.
        """
        remove_partials(self.folder)
        damaged = [index for index in range(len(self)) if self.path(index).exists() and not self.is_intact(index)]
        for index in damaged:
            self.path(index).unlink()
            self.checksum_path(index).unlink(missing_ok=True)
        return damaged

    def export_npz(self, target: Path) -> Path:
        """Stream all images into `target` as `arr_0` (N, H, W, 3) uint8, one shard in memory at a time.

        The layout is NumPy's own uncompressed npz, which the ADM evaluator reads as it is.
        """
        shape = (self.num_images, *self.read(0).shape[1:])
        with (
            whole_file(target) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
            archive.open("arr_0.npy", "w", force_zip64=True) as member,
        ):
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for index in range(len(self)):
                member.write(np.ascontiguousarray(self.read(index)).data)
        return target


class ShardWriter:
    """Writes shards in the background while the next batch runs; a failed write is raised in the main thread."""

    def __init__(self, shards: Shards, *, done: Callable[[int], None], pending: int = 4) -> None:
        """`done(index)` is called once shard `index` is on disk; at most `pending` shards wait in memory."""
        self._shards, self._done, self._pending = shards, done, pending
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shard-writer")
        self._waiting: deque[Future[None]] = deque()

    def put(
        self,
        index: int,
        images: np.ndarray,
        batches: tuple[int, ...] = (),
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Hand over one shard, drawn in `batches`; waits where `pending` shards are not written yet.

        `before` is called just before it is written, by the thread that writes.
        """
        while len(self._waiting) >= self._pending:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._write, index, images, batches, before))

    def flush(self) -> None:
        """Wait until everything handed over is on disk."""
        while self._waiting:
            self._waiting.popleft().result()

    def _write(self, index: int, images: np.ndarray, batches: tuple[int, ...], before: Callable[[], None]) -> None:
        before()
        self._shards.write(index, images, batches)
        self._done(index)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what was handed over, also after Ctrl-C; an error of the last writes is raised here."""
        self._pool.shutdown(wait=True)
        if error is None:
            self.flush()


class Claims:
    """Who makes which shard: byte-range locks on one file, so that a process that dies gives its shard back at once.

    Works between processes on one node, and between nodes where the shared file system has POSIX locks (NFS, Lustre
    with `flock`, GPFS).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab")

    def take(self, index: int) -> bool:
        """Claim shard `index`; False where a living process has it. Raises OSError where locks are not supported."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
        except (BlockingIOError, PermissionError):  # the two answers POSIX allows for "held by another process"
            return False
        return True

    def release(self, index: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, index)

    def close(self, *, remove: bool = False) -> None:
        """Give every claim back; `remove` deletes the file, once all shards are finished."""
        self._file.close()
        if remove:
            self._path.unlink(missing_ok=True)


def claim_unfinished(shards: Shards, claims: Claims) -> Iterator[int]:
    """Claim one unfinished shard after another, each when it is asked for; those of living processes are passed over.

    Go through it again to find what a process that died since has given back.
    """
    for index in shards.unfinished():
        if not claims.take(index):
            continue
        if shards.is_finished(index):  # by another process, between the listing and the claim
            claims.release(index)
            continue
        yield index


class Assembly:
    """Puts images, which come batch by batch, together to the shards they belong to."""

    def __init__(self, shards: Shards, done: Callable[[int, np.ndarray], None]) -> None:
        """`done(index, images)` is called with every shard that is complete."""
        self._shards, self._done = shards, done
        self._expected: deque[int] = deque()
        self._images: list[np.ndarray] = []

    def expect(self, index: int) -> range:
        """Shard `index` comes next after those expected already; returns its image ids."""
        self._expected.append(index)
        return self._shards.ids(index)

    def add(self, images: np.ndarray) -> None:
        """The next images (n, H, W, 3), in the order in which their shards were expected."""
        self._images.append(images)
        while self._expected:
            size = len(self._shards.ids(self._expected[0]))
            if sum(len(part) for part in self._images) < size:
                return
            joined = np.concatenate(self._images)
            self._images = [joined[size:]]
            self._done(self._expected.popleft(), joined[:size])
