"""scripts/coverage.py: which intervals hold what another comparison measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from test_comparison import record

from arbench.report.record import write_record

SCRIPT = Path(__file__).parents[1] / "scripts" / "coverage.py"


def load():
    spec = importlib.util.spec_from_file_location("coverage_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def store(folder, records):
    for number, made in enumerate(records):
        run = folder / f"{made['model']}-{number}"
        run.mkdir(parents=True)
        write_record(made, run)


def test_points_are_counted_that_hold_the_others_mean(tmp_path, capsys):
    """Each record's interval is from 2 below its FID to 3 above."""
    store(tmp_path / "one", [record("ar-digits", 17.0, 0.01), record("mar-digits", 20.0, 0.05, num_iter=8)])
    store(tmp_path / "one", [record("par-digits", 20.0 + seed, 0.01, seed=seed) for seed in (0, 1)])
    again = [record("ar-digits", 19.9, 0.01, seed=4), record("mar-digits", 24.0, 0.05, seed=4, num_iter=8)]
    store(tmp_path / "other", [*again, record("par-digits", 20.0, 0.01, seed=4)])  # of one seed: not compared
    load().main([str(tmp_path / "one"), str(tmp_path / "other")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ar-digits, 8 steps: 17.00 [15.00, 20.00], again 19.90"
    assert lines[1].endswith("again 24.00 ✗")
    assert lines[2] == "1 of 2 intervals hold the other run's fid"
    with pytest.raises(ValueError, match="no point in common"):
        load().main([str(tmp_path / "one"), str(tmp_path / "other"), "--score", "kid"])
