"""What tells tokens from others: tokenizer and weights, views, and the images, wherever they lie."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from arbench.generators.recipe import Augmentation
from arbench.tokenizer.load import shift_and_scale
from arbench.training.views import count_views
from arbench.weights.provenance import SHOWN_DIGITS

if TYPE_CHECKING:
    from arbench.images.data import ImageData
    from arbench.protocols import Tokenizer
    from arbench.weights.provenance import TokenizerFacts

DRAWN_AN_IMAGE = "image"  # random views are a function of (seed, view, image); before, of (seed, shard)


def weights_hash(tokenizer: Tokenizer) -> str:
    """SHA-256 of a tokenizer's class name and of its tensors by name; of its source where it has none."""
    kind = type(tokenizer)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}".encode())
    state = tokenizer.state_dict() if isinstance(tokenizer, nn.Module) else {}
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    if not state:
        with contextlib.suppress(OSError, TypeError):  # no source: a class made on the fly
            digest.update(inspect.getsource(kind).encode())
    return digest.hexdigest()


def data_hash(data: ImageData) -> str:
    """Count and SHA-256 of what tells the images from others, of labels and of the first and last image.

    These two say how images are cropped. What is told of files is names and bytes, never where they lie; data that are
    no files, as the digits, go by their name (`path_hash`).
    """
    if data.digest is None:
        return path_hash(data)
    digest = _seen(data)
    digest.update(data.digest().encode())
    return f"images-{len(data)}-{digest.hexdigest()[:16]}"


def path_hash(data: ImageData) -> str:
    """The same with the name in the place of the files, for which earlier versions took the path as it was spelled."""
    return f"{data.name}-{len(data)}-{_seen(data).hexdigest()[:16]}"


def _seen(data: ImageData) -> hashlib._Hash:
    """Of the labels and the first and last image."""
    digest = hashlib.sha256(np.ascontiguousarray(data.labels).tobytes())
    for index in (0, len(data) - 1):
        digest.update(data[index][0].tobytes())
    return digest


def tokenizer_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """The fields of a `CacheSpec` that a tokenizer decides, whatever the images."""
    discrete = tokenizer.kind == "discrete"
    shift, scale = (0.0, 1.0) if discrete else (_stored(value) for value in shift_and_scale(tokenizer))
    told = {"tokenizer": tokenizer.name, "tokenizer_hash": weights_hash(tokenizer), "content": content_of(tokenizer)}
    return {**told, "scale": scale, "shift": shift}


def view_fields(*, views: int, augmentation: Augmentation | None, seed: int, view_set: str) -> dict[str, Any]:
    """Those that say which views it holds; nothing is drawn where they are not random."""
    drawn = {"augmentation": Augmentation(), "seed": 0, "drawn": ""}
    if view_set == "random":
        how = DRAWN_AN_IMAGE if augmentation else ""
        drawn = {"augmentation": augmentation or Augmentation(), "seed": seed, "drawn": how}
    return {"views": count_views(view_set, views), "view_set": view_set, **drawn}


def content_of(tokenizer: Tokenizer) -> str:
    """What is stored of a tokenizer's tokens: codes, moments or latents."""
    if tokenizer.kind == "discrete":
        return "codes"
    return "moments" if hasattr(tokenizer, "moments") else "latents"


def _stored(value: float | Tensor) -> float | list[float]:
    """A number, or numbers a channel, as JSON holds them."""
    return value.flatten().tolist() if isinstance(value, Tensor) else value


def trained_on(data: ImageData, tokenizer: TokenizerFacts | None) -> dict[str, str]:
    """What the checkpoints of a training have to agree on of its images and its tokenizer's weights, as far as known.

    Of images their number, labels, and files' names and bytes; not their pixels, which depend on who decodes them.
    """
    told = {}
    if data.digest is not None:
        digest = hashlib.sha256(np.ascontiguousarray(data.labels).tobytes())
        digest.update(data.digest().encode())
        told["data"] = f"{len(data)} images of {data.num_classes} classes, SHA-256 {digest.hexdigest()[:SHOWN_DIGITS]}"
    if tokenizer is not None:
        told["tokenizer_weights"] = f"SHA-256 {tokenizer.content[:SHOWN_DIGITS]}"
    return told
