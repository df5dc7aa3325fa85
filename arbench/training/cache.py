"""Token cache: what a frozen tokenizer makes of a data set, computed once and read by index.

Codes are stored as uint16 (uint32 for codebooks above 65,536), posterior moments and latents as float16: for
ImageNet at 256 px KL-16 that is 16 KiB an image and view. The folder's name holds the hash of all that decides its
content, so two settings never share one; every shard is written whole or not at all, and a half-built cache goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from arbench.generators.recipe import Augmentation
from arbench.machine.files import file_sha256, one_line
from arbench.machine.randomness import on_host
from arbench.machine.transfer import sent
from arbench.tokenizer.load import scaled
from arbench.training.identity import path_hash

if TYPE_CHECKING:
    from arbench.images.data import ImageData
    from arbench.training.reading import Examples

EARLIER_SHARD = 4096  # of caches from before that was told
SPEC_NAME = "cache.json"  # written last: its presence says that the cache is complete
LABELS_NAME = "labels.npy"


@dataclass(frozen=True, kw_only=True)
class CacheSpec:
    """All that decides the content of a cache."""

    tokenizer: str
    tokenizer_hash: str
    data: str
    num_images: int
    views: int
    augmentation: Augmentation
    seed: int
    content: str  # codes, moments or latents
    dtype: str
    shape: tuple[int, ...]  # of one view of one image
    scale: float | list[float]  # factor on latents, one for all or one a channel; 1 for codes
    shift: float | list[float] = 0.0  # taken from latents before that
    view_set: str = "random"
    images_per_shard: int = EARLIER_SHARD
    drawn: str = ""  # how random views are drawn; empty where nothing is random

    @property
    def folder_name(self) -> str:
        """Tokenizer name and the first twelve digits of the SHA-256 of every field."""
        told = asdict(self)
        if not self.shift:  # caches from before there was one keep their names
            del told["shift"]
        if self.view_set == "random":
            del told["view_set"]
        if self.images_per_shard == EARLIER_SHARD:
            del told["images_per_shard"]
        if not self.drawn:
            del told["drawn"]
        text = json.dumps(told, sort_keys=True)
        return f"{self.tokenizer.replace(':', '-').replace('/', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def num_shards(self) -> int:
        return -(-self.num_images // self.images_per_shard)

    def indices_of(self, shard: int) -> Tensor:
        """(n,) int64 images of a shard, in order."""
        start = shard * self.images_per_shard
        return torch.arange(start, min(start + self.images_per_shard, self.num_images))

    @property
    def num_bytes(self) -> int:
        """Size on disk, headers and labels aside."""
        per_view = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        return self.num_images * self.views * per_view


def stored_spec(spec: CacheSpec, data: ImageData, folder: Path) -> CacheSpec:
    """`spec`, or, where `folder` holds that complete cache alone, the one of an earlier version, named by the path."""
    if is_complete(folder, spec) or not any(folder.glob(f"*/{SPEC_NAME}")):
        return spec  # and no image is read again
    earlier = replace(spec, data=path_hash(data))
    return earlier if is_complete(folder, earlier) else spec


def is_complete(folder: Path, spec: CacheSpec) -> bool:
    return (folder / spec.folder_name / SPEC_NAME).is_file()


@dataclass
class TokenCache:
    """A complete cache, read by index; shards are memory-mapped.

    Raises ValueError where `folder` holds no complete cache.
    """

    folder: Path
    spec: CacheSpec = field(init=False)
    labels: Tensor = field(init=False)

    def __post_init__(self) -> None:
        path = self.folder / SPEC_NAME
        if not path.is_file():
            raise ValueError(f"{self.folder}: no complete token cache; expected {SPEC_NAME}, made by `arbench cache`")
        try:
            self._open(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError, EOFError, OSError) as error:
            raise broken(self.folder, error) from error

    def _open(self, values: dict[str, Any]) -> None:
        """Take what cache.json holds, and open labels and shards. Raises one of many errors where they are damaged."""
        self.spec = spec = _spec_of(values)
        if spec.images_per_shard < 1:
            raise ValueError(f"images_per_shard is {spec.images_per_shard}")
        require_intact(self.folder / LABELS_NAME)
        self._unread = set(range(spec.num_shards))
        labels, shards = np.load(self.folder / LABELS_NAME), range(spec.num_shards)
        self._shards = [np.load(self.folder / shard_name(shard), mmap_mode="r") for shard in shards]
        sizes = {(part.dtype.name, part.shape[1:]) for part in self._shards}
        if labels.dtype != np.int64 or labels.shape != (spec.num_images,):
            raise ValueError(f"{LABELS_NAME} holds {labels.dtype} of shape {labels.shape}")
        if sizes != {(spec.dtype, (spec.views, *spec.shape))} or sum(map(len, self._shards)) != spec.num_images:
            raise ValueError(f"its tokens are not {spec.num_images} of shape {spec.shape}")
        self.labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return self.spec.num_images

    def read_ahead(self, coming: Iterator[Examples]) -> None:
        """Nothing to do: what is read is mapped into memory."""

    def tokens(self, indices: Tensor, rng: torch.Generator) -> Tensor:
        """Tokens of images `indices` (B,), each in a view drawn at random: ids (B, h, w) int64 or scaled latents.

        Moments become one posterior sample a call, as MAR trains on them.
        """
        views = torch.randint(self.spec.views, (len(indices),), generator=on_host(rng))
        stored = self.stored(indices.tolist(), views.tolist())
        if self.spec.content == "codes":
            return sent(torch.from_numpy(stored.astype(np.int64)), rng.device)
        values = sent(torch.from_numpy(stored.astype(np.float32)), rng.device)
        if self.spec.content == "moments":
            mean, deviation = values.chunk(2, dim=1)  # (B, 2C, h, w) -> 2 × (B, C, h, w)
            values = mean + deviation * torch.randn(mean.shape, generator=rng, device=rng.device)
        return scaled(self.spec, values)

    def stored(self, indices: Sequence[int], views: Sequence[int | slice]) -> np.ndarray:
        """What is stored of these images (B, *shape), of each the view that `views` names, or the views.

        Raises ValueError where a shard is not what was written.
        """
        size = self.spec.images_per_shard
        for shard in self._unread.intersection(index // size for index in indices):  # once in a process
            try:
                require_intact(self.folder / shard_name(shard))
            except (ValueError, OSError) as error:
                raise broken(self.folder, error) from error
            self._unread.discard(shard)
        rows = zip(indices, views, strict=True)
        return np.stack([self._shards[index // size][index % size, view] for index, view in rows])


def complete_caches(folder: Path) -> dict[Path, CacheSpec]:
    """What the complete caches in `folder` say of themselves; those that are damaged are left out."""
    found = {}
    for path in sorted(folder.glob(f"*/{SPEC_NAME}")):
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, OSError):
            found[path.parent] = _spec_of(json.loads(path.read_text(encoding="utf-8")))
    return found


def _spec_of(values: dict[str, Any]) -> CacheSpec:
    """What cache.json holds. Raises one of many errors where that is damaged."""
    plain = {**values, "augmentation": Augmentation(**values["augmentation"]), "shape": tuple(values["shape"])}
    return CacheSpec(**plain)


def broken(folder: Path, error: Exception) -> ValueError:
    """What is said of a cache that cannot be used."""
    return ValueError(f"{folder}: broken token cache ({one_line(error)}); remove the folder, and it is made anew")


def with_sum(path: Path) -> tuple[Path, Path]:
    """A file of a cache, and that of its SHA-256, as `sha256sum -c` reads it."""
    return path, path.with_name(f"{path.name}.sha256")


def is_stored(path: Path) -> bool:
    return all(part.exists() for part in with_sum(path))


def require_intact(path: Path) -> None:
    """Raise ValueError where a file is not the one that was written; caches of earlier versions have no sums."""
    file, told = with_sum(path)
    if told.exists() and told.read_text(encoding="utf-8", errors="replace") != sum_line(file, file_sha256(file)):
        raise ValueError(f"{file.name} is not what was written")


def sum_line(path: Path, digest: str) -> str:
    return f"{digest}  {path.name}\n"


def shard_name(shard: int) -> str:
    return f"tokens-{shard:05d}.npy"
