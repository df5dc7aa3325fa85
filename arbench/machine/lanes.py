"""Calls beside each other on a CPU: a thread each, with its share of the threads that PyTorch computes with."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Value = TypeVar("Value")


def in_lanes(calls: Sequence[Callable[[], Value]]) -> list[Value]:
    """What `calls` return, run at once; where one raises, or the user interrupts, the others are stopped.

    Operations on small tensors are little faster with a second thread; whole calls, a thread each, are.
    """
    whole = torch.get_num_threads()
    running: set[int] = set()
    with ThreadPoolExecutor(len(calls), initializer=_share, initargs=(max(1, whole // len(calls)),)) as pool:
        try:
            lanes = [pool.submit(_run, running, call) for call in calls]
            for lane in wait(lanes, return_when=FIRST_EXCEPTION).done:
                lane.result()  # raises what the lane did
            return [lane.result() for lane in lanes]
        except BaseException:
            _interrupt(running)
            raise
        finally:
            torch.set_num_threads(whole)  # the number is also what threads to come begin with


def _share(threads: int) -> None:
    """Let PyTorch compute with so many threads in this one."""
    torch.get_num_threads()  # the first look at the number sets it, to that of the process
    torch.set_num_threads(threads)


def _run(running: set[int], call: Callable[[], Value]) -> Value:
    """`call`, its thread being among the `running` ones meanwhile."""
    running.add(threading.get_ident())
    try:
        return call()
    finally:
        running.discard(threading.get_ident())


def _interrupt(threads: set[int]) -> None:
    """Raise KeyboardInterrupt in each of these threads once its operation is over."""
    for thread in list(threads):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))
