"""How the tokenizers here are trained: the published trainings with their source, and that of the digits.

`arbench train --tokenizer NAME --data DIR` is the whole of one; a rate is that of its batch and follows a changed one.
"""

from __future__ import annotations

import math

from arbench.generators.recipe import Augmentation, TrainConfig
from arbench.tokenizer.recipe import TokenizerLosses, TokenizerRecipe

FLIP = Augmentation(flip=True)
# What a digits tokenizer must be able to reconstruct: a little more than generators are trained on.
MIXED = Augmentation(shift=1.5, rotation=8, scale=0.08, shear=0.08, contrast=0.05)

# LlamaGen (arXiv:2406.06525, section 3.1) and its release's `vq_train.py`: Adam for both networks, clipped each by
# itself, weights raw; L2 + LPIPS + 0.5 · hinge from step 20,000, its adaptive weight and entropy term off.
LLAMAGEN_VQ = TokenizerRecipe(
    size=256,
    config=TrainConfig(
        epochs=40, batch_size=128, learning_rate=1e-4, warmup_steps=0, schedule="constant", betas=(0.9, 0.95),
        clip_norm=1.0, ema_rate=0.0, dtype="bfloat16", crop_share=0.8, augmentation=FLIP, checkpoint_every=5000,
    ),
    losses=TokenizerLosses(
        distance="l2", perceptual_weight=1.0, codebook_weight=1.0, commitment_weight=0.25, unit_codes=True,
        discriminator_weight=0.5, discriminator_loss_weight=0.5, discriminator_start=20_000,
    ),
)  # fmt: skip

# Latent diffusion's `autoencoder_kl_16x16x16.yaml` (arXiv:2112.10752, appendix): 4.5e-6 an image of the batch, 12 a
# GPU; L1 + LPIPS summed over an image, its log-variance not among the optimiser's weights, so 0. The published length
# is in no file: 40 epochs are LlamaGen's.
KL16 = TokenizerRecipe(
    size=256,
    config=TrainConfig(
        epochs=40, batch_size=12, learning_rate=5.4e-5, warmup_steps=0, schedule="constant", betas=(0.5, 0.9),
        clip_norm=math.inf, ema_rate=0.0, crop_share=1.0, augmentation=FLIP, checkpoint_every=5000,
    ),
    losses=TokenizerLosses(
        distance="l1", perceptual_weight=1.0, summed=True, kl_weight=1e-6,
        discriminator_weight=0.5, discriminator_start=50_001, adaptive_weight=True,
    ),
)  # fmt: skip

# taming-transformers' `imagenet_vqgan.yaml` (arXiv:2012.09841): the same optimiser. Its quantiser weighs the two terms
# the other way round than the paper that it cites (`legacy`): 0.25 is the codebook's. Length as above.
VQ16 = TokenizerRecipe(
    size=256,
    config=TrainConfig(
        epochs=40, batch_size=12, learning_rate=5.4e-5, warmup_steps=0, schedule="constant", betas=(0.5, 0.9),
        clip_norm=math.inf, ema_rate=0.0, crop_share=1.0, checkpoint_every=5000,
    ),
    losses=TokenizerLosses(
        distance="l1", perceptual_weight=1.0, codebook_weight=0.25, commitment_weight=1.0,
        discriminator_weight=0.8, discriminator_start=250_001, adaptive_weight=True,
    ),
)  # fmt: skip

DIGITS_CONFIG = TrainConfig(
    steps=3000, batch_size=32, learning_rate=2e-3, betas=(0.9, 0.99), ema_rate=0.998, augmentation=MIXED
)
DIGITS_KL = TokenizerRecipe(size=32, config=DIGITS_CONFIG, losses=TokenizerLosses(kl_weight=4e-6))
DIGITS_VQ = TokenizerRecipe(size=32, config=DIGITS_CONFIG, losses=TokenizerLosses(revive_until=0.6))
