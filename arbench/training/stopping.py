"""Signals that end a training between two steps, on all processes after the same one; or at once, in what can be done
again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

# Ctrl-C; what a scheduler sends before it takes the machine away, and what a job asks for beforehand.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
ONE_PRESS = 2.0  # seconds in which one Ctrl-C may arrive twice: from the terminal, and from torchrun that passes it on


@contextmanager
def deferred_signals() -> Iterator[threading.Event]:
    """Turn these signals into an event that is looked at between steps, so that no step is saved half-done.

    One that comes again changes nothing: a scheduler signals all processes, and torchrun passes its own on to those
    that it started. Only a user's second Ctrl-C, `ONE_PRESS` after the first signal or later, interrupts at once.
    Outside the main thread, where signals do not arrive, nothing changes.
    """
    pressed, first = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not pressed.is_set():
            first = monotonic()
            pressed.set()
        elif number == signal.SIGINT and monotonic() - first >= ONE_PRESS:
            raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible(pressed: threading.Event) -> Iterator[None]:
    """Within it, under `deferred_signals`, the first signal interrupts: KeyboardInterrupt, also for one from before.

    Those that follow it are taken as around it, so that none breaks into the clearing up after the first.
    """
    if threading.current_thread() is not threading.main_thread():
        if pressed.is_set():
            raise KeyboardInterrupt
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def leave(number: int, frame: FrameType | None) -> None:
        is_first, around = not pressed.is_set(), before[number]
        if callable(around):
            around(number, frame)
        pressed.set()
        if is_first:
            raise KeyboardInterrupt

    try:
        for number in SIGNALS:
            signal.signal(number, leave)
        if pressed.is_set():  # asked once none can come unseen
            raise KeyboardInterrupt
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
