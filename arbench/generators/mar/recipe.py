"""How MAR is trained: the paper's recipe for one's own data, and that of the digits."""

from __future__ import annotations

from dataclasses import replace

from arbench.generators.common.recipe import MAR_RECIPE, MILD
from arbench.generators.recipe import TrainConfig
from arbench.generators.spec import TrainingSpeed

RECIPE = replace(MAR_RECIPE, micro_batches=32)  # each of 32 processes drew a mask ratio of its own in a step
# 400 epochs in 1 day 11 hours on 16 of them, batch 128 each; encoded on the way in 1 day 7 hours on 32, batch 64 each.
SPEED = TrainingSpeed(
    preset="mar-l", images_per_second=254, device="H100", source="MAR's repository, cached latents",
    encoding=143, encoding_source="MAR's repository, images encoded on the way",
)  # fmt: skip
DIGITS_RECIPE = TrainConfig(
    steps=6000, batch_size=32, learning_rate=1e-3, weight_decay=0.02, clip_norm=3.0, ema_rate=0.999, views=32,
    augmentation=MILD, sinusoidal_positions=True, read_out_weight=1.0,
)  # fmt: skip
