"""The worker: claim shards, draw their images batch by batch, hand them to the writer, until no shard is left."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from arbench.images.pixels import check_finite, resize_bicubic, to_uint8
from arbench.machine.hardware import exact_float32
from arbench.machine.precision import precision_of
from arbench.protocols import Generator, Timer, Tokenizer
from arbench.runs.folder import RunFolder
from arbench.runs.memory import is_out_of_memory
from arbench.runs.shards import Assembly, Claims, ShardWriter, claim_unfinished
from arbench.sampling.algorithm import Observer, draw_tokens
from arbench.sampling.engine import Engine
from arbench.settings import Guidance
from arbench.tokenizer.load import decode_tokens

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

    def draw(self, image_ids: Sequence[int], timer: Timer, batch_size: int | None = None) -> np.ndarray:
        """uint8 images (B, H, W, 3) for `image_ids`. Raises ValueError where a latent or a pixel is not finite.

        With `batch_size` fewer ids are padded to it, so that generator and decoder compute with that shape, whose
        floats are then always the same; the padding is the last id over again, and what it gives is thrown away.

        A generator in float32 runs without TF32, decoder included: another batch or device then changes an image by
        rounding only. One in half precision is not exact anyway, and keeps the speed.
        """
        padding = [image_ids[-1]] * (0 if batch_size is None else batch_size - len(image_ids))
        with exact_float32(self.device) if precision_of(self.generator).is_exact else nullcontext():
            return self._draw([*image_ids, *padding], timer)[: len(image_ids)]

    def _draw(self, image_ids: Sequence[int], timer: Timer) -> np.ndarray:
        ids = torch.as_tensor(list(image_ids))
        labels = torch.from_numpy(self.labels[list(image_ids)]).to(self.device)
        tokens = draw_tokens(
            self.generator,
            labels,
            settings=self.settings,
            seed=self.seed,
            image_ids=ids,
            timer=timer,
            observe=self.observe,
            engine=self.engine,
        )
        if tokens.is_floating_point():
            check_finite(tokens, "latents")
        with timer.phase("decode"):
            return self.decode(tokens)

    def decode(self, tokens: Tensor) -> np.ndarray:
        """Tokens to uint8 images (B, H, W, 3) of the size that is kept."""
        images = decode_tokens(self.tokenizer, tokens)
        if self.image_size is not None and images.shape[-1] != self.image_size:
            images = resize_bicubic(images, self.image_size)
        return to_uint8(images)


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
) -> tuple[np.ndarray, Timer, int]:
    """Images of the first `batch_size` of `ids`, or of fewer where memory runs out; their timer; the batch that fitted.

    `padded`: where there are fewer ids, the batch is filled up. `step` is told the images of the batch and how many of
    its steps are over. Raises ValueError where not even one image fits.
    """
    while True:
        batch = ids[:batch_size]
        rows = batch_size if padded else len(batch)
        timer = StepTimer(make_timer(), functools.partial(step, len(batch)))
        try:
            return pipeline.draw(batch, timer, rows), timer, batch_size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if rows == 1:
            raise ValueError(
                f"one image does not fit into the memory of {pipeline.device}; "
                "try --dtype bfloat16, a smaller --model or another --device"
            )
        batch_size = rows // 2
        if torch.cuda.is_available():  # outside `except`, whose error keeps the failed batch's tensors alive
            torch.cuda.empty_cache()


@dataclass(kw_only=True)
class Worker:
    """One process of a run: draws what it can claim, every batch padded to `batch_size`, which halves when memory runs
    out; the line beside a shard tells the batches that it was drawn in.

    `observe` is shown the images of every whole shard before it is written; its time is not that of any batch.
    """

    pipeline: Pipeline
    folder: RunFolder
    batch_size: int
    make_timer: Callable[[], Timer]
    progress: Callable[[int], None] = lambda images: None
    step: OnStep = no_step  # told the images of the batch that is being drawn and how many of its steps are over
    observe: Callable[[np.ndarray], None] = lambda images: None
    _drawn_in: dict[int, set[int]] = field(default_factory=dict)  # the batches of every shard that is being drawn

    def warm_up(self, images: int) -> None:
        """Draw a few images whose time does not count: memory is mapped, kernels are chosen."""
        self._draw(range(min(images, self.folder.shards.num_images)), padded=False)

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
            self.observe(images)
            writer.put(index, images, tuple(sorted(self._drawn_in.pop(index), reverse=True)))

        assembly = Assembly(self.folder.shards, hand_over)
        ids: list[int] = []
        for index in claim_unfinished(self.folder.shards, claims):
            ids += assembly.expect(index)
            while len(ids) >= self.batch_size:
                ids = self._draw_next(ids, assembly)
        while ids:
            ids = self._draw_next(ids, assembly)

    def _draw_next(self, ids: list[int], assembly: Assembly) -> list[int]:
        """Draw the first batch of `ids`; returns the rest."""
        images = self._draw_timed(ids)
        for image in ids[: len(images)]:
            self._drawn_in.setdefault(image // self.folder.shards.size, set()).add(self.batch_size)
        assembly.add(images)
        return ids[len(images) :]

    def _draw_timed(self, ids: Sequence[int]) -> np.ndarray:
        """The first batch of `ids`, its time logged by phase."""
        start = time.perf_counter()
        images, timer = self._draw(ids, self.step, padded=True)
        phases = timer.seconds()  # waits for the device
        seconds = time.perf_counter() - start
        self.folder.log("batch", images=len(images), rows=self.batch_size, seconds=round(seconds, 6), phases=phases)
        self.progress(len(images))
        return images

    def _draw(self, ids: Sequence[int], step: OnStep = no_step, *, padded: bool) -> tuple[np.ndarray, Timer]:
        images, timer, fitting = draw_fitting(self.pipeline, ids, self.batch_size, self.make_timer, step, padded=padded)
        if fitting < self.batch_size:
            self.folder.log("out_of_memory", failed_batch_size=self.batch_size, batch_size=fitting)
            self.batch_size = fitting
        return images, timer
