"""PatchGAN (arXiv:1611.07004), which judges patches of images, its hinge losses, and how much they weigh."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

BASE_CHANNELS, MOST_CHANNELS = 64, 512
SLOPE = 0.2  # of the leaky ReLUs
START_DEVIATION = 0.02  # of convolutions around 0, of norms' weights around 1
MOST_WEIGHT = 1e4  # of the adaptive weight (taming-transformers)
NORM_OFFSET = 1e-4  # what keeps it finite (taming-transformers)


class PatchDiscriminator(nn.Module):
    """Images (B, 3, H, W) -> logits (B, 1, h, w), above 0 for patches that look real.

    `num_layers` convolutions of 4×4 halve the sides, two more do not. Batch norms keep no running statistics: nobody
    judges outside training.
    """

    def __init__(self, num_layers: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, BASE_CHANNELS, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE, True)]
        width = BASE_CHANNELS
        for index in range(1, num_layers + 1):
            incoming, width = width, min(2 * width, MOST_CHANNELS)
            stride = 2 if index < num_layers else 1
            layers += [
                nn.Conv2d(incoming, width, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width, track_running_stats=False),
                nn.LeakyReLU(SLOPE, True),
            ]
        self.main = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))
        for layer in self.main:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, START_DEVIATION)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, START_DEVIATION)

    def forward(self, images: Tensor) -> Tensor:
        return self.main(images)

    def judge(self, images: Tensor) -> Tensor:
        """As `forward`, with gradients to the images and none to its own weights."""
        return functional_call(self, {name: weight.detach() for name, weight in self.named_parameters()}, (images,))


def smallest_side(num_layers: int) -> int:
    """Pixels a side of the smallest image with one patch: two more convolutions each take one off what is left."""
    return 3 * 2**num_layers


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """How unreal the logits of reconstructions are: their mean, negated."""
    return -fake.mean()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half the mean distance of real logits below 1 and of fake ones above -1 (arXiv:1705.02894)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """What brings the adversarial loss's gradient at the last layer to the length of the reconstruction loss's.

    A number from 0 to `MOST_WEIGHT` without gradients (arXiv:2012.09841, equation 7).
    """
    wanted, found = (
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float().norm()
        for loss in (reconstruction, adversarial)
    )
    return (wanted / (found + NORM_OFFSET)).clamp(0, MOST_WEIGHT).detach()
