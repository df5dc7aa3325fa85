"""Launches, copies and waits are counted as they are, and stay as few as they have become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from functools import cache
from typing import Any

import pytest
import torch
from conftest import make_generator

from arbench.bench.baselines import Beside
from arbench.bench.launches import BFLOAT16, Launches, Once, count_launches, draw_counted, pretend
from arbench.generators.methods import get_method, presets
from arbench.machine.precision import Precision
from arbench.sampling.algorithm import NoTimer, draw_steps
from arbench.sampling.engine import has_static_steps
from arbench.sampling.noise import ImageNoise
from arbench.sampling.schedules import sequential_sizes
from arbench.settings import resolve_settings
from arbench.weights.load import load_generator

# The most launches of a batch of 64 in bfloat16. Conversions are counted apart, for the count that the bounds were
# set by took them for views.
BOUNDS = [("ar-b-384", {}, 130_000), ("par-3b-16x", {}, 21_000)]
SLOW = [("mar-b", {"num_iter": 64, "head_steps": 100}, 450_000)]
# Of a width that no other test has: constants are kept as long as the process lives.
SMALL = {"width": 72, "depth": 2, "heads": 2}
FEW = {"num_iter": 3, "head_steps": 3, "cfg_scale": 2.0}  # every preset guides
CONSTANTS = {"dit-digits": 1, "arpg-digits": 1}  # sinusoids of the places, sent by the first batch alone
KINDS: dict[Hashable, Any] = {}  # generator and settings
DISA = {"head_steps": 12, "head_sampler": "disa"}
CELLS = [("ar-raster", "categorical"), ("ar-random", "diffusion"), ("par", "categorical"), ("mar", "diffusion")]


@pytest.mark.parametrize(
    ("name", "sampling", "bound"), [*BOUNDS, *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW)]
)
def test_a_batch_launches_no_more_than_this(name, sampling, bound):
    generator = load_generator(name, device="meta")
    count = count_launches(generator, resolve_settings(generator, sampling), 64)
    assert count.total - count.operations["aten.to.dtype"] <= bound
    assert (count.copies_in_loop, count.waits) == (0, 0)


def reduced(preset):
    """A preset's generator on no device and its settings: few and narrow layers, iterations and denoising steps.

    Grid, order, head and kinds of sampling are its own. Launches are linear in what is reduced; what copies or waits in
    the loop does so in the smallest.
    """
    method = get_method(preset.method)
    fields = {name: SMALL.get(name.rpartition("_")[2], value) for name, value in preset.config.items()}
    with torch.device("meta"):
        generator = method.model(method.config(**fields))
    few = {name: value for name, value in FEW.items() if hasattr(generator.sampling_type, name)}
    return generator, resolve_settings(generator, {**preset.sampling, **few})


@cache
def copies_by_batch(kind):
    """Copies from the host in the loops of two eager batches, and in that of a batch by graphs (None: has none)."""
    generator, settings = KINDS[kind]
    found, labels = [], torch.zeros(2, dtype=torch.int64, device="meta")
    pretended = pretend(generator, BFLOAT16)
    engines = ["eager", "eager", "graph"] if has_static_steps(generator) else ["eager", "eager"]
    with torch.inference_mode():
        for engine in engines:
            count = Launches()
            draw_counted(engine, pretended, labels, settings, count)  # raises where the host waits for values
            assert count.ops.total() > 0
            found.append(sum(number for (phase, _), number in count.copies.items() if phase != "outside"))
    return found


@pytest.mark.parametrize("name", list(presets()))
def test_no_preset_copies_or_waits_in_the_loop(name):
    generator, settings = reduced(presets()[name])
    kind = (type(generator), repr(generator.config), settings)  # what differs in reduced dimensions alone is one kind
    KINDS.setdefault(kind, (generator, settings))
    first, *later = copies_by_batch(kind)
    assert first == CONSTANTS.get(name, 0)
    assert later == [0] * (2 if has_static_steps(generator) else 1)


def test_falling_denoising_steps_copy_nothing_in_the_loop():
    generator = make_generator("mar", "diffusion")
    settings = {name: resolve_settings(generator, {"head_steps": 9, "head_sampler": name}) for name in ("ddpm", "disa")}
    counts = {name: count_launches(generator, asked, 2) for name, asked in settings.items()}
    assert (counts["disa"].copies_in_loop, counts["disa"].waits) == (0, 0)
    assert counts["disa"].phases["head"] < counts["ddpm"].phases["head"]


@pytest.mark.parametrize(("name", "head"), CELLS)
def test_steps_of_one_shape_are_all_alike(name, head):
    """What is counted once and multiplied is what counting everything gives."""
    generator = make_generator(name, head)
    settings = resolve_settings(generator, {"cfg_scale": 2.0, **({"head_steps": 3} if head == "diffusion" else {})})
    whole = Launches()
    labels = torch.zeros(2, dtype=torch.int64, device="meta")
    pretended = pretend(generator, BFLOAT16)
    with torch.inference_mode():  # constants are sent once
        draw_steps(pretended, labels, settings, ImageNoise(0, labels), NoTimer())
    with torch.inference_mode(), whole:
        draw_steps(pretended, labels, settings, ImageNoise(0, labels), whole)
    operations: Counter[str] = Counter()
    for (_, operation), number in whole.ops.items():
        operations[operation] += number
    assert count_launches(generator, settings, 2).operations == operations


@pytest.mark.parametrize(
    ("head", "sampling"), [("diffusion", {"head_steps": 7}), ("diffusion", DISA), ("categorical", {})]
)
def test_denoising_steps_in_graphs_are_all_alike(head, sampling, monkeypatch):
    """As above, where the steps are launched by graphs."""
    generator = make_generator("mar", head)
    asked = (generator, resolve_settings(generator, {"cfg_scale": 2.0, "num_iter": 4, **sampling}), 2)
    found = count_launches(*asked, engine="graph")
    monkeypatch.setattr(Once, "__call__", lambda self, key, call: call())
    assert found == count_launches(*asked, engine="graph")
    assert found.in_graphs > 0


GRAPHS = [("par-3b-16x", {}, 800)]
SLOW_GRAPHS = [("mar-b", {"num_iter": 64, "head_steps": 100}, 600), ("ar-b-384", {}, 8_000)]


@pytest.mark.parametrize(
    ("name", "sampling", "bound"), [*GRAPHS, *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW_GRAPHS)]
)
def test_graphs_leave_the_host_a_few_launches(name, sampling, bound):
    generator = load_generator(name, device="meta")
    count = count_launches(generator, resolve_settings(generator, sampling), 64, engine="graph")
    assert (count.copies_in_loop, count.waits) == (0, 0)
    assert 0 < count.operations["graph replay"] < count.total <= bound


# Two products of a layer are one there, and two writes into the cache: 15 launches a layer, and 25 around them. Heads
# of 100 channels are padded by one more, which a compiler fuses with what is before.
@pytest.mark.parametrize(("name", "tokens", "layers", "each"), [("par-3b-16x", 51, 24, 16), ("ar-l", 256, 24, 15)])
def test_replays_of_causal_steps_launch_no_more_than_this(name, tokens, layers, each):
    generator = load_generator(name, device="meta")
    count = count_launches(generator, resolve_settings(generator, {}), 1, engine="graph")
    assert tokens * layers * (each - 1) < count.in_graphs <= tokens * (layers * each + 27)


# Queries, keys and values are one product too: 15 launches a block of the first pass, 14 of the second, 33 around them.
def test_replays_of_both_passes_launch_no_more_than_this():
    generator = load_generator("arpg-l", device="meta")
    count = count_launches(generator, resolve_settings(generator, {}), 1, engine="graph")
    iterations, blocks = 64, 12
    assert iterations * blocks * 28 < count.in_graphs <= iterations * (blocks * (15 + 14) + 33)


def test_copies_and_waits_are_found():
    generator = make_generator("par")

    class Clumsy(Beside):
        def conditions(self, state, step, guided):
            torch.arange(3).to(state.labels.device)
            return self._generator.conditions(state, step, guided)

    count, labels = Launches(), torch.zeros(2, dtype=torch.int64, device="meta")
    settings = resolve_settings(generator, {})
    steps = sequential_sizes(16, 4, 4)
    clumsy = Clumsy(pretend(generator, Precision()))
    with torch.inference_mode(), count:
        draw_steps(clumsy, labels, settings, ImageNoise(0, labels), count)
    assert {phase: number for (phase, _), number in count.copies.items()}["generator"] == len(steps)


def test_a_wait_for_values_is_found():
    generator = make_generator("par")

    class Waiting(type(generator)):
        def reveal(self, state, step, tokens):
            int(tokens.max())
            super().reveal(state, step, tokens)

    generator.__class__ = Waiting
    found = pretend(generator, Precision())
    found.__class__ = Waiting
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arbench.bench.launches.pretend", lambda *given: found)
        assert count_launches(generator, resolve_settings(generator, {}), 2).waits == 1
