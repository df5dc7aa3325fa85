"""The images to be scored, wherever they lie: an array, an npz, a folder of pictures or a run folder, in batches."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from arbench.evaluation.stored_run import (
    CONFIG,
    LABELS,
    SHARDS,
    Place,
    is_bound,
    read_config,
    read_shard_line,
    settings_hash,
)
from arbench.images.listing import image_files
from arbench.images.pictures import MOST_PIXELS, Conversions, read_image
from arbench.machine.archives import ArrayHeader, member_header, read_header, reading_npz
from arbench.machine.files import is_intact, one_line

LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")
READ = 256  # images read at once
READ_BYTES = 2**28  # and the most memory that they take, where they are large
GIVEN = "given"  # the classes were asked for one by one
STRATIFIED = "stratified"  # the same share of every class was taken


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A fixed sequence of uint8 images of one size.

    `blocks()` yields them as (b, H, W, 3) in order, never all at once; `labels` (N,) are the classes asked for, where
    they are stored beside the images, `label_mode` how they were chosen ("balanced", "random", "given", "stratified")
    where that is known; `notes` are what a reader of the scores should know, `conversions` the files whose pixels were
    converted, as far as they were read.
    """

    name: str
    count: int
    blocks: Callable[[], Iterator[np.ndarray]]
    labels: np.ndarray | None = None
    label_mode: str | None = None
    notes: list[str] = field(default_factory=list)
    conversions: Conversions = field(default_factory=Conversions)

    def first(self, count: int | None) -> ImageSource:
        """The first `count` images. ValueError where there are fewer: a FID from fewer is another number."""
        if count is None or count == self.count:
            return self
        if count < 1 or self.count < count:
            raise ValueError(f"{self.name}: {self.count} images, but {count} were asked for")
        note = f"the first {count} of {self.count} images"
        labels = None if self.labels is None else self.labels[:count]
        blocks = self.blocks
        return replace(
            self, count=count, blocks=lambda: _take(blocks(), count), labels=labels, notes=[*self.notes, note]
        )


Images = str | os.PathLike[str] | np.ndarray | ImageSource  # what `open_images` opens


def open_images(images: Images) -> ImageSource:
    """`images` as a source: uint8 (N, H, W, 3) array, npz with `arr_0`, folder of pictures, or run folder.

    Raises OSError where nothing is there, ValueError for anything else, for another dtype or shape and for no images.
    """
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, np.ndarray):
        return array_source("array", images)
    if not isinstance(images, (str, os.PathLike)):
        raise ValueError(f"images are a {type(images).__name__}; expected a uint8 array (N, H, W, 3) or a path")
    path = Path(images)
    if path.is_dir():
        source = _run_folder(path) if (path / SHARDS).is_dir() else _picture_folder(path)
    elif path.suffix == ".npz":
        source = _npz(path)
    elif path.exists():
        raise ValueError(f"{path}: expected a folder of PNG files, an npz with arr_0, or a run folder")
    else:
        raise FileNotFoundError(f"{path}: no such file or folder; expected images (PNG folder, npz or run folder)")
    if not source.count:
        raise ValueError(f"{path}: no images in it")
    return source


def array_source(
    name: str, images: np.ndarray, labels: np.ndarray | None = None, label_mode: str | None = None
) -> ImageSource:
    """An array in memory (or mapped) as a source. ValueError unless uint8 (N, H, W, 3) with N at least 1."""
    _check_images(name, images.dtype, images.shape)
    starts = range(0, len(images), READ)
    return ImageSource(
        name=name,
        count=len(images),
        blocks=lambda: (images[i : i + READ] for i in starts),
        labels=labels,
        label_mode=label_mode,
    )


def _run_folder(path: Path) -> ImageSource:
    """The shards of a run, each checked to be the run's and in its place, and the labels beside them."""
    files = sorted((path / SHARDS).glob("*.npy"))
    headers = [_mapped(file) for file in files]
    for file, images in zip(files, headers, strict=True):
        _check_images(str(file), images.dtype, images.shape)
    counts = [len(images) for images in headers]
    labels = read_labels(path / LABELS) if (path / LABELS).exists() else None
    config = read_config(path)
    run, total = _promised(config, files)
    for promised in (total, None if labels is None else len(labels)):
        if promised not in (None, sum(counts)):
            raise ValueError(f"{path}: {sum(counts)} of {promised} images are there; resume the run before scoring it")
    places = _places(run, counts)
    missing = [f"{path.name} has no {LABELS}: what needs the classes asked for is left out"] if labels is None else []
    return ImageSource(
        name=str(path),
        count=sum(counts),
        blocks=lambda: map(_intact, files, places),
        labels=labels,
        label_mode=None if config is None else _label_mode(path, config),
        notes=missing,
    )


def _promised(config: dict[str, Any] | None, files: list[Path]) -> tuple[str, int | None]:
    """Which run the shards have to be of, and its number of images: by its configuration, else by the first shard."""
    if config is not None:
        return settings_hash(config["images"]), config["images"]["num_images"]
    line = read_shard_line(files[0]) if files else None
    return ("-", None) if line is None or line.place is None else (line.place.run, line.place.total)


def _places(run: str, counts: list[int]) -> list[Place]:
    """Where each of the shards that follow one another belongs."""
    starts = [sum(counts[:index]) for index in range(len(counts))]
    return [
        Place(run=run, index=index, first=first, count=count, total=sum(counts))
        for index, (first, count) in enumerate(zip(starts, counts, strict=True))
    ]


def read_labels(file: Path) -> np.ndarray:
    """labels.npy: (N,) int64. ValueError unless it holds whole numbers in one row; OSError where it is not there."""
    try:
        with file.open("rb") as stream:
            header = read_header(stream)
            _check_labels(header, header.shape[:1])
            there = file.stat().st_size - stream.tell()
        if header.num_bytes > there:
            raise ValueError(f"{header.num_bytes:,} bytes of labels promised, {there:,} are there")
        labels = np.load(file, allow_pickle=False).astype(np.int64)
        if len(labels) and labels.min() < 0:  # also what is too large for int64
            raise ValueError(f"label {labels.min()}: expected class numbers from 0")
        return labels
    except (ValueError, EOFError, OverflowError, SyntaxError) as error:
        raise ValueError(f"{file}: not the labels of a run ({one_line(error)})") from error


def _check_labels(header: ArrayHeader, shape: tuple[int, ...]) -> None:
    if header.dtype.kind not in "iu" or len(header.shape) != 1 or header.shape != shape:
        count = f"{shape[0]:,} " if shape else ""
        raise ValueError(f"labels are {header.dtype} {header.shape}; expected {count}whole numbers in one row")


def _label_mode(run: Path, config: dict[str, Any]) -> str:
    """How the classes of a run were chosen, as its configuration says: a mode, or one by one."""
    if "labels" not in config["images"]:
        raise ValueError(f"{run / CONFIG}: not the configuration of a run; expected the file that it wrote")
    labels = config["images"]["labels"]
    return labels if isinstance(labels, str) else GIVEN


def _intact(shard: Path, place: Place) -> np.ndarray:
    """The images of a shard. ValueError where they are not those that the run wrote there, so that none is scored."""
    if not is_intact(shard):
        raise ValueError(f"{shard}: damaged, its checksum is not the one beside it; resume the run to draw it again")
    if not is_bound(shard, place):
        raise ValueError(f"{shard}: is a shard of another run or place; resume the run to draw it again")
    return np.asarray(_mapped(shard))


def _mapped(file: Path) -> np.ndarray:
    try:
        with file.open("rb") as stream:
            read_header(stream)
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OverflowError, SyntaxError) as error:
        raise ValueError(f"{file}: not a readable shard ({one_line(error)})") from error


def _picture_folder(path: Path) -> ImageSource:
    """All pictures below a folder, sorted by path."""
    files = image_files(path)
    lossy = sum(file.suffix.lower() in LOSSY_SUFFIXES for file in files)
    notes = [f"{lossy} of {len(files)} files may be lossy (JPEG or WebP), which changes FID; use PNG"] if lossy else []
    found = Conversions()
    return ImageSource(
        name=str(path),
        count=len(files),
        blocks=lambda: _pictures(path, files, found),
        notes=notes,
        conversions=found,
    )


def _pictures(path: Path, files: list[Path], conversions: Conversions) -> Iterator[np.ndarray]:
    for start in range(0, len(files), READ):
        images = [np.asarray(read_image(file, conversions)) for file in files[start : start + READ]]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise ValueError(f"{path}: images of {len(sizes)} sizes; expected one size, e.g. all 256x256")
        yield np.stack(images)


def _npz(path: Path) -> ImageSource:
    """`arr_0` of an npz, read as a stream, compressed or not; `arr_1` are labels where it is there."""
    shape = _npz_shape(path)
    labels = None
    with reading_npz(path), path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        if "arr_1" in arrays.files:
            _check_labels(member_header(arrays.zip, "arr_1"), shape[:1])
            labels = arrays["arr_1"].astype(np.int64)
    return ImageSource(name=str(path), count=shape[0], blocks=lambda: _npz_blocks(path, shape), labels=labels)


def _npz_shape(path: Path) -> tuple[int, ...]:
    """The checked shape of `arr_0`; ValueError where it is missing or not images."""
    with reading_npz(path), zipfile.ZipFile(path) as archive:
        header = member_header(archive, "arr_0") if "arr_0.npy" in archive.namelist() else None
    if header is None:
        raise ValueError(f"{path}: no arr_0 in it; expected uint8 images (N, H, W, 3) under that name")
    shape, in_fortran_order, dtype = header
    _check_images(str(path), dtype, shape)
    if in_fortran_order:
        raise ValueError(f"{path}: arr_0 is in Fortran order; expected C order")
    return shape


def _npz_blocks(path: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    size = int(np.prod(shape[1:]))
    step = max(1, min(READ, READ_BYTES // size))
    damage = reading_npz(path, "arr_0 is cut off or damaged")
    with damage, zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
        read_header(member)
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            content = member.read(count * size)
            if len(content) < count * size:
                raise ValueError(f"it ends after {start} images")
            yield np.frombuffer(content, np.uint8).reshape(count, *shape[1:])


def _check_images(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"{name}: {dtype} {tuple(shape)}; expected uint8 images (N, H, W, 3)")
    if not shape[0]:
        raise ValueError(f"{name}: no images in it")
    if not 1 <= shape[1] * shape[2] <= MOST_PIXELS:
        raise ValueError(f"{name}: images of {shape[1]}x{shape[2]}; expected 1 to {MOST_PIXELS:,} pixels")


def _take(blocks: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    for block in blocks:
        if count <= 0:
            return
        yield block[:count]
        count -= len(block)


class ImageDigest:
    """A content hash over a sequence of images, and how many are exact copies of an earlier one."""

    def __init__(self) -> None:
        self.count = 0
        self.shape: tuple[int, ...] | None = None
        self._all = hashlib.sha256()
        self._seen: set[bytes] = set()

    def update(self, images: np.ndarray) -> None:
        """Take in uint8 (b, H, W, 3). ValueError where the size is not that of the images before."""
        shape = images.shape[1:]
        if self.shape not in (None, shape):
            raise ValueError(f"images of {shape[:2]} after images of {self.shape[:2]}; expected one size")
        self.shape = shape
        self.count += len(images)
        for image in np.ascontiguousarray(images):
            digest = hashlib.blake2b(image.data, digest_size=16).digest()
            self._seen.add(digest)
            self._all.update(digest)

    @property
    def contents(self) -> frozenset[bytes]:
        """A digest of each different image."""
        return frozenset(self._seen)

    @property
    def sha256(self) -> str:
        """Over the size and the images in their order."""
        total = self._all.copy()
        total.update(repr(self.shape).encode())
        return total.hexdigest()

    @property
    def duplicates(self) -> int:
        return self.count - len(self._seen)
