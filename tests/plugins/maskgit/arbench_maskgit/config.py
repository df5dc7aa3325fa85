"""The shape of a MaskGIT, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass

from arbench.generators.common.config import as_grid, require
from arbench.settings import NUM_ITER, MaskedCategoricalSampling, Setting

CHOICE_TEMPERATURE = Setting(
    name="choice_temperature",
    kind=float,
    help="MaskGIT: how much chance has a say in which tokens are kept; 0 keeps the surest.",
    title="choice temperature",
    least=0,
    meaning="0 (keep the surest) or more",
)


@dataclass(frozen=True, kw_only=True)
class MaskGITConfig:
    """Width, depth and heads of the transformer, and the tokens that it draws."""

    width: int
    depth: int
    heads: int
    vocab_size: int
    num_classes: int = 1000
    grid: int | tuple[int, int] = 16
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", as_grid(self.grid))
        require(self.width % self.heads == 0, f"width {self.width}: not a multiple of heads {self.heads}")


@dataclass(frozen=True, kw_only=True)
class MaskGITSampling(MaskedCategoricalSampling):
    """The settings of masked codes, and MaskGIT's own."""

    num_iter: int = NUM_ITER.field(8)
    choice_temperature: float = CHOICE_TEMPERATURE.field(4.5)
