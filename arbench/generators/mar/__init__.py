"""MAR: masked autoregression in random order, a set of tokens an iteration (arXiv:2406.11838)."""

from __future__ import annotations

from arbench.generators.common.recipe import MAR_EVALUATIONS
from arbench.generators.mar.config import MARConfig
from arbench.generators.mar.presets import PRESETS, both
from arbench.generators.mar.recipe import DIGITS_RECIPE, RECIPE, SPEED
from arbench.generators.mar.release import CARDS, RELEASE
from arbench.generators.spec import Method
from arbench.registry import lazy
from arbench.settings import MaskedCategoricalSampling, MaskedDiffusionSampling

METHOD = Method(
    name="mar",
    order=0,
    colour="#0072B2",
    marker="o",
    config=MARConfig,
    model=lazy("arbench.generators.mar.model:MAR"),
    schedule="masked",
    sampling=(MaskedDiffusionSampling, MaskedCategoricalSampling),
    presets=PRESETS,
    package="arbench",
    tiny={
        **both(32, 2, 2),
        **{"num_classes": 5, "grid": 4, "buffer_size": 3, "channels": 3, "head_depth": 2, "head_width": 24},
    },
    shorthands={name: (f"encoder_{name}", f"decoder_{name}") for name in ("width", "depth", "heads")},
    release=RELEASE,
    cards=CARDS,
    approximations=lazy("arbench.generators.mar.approximate:approximations"),
    precision="mixed-float16",  # the release samples under CUDA autocast, which is float16
    recipe=RECIPE,
    digits_recipe=DIGITS_RECIPE,
    evaluations=MAR_EVALUATIONS,
    training_memory=lazy("arbench.generators.mar.work:training_memory"),
    training_speed=SPEED,
    backbone_work=lazy("arbench.generators.mar.work:masked_work"),
    head_work=lazy("arbench.heads.work:head_work"),
    memory=lazy("arbench.generators.mar.work:masked_memory"),
    compared=({"num_iter": 2}, {"num_iter": 4}),
    traded=("num_iter", "iterations"),
)
