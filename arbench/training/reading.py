"""Images read by worker processes before they are asked for, in an order and with randomness that no worker decides."""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from arbench.images.data import DIGITS, ImageData, existing_folder
from arbench.images.hub_datasets import HUB
from arbench.images.listing import index_path, list_images
from arbench.images.tar_shards import SHARDS, list_shards, shards_index_path
from arbench.machine.distributed import Processes, tell_all
from arbench.machine.files import one_line
from arbench.machine.hardware import num_cores
from arbench.training.stopping import SIGNALS

MOST_WORKERS = 8  # of a process where their number is not given: what one large GPU takes of ImageNet's JPEGs
BATCHES_AHEAD = 2  # a worker
GRACE = 30.0  # seconds that a worker lives on after SIGTERM: more than a step takes

Examples = tuple[Tensor, Tensor]  # (B,) int64 numbers of images, and of the epoch in which each is seen
View = Callable[[ImageData, int, int], list[np.ndarray]]  # of image and epoch: uint8 (H, W, 3), one or several


@runtime_checkable
class ReadsAhead(Protocol):
    """A task, or a part of one, that can use to know which examples come next."""

    def read_ahead(self, coming: Iterator[Examples]) -> None:
        """From now on these are asked for, in this order, until there are no more; what came before is forgotten."""


@dataclass(frozen=True)
class AtSides:
    """Every image at each of these sides in pixels, None its own."""

    sides: tuple[int | None, ...] = (None,)

    def __call__(self, data: ImageData, index: int, epoch: int) -> list[np.ndarray]:
        return data.sized(index, self.sides)


@dataclass(frozen=True)
class Unreadable:
    """Why a batch could not be read; an error would come out of a worker as its traceback."""

    told: str


class Pictures(Dataset[Any]):
    """The images of `data` in a view, by (image, epoch)."""

    def __init__(self, data: ImageData, view: View) -> None:
        self.data, self.view = data, view

    def __getitem__(self, example: tuple[int, int]) -> list[np.ndarray] | Unreadable:
        try:
            return self.view(self.data, *example)
        except (ValueError, OSError) as error:
            return Unreadable(str(error))


def read_batches(
    data: ImageData, view: View, batches: Iterable[Examples], *, workers: int, device: torch.device | str
) -> Generator[list[Tensor], None, None]:
    """The views of one batch after another, uint8 (B, H, W, 3) each; in pinned memory where they go to a GPU.

    `workers` processes read up to `BATCHES_AHEAD` batches each in advance, until the last one is asked for or this is
    closed; 0 reads them here when they are asked for. Raises ValueError that names the image which cannot be read, and
    where images of a batch differ in size.
    """
    read = _read(data, view, batches, workers, device)
    atexit.register(read.close)  # before multiprocessing waits for workers that nobody has told to end
    try:
        yield from read
    finally:
        read.close()
        atexit.unregister(read.close)


def _read(
    data: ImageData, view: View, batches: Iterable[Examples], workers: int, device: torch.device | str
) -> Generator[list[Tensor], None, None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: as was asked for
        loader: DataLoader[Any] = DataLoader(
            Pictures(data, view),
            batch_sampler=(list(zip(*(part.tolist() for part in batch), strict=True)) for batch in batches),
            num_workers=workers,
            collate_fn=_stacked,
            pin_memory=torch.device(device).type == "cuda",
            worker_init_fn=_live_through_signals,
            prefetch_factor=BATCHES_AHEAD if workers else None,
            generator=torch.Generator(),  # else the loader takes numbers from PyTorch's own, which dropout draws from
        )
        with _deaths_told(), _deaths_wait():
            read = iter(loader)
    while (batch := _next_of(read)) is not None:
        if isinstance(batch, Unreadable):
            raise ValueError(batch.told)
        yield batch


def _next_of(read: Iterator[Any]) -> Any:
    """The next batch, None behind the last. Raises ValueError where a worker has died."""
    with _deaths_told():
        return next(read, None)


@contextmanager
def _deaths_wait() -> Iterator[None]:
    """A loader that is made within it says of a dead worker when a batch is asked for.

    PyTorch's own handler of SIGCHLD, which it sets then, would raise in whatever the main thread is just computing.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


@contextmanager
def _deaths_told() -> Iterator[None]:
    """Within it the error of a worker that has died is a ValueError of one line."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ValueError(
            f"reading of images ended: {one_line(error)}; expected more memory or fewer --workers"
        ) from error


def _stacked(views: Sequence[list[np.ndarray] | Unreadable]) -> list[Tensor] | Unreadable:
    """The views of a batch of images, each as one array."""
    for view in views:
        if isinstance(view, Unreadable):
            return view
    together = list(zip(*views, strict=True))
    shapes = sorted({view.shape for view in together[0]})
    if len(shapes) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width, _ in shapes[:3])
        return Unreadable(f"images differ in size ({shown}); expected --size, to which they are cropped")
    return [torch.from_numpy(np.stack(view)) for view in together]


def _live_through_signals(worker: int) -> None:
    """Ctrl-C and a scheduler's signals go to all processes; a training ends its step first, and needs its images.

    SIGTERM ends a worker some time later, where nobody else has.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.setitimer(signal.ITIMER_REAL, GRACE) and None)


class Feed:
    """Batches of a task's images: the coming ones in their order, any others at once."""

    def __init__(self, data: ImageData, view: View, *, workers: int, device: torch.device) -> None:
        self._data, self._view, self._workers, self._device = data, view, workers, device
        self._coming: Iterator[Examples] = iter(())
        self._next: Examples | None = None
        self._read: Generator[list[Tensor], None, None] | None = None

    def read_ahead(self, coming: Iterator[Examples]) -> None:
        """As `ReadsAhead` has it; with nothing to come the workers end."""
        if self._read is not None:
            self._read.close()
        coming, self._coming = itertools.tee(coming)
        self._next = next(self._coming, None)
        self._read = read_batches(self._data, self._view, coming, workers=self._workers, device=self._device)

    def take(self, indices: Tensor) -> tuple[list[Tensor], Tensor]:
        """The views of images `indices` (B,), uint8 (B, H, W, 3) each, on the device, and the epoch of each image."""
        if self._read is not None and self._next is not None and torch.equal(self._next[0], indices):
            epochs, views = self._next[1], next(self._read)
            self._next = next(self._coming, None)
        else:  # not an example of a step, e.g. of dead codes
            epochs = torch.zeros_like(indices)
            views = next(read_batches(self._data, self._view, [(indices, epochs)], workers=0, device=self._device))
        return [view.to(self._device, non_blocking=True) for view in views], epochs


def image_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """Random numbers of one image in one epoch, or of one of its views: a function of these numbers alone."""
    state = np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def usual_workers(data: str, device: torch.device, mine: Processes) -> int:
    """Workers of a process where their number is not given: none for images in memory, and none beside a CPU's work."""
    if data == DIGITS or device.type != "cuda":
        return 0
    here = int(os.environ.get("LOCAL_WORLD_SIZE", mine.count))
    return max(1, min(MOST_WORKERS, num_cores() // here))


def list_once(data: str, mine: Processes, *, again: bool, say: Callable[[str], None]) -> None:
    """Let the first process list a large folder, or shards, and save the index, so that the others do not as well.

    Raises what listing it raises.
    """
    if data == DIGITS or data.startswith(HUB):
        return
    if data.startswith(SHARDS):
        pattern = data.removeprefix(SHARDS)
        what, path = f"images inside {pattern}", shards_index_path(pattern)
        count = tell_all(mine, lambda: len(list_shards(pattern, again=again)))
    else:
        folder = existing_folder(data)
        what, path = f"files below {folder}", index_path(folder)
        count = tell_all(mine, lambda: len(list_images(folder, again=again)))
    if path.exists():
        say(f"images: {count:,} {what}, listed in {path}")
