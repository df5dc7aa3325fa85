"""One picture: read safely as RGB, told what was converted, and brought to a size by a crop."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

DEEP_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of 16-bit grey; its own RGB of them is clipped
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26  # of a picture: Pillow's own bound, 89 million
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm")


class Conversions:
    """The files whose pixels were converted when they were read, and how; each counts once."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def add(self, file: str, how: str) -> None:
        self._found[file] = how

    @property
    def notes(self) -> list[str]:
        """One line for each kind of conversion."""
        return [f"{count} files were converted: {how}" for how, count in sorted(Counter(self._found.values()).items())]


def read_image(file: Path, conversions: Conversions | None = None) -> Image.Image:
    """One file as an RGB picture; `conversions` are told where that took more than a copy of 8-bit RGB or grey.

    ValueError names a file that is broken, no picture, of more than `MOST_PIXELS` or without a known range.
    """
    return decode_image(file, str(file), conversions)


def decode_image(file: Path | BinaryIO, name: str, conversions: Conversions | None = None) -> Image.Image:
    """The same of a file or a stream of its bytes, which messages call `name`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                how = _conversion(image)
                picture = _eight_bit(image) if image.mode in DEEP_GREY else image.convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: too large a picture; expected at most {MOST_PIXELS:,} pixels") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{name}: not a readable image ({error})") from error
    if how and conversions is not None:
        conversions.add(name, how)
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


@dataclass(frozen=True)
class PictureFiles:
    """Pictures that are files."""

    files: Sequence[Path]
    conversions: Conversions = field(default_factory=Conversions)

    def __call__(self, index: int) -> Image.Image:
        return read_image(self.files[index], self.conversions)


@dataclass(frozen=True)
class Cropped:
    """Pictures as arrays: brought to (size, size) by `CROPS[crop]`, or as they are where `size` is None."""

    picture: Callable[[int], Image.Image]
    crop: str
    size: int | None

    def __call__(self, index: int) -> np.ndarray:
        return self._brought(self.picture(index), self.size)

    def at(self, index: int, sides: Sequence[int | None]) -> list[np.ndarray]:
        """Picture `index` at each of `sides`, None at its own `size`, of one decoding."""
        picture = self.picture(index)
        return [self._brought(picture, side or self.size) for side in sides]

    def _brought(self, picture: Image.Image, side: int | None) -> np.ndarray:
        return np.asarray(picture) if side is None else CROPS[self.crop](picture, side)
