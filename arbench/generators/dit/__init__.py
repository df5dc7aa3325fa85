"""DiT: a diffusion transformer over the whole image, the baseline (arXiv:2212.09748)."""

from __future__ import annotations

from arbench.generators.dit.config import DiTConfig, JointSampling
from arbench.generators.dit.presets import PRESETS
from arbench.generators.dit.recipe import DIGITS_RECIPE, RECIPE
from arbench.generators.dit.release import RELEASE
from arbench.generators.spec import Method
from arbench.registry import lazy

METHOD = Method(
    name="dit",
    label="DiT",
    order=3,
    colour="#E69F00",
    marker="P",
    config=DiTConfig,
    model=lazy("arbench.generators.dit.model:DiT"),
    schedule="joint",
    sampling=(JointSampling,),
    presets=PRESETS,
    package="arbench",
    tiny={"width": 32, "depth": 2, "heads": 2, "num_classes": 5, "grid": 4, "channels": 3},
    release=RELEASE,
    recipe=RECIPE,
    digits_recipe=DIGITS_RECIPE,
    backbone_work=lazy("arbench.generators.dit.work:class_work"),
    head_work=lazy("arbench.generators.dit.work:denoising_work"),
    memory=lazy("arbench.generators.dit.work:joint_memory"),
    compared=({"head_steps": 4}, {"head_steps": 8}, {"head_steps": 16}),
    compared_default=False,  # 50 steps take longer than all these together
    traded=("head_steps", "steps"),
)
