"""Pictures as tensors and bytes: one conversion to uint8 for the whole suite, resizing, PNG files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from arbench.machine.streams import Fetched

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


def check_finite(values: Tensor, what: str) -> None:
    """Raise ValueError with the likely causes where `values` holds NaN or infinity."""
    checks = FiniteChecks()
    checks.add(values, what)
    checks.settle()


class FiniteChecks:
    """Whether values are finite, counted where they are; the counts are asked for later."""

    def __init__(self) -> None:
        self._found: list[tuple[Tensor | Fetched, int, str]] = []

    def add(self, values: Tensor, what: str) -> None:
        """Count what is not finite among `values`, which are `what`; waits for nothing."""
        self.counted(count_bad(values), values.numel(), what)

    def counted(self, bad: Tensor, total: int, what: str) -> None:
        """That `bad` () of `total` values are not finite was counted elsewhere."""
        self._found.append((bad, total, what))

    def fetch(self) -> None:
        """Send the counts to the host, behind what is queued so far."""
        self._found = [
            (Fetched(bad) if isinstance(bad, Tensor) else bad, total, what) for bad, total, what in self._found
        ]

    def settle(self) -> None:
        """Raise ValueError, with the likely causes, for the first that was not finite; waits for the counts."""
        for counted, total, what in self._found:
            bad = int(counted if isinstance(counted, Tensor) else counted.numpy())
            if bad:
                raise ValueError(
                    f"{what}: {bad} of {total} values are not finite; likely causes: an EMA that is still cold "
                    "(try --which raw), float16 overflow (try --dtype bfloat16 or float32), or weights of another model"
                )


def count_bad(values: Tensor) -> Tensor:
    """How many `values` are NaN or infinite, () int64."""
    return (~torch.isfinite(values)).sum()


def to_uint8(images: Tensor) -> np.ndarray:
    """Floats (B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3) by rounding 255 (x + 1) / 2 after clamping.

    Raises ValueError where a value is NaN or infinite.
    """
    check_finite(images, "decoded images")
    return to_levels(images).cpu().numpy()


def to_levels(images: Tensor) -> Tensor:
    """As `to_uint8`, unchecked and on the device where they are."""
    levels = images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()


def to_float(images: np.ndarray | Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1], on the device of a tensor."""
    levels = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    return levels.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pil(images: Tensor | np.ndarray) -> list[Picture]:
    """Pillow images of floats (B, 3, H, W) in [-1, 1], or of uint8 (B, H, W, 3); ValueError for anything else."""
    shape, dtype = tuple(images.shape), str(images.dtype).removeprefix("torch.")
    if isinstance(images, Tensor) and images.is_floating_point() and images.dim() == 4 and shape[1] == 3:
        images = to_uint8(images)
    elif not (dtype == "uint8" and len(shape) == 4 and shape[3] == 3):
        raise ValueError(
            f"images of shape {shape}, {dtype}: expected floats (B, 3, H, W) in [-1, 1] or uint8 (B, H, W, 3)"
        )
    return [Image.fromarray(np.ascontiguousarray(image)) for image in np.asarray(images)]


def resize_bicubic(images: Tensor, height: int) -> Tensor:
    """Floats (B, 3, H, W) to (B, 3, height, W height / H): bicubic without antialias, as LlamaGen brings 384 to 256."""
    size = (height, round(images.shape[-1] * height / images.shape[-2]))
    return F.interpolate(images.float(), size=size, mode="bicubic", align_corners=False, antialias=False)
