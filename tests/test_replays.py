"""How graphs are recorded on CUDA: what PyTorch is asked for, in order. No GPU is needed, and nothing is recorded."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from arbench.machine.transfer import constant
from arbench.sampling.engine import Replays

CUDA = torch.device("cuda", 0)


@dataclass
class Told:
    """A stream and a graph that tell what they are asked for."""

    name: str
    told: list[str]

    def wait_stream(self, other):
        self.told.append(f"{self.name} waits for {other.name}")

    def capture_begin(self, *, pool, capture_error_mode):
        self.told.append("begin")

    def capture_end(self):
        self.told.append("end")

    def replay(self):
        self.told.append("replay")


@pytest.fixture
def told(monkeypatch):
    """What the graphs of the test do, one word each."""
    told: list[str] = []
    current = [Told("outer", told)]

    @contextmanager
    def entered(stream):
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Told("graph", told))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Told("recording", told))
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.append("emptied"))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    return told


def test_the_cache_is_emptied_before_the_first_recording_alone(told):
    replays = Replays(CUDA)
    for key in ("a", "b"):
        replays(key, lambda: None)
    assert told == []
    for key in ("a", "b"):
        replays(key, lambda: None)
    assert told.count("begin") == 2
    assert told.index("emptied") < told.index("begin")
    assert told.count("emptied") == 1


def test_a_recording_waits_for_the_stream_that_it_was_asked_for_in(told):
    replays = Replays(CUDA)
    for _ in range(3):
        replays("a", lambda: None)
    assert [word for word in told if word != "emptied"] == [
        "recording waits for outer",
        "begin",
        "end",
        "replay",
        "replay",
    ]


def test_the_constants_of_a_recording_live_as_long_as_it(told):
    replays, address = Replays(CUDA), []

    def step():
        address.append(weakref.ref(constant(torch.full, (2,), 7.0, device=torch.device("cpu"))))

    for _ in range(2):
        replays("a", step)
    for size in range(300):  # more than are kept for whoever asks again
        constant(torch.zeros, size, device=torch.device("cpu"))
    assert address[-1]() is not None
    del replays
    assert address[-1]() is None
