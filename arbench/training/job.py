"""What one training is asked to be, and the file beside its weights that repeats it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from arbench import __version__
from arbench.generators.recipe import Augmentation, TrainConfig
from arbench.machine.files import write_whole
from arbench.registry import unknown_name
from arbench.weights.read import WHICH

SETTINGS_NAME = "config.yaml"
TRAINING = "training"  # the part of that file that holds the `TrainConfig`
YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, on what. `size` is in pixels; None is the tokenizer's or the data's own. `init` is a file whose
    weights (`which` of them, "ema" or "raw") the training starts from, random ones for None. Raises ValueError where
    `which` is neither."""

    target: str
    kind: str  # classifier, tokenizer or generator
    config: TrainConfig
    data: str = "digits"
    size: int | None = None
    tokenizer: str | None = None
    tokenizer_weights: str | None = None
    cache: str | None = None  # the folder of token caches; None: below the output folder
    workers: int | None = None  # processes that read images, of each that trains; None: `usual_workers`
    init: str | None = None
    which: str = "ema"
    device: str = "cpu"
    model_config: dict[str, Any] = field(default_factory=dict)
    tokenizer_config: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)  # of a tokenizer: `TokenizerLosses`, all of it

    def __post_init__(self) -> None:
        if self.which not in WHICH:
            raise unknown_name("choice of weights", self.which, WHICH)

    @property
    def made_of(self) -> dict[str, Any]:
        """What a checkpoint is of beside its recipe; plain containers, as a file holds them."""
        names = ("target", "size", "tokenizer", "model_config", "tokenizer_config", "losses")
        return json.loads(json.dumps({name: getattr(self, name) for name in names}))

    def folder(self, out: Path) -> Path:
        """Where a run below `out` keeps its checkpoints, its log and its weights."""
        return out / self.target

    def weights_path(self, out: Path) -> Path:
        """Where `run_job` leaves the averaged weights."""
        return out / self.target / f"{self.target}.safetensors"

    def raw_weights_path(self, out: Path) -> Path:
        """Where it leaves the raw weights, where the recipe has an average."""
        return out / self.target / f"{self.target}-raw.safetensors"


def write_job(job: Job, folder: Path) -> None:
    """Write config.yaml into `folder`: all that `read_job` needs to train the same, and the version of arbench."""
    settings = {name: value for name, value in vars(job).items() if name != "config"}
    content = json.loads(json.dumps({"arbench": __version__, **settings, TRAINING: job.config.as_dict()}))
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / SETTINGS_NAME, yaml.safe_dump(content, sort_keys=False))


def is_job_file(name: str | None) -> bool:
    """Whether a `--config` names a file that `write_job` wrote rather than a set of recipes."""
    return name is not None and name.endswith(YAML_SUFFIXES)


def read_job(path: Path, **changes: Any) -> Job:
    """The training of a config.yaml, with those of `changes` that are not None.

    Raises ValueError for a file that is no such description or holds an unknown name, OSError where it cannot be read.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict) or not isinstance(content.get(TRAINING), dict):
        raise ValueError(f"{path}: describes no training; expected a {SETTINGS_NAME} that `arbench train` wrote")
    settings, training = dict(content), dict(content[TRAINING])
    settings.pop("arbench", None)
    del settings[TRAINING]
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        config = _checked(TrainConfig, training, augmentation=Augmentation(**training.get("augmentation", {})))
        return _checked(Job, {**settings, **given}, config=config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _checked(kind: type, values: dict[str, Any], **parts: Any) -> Any:
    """A dataclass from plain values; ValueError for a name that it has not."""
    names = [known.name for known in dataclasses.fields(kind)]
    for name in values:
        if name not in names:
            raise unknown_name("setting", name, names)
    return kind(
        **{
            **{name: tuple(value) if name in ("betas", "undecayed") else value for name, value in values.items()},
            **parts,
        }
    )


def checked_size(size: int | None) -> int | None:
    """`size`; ValueError for less than a pixel."""
    if size is not None and size < 1:
        raise ValueError(f"image size is {size}; expected at least 1 pixel")
    return size
