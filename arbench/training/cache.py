"""Token cache: what a frozen tokenizer makes of a data set, computed once and read by index.

Codes are stored as uint16 (uint32 for codebooks above 65,536), posterior moments and latents as float16: for
ImageNet at 256 px KL-16 that is 16 KiB an image and view. The folder's name holds the hash of all that decides its
content, so two settings never share one; every shard is written whole or not at all, and a half-built cache goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from arbench.generators.recipe import Augmentation
from arbench.images.pixels import to_float
from arbench.machine.distributed import Processes, gathered, meet, tell_all
from arbench.machine.files import file_sha256, one_line, remove_partials, whole_file, write_whole
from arbench.machine.randomness import on_host
from arbench.machine.transfer import sent
from arbench.tokenizer.load import encode_images, posterior, scaled, unscaled
from arbench.training.identity import content_of, data_hash, path_hash, tokenizer_fields, view_fields
from arbench.training.reading import AtSides, Examples, image_generator, read_batches
from arbench.training.views import crop_sides, views_of

if TYPE_CHECKING:
    from arbench.images.data import ImageData
    from arbench.protocols import Tokenizer

IMAGES_PER_SHARD = 4096  # at most
EARLIER_SHARD = 4096  # of caches from before that was told
MANY_SHARDS = 64  # a small data set is cut into about so many, so that processes get equal shares
SMALLEST_SHARD = 64
ABANDONED = 3600.0  # seconds without a byte, after which a half-written file is nobody's: runs share these folders
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


def stored_spec(spec: CacheSpec, data: ImageData, folder: Path) -> CacheSpec:
    """`spec`, or, where `folder` holds that complete cache alone, the one of an earlier version, named by the path."""
    if is_complete(folder, spec) or not any(folder.glob(f"*/{SPEC_NAME}")):
        return spec  # and no image is read again
    earlier = replace(spec, data=path_hash(data))
    return earlier if is_complete(folder, earlier) else spec


def is_complete(folder: Path, spec: CacheSpec) -> bool:
    return (folder / spec.folder_name / SPEC_NAME).is_file()


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
) -> TokenCache:
    """Encode `data` into `folder / spec.folder_name`, or go on where an earlier call stopped.

    `watch` is called with the number of images done, after every batch; `workers` processes read images ahead, each
    once. Several processes deal the shards among themselves, and wait for each other at torchrun's store. What is
    written is the same for any number of processes and workers. Raises ValueError for an image that cannot be read, for
    tokens that are not what the tokenizer says of itself and for a cache of other tokens in that place, OSError where
    nothing can be written.
    """
    mine = mine or Processes()
    target = folder / spec.folder_name
    left = tell_all(mine, lambda: _begin(target, spec))
    if left is not None:
        _build_shards(tokenizer, data, spec, target, left[mine.rank :: mine.count], batch_size, device, watch, workers)
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
        size = self.spec.images_per_shard
        for shard in self._unread.intersection((indices // size).tolist()):  # once in a process
            try:
                require_intact(self.folder / shard_name(shard))
            except (ValueError, OSError) as error:
                raise broken(self.folder, error) from error
            self._unread.discard(shard)
        rows = [
            self._shards[index // size][index % size, view]
            for index, view in zip(indices.tolist(), views.tolist(), strict=True)
        ]
        stored = np.stack(rows)
        if self.spec.content == "codes":
            return sent(torch.from_numpy(stored.astype(np.int64)), rng.device)
        values = sent(torch.from_numpy(stored.astype(np.float32)), rng.device)
        if self.spec.content == "moments":
            mean, deviation = values.chunk(2, dim=1)  # (B, 2C, h, w) -> 2 × (B, C, h, w)
            values = mean + deviation * torch.randn(mean.shape, generator=rng, device=rng.device)
        return scaled(self.spec, values)


def complete_caches(folder: Path) -> dict[Path, CacheSpec]:
    """What the complete caches in `folder` say of themselves; those that are damaged are left out."""
    found = {}
    for path in sorted(folder.glob(f"*/{SPEC_NAME}")):
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
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
) -> None:
    """Encode and write `shards`, one after another; what is read ahead goes on from one to the next."""
    watch = watch or (lambda done: None)
    batches = [part for shard in shards for part in spec.indices_of(shard).split(batch_size)]
    sides = crop_sides(spec.view_set, data[0][0].shape[0]) if spec.view_set == "ten-crop" else []
    coming = ((part, torch.zeros_like(part)) for part in batches)
    read = read_batches(data, AtSides((None, *sides)), coming, workers=workers, device=device)
    with contextlib.closing(read):
        for shard in shards:
            indices = spec.indices_of(shard)
            stored = np.empty((len(indices), spec.views, *spec.shape), dtype=spec.dtype)
            for rows in torch.arange(len(indices)).split(batch_size):
                pictures = [to_float(picture.to(device, non_blocking=True)) for picture in next(read)]
                for number, view in enumerate(_views(pictures, spec, indices[rows].tolist())):
                    stored[rows, number] = _encode(tokenizer, view)
                watch(int(indices[rows[-1]]) + 1)
            if not is_stored(target / shard_name(shard)):  # else by another run, meanwhile
                _save_array(target / shard_name(shard), stored)
            watch(int(indices[-1]) + 1)


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
