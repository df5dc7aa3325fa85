"""What every generator has: its configuration, and the protocol that the sampler speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

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
    default_sampling: Mapping[str, Any]  # what its preset sets; may be left out
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
