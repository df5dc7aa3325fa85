"""The images to be scored, wherever they lie: an array, an npz, a folder of pictures or a run folder, in batches."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from arbench.images.data import image_files, read_image
from arbench.machine.files import is_intact

LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")
READ = 256  # images read at once
SHARDS, LABELS, CONFIG = "shards", "labels.npy", "config.yaml"  # of a run folder
GIVEN = "given"  # the classes were asked for one by one
STRATIFIED = "stratified"  # the same share of every class was taken


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A fixed sequence of uint8 images of one size.

    `blocks()` yields them as (b, H, W, 3) in order, never all at once; `labels` (N,) are the classes asked for, where
    they are stored beside the images, `label_mode` how they were chosen ("balanced", "random", "given", "stratified")
    where that is known; `notes` are what a reader of the scores should know.
    """

    name: str
    count: int
    blocks: Callable[[], Iterator[np.ndarray]]
    labels: np.ndarray | None = None
    label_mode: str | None = None
    notes: list[str] = field(default_factory=list)

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


def open_images(images: Any) -> ImageSource:
    """`images` as a source: uint8 (N, H, W, 3) array, npz with `arr_0`, folder of pictures, or run folder.

    Raises OSError where nothing is there, ValueError for anything else, for another dtype or shape and for no images.
    """
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, np.ndarray):
        return array_source("array", images)
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
    """The shards of a run, checked and mapped one after another, and the labels beside them."""
    files = sorted((path / SHARDS).glob("*.npy"))
    headers = [_mapped(file) for file in files]
    for file, images in zip(files, headers, strict=True):
        _check_images(str(file), images.dtype, images.shape)
    count = sum(len(images) for images in headers)
    labels = np.load(path / LABELS, allow_pickle=False) if (path / LABELS).exists() else None
    if labels is not None and len(labels) != count:
        raise ValueError(f"{path}: {count} of {len(labels)} images are there; resume the run before scoring it")
    return ImageSource(
        name=str(path), count=count, blocks=lambda: map(_intact, files), labels=labels, label_mode=_label_mode(path)
    )


def _label_mode(run: Path) -> str | None:
    """How the classes of a run were chosen, as its config.yaml says: a mode, or one by one."""
    if not (run / CONFIG).exists():
        return None
    try:
        labels = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))["images"]["labels"]
    except (yaml.YAMLError, KeyError, TypeError):
        raise ValueError(f"{run / CONFIG}: not the configuration of a run; expected the file that it wrote") from None
    return labels if isinstance(labels, str) else GIVEN


def _intact(shard: Path) -> np.ndarray:
    """The images of a shard. ValueError where they are not those that the run wrote, so that none is scored unseen."""
    if not is_intact(shard):
        raise ValueError(f"{shard}: damaged, its checksum is not the one beside it; resume the run to draw it again")
    return np.asarray(_mapped(shard))


def _mapped(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file}: not a readable shard ({error})") from error


def _picture_folder(path: Path) -> ImageSource:
    """All pictures below a folder, sorted by path."""
    files = image_files(path)
    lossy = sum(file.suffix.lower() in LOSSY_SUFFIXES for file in files)
    notes = [f"{lossy} of {len(files)} files may be lossy (JPEG or WebP), which changes FID; use PNG"] if lossy else []
    return ImageSource(name=str(path), count=len(files), blocks=lambda: _pictures(path, files), notes=notes)


def _pictures(path: Path, files: list[Path]) -> Iterator[np.ndarray]:
    for start in range(0, len(files), READ):
        images = [np.asarray(read_image(file)) for file in files[start : start + READ]]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise ValueError(f"{path}: images of {len(sizes)} sizes; expected one size, e.g. all 256x256")
        yield np.stack(images)


def _npz(path: Path) -> ImageSource:
    """`arr_0` of an npz, read as a stream, compressed or not; `arr_1` are labels where it is there."""
    shape = _npz_shape(path)
    labels = None
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        if "arr_1" in arrays.files and arrays["arr_1"].shape == shape[:1]:
            labels = arrays["arr_1"].astype(np.int64)
    return ImageSource(name=str(path), count=shape[0], blocks=lambda: _npz_blocks(path, shape), labels=labels)


def _npz_shape(path: Path) -> tuple[int, ...]:
    """The checked shape of `arr_0`; ValueError where it is missing or not images."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
            shape, in_fortran_order, dtype = _header(member)
    except KeyError as error:
        raise ValueError(f"{path}: no arr_0 in it; expected uint8 images (N, H, W, 3) under that name") from error
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a readable npz ({error})") from error
    _check_images(str(path), dtype, shape)
    if in_fortran_order:
        raise ValueError(f"{path}: arr_0 is in Fortran order; expected C order")
    return shape


def _header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(member)


def _npz_blocks(path: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    size = int(np.prod(shape[1:]))
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
            _header(member)
            for start in range(0, shape[0], READ):
                count = min(READ, shape[0] - start)
                images = np.frombuffer(member.read(count * size), np.uint8)
                yield images.reshape(count, *shape[1:])
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path}: arr_0 is cut off or damaged ({error})") from error


def _check_images(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"{name}: {dtype} {tuple(shape)}; expected uint8 images (N, H, W, 3)")
    if not shape[0]:
        raise ValueError(f"{name}: no images in it")


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
    def sha256(self) -> str:
        """Over the size and the images in their order."""
        total = self._all.copy()
        total.update(repr(self.shape).encode())
        return total.hexdigest()

    @property
    def duplicates(self) -> int:
        return self.count - len(self._seen)
