"""Images as data: scikit-learn's digits and any folder with one folder a class, behind one interface."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch.nn import functional as F

from arbench.registry import unknown_name

DIGITS = "digits"
DIGITS_SIZE = 32  # pixels a side at which the 8×8 originals are shown
DIGITS_LEVELS = 16  # the originals hold 0..16
DIGITS_SPLITS = ("train", "heldout")
DIGITS_TRAIN_FRACTION = 0.8
DIGITS_SPLIT_SEED = 0

DEEP_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of 16-bit grey; its own RGB of them is clipped
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26  # of a picture: Pillow's own bound, 89 million
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm")


class ImageData:
    """Labelled uint8 images in a fixed order, read when asked for.

    `read(i)` gives image i as uint8 (H, W, 3); `labels` is (N,) int64 and indexes `class_names`; `conversions` are
    the files whose pixels were converted, as far as they were read.
    """

    def __init__(
        self,
        name: str,
        labels: np.ndarray,
        class_names: Sequence[str],
        read: Callable[[int], np.ndarray],
        conversions: Conversions | None = None,
    ) -> None:
        self.name = name
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = list(class_names)
        self._read = read
        self.conversions = conversions or Conversions()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image `index` as uint8 (H, W, 3) and its label; IndexError past the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: no image {index} among {len(self)}")
        index = index % len(self)
        return self._read(index), int(self.labels[index])

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


def open_data(source: str | Path, *, split: str = "train", size: int | None = None, crop: str = "adm") -> ImageData:
    """The images of `source`: "digits", or a folder with one folder a class.

    `split` chooses "train" or "heldout" of the digits; a folder is one split by itself. `size` is the side in pixels
    (None: 32 for digits, as stored for a folder), `crop` how a folder's images are brought to it (`CROPS`).
    Raises ValueError for an unknown split or crop and for a folder without images, OSError where there is no folder.
    """
    if crop not in CROPS:
        raise unknown_name("crop", crop, CROPS)
    if size is not None and size < 1:
        raise ValueError(f"image size is {size}; expected at least 1 pixel")
    if str(source) == DIGITS:
        return _open_digits(split, size or DIGITS_SIZE)
    if split != "train":
        raise ValueError(f"split {split!r} of the folder {source}: a folder is one split; give that split's own folder")
    folder = existing_folder(source)
    names = sorted(part.name for part in folder.iterdir() if part.is_dir())
    files = [(file, label) for label, name in enumerate(names) for file in image_files(folder / name)]
    if not files:
        raise ValueError(f"{folder}: no images found; expected one folder a class with {_suffixes()} files inside")
    labels = np.array([label for _, label in files], dtype=np.int64)
    return folder_data(str(source), [file for file, _ in files], labels, names, size=size, crop=crop)


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
    found = Conversions()
    if size is None:
        return ImageData(name, labels, class_names, lambda i: np.asarray(read_image(files[i], found)), found)
    to_size, side = CROPS[crop], size
    return ImageData(name, labels, class_names, lambda i: to_size(read_image(files[i], found), side), found)


def existing_folder(path: str | Path) -> Path:
    """`path` as a folder that is there; NotADirectoryError names what was expected."""
    folder = Path(path)
    if not folder.is_dir():
        raise NotADirectoryError(f"{path}: no such folder; expected '{DIGITS}' or a folder of images")
    return folder


def image_files(folder: Path) -> list[Path]:
    """The image files right under and below `folder`, sorted by path."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())


class Conversions:
    """The files whose pixels were converted when they were read, and how; each counts once."""

    def __init__(self) -> None:
        self._found: dict[Path, str] = {}

    def add(self, file: Path, how: str) -> None:
        self._found[file] = how

    @property
    def notes(self) -> list[str]:
        """One line for each kind of conversion."""
        return [f"{count} files were converted: {how}" for how, count in sorted(Counter(self._found.values()).items())]


def read_image(file: Path, conversions: Conversions | None = None) -> Image.Image:
    """One file as an RGB picture; `conversions` are told where that took more than a copy of 8-bit RGB or grey.

    ValueError names a file that is broken, no picture, of more than `MOST_PIXELS` or without a known range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                how = _conversion(image)
                picture = _eight_bit(image) if image.mode in DEEP_GREY else image.convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: too large a picture; expected at most {MOST_PIXELS:,} pixels") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{file}: not a readable image ({error})") from error
    if how and conversions is not None:
        conversions.add(file, how)
    return picture


def _conversion(image: ImageFile.ImageFile) -> str:
    """How the pixels of an opened picture become 8-bit RGB, in words; empty where they are that, or 8-bit grey."""
    if image.mode in DEEP_GREY:
        return "16-bit grey, levels divided by 257 and rounded"
    if image.mode == "F":
        raise ValueError("floating point, whose range is not known; expected 8 or 16 bits a channel")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return f"{image.mode}, alpha left out"
    transparency = ", transparency left out" if "transparency" in image.info else ""
    if image.mode == "P":
        return f"palette{transparency}"
    if any("16" in str(tile.args) for tile in image.tile if image.format == "PNG"):
        return "16-bit RGB, the upper eight bits kept"
    return transparency.lstrip(", ") if image.mode in ("RGB", "L", "1") else f"{image.mode} to RGB"


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey levels 0..65535 to RGB levels 0..255: divided by 257, so that white stays white."""
    levels = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def center_crop(image: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """ADM's centre crop to uint8 (size, size, 3): halved by BOX while twice too large, then BICUBIC, then cut.

    Source: guided-diffusion's reference statistics, and all that compare with them.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    sides = (round(picture.width * scale), round(picture.height * scale))
    pixels = np.asarray(picture.resize(sides, Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def resize_whole(image: Image.Image, size: int) -> np.ndarray:
    """The whole picture scaled to uint8 (size, size, 3) by BICUBIC, its proportions not kept."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def exact_size(image: Image.Image, size: int) -> np.ndarray:
    """The picture as it is; ValueError where it is not (size, size)."""
    if image.size != (size, size):
        raise ValueError(f"an image is {image.width}x{image.height}, not {size}x{size}; crop it by adm or resize")
    return np.asarray(image)


CROPS: dict[str, Callable[[Image.Image, int], np.ndarray]] = {
    "adm": center_crop,
    "resize": resize_whole,
    "none": exact_size,
}


def _open_digits(split: str, size: int) -> ImageData:
    """One split of UCI's handwritten digits (1,797 images of 8×8 in 10 classes), shown at `size` in grey RGB."""
    from sklearn.datasets import load_digits

    if split not in DIGITS_SPLITS:
        raise unknown_name("split of digits", split, DIGITS_SPLITS)
    digits = load_digits()
    labels = digits.target.astype(np.int64)
    chosen = _stratified(labels)[split]
    images = show_digits(digits.images[chosen], size)
    return ImageData(DIGITS, labels[chosen], [str(name) for name in digits.target_names], lambda i: images[i])


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


def _suffixes() -> str:
    return ", ".join(IMAGE_SUFFIXES)
