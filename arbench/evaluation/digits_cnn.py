"""The classifier of handwritten digits whose features and logits score the embedded default."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

FEATURE_WIDTH = 64
STAGE_WIDTHS = (32, 48, 64)
STAGE_SIDE = 4  # 32 pixels a side after three halvings
NUM_CLASSES = 10


def _stage(width_in: int, width: int) -> nn.Sequential:
    """Convolution, norm, SiLU and a halving of the side. GroupNorm: the same in training and use, any batch size."""
    return nn.Sequential(nn.Conv2d(width_in, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU(), nn.MaxPool2d(2))


class DigitsCNN(nn.Module):
    """Three convolution stages, 64 features, 10 logits; about 109k parameters.

    Images are floats (B, 3, 32, 32) in [-1, 1], grey shown as RGB. Dropout acts in training mode only.
    """

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        widths = (3, *STAGE_WIDTHS)
        self.stages = nn.Sequential(*(_stage(before, width) for before, width in pairwise(widths)))
        self.project = nn.Linear(STAGE_WIDTHS[-1] * STAGE_SIDE**2, FEATURE_WIDTH)
        self.classify = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Linear(FEATURE_WIDTH, NUM_CLASSES))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) in [-1, 1] to (B, 64): linear outputs, so nearer to a Gaussian than rectified ones."""
        return self.project(self.stages(images).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) in [-1, 1] to logits (B, 10)."""
        return self.classify(self.features(images))
