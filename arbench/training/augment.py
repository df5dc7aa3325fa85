"""Mild random views of images, drawn for the whole batch at once or for each image from numbers of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from arbench.generators.recipe import Augmentation

Randomness = torch.Generator | Sequence[torch.Generator]  # of a batch, or of each of its images (on the CPU)


def augment(images: Tensor, settings: Augmentation, rng: Randomness) -> Tensor:
    """Random views of images (B, 3, H, W) in [-1, 1], same shape and range; borders are repeated outwards.

    With a generator an image, no view depends on which others are in its batch.
    """
    if not settings:
        return images
    views = F.grid_sample(
        images,
        F.affine_grid(affine_matrices(images, settings, rng), list(images.shape), align_corners=False),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    if settings.contrast:
        views = (views + 1) * (1 + settings.contrast * uniform(images, rng)).view(-1, 1, 1, 1) - 1
    if settings.noise:
        deviation = settings.noise * uniform(images, rng).abs().view(-1, 1, 1, 1)
        views = views + deviation * normal(views, rng)
    if settings.flip:
        views = torch.where((uniform(images, rng) > 0).view(-1, 1, 1, 1), views, views.flip(-1))
    return views.clamp(-1, 1)


def uniform(like: Tensor, rng: Randomness) -> Tensor:
    """(B,) numbers in [-1, 1), one an image."""
    if isinstance(rng, torch.Generator):
        drawn = torch.rand(len(like), generator=rng, device=rng.device)
    else:
        drawn = torch.stack([torch.rand((), generator=own) for own in rng])
    return (2 * drawn - 1).to(like)


def normal(like: Tensor, rng: Randomness) -> Tensor:
    """Standard normal numbers of the shape of `like` (B, …)."""
    if isinstance(rng, torch.Generator):
        return torch.randn(like.shape, generator=rng, device=rng.device).to(like)
    return torch.stack([torch.randn(like.shape[1:], generator=own) for own in rng]).to(like)


def affine_matrices(images: Tensor, settings: Augmentation, rng: Randomness) -> Tensor:
    """(B, 2, 3) sampling matrices on `affine_grid`'s [-1, 1] coordinates: rotation, scale, shear, shift."""
    height, width = images.shape[-2:]
    angle = uniform(images, rng) * settings.rotation * math.pi / 180
    size = 1 / (1 + settings.scale * uniform(images, rng))
    shear = settings.shear * uniform(images, rng)
    cos, sin = angle.cos() * size, angle.sin() * size
    x = torch.stack([cos, cos * shear - sin, 2 * settings.shift / width * uniform(images, rng)], dim=1)
    y = torch.stack([sin, sin * shear + cos, 2 * settings.shift / height * uniform(images, rng)], dim=1)
    return torch.stack([x, y], dim=1)  # 2 × (B, 3) -> (B, 2, 3)
