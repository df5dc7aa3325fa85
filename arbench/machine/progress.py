"""Progress on standard error: bars on a terminal or in a notebook, a line a minute elsewhere.

events.jsonl always tells.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

SECONDS_A_LINE = 60.0
SECONDS_A_FRAME = 0.1  # a bar moves no oftener, so that short steps are not slowed

Advance = Callable[[int, Mapping[str, float]], None]  # steps or images done, what was logged of the last
Show = Callable[[str, float, int, float], None]  # title, images done, of how many, images a second

_shown: list[Any] = []  # the bars on the terminal, of which the last one moves


class ImageProgress:
    """How many images are done, counted within a batch by its steps, and what is being done to them.

    Called with the number of images that were just done. `done` of `total` are there already, each takes `steps`. Where
    things stand goes to `show`, at most once in `seconds`.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        done: int = 0,
        steps: int = 1,
        show: Show = lambda title, done, total, rate: None,
        seconds: float = SECONDS_A_LINE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job, self._title, self._total, self._done, self._steps = title, title, total, done, steps
        self._show, self._seconds, self._clock = show, seconds, clock
        self._first, self._shown = done, clock()
        self._began = self._shown

    def __call__(self, images: int) -> None:
        self._done += images
        self._tell(self._done)

    def step(self, images: int, step: int) -> None:
        """The batch of `images` that is being drawn has `step` steps behind it."""
        self._tell(self._done + images * min(step / self._steps, 1.0))

    def phase(self, name: str, total: int = 0) -> None:
        """From now on `name` is done to `total` images; 0: to all of them at once."""
        self._title, self._total, self._done, self._first = f"{self._job}: {name}", total, 0, 0
        self._began = self._clock()
        self._tell(0)

    def _tell(self, done: float) -> None:
        now = self._clock()
        if now - self._shown >= self._seconds:
            self._shown = now
            self.flush(done)

    def flush(self, done: float | None = None) -> None:
        """Show where things stand, however short it is since the last time."""
        done = self._done if done is None else done
        elapsed = self._clock() - self._began
        self._show(self._title, done, self._total, (done - self._first) / elapsed if elapsed > 0 else 0.0)


def can_show_bars() -> bool:
    """Whether standard error is a terminal, or the cell of a notebook whose ipywidgets let a bar move."""
    if sys.stderr.isatty():
        return True
    if "ipykernel" not in sys.modules or importlib.util.find_spec("ipywidgets") is None:
        return False
    from rich import console  # only where there may be a notebook

    return console.Console().is_jupyter


@contextmanager
def image_progress(title: str, total: int, done: int, shown: bool = True, steps: int = 1) -> Iterator[ImageProgress]:
    """Progress with images a second and the time left: a bar where one can be seen, else a line a minute.

    `done` of `total` images are there already, each takes `steps`. Nothing is told where not `shown`.
    """
    if not shown:
        yield ImageProgress(title, total)
        return
    if not can_show_bars():
        yield ImageProgress(title, total, done=done, steps=steps, show=print_line)
        return
    with terminal_bar(title, total, done) as update:

        def show(title: str, done: float, total: int, rate: float) -> None:
            update(description=title, total=total or None, completed=int(done), note=speed(done, total, rate))

        progress = ImageProgress(title, total, done=done, steps=steps, show=show, seconds=SECONDS_A_FRAME)
        yield progress
        progress.flush()


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Advance]:
    """Gives a function to call with the steps (or images) done and what was logged of the last one."""
    if not can_show_bars():
        yield progress_lines(title, total)
        return
    with terminal_bar(title, total) as update:
        yield progress_lines(title, total, seconds=0, show=lambda done, note: update(completed=done, note=note))


def progress_lines(
    title: str,
    total: int,
    *,
    seconds: float = SECONDS_A_LINE,
    show: Callable[[int, str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Advance:
    """A function that shows where things stand once in `seconds`, with the loss or the speed, and the time left."""
    began = last = clock()
    first: int | None = None  # done before: a resumed run starts in the middle

    def advance(done: int, logged: Mapping[str, float]) -> None:
        nonlocal last, first
        first = done if first is None else first
        now = clock()
        if now - last < seconds:
            return
        last = now
        rate = (done - first) / (now - began) if now > began else 0.0
        told = note(logged, rate) + (f", {(total - done) / rate / 60:.0f} min left" if rate else "")
        if show is None:
            print(f"{title}: {done} of {total}, {told}", file=sys.stderr, flush=True)
        else:
            show(done, told)

    return advance


def note(logged: Mapping[str, float], rate: float) -> str:
    """The loss, with the speed where it is logged too; without one images are counted, as fast as they come."""
    if "loss" in logged:
        speed = f", {logged['images_per_second']:.3g} images/s" if "images_per_second" in logged else ""
        return f"loss {logged['loss']:.4f}{speed}"
    return f"{rate:.1f} images/s" if rate else ""


@contextmanager
def resting_bar() -> Iterator[None]:
    """Within it the bar that is on the terminal does not move, so that something else can be written there."""
    moving = _shown[-1:]
    for bars in moving:
        bars.stop()
    try:
        yield
    finally:
        for bars in moving:
            bars.start()


@contextmanager
def terminal_bar(title: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A bar on the terminal of standard error; gives what changes it: `completed`, and a `note` behind it.

    One that is there already rests until this one has ended.
    """
    from rich import console, progress  # only where a bar can be seen

    description, note = progress.TextColumn("{task.description}"), progress.TextColumn("{task.fields[note]}")
    columns = (description, progress.BarColumn(), progress.MofNCompleteColumn(), note)
    with resting_bar(), progress.Progress(*columns, console=console.Console(stderr=True)) as bars:
        _shown.append(bars)
        try:
            yield partial(bars.update, bars.add_task(title, total=total, completed=done, note=""))
        finally:
            _shown.remove(bars)
            bars.refresh()  # a notebook would keep the state before the last


def print_line(title: str, done: float, total: int, rate: float) -> None:
    """One line of progress on standard error; of what is done to all images at once, its name."""
    counted = f": {int(done)} of {total} images" if total else ""
    print(", ".join(filter(None, [f"{title}{counted}", speed(done, total, rate)])), file=sys.stderr, flush=True)


def speed(done: float, total: int, rate: float) -> str:
    """Images a second and the time left, empty where it is not known."""
    if not total or rate <= 0:
        return ""
    minutes, seconds = divmod(round((total - done) / rate), 60)
    return f"{rate:.3g} images/s, {minutes // 60}:{minutes % 60:02}:{seconds:02} left"


def span(seconds: float) -> str:
    """A time as one says it: "40 s", "12 min", "1 h 50 min", "2 days 3 h"."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = round(minutes / 60)
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} days {hours % 24} h"
