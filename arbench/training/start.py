"""How a training starts: an output layer of zeros, dropout at its places, positions that begin as sinusoids."""

from __future__ import annotations

import torch
from torch import nn

from arbench.generators.common.layers import grid_sinusoids
from arbench.heads.categorical import CategoricalHead
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


@torch.no_grad()
def zero_output(model: Generator) -> None:
    """Let every code be equally likely at first (LlamaGen release); a diffusion head's output starts at zero anyway."""
    head = model.draw_head()
    if isinstance(head, CategoricalHead):
        head.weight.zero_()


def set_dropout(model: nn.Module, chance: float) -> None:
    """Drop with `chance` at every place that the model has for it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = chance
