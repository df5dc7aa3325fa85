"""Images as data behind one interface: scikit-learn's digits, a folder a class, tar shards, Hugging Face data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.nn import functional as F

from arbench.images.hub_datasets import HUB, HubPictures, open_hub
from arbench.images.listing import Listing, list_images
from arbench.images.pictures import CROPS, IMAGE_SUFFIXES, Conversions, Cropped, PictureFiles
from arbench.images.tar_shards import SHARDS, TarImages, TarPictures, list_shards, shard_paths
from arbench.registry import unknown_name

DIGITS = "digits"
EXPECTED = f"'{DIGITS}', a folder of images, {SHARDS}GLOB or {HUB}NAME"
DIGITS_SIZE = 32  # pixels a side at which the 8×8 originals are shown
DIGITS_LEVELS = 16  # the originals hold 0..16
DIGITS_SPLITS = ("train", "heldout")
DIGITS_TRAIN_FRACTION = 0.8
DIGITS_SPLIT_SEED = 0


@runtime_checkable
class Sizing(Protocol):
    """Reads image i at several sides at once; what reads the images of a data set may do so."""

    def at(self, index: int, sides: Sequence[int | None]) -> list[np.ndarray]:
        """Image `index` as uint8 (side, side, 3) at each of `sides`, None as it is, of one decoding."""


class ImageData:
    """Labelled uint8 images in a fixed order, read when asked for.

    `read(i)` gives image i as uint8 (H, W, 3); `labels` is (N,) int64 and indexes `class_names`; `conversions` are
    the files whose pixels were converted, as far as they were read. `digest()` tells the images from others wherever
    they lie; where there is none, `name` does. `keys()`, of files alone, is (N,) uint64 and does so for each image.
    """

    def __init__(
        self,
        name: str,
        labels: np.ndarray,
        class_names: Sequence[str],
        read: Callable[[int], np.ndarray],
        conversions: Conversions | None = None,
        digest: Callable[[], str] | None = None,
        keys: Callable[[], np.ndarray] | None = None,
    ) -> None:
        self.name = name
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = list(class_names)
        self._read = read
        self.conversions = conversions or Conversions()
        self.digest = digest
        self.keys = keys

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def side(self) -> int:
        """Pixels of a side of the first image."""
        return self[0][0].shape[0]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image `index` as uint8 (H, W, 3) and its label; IndexError past the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: no image {index} among {len(self)}")
        index = index % len(self)
        return self._read(index), int(self.labels[index])

    def sized(self, index: int, sides: Sequence[int | None] = (None,)) -> list[np.ndarray]:
        """Image `index` at each of `sides`, uint8 (side, side, 3), None as it is, of one decoding.

        Raises ValueError where another side is asked of data that have but one.
        """
        if all(side is None for side in sides):
            return [self[index][0]] * len(sides)
        if not isinstance(self._read, Sizing):
            raise ValueError(f"{self.name}: its images are of one size; expected a folder of images, for larger ones")
        return self._read.at(index, sides)

    def images(self, indices: Iterable[int] | None = None) -> np.ndarray:
        """The images at `indices` (all where None) as one uint8 (N, H, W, 3) array.

        Raises ValueError where they differ in size.
        """
        chosen = range(len(self)) if indices is None else [int(i) for i in indices]
        arrays = [self[i][0] for i in chosen]
        sizes = sorted({array.shape[:2] for array in arrays})
        if len(sizes) > 1:
            shown = ", ".join(f"{height}x{width}" for height, width in sizes[:3])
            raise ValueError(f"{self.name}: images differ in size ({shown}); give a size and a crop (adm or resize)")
        return np.stack(arrays) if arrays else np.zeros((0, 0, 0, 3), np.uint8)


def open_data(
    source: str | Path, *, split: str = "train", size: int | None = None, crop: str = "adm", again: bool = False
) -> ImageData:
    """The images of `source`: "digits", or a folder with one folder a class, as torchvision's ImageFolder reads it.

    `shards:GLOB` are tar shards (`tar_shards`), `hf:NAME_OR_FOLDER[:SPLIT]` a Hugging Face data set (`hub_datasets`).
    `split` chooses "train" or "heldout" of the digits; all else is one split by itself. `size` is the side in pixels
    (None: 32 for digits, as stored for others), `crop` how images are brought to it (`CROPS`). A large folder is listed
    once, shards likewise, and `again` where that is asked for (`list_images`, `list_shards`).
    Raises ValueError for an unknown split or crop, for a folder without images or with a class without any, and for
    shards or data sets that are not as they must be; OSError where there is no folder.
    """
    if crop not in CROPS:
        raise unknown_name("crop", crop, CROPS)
    if size is not None and size < 1:
        raise ValueError(f"image size is {size}; expected at least 1 pixel")
    if str(source) == DIGITS:
        return _open_digits(split, size or DIGITS_SIZE)
    if split != "train":
        raise ValueError(f"split {split!r} of the folder {source}: a folder is one split; give that split's own folder")
    if str(source).startswith(SHARDS):
        images = list_shards(str(source).removeprefix(SHARDS), again=again)
        return _data(str(source), TarPictures(images), images.classes, images.class_names, size, crop, images)
    if str(source).startswith(HUB):
        pictures, labels, names = open_hub(str(source))
        return _data(str(source), pictures, labels, names, size, crop, pictures)
    listing = list_images(existing_folder(source), again=again)
    return _class_folders(str(source), listing, size=size, crop=crop)


def _class_folders(name: str, listing: Listing, *, size: int | None, crop: str) -> ImageData:
    """A listing as data whose classes are its folders; a file in none of them is none."""
    root, classes, files = listing.root, listing.class_names, listing.inside_classes()
    if not len(files):
        expected = f"expected one folder a class with {', '.join(IMAGE_SUFFIXES)} files inside"
        raise ValueError(f"{root}: no images found; {expected}")
    labels = files.classes.astype(np.int64)
    empty = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if len(empty):
        raise ValueError(
            f"{root / classes[empty[0]]}: a class folder without images ({len(empty)} of {len(classes)} are); expected "
            "images in it, or no such folder"
        )
    return _data(name, PictureFiles(files), labels, classes, size, crop, files)


def folder_data(
    name: str,
    files: Sequence[Path],
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    size: int | None = None,
    crop: str = "adm",
) -> ImageData:
    """`files` as data, each read as RGB and, where `size` is given, brought to it by `CROPS[crop]`."""
    return _data(name, PictureFiles(files), labels, class_names, size, crop)


def _data(
    name: str,
    pictures: PictureFiles | TarPictures | HubPictures,
    labels: np.ndarray,
    class_names: Sequence[str],
    size: int | None,
    crop: str,
    told: Listing | TarImages | HubPictures | None = None,
) -> ImageData:
    """The pictures as data, which `told` tells from others."""
    keys, shown = None, f"{crop} {size}" if size else ""  # how an image is brought to its size is part of what it is
    if isinstance(told, Listing | TarImages):
        keys = partial(told.keys, shown)
    digest = None if told is None else told.digest
    return ImageData(name, labels, class_names, Cropped(pictures, crop, size), pictures.conversions, digest, keys)


def is_absent(source: str) -> bool:
    """Whether there is no folder of that name, nothing in it (where a disk is not mounted), or no such shard."""
    if source == DIGITS or source.startswith(HUB):
        return False
    if source.startswith(SHARDS):
        return not shard_paths(source.removeprefix(SHARDS))
    return not Path(source).is_dir() or not any(Path(source).iterdir())


def whereabouts(source: str) -> str:
    """`source` with its path in full: one spelling of what lies in one place."""
    if source == DIGITS or source.startswith(HUB):
        return source
    kind = SHARDS if source.startswith(SHARDS) else ""
    path = source.removeprefix(kind)
    return kind + os.path.abspath(os.path.expanduser(path) if kind else path)


def existing_folder(path: str | Path) -> Path:
    """`path` as a folder that is there; NotADirectoryError names what was expected."""
    folder = Path(path)
    if not folder.is_dir():
        raise NotADirectoryError(f"{path}: no such folder; expected {EXPECTED}")
    return folder


@lru_cache(maxsize=1)
def _stored_digits() -> Any:
    """scikit-learn's copy, a text file that takes long to read; whoever asks takes copies of what it holds."""
    from sklearn.datasets import load_digits

    return load_digits()


def _open_digits(split: str, size: int) -> ImageData:
    """One split of UCI's handwritten digits (1,797 images of 8×8 in 10 classes), shown at `size` in grey RGB."""
    if split not in DIGITS_SPLITS:
        raise unknown_name("split of digits", split, DIGITS_SPLITS)
    digits = _stored_digits()
    labels = digits.target.astype(np.int64)
    chosen = _stratified(labels)[split]
    names = [str(name) for name in digits.target_names]
    return ImageData(DIGITS, labels[chosen], names, ShownDigits(digits.images[chosen], size))


class ShownDigits:
    """Digits (N, 8, 8) of levels 0..16 read as images of `size`, or of other sides."""

    def __init__(self, levels: np.ndarray, size: int) -> None:
        self._levels, self._images = levels, show_digits(levels, size)

    def __call__(self, index: int) -> np.ndarray:
        return self._images[index]

    def at(self, index: int, sides: Sequence[int | None]) -> list[np.ndarray]:
        level = self._levels[index : index + 1]
        return [self._images[index] if side is None else show_digits(level, side)[0] for side in sides]


def _stratified(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Sorted indices of both splits: the same fraction of every class, chosen by a fixed seed."""
    random = np.random.RandomState(DIGITS_SPLIT_SEED)  # the legacy generator: its stream is frozen for good
    train = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        train.append(members[: round(DIGITS_TRAIN_FRACTION * len(members))])
    kept = np.sort(np.concatenate(train))
    return {"train": kept, "heldout": np.setdiff1d(np.arange(len(labels)), kept)}


def show_digits(levels: np.ndarray, size: int = DIGITS_SIZE) -> np.ndarray:
    """Levels 0..16 (N, h, w) to grey uint8 (N, size, size, 3): bilinear with half-pixel centres, then rounded."""
    planes = torch.from_numpy(np.asarray(levels, dtype=np.float64) * (255 / DIGITS_LEVELS))
    shown = F.interpolate(planes[:, None], size=(size, size), mode="bilinear", align_corners=False)
    grey = shown[:, 0].round().to(torch.uint8).numpy()
    return np.repeat(grey[..., None], 3, axis=-1)
