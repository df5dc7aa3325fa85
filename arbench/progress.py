"""Progress bars on a terminal, silence elsewhere (events.jsonl always tells)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def image_progress(title: str, total: int, done: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar with images a second and the time left, on standard error; gives a function to call with new images.

    `done` of `total` images are there already. Nothing is drawn where standard error is no terminal.
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda images: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total, completed=done, rate="")

        def advance(images: int) -> None:
            bars.advance(task, images)
            speed = bars.tasks[0].speed
            bars.update(task, rate=f"{speed:.1f} images/s" if speed else "")

        yield advance
