"""Which class each image is asked for."""

from __future__ import annotations

import numpy as np

from arbench.registry import unknown_name

MODES = ("balanced", "random")


def make_labels(num_images: int, num_classes: int, mode: str = "balanced", seed: int = 0) -> np.ndarray:
    """(N,) int64: "balanced" goes round the classes (as MAR evaluates), "random" draws them (as LlamaGen and PAR do).

    Label i does not depend on `num_images`. Raises ValueError for a count below 1 or an unknown mode.
    """
    if num_images < 1:
        raise ValueError(f"num_images {num_images}: expected 1 or more")
    if mode not in MODES:
        raise unknown_name("label mode", mode, MODES)
    if mode == "balanced":
        return np.arange(num_images, dtype=np.int64) % num_classes
    return np.random.Generator(np.random.Philox(seed)).integers(num_classes, size=num_images, dtype=np.int64)
