"""Memory of sampling: an estimate before the run, the batch that fits, and what an out-of-memory error looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from arbench.generators.methods import get_method
from arbench.heads.diffusion import DiffusionHead
from arbench.heads.work import modulation_bytes, prepared_bytes
from arbench.machine.hardware import GIB, free_memory
from arbench.protocols import Generator, Tokenizer
from arbench.runs.roofline import planned_steps
from arbench.settings import DiffusionSampling, Guidance, resolve_settings

SHARE_OF_FREE = 0.7  # of free memory; the rest is for fragments, workspaces and whoever else is there
LARGEST_BATCH = {"cpu": 128, "mps": 64, "cuda": 256}  # past these, images per second no longer grow
RUNTIME = GIB // 2  # Python with PyTorch loaded; the context of a CUDA device is about as large
# Widest feature map of the convolutional decoders, in floats per output pixel: 128 channels (LDM's base width), held
# about four times at once (input, normalised, convolved, skip).
DECODER_FLOATS_PER_PIXEL = 4 * 128
# Where nothing is known of what an image takes; a batch that does not fit is halved.
TRIAL_BATCH = 8


def no_table(batch_size: int) -> int:
    """Of a head without modulations."""
    return 0


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes that sampling needs: once for the libraries and the weights, once more for what drawing joins of them
    (`joined`), for every image of the batch, and for the modulations of a diffusion head (`table`, of a batch), which
    are held within a budget."""

    fixed: int
    per_image: int
    joined: int = 0
    table: Callable[[int], int] = no_table

    def drawn(self, batch_size: int) -> int:
        """Bytes of a batch beside what is fixed."""
        return self.joined + batch_size * self.per_image + self.table(batch_size)

    def gib(self, batch_size: int) -> float:
        return (self.fixed + self.drawn(batch_size)) / GIB


def estimate_memory(
    generator: Generator,
    tokenizer: Tokenizer | None,
    image_size: int,
    engine: str = "eager",
    *,
    settings: Guidance | None = None,
) -> MemoryEstimate | None:
    """First-principles estimate for guided sampling of images decoded at `image_size` a side, by the "eager" or the
    "graph" engine, under `settings`, by default the generator's own.

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
        table=modulation_table(generator, settings or resolve_settings(generator, {})),
    )


def modulation_table(generator: Generator, settings: Guidance) -> Callable[[int], int]:
    """Bytes of the largest table of modulations in a generation under `settings`, of a batch."""
    head = generator.draw_head()
    if not isinstance(head, DiffusionHead) or not isinstance(settings, DiffusionSampling):
        return no_table
    steps = planned_steps(generator, settings)
    draws = {(settings.at(index, len(steps)), step.head_rows * step.size) for index, step in enumerate(steps)}
    return lambda batch_size: max(modulation_bytes(head, drawing, batch_size * rows) for drawing, rows in draws)


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
    room, most = int(SHARE_OF_FREE * free_memory(device)), min(LARGEST_BATCH[device.type], num_images)
    return max((batch for batch in range(1, most + 1) if estimate.drawn(batch) <= room), default=1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is the device or the host running out of memory.

    CUDA has its own class; the CPU allocator and MPS raise a RuntimeError that only its text tells apart.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
