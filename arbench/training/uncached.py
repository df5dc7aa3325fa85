"""Tokens of images that are encoded in the step that trains on them, each epoch in another view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from arbench.images.pixels import to_float
from arbench.machine.distributed import processes
from arbench.tokenizer.load import encode_images, posterior, scaled
from arbench.training.augment import augment
from arbench.training.cache import CacheSpec
from arbench.training.cache_build import require_agreement
from arbench.training.reading import Examples, Feed, image_generator
from arbench.training.views import CROPS, crop_sides

if TYPE_CHECKING:
    from arbench.images.data import ImageData
    from arbench.protocols import Tokenizer


@dataclass(frozen=True)
class ViewAtRandom:
    """One of the views that a cache of `view_set` would hold of an image of `side` pixels, drawn anew each epoch.

    Of a "random" set the image as it is, whose views are drawn where the images are, all of a batch together.
    """

    view_set: str
    side: int
    seed: int

    def __call__(self, data: ImageData, index: int, epoch: int) -> list[np.ndarray]:
        if self.view_set == "random":
            return data.sized(index)
        sides: list[int | None] = [*crop_sides(self.view_set, self.side)] or [None]
        rng = image_generator(self.seed, epoch, index)
        chosen = sides[int(torch.randint(len(sides), (), generator=rng))]
        picture = torch.tensor(data.sized(index, [chosen])[0]).permute(2, 0, 1)
        views = (picture, picture.flip(-1))
        if self.view_set == "ten-crop":
            views = transforms.ten_crop(picture, [self.side, self.side])
            assert len(views) == CROPS
        view = views[int(torch.randint(len(views), (), generator=rng))]
        return [view.permute(1, 2, 0).numpy()]  # (3, H, W) -> (H, W, 3)


class FreshTokens:
    """What a frozen tokenizer makes of images as they are asked for, in the place of a `TokenCache`.

    `spec` says what a cache of them would hold. A view is a function of (seed, epoch, image), and a posterior's sample
    is drawn from the step's random numbers, so a resumed training sees what the undisturbed one would have. Raises
    ValueError where the processes would not all make the same tokens.
    """

    def __init__(
        self, tokenizer: Tokenizer, data: ImageData, spec: CacheSpec, *, seed: int, workers: int, device: torch.device
    ) -> None:
        require_agreement(spec, processes())
        self.spec = spec
        self.labels = torch.from_numpy(np.asarray(data.labels, dtype=np.int64))
        self._tokenizer, self._seed = tokenizer, seed
        view = ViewAtRandom(spec.view_set, data[0][0].shape[0], seed)
        self._feed = Feed(data, view, workers=workers, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def read_ahead(self, coming: Iterator[Examples]) -> None:
        """As `ReadsAhead` has it."""
        self._feed.read_ahead(coming)

    def tokens(self, indices: Tensor, rng: torch.Generator) -> Tensor:
        """Tokens of images `indices` (B,), as `TokenCache.tokens` has them; encoded in float32 whatever is around."""
        (pixels,), epochs = self._feed.take(indices)
        images = to_float(pixels)
        if self.spec.view_set == "random":
            seen = zip(epochs.tolist(), indices.tolist(), strict=True)
            images = augment(images, self.spec.augmentation, [image_generator(self._seed, *one) for one in seen])
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            if self.spec.content != "moments":
                return encode_images(self._tokenizer, images)
            mean, deviation = posterior(self._tokenizer, images)
            noise = torch.randn(mean.shape, generator=rng, device=rng.device)
            return scaled(self.spec, mean + deviation * noise)
