"""A method as one object: everything that is known of it, which whoever needs a fact reads here.

A method needs a name, a configuration, a model and a schedule. What else a spec leaves out is unknown: a dash in a
table, no roofline in a benchmark, a batch found by trial. The packages beside this module each hold one `METHOD`; a
third party's is an installed one in the entry-point group `arbench.generators`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from arbench.generators.cards import WeightsCard
from arbench.generators.recipe import TrainConfig
from arbench.machine.work import PlannedStep, Work
from arbench.protocols import Generator, Noise, Schedule

if TYPE_CHECKING:
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
MakeSchedule = Callable[[Generator, Any, Noise, "Tensor"], Schedule]
DIGITS = "digits"  # the data set that ships with the package


@dataclass(frozen=True, kw_only=True)
class Published:
    """A paper's FID-50k and IS for a preset at its sampling settings, with the place where they stand."""

    fid: float
    inception_score: float
    source: str


@dataclass(frozen=True, kw_only=True)
class TrainingSpeed:
    """How fast a preset was trained: images a second and device, with the place where it stands.

    `encoding`: images a second where they were encoded on the way, `encoding_source` of that; None where nobody told.
    """

    preset: str
    images_per_second: float
    device: str
    source: str
    encoding: float | None = None
    encoding_source: str = ""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """How weights are drawn to be evaluated while they train: by the preset's own settings, but for `sampling`.

    `name` tells records of a step apart, "" being the preset's own. Raises ValueError for one that names no folder.
    """

    name: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9.+-]*", self.name):
            raise ValueError(f"evaluation {self.name!r}: expected small letters, digits, dots and hyphens")


OWN_SETTINGS = Evaluated()
NO_GUIDANCE = Evaluated(name="no-cfg", sampling={"cfg_scale": 1.0})


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named generator. `config` are fields of the method's configuration, `sampling` its default settings."""

    name: str
    method: str
    config: Mapping[str, Any]
    tokenizer: str
    image_size: int
    sampling: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None  # name of its weights card
    shipped: bool = False  # whether its weights travel with the method's package, in assets/NAME.safetensors
    data: str | None = None  # "digits": trained on and compared with the digits that ship; None: ImageNet
    published: Published | None = None
    recipe: TrainConfig | None = None  # where it is not trained as its method is, e.g. a cell of another paper's table
    evaluations: tuple[Evaluated, ...] | None = None  # while it trains, where they are not its method's
    evaluated_at: int | None = None  # side to which images are brought before evaluation, where it differs


def same_name(name: str) -> str:
    """The map of a file whose tensors bear the module's names."""
    return name


@dataclass(frozen=True, kw_only=True)
class Release:
    """How the files of a method's released weights are told from others and read.

    A file is of this format where it has every name of `wanted` and none of `unwanted`. `read_config` tells, from the
    shapes, the configuration in the names of the method's config; beside them may stand `num_tokens` and `token_width`
    (channels of a token times patch_size squared). `untold` are the names that no tensor tells.
    """

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    read_config: Callable[[Shapes], dict[str, Any]]
    untold: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()  # names that some files carry and that are computed anew
    rename: Callable[[str], str] = same_name  # a file's name of a tensor -> the module's
    embeddings: tuple[str, ...] = ()  # tables of vectors: never transposed between torch and Paddle
    layout: str = "ddp"  # how a torch checkpoint wraps it (`arbench.weights.convert.LAYOUTS`)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Everything about one method. Callables may be `arbench.registry.lazy`, so that a spec costs no import of torch.

    Raises ValueError where a preset is of another method.
    """

    name: str
    config: type  # frozen dataclass
    model: Callable[[Any], Generator]  # of an object of `config`
    schedule: MakeSchedule | str  # (generator, settings, noise, labels (B,)), or a name of arbench.sampling.schedules
    sampling: tuple[type, ...]  # the sampling settings that its generators take, one type a kind of head

    label: str = ""  # as it is written; the name in capitals where it is left out
    colour: str | None = None  # of plots
    marker: str | None = None
    order: int = 100  # of listings and comparisons

    presets: tuple[Preset, ...] = ()
    package: str | None = None  # whose assets/ hold the weights that ship
    tiny: Mapping[str, Any] | None = None  # the configuration of a model that tests in a moment
    shorthands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # a name that stands for several

    release: Release | None = None
    cards: tuple[WeightsCard, ...] = ()
    borrows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # methods whose files fit, where config is

    # Of its settings: what is changed in each faster, approximate way, by its name; half of what shortens if left out.
    approximations: Callable[[Any], Mapping[str, Mapping[str, Any]]] | None = None
    precision: str = "float32"  # that its release is evaluated in on a GPU (`arbench.machine.precision`)

    recipe: TrainConfig | None = None  # the paper's, for one's own data; a preset's own comes first
    digits_recipe: TrainConfig | None = None  # of its preset on the digits
    evaluations: tuple[Evaluated, ...] = (OWN_SETTINGS,)  # while it trains; by the first the best weights are kept

    training_memory: Callable[[Generator, bool, bool], int] | None = None  # bytes an image: bfloat16, recomputed blocks
    training_speed: TrainingSpeed | None = None

    backbone_work: Callable[[Generator, PlannedStep, int], Work] | None = None  # of a batch's step
    head_work: Callable[[Generator, Any, PlannedStep, int], Iterable[Work]] | None = None
    memory: Callable[[Generator], int] | None = None  # bytes an image of guided sampling, decoder aside
    static_memory: Callable[[Generator], int] | None = None  # bytes that a static state keeps whatever the batch

    # A comparison: settings (or a `model`) beside the default, None to stay out of it; whether the default is a point
    # of it; sets of images that each point draws, more where they cost little.
    compared: tuple[Mapping[str, Any], ...] | None = None
    compared_default: bool = True
    compared_sets: int = 1
    family: str = ""  # methods of one make one curve; its own label where it is left out
    traded: tuple[str, str] | None = None  # what it is made faster by: a setting, or a field of `config`; and in words

    def __post_init__(self) -> None:
        for preset in self.presets:
            if preset.method != self.name:
                raise ValueError(f"preset {preset.name!r} is of method {preset.method!r}; expected {self.name!r}")
        if not self.label:
            object.__setattr__(self, "label", self.name.upper())
        if not self.family:
            object.__setattr__(self, "family", self.label)

    def evaluated_in(self, preset: Preset | None) -> str:
        """The precision in which `preset` is evaluated on a GPU; the digits' were evaluated in float32, all of them."""
        return "float32" if preset is not None and preset.data == DIGITS else self.precision

    def trained_by(self, preset: Preset | None) -> TrainConfig | None:
        """The recipe of `preset`: its own, else that of the digits for those trained on them, else the paper's.

        None where it has none.
        """
        if preset is not None and preset.recipe is not None:
            return preset.recipe
        return self.digits_recipe if preset is not None and preset.data == DIGITS else self.recipe

    def evaluations_of(self, preset: Preset) -> tuple[Evaluated, ...]:
        """How `preset` is drawn while it trains: as it says, else the digits by their own settings, else as all are."""
        if preset.evaluations is not None:
            return preset.evaluations
        return (OWN_SETTINGS,) if preset.data == DIGITS else self.evaluations

    @property
    def default_preset(self) -> Preset | None:
        """The preset that the method's name alone stands for: that of the digits, else the first."""
        return next((preset for preset in self.presets if preset.data == DIGITS), next(iter(self.presets), None))
