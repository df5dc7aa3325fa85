"""`arbench run`: one command, one row, one folder; rows of experiments; the methods together."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from tiny_runs import only_run

from arbench import cli
from arbench.cli.run import build_request
from arbench.generators.methods import methods
from arbench.papers.experiment import load_experiment
from arbench.report.record import load_record
from arbench.runs import compare as comparison

QUICK = ("--weights", "random", "--num-images", "12")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("run",))


def test_run_prints_its_row_and_its_folder(capsys, tmp_path):
    assert (
        cli.run_command(
            ["run", "--method", "par", *QUICK, "--no-evaluate", "--temperature", "0.5", "--batch-size", "256"]
        )
        == 0
    )
    captured = capsys.readouterr()
    run = only_run(tmp_path / "runs")
    assert "par-digits" in captured.out
    assert captured.out.splitlines()[-1] == f"runs/{run.name}"
    assert "12 images in batches of 12 on 1 × cpu, about " in captured.err
    assert load_record(run)["sampling"]["temperature"] == 0.5


def test_the_default_is_scored_against_the_held_out_digits(tmp_path):
    assert cli.run_command(["run", "--method", "par", *QUICK]) == 0
    record = load_record(only_run(tmp_path / "runs"))
    assert {"fid", "is_mean", "precision", "recall", "kid", "label_accuracy"} <= set(record["metrics"])
    assert record["metric_protocol"]["reference"] == "digits-heldout"


def test_chosen_metrics_and_npz(tmp_path):
    assert cli.run_command(["run", "--method", "par", *QUICK, "--metrics", "is, fid", "--export-npz"]) == 0
    run = only_run(tmp_path / "runs")
    assert set(load_record(run)["metrics"]) == {"fid", "is_mean", "is_std", "duplicates"}
    with np.load(run / "samples.npz") as archive:
        assert archive["arr_0"].shape == (12, 32, 32, 3)


def test_a_row_of_a_table_becomes_a_request(tmp_path, monkeypatch):
    monkeypatch.setenv("ARBENCH_WEIGHTS", str(tmp_path))
    row = load_experiment("mar/table4").row("mar-b")
    asked = {"experiment": "mar/table4", "row": "mar-b", "num_images": 8}
    request = build_request(asked)
    assert request.source == load_experiment("mar/table4").row_source("mar-b")
    assert (request.method, request.model, request.num_images) == (row.method, row.model, 8)
    assert request.sampling == dict(row.sampling)
    assert request.weights is None
    assert request.reference == row.protocol.reference
    (tmp_path / "mar-base.safetensors").touch()
    assert build_request(asked).weights == tmp_path / "mar-base.safetensors"
    assert build_request({**asked, "weights": "random"}).weights == "random"


def test_a_row_with_other_settings_is_no_longer_that_row(capsys):
    request = build_request({"experiment": "mar/table4", "row": "mar-b", "cfg_scale": 1.0})
    assert request.source == {}
    assert request.sampling["cfg_scale"] == 1.0
    assert request.sampling["num_iter"] == 256
    assert "with --cfg-scale changed this is no run of mar-b" in capsys.readouterr().err
    same = {"method": "mar", "num_iter": 256, "dtype": "float32", "seed": 4, "weights": "file.pth"}
    assert build_request({"experiment": "mar/table4", "row": "mar-b", **same}).source
    assert not build_request({"experiment": "mar/table4", "row": "mar-b", "weights": "random"}).source
    assert not build_request({"experiment": "digits/mar-fig6", "row": "par", "weights": "file.pth"}).source
    assert not build_request({"experiment": "digits/mar-fig6", "row": "par", "temperature": 0.5}).source


def test_a_record_says_which_row_it_is_of(tmp_path):
    row = ["--experiment", "digits/mar-fig6", "--row", "ar-no-cache"]
    assert cli.run_command(["run", *row, "--num-images", "12", "--no-evaluate"]) == 0
    record = load_record(only_run(tmp_path / "runs"))
    assert {name: record["source"][name] for name in ("experiment", "row", "row_digest", "label")} == (
        load_experiment("digits/mar-fig6").row_source("ar-no-cache")
    )


def test_a_row_that_cannot_be_run_is_told():
    with pytest.raises(ValueError, match="expected --row with one of: "):
        build_request({"experiment": "mar/table4"})
    trained = load_experiment("digits/mar-table1").rows[0]
    assert trained.weights == "trained"
    with pytest.raises(ValueError, match="expected --weights FILE"):
        build_request({"experiment": "digits/mar-table1", "row": trained.name})


def few_points(monkeypatch, sets=1):
    """A comparison of few points: each method at its default, MAR and AR at one more setting."""
    beside = {"mar": [{"num_iter": 2}], "ar": [{"cfg_scale": 1.0}]}
    monkeypatch.setattr(comparison, "variants", lambda method: beside.get(method.name, []))
    few = [dataclasses.replace(method, compared_sets=sets) for method in methods().values()]
    monkeypatch.setattr(comparison, "methods", lambda: {method.name: method for method in few})


def test_all_methods_make_one_table_and_one_plot(capsys, tmp_path, monkeypatch):
    few_points(monkeypatch)
    arguments = ["run", "--method", "all", "--num-images", "12", "--metrics", "fid", "--out", "here"]
    assert cli.run_command(arguments) == 0
    table = capsys.readouterr().out
    names = [line.split("|")[1].strip() for line in table.splitlines() if "-digits" in line]
    assert names == ["MAR", "PAR", "AR", "ARPG"]
    assert len(list((tmp_path / "here").glob("*-digits-*"))) == 6
    assert (tmp_path / "here" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "here" / "comparison.md").read_text().count("-digits") >= 6
    assert cli.run_command([*arguments, "--resume"]) == 0  # nothing is drawn anew
    batches = [
        line
        for run in (tmp_path / "here").glob("*-digits-*")
        for line in (run / "events.jsonl").read_text().splitlines()
        if json.loads(line)["event"] == "batch"
    ]
    assert len(batches) == 6


def test_a_point_of_several_sets_is_drawn_from_as_many_seeds(capsys, tmp_path, monkeypatch):
    few_points(monkeypatch, sets=2)
    monkeypatch.setattr(comparison, "points", lambda points=comparison.points: points()[2:3])
    arguments = ["run", "--method", "all", "--num-images", "6", "--metrics", "fid", "--out", "here", "--seed", "5"]
    assert cli.run_command(arguments) == 0
    records = [load_record(file) for file in (tmp_path / "here").glob("*/record.json")]
    assert sorted(record["seed"] for record in records) == [5, 6]
    assert "mean over 2 seeds" in capsys.readouterr().out


def test_the_comparison_is_by_what_each_method_is_made_faster_by():
    told = {(point.method.name, *point.setting.items()) for point in comparison.points()}
    assert ("par", ("model", "par-digits-16x")) in told
    assert {("mar",), ("mar", ("num_iter", 4)), ("dit", ("head_steps", 8)), ("ar",)} <= told
    assert ("dit",) not in told  # 50 steps take longer than all its others
    points = [point.method.name for point in comparison.points()]
    assert {name: points.count(name) for name in points} == {"mar": 3, "par": 2, "ar": 1, "arpg": 3, "dit": 3}
    assert not any(name == "cfg_interval" for _, *settings in told for name, _ in settings)
