"""Training whose images are not there any more, on the token cache that was made of them.

Beside its tokens and labels a cache keeps, in images.json, where its images lay, what tells them from others
(`ImageData.digest`), their classes and their side.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arbench.images.data import ImageData, whereabouts
from arbench.machine.files import write_whole
from arbench.training.cache import CacheSpec, TokenCache, complete_caches
from arbench.training.identity import tokenizer_fields, trained_on, view_fields

if TYPE_CHECKING:
    from arbench.protocols import Tokenizer

NOTE_NAME = "images.json"


class AbsentImages(ImageData):
    """Images of which the token cache alone is there: labels, classes and side are known, and none can be read."""

    def __init__(self, name: str, cache: TokenCache, class_names: Sequence[str], side: int, digest: str | None) -> None:
        told = None if digest is None else lambda: digest
        super().__init__(name, cache.labels.numpy(), class_names, self._refuse, digest=told)
        self.cache, self._side = cache, side

    @property
    def side(self) -> int:
        return self._side

    def _refuse(self, index: int) -> np.ndarray:
        raise ValueError(f"{self.name}: image {index} is not there; expected the images that {self.cache.folder} is of")


def note_images(folder: Path, data: ImageData) -> None:
    """Write beside a cache where its images lie, their classes and side; a further place is added.

    Nothing is written for data that are always there, as the digits, or where the cache cannot be written to.
    """
    if data.digest is None:
        return
    known = _note(folder).get("places", [])
    if whereabouts(data.name) in known:
        return
    told = {"places": [*known, whereabouts(data.name)], "class_names": data.class_names, "side": data.side}
    told["digest"] = data.digest()
    with contextlib.suppress(OSError):  # others' caches may be read alone
        write_whole(folder / NOTE_NAME, json.dumps(told, indent=1))


def _note(folder: Path) -> dict[str, Any]:
    """What images.json holds; empty where it is not there, as in caches of earlier versions, or is damaged."""
    try:
        told = json.loads((folder / NOTE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    kinds = {"places": list, "class_names": list, "side": int, "digest": str}
    whole = isinstance(told, dict) and all(isinstance(told.get(name), kind) for name, kind in kinds.items())
    return told if whole else {}


def find_absent(
    source: str, folder: Path, tokenizer: Tokenizer, *, size: int | None, seen: dict[str, Any], of: str | None = None
) -> AbsentImages:
    """What is known of the images of `source`, of `size` pixels, by the one cache in `folder` that a tokenizer made of
    them; `seen` are the arguments of `view_fields`, `of` which images a training was begun on (`trained_on`).

    Raises ValueError where no cache fits, or several do, and for a broken one.
    """
    wanted = {**tokenizer_fields(tokenizer), **view_fields(**seen)}
    caches = complete_caches(folder)
    found = [
        path
        for path, spec in caches.items()
        if all(getattr(spec, name) == value for name, value in wanted.items())
        and size in (None, _side(spec, tokenizer))
        and _is_of(source, path, spec)
    ]
    if len(found) > 1 and of is not None:  # the place held fewer images, or others, at another time
        found = [path for path in found if trained_on(_absent(source, path, tokenizer), None).get("data") == of]
    if len(found) != 1:
        many = f"{len(found)} of the {len(caches)}" if found else f"none of the {len(caches)}"
        views = f"{wanted['views']} views ({wanted['view_set']})"
        raise ValueError(
            f"{source}: no images there, and {many} token caches in {folder} fit ({tokenizer.name}, {views}, {size} "
            "px, of images in that place); expected the images, or --cache with the folder that holds their one cache"
        )
    return _absent(source, found[0], tokenizer)


def _absent(source: str, path: Path, tokenizer: Tokenizer) -> AbsentImages:
    cache, note = TokenCache(path), _note(path)
    classes = note.get("class_names") or [str(number) for number in range(int(cache.labels.max()) + 1)]
    return AbsentImages(source, cache, classes, _side(cache.spec, tokenizer), note.get("digest"))


def _side(spec: CacheSpec, tokenizer: Tokenizer) -> int:
    """Pixels of a side of the images of a cache."""
    return spec.shape[-1] * tokenizer.downsample


def _is_of(source: str, path: Path, spec: CacheSpec) -> bool:
    """Whether a cache was made of images there; caches of earlier versions are named by the place as it was spelled."""
    return whereabouts(source) in _note(path).get("places", []) or spec.data.startswith(f"{source}-{spec.num_images}-")
