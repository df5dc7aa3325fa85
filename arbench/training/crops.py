"""Random square crops out of pictures as they are stored: what tokenizers are trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arbench.generators.recipe import TrainConfig
from arbench.images.data import ImageData
from arbench.images.pixels import to_float
from arbench.training.augment import augment
from arbench.training.reading import Examples, Feed


def random_crop(picture: np.ndarray, size: int, least_share: float, rng: np.random.Generator) -> np.ndarray:
    """A square of uint8 (size, size, 3) anywhere in `picture` (H, W, 3), of at least `least_share` of its shorter side.

    The picture is halved by BOX while twice too large, then scaled by BICUBIC, as ADM's centre crop is (guided-
    diffusion's `random_crop_arr`).
    """
    shorter = int(rng.integers(size, math.ceil(size / least_share) + 1))
    image = Image.fromarray(picture)
    while min(image.size) >= 2 * shorter:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = shorter / min(image.size)
    sides = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(sides, Image.Resampling.BICUBIC))
    top, left = (int(rng.integers(0, side - size + 1)) for side in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


@dataclass(frozen=True)
class RandomCrops:
    """A random crop of each image, a function of seed, epoch and the image's number alone."""

    size: int
    least_share: float
    seed: int

    def __call__(self, data: ImageData, index: int, epoch: int) -> list[np.ndarray]:
        own = np.random.default_rng((self.seed, epoch, index))
        return [random_crop(data[index][0], self.size, self.least_share, own)]


class CroppedBatches:
    """Random crops of a data set as float batches on a device, augmented as the recipe says."""

    def __init__(self, data: ImageData, size: int, config: TrainConfig, device: torch.device, workers: int = 0) -> None:
        """`data` are the pictures as they are stored, decoded by `workers` processes."""
        self.data, self.augmentation = data, config.augmentation
        crops = RandomCrops(size, config.crop_share, config.seed)
        self._feed = Feed(data, crops, workers=workers, device=device)

    def __len__(self) -> int:
        return len(self.data)

    def images(self, indices: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 3, H, W) floats in [-1, 1] of the examples `indices`; what is not the crop comes from `rng`."""
        return augment(to_float(self._feed.take(indices)[0][0]), self.augmentation, rng)

    def read_ahead(self, coming: Iterator[Examples]) -> None:
        """As `ReadsAhead` has it."""
        self._feed.read_ahead(coming)
