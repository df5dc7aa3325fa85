"""`arbench reproduce`: the plan with nothing there, with everything there, and rows run one by one."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from tiny_runs import TINY_GPT

import arbench
from arbench.cli import reproduce as cli
from arbench.evaluation import reference_cards
from arbench.generators.cards import HOME_VARIABLE
from arbench.papers import plan as plan_module
from arbench.papers.collect import of_experiment
from arbench.papers.cost import SHARE_OF_BOUND, Cost, estimate_cost
from arbench.papers.experiment import experiment_names, load_experiment
from arbench.papers.plan import differences, plan, plan_row, row_needs, weights_file
from arbench.papers.run import reproduce
from arbench.papers.text import render_plan
from arbench.report.record import load_record, new_record, write_record
from arbench.runs.request import IF_STARTED
from arbench.weights import cards

PRINTED = {"fid": 2.31, "is_mean": 281.7, "precision": 0.82, "recall": 0.57}


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "weights"))
    monkeypatch.setenv(reference_cards.HOME_VARIABLE, str(tmp_path / "references"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def full_machine():
    """Everything that mar/table4's MAR-B needs, as empty files."""
    for name in ("mar-b", "kl16"):
        cards.get_card(name).path.parent.mkdir(parents=True, exist_ok=True)
        cards.get_card(name).path.touch()
    reference = reference_cards.REFERENCES["adm-train-256"].path
    reference.parent.mkdir(parents=True)
    reference.touch()


def record(seed=0, num_images=50_000, **metrics):
    return new_record(
        method="mar",
        model="mar-b",
        seed=seed,
        num_images=num_images,
        metrics={**PRINTED, **metrics},
        metric_protocol={"extractor": "inception", "reference": "adm-train-256"},
        source={"kind": "measured", **load_experiment("mar/table4").row_source("mar-b")},
    )


@pytest.fixture
def priceless(monkeypatch):
    """Plans without costs, whose models take seconds to build."""
    monkeypatch.setattr(plan_module, "row_cost", lambda row: None)


@pytest.mark.parametrize("name", [name for name in experiment_names() if not name.startswith("digits/")])
def test_a_plan_with_nothing_there_has_every_row_and_tells_what_is_missing(name, priceless):
    experiment = load_experiment(name)
    plans = plan(experiment, [], {})
    text = render_plan(experiment, plans)
    assert [p.row.name for p in plans] == [row.name for row in experiment.rows]
    for row_plan in plans:
        assert f"| {row_plan.row.label} " in text
        assert row_plan.state != "missing" or row_plan.needs
        for need in row_plan.needs if row_plan.state == "missing" else ():
            assert need.what in text
            assert need.how in text


def test_mar_table_4_names_each_file_with_its_get_line(capsys, priceless):
    cli.reproduce("mar/table4")
    text = capsys.readouterr().out
    for name in ("mar-b", "mar-l", "mar-h", "kl16"):
        assert re.search(rf"arbench weights get {name}\b", text)
    assert "adm-train-256" in text
    assert re.search(r"\| MAR-H +\| +943 \| +1\.55 \| +303\.7 \| +0\.81 \| +0\.62 \| missing", text)


def test_a_row_that_lacks_nothing_can_run_and_has_its_cost(full_machine):
    row_plan = plan_row(load_experiment("mar/table4"), load_experiment("mar/table4").row("mar-b"))
    assert (row_plan.state, row_plan.needs) == ("can run", ())
    assert row_plan.cost is not None
    assert row_plan.cost.flops_per_image == pytest.approx(48.9e12, rel=0.01)
    assert weights_file("mar-b") == cards.get_card("mar-b").path


def test_another_release_of_the_same_weights_will_do(full_machine):
    cards.get_card("mar-b").path.unlink()
    other = cards.get_card("mar-b-pth").path
    other.parent.mkdir(parents=True)
    other.touch()
    assert weights_file("mar-b") == other


def test_unreleased_weights_name_the_training_command():
    experiment = load_experiment("mar/table3")
    needs = list(row_needs(experiment, experiment.row("width-256")))
    command = "arbench train --experiment mar/table3 --row width-256 --data DIR"
    assert any(f"none released; {command}" in need.how for need in needs)
    assert any(need.what == "weights of mar-l-w256" for need in needs)


def test_a_measured_row_shows_difference_and_tolerance(priceless):
    experiment = load_experiment("mar/table4")
    (row_plan,) = plan(experiment, ["mar-b"], {"mar-b": [record(fid=2.33, is_mean=250.0)]})
    text = render_plan(experiment, [row_plan])
    assert row_plan.state == "measured"
    assert "2.31 → 2.33 (+0.02) ✓" in text
    assert "281.7 → 250.00 (-32) ✗" in text


def test_a_difference_is_told_in_standard_errors_where_these_are_known(priceless):
    experiment = load_experiment("mar/table4")
    made = record(fid=2.51, is_mean=250.0)
    made["metric_protocol"]["measured"] = {"intervals": {"fid": [2.51 - 0.196, 2.51 + 0.196]}}
    (row_plan,) = plan(experiment, ["mar-b"], {"mar-b": [made]})
    text = render_plan(experiment, [row_plan])
    assert "2.31 → 2.51 (+0.2, +2.0 s.e.)" in text  # an interval is 1.96 standard errors to each side
    assert "281.7 → 250.00 (-32)" in text
    assert "s.e.: the difference in standard errors" in text


def test_a_trial_with_fewer_images_leaves_the_row_to_be_run(full_machine, priceless):
    experiment = load_experiment("mar/table4")
    assert plan_row(experiment, experiment.row("mar-b"), (record(num_images=1000),)).state == "can run"


def test_scores_of_fewer_images_are_not_judged():
    experiment = load_experiment("mar/table4")
    found = differences(experiment, experiment.row("mar-b"), [record(num_images=1000, fid=9.0)])
    assert found["fid"].within is None


def test_tolerance_holds_the_last_printed_digit():
    experiment = load_experiment("mar/table4")
    row = experiment.row("mar-b")
    edge = 2.31 * 1.02 + 0.01
    assert differences(experiment, row, [record(fid=edge - 1e-6)])["fid"].within
    assert not differences(experiment, row, [record(fid=edge + 1e-6)])["fid"].within


def test_yes_runs_each_seed_once_and_goes_on_where_it_stopped(full_machine, tmp_path, monkeypatch, capsys, priceless):
    from arbench.papers import run as runner

    row = dataclasses.replace(load_experiment("mar/table4").row("mar-b"), seeds=(0, 1), num_images=1000)
    experiment = dataclasses.replace(load_experiment("mar/table4"), rows=(row,))
    for module in ("experiment", "run"):
        monkeypatch.setattr(f"arbench.papers.{module}.load_experiment", lambda name: experiment)
    requests = []

    def execute(request, *, say):
        requests.append(request)
        path = tmp_path / request.out / "mar-b-0123456789"
        path.mkdir(parents=True, exist_ok=True)
        if request.seed == 1 and not request.resume:
            raise ValueError("interrupted")
        source = {"kind": "measured", **request.source}
        made = {**record(seed=request.seed, num_images=request.num_images), "source": source}
        write_record(made, path)
        return path, made

    monkeypatch.setattr(runner, "execute", execute)
    with pytest.raises(ValueError, match="interrupted"):
        cli.reproduce("mar/table4", rows="mar-b", yes=True)
    cli.reproduce("mar/table4", rows="mar-b", yes=True)
    assert [(request.seed, request.resume) for request in requests] == [(0, False), (1, False), (1, IF_STARTED)]
    assert requests[0].weights == cards.get_card("mar-b").path
    assert requests[0].num_images == 1000
    assert requests[0].sampling["cfg_scale"] == 2.9
    assert "2.31 → 2.31 (+0)" in capsys.readouterr().out
    written = load_record(tmp_path / "runs/reproduce/mar/table4/mar-b/seed-1/mar-b-0123456789")
    assert written["source"] == {"kind": "measured", **experiment.row_source("mar-b")}
    cli.reproduce("mar/table4", rows="mar-b", seeds="0, 7", yes=True)
    assert [request.seed for request in requests[3:]] == [7]


def test_other_settings_begin_beside_an_unfinished_run(tmp_path, monkeypatch):
    monkeypatch.setattr("arbench.papers.run.stored_records", lambda runs: [])
    file = tmp_path / "mine.yaml"
    defaults = {"method": "ar", "model": "ar-digits", "weights": "random", "tokenizer_weights": "random"}
    file.write_text(json.dumps({"defaults": {**defaults, "config": TINY_GPT}, "rows": {"only": {}}}))
    how = {"yes": True, "evaluate": False, "out": tmp_path / "runs"}
    reproduce(str(file), **how, num_images=2)
    (begun,) = (tmp_path / "runs/mine/only/seed-0").iterdir()
    (begun / "record.json").unlink()
    reproduce(str(file), **how, num_images=3)
    reproduce(str(file), **how, num_images=2)
    records = sorted((tmp_path / "runs/mine/only/seed-0").glob("*/record.json"))
    assert sorted(load_record(path)["num_images"] for path in records) == [2, 3]


def test_again_measures_beside_what_there_is(full_machine, tmp_path, monkeypatch, capsys, priceless):
    from arbench.papers import run as runner

    row = dataclasses.replace(load_experiment("mar/table4").row("mar-b"), seeds=(0, 1), num_images=1000)
    experiment = dataclasses.replace(load_experiment("mar/table4"), rows=(row,))
    for module in ("experiment", "run"):
        monkeypatch.setattr(f"arbench.papers.{module}.load_experiment", lambda name: experiment)
    requests = []

    def execute(request, *, say):
        requests.append(request)
        path = tmp_path / request.out / "mar-b-0123456789"
        path.mkdir(parents=True, exist_ok=True)
        if len(requests) == 4:
            raise ValueError("interrupted")
        source = {"kind": "measured", "run": path.name, **request.source}
        made = {**record(seed=request.seed, num_images=1000, fid=2.3 + len(requests) / 10), "source": source}
        write_record(made, path)
        return path, made

    monkeypatch.setattr(runner, "execute", execute)
    cli.reproduce("mar/table4", yes=True)  # seeds 0 and 1, for the first time
    cli.reproduce("mar/table4", yes=True)  # nothing
    with pytest.raises(ValueError, match="interrupted"):
        cli.reproduce("mar/table4", again=True)
    cli.reproduce("mar/table4", again=True)
    told = [(request.seed, request.source.get("again"), request.resume) for request in requests]
    assert told == [(0, None, False), (1, None, False), (0, 1, False), (1, 1, False), (1, 1, IF_STARTED)]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| mar-b ")][-2:]
    assert "MAR-B " in lines[0]
    assert "2.31 → 2.45" in lines[0]
    assert "MAR-B, measured again" in lines[1]
    assert "2.31 → 2.70" in lines[1]
    cli.reproduce("mar/table4", again=True)
    assert [(request.seed, request.source["again"]) for request in requests[5:]] == [(0, 2), (1, 2)]


def test_the_plan_names_the_row_that_row_takes(priceless):
    experiment = load_experiment("mar/table4")
    text = render_plan(experiment, plan(experiment, ["mar-b-no-cfg"], {}))
    assert re.search(r"\| row +\| group +\| label ", text)
    assert re.search(r"\| mar-b-no-cfg \| continuous tokens \| MAR-B, w/o guidance ", text)


def test_a_record_of_other_settings_than_the_row_has_now_is_not_of_it():
    experiment = load_experiment("mar/table4")
    changed = dataclasses.replace(experiment.row("mar-b"), sampling={"cfg_scale": 2.0})
    rows = tuple(changed if row.name == "mar-b" else row for row in experiment.rows)
    assert list(of_experiment([record()], experiment)) == ["mar-b"]
    assert of_experiment([record()], dataclasses.replace(experiment, rows=rows)) == {}


def test_yes_with_nothing_to_run_says_so(capsys, priceless):
    cli.reproduce("mar/table4", yes=True)
    assert "nothing to run" in capsys.readouterr().err


def test_mistakes_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mar/table4'"):
        cli.reproduce("mar/tabel4")
    with pytest.raises(ValueError, match="did you mean 'mar-b'"):
        cli.reproduce("mar/table4", rows="marb")
    with pytest.raises(ValueError, match="--seeds '0,x': expected whole numbers"):
        cli.reproduce("mar/table4", seeds="0,x")


def test_without_a_table_they_are_listed(capsys):
    cli.reproduce()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(experiment_names())


def test_hours_are_seconds_of_all_images():
    assert Cost(flops_per_image=1, seconds_per_image=0.5, memory_gib=1).hours(7200) == 1


def test_the_estimate_of_mar_b_is_the_counted_floor_at_the_stated_share():
    """167 ms at batch 64 by an independent count, which takes the last decoder block for all tokens: 5 % more."""
    sampling = {"num_iter": 256, "cfg_scale": 2.9, "head_steps": 100}
    cost = estimate_cost("mar-b", {}, sampling, "kl16", "bfloat16", 64)
    assert cost.seconds_per_image * SHARE_OF_BOUND == pytest.approx(0.167, rel=0.06)


def test_another_grid_costs_more():
    sampling = {"num_iter": 256, "cfg_scale": 4.0}
    small, large = (estimate_cost("mar-l", config, sampling, "kl16", "bfloat16", 8) for config in ({}, {"grid": 32}))
    assert large.flops_per_image > 3 * small.flops_per_image
    assert large.memory_gib > 2 * small.memory_gib


def test_the_memory_of_a_row_is_that_of_its_own_settings():
    """The head's modulations of all denoising steps, two rows an image, as `head_steps` of the row says."""
    few, more = (estimate_cost("mar-b", {}, {"head_steps": steps}, None, "bfloat16", 1) for steps in (10, 20))
    table = 10 * 2 * (3 * 6 + 2) * 1024 * 2
    assert round((more.memory_gib - few.memory_gib) * 2**30) == table


def test_rows_that_differ_in_sampling_share_one_training():
    from arbench.papers.training import training_digest

    table = load_experiment("digits/mar-table1")
    one, guided = table.row("random-bidirect-one-diff"), table.row("random-bidirect-many-diff-no-cfg")
    assert training_digest(one) == training_digest(guided)
    assert training_digest(one) != training_digest(table.row("random-bidirect-one-ce"))


@pytest.mark.slow
def test_a_row_is_trained_once_with_its_own_settings(tmp_path):
    from arbench.papers.training import trained_weights, training_facts, training_job
    from arbench.weights.load import load_generator

    row = dataclasses.replace(
        load_experiment("digits/par-table4").row("c-causal"),
        training={"steps": 2, "batch_size": 4, "views": 1},
        config={"group_attention": False, "width": 32, "depth": 1, "heads": 2},
    )
    assert (training_job(row, 3).config.steps, training_job(row, 3).config.seed) == (2, 3)
    path = trained_weights(row, 3, tmp_path)
    written = path.stat().st_mtime_ns
    assert trained_weights(row, 3, tmp_path).stat().st_mtime_ns == written
    facts = training_facts(row, 3, tmp_path)
    assert facts["steps"] == 2
    assert facts["seconds"] > 0
    assert facts["cpu_seconds"] > 0
    assert (
        load_generator("par-digits", weights=path, group_attention=False, width=32, depth=1, heads=2).config.depth == 1
    )


def test_an_interrupted_training_goes_on_and_a_finished_one_stays(tmp_path, monkeypatch):
    from arbench.papers import training

    row = load_experiment("digits/par-table4").row("c-causal")
    resumed = []

    def run_job(job, folder, *, resume, progress, say):
        resumed.append(resume)
        begun = job.folder(folder) / "checkpoints" / "step-0000001" / "facts.json"
        path = begun if len(resumed) == 1 else job.weights_path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    monkeypatch.setattr(training, "run_job", run_job)
    paths = [training.trained_weights(row, 0, tmp_path) for _ in range(3)]
    assert resumed == [IF_STARTED, IF_STARTED]
    assert paths[1] == paths[2]


def test_an_unknown_training_setting_is_an_error():
    from arbench.papers.training import training_job

    row = dataclasses.replace(load_experiment("digits/par-table4").row("c-causal"), training={"stepps": 2})
    with pytest.raises(ValueError, match="unknown setting of training 'stepps'; did you mean 'steps'"):
        training_job(row, 0)


def test_from_python_the_plan_of_named_rows():
    """The command line only parses: what it prints is what `arbench.reproduce` gives."""
    plans = arbench.reproduce("mar/table4", rows=("mar-b", "mar-h"))
    assert [plan.row.name for plan in plans] == ["mar-b", "mar-h"]
    assert all(plan.state and isinstance(plan.records, tuple) for plan in plans)


@pytest.mark.parametrize(
    ("table", "given", "told"),
    [
        ("mar/table44", {}, "did you mean 'mar/table4'"),
        ("mar/table4", {"rows": ("mar-bb",)}, "did you mean 'mar-b'"),
        ("mar/table4", {"num_image": 3}, "did you mean 'num_images'"),
    ],
)
def test_from_python_a_mistake_names_the_nearest(table, given, told):
    with pytest.raises(ValueError, match=told):
        arbench.reproduce(table, **given)
