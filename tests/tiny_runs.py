"""Runs small enough for a test: the real classes, a hundredth of the digits models' size, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

TINY_GPT = {"width": 16, "depth": 1, "heads": 2}
TINY_MASKED = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in TINY_GPT.items()}
TINY = {
    "ar": {"method": "ar", "config": TINY_GPT},
    "par": {"method": "par", "config": TINY_GPT},
    "mar": {
        "method": "mar",
        "config": {**TINY_MASKED, "head_depth": 1, "head_width": 16, "buffer_size": 2},
        "num_iter": 3,
        "head_steps": 2,
    },
}


def tiny(method: str = "par", **changes: Any) -> dict[str, Any]:
    """Keywords of `arbench.run` for a tiny model that is not scored, changed by `changes`."""
    quiet = {"weights": "random", "tokenizer_weights": "random", "num_images": 10, "evaluate": False}
    return {**TINY[method], **quiet, **changes}


def only_run(out: Path) -> Path:
    """The one run folder under `out`."""
    (path,) = out.iterdir()
    return path


def images_of(run: Path) -> np.ndarray:
    """All images of a run folder in order, (N, H, W, 3) uint8."""
    return np.concatenate([np.load(file) for file in sorted((run / "shards").glob("*.npy"))])
