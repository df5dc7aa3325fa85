"""The worker: claim shards, draw their images batch by batch, hand them to the writer, until no shard is left."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from arbench.generators.methods import get_method
from arbench.images.pixels import FiniteChecks
from arbench.machine.hardware import exact_float32
from arbench.machine.lanes import in_lanes
from arbench.machine.precision import precision_of
from arbench.machine.streams import Side
from arbench.protocols import Generator, Timer, Tokenizer
from arbench.registry import OWN_DISTRIBUTION
from arbench.runs.decoding import Decoder, Decoding
from arbench.runs.folder import RunFolder
from arbench.runs.memory import is_out_of_memory
from arbench.runs.shards import Assembly, Claims, ShardWriter, claim_unfinished
from arbench.sampling.algorithm import NoTimer, Observer, draw_tokens
from arbench.sampling.engine import Engine
from arbench.settings import Guidance

LANES = 2  # of a batch on a CPU
LANE_ROWS = 32  # images that a lane has at least: with fewer, Python takes longer than the products
LANE_PARAMETERS = 2**22  # of a generator whose weights, 16 MiB in float32, are read by each lane from the cache
POLL_SECONDS = 0.2  # how often a waiting process looks whether another one has finished or died


OnStep = Callable[[int, int], None]  # images of a batch, how many of its steps are over


def no_step(images: int, step: int) -> None:
    """Nobody is told."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Labels → tokens → images: everything that decides image i, apart from the batch it is drawn in."""

    generator: Generator
    tokenizer: Tokenizer
    labels: np.ndarray
    settings: Guidance
    seed: int
    device: torch.device
    image_size: int | None = None  # None: as the tokenizer decodes
    engine: Engine | None = None  # None: the eager one; its graphs are freed with the pipeline
    observe: Observer | None = None  # told of every step of the sampling loop

    @cached_property
    def side(self) -> Side:
        """Where images are decoded, beside the drawing of the next ones."""
        return Side(self.device)

    @cached_property
    def scoring_side(self) -> Side:
        """Where images that are there are looked at: behind no decoding, which waits for a drawing itself."""
        return Side(self.device)

    @cached_property
    def decoder(self) -> Decoder:
        """It is recorded where the sampling is."""
        replays = None if self.engine is None else self.engine.make_replays(self.device)
        return Decoder(self.tokenizer, self.image_size, self.side, replays)

    def forget_graphs(self) -> None:
        """Free what was recorded for batches of one size, drawing and decoding."""
        vars(self).pop("decoder", None)
        if self.engine is not None:
            self.engine.forget()

    def draw(self, image_ids: Sequence[int], timer: Timer, batch_size: int | None = None) -> np.ndarray:
        """uint8 images (B, H, W, 3) for `image_ids`. Raises ValueError where a latent or a pixel is not finite.

        With `batch_size` fewer ids are padded to it, so that generator and decoder compute with that shape, whose
        floats are then always the same; the padding is the last id over again, and what it gives is thrown away.

        A generator in float32 runs without TF32, decoder included: another batch or device then changes an image by
        rounding only. One in half precision is not exact anyway, and keeps the speed.
        """
        return self.start(image_ids, timer, batch_size).images()

    def start(self, image_ids: Sequence[int], timer: Timer, batch_size: int | None = None) -> Drawing:
        """As `draw`, but without waiting for the device: the images are asked for later."""
        padding = [image_ids[-1]] * (0 if batch_size is None else batch_size - len(image_ids))
        with exact_float32(self.device) if precision_of(self.generator).is_exact else nullcontext():
            decoding = self._start([*image_ids, *padding], timer)
        return Drawing(list(image_ids), len(image_ids) + len(padding), timer, decoding)

    def _start(self, image_ids: Sequence[int], timer: Timer) -> Decoding:
        checks = FiniteChecks()
        tokens = self._tokens(image_ids, timer, checks)
        if tokens.is_floating_point():
            checks.add(tokens, "latents")
        return self.decoder.start(tokens, timer, checks)

    def _tokens(self, image_ids: Sequence[int], timer: Timer, checks: FiniteChecks) -> Tensor:
        """Tokens of `image_ids`, drawn in lanes where that pays; the timer is then the first lane's."""
        lanes = self.num_lanes(len(image_ids))
        if lanes == 1:
            return self._draw_tokens(image_ids, timer, checks)
        size = -(-len(image_ids) // lanes)
        parts = [image_ids[start : start + size] for start in range(0, len(image_ids), size)]
        timers = [timer, *(NoTimer() for _ in parts[1:])]
        draws = [functools.partial(self._draw_tokens, *each, None) for each in zip(parts, timers, strict=True)]
        return torch.cat(in_lanes(draws))

    def num_lanes(self, rows: int) -> int:
        """In how many parts a batch of `rows` is drawn at once: more than one where several threads of a CPU draw from
        a small model of ours. Strangers' code need not bear it, and whoever observes sees whole batches."""
        is_eager = self.engine is None and self.observe is None and not self.generator.training
        if not is_eager or self.device.type != "cpu" or torch.get_num_threads() < LANES or rows < LANES * LANE_ROWS:
            return 1
        is_ours = get_method(self.generator.method).package == OWN_DISTRIBUTION
        is_small = sum(parameter.numel() for parameter in self.generator.parameters()) <= LANE_PARAMETERS
        return LANES if is_ours and is_small else 1

    def _draw_tokens(self, image_ids: Sequence[int], timer: Timer, checks: FiniteChecks | None) -> Tensor:
        return draw_tokens(
            self.generator,
            self.labels[list(image_ids)],
            settings=self.settings,
            seed=self.seed,
            image_ids=torch.as_tensor(list(image_ids)),
            timer=timer,
            observe=self.observe,
            engine=self.engine,
            checks=checks,
        )

    def decode(self, tokens: Tensor) -> np.ndarray:
        """Tokens to uint8 images (B, H, W, 3) of the size that is kept."""
        return self.decoder.start(tokens, NoTimer()).images()


@dataclass(frozen=True)
class Drawing:
    """A batch that is being drawn: its image ids, the rows computed (padding among them), its timer."""

    image_ids: list[int]
    rows: int
    timer: Timer
    decoding: Decoding

    def images(self) -> np.ndarray:
        """uint8 (B, H, W, 3), once they are there; raises ValueError as `Pipeline.draw` does."""
        return self.decoding.images()[: len(self.image_ids)]


class StepTimer:
    """A timer that counts steps: every generator phase begins one, and `tell` is told how many are over."""

    def __init__(self, timer: Timer, tell: Callable[[int], None]) -> None:
        self._timer, self._tell, self._begun = timer, tell, 0

    def phase(self, name: str) -> AbstractContextManager[None]:
        if name == "generator":
            self._tell(self._begun)
            self._begun += 1
        return self._timer.phase(name)

    def seconds(self) -> dict[str, float]:
        return self._timer.seconds()


def draw_fitting(
    pipeline: Pipeline,
    ids: Sequence[int],
    batch_size: int,
    make_timer: Callable[[], Timer],
    step: OnStep = no_step,
    *,
    padded: bool = False,
) -> tuple[Drawing, int]:
    """The first `batch_size` of `ids`, or fewer where memory runs out, being drawn; and the batch that fitted.

    `padded`: where there are fewer ids, the batch is filled up. `step` is told the images of the batch and how many of
    its steps are over. Raises ValueError where not even one image fits.
    """
    while True:
        batch = ids[:batch_size]
        rows = batch_size if padded else len(batch)
        timer = StepTimer(make_timer(), functools.partial(step, len(batch)))
        try:
            return pipeline.start(batch, timer, rows), batch_size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if rows == 1:
            raise ValueError(
                f"one image does not fit into the memory of {pipeline.device}; "
                "try --dtype bfloat16, a smaller --model or another --device"
            )
        batch_size = rows // 2
        pipeline.forget_graphs()
        if torch.cuda.is_available():  # outside `except`, whose error keeps the failed batch's tensors alive
            torch.cuda.empty_cache()


Observe = Callable[[np.ndarray], Callable[[], None]]  # of images; returns what is left to do


def observe_nothing(images: np.ndarray) -> Callable[[], None]:
    """Nobody looks, and nothing is left to do."""
    return lambda: None


@dataclass(kw_only=True)
class Worker:
    """One process of a run: draws what it can claim, every batch padded to `batch_size`, which halves when memory runs
    out; the line beside a shard tells the batches that it was drawn in.

    Where the device has streams a batch is decoded, and `observe` called, while the next one is drawn; the seconds of a
    batch are then those on the clock since the one before was there. Elsewhere they are its own.

    `observe` is shown the images of every whole shard before it is written, and returns what is left to be done by the
    thread that writes the shard, just before that.
    """

    pipeline: Pipeline
    folder: RunFolder
    batch_size: int
    make_timer: Callable[[], Timer]
    progress: Callable[[int], None] = lambda images: None
    step: OnStep = no_step  # told the images of the batch that is being drawn and how many of its steps are over
    observe: Observe = observe_nothing
    _under_way: deque[tuple[Drawing, float]] = field(default_factory=deque)  # and when it was begun
    _last_taken: float = 0.0
    _drawn_in: dict[int, set[int]] = field(default_factory=dict)  # the batches of every shard that is being drawn

    def warm_up(self, images: int) -> None:
        """Draw a few images whose time does not count: memory is mapped, kernels are chosen, graphs are recorded."""
        for _ in range(1 if self.pipeline.engine is None else 2):  # a graph is recorded when a shape comes again
            self._start(range(min(images, self.folder.shards.num_images)), padded=False).images()

    def work(self, *, wait: bool) -> None:
        """Draw every shard that no other living process holds; with `wait`, also what others leave unfinished.

        Returns once nothing is left to do here: without `wait`, when all remaining shards are held by others.
        """
        claims, shards = self.folder.claims(), self.folder.shards
        try:
            with ShardWriter(shards, done=claims.release) as writer:
                self._draw_free(claims, writer)
                writer.flush()
                while wait and shards.unfinished():
                    time.sleep(POLL_SECONDS)
                    self._draw_free(claims, writer)
                    writer.flush()
        finally:
            claims.close(remove=wait and not shards.unfinished())

    def _draw_free(self, claims: Claims, writer: ShardWriter) -> None:
        """One pass over the shards: claim, draw in full batches across shards, hand over what is complete."""

        def hand_over(index: int, images: np.ndarray) -> None:
            with self.pipeline.scoring_side.beside():
                left = self.observe(images)
            writer.put(index, images, tuple(sorted(self._drawn_in.pop(index), reverse=True)), left)

        assembly = Assembly(self.folder.shards, hand_over)
        ids: list[int] = []
        for index in claim_unfinished(self.folder.shards, claims):
            ids += assembly.expect(index)
            while len(ids) >= self.batch_size:
                ids = self._draw_next(ids, assembly)
        while ids:
            ids = self._draw_next(ids, assembly)
        while self._under_way:
            self._take_next(assembly)

    def _draw_next(self, ids: list[int], assembly: Assembly) -> list[int]:
        """Begin the first batch of `ids` and take in the one before it, or itself where nothing runs beside; returns
        the rest."""
        begun = time.perf_counter()
        drawing = self._start(ids, self.step, padded=True)
        self._under_way.append((drawing, begun))
        while len(self._under_way) > self.pipeline.side.runs_beside:
            self._take_next(assembly)
        return ids[len(drawing.image_ids) :]

    def _take_next(self, assembly: Assembly) -> None:
        """The oldest batch that is under way, its time logged by phase."""
        drawing, begun = self._under_way.popleft()
        images = drawing.images()  # waits for the device
        phases = drawing.timer.seconds()
        now = time.perf_counter()
        seconds, self._last_taken = now - max(begun, self._last_taken), now
        beside = {"beside": True} if self.pipeline.side.runs_beside else {}
        facts = {"rows": drawing.rows, "seconds": round(seconds, 6), "phases": phases, **beside}
        self.folder.log("batch", images=len(images), **facts)
        self.progress(len(images))
        for image in drawing.image_ids:
            self._drawn_in.setdefault(image // self.folder.shards.size, set()).add(drawing.rows)
        assembly.add(images)

    def _start(self, ids: Sequence[int], step: OnStep = no_step, *, padded: bool) -> Drawing:
        drawing, fitting = draw_fitting(self.pipeline, ids, self.batch_size, self.make_timer, step, padded=padded)
        if fitting < self.batch_size:
            self.folder.log("out_of_memory", failed_batch_size=self.batch_size, batch_size=fitting)
            self.batch_size = fitting
        return drawing
