"""Whether a call waits for a CUDA device."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")

WAITED = "called a synchronizing CUDA operation"  # c10::cuda::warn_or_error_on_sync
PROTOTYPE = "Synchronization debug mode is a prototype"  # told once, when the mode is first set

_one_at_a_time = threading.RLock()  # what is set here is the whole process's


def watched(call: Callable[[], Value]) -> tuple[Value, bool]:
    """What `call` returns, and whether it waited for the device, as far as PyTorch knows of its operations.

    PyTorch is asked to warn of what waits, not to raise: the call is whole, and another thread may wait meanwhile, of
    which nothing is told.
    """
    mine, waits = threading.get_ident(), list[str]()
    with _one_at_a_time, warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, *where: Any, **more: Any) -> None:
            if not str(message).startswith(WAITED):
                show(message, *where, **more)
            elif threading.get_ident() == mine:
                waits.append(str(message))

        warnings.filterwarnings("always", message=WAITED)
        warnings.filterwarnings("ignore", message=PROTOTYPE)
        warnings.showwarning = note
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            return call(), bool(waits)
        finally:
            torch.cuda.set_sync_debug_mode(before)
