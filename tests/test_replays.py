"""How graphs are recorded on CUDA: what PyTorch is asked for, in order. No GPU is needed, and nothing is recorded."""

from __future__ import annotations

import threading
import warnings
import weakref
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from arbench.machine.fused import EngineWarning
from arbench.machine.streams import Side
from arbench.machine.transfer import constant
from arbench.machine.waits import PROTOTYPE, WAITED, watched
from arbench.runs.decoding import Decoder
from arbench.sampling.algorithm import NoTimer
from arbench.sampling.engine import Replays

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


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
        current.append(stream or current[-1])
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
        address.append(weakref.ref(constant(torch.full, (2,), 7.0, device=CPU)))

    for _ in range(2):
        replays("a", step)
    for size in range(300):  # more than are kept for whoever asks again
        constant(torch.zeros, size, device=CPU)
    assert address[-1]() is not None
    del replays
    assert address[-1]() is None


class Device:
    """The mode that PyTorch's CUDA operations look at when they wait."""

    def __init__(self) -> None:
        self.mode: int | str = 0

    def set_mode(self, mode: int | str) -> None:
        warnings.warn(f"{PROTOTYPE} feature and does not yet detect all synchronizing operations", UserWarning, 1)
        self.mode = mode

    def wait(self) -> None:
        if self.mode == "warn":
            warnings.warn(f"{WAITED} (Triggered internally at CUDAFunctions.cpp:148.)", UserWarning, 1)
        assert self.mode in (0, "warn")


@pytest.fixture
def device(monkeypatch):
    device = Device()
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: device.mode)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", device.set_mode)
    yield device
    assert device.mode == 0


class Tokens:
    """A tokenizer that waits for the device in its first `waits` batches."""

    name, kind, channels, downsample = "waiting", "continuous", 1, 1

    def __init__(self, device: Device, waits: int) -> None:
        self.device, self.waits, self.decoded = device, waits, 0

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        self.decoded += 1
        if self.decoded <= self.waits:
            self.device.wait()
        return tokens.repeat(1, 3, 1, 1) / self.decoded


def decode_three(tokenizer: Tokens) -> list[np.ndarray]:
    decoder = Decoder(tokenizer, None, Side(CPU), Replays(CUDA))
    return [decoder.start(torch.ones(1, 1, 2, 2), NoTimer()).images() for _ in range(3)]


def test_a_decoder_that_waits_is_called_once_a_batch_and_never_recorded(told, device):
    tokenizer = Tokens(device, waits=99)
    with pytest.warns(EngineWarning, match="could not be recorded, eager instead: it waits for the device") as found:
        images = decode_three(tokenizer)
    assert len(found) == 1
    assert tokenizer.decoded == 3
    assert len({image.tobytes() for image in images}) == 3
    assert told == []


def test_a_decoder_that_waits_in_its_first_batch_alone_is_recorded(told, device):
    tokenizer = Tokens(device, waits=1)
    decode_three(tokenizer)
    assert tokenizer.decoded == 3  # called, watched and recorded
    assert told[-4:] == ["begin", "end", "replay", "replay"]


def test_watching_ends_with_an_error_too(device):
    shown = warnings.showwarning
    with pytest.raises(ZeroDivisionError):
        watched(lambda: 1 / 0)
    assert device.mode == 0
    assert warnings.showwarning is shown


def test_another_thread_may_wait_and_other_warnings_are_shown(device):
    def call() -> int:
        other = threading.Thread(target=device.wait)
        other.start()
        other.join()
        warnings.warn("of something else", UserWarning, 1)
        return 7

    with pytest.warns(UserWarning, match="of something else") as shown:
        assert watched(call) == (7, False)
    assert len(shown) == 1
    with warnings.catch_warnings(record=True) as shown:
        assert watched(lambda: device.wait() or 8) == (8, True)
    assert shown == []
