"""What a run is asked to be, checked and resolved before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from arbench.evaluation.metrics import load_networks
from arbench.evaluation.plan import usual_metrics
from arbench.evaluation.reference import open_reference
from arbench.evaluation.table import CLASSES, METRICS
from arbench.generators.methods import all_settings
from arbench.generators.spec import DIGITS, Preset
from arbench.machine.distributed import Processes, processes
from arbench.machine.hardware import resolve_device, use_device
from arbench.machine.precision import FLOAT32
from arbench.report.logs import log_names
from arbench.runs.labels import make_labels
from arbench.runs.models import Parts, load_parts
from arbench.sampling.algorithm import check_labels
from arbench.sampling.engine import check_engine
from arbench.sampling.noise import MOST_IMAGES
from arbench.sampling.schedules import one_schedule
from arbench.validation import Limits, Seed, check_fields, check_names

DEFAULT_IMAGES = 500
DEFAULT_OUT = Path("runs")
AUTO = "auto"
BatchSize = Annotated[int, Limits(least=1)] | Annotated[str, Limits(choices=(AUTO,))]
IF_STARTED = "if started"  # a value of `resume`: go on where there is a run to go on with, else start one
DIGITS_EVALUATION = {
    "reference": "digits-heldout",
    "extractor": "digits-cnn",
    "metrics": ["fid", "is", "precision", "recall", "kid", "label_accuracy"],
}


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a run is asked to be; None means the default of the model. `arbench.run` tells what each field means."""

    method: str | None = None
    model: str | None = None
    tokenizer: str | None = None
    weights: str | Path | None = None
    tokenizer_weights: str | Path | None = None
    which: str = "ema"
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    num_images: Annotated[int, Limits(least=1, most=MOST_IMAGES)] = DEFAULT_IMAGES
    labels: Sequence[int] | None = None
    label_mode: str = "balanced"
    seed: Seed = 0
    out: str | Path = DEFAULT_OUT
    batch_size: BatchSize = AUTO
    device: str = AUTO
    dtype: str = AUTO  # a name of `arbench.machine.precision`
    decode_dtype: str = FLOAT32
    engine: str = AUTO  # how it is computed, not what: no part of the folder's name
    resume: bool | str = False
    evaluate: bool = True
    reference: str | Path | None = None
    extractor: str | Sequence[str] | None = None
    metrics: Sequence[str] | None = None
    inception_weights: str | Path | None = None
    on_the_fly: bool = False
    export_npz: bool = False
    log: Sequence[str] = ()
    source: Mapping[str, Any] = field(default_factory=dict)  # `row_source` of the row that is run; none by `of`
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, **given: Any) -> RunRequest:
        """The request of these keywords, sampling settings among them. Raises ValueError for an unknown one."""
        names, settings = {known.name for known in dataclasses.fields(cls)} - {"sampling", "source"}, all_settings()
        unknown = [name for name in given if name not in names and name not in settings]
        if unknown:  # all settings, those of strangers too, are looked through for the nearest alone
            check_names("setting of a run", unknown, names.union(settings))
        sampling = {name: value for name, value in given.items() if name not in names and name in settings}
        return cls(**{name: value for name, value in given.items() if name in names}, sampling=sampling)

    def __post_init__(self) -> None:
        check_fields(RunRequest, vars(self))
        log_names(self.log)
        if self.on_the_fly and not self.evaluate:
            raise ValueError("on_the_fly extracts features for scores; expected evaluate with it (no --no-evaluate)")
        if self.labels is not None and len(self.labels) != self.num_images:
            raise ValueError(f"labels: {len(self.labels)} given for {self.num_images} images; expected one an image")


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A checked run: the models, the labels, and the settings that go into config.yaml."""

    request: RunRequest
    parts: Parts
    labels: np.ndarray
    steps: int  # generator steps an image takes
    settings: dict[str, Any]  # {"images": what decides the images, "evaluation": what decides the scores}
    mine: Processes


def prepare(request: RunRequest) -> PreparedRun:
    """Load the models and resolve every setting. Raises ValueError or OSError for a user's mistake."""
    mine = processes()
    check_engine(request.engine)
    parts = load_parts(
        request.method,
        request.model,
        tokenizer=request.tokenizer,
        weights=request.weights,
        tokenizer_weights=request.tokenizer_weights,
        which=request.which,
        device=use_device(resolve_device(request.device, mine.local_rank)),
        dtype=request.dtype,
        decode_dtype=request.decode_dtype,
        config=request.config,
        tokenizer_config=request.tokenizer_config,
        sampling=request.sampling,
    )
    labels = resolve_labels(request, parts.generator.num_classes)
    images = image_settings(request, parts)
    settings = {"images": images, "evaluation": evaluation_settings(request, parts.preset)}
    steps = one_schedule(parts.generator, parts.settings).num_passes
    return PreparedRun(request=request, parts=parts, labels=labels, steps=steps, settings=plain(settings), mine=mine)


def resolve_labels(request: RunRequest, num_classes: int) -> np.ndarray:
    """(N,) int64: the labels given, else by label mode. Raises ValueError for a class that is not there."""
    if request.labels is None:
        return make_labels(request.num_images, num_classes, request.label_mode, request.seed)
    return check_labels(list(request.labels), num_classes, torch.device("cpu")).numpy()


def image_settings(request: RunRequest, parts: Parts) -> dict[str, Any]:
    """Everything that decides the images; its hash names the folder. Neither the batch nor the machine is among it."""
    return {
        "method": parts.generator.method,
        "model": parts.model,
        "config": dataclasses.asdict(parts.generator.config),
        "tokenizer": parts.tokenizer_name,
        "tokenizer_config": parts.tokenizer_config,
        "weights": parts.weights,
        "sampling": parts.sampling,
        "seed": request.seed,
        "num_images": request.num_images,
        "labels": request.label_mode if request.labels is None else list(request.labels),
        "dtype": parts.precision.name,
        "image_size": parts.image_size,
        **({} if request.decode_dtype == FLOAT32 else {"decode_dtype": request.decode_dtype}),
    }


def evaluation_settings(request: RunRequest, preset: Preset | None) -> dict[str, Any] | None:
    """How the images are scored, None where they are not: no `--reference`, and not the digits that bring their own.

    `evaluate=False` overrides both.
    """
    if not request.evaluate:
        return None
    own = DIGITS_EVALUATION if preset is not None and preset.data == DIGITS else {}
    reference = request.reference or own.get("reference")
    if reference is None:
        return None
    if request.reference is not None and not str(request.reference).startswith("digits-"):
        own = {}
    return {
        "reference": str(reference),
        "extractor": own.get("extractor", "inception") if request.extractor is None else request.extractor,
        "metrics": own.get("metrics") if request.metrics is None else request.metrics,  # None: what is usual
        "inception_weights": request.inception_weights,
    }


def check_evaluation(settings: dict[str, Any] | None, num_images: int, *, of_no_class: bool = False) -> None:
    """Open the reference and load the extractor, so that a mistake shows before the images are made, not after.

    Raises ValueError or OSError as `arbench.evaluate` would, and where a metric cannot be of so few images, or not of
    images `of_no_class`, which some are.
    """
    if settings is None:
        return
    check_names("metric", settings["metrics"] or (), METRICS)
    reference = open_reference(settings["reference"])
    asked = usual_metrics(reference) if settings["metrics"] is None else settings["metrics"]
    if not asked:
        raise ValueError(f"no metrics asked for; expected some of {', '.join(METRICS)}, or --no-evaluate")
    if of_no_class and (lost := [name for name in asked if CLASSES in METRICS[name].needs]):
        raise ValueError(f"labels: some images are of no class; expected metrics without {lost[0]}, or --no-evaluate")
    most = max(asked, key=lambda name: METRICS[name].fewest)
    if num_images < METRICS[most].fewest:
        least = f"expected at least {METRICS[most].fewest}, which {most} takes"
        raise ValueError(f"num_images is {num_images}; {least}, or no scores (--no-evaluate)")
    load_networks(settings["extractor"], settings["inception_weights"], "cpu")


def plain(value: object) -> Any:
    """`value` as YAML and JSON hold it: tuples become lists, NumPy numbers Python's, paths text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value
