"""How PAR is trained: the paper's recipe for one's own data, and that of the digits."""

from __future__ import annotations

from arbench.generators.common.recipe import FLIPS, MILD
from arbench.generators.recipe import TrainConfig

# arXiv:2412.15119, section 4: as LlamaGen, 300 epochs of ImageNet, rate 1e-4 a batch of 256, decay 0.05.
RECIPE = TrainConfig(
    steps=1_500_000, batch_size=256, learning_rate=1e-4, warmup_steps=0, schedule="constant", weight_decay=0.05,
    ema_rate=0.9999, views=10, augmentation=FLIPS, checkpoint_every=5000,
)  # fmt: skip
DIGITS_RECIPE = TrainConfig(
    steps=3000, batch_size=64, learning_rate=1e-3, weight_decay=0.05, ema_rate=0.998, views=32, augmentation=MILD,
)  # fmt: skip
