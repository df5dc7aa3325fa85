"""The terms of a tokenizer's loss: pure functions of what it made of a batch of images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from arbench.protocols import TokenizerPass
from arbench.tokenizer.recipe import TokenizerLosses
from arbench.training.perceptual import Perceptual

TINY = 1e-5  # beside probabilities inside a logarithm (LlamaGen release)


def reconstruction_terms(
    found: TokenizerPass, images: Tensor, losses: TokenizerLosses, perceptual: Perceptual | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum that says how far reconstructions are from `images` (B, 3, H, W), and its terms by name."""
    distance = F.mse_loss if losses.distance == "l2" else F.l1_loss
    terms = {"reconstruction": distance(found.reconstruction, images)}
    total = losses.distance_weight * terms["reconstruction"]
    if perceptual is not None:
        terms["perceptual"] = perceptual(images, found.reconstruction)
        total = total + losses.perceptual_weight * terms["perceptual"]
    return total * (images[0].numel() if losses.summed else 1), terms


def latent_terms(found: TokenizerPass, losses: TokenizerLosses) -> tuple[Tensor | None, dict[str, Tensor]]:
    """The weighted sum of what is asked of latents and codebook, None where nothing is, and its terms by name."""
    if found.latents is not None and found.codes is not None and found.all_codes is not None:
        weighed = {
            "codebook": (losses.codebook_weight, F.mse_loss(found.codes, found.latents.detach())),
            "commitment": (losses.commitment_weight, F.mse_loss(found.latents, found.codes.detach())),
        }
        if losses.entropy_weight:
            entropy = entropy_loss(found.latents, found.all_codes, losses.entropy_temperature)
            weighed["entropy"] = (losses.entropy_weight, entropy)
    elif found.mean is not None and found.deviation is not None:
        weighed = {"kl": (losses.kl_weight, kl_divergence(found.mean, found.deviation))}
    else:
        return None, {}
    total = sum((weight * term for weight, term in weighed.values()), torch.zeros(()))
    return total, {name: term for name, (_, term) in weighed.items()}


def kl_divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """KL of Gaussians (B, C, h, w) from the unit one: summed over an image's latents, a mean over the images."""
    return 0.5 * (mean.square() + deviation.square() - 1 - 2 * deviation.log()).sum(dim=(1, 2, 3)).mean()


def entropy_loss(latents: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Mean entropy of a latent's choice among the codes less the entropy of the mean choice.

    Latents (B, D, h, w), codes (V, D); choices are a softmax of negative squared distances over `temperature`. Small
    where each latent is sure of its code and all codes are chosen alike (LlamaGen release, `compute_entropy_loss`).
    """
    vectors = latents.permute(0, 2, 3, 1).flatten(0, 2)  # (B, D, h, w) -> (B h w, D)
    distances = vectors.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * vectors @ codes.t()
    scores = -distances / temperature
    chances = scores.softmax(1)
    of_each = -(chances * (scores + TINY).log_softmax(1)).sum(1).mean()
    mean_chances = chances.mean(0)
    return of_each + (mean_chances * (mean_chances + TINY).log()).sum()
