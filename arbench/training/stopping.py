"""Signals that end a training between two steps, on all processes after the same one; or at once, in what can be done
again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; what a scheduler sends before it takes the machine away, and what a job asks for beforehand.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


@contextmanager
def deferred_signals() -> Iterator[threading.Event]:
    """Turn these signals into an event that is looked at between steps, so that no step is saved half-done.

    A second one interrupts at once. Outside the main thread, where signals do not arrive, nothing changes.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible(pressed: threading.Event) -> Iterator[None]:
    """Within it, under `deferred_signals`, the first signal interrupts: KeyboardInterrupt, also for one from before."""
    if pressed.is_set():
        raise KeyboardInterrupt
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def leave(number: int, frame: FrameType | None) -> None:
        pressed.set()
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
