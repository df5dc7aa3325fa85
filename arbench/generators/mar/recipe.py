"""How MAR is trained: the paper's recipe for one's own data, and that of the digits."""

from __future__ import annotations

from arbench.generators.common.recipe import DIFFUSION_HEAD, MILD
from arbench.generators.recipe import TrainConfig
from arbench.generators.spec import NO_GUIDANCE, OWN_SETTINGS, Evaluated, TrainingSpeed

# arXiv:2406.11838, appendix, and the release's script: rate 1e-4 a batch of 256, images as they are and mirrored. The
# tables are of 400 epochs, the released B, L and H of 800. Each of 32 processes drew a mask ratio of its own in a step.
RECIPE = TrainConfig(
    epochs=400, batch_size=2048, learning_rate=8e-4, warmup_epochs=100, schedule="constant", weight_decay=0.02,
    undecayed=DIFFUSION_HEAD, clip_norm=3.0, dropout=0.1, ema_rate=0.9999, ema_warmup=False, dtype="bfloat16",
    view_set="mirror", micro_batches=32, checkpoint_every=5000, compiled=True,
)  # fmt: skip
# The release's script evaluates with guidance and without it, and the paper's tables print both. The FID that stands
# beside the presets is with guidance: it comes first and says which weights are the best.
EVALUATIONS: tuple[Evaluated, ...] = (OWN_SETTINGS, NO_GUIDANCE)
# 400 epochs in 1 day 11 hours on 16 of them, batch 128 each.
SPEED = TrainingSpeed(preset="mar-l", images_per_second=254, device="H100", source="MAR's repository, cached latents")
DIGITS_RECIPE = TrainConfig(
    steps=6000, batch_size=32, learning_rate=1e-3, weight_decay=0.02, clip_norm=3.0, ema_rate=0.999, views=32,
    augmentation=MILD, sinusoidal_positions=True, read_out_weight=1.0,
)  # fmt: skip
