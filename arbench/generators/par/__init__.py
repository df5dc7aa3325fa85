"""PAR: AR that draws n distant tokens at once (arXiv:2412.15119)."""

from __future__ import annotations

from arbench.generators.ar.recipe import DIGITS_RECIPE, RECIPE
from arbench.generators.par.config import PARConfig
from arbench.generators.par.presets import PRESETS
from arbench.generators.par.release import CARDS, RELEASE
from arbench.generators.spec import Method
from arbench.registry import lazy
from arbench.settings import CategoricalSampling, DiffusionSampling

METHOD = Method(
    name="par",
    order=1,
    colour="#D55E00",
    marker="s",
    config=PARConfig,
    model=lazy("arbench.generators.par.model:PAR"),
    schedule="sequential",
    sampling=(CategoricalSampling, DiffusionSampling),
    presets=PRESETS,
    package="arbench",
    tiny={"width": 32, "depth": 2, "heads": 2, "num_classes": 5, "grid": 4, "vocab_size": 17, "parallel": 4},
    release=RELEASE,
    cards=CARDS,
    borrows={"ar": {"parallel": 1}},  # one token at a time is AR
    precision="bfloat16",  # as LlamaGen's
    # arXiv:2412.15119, section 4, and the release's script, whose rate is constant (the paper: 15 epochs of warm-up,
    # then a cosine to 0): as AR. The released weights are raw.
    recipe=RECIPE,
    digits_recipe=DIGITS_RECIPE,
    training_memory=lazy("arbench.generators.common.work:causal_training_memory"),
    backbone_work=lazy("arbench.generators.common.work:causal_work"),
    head_work=lazy("arbench.heads.work:head_work"),
    memory=lazy("arbench.generators.common.work:causal_memory"),
    static_memory=lazy("arbench.generators.common.work:causal_static_memory"),
    compared=({"model": "par-digits-16x"},),  # each draws as many tokens a step as it was trained for
    compared_sets=4,
    family="AR, PAR",
    traded=("parallel", "tokens a step"),
)
