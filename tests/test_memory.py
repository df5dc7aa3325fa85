"""What sampling keeps beside weights and images is counted to the byte: by the spec as in what is really built."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from conftest import make_generator
from tiny_runs import tiny
from torch import Tensor, nn

from arbench.generators.methods import get_method
from arbench.heads.diffusion import DiffusionHead
from arbench.heads.work import prepared_bytes
from arbench.machine.precision import Precision, set_precision
from arbench.runs import execute
from arbench.runs import memory as memory_module
from arbench.runs.memory import MemoryEstimate, automatic_batch, estimate_memory
from arbench.runs.request import RunRequest, prepare
from arbench.weights.load import load_generator

CPU = torch.device("cpu")


def tensors_in(whole: object) -> Iterator[Tensor]:
    """Tensors that are kept in it, a model's parameters aside."""
    if isinstance(whole, (Tensor, nn.Module)):
        if isinstance(whole, Tensor) and not isinstance(whole, nn.Parameter):
            yield whole
        return
    parts = whole if isinstance(whole, (list, tuple)) else vars(whole).values() if hasattr(whole, "__dict__") else ()
    for part in parts:
        yield from tensors_in(part)


def kept_bytes(whole: object) -> int:
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors_in(whole)}
    return sum(storages.values())


@torch.inference_mode()
def static_bytes(generator) -> int:
    """Of a static state, whatever the batch, beside what an eager one keeps."""

    def state_bytes(batch: int, static: bool) -> int:
        labels = torch.zeros(batch, dtype=torch.int64, device=generator.norm.weight.device)
        order = torch.arange(generator.num_tokens, device=labels.device).repeat(batch, 1)
        return kept_bytes(generator.begin(labels, True, order, static=static))

    static, eager = ([state_bytes(batch, is_static) for batch in (1, 2)] for is_static in (True, False))
    return (2 * static[0] - static[1]) - (2 * eager[0] - eager[1])


@pytest.mark.parametrize(
    ("model", "device", "precision"),
    [
        ("ar-digits", "cpu", "float32"),
        ("par-digits", "cpu", "mixed-bfloat16"),
        ("arpg-digits", "cpu", "bfloat16"),
        ("ar-3b", "meta", "bfloat16"),
        ("arpg-xxl", "meta", "mixed-float16"),
    ],
)
def test_a_static_state_keeps_as_many_bytes_as_the_spec_says(model, device, precision):
    generator = load_generator(model, device=device)
    set_precision(generator, Precision.of(precision))
    counted = get_method(generator.method).static_memory
    assert counted is not None
    assert counted(generator) == static_bytes(generator) > 0


@pytest.mark.parametrize("name", ["ar-raster", "arpg"])
def test_without_a_cache_nothing_is_joined(name):
    if name == "arpg":
        generator = load_generator("arpg-digits", device="meta", kv_cache=False)
    else:
        generator = make_generator(name, kv_cache=False)
    counted = get_method(generator.method).static_memory
    assert counted is not None
    assert counted(generator) == static_bytes(generator) == 0


def test_a_prepared_head_keeps_as_many_bytes_as_are_counted():
    generator = make_generator("mar", "diffusion").to(torch.float64)
    head = generator.draw_head()
    assert isinstance(head, DiffusionHead)
    assert prepared_bytes(head) == kept_bytes(head.prepare()) > 0
    assert prepared_bytes(make_generator("par").draw_head()) == 0


def test_the_estimate_counts_it_for_graphs_and_the_batch_leaves_room_for_it(monkeypatch):
    generator = load_generator("par-3b-4x", device="meta")
    eager, graph = (estimate_memory(generator, None, 256, engine) for engine in ("eager", "graph"))
    counted = get_method("par").static_memory(generator)
    assert round((graph.gib(5) - eager.gib(5)) * 2**30) == counted > 2**30
    monkeypatch.setattr(memory_module, "free_memory", lambda device: 10_000)
    assert automatic_batch(MemoryEstimate(fixed=0, per_image=100), CPU, 99) == 70
    assert automatic_batch(MemoryEstimate(fixed=0, per_image=100, joined=1_001), CPU, 99) == 59
    assert automatic_batch(MemoryEstimate(fixed=0, per_image=100, joined=8_000), CPU, 99) == 1


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_run_asks_for_its_engine(engine, monkeypatch):
    job = prepare(RunRequest.of(**(tiny("par") | {"batch_size": "auto"}), engine=engine))
    seen = []
    monkeypatch.setattr(execute, "automatic_batch", lambda estimate, device, images: seen.append(estimate) or 1)
    execute.choose_batch(job)
    assert (seen[0].joined > 0) is (engine == "graph")
