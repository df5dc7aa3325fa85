"""Memory of sampling: an estimate before the run, the batch that fits, and what an out-of-memory error looks like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from arbench.generators.methods import get_method
from arbench.heads.work import prepared_bytes
from arbench.machine.hardware import GIB, free_memory
from arbench.protocols import Generator, Tokenizer

SHARE_OF_FREE = 0.7  # of free memory; the rest is for fragments, workspaces and whoever else is there
LARGEST_BATCH = {"cpu": 128, "mps": 64, "cuda": 256}  # past these, images per second no longer grow
RUNTIME = GIB // 2  # Python with PyTorch loaded; the context of a CUDA device is about as large
# Widest feature map of the convolutional decoders, in floats per output pixel: 128 channels (LDM's base width), held
# about four times at once (input, normalised, convolved, skip).
DECODER_FLOATS_PER_PIXEL = 4 * 128
# Where nothing is known of what an image takes; a batch that does not fit is halved.
TRIAL_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes that sampling needs: once for the libraries and the weights, once more for what drawing joins of them
    (`joined`), and for every image of the batch."""

    fixed: int
    per_image: int
    joined: int = 0

    def gib(self, batch_size: int) -> float:
        return (self.fixed + self.joined + batch_size * self.per_image) / GIB


def estimate_memory(
    generator: Generator, tokenizer: Tokenizer | None, image_size: int, engine: str = "eager"
) -> MemoryEstimate | None:
    """First-principles estimate for guided sampling of images decoded at `image_size` a side, by the "eager" or the
    "graph" engine.

    None where the method does not say what an image takes.
    """
    method = get_method(generator.method)
    memory, static = method.memory, method.static_memory if engine == "graph" else None
    if memory is None:
        return None
    decoding = DECODER_FLOATS_PER_PIXEL * image_size**2 * 4
    return MemoryEstimate(
        fixed=RUNTIME + _weight_bytes(generator) + _weight_bytes(tokenizer),
        per_image=max(memory(generator), decoding) + 16 * image_size**2,
        joined=prepared_bytes(generator.draw_head()) + (0 if static is None else static(generator)),
    )


def _weight_bytes(part: object) -> int:
    if not isinstance(part, nn.Module):
        return 0
    return sum(tensor.numel() * tensor.element_size() for tensor in (*part.parameters(), *part.buffers()))


def automatic_batch(estimate: MemoryEstimate | None, device: torch.device, num_images: int) -> int:
    """The largest batch that the estimate lets into the free memory of `device`, at least 1; a small one without any.

    What is fixed is loaded already, so only what is joined and what an image adds counts.
    """
    if estimate is None:
        return min(TRIAL_BATCH, num_images)
    fits = (int(SHARE_OF_FREE * free_memory(device)) - estimate.joined) // estimate.per_image
    return max(1, min(fits, LARGEST_BATCH[device.type], num_images))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is the device or the host running out of memory.

    CUDA has its own class; the CPU allocator and MPS raise a RuntimeError that only its text tells apart.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
