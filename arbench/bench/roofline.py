"""The fewest operations and bytes of drawing a batch, and so a lower bound of its time on a device.

Operations are two for each multiply-add of matrix products, attention and convolutions; norms, activations and softmax
are left out. Bytes are compulsory traffic alone: weights once per use, the filled part of the KV cache read and the new
part written, logits and the head's modulation table written and read; activations stay on the chip. What must follow
one another (backbone, each denoising step, decoder) takes the longer of its arithmetic and its traffic. Small products
never reach the peak, so this is a bound and no forecast (the roofline model, Williams et al., CACM 52(4), 2009).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from arbench.bench.decoder import decoder_work
from arbench.bench.work import Peak, Work
from arbench.generators.layers import swiglu_width
from arbench.heads.diffusion import TIME_CHANNELS, respaced
from arbench.heads.solvers import SOLVERS
from arbench.noise import ImageNoise
from arbench.sampling.guidance import guidance_scale
from arbench.sampling.schedules import make_schedule

LOGIT_BYTES = 4  # logits are float32 whatever the network runs in


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step of a generation; rows are sequences an image: two where the unconditional one runs along."""

    known: int
    size: int
    drawn_before: int  # tokens that the step before drew
    total: int
    rows: int  # through the backbone
    head_rows: int  # through the head
    passes: int  # of the network through it


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Work of a whole batch by phase (generator, head, decode), in the order in which it has to be done."""

    batch_size: int
    steps: int
    phases: Mapping[str, tuple[Work, ...]]

    @property
    def flops_per_image(self) -> float:
        return sum(self.phase_flops(name) for name in self.phases)

    def phase_flops(self, name: str) -> float:
        """Operations of one phase, per image."""
        return sum(work.flops * work.repeats for work in self.phases[name]) / self.batch_size

    def phase_bytes(self, name: str) -> float:
        """Compulsory bytes of one phase, per image."""
        return sum(work.bytes * work.repeats for work in self.phases[name]) / self.batch_size

    def floor(self, peak: Peak, decode_peak: Peak | None = None) -> dict[str, float]:
        """Fewest seconds per image by phase; the decoder may have a peak of its own, for it runs in its own dtype."""
        peaks = {"decode": decode_peak or peak}
        return {
            name: sum(work.seconds(peaks.get(name, peak)) for work in works) / self.batch_size
            for name, works in self.phases.items()
        }


def roofline(generator: Any, settings: Any, tokenizer: Any = None, *, batch_size: int = 1) -> Roofline:
    """The work of drawing `batch_size` images by `generator` (meta tensors do) under its sampling `settings`.

    `tokenizer` adds its decoder where that is one of the known convolutional ones; otherwise "decode" is empty.
    """
    steps = planned_steps(generator, settings)
    backbone, head = BACKBONES[generator.schedule], HEADS[generator.config.head]
    decoding = decoder_work(tokenizer, latent_size(generator), batch_size)
    phases = {
        "generator": tuple(backbone(generator, step, batch_size) for step in steps),
        "head": tuple(work for step in steps for work in head(generator, settings, step, batch_size)),
        "decode": () if decoding is None else (decoding,),
    }
    passes = sum(step.passes for step in steps)
    return Roofline(batch_size=batch_size, steps=passes, phases=phases)


def latent_size(generator: Any) -> tuple[int, int]:
    """Rows and columns of the latents, or of the codes, that the tokenizer decodes."""
    patch = generator.config.patch_size if generator.kind == "continuous" else 1
    return generator.grid[0] * patch, generator.grid[1] * patch


def planned_steps(generator: Any, settings: Any) -> list[PlannedStep]:
    """The steps as the sampling loop takes them: the same schedule, the same guidance at each step."""
    label = torch.zeros(1, dtype=torch.int64)
    schedule = make_schedule(generator, settings, ImageNoise(0, label), label)
    scales = [guidance_scale(settings, step) for step in schedule]
    last_guided = max((index for index, scale in enumerate(scales) if scale != 1), default=-1)
    sizes = [0, *schedule.sizes]
    return [
        PlannedStep(
            known=step.known,
            size=step.size,
            drawn_before=sizes[index],
            total=step.total,
            rows=2 if index <= last_guided else 1,
            head_rows=2 if scales[index] != 1 else 1,
            passes=schedule.passes,
        )
        for index, step in enumerate(schedule)
    ]


def causal_work(generator: Any, step: PlannedStep, batch_size: int) -> Work:
    """One step of the GPT: as many places are fed as tokens are drawn, and look at the cache and each other.

    Without a cache the whole sequence so far is fed, all of it looking at all of it.
    """
    config, item = generator.config, item_size(generator)
    width, depth, rows = config.width, config.depth, batch_size * step.rows
    weights = depth * (4 * width**2 + 3 * width * swiglu_width(width))
    length = step.known + step.size
    fed, embedded = (step.size, step.drawn_before) if config.kv_cache else (length, step.known)
    flops = rows * fed * (2 * weights + 4 * depth * width * length)
    embedding = config_channels(config) * width
    flops += batch_size * embedded * 2 * embedding
    cached = rows * depth * 2 * width * (length + step.size) if config.kv_cache else 0
    return Work(flops=flops, bytes=(weights + embedding + cached) * item)


def masked_work(generator: Any, step: PlannedStep, batch_size: int) -> Work:
    """One iteration of encoder and decoder; the decoder's last block computes the wanted places alone."""
    config, item = generator.config, item_size(generator)
    rows, inner, width = batch_size * step.rows, config.encoder_width, config.decoder_width
    seen, whole = config.buffer_size + step.known, config.buffer_size + step.total
    embedding, bridge = config_channels(config) * inner, inner * width
    flops = step.known * 2 * embedding + seen * 2 * bridge
    flops += config.encoder_depth * block_flops(inner, seen, seen)
    flops += (config.decoder_depth - 1) * block_flops(width, whole, whole) + block_flops(width, step.size, whole)
    weights = 12 * (config.encoder_depth * inner**2 + config.decoder_depth * width**2) + embedding + bridge
    return Work(flops=rows * flops, bytes=weights * item)


def block_flops(width: int, queries: int, keys: int) -> float:
    """One ViT block whose output is wanted at `queries` of `keys` places, for one sequence."""
    projections = 2 * width**2 * (2 * queries + 2 * keys)  # query and output; key and value
    return projections + 16 * width**2 * queries + 4 * width * queries * keys


def categorical_work(generator: Any, settings: Any, step: PlannedStep, batch_size: int) -> Iterator[Work]:
    """One product with the codebook; the logits are written and read once."""
    rows = batch_size * step.head_rows * step.size
    weights = condition_width(generator.config) * generator.vocab_size
    traffic = weights * item_size(generator) + 2 * rows * generator.vocab_size * LOGIT_BYTES
    yield Work(flops=rows * 2 * weights, bytes=traffic)


def diffusion_work(generator: Any, settings: Any, step: PlannedStep, batch_size: int) -> Iterator[Work]:
    """The modulations of all blocks and denoising steps in one product, then step after step what depends on x."""
    config, item = generator.config, item_size(generator)
    inner, depth, channels = config.head_width, config.head_depth, config_channels(config)
    rows = batch_size * step.head_rows * step.size
    solver = SOLVERS[settings.head_sampler](respaced(settings.head_steps), temperature=settings.temperature)
    visited = len(solver.visited)
    condition, time = condition_width(config) * inner, TIME_CHANNELS * inner + inner**2
    modulations = (3 * depth + 2) * inner  # values a row and step
    table = visited * rows * modulations
    yield Work(
        flops=2 * (table * inner + rows * condition + visited * time),
        bytes=(modulations * inner + condition + time + 2 * table) * item,
    )
    sequential = 2 * depth * inner**2 + 3 * channels * inner
    yield Work(flops=rows * 2 * sequential, bytes=sequential * item, repeats=visited)


def joint_work(generator: Any, settings: Any, step: PlannedStep, batch_size: int) -> Iterator[Work]:
    """The whole transformer over all tokens at every denoising step; time and class are embedded a sequence."""
    config, rows, item = generator.config, batch_size * step.head_rows, item_size(generator)
    width, depth, channels = config.width, config.depth, config_channels(config)
    solver = SOLVERS[settings.head_sampler](respaced(settings.head_steps), temperature=settings.temperature)
    once = TIME_CHANNELS * width + width**2 + (6 * depth + 2) * width**2  # weights that meet a sequence once
    flops = 2 * once + depth * block_flops(width, step.size, step.size) + 2 * step.size * 3 * channels * width
    weights = once + 12 * depth * width**2 + 3 * channels * width
    yield Work(flops=rows * flops, bytes=weights * item, repeats=len(solver.visited))


def no_work(generator: Any, step: PlannedStep, batch_size: int) -> Work:
    """A class embedding alone is a look-up."""
    return Work(flops=0, bytes=0)


def config_channels(config: Any) -> int:
    """Channels of a continuous token; 0 for codes, whose embedding is a look-up."""
    return 0 if config.head == "categorical" else config.channels * config.patch_size**2


def condition_width(config: Any) -> int:
    """Width of the vectors that the backbone hands to the head."""
    return config.decoder_width if hasattr(config, "decoder_width") else config.width


def item_size(generator: Any) -> int:
    """Bytes of one weight."""
    return next(generator.parameters()).element_size()


BACKBONES = {"sequential": causal_work, "masked": masked_work, "joint": no_work}
HEADS = {"categorical": categorical_work, "diffusion": diffusion_work, "joint": joint_work}
