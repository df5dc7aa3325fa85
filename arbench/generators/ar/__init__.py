"""AR: LlamaGen's GPT, one token a step (arXiv:2406.06525)."""

from __future__ import annotations

from arbench.generators.ar.config import ARConfig
from arbench.generators.ar.presets import PRESETS
from arbench.generators.ar.recipe import DIGITS_RECIPE, RECIPE
from arbench.generators.ar.release import CARDS, RELEASE
from arbench.generators.spec import Method
from arbench.registry import lazy
from arbench.settings import CategoricalSampling, DiffusionSampling

METHOD = Method(
    name="ar",
    order=2,
    colour="#009E73",
    marker="^",
    config=ARConfig,
    model=lazy("arbench.generators.ar.model:AR"),
    schedule="sequential",
    sampling=(CategoricalSampling, DiffusionSampling),
    presets=PRESETS,
    package="arbench",
    tiny={"width": 32, "depth": 2, "heads": 2, "num_classes": 5, "grid": 4, "vocab_size": 17},
    release=RELEASE,
    cards=CARDS,
    precision="bfloat16",  # LlamaGen samples with all of its GPT in bf16
    recipe=RECIPE,
    digits_recipe=DIGITS_RECIPE,
    training_memory=lazy("arbench.generators.common.work:causal_training_memory"),
    backbone_work=lazy("arbench.generators.common.work:causal_work"),
    head_work=lazy("arbench.heads.work:head_work"),
    memory=lazy("arbench.generators.common.work:causal_memory"),
    static_memory=lazy("arbench.generators.common.work:causal_static_memory"),
    compared=(),  # as many steps as it was trained for
    compared_sets=4,
    family="AR, PAR",  # one family by the tokens of a step
    traded=("parallel", "tokens a step"),
)
