"""One training job from its description to a weights file: open data, build model and cache, train, export."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from arbench.training.config import Augmentation, TrainConfig
from arbench.training.recipes import METHODS, get_recipe

if TYPE_CHECKING:
    from arbench.data import ImageData
    from arbench.distributed import Processes
    from arbench.training.cache import CacheSpec, TokenCache
    from arbench.training.loop import Task, Watcher

Prepared = TypeVar("Prepared")
CACHE_FOLDER = "cache"  # below the output folder
SCALE_IMAGES = 2000  # images that the deviation of a new tokenizer's latents is measured on, at most


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, on what. `size` is in pixels; None is the tokenizer's or the data's own."""

    target: str
    kind: str  # classifier, tokenizer or generator
    config: TrainConfig
    data: str = "digits"
    size: int | None = None
    tokenizer: str | None = None
    tokenizer_weights: str | None = None
    device: str = "cpu"
    model_config: dict[str, Any] = field(default_factory=dict)
    tokenizer_config: dict[str, Any] = field(default_factory=dict)

    @property
    def made_of(self) -> dict[str, Any]:
        """What a checkpoint is of beside its recipe; plain containers, as a file holds them."""
        names = ("target", "tokenizer", "model_config", "tokenizer_config")
        return json.loads(json.dumps({name: getattr(self, name) for name in names}))

    def checkpoint_path(self, out: Path) -> Path:
        """Where a run below `out` keeps its state."""
        from arbench.training.checkpoint import FILE_NAME

        return out / self.target / FILE_NAME

    def weights_path(self, out: Path) -> Path:
        """Where `run_job` leaves the averaged weights."""
        return out / self.target / f"{self.target}.safetensors"


def _checked(size: int | None) -> int | None:
    if size is not None and size < 1:
        raise ValueError(f"image size is {size}; expected at least 1 pixel")
    return size


def digits_job(target: str, *, size: int | None = None, tokenizer: str | None = None, **options: Any) -> Job:
    """The job of a digits recipe, also on other data; ValueError where there is no such target."""
    from arbench.data import DIGITS_SIZE

    recipe = get_recipe(target)
    options.setdefault("config", recipe.config)
    tokenizer = tokenizer or recipe.tokenizer
    return Job(target=target, kind=recipe.kind, size=_checked(size) or DIGITS_SIZE, tokenizer=tokenizer, **options)


def method_job(
    method: str, model: str, *, size: int | None = None, tokenizer: str | None = None, **options: Any
) -> Job:
    """A generator on one's own data with its paper's recipe; ValueError where method and model disagree."""
    from arbench.generators.presets import get_preset

    check_method(method, model)
    preset = get_preset(model)
    options.setdefault("config", METHODS[method])
    tokenizer = tokenizer or preset.tokenizer
    return Job(target=model, kind="generator", size=_checked(size) or preset.image_size, tokenizer=tokenizer, **options)


def check_method(method: str, model: str) -> None:
    """Raise ValueError where there is no such method or model, or the model is of another method."""
    from arbench.generators.presets import get_preset
    from arbench.registry import unknown_name

    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    found = get_preset(model).method
    if found != method:
        raise ValueError(f"model {model!r} is of method {found!r}, not {method!r}; expected --method {found}")


def with_settings(config: TrainConfig, *, scale_rate: bool = False, **settings: Any) -> TrainConfig:
    """`config` with those settings that are not None; a warm-up of over half the run shrinks to a tenth of it.

    With `scale_rate` the learning rate, where it is not given, follows the batch size in proportion: the papers state
    theirs as 1e-4 a batch of 256.
    """
    if scale_rate and settings.get("batch_size") and settings.get("learning_rate") is None:
        settings["learning_rate"] = config.learning_rate * settings["batch_size"] / config.batch_size
    changed = dataclasses.replace(config, **{name: value for name, value in settings.items() if value is not None})
    if 2 * changed.warmup_steps > changed.steps:
        changed = dataclasses.replace(changed, warmup_steps=changed.steps // 10)
    return changed


def run_job(
    job: Job,
    out: Path,
    *,
    resume: bool = False,
    watch: Watcher | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train and export; returns the weights file.

    Raises ValueError for what a user can have got wrong: unknown names, a tokenizer of the wrong kind, a run that is
    already there, a missing checkpoint; OSError for folders that cannot be read or written.
    """
    from arbench.data import open_data
    from arbench.distributed import average, process_group, processes
    from arbench.training.export import export_weights
    from arbench.training.loop import train

    mine = processes()
    device = torch.device(job.device, mine.local_rank) if job.device == "cuda" else torch.device(job.device)
    data = open_data(job.data, size=job.size)
    path = job.weights_path(out)
    with process_group(mine, device):
        make_task = _in_turn(mine, device, lambda: TASKS[job.kind](job, data, out, device, say))
        trainer = train(
            make_task,
            job.config,
            out / job.target,
            resume=resume,
            watch=watch if mine.is_first else None,
            reduce_gradients=lambda gradients: average(gradients, mine),
            rank=mine.rank,
            world_size=mine.count,
            made_of=job.made_of,
        )
        trainer.task.model.load_state_dict(trainer.ema.weights)
        if job.kind == "tokenizer":
            _measure_scale(trainer.task.model, data, device)
        if mine.is_first:
            export_weights(path, trainer.task.weights(), target=job.target, config=job.config)
        _meet(mine, device)
    return path


def _in_turn(mine: Processes, device: torch.device, prepare: Callable[[], Prepared]) -> Prepared:
    """`prepare()` on the first process, then on all others, which find the token cache that it wrote."""
    if not mine.is_first:
        _meet(mine, device)
    prepared = prepare()
    if mine.is_first:
        _meet(mine, device)
    return prepared


def _meet(mine: Processes, device: torch.device) -> None:
    """Wait until every process is here."""
    from arbench.distributed import average

    average([torch.zeros(1, device=device)], mine)


def open_tokenizer(name: str | None, weights: str | None, device: torch.device | str, **config: Any) -> Any:
    """The frozen tokenizer whose tokens are cached; ValueError where its weights are neither given nor here."""
    from arbench.parts import find_tokenizer_weights
    from arbench.tokenizer import load_tokenizer

    if name is None:
        raise ValueError("no tokenizer named; expected --tokenizer NAME, see `arbench tokenizers`")
    file = find_tokenizer_weights(name, may_be_random=False) if weights is None else weights
    return load_tokenizer(name, weights=file, device=device, **config)


def open_cache(
    tokenizer: Any,
    data: ImageData,
    folder: Path,
    *,
    views: int,
    augmentation: Augmentation,
    seed: int,
    device: torch.device | str,
    say: Callable[[str], None],
    watch: Callable[[int], None] | None = None,
) -> TokenCache:
    """The token cache of these settings, built where it is not there yet; its size is told first."""
    from arbench.training.cache import build_cache, describe_cache

    spec = describe_cache(tokenizer, data, views=views, augmentation=augmentation, seed=seed, device=device)
    say(describe_size(spec, folder))
    return build_cache(tokenizer, data, spec, folder, device=device, watch=watch)


def describe_size(spec: CacheSpec, folder: Path) -> str:
    """One line: how much is stored, of what, where."""
    return (
        f"token cache {folder / spec.folder_name}: {spec.num_images} images x {spec.views} views, "
        f"{spec.content} {'x'.join(map(str, spec.shape))} as {spec.dtype}, {spec.num_bytes / 2**20:.1f} MiB"
    )


def _classifier_task(
    job: Job, data: ImageData, out: Path, device: torch.device, say: Callable[[str], None]
) -> Callable[[], Task]:
    from arbench.evaluation.digits_cnn import NUM_CLASSES, DigitsCNN
    from arbench.training.data import ImageBatches
    from arbench.training.tasks import ClassifierTask

    if data.num_classes != NUM_CLASSES:
        raise ValueError(f"{job.data} has {data.num_classes} classes; {job.target} reads {NUM_CLASSES}")
    batches = ImageBatches(data, job.config.augmentation, device)
    return lambda: ClassifierTask(DigitsCNN().to(device), batches)


def _tokenizer_task(
    job: Job, data: ImageData, out: Path, device: torch.device, say: Callable[[str], None]
) -> Callable[[], Task]:
    from arbench.tokenizer import load_tokenizer
    from arbench.training.data import ImageBatches
    from arbench.training.tasks import TokenizerTask

    batches = ImageBatches(data, job.config.augmentation, device)
    return lambda: TokenizerTask(load_tokenizer(job.target, weights="random", device=device), batches)


def _generator_task(
    job: Job, data: ImageData, out: Path, device: torch.device, say: Callable[[str], None]
) -> Callable[[], Task]:
    from arbench.training.tasks import GeneratorTask
    from arbench.weights.load import load_generator

    config = job.config
    cache = open_cache(
        open_tokenizer(job.tokenizer, job.tokenizer_weights, device, **job.tokenizer_config),
        data,
        out / CACHE_FOLDER,
        views=config.views,
        augmentation=config.augmentation,
        seed=config.seed,
        device=device,
        say=say,
    )
    settings = {"num_classes": data.num_classes, **job.model_config}
    return lambda: GeneratorTask(
        load_generator(job.target, weights="random", device=device, **settings), cache, config
    )


TASKS = {"classifier": _classifier_task, "tokenizer": _tokenizer_task, "generator": _generator_task}


@torch.no_grad()
def _measure_scale(tokenizer: Any, data: ImageData, device: torch.device) -> None:
    """Set a continuous tokenizer's scale to 1 / standard deviation of its posterior samples, as LDM does."""
    from arbench.images import to_float

    if tokenizer.kind != "continuous":
        return
    mean, deviation = tokenizer.moments(to_float(data.images(range(min(len(data), SCALE_IMAGES)))).to(device))
    variance = mean.double().var() + deviation.double().square().mean()
    tokenizer.set_scale(float(variance.rsqrt()))
