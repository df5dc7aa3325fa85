"""Which examples a step sees, and images as training batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from arbench.generators.recipe import Augmentation
from arbench.images.pixels import to_float
from arbench.machine.transfer import sent
from arbench.training.augment import augment
from arbench.training.reading import AtSides, Examples, Feed

if TYPE_CHECKING:
    from arbench.images.data import ImageData

MAX_RESIDENT_IMAGES = 200_000_000  # bytes of uint8 pixels kept in memory; larger data sets are read batch by batch


@lru_cache(maxsize=2)
def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """(N,) int64 order of the examples in an epoch; only the last two asked for are kept."""
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def batch_indices(
    num_examples: int, batch_size: int, step: int, seed: int, *, rank: int = 0, world_size: int = 1
) -> Tensor:
    """(B,) int64 examples of step `step`: the first part of `batch_examples`."""
    return batch_examples(num_examples, batch_size, step, seed, rank=rank, world_size=world_size)[0]


def batch_examples(
    num_examples: int, batch_size: int, step: int, seed: int, *, rank: int = 0, world_size: int = 1
) -> Examples:
    """The examples of step `step`, (B,) int64, and the epoch of each: epoch after epoch, each in its own order, batches
    crossing epoch ends.

    A function of its arguments alone, so a resumed run sees what the uninterrupted one would have. `batch_size` is
    that of all processes together; process `rank` of `world_size` gets every world_size-th example.
    """
    places = torch.arange(step * batch_size, (step + 1) * batch_size)[rank::world_size]
    epochs = places // num_examples
    found = torch.empty_like(places)
    for epoch in epochs.unique().tolist():
        order = epoch_order(num_examples, seed, epoch)
        here = epochs == epoch
        found[here] = torch.from_numpy(order)[places[here] % num_examples]
    return found, epochs


class ImageBatches:
    """Images of a data set as float batches on a device, augmented anew each time."""

    def __init__(self, data: ImageData, augmentation: Augmentation, device: torch.device, workers: int = 0) -> None:
        self.data, self.augmentation, self.device = data, augmentation, device
        self.labels = torch.from_numpy(np.asarray(data.labels, dtype=np.int64))
        height, width, channels = data[0][0].shape
        fits = len(data) * height * width * channels <= MAX_RESIDENT_IMAGES
        self._resident = data.images() if fits else None
        self._feed = Feed(data, AtSides(), workers=workers, device=device)

    def __len__(self) -> int:
        return len(self.data)

    def images(self, indices: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 3, H, W) floats in [-1, 1]."""
        if self._resident is not None:
            images = sent(to_float(self._resident[indices.numpy()]), self.device)
        else:
            images = to_float(self._feed.take(indices)[0][0])
        return augment(images, self.augmentation, rng)

    def read_ahead(self, coming: Iterator[Examples]) -> None:
        """As `ReadsAhead` has it; there is nothing to read where all images are in memory."""
        if self._resident is None:
            self._feed.read_ahead(coming)

    def batch(self, indices: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [-1, 1] and labels (B,) int64."""
        return self.images(indices, rng), sent(self.labels[indices], self.device)
