"""The image files of a folder in a fixed order, and the saved index that spares listing a large one again.

An index is a safetensors file below `$ARBENCH_INDEXES` with the files' names and the time at which each folder was last
changed, which moves when a file comes, goes or is renamed. So looking whether it still holds asks for every folder once
(a thousand for ImageNet) rather than for every file; it cannot see that a file was overwritten in place, nor has to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from arbench.images.pictures import IMAGE_SUFFIXES
from arbench.machine.files import whole_file

HOME_VARIABLE = "ARBENCH_INDEXES"
DEFAULT_HOME = Path("~/.cache/arbench/indexes")
SAVED_FROM = 10_000  # files; fewer are listed in the time in which an index is read
SETTLED = 2_000_000_000  # ns: a folder that changed so short before it was listed may have changed again unseen
VERSION = "1"  # of the file; others are not read
NOT_IN_A_FOLDER = -1  # the class of a file right under the listed folder


@dataclass(frozen=True, eq=False)
class Listing(Sequence[Path]):
    """The image files below `root`, sorted by path; names lie in one array, which no process copies.

    `starts` and `ends` (N,) int64 are where each name lies in `names`; `classes` (N,) int32 number the folders right
    under `root`, sorted by name. `changed` is when each folder was, in ns, by its path below `root`.
    """

    root: Path
    names: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    classes: np.ndarray
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
        return replace(self, starts=self.starts[kept], ends=self.ends[kept], classes=self.classes[kept])


def image_files(folder: Path) -> list[Path]:
    """The image files right under and below `folder`, sorted by path."""
    return list(list_images(folder))


def list_images(folder: Path, *, again: bool = False) -> Listing:
    """The image files of `folder`, from its index where there is one that holds, and not `again` from the disk.

    A long listing is saved, where that can be written. Raises OSError for a folder that cannot be read.
    """
    path = index_path(folder)
    found = None if again else _read_index(path, folder)
    if found is None:
        began = time.time_ns()
        found = _walk(folder)
        if len(found) >= SAVED_FROM and began - max(found.changed.values()) > SETTLED:
            with contextlib.suppress(OSError):  # a home that cannot be written costs time, no more
                _write_index(path, found)
    return found


def index_path(folder: Path) -> Path:
    """Where the index of `folder` lies: below $ARBENCH_INDEXES, else ~/.cache/arbench/indexes."""
    return index_file(str(folder.resolve()))


def index_file(source: str) -> Path:
    """The same for anything that a text names."""
    home = Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()
    return home / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:24]}.safetensors"


def _walk(folder: Path) -> Listing:
    """Ask the disk. Links to folders are followed right under `folder` alone, so that no circle is walked."""
    changed = {"": folder.stat().st_mtime_ns}
    names = sorted(_below(folder, "", changed), key=lambda name: name.split("/"))
    numbers = {name: number for number, name in enumerate(_class_names(changed))}
    encoded = [os.fsencode(name) for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    classes = [numbers[top] if below else NOT_IN_A_FOLDER for top, below, _ in (name.partition("/") for name in names)]
    return _listing(folder, np.frombuffer(b"".join(encoded), np.uint8), ends, np.array(classes, np.int32), changed)


def _listing(
    folder: Path, names: np.ndarray, ends: np.ndarray, classes: np.ndarray, changed: Mapping[str, int]
) -> Listing:
    """A listing whose names follow each other."""
    return Listing(folder, names, np.concatenate([[0], ends[:-1]]).astype(np.int64), ends, classes, changed)


def _below(folder: Path, prefix: str, changed: dict[str, int]) -> Iterator[str]:
    """Paths of the image files below a folder; `changed` takes the folders."""
    inner = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=not prefix):
                inner.append((entry.name, entry.stat().st_mtime_ns))
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file():
                yield prefix + entry.name
    for name, when in inner:
        changed[prefix + name] = when
        yield from _below(folder / name, f"{prefix}{name}/", changed)


def _class_names(folders: Mapping[str, int]) -> list[str]:
    return sorted(name for name in folders if name and "/" not in name)


def _write_index(path: Path, listing: Listing) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"names": listing.names, "ends": listing.ends, "classes": listing.classes}
    told = {"version": VERSION, "root": str(listing.root.resolve()), "changed": json.dumps(dict(listing.changed))}
    with whole_file(path) as partial:
        save_file(arrays, partial, told)


def _read_index(path: Path, folder: Path) -> Listing | None:
    """The listing of an index, None where there is none, it is damaged, or a folder has changed."""
    try:
        with safe_open(path, "np") as stored:
            told = stored.metadata() or {}
            if told.get("version") != VERSION or told.get("root") != str(folder.resolve()):
                return None
            changed = json.loads(told["changed"])
            if any((folder / name).stat().st_mtime_ns != when for name, when in changed.items()):
                return None
            names, ends, classes = (stored.get_tensor(name) for name in ("names", "ends", "classes"))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if not len(ends) == len(classes) > 0 or ends[-1] != len(names) or (np.diff(ends) < 1).any():
        return None
    return _listing(folder, names, ends, classes, changed)
