"""Every sampling setting once: type, range, help, table head, short label.

The command line, YAML keys, records, tables, plots and error lines read them here. A method's settings are a frozen
dataclass whose fields are made by `Setting.field`; a plug-in's own are made in the same way.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from arbench.protocols import Generator
from arbench.registry import unknown_name
from arbench.validation import SHORT, Limits, Option

TRAIN_STEPS = 1000  # timesteps that a diffusion head is trained on (MAR, section 4.1)
CFG_SCHEDULES = ("constant", "linear")
REVEAL_SCHEDULES = ("cosine", "arccos")
RANDOM_ORDER, CHECKERBOARD = "random", "checkerboard"
REVEAL_ORDERS = {
    RANDOM_ORDER: "MAR's own",
    CHECKERBOARD: "every second place of the grid before the places between them, an approximation",
}
TRIMMED_START = 980  # the timestep that ddpm-trimmed starts from
DISA_START, DISA_LAST_STEPS = 950, 5  # first timestep, and denoising steps of the last iteration (DiSA release)
HEAD_SAMPLERS = {
    "ddpm": "ancestral sampling, MAR's own",
    "ddpm-trimmed": f"ddpm from timestep {TRIMMED_START} of {TRAIN_STEPS} on, for models too briefly trained for ddpm",
    "ddim": "deterministic",
    "disa": f"ddpm from timestep {DISA_START} on, its steps falling over the iterations from head_steps (the release: "
    f"50) to {DISA_LAST_STEPS}, an approximation",
}


@dataclass(frozen=True, kw_only=True)
class Setting(Limits):
    """One sampling setting, and the limits of its values.

    `kind` is int, float or str; `title` heads a column of a table and names the value in a plot; `words` are values
    that are written as a word. `shortens` says that fewer of it is faster and an approximation, `approximates` that any
    value but a model's own is one. `unsaid` is a value that records and run folders leave out: those from before there
    was the setting mean it.
    """

    name: str
    kind: type
    help: str
    title: str
    words: Mapping[Any, str] = dataclasses.field(default_factory=dict)
    shortens: bool = False
    approximates: bool = False
    unsaid: int | float | str | None = None

    def field(self, default: int | float | str) -> Any:
        """A dataclass field of this setting with the `default` of a method."""
        return dataclasses.field(default=default, metadata={"setting": self})

    def check(self, value: object) -> int | float | str:
        """`value` in the setting's own type. Raises ValueError for another type or a value out of range."""
        if not Option(self.kind).fits(value):
            raise SHORT.error(self.name, value, self.kind.__name__)
        if not self.hold(value) and self.choices:
            raise unknown_name(self.name, str(value), self.choices)
        if not self.hold(value):
            raise SHORT.error(self.name, value, self.meaning or f"{self.least:g} or more")
        return self.kind(value)

    def read(self, text: str) -> int | float | str:
        """The value that `text` says on a command line. Raises ValueError as `check` does."""
        try:
            value = self.kind(text)
        except ValueError:
            value = text  # which `check` tells
        return self.check(value)

    def text(self, value: object) -> str:
        """`value` as it is written in a table or beside a point."""
        if value in self.words:
            return self.words[value]
        return f"{value:g}" if isinstance(value, (int, float)) else str(value)


NUM_ITER = Setting(
    name="num_iter",
    kind=int,
    help="MAR, ARPG: autoregressive iterations.",
    title="iterations",
    least=1,
    shortens=True,
)
CFG_SCALE = Setting(
    name="cfg_scale",
    kind=float,
    help="Classifier-free guidance; 1 is none.",
    title="guidance",
    least=0,
    meaning="0 or more (1 is no guidance)",
)
CFG_SCHEDULE = Setting(
    name="cfg_schedule",
    kind=str,
    help="MAR, ARPG: how guidance grows over the steps.",
    title="guidance schedule",
    choices=CFG_SCHEDULES,
)
CFG_INTERVAL = Setting(
    name="cfg_interval",
    kind=int,
    help="AR, PAR: last guided step; -1 is all.",
    title="guidance interval",
    least=-1,
    meaning="-1 (always) or more",
    words={-1: "always"},
)
TEMPERATURE = Setting(
    name="temperature",
    kind=float,
    help="Of the codes, 0 is greedy; of MAR: scale of the added noise.",
    title="temperature",
    least=0,
    meaning="0 or more",
)
TOP_K = Setting(
    name="top_k",
    kind=int,
    help="AR, PAR, ARPG: keep the k likeliest codes; 0 keeps all.",
    title="top-k",
    least=0,
    meaning="0 (keep all) or more",
)
TOP_P = Setting(
    name="top_p",
    kind=float,
    help="AR, PAR, ARPG: nucleus mass; 1 keeps all.",
    title="top-p",
    above=0,
    most=1,
    meaning="above 0 and at most 1",
)
REVEAL_SCHEDULE = Setting(
    name="reveal_schedule",
    kind=str,
    help="ARPG: curve along which the hidden tokens become fewer.",
    title="reveal schedule",
    choices=REVEAL_SCHEDULES,
)
HEAD_STEPS = Setting(
    name="head_steps",
    kind=int,
    help="MAR: diffusion steps a token.",
    title="head steps",
    least=1,
    most=TRAIN_STEPS,
    meaning=f"1 to {TRAIN_STEPS}",
    shortens=True,
)
HEAD_SAMPLER = Setting(
    name="head_sampler",
    kind=str,
    help=f"MAR: diffusion head. {'; '.join(f'{name}: {meaning}' for name, meaning in HEAD_SAMPLERS.items())}.",
    title="head sampler",
    choices=tuple(HEAD_SAMPLERS),
    approximates=True,
)
REVEAL_ORDER = Setting(
    name="reveal_order",
    kind=str,
    help=f"MAR: {'; '.join(f'{name}: {meaning}' for name, meaning in REVEAL_ORDERS.items())}.",
    title="reveal order",
    choices=tuple(REVEAL_ORDERS),
    approximates=True,
    unsaid=RANDOM_ORDER,
)

# In the order in which tables have them.
SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        NUM_ITER, CFG_SCALE, CFG_SCHEDULE, CFG_INTERVAL, TEMPERATURE, TOP_K, TOP_P, REVEAL_SCHEDULE, HEAD_STEPS,
        HEAD_SAMPLER, REVEAL_ORDER,
    )
}  # fmt: skip

Settings = TypeVar("Settings", bound="Guidance")
DiffusionSettings = TypeVar("DiffusionSettings", bound="DiffusionSampling")


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance: its scale (1 is none) and how it changes over the generation."""

    cfg_scale: float = CFG_SCALE.field(1.0)
    cfg_schedule: str = CFG_SCHEDULE.field("constant")
    cfg_interval: int = CFG_INTERVAL.field(-1)

    def __post_init__(self) -> None:
        for name, setting in settings_of(type(self)).items():
            object.__setattr__(self, name, setting.check(getattr(self, name)))

    @property
    def guided(self) -> bool:
        """Whether the unconditional prediction is needed at all."""
        return self.cfg_scale != 1

    def at(self: Settings, index: int, num_steps: int) -> Settings:
        """The settings under which the tokens of step `index` of `num_steps` are drawn: these, all the way."""
        return self


@dataclass(frozen=True, kw_only=True)
class CategoricalSampling(Guidance):
    """Settings of a categorical head: temperature (0 is greedy), then top-k (0 keeps all), then top-p (1 keeps all)."""

    temperature: float = TEMPERATURE.field(1.0)
    top_k: int = TOP_K.field(0)
    top_p: float = TOP_P.field(1.0)

    @property
    def guided(self) -> bool:
        """Logits are guided above 1 only (LlamaGen release)."""
        return self.cfg_scale > 1


@dataclass(frozen=True, kw_only=True)
class DiffusionSampling(Guidance):
    """Settings of a diffusion head: scale of the added noise, number of denoising steps, and their solver."""

    cfg_schedule: str = CFG_SCHEDULE.field("linear")
    temperature: float = TEMPERATURE.field(1.0)
    head_steps: int = HEAD_STEPS.field(100)
    head_sampler: str = HEAD_SAMPLER.field("ddpm")

    def at(self: DiffusionSettings, index: int, num_steps: int) -> DiffusionSettings:
        """As `Guidance.at`; the denoising steps of "disa" fall with the steps (arXiv:2505.20297)."""
        if self.head_sampler != "disa":
            return self
        return dataclasses.replace(self, head_steps=disa_steps(self.head_steps, index, num_steps))


def disa_steps(first: int, index: int, num_steps: int) -> int:
    """Denoising steps of step `index` of `num_steps`, falling in a line from `first` to `DISA_LAST_STEPS`.

    S_k = 5 + floor((K - 1 - k) / (K - 1) * (first - 5)), with the release's rounding (arXiv:2505.20297); `first` is 50
    there. From 5 or fewer nothing falls, and one step alone has all.
    """
    last = min(first, DISA_LAST_STEPS)
    return first if num_steps == 1 else last + int((num_steps - 1 - index) / (num_steps - 1) * (first - last))


@dataclass(frozen=True, kw_only=True)
class MaskedSampling:
    """Settings of the masked schedule, beside those of a head: in how many iterations all tokens are revealed."""

    num_iter: int = NUM_ITER.field(64)


@dataclass(frozen=True, kw_only=True)
class OrderedSampling(MaskedSampling):
    """Settings of the masked schedule where the order of the places is one of them too."""

    reveal_order: str = REVEAL_ORDER.field(RANDOM_ORDER)


@dataclass(frozen=True, kw_only=True)
class MaskedDiffusionSampling(OrderedSampling, DiffusionSampling):
    """MAR: the masked schedule with a diffusion head."""


@dataclass(frozen=True, kw_only=True)
class MaskedCategoricalSampling(OrderedSampling, CategoricalSampling):
    """MAR with cross-entropy: the masked schedule with a categorical head."""

    cfg_schedule: str = CFG_SCHEDULE.field("linear")


def as_option(name: str, value: object) -> str:
    """A setting as the command line takes it: by its own option, or by `--set` where a plug-in brings it."""
    return f"--{name.replace('_', '-')} {value}" if name in SETTINGS else f"--set {name}={value}"


def settings_of(sampling_type: type) -> dict[str, Setting]:
    """The settings that a sampling type has, by name."""
    fields = dataclasses.fields(sampling_type)
    return {field.name: field.metadata["setting"] for field in fields if "setting" in field.metadata}


def stored_settings(settings: Guidance) -> dict[str, Any]:
    """`settings` by name, as records and run folders hold them: without what goes unsaid."""
    known = settings_of(type(settings))
    values = dataclasses.asdict(settings).items()
    return {name: value for name, value in values if name not in known or value != known[name].unsaid}


def make_settings(sampling_type: type[Settings], given: Mapping[str, Any]) -> Settings:
    """`sampling_type` from the settings that were given; ValueError for an unknown name or a value out of range."""
    known = settings_of(sampling_type)
    for name in given:
        if name not in known:
            raise unknown_name("sampling setting of this generator", name, known)
    return sampling_type(**given)


class SamplingWarning(UserWarning):
    """A sampling setting that is valid, but not one that this model was made for."""


def resolve_settings(generator: Generator, given: Mapping[str, Any]) -> Any:
    """The settings of a generation: as given, else the generator's own, else the defaults of its `sampling_type`.

    Its own are those of its preset (`load_generator`); what a preset says of another head than this one is left out.
    Raises ValueError as `make_settings` does.
    """
    own = known_ones(generator.sampling_type, own_sampling(generator))
    return make_settings(generator.sampling_type, {**own, **given})


def known_ones(sampling_type: type, own: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a preset sets, the settings that `sampling_type` has: another head than the preset's has others."""
    known = settings_of(sampling_type)
    return {name: value for name, value in own.items() if name in known}


def own_sampling(generator: Generator) -> Mapping[str, Any]:
    """What the preset of `generator` sets; nothing for a generator that has none."""
    return getattr(generator, "default_sampling", {})


def warn_of_last_timesteps(generator: Generator, settings: Guidance) -> None:
    """A `SamplingWarning` where a model whose own sampler leaves the last timesteps out is to start from the last."""
    own, chosen = own_sampling(generator).get("head_sampler"), getattr(settings, "head_sampler", None)
    if own == "ddpm-trimmed" and chosen == "ddpm":
        warnings.warn(
            f"head_sampler {chosen!r} starts at the last timestep, which this model was trained too briefly for: expect"
            f" spoilt images; its own is {own!r}: ddpm from timestep {TRIMMED_START} of {TRAIN_STEPS} on",
            SamplingWarning,
            stacklevel=4,  # the caller of `generate`, which has a decorator
        )
