"""The fewest operations and bytes of drawing a batch, and so a lower bound of its time on a device.

Operations are two for each multiply-add of matrix products, attention and convolutions; norms, activations and softmax
are left out. Bytes are compulsory traffic alone: weights once per use, the filled part of the KV cache read and the new
part written, logits and the head's modulation table written and read; activations stay on the chip. What must follow
one another (backbone, each denoising step, decoder) takes the longer of its arithmetic and its traffic. Small products
never reach the peak, so this is a bound and no forecast (the roofline model, Williams et al., CACM 52(4), 2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from arbench.generators.common.tokens import latent_size
from arbench.generators.methods import get_method
from arbench.machine.work import Peak, PlannedStep, Work
from arbench.protocols import Generator, Tokenizer
from arbench.sampling.guidance import guidance_scale
from arbench.sampling.schedules import one_schedule
from arbench.settings import Guidance
from arbench.tokenizer.work import decoder_work


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

    def floor(self, peak: Peak, decode_peak: Peak | None = None) -> dict[str, float]:
        """Fewest seconds per image by phase; the decoder may have a peak of its own, for it runs in its own dtype."""
        peaks = {"decode": decode_peak or peak}
        return {
            name: sum(work.seconds(peaks.get(name, peak)) for work in works) / self.batch_size
            for name, works in self.phases.items()
        }


def roofline(
    generator: Generator, settings: Guidance, tokenizer: Tokenizer | None = None, *, batch_size: int = 1
) -> Roofline | None:
    """The work of drawing `batch_size` images by `generator` (meta tensors do) under its sampling `settings`.

    `tokenizer` adds its decoder where that is one of the known convolutional ones; otherwise "decode" is empty. None
    where the method does not tell its operations.
    """
    method = get_method(generator.method)
    if method.backbone_work is None or method.head_work is None:
        return None
    steps = planned_steps(generator, settings)
    decoding = decoder_work(tokenizer, latent_size(generator), batch_size)
    phases = {
        "generator": tuple(method.backbone_work(generator, step, batch_size) for step in steps),
        "head": tuple(
            work
            for index, step in enumerate(steps)
            for work in method.head_work(generator, settings.at(index, len(steps)), step, batch_size)
        ),
        "decode": () if decoding is None else (decoding,),
    }
    passes = sum(step.passes for step in steps)
    return Roofline(batch_size=batch_size, steps=passes, phases=phases)


def planned_steps(generator: Generator, settings: Guidance) -> list[PlannedStep]:
    """The steps as the sampling loop takes them: the same schedule, the same guidance at each step."""
    schedule = one_schedule(generator, settings)
    scales = [guidance_scale(settings, stage) for stage in schedule.plan]
    last_guided = max((index for index, scale in enumerate(scales) if scale != 1), default=-1)
    sizes = [0, *schedule.sizes]
    drawing = [settings.at(index, len(schedule)) for index in range(len(schedule))]
    return [
        PlannedStep(
            known=step.known,
            size=step.size,
            drawn_before=sizes[index],
            total=step.total,
            rows=2 if index <= last_guided else 1,
            head_rows=2 if scales[index] != 1 else 1,
            passes=schedule.passes,
            is_first=drawing[index] not in drawing[:index],
        )
        for index, step in enumerate(schedule.plan)
    ]
