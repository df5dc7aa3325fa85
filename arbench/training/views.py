"""The views of an image that a cache holds: random ones, the image and its mirror, or ten crops at two scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from arbench.generators.recipe import Augmentation
from arbench.training.augment import Randomness, augment

TEN_CROP_SCALES = (1.1, 1.05)  # of the side, before it is cut to size (LlamaGen release)
CROPS = 10  # four corners and the centre, and the mirror of each


def crop_sides(view_set: str, side: int) -> list[int]:
    """Sides in pixels at which images are read before crops of `side` are cut out of them."""
    return [math.floor(scale * side) for scale in TEN_CROP_SCALES] if view_set == "ten-crop" else []


def count_views(view_set: str, views: int) -> int:
    """How many there are of an image; `views` says it where they are random."""
    return {"random": views, "mirror": 2, "ten-crop": CROPS * len(TEN_CROP_SCALES)}[view_set]


def views_of(
    images: Tensor,
    larger: Sequence[Tensor],
    view_set: str,
    views: int,
    augmentation: Augmentation,
    rng: Callable[[int], Randomness],
) -> Iterator[Tensor]:
    """The views of images (B, 3, H, W) in [-1, 1], each of that shape; `larger` are these at `crop_sides`, `rng(k)`
    the random numbers of view k."""
    if view_set == "ten-crop":
        for wide in larger:
            yield from transforms.ten_crop(wide, list(images.shape[-2:]))
    elif view_set == "mirror":
        yield from (images, images.flip(-1))
    else:
        yield from (augment(images, augmentation, rng(number)) for number in range(views))
