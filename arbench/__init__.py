"""arbench: AR, PAR and MAR image generation under one sampler and one evaluator.

The public names below are loaded on first use, so `import arbench` costs milliseconds and needs no torch.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; `typing` takes a third of the time in which Ctrl-C is not yet ours
__version__ = "0.1.0"

_PUBLIC = {
    "load_tokenizer": "arbench.tokenizer.load",
    "load_generator": "arbench.weights.load",
    "generate": "arbench.sampling.algorithm",
    "Method": "arbench.generators.spec",
    "Preset": "arbench.generators.spec",
    "FixedNoise": "arbench.sampling.noise",
    "to_pil": "arbench.images.pixels",
    "run": "arbench.runs.execute",
    "reproduce": "arbench.papers.run",
    "evaluate": "arbench.evaluation.metrics",
    "parameter_groups": "arbench.training.optimiser",
    "FrechetStatistics": "arbench.evaluation.statistics",
}
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from typing import Any

    from arbench.evaluation.metrics import evaluate as evaluate
    from arbench.evaluation.statistics import FrechetStatistics as FrechetStatistics
    from arbench.generators.spec import Method as Method
    from arbench.generators.spec import Preset as Preset
    from arbench.images.pixels import to_pil as to_pil
    from arbench.papers.run import reproduce as reproduce
    from arbench.runs.execute import run as run
    from arbench.sampling.algorithm import generate as generate
    from arbench.sampling.noise import FixedNoise as FixedNoise
    from arbench.tokenizer.load import load_tokenizer as load_tokenizer
    from arbench.training.optimiser import parameter_groups as parameter_groups
    from arbench.weights.load import load_generator as load_generator


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'arbench' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
