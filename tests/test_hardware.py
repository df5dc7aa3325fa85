"""Devices and dtypes by name, exact float32, time by phase, and pictures brought to another size."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_runs import TINY_GPT

from arbench.cli.train import TRAINED_ON
from arbench.images.pixels import resize_bicubic, to_uint8
from arbench.machine import hardware
from arbench.machine.timing import PhaseTimer
from arbench.machine.transfer import constant
from arbench.runs.models import load_parts
from arbench.runs.pipeline import Pipeline
from arbench.sampling import algorithm as loop

CPU = torch.device("cpu")


def test_devices_and_dtypes_by_name():
    assert hardware.resolve_device("cpu") == CPU
    assert hardware.resolve_device("auto").type == hardware.available_devices()[0]
    assert hardware.device_name("cpu:0") == "cpu"
    assert hardware.resolve_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(ValueError, match="did you mean 'float32'"):
        hardware.resolve_dtype("flaot32")


def test_the_fastest_device_that_may_be_taken_is_auto(monkeypatch):
    monkeypatch.setattr(hardware, "available_devices", lambda: ["mps", "cpu"])
    assert hardware.resolve_device("auto") == torch.device("mps")
    assert hardware.resolve_device("auto", automatic=TRAINED_ON) == CPU
    assert hardware.resolve_device("mps", automatic=TRAINED_ON) == torch.device("mps")
    monkeypatch.setattr(hardware, "available_devices", lambda: ["cuda", "cpu"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert hardware.resolve_device("auto", 6, TRAINED_ON) == torch.device("cuda", 2)
    assert [hardware.device_name(name, TRAINED_ON) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_here_is_told():
    with pytest.raises(ValueError, match="'cuda' is not available here; expected one of: auto"):
        hardware.resolve_device("cuda")


def test_what_was_freed_counts_as_free_though_pytorch_keeps_it(monkeypatch):
    asked = []
    for name, told in {"mem_get_info": (1_000, 9_000), "memory_reserved": 5_000, "memory_allocated": 3_000}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, told=told: asked.append(device) or told)
    second = torch.device("cuda", 1)
    assert hardware.free_memory(second) == 1_000 + 2_000
    assert set(asked) == {second}


PEAKS = """
import numpy, torch
from arbench.machine import hardware
device = torch.device("cpu")
hardware.reset_peak_memory(device)
before = hardware.peak_memory_gib(device)
block = numpy.ones(50_000_000)  # 0.37 GiB, written to and so resident
with_block = hardware.peak_memory_gib(device)
del block
hardware.reset_peak_memory(device)
print(before, with_block, hardware.peak_memory_gib(device))
"""


def test_the_peak_of_memory_is_that_since_the_reset():
    # In a process of its own: what other tests free, or keep, moves this one's memory.
    out = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True).stdout
    before, with_block, after = map(float, out.split())
    assert with_block - before > 0.3
    assert after - before < 0.1


def test_exact_float32_gives_back_what_was_set():
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    with hardware.exact_float32(CPU):
        assert [flag.allow_tf32 for flag in flags] == [False, False]
    assert [flag.allow_tf32 for flag in flags] == before


def test_an_inner_phase_is_not_counted_in_the_outer_one(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 10.0, 20.0, 50.0])
    monkeypatch.setattr("arbench.machine.timing.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    timer = PhaseTimer(CPU)
    with timer.phase("generator"), timer.phase("head"):  # from 0 to 10, the inner one from 1 to 3
        pass
    with timer.phase("generator"):  # from 20 to 50, and nothing from 10 to 20
        pass
    assert timer.seconds() == {"generator": 1.0 + 7.0 + 30.0, "head": 2.0}


def test_images_are_resized_as_floats_before_they_become_bytes():
    parts = load_parts("par", weights="random", device=CPU, config=TINY_GPT)
    labels = np.arange(3)
    pipeline = Pipeline(
        generator=parts.generator,
        tokenizer=parts.tokenizer,
        labels=labels,
        settings=parts.settings,
        seed=0,
        device=CPU,
        image_size=24,
    )
    ids = loop.generate(parts.generator, labels, seed=0, image_ids=labels, **parts.sampling)
    expected = to_uint8(resize_bicubic(parts.tokenizer.decode(ids), 24))
    assert expected.shape == (3, 24, 24, 3)
    assert np.array_equal(pipeline.draw(range(3), PhaseTimer(CPU)), expected)


def test_constants_asked_for_by_a_generation_may_be_trained_with():
    with torch.inference_mode():
        made = constant(torch.arange, 7, device=torch.device("cpu"), dtype=torch.float64)
    assert not made.is_inference()
