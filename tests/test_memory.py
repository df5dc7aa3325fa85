"""What sampling keeps beside weights and images is counted to the byte: by the spec as in what is really built."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from conftest import make_generator
from tiny_runs import tiny
from torch import Tensor, nn

from arbench.generators.methods import get_method
from arbench.heads.diffusion import MODULATION_BUDGET, DiffusionHead, ModulationTable
from arbench.heads.work import prepared_bytes
from arbench.machine.precision import Precision, set_precision
from arbench.runs import execute
from arbench.runs import memory as memory_module
from arbench.runs.memory import MemoryEstimate, automatic_batch, estimate_memory
from arbench.runs.request import RunRequest, prepare
from arbench.sampling.algorithm import generate
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


@pytest.fixture
def tables(monkeypatch):
    """Bytes of each table of modulations that is made; none is while another is held."""
    seen, fill = [], ModulationTable._fill
    held: list[weakref.ref[Tensor]] = []

    def filled(self, time):
        assert all(table() is None for table in held)
        table = fill(self, time)
        held[:] = [weakref.ref(table)]
        seen.append(table.untyped_storage().nbytes())
        return table

    monkeypatch.setattr(ModulationTable, "_fill", filled)
    return seen


@pytest.mark.parametrize("precision", ["float32", "mixed-bfloat16"])
@pytest.mark.parametrize("budget", [2**30, 3 * 2 * 8 * 24 * 20, 1])  # all steps, some, one at a time
def test_the_largest_table_of_modulations_is_as_large_as_is_counted(tables, monkeypatch, precision, budget):
    monkeypatch.setitem(MODULATION_BUDGET, "cpu", budget)
    generator = make_generator("mar", "diffusion")
    generator.default_sampling = {"num_iter": 4, "head_steps": 5, "cfg_scale": 2.0, "cfg_schedule": "linear"}
    set_precision(generator, Precision.of(precision))
    generate(generator, torch.zeros(3, dtype=torch.int64))
    estimate = estimate_memory(generator, None, 16)
    assert estimate.table(3) == max(tables) > 0
    assert estimate.drawn(3) == 3 * estimate.per_image + estimate.joined + max(tables)
    without = estimate_memory(make_generator("mar"), None, 16)
    assert without.table(3) == 0


def test_the_batch_leaves_room_for_the_table(monkeypatch):
    monkeypatch.setattr(memory_module, "free_memory", lambda device: 10_000)
    bounded = MemoryEstimate(fixed=0, per_image=100, table=lambda batch: max(1_000, 50 * batch))
    assert automatic_batch(bounded, CPU, 99) == 46  # 7,000 over 150; the table of 20 is as small as that of 1
    assert bounded.gib(10) * 2**30 == pytest.approx(2_000)


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
