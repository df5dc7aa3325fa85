"""How tokens lie: patches of latents as tokens, rows of a sequence, and labels that drop in training."""

from __future__ import annotations

import torch
from torch import Tensor

from arbench.protocols import Generator

LABEL_DROP = 0.1  # share of labels replaced by "unconditional" in training, all three papers


def patch_side(generator: Generator) -> int:
    """Latents a side that one token covers: `patch_size` of its configuration; 1 for codes, and where it has none."""
    return getattr(generator.config, "patch_size", 1) if generator.kind == "continuous" else 1


def latent_size(generator: Generator) -> tuple[int, int]:
    """Rows and columns of the latents, or of the codes, that the tokenizer decodes."""
    patch = patch_side(generator)
    return generator.grid[0] * patch, generator.grid[1] * patch


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


def with_unconditional(labels: Tensor, num_classes: int, guided: bool) -> Tensor:
    """Labels (B,) of all rows of a state: the images, then once more unconditionally where guided."""
    return torch.cat((labels, torch.full_like(labels, num_classes))) if guided else labels


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of each sequence: (B, L, D), (B, n) -> (B, n, D)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def span(x: Tensor, start: int | Tensor, count: int) -> Tensor:
    """`count` columns from `start` on: (B, N, ..) -> (B, count, ..); a view, or a copy where `start` is a tensor."""
    if isinstance(start, int):
        return x[:, start : start + count]
    return x.index_select(1, start + torch.arange(count, device=x.device))


def put(x: Tensor, start: int | Tensor, values: Tensor) -> None:
    """Write `values` (B, n, ..) over the columns of `x` from `start` on."""
    if isinstance(start, int):
        x[:, start : start + values.shape[1]] = values
    else:
        x.index_copy_(1, start + torch.arange(values.shape[1], device=x.device), values.to(x.dtype))
