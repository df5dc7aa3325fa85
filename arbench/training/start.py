"""A start for short trainings: learned position tables that begin as sinusoids instead of noise."""

from __future__ import annotations

import torch

from arbench.generators.common.layers import grid_sinusoids
from arbench.protocols import Generator

TABLE_DEVIATION = 0.5  # beside embedded tokens of about unit deviation


@torch.no_grad()
def start_positions(model: Generator) -> None:
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
        sinusoids = grid_sinusoids(model.grid, table.shape[-1])
        table[0, -len(sinusoids) :] = sinusoids.to(table) * (TABLE_DEVIATION / sinusoids.std())
