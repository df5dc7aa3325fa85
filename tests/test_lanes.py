"""A batch drawn in lanes: the same images, its threads shared out, and nobody left behind when one lane fails."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from arbench.machine.lanes import in_lanes
from arbench.machine.timing import PhaseTimer
from arbench.runs import pipeline as pipelines
from arbench.runs.models import load_parts
from arbench.runs.pipeline import Pipeline, StepTimer
from arbench.sampling.engine import Engine

CPU = torch.device("cpu")


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def short_lanes(four_threads, monkeypatch):
    """Lanes of two images."""
    monkeypatch.setattr(pipelines, "LANE_ROWS", 2)


def pipeline_of(model, **sampling):
    parts = load_parts(model=model, device=CPU, sampling=sampling)
    labels = np.arange(8) % 10
    given = {"generator": parts.generator, "tokenizer": parts.tokenizer, "settings": parts.settings}
    return Pipeline(**given, labels=labels, seed=3, device=CPU)


def test_calls_come_back_in_order_each_with_its_share_of_the_threads(four_threads):
    met = threading.Barrier(2)
    calls = [lambda number=number: (met.wait(5), number, torch.get_num_threads())[1:] for number in range(2)]
    assert in_lanes(calls) == [(0, 2), (1, 2)]
    assert torch.get_num_threads() == 4
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [4]


def test_a_lane_that_fails_stops_the_others_and_is_told_of(four_threads):
    begun, stopped = threading.Event(), []

    def endless():
        begun.set()
        try:
            while True:
                time.sleep(0.001)
        finally:
            stopped.append(True)

    def failing():
        begun.wait(5)
        raise ValueError("latents: 3 of 4 values are not finite")

    with pytest.raises(ValueError, match="3 of 4 values"):
        in_lanes([endless, failing])
    assert stopped
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("model", "sampling", "steps"),
    [("par-digits-16x", {}, 4), ("arpg-digits", {"num_iter": 3}, 3), ("mar-digits", {"num_iter": 2}, 2)],
)
def test_images_and_steps_of_lanes_are_those_of_the_whole_batch(short_lanes, monkeypatch, model, sampling, steps):
    pipeline, told = pipeline_of(model, **sampling), []
    assert pipeline.num_lanes(5) == 2
    images = pipeline.draw(range(5), StepTimer(timer := PhaseTimer(CPU), told.append))
    assert told == list(range(steps))  # those of one lane
    assert {"generator", "head", "decode"} == set(timer.seconds())
    monkeypatch.setattr(pipelines, "LANES", 1)
    whole = pipeline.draw(range(5), PhaseTimer(CPU))
    # Codes are the same; latents of another shape of products differ by their rounding.
    assert (np.abs(images.astype(int) - whole) <= int(pipeline.generator.kind == "continuous")).all()


def test_what_is_not_finite_is_told_from_a_lane(short_lanes):
    pipeline = pipeline_of("par-digits-16x")
    with torch.no_grad():
        pipeline.generator.norm.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="what the codes are drawn from"):
        pipeline.draw(range(4), PhaseTimer(CPU))


def test_lanes_are_for_many_images_from_small_models_of_ours(short_lanes, monkeypatch):
    pipeline = pipeline_of("par-digits-16x")
    assert pipeline.num_lanes(4) == 2
    assert pipeline.num_lanes(3) == 1
    assert replace(pipeline, engine=Engine()).num_lanes(4) == 1
    assert replace(pipeline, observe=lambda step, tokens: None).num_lanes(4) == 1
    assert replace(pipeline, device=torch.device("cuda")).num_lanes(4) == 1
    with monkeypatch.context() as patch:
        patch.setattr(pipelines, "LANE_PARAMETERS", 1000)
        assert pipeline.num_lanes(4) == 1
    with monkeypatch.context() as patch:
        patch.setattr(pipelines, "OWN_DISTRIBUTION", "another")
        assert pipeline.num_lanes(4) == 1
    torch.set_num_threads(1)
    assert pipeline.num_lanes(4) == 1
