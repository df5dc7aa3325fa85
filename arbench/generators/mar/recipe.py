"""How MAR is trained: the paper's recipe for one's own data, and that of the digits."""

from __future__ import annotations

from arbench.generators.common.recipe import FLIPS, MILD
from arbench.generators.recipe import TrainConfig

# arXiv:2406.11838, appendix: 400 epochs of ImageNet, batch 2048, rate 8e-4 constant after 100 epochs, decay 0.02, EMA
# 0.9999, flips.
RECIPE = TrainConfig(
    steps=250_000, batch_size=2048, learning_rate=8e-4, warmup_steps=62_500, schedule="constant", weight_decay=0.02,
    clip_norm=3.0, ema_rate=0.9999, views=2, augmentation=FLIPS, checkpoint_every=5000,
)  # fmt: skip
DIGITS_RECIPE = TrainConfig(
    steps=6000, batch_size=32, learning_rate=1e-3, weight_decay=0.02, clip_norm=3.0, ema_rate=0.999, views=32,
    augmentation=MILD, sinusoidal_positions=True, read_out_weight=1.0,
)  # fmt: skip
