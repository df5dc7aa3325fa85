"""LPIPS (arXiv:1801.03924) by the package `lpips`, which fetches the weights of its network itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from urllib.error import URLError

import torch
from torch import Tensor, nn

from arbench.machine.files import one_line

WITHOUT = "or train without it: --perceptual-weight 0"

Perceptual = Callable[[Tensor, Tensor], Tensor]


def load_perceptual(device: torch.device) -> Perceptual:
    """The mean LPIPS of two batches (B, 3, H, W) in [-1, 1], with VGG-16 as the published tokenizers have it.

    Raises ValueError where the package or its network's weights are not to be had.
    """
    try:
        import lpips
    except ImportError as error:
        raise ValueError(
            f"the perceptual term needs the package lpips ({one_line(error)}); expected `pip install arbench[lpips]`, "
            + WITHOUT
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torchvision, about the arguments of a package of 2021
            network: nn.Module = lpips.LPIPS(net="vgg", verbose=False)
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"the weights of LPIPS's VGG-16 cannot be had ({one_line(error)}); expected a network, or "
            f"vgg16-397923af.pth in {torch.hub.get_dir()}/checkpoints, {WITHOUT}"
        ) from None
    network = network.to(device).eval().requires_grad_(False)
    return lambda images, others: network(images, others).mean()
