"""Approximate ways beside the exact one: what they change, their FID and its difference in pairs, and the gate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_generator
from test_bench_cli import QUICK, cli  # noqa: F401 - a fixture
from tiny_runs import TINY_MASKED

from arbench.bench.approximate import approximate_settings, bench_tiers, passes
from arbench.bench.table import render_tiers
from arbench.evaluation.intervals import difference_interval, fid_influences
from arbench.evaluation.metrics import evaluate
from arbench.evaluation.paired import FidScore, FidScorer
from arbench.evaluation.statistics import FrechetStatistics, frechet
from arbench.images.data import open_data
from arbench.runs.request import RunRequest
from arbench.settings import MaskedCategoricalSampling, MaskedDiffusionSampling, resolve_settings
from arbench.weights.load import load_generator


def test_beside_the_releases_settings_they_are_the_published_ones():
    generator, settings = make_generator("mar", "diffusion"), MaskedDiffusionSampling(num_iter=64, head_steps=100)
    assert approximate_settings(generator, settings) == {
        "25 denoising steps": {"head_steps": 25},
        "DiSA": {"head_steps": 50, "head_sampler": "disa"},
        "half the iterations": {"num_iter": 32},
        "half the iterations, checkerboard": {"num_iter": 32, "reveal_order": "checkerboard"},
        "a quarter of the iterations": {"num_iter": 16},
        "a quarter of the iterations, checkerboard": {"num_iter": 16, "reveal_order": "checkerboard"},
    }
    codes = approximate_settings(make_generator("mar", "categorical"), MaskedCategoricalSampling(num_iter=3))
    assert codes == {"half the iterations": {"num_iter": 1}}


def test_a_method_without_ways_of_its_own_halves_what_shortens():
    for name, changes in (("dit-digits", {"head_steps": 3}), ("arpg-digits", {"num_iter": 3})):
        generator = load_generator(name, weights="random")
        settings = resolve_settings(generator, {setting: 2 * value for setting, value in changes.items()})
        assert list(approximate_settings(generator, settings).values()) == [changes]
    generator = load_generator("par-digits", weights="random")
    with pytest.raises(ValueError, match=r"method .par. has no faster settings .* expected no --tiers"):
        approximate_settings(generator, resolve_settings(generator, {}))


def test_a_score_is_that_of_an_evaluation():
    data = open_data("digits", split="train")
    scorer = FidScorer("digits-heldout", "digits-cnn")
    first, second = data.images(range(40)), data.images(range(40, 80))
    found = evaluate(second, "digits-heldout", extractor="digits-cnn", metrics=["fid"])
    one, other = scorer.score(first), scorer.score(second)
    assert other.value == found["fid"]
    assert other.interval == found["metric_protocol"]["measured"]["intervals"]["fid"]
    assert one.minus(one) == (0.0, [0.0, 0.0])
    difference, (low, high) = one.minus(other)
    assert difference == one.value - other.value
    assert low < difference < high


def test_the_interval_of_a_difference_has_the_spread_of_new_pairs():
    random = np.random.default_rng(8)
    reference = FrechetStatistics.of(random.normal(size=(5000, 6)) + 0.5)
    widths, differences, distances = [], [], []
    for _ in range(40):
        drawn = 1.2 * random.normal(size=(400, 6))
        pair = [drawn, drawn + 0.1 * random.normal(size=drawn.shape)]
        statistics = [FrechetStatistics.of(one) for one in pair]
        parts = [frechet(one, reference) for one in statistics]
        influences = [fid_influences(*given) for given in zip(pair, statistics, [reference] * 2, parts, strict=True)]
        distances.append(parts[0].distance)
        differences.append(parts[0].distance - parts[1].distance)
        low, high = difference_interval(differences[-1], *influences)
        widths.append(high - low)
    # 95 % of a normal distribution is 3.92 deviations; a deviation from 40 draws is known to about 11 %
    assert np.mean(widths) == pytest.approx(3.92 * np.std(differences), rel=0.3)
    assert np.std(differences) < np.std(distances) / 3  # much less than either's own


@pytest.mark.parametrize(
    ("value", "spread", "expected"),
    [(10.0, 5.0, True), (10.19, 5.0, True), (9.81, 5.0, True), (10.21, 5.0, False), (10.1, 0.1, False)],
)
def test_the_gate_wants_two_per_cent_and_the_intervals(value, spread, expected):
    influences = spread * np.tile([-1.0, 1.0], 50)  # their mean deviates by spread / 10
    score = FidScore(value=value, influences=influences)
    assert passes(score, FidScore(value=10.0, influences=influences)) is expected


def test_the_command_sets_speed_beside_quality(cli, tmp_path):  # noqa: F811
    asked = ("--method", "mar", "--num-iter", 1, "--head-steps", 64, "--num-images", 12, "--batch-size", 2)
    output = cli("--tiers", *asked, "--runs", tmp_path / "runs", *QUICK)
    result = json.loads(output.splitlines()[-1])
    assert output.startswith(render_tiers(result))
    exact, *ways = result["ways"]
    assert [way["changes"] for way in ways] == [
        {"head_steps": 16},
        {"head_steps": 32, "head_sampler": "disa"},
    ]
    assert exact["passes"]
    assert (exact["delta_fid"], exact["ratio"], {way["tier"] for way in ways}) == (0.0, 1.0, {"A1"})
    for way in result["ways"]:
        record = json.loads((tmp_path / "runs" / way["folder"].rpartition("/")[2] / "record.json").read_text())
        assert (record["sampling"], record["metrics"]["fid"]) == (way["sampling"], way["fid"])
        assert way["delta_fid"] == pytest.approx(way["fid"] / exact["fid"] - 1)
        assert way["ratio"] == pytest.approx(exact["seconds_per_image"] / way["seconds_per_image"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tiers", "--compare"], "--compare and --tiers: two benchmarks; expected one of them"),
        (["--num-images", "9"], "--num-images 9: speed alone scores no images; expected --tiers with it"),
    ],
)
def test_a_mistake_is_one_line(cli, arguments, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        cli(*arguments, "--device", "cpu")


def test_what_cannot_be_scored_is_told_before_anything_is_drawn(tmp_path):
    shape = {**TINY_MASKED, "grid": 8, "channels": 4, "head_depth": 1, "head_width": 16, "num_classes": 10}
    asked = {"model": "mar", "config": shape, "tokenizer": "digits-kl", "out": tmp_path / "runs"}
    random = {"weights": "random", "tokenizer_weights": "random"}
    with pytest.raises(ValueError, match="reference: none is known for model 'mar'; expected --reference"):
        bench_tiers(RunRequest.of(**asked, **random))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("engine", "warm_ups"), [("eager", 1), ("graph", 2)])
def test_a_graph_is_recorded_before_it_is_timed(engine, warm_ups, tmp_path, monkeypatch):
    drawn = []

    def make_draw(parts, batch_size, seed, engine):
        drawn.append(0)
        way = len(drawn) - 1
        return lambda timer: drawn.__setitem__(way, drawn[way] + 1)

    def timed(*given, **more):
        raise KeyError("timed")

    monkeypatch.setattr("arbench.bench.approximate.make_draw", make_draw)
    monkeypatch.setattr("arbench.bench.approximate.FidScorer", timed)
    asked = {"method": "mar", "num_images": 12, "engine": engine, "device": "cpu", "out": tmp_path / "runs"}
    with pytest.raises(KeyError, match="timed"):
        bench_tiers(RunRequest.of(**asked), batch_size=2, repeats=3)
    assert len(drawn) > 1
    assert set(drawn) == {warm_ups + 3}
