"""Images as they form: one model draws in a thread of its own, and its pictures are handed over step by step."""

from __future__ import annotations

import dataclasses
import math
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np
from torch import Tensor

from arbench.demo.choices import Wish, settings_for
from arbench.machine.hardware import describe_hardware, versions
from arbench.machine.timing import PhaseTimer
from arbench.protocols import Step
from arbench.report.record import PHASES, Record, new_record
from arbench.runs.memory import is_out_of_memory
from arbench.runs.models import Parts
from arbench.runs.pipeline import Pipeline
from arbench.runs.watching import blank_tokens, partial_images
from arbench.sampling.canvas import Canvas
from arbench.sampling.schedules import one_schedule
from arbench.settings import stored_settings

EXCLUDED = "loading, and decoding and showing what is revealed on the way"
COLD = "; no warm-up draw before"  # a first drawing is slower
MOST_FRAMES = 64  # of one drawing; of a longer one every other step is shown, or every fourth …


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What one model has drawn so far. `record` is there once it has finished."""

    model: str
    images: np.ndarray  # (B, H, W, 3) uint8
    step: int = 0  # steps that are over
    steps: int = 1
    revealed: int = 0  # tokens of an image
    tokens: int = 1
    record: Record | None = None


class Stopped(Exception):
    """Nobody looks any more."""


@dataclass
class Watch:
    """An observer of the sampling loop that hands a picture of what is revealed to whoever waits for it."""

    canvas: Canvas
    pipeline: Pipeline
    model: str
    steps: int
    frames: queue.Queue[Any] = field(default_factory=lambda: queue.Queue(maxsize=1))
    stopped: threading.Event = field(default_factory=threading.Event)

    def __call__(self, step: Step, tokens: Tensor) -> None:
        self.canvas(step, tokens)
        if self.stopped.is_set():
            raise Stopped
        if (step.index + 1) % -(-self.steps // MOST_FRAMES) == 0 and step.index + 1 < self.steps:
            self.frames.put(self.frame())

    def frame(self) -> Frame:
        """The picture of this moment."""
        total = self.canvas.hidden.shape[1]
        return Frame(
            model=self.model,
            images=partial_images(self.pipeline, self.canvas),
            step=self.canvas.steps,
            steps=self.steps,
            revealed=total - int(self.canvas.hidden[0].sum()),
            tokens=total,
        )


def draw(parts: Parts, wish: Wish, *, warm: bool = False) -> Iterator[Frame]:
    """The frames of one model's images; the last one is whole and has the record.

    Drawing waits for whoever takes the frames, and its time is not counted then. `warm` says that the model has drawn
    before, and goes into the record. Raises ValueError for a setting out of
    range, a label outside the classes and images that do not fit into memory.
    """
    settings = settings_for(parts, wish)
    labels = np.asarray(wish.images, dtype=np.int64)
    pipeline = Pipeline(
        generator=parts.generator,
        tokenizer=parts.tokenizer,
        labels=labels,
        settings=settings,
        seed=wish.seed,
        device=parts.device,
        image_size=parts.image_size,
    )
    canvas = Canvas(parts.generator, len(labels), blank_tokens(parts))
    watch = Watch(canvas, pipeline, parts.model, len(one_schedule(parts.generator, settings)))
    yield watch.frame()
    yield from _in_a_thread(watch, dataclasses.replace(pipeline, observe=watch), parts, warm)


def _in_a_thread(watch: Watch, pipeline: Pipeline, parts: Parts, warm: bool) -> Iterator[Frame]:
    """The frames of `pipeline` as they come; the thread ends with this iterator, whichever ends first."""

    def work() -> None:
        timer = PhaseTimer(parts.device)
        try:
            images = pipeline.draw(range(len(pipeline.labels)), timer)
            record = make_record(parts, pipeline, timer.seconds(), warm)
            last = dataclasses.replace(watch.frame(), images=images, record=record)
        except Stopped:
            return
        except Exception as error:  # noqa: BLE001 - raised anew by the one who waits
            watch.frames.put(error)
        else:
            watch.frames.put(last)

    thread = threading.Thread(target=work, name=f"draw {parts.model}", daemon=True)
    thread.start()
    try:
        while True:
            frame = watch.frames.get()
            if isinstance(frame, Exception):
                raise _told(frame, parts)
            yield frame
            if frame.record is not None:
                return
    finally:
        watch.stopped.set()
        while thread.is_alive():
            _take(watch.frames)
            thread.join(0.05)


def _take(frames: queue.Queue[Any]) -> None:
    """Make room for the one frame that the thread may be waiting to hand over."""
    if not frames.empty():
        frames.get_nowait()


def _told(error: Exception, parts: Parts) -> Exception:
    """`error`, or where it means that memory ran out one line that says so."""
    if not is_out_of_memory(error):
        return error
    return ValueError(f"these images do not fit into the memory of {parts.device}; choose fewer classes or images")


def make_record(parts: Parts, pipeline: Pipeline, phases: dict[str, float], warm: bool) -> Record:
    """The checked record of one drawing: all that decided the images, and their time; nothing is scored."""
    images = len(pipeline.labels)
    seconds = math.fsum(phases.values()) / images
    return new_record(
        method=parts.generator.method,
        model=parts.model,
        params_m=round(parts.params_m, 3),
        tokenizer=parts.tokenizer_name,
        weights=parts.weights,
        sampling=stored_settings(pipeline.settings),
        seed=pipeline.seed,
        num_images=images,
        labels=pipeline.labels,
        speed={
            "seconds_per_image": seconds,
            "images_per_second": 1 / seconds,
            "batch_size": images,
            "phases": {name: phases.get(name, 0.0) / images for name in PHASES},
            "steps": one_schedule(parts.generator, pipeline.settings).num_passes,
            "excludes": EXCLUDED if warm else EXCLUDED + COLD,
        },
        hardware={
            **describe_hardware(parts.device),
            "dtype": parts.precision.name,
        },
        versions=versions(),
        source={"kind": "measured", "date": datetime.now(timezone.utc).isoformat(timespec="seconds")},
    )
