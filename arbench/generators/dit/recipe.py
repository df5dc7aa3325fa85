"""How DiT is trained: the paper's recipe for one's own data, and that of the digits."""

from __future__ import annotations

from arbench.generators.common.recipe import MILD
from arbench.generators.recipe import TrainConfig

# arXiv:2212.09748, section 4: 400k steps, batch 256, constant rate 1e-4, no decay, EMA 0.9999, flips.
RECIPE = TrainConfig(
    steps=400_000, batch_size=256, learning_rate=1e-4, warmup_steps=0, schedule="constant", ema_rate=0.9999,
    ema_warmup=False, view_set="mirror", checkpoint_every=5000,
)  # fmt: skip
DIGITS_RECIPE = TrainConfig(
    steps=6000, batch_size=32, learning_rate=1e-3, ema_rate=0.999, views=32, augmentation=MILD,
)  # fmt: skip
