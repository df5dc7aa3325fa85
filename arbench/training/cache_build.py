"""A token cache being made: its shards dealt over the processes, its images read ahead.

What complete caches beside it hold of the same images is taken from them (`reuse`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from arbench.images.pixels import to_float
from arbench.machine.distributed import Processes, gathered, meet, tell_all
from arbench.machine.files import file_sha256, remove_partials, whole_file, write_whole
from arbench.tokenizer.load import encode_images, posterior, unscaled
from arbench.training.cache import (
    LABELS_NAME,
    SPEC_NAME,
    CacheSpec,
    TokenCache,
    is_stored,
    shard_name,
    sum_line,
    with_sum,
)
from arbench.training.identity import content_of, data_hash, tokenizer_fields, view_fields
from arbench.training.reading import AtSides, image_generator, read_batches
from arbench.training.reuse import ABSENT, Known
from arbench.training.views import crop_sides, views_of

if TYPE_CHECKING:
    from arbench.generators.recipe import Augmentation
    from arbench.images.data import ImageData
    from arbench.protocols import Tokenizer

IMAGES_PER_SHARD = 4096  # at most
MANY_SHARDS = 64  # a small data set is cut into about so many, so that processes get equal shares
SMALLEST_SHARD = 64
ABANDONED = 3600.0  # seconds without a byte, after which a half-written file is nobody's: runs share these folders


def describe_cache(
    tokenizer: Tokenizer,
    data: ImageData,
    *,
    views: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    view_set: str = "random",
) -> CacheSpec:
    """The cache that `build_cache` would write, known after encoding one image: name, layout and size."""
    tokens = _encode(tokenizer, to_float(data.images(np.arange(1))).to(device))
    return CacheSpec(
        data=data_hash(data),
        num_images=len(data),
        dtype=tokens.dtype.name,
        shape=tokens.shape[1:],
        images_per_shard=shard_size(len(data)),
        **tokenizer_fields(tokenizer),
        **view_fields(views=views, augmentation=augmentation, seed=seed, view_set=view_set),
    )


def require_agreement(spec: CacheSpec, mine: Processes) -> None:
    """Raise ValueError on all processes where they would make different tokens."""
    names = sorted(set(gathered(spec.folder_name, mine)))
    if len(names) > 1:
        raise ValueError(
            f"processes make different tokens ({', '.join(names)}); expected the same images and weights on all of "
            "them, and random weights differ"
        )


def shard_size(images: int) -> int:
    """Images of a shard: a function of their number alone, so that any number of processes writes the same files."""
    return min(IMAGES_PER_SHARD, max(SMALLEST_SHARD, -(-images // MANY_SHARDS)))


def build_cache(
    tokenizer: Tokenizer,
    data: ImageData,
    spec: CacheSpec,
    folder: Path,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    watch: Callable[[int], None] | None = None,
    workers: int = 0,
    mine: Processes | None = None,
    known: Known | None = None,
) -> TokenCache:
    """Encode `data` into `folder / spec.folder_name`, or go on where an earlier call stopped.

    `watch` is called with the number of images done, after every batch; `workers` processes read images ahead, each
    once. Several processes deal the shards among themselves, and wait for each other at torchrun's store. What is
    written is the same for any number of processes and workers; what is `known` is neither read nor encoded. Raises
    ValueError for an image that cannot be read, for tokens that are not what the tokenizer says of itself, for a cache
    of other tokens in that place and for a damaged one that is known, OSError where nothing can be written.
    """
    mine = mine or Processes()
    target = folder / spec.folder_name
    left = tell_all(mine, lambda: _begin(target, spec))
    if left is not None:
        shards = left[mine.rank :: mine.count]
        _build_shards(tokenizer, data, spec, target, shards, batch_size, device, watch, workers, known)
        meet(mine)
        tell_all(mine, lambda: _finish(target, data, spec))
    opened = TokenCache(target)
    if opened.spec.folder_name != target.name:
        raise ValueError(
            f"{target}: holds the tokens of {opened.spec.folder_name}; expected a folder of that name, or none here"
        )
    return opened


def _begin(target: Path, spec: CacheSpec) -> list[int] | None:
    """The shards that are not there yet, None where the cache is complete; its folder is made, or cleared of what was
    left half-written."""
    if (target / SPEC_NAME).exists():
        return None
    target.mkdir(parents=True, exist_ok=True)
    remove_partials(target, idle=ABANDONED)
    return [number for number in range(spec.num_shards) if not is_stored(target / shard_name(number))]


def _finish(target: Path, data: ImageData, spec: CacheSpec) -> None:
    _save_array(target / LABELS_NAME, np.asarray(data.labels, dtype=np.int64))
    write_whole(target / SPEC_NAME, json.dumps(asdict(spec), indent=1))


@torch.no_grad()
def _encode(tokenizer: Tokenizer, images: Tensor) -> np.ndarray:
    """Images (B, 3, H, W) to stored tokens: ids (B, h, w), (mean, deviation) (B, 2C, h, w) or latents (B, C, h, w)."""
    content = content_of(tokenizer)
    if content == "codes":
        small = tokenizer.vocab_size is not None and tokenizer.vocab_size <= 2**16
        codes = encode_images(tokenizer, images).cpu().numpy()
        _check_codes(tokenizer, codes)
        return codes.astype(np.uint16 if small else np.uint32)
    if content == "moments":
        return torch.cat(posterior(tokenizer, images), dim=1).cpu().numpy().astype(np.float16)
    return unscaled(tokenizer, encode_images(tokenizer, images)).cpu().numpy().astype(np.float16)


def _check_codes(tokenizer: Tokenizer, codes: np.ndarray) -> None:
    """Raise ValueError for a code that the codebook does not have; a generator would look it up in vain."""
    size = tokenizer.vocab_size
    if size is not None and codes.size and not 0 <= codes.min() <= codes.max() < size:
        wrong = codes.min() if codes.min() < 0 else codes.max()
        raise ValueError(f"tokenizer {tokenizer.name!r}: encode returned code {wrong}; expected codes 0 to {size - 1}")


def _build_shards(
    tokenizer: Tokenizer,
    data: ImageData,
    spec: CacheSpec,
    target: Path,
    shards: Sequence[int],
    batch_size: int,
    device: torch.device | str,
    watch: Callable[[int], None] | None,
    workers: int,
    known: Known | None,
) -> None:
    """Encode and write `shards`, one after another; what is read ahead goes on from one to the next."""
    watch = watch or (lambda done: None)
    left = {shard: _left_of(spec.indices_of(shard), spec, known, batch_size) for shard in shards}
    sides = crop_sides(spec.view_set, data[0][0].shape[0]) if spec.view_set == "ten-crop" else []
    coming = ((part, torch.zeros_like(part)) for parts in left.values() for part, _ in parts)
    read = read_batches(data, AtSides((None, *sides)), coming, workers=workers, device=device)
    with contextlib.closing(read):
        for shard in shards:
            indices = spec.indices_of(shard)
            stored = np.empty((len(indices), spec.views, *spec.shape), dtype=spec.dtype)
            if known is not None:
                known.fill(stored, indices)
            done = int(indices[-1]) + 1 - sum(len(part) for part, _ in left[shard])
            for part, first in left[shard]:
                pictures = [to_float(picture.to(device, non_blocking=True)) for picture in next(read)]
                for number, view in enumerate(_views(pictures, spec, part.tolist())):
                    if number >= first:
                        stored[part - indices[0], number] = _encode(tokenizer, view)
                done += len(part)
                watch(done)
            if not is_stored(target / shard_name(shard)):  # else by another run, meanwhile
                _save_array(target / shard_name(shard), stored)
            watch(int(indices[-1]) + 1)


def _left_of(indices: Tensor, spec: CacheSpec, known: Known | None, batch_size: int) -> list[tuple[Tensor, int]]:
    """The batches of a shard that are to be encoded, each with the number of its first view that is."""
    if known is None:
        return [(part, 0) for part in indices.split(batch_size)]
    held = torch.from_numpy(known.rows[indices.numpy()] != ABSENT)
    groups = [(indices[~held], 0), (indices[held], known.views)]
    unfinished = [(group, first) for group, first in groups if len(group) and first < spec.views]
    return [(part, first) for group, first in unfinished for part in group.split(batch_size)]


def _views(pictures: Sequence[Tensor], spec: CacheSpec, indices: Sequence[int]) -> Iterator[Tensor]:
    """The views of a batch; random ones are functions of (seed, number of the view, image)."""
    return views_of(
        pictures[0],
        pictures[1:],
        spec.view_set,
        spec.views,
        spec.augmentation,
        lambda view: [image_generator(spec.seed, view, index) for index in indices],
    )


def _save_array(path: Path, values: np.ndarray) -> None:
    """Write an array, then its SHA-256; without that it counts as not there."""
    file, told = with_sum(path)
    told.unlink(missing_ok=True)
    with whole_file(file) as partial, partial.open("wb") as stream:
        np.save(stream, values)
    write_whole(told, sum_line(file, file_sha256(file)))
