"""Averaged weights as a safetensors file: what training hands to everyone else."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from arbench.files import whole_file
from arbench.training.config import TrainConfig


def export_weights(path: Path, weights: dict[str, Tensor], *, target: str, config: TrainConfig) -> None:
    """Write `weights` as float32 (integers as they are), whole or not at all, with target and recipe as metadata."""
    from safetensors.torch import save_file

    tensors = {
        name: (value.float() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in weights.items()
    }
    metadata = {"format": "pt", "target": target, "training": json.dumps(config.as_dict(), sort_keys=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata=metadata)
        partial.chmod(0o644)  # safetensors makes its files readable by the owner alone
