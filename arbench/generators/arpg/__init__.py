"""ARPG: randomised parallel decoding with a causal GPT (arXiv:2503.10568)."""

from __future__ import annotations

from arbench.generators.arpg.config import ARPGConfig, ARPGSampling
from arbench.generators.arpg.presets import PRESETS
from arbench.generators.arpg.recipe import DIGITS_RECIPE, RECIPE
from arbench.generators.arpg.release import CARDS, RELEASE
from arbench.generators.spec import Method
from arbench.registry import lazy

METHOD = Method(
    name="arpg",
    order=4,
    colour="#CC79A7",
    marker="D",
    config=ARPGConfig,
    model=lazy("arbench.generators.arpg.model:ARPG"),
    schedule="randomised",
    sampling=(ARPGSampling,),
    presets=PRESETS,
    package="arbench",
    tiny={"width": 32, "depth": 4, "heads": 2, "num_classes": 5, "grid": 4, "vocab_size": 17},
    release=RELEASE,
    cards=CARDS,
    precision="bfloat16",  # all of it in bf16
    recipe=RECIPE,
    digits_recipe=DIGITS_RECIPE,
    training_memory=lazy("arbench.generators.common.work:causal_training_memory"),
    backbone_work=lazy("arbench.generators.arpg.work:two_pass_work"),
    head_work=lazy("arbench.heads.work:head_work"),
    memory=lazy("arbench.generators.arpg.work:two_pass_memory"),
    static_memory=lazy("arbench.generators.arpg.work:two_pass_static_memory"),
    compared=({"num_iter": 4}, {"num_iter": 8}),
    compared_sets=4,
    traded=("num_iter", "iterations"),
)
