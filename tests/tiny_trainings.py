"""Trainings of the papers' presets small enough for a test: a hundredth of their width, on a few pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from test_training_fit import GREYS, PLANE
from tiny_runs import TINY, TINY_GPT

from arbench.generators.methods import get_preset
from arbench.training.asked import method_job
from arbench.training.job import Job

SMALL: dict[str, dict[str, Any]] = {
    "ar-b": {"tokenizer": GREYS, "model_config": TINY_GPT},
    "mar-b": {"tokenizer": PLANE, "model_config": TINY["mar"]["config"]},
}


def pictures(
    folder: Path, *, classes: Sequence[str] = ("class-0", "class-1"), each: int = 4, side: int = 32, width: int = 0
) -> Path:
    """A folder of `classes` with `each` pictures of noise, of `side` pixels or `width` across."""
    random = np.random.default_rng(0)
    for label in classes:
        (folder / label).mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 256, (side, width or side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def tiny_training(name: str, data: Path, *, size: int = 32, steps: int = 2, **changes: Any) -> Job:
    """The job of a preset made small, `steps` of four images, on a folder of pictures; `changes` are of the job."""
    settings = {**SMALL[name], "data": str(data), "size": size, "device": "cpu", "workers": 0, **changes}
    job = method_job(get_preset(name).method, name, **settings)
    quick: dict[str, Any] = {
        **{"steps": steps, "epochs": 0.0, "batch_size": 4, "learning_rate": 1e-2},
        **{"warmup_epochs": 0.0, "warmup_steps": 0, "compiled": False, "dtype": "float32"},
    }
    return replace(job, config=replace(job.config, **quick))
