"""How AR is trained: LlamaGen's recipe for one's own data, and that of the digits; MAR's cells have MAR's own."""

from __future__ import annotations

from arbench.generators.common.recipe import DIFFUSION_HEAD, MILD
from arbench.generators.recipe import TrainConfig

# arXiv:2406.06525, section 3, and the release's script: rate 1e-4 a batch of 256, constant; the released weights
# are raw.
RECIPE = TrainConfig(
    epochs=300, batch_size=256, learning_rate=1e-4, warmup_steps=0, schedule="constant", weight_decay=0.05,
    undecayed=DIFFUSION_HEAD, dropout=0.1, zero_output=True, ema_rate=0.0, dtype="bfloat16", view_set="ten-crop",
    checkpoint_every=5000, compiled=True,
)  # fmt: skip
DIGITS_RECIPE = TrainConfig(
    steps=3000, batch_size=64, learning_rate=1e-3, weight_decay=0.05, ema_rate=0.998, views=32, augmentation=MILD,
)  # fmt: skip
