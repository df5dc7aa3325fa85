"""How ARPG is trained: the paper's recipe for one's own data, and that of the digits."""

from __future__ import annotations

from arbench.generators.common.recipe import MILD
from arbench.generators.recipe import TrainConfig

# arXiv:2503.10568, section 4.1: 400 epochs of ImageNet, batch 1024, rate 1e-4 a batch of 256, 100 epochs of warm-up,
# then a cosine down to 1e-5, decay 0.05, bfloat16; the released weights are no average.
RECIPE = TrainConfig(
    epochs=400, batch_size=1024, learning_rate=4e-4, warmup_epochs=100, schedule="cosine", final_rate=0.025,
    weight_decay=0.05, dropout=0.1, zero_output=True, ema_rate=0.0, dtype="bfloat16", checkpoint_every=5000,
    compiled=True,
)  # fmt: skip
DIGITS_RECIPE = TrainConfig(
    steps=1500, batch_size=32, learning_rate=2e-3, weight_decay=0.05, ema_rate=0.998, views=32, augmentation=MILD,
)  # fmt: skip
