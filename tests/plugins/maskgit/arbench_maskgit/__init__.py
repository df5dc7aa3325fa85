"""MaskGIT: all hidden tokens drawn at once, the surest kept, the others drawn again (arXiv:2202.04200)."""

from __future__ import annotations

from arbench import Method
from arbench.generators.recipe import TrainConfig
from arbench.generators.spec import Preset
from arbench.registry import lazy
from arbench_maskgit.config import MaskGITConfig, MaskGITSampling

DIGITS = Preset(
    name="maskgit-digits",
    method="maskgit",
    config={"width": 96, "depth": 5, "heads": 3, "num_classes": 10, "grid": 8, "vocab_size": 256},
    tokenizer="digits-vq",
    image_size=32,
    sampling={"num_iter": 8, "cfg_scale": 2.0, "choice_temperature": 2.0},
    data="digits",
)
# The paper's transformer (section 4.1) over the codes of LlamaGen's tokenizer in place of its own.
IMAGENET = Preset(
    name="maskgit-llamagen-vq",
    method="maskgit",
    config={"width": 768, "depth": 24, "heads": 8, "num_classes": 1000, "grid": 16, "vocab_size": 16384},
    tokenizer="llamagen-vq",
    image_size=256,
    sampling={"num_iter": 8, "choice_temperature": 4.5},
)

METHOD = Method(
    name="maskgit",
    label="MaskGIT",
    config=MaskGITConfig,
    model=lazy("arbench_maskgit.model:MaskGIT"),
    schedule=lazy("arbench_maskgit.schedule:by_confidence"),
    sampling=(MaskGITSampling,),
    presets=(DIGITS, IMAGENET),
    tiny={"width": 32, "depth": 2, "heads": 2, "num_classes": 5, "grid": 4, "vocab_size": 17},
    recipe=TrainConfig(steps=1_500_000, batch_size=256, learning_rate=1e-4, betas=(0.9, 0.96), weight_decay=4.5e-2),
    digits_recipe=TrainConfig(steps=3000, batch_size=128, learning_rate=1e-3, views=8),
    backbone_work=lazy("arbench_maskgit.work:backbone_work"),
    head_work=lazy("arbench_maskgit.work:head_work"),
    memory=lazy("arbench_maskgit.work:memory"),
)
