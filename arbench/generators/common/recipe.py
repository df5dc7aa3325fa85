"""What the training recipes of several methods share."""

from __future__ import annotations

from arbench.generators.recipe import Augmentation, TrainConfig
from arbench.generators.spec import NO_GUIDANCE, OWN_SETTINGS, Evaluated

# Mild enough that the views of a digit have the distribution of digits.
MILD = Augmentation(shift=0.7, rotation=4, scale=0.03, shear=0.03)
DIFFUSION_HEAD = ("diffloss.",)  # how the names of its tensors begin; nothing of it decays (MAR release)

# How all models of MAR's tables are trained, causal ones too (arXiv:2406.11838, appendix, and the release's script):
# rate 1e-4 a batch of 256, images as they are and mirrored, 400 epochs; the released B, L and H had 800.
MAR_RECIPE = TrainConfig(
    epochs=400, batch_size=2048, learning_rate=8e-4, warmup_epochs=100, schedule="constant", weight_decay=0.02,
    undecayed=DIFFUSION_HEAD, clip_norm=3.0, dropout=0.1, ema_rate=0.9999, ema_warmup=False, dtype="bfloat16",
    view_set="mirror", checkpoint_every=5000, compiled=True,
)  # fmt: skip
# The release's script evaluates with guidance and without it, and the paper's tables print both. The FID that stands
# beside the presets is with guidance: it comes first and says which weights are the best.
MAR_EVALUATIONS: tuple[Evaluated, ...] = (OWN_SETTINGS, NO_GUIDANCE)
