"""Benchmarks: the plain ways draw the same tokens, repeats are counted right, and a result is complete."""

import json

import pytest
import torch
from conftest import make_generator, relative_error
from tiny_runs import TINY

from arbench.bench.baselines import PlainHeadGenerator, Uncached
from arbench.bench.generation import (
    Bounds,
    bench_generation,
    choose_batch,
    compare_seconds,
    native_size,
    tokenizer_weights_or_random,
    weights_or_random,
)
from arbench.bench.measure import Timing, summary, time_alternately, time_batch
from arbench.bench.originals import ReleasedCausal, ReleasedMasked
from arbench.bench.rivals import RELEASED, find_rivals
from arbench.bench.table import quantity, render
from arbench.machine.work import Peak, Work
from arbench.runs.choice import RANDOM
from arbench.runs.models import load_parts
from arbench.runs.roofline import Roofline
from arbench.sampling.algorithm import generate

CPU = torch.device("cpu")


def tiny_parts(method="mar", **changes):
    given = dict(TINY[method], **changes)
    sampling = {name: given[name] for name in ("num_iter", "head_steps") if name in given}
    return load_parts(
        method, config=given["config"], weights=RANDOM, tokenizer_weights=RANDOM, device=CPU, sampling=sampling
    )


@pytest.mark.parametrize("name", ["ar-raster", "ar-random", "mar"])
@pytest.mark.parametrize("cfg_scale", [1.0, 2.5])
def test_the_plain_head_draws_the_same_tokens(name, cfg_scale):
    generator = make_generator(name, "diffusion").double()
    ours = generate(generator, [0, 3], seed=1, cfg_scale=cfg_scale, head_steps=6)
    plain = generate(PlainHeadGenerator(generator), [0, 3], seed=1, cfg_scale=cfg_scale, head_steps=6)
    assert relative_error(ours, plain) < 1e-10  # float64: the same sums in another order


@pytest.mark.parametrize("name", ["ar-raster", "mar"])
def test_the_plain_head_draws_the_same_tokens_in_fewer_and_fewer_steps(name):
    generator = make_generator(name, "diffusion").double()
    sampling = {"seed": 1, "cfg_scale": 2.5, "head_steps": 9, "head_sampler": "disa"}
    ours, plain = generate(generator, [0, 3], **sampling), generate(PlainHeadGenerator(generator), [0, 3], **sampling)
    assert relative_error(ours, plain) < 1e-10  # float64: the same sums in another order
    assert relative_error(ours, generate(generator, [0, 3], **{**sampling, "head_sampler": "ddpm"})) > 1e-3


@pytest.mark.parametrize("name", ["ar-raster", "ar-random", "par"])
@pytest.mark.parametrize("guidance", [{}, {"cfg_scale": 2.0}, {"cfg_scale": 2.0, "cfg_interval": 3}])
def test_recomputing_everything_draws_the_same_codes(name, guidance):
    generator = make_generator(name).double()
    ours = generate(generator, [0, 3], seed=1, **guidance)
    assert torch.equal(ours, generate(Uncached(generator), [0, 3], seed=1, **guidance))


@pytest.mark.parametrize("name", ["ar-raster", "ar-random", "par"])
@pytest.mark.parametrize(
    "sampling", [{}, {"cfg_scale": 2.0, "top_k": 5}, {"cfg_scale": 2.0, "cfg_interval": 3}, {"temperature": 0.0}]
)
def test_the_releases_way_draws_the_same_codes(name, sampling):
    generator = make_generator(name).double()
    ours = generate(generator, [0, 3], seed=1, **sampling)
    assert torch.equal(ours, generate(ReleasedCausal(generator), [0, 3], seed=1, **sampling))


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm-trimmed", "disa"])
@pytest.mark.parametrize("changes", [{}, {"cfg_scale": 2.5, "temperature": 0.9, "cfg_interval": 1}])
def test_the_releases_way_draws_the_same_tokens(sampler, changes):
    generator = make_generator("mar", "diffusion").double()
    sampling = {"seed": 1, "num_iter": 4, "head_steps": 8, "head_sampler": sampler, **changes}
    ours, theirs = (generate(one, [0, 3], **sampling) for one in (generator, ReleasedMasked(generator)))
    assert relative_error(ours, theirs) < 1e-6  # float64: sums in another order, grown by guided steps to 1e-8


def test_a_generator_configured_without_a_cache_draws_the_same_codes():
    cached, uncached = make_generator("par").double(), make_generator("par", kv_cache=False).double()
    uncached.load_state_dict(cached.state_dict())
    settings = {"seed": 1, "cfg_scale": 2.0, "cfg_interval": 3}
    assert torch.equal(generate(cached, [0, 3], **settings), generate(uncached, [0, 3], **settings))
    assert [rival.name for rival in find_rivals(uncached)] == []


def test_recomputing_keeps_causal_groups_causal():
    generator = make_generator("par", group_attention=False).double()
    assert torch.equal(generate(generator, [1], seed=2), generate(Uncached(generator), [1], seed=2))


def test_rivals_are_those_that_a_model_has():
    names = {
        (name, head): [rival.name for rival in find_rivals(make_generator(name, head))]
        for name in ("mar", "par")
        for head in ("categorical", "diffusion")
    }
    assert names["mar", "categorical"] == []
    assert names["mar", "diffusion"] == ["the plain diffusion head", RELEASED]
    assert names["par", "categorical"] == ["no KV cache", RELEASED]
    assert [rival.name for rival in find_rivals(make_generator("mar", "diffusion"), "ddim")] != names[
        "mar", "diffusion"
    ]
    assert len(names["par", "diffusion"]) == 2


def test_the_warm_up_is_not_among_the_repeats():
    calls = []

    def draw(timer):
        calls.append(timer)
        with timer.phase("generator"):
            sum(range(1000))

    timing = time_batch(draw, 4, CPU, 3)
    assert len(calls) == 4
    assert len(timing.seconds) == 3
    found = summary(timing)
    assert found["seconds_per_image_min"] <= found["seconds_per_image"] <= found["seconds_per_image_max"]
    assert 0 < found["phases"]["generator"] <= found["seconds_per_image_max"]
    assert found["images_per_second"] == 1 / found["seconds_per_image"]
    assert found["cpu_share"] > 0


def test_two_ways_are_timed_in_turn():
    calls = []
    seconds = time_alternately([lambda timer: calls.append("a"), lambda timer: calls.append("b")], CPU, 2)
    assert calls == list("ababab")
    calls.clear()
    time_alternately([lambda timer: calls.append("a"), lambda timer: calls.append("b")], CPU, 1, warm_ups=2)
    assert calls == list("ababab")
    assert [len(way) for way in seconds] == [2, 2]


def test_a_batch_that_does_not_fit_is_one_line():
    def draw(timer):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ValueError, match=r"batch_size 512: does not fit .* expected a smaller --batch-size"):
        time_batch(draw, 512, CPU, 1)


def test_ratios_are_of_medians_and_their_range_is_of_pairs():
    found = compare_seconds("no KV cache", 2, [1.0, 2.0, 4.0], [6.0, 6.0, 6.0])
    assert (found["ratio"], found["ratio_min"], found["ratio_max"]) == (3.0, 1.5, 6.0)
    assert found["seconds_per_image"] == 1.0


def test_shares_of_peak_and_floor():
    timing = Timing(batch_size=2, seconds=(4.0,), phases={}, warm_up_seconds=1, peak_memory_gib=1)
    phases = {"generator": (Work(flops=20, bytes=8),), "head": (), "decode": (Work(flops=4, bytes=0),)}
    work = Roofline(batch_size=2, steps=1, phases=phases)
    peak, slow = (Peak(device="", flops=flops, bandwidth=1.0, source="") for flops in (10.0, 2.0))
    found = Bounds(generator=peak, decoder=slow).beside(work, timing)
    assert found["floor_seconds_per_image"] == (8 + 2) / 2
    assert found["share_of_floor"] == 5 / 4
    assert found["share_of_peak"] == (10 / 10 + 2 / 2) / 4
    assert set(Bounds(generator=None, decoder=None).beside(work, timing).values()) == {None}


@pytest.mark.parametrize("method", ["mar", "par", "ar"])
def test_a_result_is_complete_and_json(method):
    said = []
    result = bench_generation(tiny_parts(method), batch_size=2, repeats=2, compare=True, say=said.append)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["method"] == method
    assert result["weights"]["file"] == RANDOM
    assert [result["latency"]["batch_size"], result["throughput"]["batch_size"]] == [1, 2]
    assert set(result["throughput"]["phases"]) == {"generator", "head", "decode"}
    assert sum(result["flops_per_image_by_phase"].values()) == result["flops_per_image"] > 0
    assert result["throughput"]["share_of_floor"] > 0
    assert [entry["tier"] for entry in result["compare"]] == ["E1", "E1"]
    assert len(said) == 4


def test_the_table_has_a_column_a_batch_size():
    result = bench_generation(tiny_parts(), batch_size=2, repeats=1)
    assert "batch 1" in render(result)
    assert "batch 2" in render(result)
    assert "B/s (measured here: " in render(result)
    assert result["tier"] == "A1"  # fewer iterations and denoising steps than the preset's
    unknown = {"floor_seconds_per_image": None, "share_of_peak": None, "share_of_floor": None}
    alone = {**result["latency"], **unknown, "cpu_share": None}
    lonely = {**result, "peak": None, "throughput": alone, "latency": alone}
    assert "batch 2" not in render(lonely)
    assert "peak unknown" in render(lonely)


def test_batch_sizes():
    parts = tiny_parts()
    assert choose_batch(parts, 3) == 3
    assert choose_batch(parts, None) == 8
    assert choose_batch(parts, "auto") >= 1


def test_missing_weights_are_random(tmp_path, monkeypatch):
    monkeypatch.setenv("ARBENCH_WEIGHTS", str(tmp_path))
    assert weights_or_random("mar-b") == RANDOM
    assert weights_or_random("mar") == RANDOM
    assert weights_or_random("mar-digits").name == "mar-digits.safetensors"
    assert tokenizer_weights_or_random(None, "mar-b") == RANDOM
    assert tokenizer_weights_or_random(None, "mar") is None
    assert tokenizer_weights_or_random("digits-kl", "mar").name == "digits-kl.safetensors"


def test_sizes_and_quantities_in_words():
    assert native_size("digits-vq") == 32
    assert native_size("llamagen-vq") == native_size("a:Stranger") == 256
    assert [quantity(value) for value in (1.35e12, 2e9, 5e6, 12.0)] == ["1.35 T", "2 G", "5 M", "12 "]
