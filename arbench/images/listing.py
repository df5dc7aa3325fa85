"""The image files of a folder in a fixed order, and the saved index that spares listing a large one again.

An index (`arbench.images.index`) holds the files' names and bytes and the time at which each folder was last changed,
which moves when a file comes, goes or is renamed. So looking whether it still holds asks for every folder once
(a thousand for ImageNet) rather than for every file; it cannot see that a file was overwritten in place.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np

from arbench.images.index import file_keys, files_digest, index_file, keep_index, read_index
from arbench.images.pictures import IMAGE_SUFFIXES

ARRAYS = ("names", "ends", "classes", "sizes", "times")
NOT_IN_A_FOLDER = -1  # the class of a file right under the listed folder


@dataclass(frozen=True, eq=False)
class Listing(Sequence[Path]):
    """The image files below `root`, sorted by path; names lie in one array, which no process copies.

    `starts` and `ends` (N,) int64 are where each name lies in `names`; `classes` (N,) int32 number the folders right
    under `root`, sorted by name; `sizes` (N,) int64 are bytes, `times` (N,) int64 when each was changed, in ns.
    `changed` is when each folder was, in ns, by its path below `root`.
    """

    root: Path
    names: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    classes: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    changed: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self.root / os.fsdecode(self.names[self.starts[place] : self.ends[place]].tobytes())

    @property
    def class_names(self) -> list[str]:
        """The folders right under `root`, sorted, also those without images."""
        return _class_names(self.changed)

    def inside_classes(self) -> Listing:
        """The same without the files right under `root`."""
        kept = self.classes != NOT_IN_A_FOLDER
        arrays = {name: getattr(self, name)[kept] for name in ("starts", "ends", "classes", "sizes", "times")}
        return self if kept.all() else replace(self, **arrays)

    def digest(self) -> str:
        """What tells these files from others, wherever they lie: their names below `root`, in order, and their bytes.

        The SHA-256 that `TarImages.digest` has of the same files in the same order.
        """
        lengths = self.ends - self.starts
        among = np.zeros(len(self.names) + 1, np.int8)  # +1 where a name begins, -1 behind its end
        np.add.at(among, self.starts, 1)
        np.add.at(among, self.ends, -1)
        return files_digest(self.names[np.cumsum(among[:-1]) > 0], np.cumsum(lengths), self.sizes)

    def keys(self, salt: str) -> np.ndarray:
        """(N,) uint64 that tell each file from others: by its name below `root`, its bytes and when it was changed.

        Those that `TarImages.keys` has of the same files.
        """
        return file_keys(self.names, self.starts, self.ends, (self.sizes, self.times), salt)


def image_files(folder: Path) -> list[Path]:
    """The image files right under and below `folder`, sorted by path."""
    return list(list_images(folder))


def list_images(folder: Path, *, again: bool = False) -> Listing:
    """The image files of `folder`, from its index where there is one that holds, and not `again` from the disk.

    A long listing is saved, where that can be written. Raises OSError for a folder that cannot be read.
    """
    path = index_path(folder)
    found = None if again else _indexed(path, folder)
    if found is None:
        listed = time.time_ns()
        found = _walk(folder)
        arrays = {name: getattr(found, name) for name in ARRAYS}
        told = {"root": str(folder.resolve()), "changed": json.dumps(dict(found.changed))}
        keep_index(path, arrays, told, files=len(found), listed=listed, changed=max(found.changed.values()))
    return found


def index_path(folder: Path) -> Path:
    """Where the index of `folder` lies."""
    return index_file(str(folder.resolve()))


def _walk(folder: Path) -> Listing:
    """Ask the disk. Links to folders are followed right under `folder` alone, so that no circle is walked."""
    changed = {"": folder.stat().st_mtime_ns}
    files = sorted(_below(folder, "", changed), key=lambda file: file[0].split("/"))
    names = [name for name, _, _ in files]
    sizes, times = (np.array([file[part] for file in files], np.int64) for part in (1, 2))
    numbers = {name: number for number, name in enumerate(_class_names(changed))}
    encoded = [os.fsencode(name) for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    classes = [numbers[top] if below else NOT_IN_A_FOLDER for top, below, _ in (name.partition("/") for name in names)]
    joined = np.frombuffer(b"".join(encoded), np.uint8)
    return _listing(folder, joined, ends, np.array(classes, np.int32), sizes, times, changed)


def _listing(
    folder: Path,
    names: np.ndarray,
    ends: np.ndarray,
    classes: np.ndarray,
    sizes: np.ndarray,
    times: np.ndarray,
    changed: Mapping[str, int],
) -> Listing:
    """A listing whose names follow each other."""
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    return Listing(folder, names, starts, ends, classes, sizes, times, changed)


def _below(folder: Path, prefix: str, changed: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    """Path, bytes and time of the last change in ns of the image files below a folder; `changed` takes the folders."""
    inner = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=not prefix):
                inner.append((entry.name, entry.stat().st_mtime_ns))
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file():
                state = entry.stat()
                yield prefix + entry.name, state.st_size, state.st_mtime_ns
    for name, when in inner:
        changed[prefix + name] = when
        yield from _below(folder / name, f"{prefix}{name}/", changed)


def _class_names(folders: Mapping[str, int]) -> list[str]:
    return sorted(name for name in folders if name and "/" not in name)


def _indexed(path: Path, folder: Path) -> Listing | None:
    """The listing of an index, None where there is none, it is damaged, or a folder has changed."""
    stored = read_index(path, ARRAYS)
    if stored is None:
        return None
    (names, ends, classes, sizes, times), told = stored[0].values(), stored[1]
    try:
        changed = json.loads(told["changed"])
        if told["root"] != str(folder.resolve()):
            return None
        if any((folder / name).stat().st_mtime_ns != when for name, when in changed.items()):
            return None
    except (OSError, KeyError, ValueError):
        return None
    counts = {len(part) for part in (ends, classes, sizes, times)}
    if len(counts) > 1 or not len(ends) or ends[-1] != len(names) or (np.diff(ends) < 1).any():
        return None
    return _listing(folder, names, ends, classes, sizes, times, changed)
