"""Images inside tar shards, as webdataset writes them: indexed once by their places, then read where they lie.

A member `KEY.jpg` (or another of `IMAGE_SUFFIXES`) is an image. Its class is the whole number that `KEY.cls` holds, or,
where no shard has such members, the first folder of KEY, as in a folder of images. Nothing is unpacked, and what other
members hold (pickles, JSON, programs) is not looked at. The index (`images.index`) is a file beside those of folders.
"""

from __future__ import annotations

import glob
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from arbench.images.index import file_keys, files_digest, index_file, keep_index, read_index
from arbench.images.pictures import IMAGE_SUFFIXES, Conversions, decode_image
from arbench.machine.files import one_line

SHARDS = "shards:"  # what such a source of images begins with
CLASS_SUFFIX = ".cls"
LONGEST_NUMBER = 20  # bytes of a KEY.cls
MOST_CLASSES = 1_000_000
LATEST = 2**33  # s: within 64 bits of ns
ARRAYS = ("names", "ends", "shard", "offsets", "sizes", "times", "classes")

Stamps = tuple[tuple[str, int, int], ...]  # path, bytes and time of the last change in ns of each shard


@dataclass(frozen=True, eq=False)
class TarImages:
    """The images of the shards that a pattern names, shard after shard, each as its members follow each other.

    Arrays of one entry an image: its name ends at `ends` in `names`, it is `sizes` bytes from `offsets` on in
    `stamps[shard]`, was changed at `times`, in ns, and is of class `classes` among `class_names`.
    """

    stamps: Stamps
    class_names: Sequence[str]
    names: np.ndarray
    ends: np.ndarray
    shard: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, index: int) -> str:
        """Shard and member of image `index`."""
        start = self.ends[index - 1] if index else 0
        member = os.fsdecode(self.names[start : self.ends[index]].tobytes())
        return f"{self.stamps[self.shard[index]][0]}: {member}"

    def digest(self) -> str:
        """What tells these images from others, wherever the shards lie and however they are cut: names, in order, and
        bytes."""
        return files_digest(self.names, self.ends, self.sizes)

    def keys(self, salt: str) -> np.ndarray:
        """(N,) uint64 that tell each image from others, as `Listing.keys` has them: by name, bytes and time."""
        starts = np.concatenate([[0], self.ends[:-1]]).astype(np.int64)
        return file_keys(self.names, starts, self.ends, (self.sizes, self.times), salt)

    def read(self, index: int) -> bytes:
        """The bytes of image `index`. Raises ValueError where its shard has become shorter."""
        with open(self.stamps[self.shard[index]][0], "rb") as stream:
            stream.seek(int(self.offsets[index]))
            content = stream.read(int(self.sizes[index]))
        if len(content) < self.sizes[index]:
            raise ValueError(f"{self.name(index)}: the shard ends within it; expected the shard that was indexed")
        return content


@dataclass(frozen=True)
class TarPictures:
    """Pictures that are members of tar shards."""

    images: TarImages
    conversions: Conversions = field(default_factory=Conversions)

    def __call__(self, index: int) -> Image.Image:
        return decode_image(io.BytesIO(self.images.read(index)), self.images.name(index), self.conversions)


@dataclass(frozen=True, kw_only=True)
class _Member:
    shard: int
    name: str
    offset: int
    size: int
    time: int


def list_shards(pattern: str, *, again: bool = False) -> TarImages:
    """The images of the shards that `pattern` names, from its index where it holds, and not `again` from the shards.

    A long index is saved, where that can be written. Raises ValueError, one line that names shard and member, for a
    pattern that names no file, a broken tar, an image without a class and a class that is no whole number.
    """
    stamps, path = _stamps(pattern), shards_index_path(pattern)
    found = None if again else _indexed(path, stamps)
    if found is None:
        listed = time.time_ns()
        found = _index(stamps)
        arrays = {name: getattr(found, name) for name in ARRAYS}
        told = {"shards": json.dumps(stamps), "classes": json.dumps(list(found.class_names))}
        keep_index(path, arrays, told, files=len(found), listed=listed, changed=max(when for _, _, when in stamps))
    return found


def shards_index_path(pattern: str) -> Path:
    """Where the index of a pattern lies: beside those of folders."""
    return index_file(SHARDS + os.path.abspath(os.path.expanduser(pattern)))


def shard_paths(pattern: str) -> list[str]:
    """The files that `pattern` names, in order; none where it names none."""
    whole = os.path.abspath(os.path.expanduser(pattern))
    return sorted(path for path in glob.glob(whole, recursive=True) if os.path.isfile(path))


def _stamps(pattern: str) -> Stamps:
    paths = shard_paths(pattern)
    if not paths:
        is_folder = os.path.isdir(os.path.expanduser(pattern))
        inside = f"{pattern.rstrip('/')}/*.tar" if is_folder else "DIR/*.tar"
        raise ValueError(f"{SHARDS}{pattern}: no shard matches; expected a pattern of tar files, e.g. {SHARDS}{inside}")
    states = [os.stat(path) for path in paths]
    return tuple((path, state.st_size, state.st_mtime_ns) for path, state in zip(paths, states, strict=True))


def _index(stamps: Stamps) -> TarImages:
    """Walk through the headers of all shards."""
    images: list[_Member] = []
    numbers: dict[tuple[int, str], int] = {}  # by shard and key
    for shard, (path, _, _) in enumerate(stamps):
        members: dict[str, _Member] = {}  # of two of one name the last one counts, as for tar
        with open(path, "rb") as stream:
            for info in _infos(path, stream):
                name = info.name.removeprefix("./")
                key, suffix = os.path.splitext(name)
                if suffix.lower() in IMAGE_SUFFIXES and not info.isdir():
                    _check_plain(path, info)
                    told = {"offset": info.offset_data, "size": info.size, "time": _time(info)}
                    members[name] = _Member(shard=shard, name=name, **told)
                elif suffix == CLASS_SUFFIX and info.isreg():
                    numbers[shard, key] = _class_number(path, info, stream)
        images += members.values()
    if not images:
        shown = f"{stamps[0][0]} and {len(stamps) - 1} more" if len(stamps) > 1 else stamps[0][0]
        raise ValueError(f"{shown}: no images found; expected members KEY{', KEY'.join(IMAGE_SUFFIXES)}")
    names, classes = _classes(stamps, images, numbers) if numbers else _folders(stamps, images)
    encoded = [os.fsencode(image.name) for image in images]
    return TarImages(
        stamps,
        names,
        names=np.frombuffer(b"".join(encoded), np.uint8),
        ends=np.cumsum([len(name) for name in encoded], dtype=np.int64),
        shard=np.array([image.shard for image in images], np.int32),
        offsets=np.array([image.offset for image in images], np.int64),
        sizes=np.array([image.size for image in images], np.int64),
        times=np.array([image.time for image in images], np.int64),
        classes=np.array(classes, np.int32),
    )


def _infos(path: str, stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar. Raises ValueError where they end before the block of zeros that ends an archive."""
    name = "its beginning"
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (info := tar.next()) is not None:
                name = repr(info.name)
                yield info
            stream.seek(tar.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # headers that are damaged end it silently
                raise tarfile.ReadError("no end of the archive")
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        told = f"truncated or damaged behind {name} ({one_line(error)})"
        raise ValueError(f"{path}: {told}; expected a whole tar that is not compressed") from error


def _time(info: tarfile.TarInfo) -> int:
    """When a member was changed, in ns; 0 for a time that cannot be."""
    return round(info.mtime * 10**9) if 0 <= info.mtime < LATEST else 0


def _check_plain(path: str, info: tarfile.TarInfo) -> None:
    if not info.isreg() or info.issparse():
        raise ValueError(f"{path}: {info.name}: a link or no plain file; expected images as regular members")


def _class_number(path: str, info: tarfile.TarInfo, stream: BinaryIO) -> int:
    """The number that a KEY.cls holds."""
    stream.seek(info.offset_data)
    text = stream.read(min(info.size, LONGEST_NUMBER + 1)).strip()
    if not text.isdigit() or len(text) > LONGEST_NUMBER or int(text) >= MOST_CLASSES:
        shown = text.decode("ascii", "backslashreplace")
        raise ValueError(
            f"{path}: {info.name}: class {shown!r}; expected a whole number from 0 to {MOST_CLASSES - 1:,}"
        )
    return int(text)


def _classes(
    stamps: Stamps, images: Sequence[_Member], numbers: Mapping[tuple[int, str], int]
) -> tuple[list[str], list[int]]:
    """Names of the classes, which are their numbers, and the class of each image."""
    found = [numbers.get((image.shard, os.path.splitext(image.name)[0])) for image in images]
    for image, number in zip(images, found, strict=True):
        if number is None:
            key = os.path.splitext(image.name)[0]
            raise ValueError(f"{stamps[image.shard][0]}: {image.name}: no class; expected {key}.cls, as others have")
    classes = [number for number in found if number is not None]
    return [str(number) for number in range(max(classes) + 1)], classes


def _folders(stamps: Stamps, images: Sequence[_Member]) -> tuple[list[str], list[int]]:
    """The same where the first folder of a name is the class."""
    for image in images:
        if "/" not in image.name.lstrip("/"):
            key = os.path.splitext(image.name)[0]
            told = f"no class; expected {key}.cls with its number, or a folder in the name"
            raise ValueError(f"{stamps[image.shard][0]}: {image.name}: {told}")
    found = [image.name.lstrip("/").partition("/")[0] for image in images]
    names = sorted(set(found))
    numbers = {name: number for number, name in enumerate(names)}
    return names, [numbers[name] for name in found]


def _indexed(path: Path, stamps: Stamps) -> TarImages | None:
    """The images of an index, None where there is none, it is damaged, or a shard is another one."""
    stored = read_index(path, ARRAYS)
    if stored is None:
        return None
    arrays, told = stored
    try:
        if told["shards"] != json.dumps(stamps):
            return None
        found = TarImages(stamps, json.loads(told["classes"]), **arrays)
    except (KeyError, ValueError):
        return None
    same = len({len(arrays[name]) for name in ARRAYS[1:]}) == 1
    return found if same and len(found) and found.ends[-1] == len(found.names) else None
