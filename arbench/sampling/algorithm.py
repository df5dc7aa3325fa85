"""The one sampling loop: condition, draw, reveal, for every method alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arbench.heads.preparation import prepare_head
from arbench.images.pixels import FiniteChecks
from arbench.machine.transfer import sent
from arbench.protocols import Generator, Head, Noise, Step, Timer
from arbench.sampling.engine import Engine, make_engine
from arbench.sampling.guidance import guidance_scale
from arbench.sampling.noise import MOST_IMAGES, ImageNoise, UniformsAhead
from arbench.sampling.schedules import make_schedule
from arbench.settings import Guidance, resolve_settings, warn_of_last_timesteps

Labels = Sequence[int] | np.ndarray | Tensor
Observer = Callable[[Step, Tensor], None]  # told of every step as it was revealed, and of its tokens (B, n[, C])


class NoTimer:
    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def seconds(self) -> dict[str, float]:
        return {}


def whole_numbers(given: Labels, what: str, expected: str) -> Tensor:
    """What is `given` as int64 of any shape. Raises ValueError, as `what` is told, for all but whole numbers."""
    try:
        values = given if isinstance(given, Tensor) else np.asarray(given)
    except ValueError:  # lists of different lengths
        raise ValueError(f"{what} {str(given)[:40]}: expected {expected}") from None
    kind = str(values.dtype).removeprefix("torch.")
    if "int" not in kind:
        raise ValueError(f"{what} of shape {tuple(values.shape)}, {kind}: expected {expected}")
    return values.to(torch.int64) if isinstance(values, Tensor) else torch.from_numpy(values.astype(np.int64))


def check_labels(labels: Labels, num_classes: int, device: torch.device) -> Tensor:
    """Labels as (B,) int64 on `device`; `num_classes` itself means unconditional. ValueError outside 0..num_classes."""
    checked = whole_numbers(labels, "labels", "a list of class numbers")
    if checked.dim() != 1 or len(checked) == 0:
        raise ValueError(f"labels of shape {tuple(checked.shape)}: expected a list of class numbers")
    wrong = checked[(checked < 0) | (checked > num_classes)]
    if len(wrong):
        raise ValueError(f"label {int(wrong[0])}: expected 0 to {num_classes - 1} ({num_classes} is unconditional)")
    return sent(checked, device)


def check_image_ids(image_ids: Labels | None, batch: int, device: torch.device) -> Tensor:
    """Image ids as (B,) int64 on `device`; 0 .. B-1 where none are given."""
    if image_ids is None:
        return torch.arange(batch, device=device)
    expected = f"{batch} numbers from 0 to 2**32 - 1"
    checked = whole_numbers(image_ids, "image_ids", expected)
    if checked.shape != (batch,) or bool(((checked < 0) | (checked >= MOST_IMAGES)).any()):
        raise ValueError(f"image_ids of shape {tuple(checked.shape)}: expected {expected}")
    return sent(checked, device)


def generate(
    generator: Generator,
    labels: Labels,
    *,
    seed: int = 0,
    image_ids: Labels | None = None,
    noise: Noise | None = None,
    timer: Timer | None = None,
    observe: Observer | None = None,
    engine: str = "auto",
    **sampling: Any,
) -> Tensor:
    """Draw one image's tokens for each label: ids (B, h, w) on the raster grid, or scaled latents (B, C, H, W).

    All randomness of image i is a function of `(seed, image_ids[i])`; `noise` replaces it. `observe` is told of
    each step after it: its places and the tokens drawn for them, which are only read and are its own for that call.
    `engine` is "eager", the algorithm as written; "graph", the same through static buffers and CUDA graphs; or "auto",
    here the eager one: graphs pay only where many batches follow each other, as in a run.
    `sampling` holds settings of the generator's `sampling_type`; the rest are its preset's, or the defaults where it
    was loaded as a family. Raises ValueError for a label outside the classes, a setting that the generator does not
    have, or a value outside its range; warns (`SamplingWarning`) of a sampler that it was not trained for.
    """
    settings = resolve_settings(generator, sampling)
    warn_of_last_timesteps(generator, settings)
    return draw_tokens(
        generator,
        labels,
        settings=settings,
        seed=seed,
        image_ids=image_ids,
        noise=noise,
        timer=timer,
        observe=observe,
        engine=make_engine(engine, generator),
    )


@torch.inference_mode()
def draw_tokens(
    generator: Generator,
    labels: Labels,
    *,
    settings: Guidance,
    seed: int = 0,
    image_ids: Labels | None = None,
    noise: Noise | None = None,
    timer: Timer | None = None,
    observe: Observer | None = None,
    engine: Engine | None = None,
    checks: FiniteChecks | None = None,
) -> Tensor:
    """As `generate`, under the `settings` of a generation that are resolved already.

    An `engine` keeps its graphs from one batch to the next; given random numbers (`noise`) are drawn from eagerly.
    Whether codes were drawn from finite conditions is left to `checks` where they are given, so that nothing waits.
    """
    device = next(generator.parameters()).device
    labels = check_labels(labels, generator.num_classes, device)
    ids = check_image_ids(image_ids, len(labels), device)
    timer = NoTimer() if timer is None else timer
    training = generator.training
    generator.eval()
    try:
        runs: tuple[Any, Noise] = (generator, ImageNoise(seed, ids) if noise is None else noise)
        if engine is not None and noise is None:
            runs = engine.static(generator, ids, settings, seed)
        tokens, last_seen = draw_steps(runs[0], labels, settings, runs[1], timer, observe)
        if generator.kind == "discrete":
            found = FiniteChecks() if checks is None else checks
            note_finite(found, generator.draw_head(), *last_seen)
            if checks is None:
                found.settle()
    finally:
        generator.train(training)
    return tokens


def draw_steps(
    generator: Generator,
    labels: Tensor,
    settings: Guidance,
    noise: Noise,
    timer: Timer,
    observe: Observer | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The algorithm: tokens for labels (B,), and the last conditions with and without class.

    Between the labels and the tokens nothing waits for the device.
    """
    noise = UniformsAhead(noise, math.prod(generator.grid))
    schedule = make_schedule(generator, settings, noise, labels)
    drawing = [settings.at(index, len(schedule)) for index in range(len(schedule))]
    head = prepare_head(generator.draw_head(), *dict.fromkeys(drawing))
    scales = [guidance_scale(settings, stage) for stage in schedule.plan]
    # The unconditional rows run as long as a step to come reads them, and not a step longer.
    last_guided = max((index for index, scale in enumerate(scales) if scale != 1), default=-1)
    state = generator.begin(labels, last_guided >= 0, schedule.order)
    last_seen: list[Tensor] = []
    for index, (step, scale) in enumerate(zip(schedule, scales, strict=True)):
        with timer.phase("generator"):
            conditional, unconditional = generator.conditions(state, step, index <= last_guided)
        if index in (last_guided, len(schedule) - 1):  # copies: the draw may use their memory again
            last_seen += (seen.clone() for seen in (conditional, unconditional) if seen is not None)
        with timer.phase("head"):
            others = None if scale == 1 else unconditional
            step, tokens = schedule.draw(step, head, conditional, others, scale, drawing[index], noise)
        generator.reveal(state, step, tokens)
        if observe is not None:
            observe(step, tokens)
    return generator.result(state), last_seen


def note_finite(checks: FiniteChecks, head: Head, *conditions: Tensor) -> None:
    """Let `checks` look at what codes were drawn from; the codes themselves do not tell whether it was finite.

    What is not finite once stays so, for every later token sees the earlier ones: a look at the last step, and at the
    last that was guided, is enough.
    """
    parameters = head.parameters() if isinstance(head, nn.Module) else ()
    for condition in (*conditions, *parameters):
        checks.add(condition, "what the codes are drawn from")
