"""Images as they form: what is revealed so far, decoded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from arbench.generators.common.tokens import latent_size
from arbench.runs.models import Parts
from arbench.runs.pipeline import Pipeline
from arbench.sampling.canvas import Canvas

GREY = 128  # what stands where no token is revealed


def partial_images(pipeline: Pipeline, canvas: Canvas) -> np.ndarray:
    """The tokens so far decoded to (B, H, W, 3) uint8; the places that are hidden are grey."""
    images = pipeline.decode(canvas.tokens)
    hidden = canvas.hidden.unflatten(1, canvas.grid)[:, None].float()
    cells = torch.nn.functional.interpolate(hidden, size=images.shape[1:3], mode="nearest")[:, 0].bool()
    images[cells.cpu().numpy()] = GREY
    return images


def blank_tokens(parts: Parts) -> Tensor:
    """The tokens of one grey image, as the generator would draw it."""
    weight = next(parts.generator.parameters())
    sides = [side * parts.tokenizer.downsample for side in latent_size(parts.generator)]
    with torch.inference_mode():
        return parts.tokenizer.encode(torch.zeros(1, 3, *sides, device=parts.device)).to(weight.device)
