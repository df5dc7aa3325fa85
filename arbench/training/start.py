"""A start for short trainings: learned position tables that begin as sinusoids instead of noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_PERIOD = 100.0  # tokens, well above the side of a small grid
TABLE_DEVIATION = 0.5  # beside embedded tokens of about unit deviation


@torch.no_grad()
def start_positions(model: nn.Module) -> None:
    """Fill a masked generator's learned positions with 2-D sinusoids of its grid, the buffer's rows left as they are.

    MAR starts them as noise of deviation 0.02, fifty times below the tokens they are added to: which token is a
    neighbour is then found out late, which a training of hours does not mind and one of minutes does. Raises ValueError
    for a generator without such tables.
    """
    names = ("encoder_pos_embed_learned", "decoder_pos_embed_learned")
    if not all(hasattr(model, name) for name in names):
        raise ValueError(f"{type(model).__name__} has no learned positions to start as sinusoids")
    for name in names:
        table = getattr(model, name)  # (1, buffer + N, D)
        sinusoids = grid_sinusoids(model.grid, table.shape[-1])  # type: ignore[arg-type]
        table[0, -len(sinusoids) :] = sinusoids.to(table) * (TABLE_DEVIATION / sinusoids.std())


def grid_sinusoids(grid: tuple[int, int], width: int) -> Tensor:
    """(rows · columns, width) float32: half of the channels turn with the row, half with the column."""
    half = width // 4
    rates = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half) / half) * math.pi / 2
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    angles = [place.flatten()[:, None] * rates for place in (rows, columns)]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return nn.functional.pad(table, (0, width - table.shape[1]))
