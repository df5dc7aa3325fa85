"""What every generator has: its configuration, its sampling settings, and the protocol that the sampler speaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from arbench.registry import unknown_name

LABEL_DROP = 0.1  # share of labels replaced by "unconditional" in training, all three papers
HEADS = ("categorical", "diffusion")


def as_grid(grid: int | Sequence[int]) -> tuple[int, int]:
    """A token grid as (rows, columns); an int is a square."""
    sides = (grid, grid) if isinstance(grid, int) else tuple(int(side) for side in grid)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"grid {grid!r}: expected a positive side or (rows, columns)")
    return sides


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance: its scale (1 is none) and how it changes over the generation."""

    cfg_scale: float = 1.0
    cfg_schedule: str = "constant"
    cfg_interval: int = -1

    def __post_init__(self) -> None:
        require(self.cfg_scale >= 0, f"cfg_scale {self.cfg_scale}: expected 0 or more (1 is no guidance)")
        if self.cfg_schedule not in ("constant", "linear"):
            raise unknown_name("cfg_schedule", self.cfg_schedule, ("constant", "linear"))
        require(self.cfg_interval >= -1, f"cfg_interval {self.cfg_interval}: expected -1 (always) or more")

    @property
    def guided(self) -> bool:
        """Whether the unconditional prediction is needed at all."""
        return self.cfg_scale != 1


@dataclass(frozen=True, kw_only=True)
class CategoricalSampling(Guidance):
    """Settings of a categorical head: temperature (0 is greedy), then top-k (0 keeps all), then top-p (1 keeps all)."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature >= 0, f"temperature {self.temperature}: expected 0 (greedy) or more")
        require(self.top_k >= 0, f"top_k {self.top_k}: expected 0 (keep all) or more")
        require(0 < self.top_p <= 1, f"top_p {self.top_p}: expected above 0 and at most 1")

    @property
    def guided(self) -> bool:
        """Logits are guided above 1 only (LlamaGen release)."""
        return self.cfg_scale > 1


@dataclass(frozen=True, kw_only=True)
class DiffusionSampling(Guidance):
    """Settings of a diffusion head: scale of the added noise, number of denoising steps, and their solver."""

    cfg_schedule: str = "linear"
    temperature: float = 1.0
    head_steps: int = 100
    head_sampler: str = "ddpm"

    def __post_init__(self) -> None:
        from arbench.heads.schedule import TRAIN_STEPS
        from arbench.heads.solvers import SOLVERS

        super().__post_init__()
        require(self.temperature >= 0, f"temperature {self.temperature}: expected 0 or more")
        require(1 <= self.head_steps <= TRAIN_STEPS, f"head_steps {self.head_steps}: expected 1 to {TRAIN_STEPS}")
        if self.head_sampler not in SOLVERS:
            raise unknown_name("head_sampler", self.head_sampler, SOLVERS)


@dataclass(frozen=True, kw_only=True)
class MaskedSampling:
    """Settings of the masked schedule: in how many iterations all tokens are revealed."""

    num_iter: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        require(self.num_iter >= 1, f"num_iter {self.num_iter}: expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class MaskedDiffusionSampling(MaskedSampling, DiffusionSampling):
    """MAR: the masked schedule with a diffusion head."""


@dataclass(frozen=True, kw_only=True)
class MaskedCategoricalSampling(MaskedSampling, CategoricalSampling):
    """MAR with cross-entropy: the masked schedule with a categorical head."""

    cfg_schedule: str = "linear"


def make_settings(sampling_type: type, given: dict[str, Any]) -> Any:
    """`sampling_type` from the settings that were given; an unknown name or a value of another type is a ValueError."""
    fields = {field.name: field for field in dataclasses.fields(sampling_type)}
    for name, value in given.items():
        if name not in fields:
            raise unknown_name("sampling setting of this generator", name, fields)
        wanted = type(fields[name].default)
        fits = isinstance(value, (int, float) if wanted is float else wanted) and not isinstance(value, bool)
        require(fits, f"{name} {value!r}: expected {wanted.__name__}")
    return sampling_type(**given)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a schedule: which tokens are revealed, and where the generation stands."""

    positions: Tensor  # (B, n) raster indices revealed now
    known: int  # tokens revealed before this step
    total: int  # tokens of an image
    clock: int  # what `cfg_interval` is compared with; below 0 guidance always holds

    @property
    def size(self) -> int:
        return self.positions.shape[1]


class Generator(Protocol):
    """What the sampler needs of a generator; it never asks which method it is running."""

    method: str
    kind: str  # "discrete" or "continuous": the tokens it makes
    grid: tuple[int, int]
    num_classes: int
    config: Any
    sampling_type: type
    schedule: str  # name of its schedule: "sequential" or "masked"

    def draw_head(self) -> Any:
        """The head: `draw(condition, unconditional, scale, settings, noise, positions)`."""

    def begin(self, labels: Tensor, guided: bool, reveal_order: Tensor) -> Any:
        """The state of a generation with nothing revealed; `reveal_order` (B, N)."""

    def conditions(self, state: Any, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Condition vectors (B, n, D) of the step's positions, and the unconditional ones where guided."""

    def reveal(self, state: Any, step: Step, tokens: Tensor) -> None:
        """Take in the tokens drawn for the step's positions: (B, n) codes or (B, n, C) continuous."""

    def result(self, state: Any) -> Tensor:
        """All tokens: ids (B, h, w), or scaled latents (B, C, H, W)."""


def patchify(latents: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) to tokens (B, N, C p^2), channel-major inside a token: channel, then row, then column."""
    batch, channels, height, width = latents.shape
    p = patch_size
    x = latents.reshape(batch, channels, height // p, p, width // p, p)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // p) * (width // p), channels * p * p)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """The inverse of `patchify`: (B, N, C p^2) -> (B, C, H, W)."""
    p, (rows, columns) = patch_size, grid
    x = tokens.reshape(len(tokens), rows, columns, -1, p, p)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), x.shape[3], rows * p, columns * p)


def drop_labels(labels: Tensor, num_classes: int, rng: torch.Generator | None) -> Tensor:
    """Replace a tenth of the labels by `num_classes`, which means unconditional: (B,) -> (B,)."""
    chance = torch.rand(labels.shape, generator=rng, device=labels.device)
    return torch.where(chance < LABEL_DROP, num_classes, labels)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of each sequence: (B, L, D), (B, n) -> (B, n, D)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
