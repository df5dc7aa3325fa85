"""The latents of a tokenizer over a data set: their mean and deviation, and the scale that follows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arbench.images.data import ImageData
from arbench.images.pixels import to_float
from arbench.protocols import Tokenizer
from arbench.tokenizer.load import encode_images, unscaled

BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class LatentStatistics:
    """Mean and standard deviation of a tokenizer's unscaled latents, over all and by channel (C,)."""

    num_images: int
    mean: float
    std: float
    channel_mean: np.ndarray
    channel_std: np.ndarray

    @property
    def scale(self) -> float:
        """The factor that brings the latents to unit deviation, as LDM and MAR count it: over all channels at once."""
        return 1 / self.std

    @property
    def channel_scale(self) -> np.ndarray:
        """The factor of each channel (C,) alone; 1 for one that does not vary."""
        return 1 / np.where(self.channel_std > 0, self.channel_std, 1.0)


def latent_statistics(
    tokenizer: Tokenizer,
    data: ImageData,
    *,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> LatentStatistics:
    """Statistics of the latents of `data`: of posterior samples where there is a posterior, else of what is encoded.

    Raises ValueError for a tokenizer without latents and for latents that do not vary.
    """
    sums: list[tuple[Tensor, Tensor]] = []
    count = 0
    for start in range(0, len(data), batch_size):
        images = to_float(data.images(range(start, min(start + batch_size, len(data))))).to(device)
        mean, variance = _latent_moments(tokenizer, images)
        sums.append((mean.sum(dim=(0, 2, 3)), (mean.square() + variance).sum(dim=(0, 2, 3))))
        count += mean.shape[0] * mean.shape[2] * mean.shape[3]
        if progress is not None:
            progress(len(images))
    if not count:
        raise ValueError(f"{data.name}: no images to take latents of")
    channel_mean, channel_square = (torch.stack(parts).sum(0) / count for parts in zip(*sums, strict=True))
    overall = float(channel_mean.mean())
    std = math.sqrt(max(0.0, float(channel_square.mean()) - overall**2))
    if std == 0:
        raise ValueError(f"tokenizer {tokenizer.name!r}: its latents of {data.name} do not vary; no scale follows")
    by_channel = (channel_square - channel_mean.square()).clamp_min(0).sqrt()
    return LatentStatistics(
        num_images=len(data),
        mean=overall,
        std=std,
        channel_mean=channel_mean.numpy(),
        channel_std=by_channel.numpy(),
    )


def _latent_moments(tokenizer: Tokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the unscaled latents (B, C, h, w), float64 on the CPU; variance 0 without a posterior."""
    if hasattr(tokenizer, "moments"):
        mean, std = tokenizer.moments(images)
        return mean.double().cpu(), std.double().cpu().square()
    if hasattr(tokenizer, "latents"):
        latents = tokenizer.latents(images)
    elif tokenizer.kind == "continuous":
        latents = unscaled(tokenizer, encode_images(tokenizer, images))
    else:
        raise ValueError(f"tokenizer {tokenizer.name!r} is discrete and has no latents(images); no scale to measure")
    latents = latents.double().cpu()
    return latents, torch.zeros_like(latents)
