"""Progress of training and caching: a bar on a terminal, a line a minute elsewhere; both on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from arbench.machine.progress import SECONDS_A_LINE

Advance = Callable[[int, Mapping[str, float]], None]


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Advance]:
    """Gives a function to call with the steps (or images) done and what was logged of the last one."""
    if not sys.stderr.isatty():
        yield progress_lines(title, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(done: int, logged: Mapping[str, float]) -> None:
            bar.update(task, completed=done)
            bar.update(task, note=note(logged, bar.tasks[0].speed))

        yield advance


def progress_lines(title: str, total: int, *, clock: Callable[[], float] = time.monotonic) -> Advance:
    """A function that prints where things stand once a minute, with the loss or the speed, and the time left."""
    began = last = clock()
    first: int | None = None  # done before: a resumed run starts in the middle

    def advance(done: int, logged: Mapping[str, float]) -> None:
        nonlocal last, first
        first = done if first is None else first
        now = clock()
        if now - last < SECONDS_A_LINE:
            return
        last = now
        speed = (done - first) / (now - began)
        left = f", {(total - done) / speed / 60:.0f} min left" if speed else ""
        print(f"{title}: {done} of {total}, {note(logged, speed)}{left}", file=sys.stderr, flush=True)

    return advance


def note(logged: Mapping[str, float], speed: float | None) -> str:
    """The loss where there is one, else the speed: only images are counted without a loss."""
    if "loss" in logged:
        return f"loss {logged['loss']:.4f}"
    return f"{speed:.1f} images/s" if speed else ""
