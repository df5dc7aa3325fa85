"""A generation filmed: the pictures of some of its steps, with the seconds that these steps were measured to take."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arbench.generators.common.tokens import unpatchify
from arbench.machine.hardware import synchronize
from arbench.machine.timing import PhaseTimer
from arbench.protocols import Step
from arbench.runs.memory import is_out_of_memory
from arbench.runs.models import Parts, class_names
from arbench.runs.pipeline import Pipeline
from arbench.runs.watching import blank_tokens, partial_images
from arbench.sampling.canvas import Canvas
from arbench.sampling.schedules import one_schedule

MOST_FILMED = 48  # images of one model: they are drawn as one batch, and one picture shows them all


@dataclass(frozen=True)
class Shot:
    """What stands after `step` steps: images (B, H, W, 3) uint8, and the seconds of these steps."""

    step: int
    seconds: float
    images: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Reel:
    """One model's drawing: its shots from the first, with nothing revealed, to the last, which has the images."""

    model: str
    method: str
    captions: Sequence[str]  # of the images
    steps: int
    shots: Sequence[Shot]

    def at(self, share: float) -> Shot:
        """The last shot of those that are within `share` (0 to 1) of the steps."""
        return [shot for shot in self.shots if shot.step <= share * self.steps + 1e-9][-1]


@dataclass
class Camera:
    """What keeps the shots of the `wanted` steps, and counts the seconds between its looks, but not its own.

    As an observer of the sampling loop it sees what a step revealed; where all tokens are denoised together (`joint`),
    as a hook of the denoising network what that is given.
    """

    pipeline: Pipeline
    canvas: Canvas
    wanted: Collection[int]
    joint: bool
    shots: list[Shot] = field(default_factory=list)
    seconds: float = 0.0
    since: float = 0.0
    denoised: int = 0

    def __call__(self, step: Step, tokens: Tensor) -> None:
        with self.paused():
            self.canvas(step, tokens)
            if not self.joint:
                self.keep(self.canvas.steps, lambda: partial_images(self.pipeline, self.canvas))

    def see(self, _: torch.nn.Module, given: tuple[Any, ...]) -> None:
        """Keep the noisy tokens (R, N, C) that the denoising network is given, of which the images are the first."""
        with self.paused():
            patch, images = self.canvas.patch_size, len(self.pipeline.labels)
            latents = unpatchify(given[0][:images], self.canvas.grid, patch)
            self.keep(self.denoised, lambda: self.pipeline.decode(latents))
            self.denoised += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within is not counted."""
        synchronize(self.pipeline.device)
        self.seconds += time.perf_counter() - self.since
        yield
        self.since = time.perf_counter()

    def keep(self, step: int, images: Callable[[], np.ndarray]) -> None:
        """A shot of `images` where `step` is wanted."""
        if step in self.wanted:
            self.shots.append(Shot(step, self.seconds, images()))


def count_filmed(parts: Parts) -> int:
    """Steps that a film of this model has: those that reveal, or where all is revealed at once, those of denoising."""
    schedule = one_schedule(parts.generator, parts.settings)
    return schedule.num_passes if _is_joint(parts) else len(schedule)


def _is_joint(parts: Parts) -> bool:
    """Whether all tokens are denoised together, by a network that can be watched."""
    schedule = one_schedule(parts.generator, parts.settings)
    return len(schedule) == 1 and schedule.passes > 1 and isinstance(_network(parts), torch.nn.Module)


def _network(parts: Parts) -> Any:
    return getattr(parts.generator.draw_head(), "net", None)


def film(parts: Parts, labels: Sequence[int], *, pictures: int, seed: int = 0, warm: bool = False) -> Reel:
    """Draw one image for each of `labels` as one batch, and film it in at most `pictures` shots and the first.

    Where a model reveals one token after another, or sets of them, the shots are what is revealed so far, decoded;
    where it denoises all of them at once, the noisy tokens, decoded. `warm` draws once before. Raises ValueError for
    more than MOST_FILMED images, and where they do not fit into memory.
    """
    if not 1 <= len(labels) <= MOST_FILMED:
        raise ValueError(f"{len(labels)} images in a film; expected 1 to {MOST_FILMED}")
    pipeline = Pipeline(
        generator=parts.generator,
        tokenizer=parts.tokenizer,
        labels=np.asarray(labels, dtype=np.int64),
        settings=parts.settings,
        seed=seed,
        device=parts.device,
        image_size=parts.image_size,
    )
    steps = count_filmed(parts)
    frames = min(pictures, steps)
    wanted = {shot * steps // frames for shot in range(frames + 1)}
    names = class_names(parts)
    try:
        if warm:
            pipeline.draw(range(len(labels)), PhaseTimer(parts.device))
        shots = _draw(parts, pipeline, wanted)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{len(labels)} images do not fit into the memory of {parts.device}; film fewer") from None
    return Reel(
        model=parts.model,
        method=parts.generator.method,
        captions=[names[label] for label in labels],
        steps=steps,
        shots=shots,
    )


def _draw(parts: Parts, pipeline: Pipeline, wanted: Collection[int]) -> list[Shot]:
    """The shots of one drawing; the last has the images as they are drawn."""
    canvas = Canvas(parts.generator, len(pipeline.labels), blank_tokens(parts))
    camera = Camera(pipeline, canvas, wanted, _is_joint(parts))
    hook = _network(parts).register_forward_pre_hook(camera.see) if camera.joint else None
    if not camera.joint:
        camera.keep(0, lambda: partial_images(pipeline, canvas))
    watched = dataclasses.replace(pipeline, observe=camera)
    try:
        camera.since = time.perf_counter()
        images = watched.draw(range(len(pipeline.labels)), PhaseTimer(parts.device))
    finally:
        if hook is not None:
            hook.remove()
    last = max(wanted)
    return [*(shot for shot in camera.shots if shot.step < last), Shot(last, camera.seconds, images)]
