"""What configurations are made of: checked values, grids, and the kinds of head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from arbench.validation import Limits

Grid = Annotated[int | tuple[int, int], Limits(meaning="a side or (rows, columns)")]
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


def require_rotary(width: int, heads: int) -> None:
    """Raise ValueError unless heads are equally wide, and as a 2-D rotary embedding needs them."""
    require(width % heads == 0, f"width {width}: not a multiple of heads {heads}")
    told = f"width {width} over heads {heads}: 2-D rotary needs a multiple of 4 channels a head"
    require((width // heads) % 4 == 0, told)
