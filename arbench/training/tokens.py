"""Token caches as commands and jobs name them: the tokenizer of a name, the cache opened or built, its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from arbench.generators.recipe import Augmentation
from arbench.images.data import is_absent, open_data
from arbench.images.pixels import to_float
from arbench.machine.distributed import processes, tell_all
from arbench.runs.choice import find_tokenizer_weights
from arbench.tokenizer.load import encode_images, load_tokenizer
from arbench.training.absent import find_absent, note_images
from arbench.training.cache import SPEC_NAME, complete_caches, is_complete, stored_spec
from arbench.training.cache_build import build_cache, describe_cache, require_agreement
from arbench.training.reading import list_once
from arbench.training.reuse import find_known, note_keys

if TYPE_CHECKING:
    from arbench.generators.recipe import TrainConfig
    from arbench.images.data import ImageData
    from arbench.protocols import Tokenizer
    from arbench.training.cache import CacheSpec, TokenCache
    from arbench.training.job import Job
    from arbench.training.loop import Watcher
    from arbench.training.reuse import Known

CACHE_FOLDER = "cache"  # below the output folder
# A bar, or lines, for a title and a number of steps: entered, it gives what is to be called with the steps done.
Progress = Callable[[str, int], "AbstractContextManager[Watcher]"]
ENCODING_SPEED = 100e12  # operations a second of a large GPU at convolutions in bfloat16, a fraction of its peak


def no_words(line: str) -> None:
    """Nothing is said."""


def no_progress(title: str, total: int) -> AbstractContextManager[Watcher]:
    """Nothing is shown."""
    return nullcontext(lambda done, logged: None)


def open_tokenizer(name: str | None, weights: str | None, device: torch.device | str, **config: Any) -> Any:
    """The frozen tokenizer whose tokens are cached; ValueError where its weights are neither given nor here."""
    if name is None:
        raise ValueError("no tokenizer named; expected --tokenizer NAME, see `arbench tokenizers`")
    file = find_tokenizer_weights(name, may_be_random=False) if weights is None else weights
    return load_tokenizer(name, weights=file, device=device, **config)


def open_cache(
    tokenizer: Tokenizer,
    data: ImageData,
    folder: Path,
    *,
    views: int,
    augmentation: Augmentation,
    seed: int,
    device: torch.device | str,
    say: Callable[[str], None],
    progress: Progress = no_progress,
    view_set: str = "random",
    workers: int = 0,
) -> TokenCache:
    """The token cache of these settings, built where it is not there yet; its size is told first.

    `workers` processes read the images. Raises ValueError, before anything is encoded, where the processes would not
    all make the same tokens or `folder` is itself a cache rather than one of caches, and what `build_cache` raises.
    """
    mine = processes()
    if (folder / SPEC_NAME).exists():
        raise ValueError(
            f"{folder}: is a token cache itself; expected the folder that holds it, {folder.absolute().parent}"
        )
    described = describe_cache(
        tokenizer, data, views=views, augmentation=augmentation, seed=seed, device=device, view_set=view_set
    )
    require_agreement(described, mine)
    spec = replace(described, data=tell_all(mine, lambda: stored_spec(described, data, folder).data))
    say(describe_size(spec, folder))
    known = known_tokens(spec, data, folder, say)
    with (no_progress if is_complete(folder, spec) else progress)("encode", len(data)) as watch:
        built = build_cache(
            tokenizer,
            data,
            spec,
            folder,
            device=device,
            watch=lambda done: watch(done, {}),
            workers=workers,
            mine=mine,
            known=known,
        )
    if mine.is_first:
        note_images(built.folder, data)
        if spec.data == described.data:  # not one of an earlier version, whose files may have changed since
            note_keys(built.folder, data)
    return built


def known_tokens(spec: CacheSpec, data: ImageData, folder: Path, say: Callable[[str], None]) -> Known | None:
    """What another cache in `folder` holds of `spec`, and `say` how much; None where it is complete itself."""
    known = None if is_complete(folder, spec) else find_known(spec, data, folder)
    if known is not None:
        say(f"token cache: {known.num_views} of {spec.num_images * spec.views} views are there, {known.cache.folder}")
    return known


def open_images(
    job: Job,
    out: Path,
    device: torch.device | str,
    *,
    relist: bool,
    say: Callable[[str], None],
    begun: Mapping[str, Any] | None = None,
) -> ImageData:
    """The images of a training; where they are not there, what the complete cache of them says of them.

    A training that goes on from a checkpoint, whose facts are `begun`, takes the cache that it was begun on.

    Raises ValueError or OSError where there are neither. A folder of caches that is empty is none.
    """
    mine, folder, config = processes(), cache_folder(job, out), job.config
    may_do_without = job.kind == "generator" and config.cached
    if may_do_without and tell_all(mine, lambda: is_absent(job.data) and bool(complete_caches(folder))):
        tokenizer = open_tokenizer(job.tokenizer, job.tokenizer_weights, device, **job.tokenizer_config)
        of = begun["made_of"].get("data") if begun else None
        found = find_absent(job.data, folder, tokenizer, size=job.size, seen=seen_by(config), of=of)
        say(f"images: {job.data} is not there; training needs none, its tokens are in {found.cache.folder}")
        return found
    list_once(job.data, mine, again=relist, say=say)
    return open_data(job.data, size=job.size)


def cache_folder(job: Job, out: Path) -> Path:
    """The folder of the token caches of a training below `out`."""
    return Path(job.cache) if job.cache else out / CACHE_FOLDER


def seen_by(config: TrainConfig) -> dict[str, Any]:
    """Which views of an image a recipe trains on."""
    return {name: getattr(config, name) for name in ("views", "augmentation", "view_set", "seed")}


def describe_cost(
    tokenizer: Tokenizer, data: ImageData, spec: CacheSpec, device: torch.device | str, known: Known | None = None
) -> str:
    """One line: the counted operations of encoding what is not `known`, and what they take on GPUs."""
    image = to_float(data.images(range(1))).to(device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encode_images(tokenizer, image)
    view, views = counter.get_total_flops(), spec.num_images * spec.views - (known.num_views if known else 0)
    hours = view * views / ENCODING_SPEED / 3600
    return (
        f"token cache: {views} views to encode, {view / 1e9:.3g} GFLOP each: {hours:.3g} GPU-hours at "
        f"{ENCODING_SPEED / 1e12:.0f} TFLOP/s"
    )


def describe_size(spec: CacheSpec, folder: Path) -> str:
    """One line: how much is stored, of what, where."""
    return (
        f"token cache {folder / spec.folder_name}: {spec.num_images} images x {spec.views} views, "
        f"{spec.content} {'x'.join(map(str, spec.shape))} as {spec.dtype}, {spec.num_bytes / 2**20:.1f} MiB"
    )
