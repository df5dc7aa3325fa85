"""What a new token cache takes from complete ones beside it: images that were encoded before, and views of them.

A cache of more random views begins with those of a smaller one, and one of a data set that has grown holds the images
that were there before. A file is known again by its name and bytes, wherever it stands among the others: beside its
tokens a cache keeps a key an image.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from arbench.machine.files import whole_file
from arbench.training.cache import CacheSpec, TokenCache, complete_caches

if TYPE_CHECKING:
    from torch import Tensor

    from arbench.images.data import ImageData

KEYS_NAME = "image_keys.npy"
ABSENT = -1


@dataclass(frozen=True)
class Known:
    """Tokens that `cache` holds of the images of another one.

    `rows` (N,) int64 is where each of these stands in it, `ABSENT` for none; `views` are the first ones of each.
    """

    cache: TokenCache
    rows: np.ndarray
    views: int

    @property
    def num_views(self) -> int:
        """Views of all images together."""
        return int((self.rows != ABSENT).sum()) * self.views

    def fill(self, stored: np.ndarray, indices: Tensor) -> None:
        """Write what is known of images `indices` into `stored` (n, views, *shape). Raises ValueError where the cache
        is damaged."""
        rows = self.rows[indices]
        here = np.flatnonzero(rows != ABSENT)
        if len(here):
            views = [slice(self.views)] * len(here)
            stored[here, : self.views] = self.cache.stored(rows[here].tolist(), views)


def find_known(spec: CacheSpec, data: ImageData, folder: Path) -> Known | None:
    """The most that a complete cache in `folder` holds of what `spec` describes; None where that is nothing."""
    found = []
    for path, other in complete_caches(folder).items():
        same = replace(other, data=spec.data, num_images=spec.num_images, views=spec.views)
        if replace(same, images_per_shard=spec.images_per_shard) != spec:
            continue
        rows = _rows(spec, data, path, other)
        if spec.drawn:  # views are functions of an image's number
            rows = np.where(rows == np.arange(len(rows)), rows, ABSENT)
        with contextlib.suppress(ValueError):  # a damaged one
            found.append(Known(TokenCache(path), rows, min(spec.views, other.views)))
    best = max(found, key=lambda known: known.num_views, default=None)
    return best if best is not None and best.num_views else None


def note_keys(folder: Path, data: ImageData) -> None:
    """Write beside a cache which files its images are, where they are files and it can be written to."""
    path = folder / KEYS_NAME
    if data.keys is None or path.exists():
        return
    with contextlib.suppress(OSError), whole_file(path) as partial, partial.open("wb") as stream:
        np.save(stream, data.keys())


def _rows(spec: CacheSpec, data: ImageData, path: Path, other: CacheSpec) -> np.ndarray:
    """Where each image of `data` stands in the cache `other` at `path`."""
    if other.data == spec.data:
        return np.arange(spec.num_images)
    theirs = _keys(path, other.num_images)
    if data.keys is None or theirs is None:
        return np.full(spec.num_images, ABSENT)
    keys, first, counts = np.unique(theirs, return_index=True, return_counts=True)
    mine = data.keys()
    place = np.searchsorted(keys, mine).clip(max=len(keys) - 1)
    told = (keys[place] == mine) & (counts[place] == 1)  # two files of one name and size are not told apart
    return np.where(told, first[place], ABSENT)


def _keys(path: Path, count: int) -> np.ndarray | None:
    """The keys of a cache; None where it has none, as one of an earlier version, or other ones."""
    try:
        keys = np.load(path / KEYS_NAME)
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(keys, np.ndarray) and keys.dtype == np.uint64 and keys.shape == (count,)
    return keys if whole else None
