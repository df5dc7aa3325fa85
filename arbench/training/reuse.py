"""What a new token cache takes from complete ones beside it: images that were encoded before, and views of them.

A cache of more random views begins with those of a smaller one, and one of a data set that has grown holds the images
that were there before. A file is known again by its name, its bytes and when it was changed, wherever it stands among
the others: beside its tokens a cache keeps a key an image.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from arbench.machine.files import whole_file
from arbench.training.cache import CacheSpec, TokenCache, complete_caches
from arbench.training.identity import path_hash

if TYPE_CHECKING:
    from torch import Tensor

    from arbench.images.data import ImageData

KEYS_NAME = "image_keys.npy"
ABSENT = -1
AT_ONCE = 256  # images that are copied together


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
        return total_views(self.rows, self.views)

    def fill(self, stored: np.ndarray, indices: Tensor) -> None:
        """Write what is known of images `indices` into `stored` (n, views, *shape). Raises ValueError where the cache
        is damaged."""
        rows = self.rows[indices.numpy()]
        here = np.flatnonzero(rows != ABSENT)
        for start in range(0, len(here), AT_ONCE):
            part = here[start : start + AT_ONCE]
            stored[part, : self.views] = self.cache.stored(rows[part].tolist(), [slice(self.views)] * len(part))


def total_views(rows: np.ndarray, views: int) -> int:
    return int((rows != ABSENT).sum()) * views


def find_known(spec: CacheSpec, data: ImageData, folder: Path) -> Known | None:
    """The most that a complete cache in `folder` holds of what `spec` describes; None where that is nothing."""
    others = {path: other for path, other in complete_caches(folder).items() if are_alike(spec, other)}
    if not others:
        return None
    whole = np.arange(spec.num_images)
    names = {spec.data, path_hash(data)}
    keys = None if data.keys is None or all(other.data in names for other in others.values()) else data.keys()
    found = []
    for path, other in others.items():
        rows = whole if other.data in names else _rows(keys, _keys(path, other.num_images), spec.num_images)
        if spec.drawn:  # views are functions of an image's number
            rows = np.where(rows == whole, rows, ABSENT)
        found.append((total_views(rows, min(spec.views, other.views)), path, rows, min(spec.views, other.views)))
    for count, path, rows, views in sorted(found, key=lambda one: one[0], reverse=True):
        with contextlib.suppress(ValueError):  # a damaged one
            return Known(TokenCache(path), rows, views) if count else None
    return None


def are_alike(spec: CacheSpec, other: CacheSpec) -> bool:
    """Whether two caches hold the same of an image, but for how many of its views."""
    same = replace(other, data=spec.data, num_images=spec.num_images, views=spec.views)
    return replace(same, images_per_shard=spec.images_per_shard) == spec


def note_keys(folder: Path, data: ImageData) -> None:
    """Write beside a cache which files its images are, where they are files and it can be written to."""
    path = folder / KEYS_NAME
    if data.keys is None or path.exists():
        return
    with contextlib.suppress(OSError), whole_file(path) as partial, partial.open("wb") as stream:
        np.save(stream, data.keys())


def _rows(mine: np.ndarray | None, theirs: np.ndarray | None, count: int) -> np.ndarray:
    """Where each of `count` images with keys `mine` stands among `theirs`, `ABSENT` for those that do not.

    The first and the last image are read in any case, to tell data sets apart, and are never taken; nor is what goes by
    the same key as another, on either side.
    """
    if mine is None or theirs is None:
        return np.full(count, ABSENT)
    keys, first, counts = np.unique(theirs, return_index=True, return_counts=True)
    _, back, own = np.unique(mine, return_inverse=True, return_counts=True)
    place = np.searchsorted(keys, mine).clip(max=len(keys) - 1)
    told = (keys[place] == mine) & (counts[place] == 1) & (own[back] == 1)
    told[[0, -1]] = False
    return np.where(told, first[place], ABSENT)


def _keys(path: Path, count: int) -> np.ndarray | None:
    """The keys of a cache; None where it has none, as one of an earlier version, or other ones."""
    try:
        keys = np.load(path / KEYS_NAME)
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(keys, np.ndarray) and keys.dtype == np.uint64 and keys.shape == (count,)
    return keys if whole else None
