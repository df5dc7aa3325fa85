"""What `arbench reproduce` says beforehand of the time that trainings and images will take, and while it runs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from arbench.cli import reproduce as cli
from arbench.machine.progress import span
from arbench.papers import duration
from arbench.papers import run as runner
from arbench.papers.duration import (
    RowRun,
    Speeds,
    TimeLeft,
    estimate_line,
    image_key,
    measured_steps,
    recorded_speeds,
    step_key,
    with_trainings,
)
from arbench.papers.experiment import load_experiment
from arbench.papers.training import steps_left, training_digest, training_job
from arbench.report.record import new_record
from arbench.training.speed import recipe_step_seconds

TABLE = load_experiment("digits/mar-table1")
ROWS = TABLE.rows
ONE, GUIDED, OTHER = (TABLE.row(f"random-bidirect-{name}") for name in ("one-ce-no-cfg", "one-ce", "one-diff"))


def run_of(row, seed=0, **others):
    return RowRun(row=row, seed=seed, images=300, **others)


def record_of(row, device="cpu", threads=1, training=None, seconds=0.01, name="AMD EPYC", **source):
    return new_record(
        method=row.method,
        model=row.model,
        speed={"seconds_per_image": seconds},
        hardware={"device": device, "name": name, "threads": threads},
        source={"kind": "measured", **TABLE.row_source(row.name), "training": training or {}, **source},
    )


def test_a_training_that_rows_share_counts_once_a_seed_and_one_that_is_there_not_at_all(tmp_path):
    runs = [run_of(row, seed) for row in (ONE, GUIDED, OTHER) for seed in (0, 1)]
    assert [run.steps for run in with_trainings(runs, tmp_path)] == [1000, 1000, 0, 0, 1000, 1000]
    folder = tmp_path / f"mar-digits-{training_digest(ONE)}" / "seed-1"
    weights = training_job(ONE, 1).weights_path(folder)
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert [run.steps for run in with_trainings(runs, tmp_path)] == [1000, 0, 0, 0, 1000, 1000]


def test_of_an_interrupted_training_the_steps_that_are_left_count(tmp_path, monkeypatch):
    from arbench.papers import training

    monkeypatch.setattr(training, "saved_steps", lambda folder: {500: folder, 750: folder})
    assert steps_left(ONE, 0, tmp_path) == 250


def test_a_length_in_epochs_is_told_in_steps(tmp_path):
    row = dataclasses.replace(ONE, training={**ONE.training, "steps": 0, "epochs": 2})
    assert steps_left(row, 0, tmp_path) == round(2 * 1438 / 32)


def test_rows_that_differ_in_length_alone_have_steps_that_take_equally_long():
    longer = dataclasses.replace(ONE, training={**ONE.training, "steps": 9, "views": 32, "learning_rate": 1.0})
    larger = dataclasses.replace(ONE, training={**ONE.training, "batch_size": 64})
    assert step_key(longer) == step_key(ONE) == step_key(GUIDED)
    assert step_key(ONE) not in (step_key(OTHER), step_key(larger))
    assert image_key(longer) == image_key(ONE) != image_key(GUIDED)


def test_records_tell_medians_of_processor_time_over_threads_on_the_same_kind_of_device():
    records = [
        record_of(ONE, threads=2, training={"steps": 1000, "seconds": 900.0, "cpu_seconds": 400.0}, seconds=0.1),
        record_of(ONE, training={"steps": 500, "seconds": 400.0, "cpu_seconds": 150.0}, seconds=0.3),
        record_of(ONE, training={"steps": 1000, "seconds": 500.0}, seconds=0.2),
        record_of(ONE, device="cuda", training={"steps": 1000, "cpu_seconds": 1.0}, seconds=0.001),
        record_of(ONE, row_digest="00000000", seconds=9.0),  # of a row that has changed since
        record_of(OTHER, training={"steps": 100, "seconds": 50.0}),
    ]
    found = recorded_speeds([run_of(ONE), run_of(OTHER)], records, TABLE, "cpu")
    assert found.step == {step_key(ONE): pytest.approx((0.2 + 0.3) / 2), step_key(OTHER): 0.5}
    assert found.image == {image_key(ONE): 0.2, image_key(OTHER): 0.01}
    assert found.image_told == "by records of such rows: AMD EPYC, 1 thread; AMD EPYC, 2 threads"
    assert recorded_speeds([run_of(ONE)], records, TABLE, "cuda").image == {image_key(ONE): 0.001}


def test_the_line_names_counts_times_and_where_they_are_from():
    runs = [run_of(ONE, steps=6000), run_of(GUIDED), run_of(OTHER, steps=1000)]
    speeds = Speeds(
        step={step_key(ONE): 1.0, step_key(OTHER): 0.6},
        image={image_key(row): seconds for row, seconds in ((ONE, 0.5), (GUIDED, 1.0), (OTHER, 0.1))},
        step_told="by steps",
        image_told="by rows",
    )
    assert estimate_line(runs, speeds).startswith(
        "about 1 h 58 min for 2 trainings of 1,000 to 6,000 steps (1 h 50 min, by steps) "
        "and 3 runs of 300 images (8 min, by rows); loading,"
    )
    assert estimate_line(runs[1:2], speeds).startswith("about 5 min for 1 run of 300 images (5 min, by rows);")


def test_what_nobody_knows_is_said():
    runs = [run_of(ONE, steps=600), run_of(GUIDED)]
    some = Speeds(step={step_key(ONE): 1.0}, step_told="by steps")
    assert "at least 10 min for 1 training of 600 steps (10 min, by steps) and" in estimate_line(runs, some)
    assert "2 runs of 300 images (how long is not known)" in estimate_line(runs, some)
    one_row = Speeds(step=some.step, image={image_key(ONE): 1.0}, image_told="by rows")
    assert "(5 min for all but 1, by rows)" in estimate_line(runs, one_row)
    assert estimate_line(runs, Speeds()) == ""


def test_each_training_that_begins_is_measured_once(monkeypatch):
    tried = []
    monkeypatch.setattr(duration, "step_seconds_here", lambda row, count: tried.append(row.name) or 0.25)
    runs = [run_of(ONE, steps=1000), run_of(ONE, seed=1, steps=1000), run_of(OTHER)]
    found = measured_steps(runs, Speeds(step={step_key(ONE): 9.0, step_key(OTHER): 3.0}, step_told="by records"))
    assert tried == [ONE.name]
    assert found.step == {step_key(ONE): 0.25, step_key(OTHER): 3.0}
    assert "measured here just now" in found.step_told
    assert measured_steps(runs[2:], Speeds(step_told="by records")).step_told == "by records"


def test_steps_are_measured_without_touching_the_callers_random_numbers():
    config, before = training_job(ONE, 0).config, torch.random.get_rng_state()
    small = {**ONE.config, "width": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}
    assert recipe_step_seconds("mar-digits", config, small, torch.device("cpu"), 1) > 0
    assert torch.equal(before, torch.random.get_rng_state())


def test_time_left_follows_what_the_finished_runs_took():
    now = [0.0]
    runs = [run_of(ONE) for _ in range(4)]
    left = TimeLeft(runs, Speeds(image={image_key(ONE): 1.0}), clock=lambda: now[0])
    now[0] = 300.0  # as it was estimated
    assert left.one_more() == "1 of 4 runs done, about 15 min left"
    now[0] = 300.0 + 1200.0  # the second was four times as slow
    seconds = 600 * (1500 + duration.GUESS * 1200) / (600 + duration.GUESS * 1200)
    assert left.one_more() == f"2 of 4 runs done, about {span(seconds)} left"
    left.one_more()
    assert left.one_more() == "4 of 4 runs done"


def test_where_no_speed_is_known_a_roofline_tells_one_run_beside_another():
    now = [0.0]
    runs = [run_of(ONE, roofline_seconds=seconds) for seconds in (0.001, 0.002, 0.003)]
    left = TimeLeft(runs, Speeds(), clock=lambda: now[0])
    now[0] = 60.0
    assert left.one_more() == "1 of 3 runs done, about 5 min left"
    assert TimeLeft([run_of(ONE)] * 2, Speeds(), clock=lambda: 0.0).one_more() == "1 of 2 runs done"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (59, "59 s"), (61, "1 min"), (3599, "1 h 0 min"), (6600, "1 h 50 min"), (3600 * 51, "2 days 3 h")],
)
def test_spans_read_as_one_says_them(seconds, told):
    assert span(seconds) == told


def test_reproduce_tells_the_time_before_the_first_training_and_what_is_left(tmp_path, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(runner, "run_row", lambda experiment, row, seed, *rest, **more: done.append((row.name, seed)))
    monkeypatch.setattr(duration, "step_seconds_here", lambda row, count: 0.6)
    rows = "random-bidirect-one-ce,random-bidirect-many-ce"
    cli.reproduce("digits/mar-table1", rows=rows, seeds="7,7,8", yes=True, out=tmp_path)
    assert done == [(name, seed) for name in rows.split(",") for seed in (7, 8)]  # a seed named twice runs once
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert "for 2 trainings of 1,000 steps (20 min, by 3 steps of each, measured here just now) and 4 runs" in told[0]
    assert told[0].startswith("time: about ")
    assert told[2].startswith("1 of 4 runs done, about ")
    assert told[-1] == "4 of 4 runs done"


def test_the_plan_tells_it_by_records(tmp_path, capsys):
    cli.reproduce("digits/mar-table1", rows="raster-causal-one-ce", seeds="7", out=tmp_path)
    assert "It would take about " in capsys.readouterr().out
    cli.reproduce("digits/mar-table1", rows="raster-causal-one-ce", seeds="7", num_images=100, out=tmp_path)
    out = capsys.readouterr().out
    assert "1 training of 1,000 steps" in out
    assert "1 run of 100 images" in out
