"""scripts/gpu_bench.py on a CPU: what it measures, keeps, leaves and says; the speeds of a GPU are not its subject."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import TINY

from arbench.bench.generation import Bounds
from arbench.machine.fused import EngineWarning
from arbench.runs.choice import RANDOM
from arbench.runs.models import load_parts

SCRIPTS = Path(__file__).parents[1] / "scripts"
RECORDS = SCRIPTS.parent / "results" / "records" / "gpu"
CPU = ["--device", "cpu", "--no-tests"]
pytestmark = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="installed without the checkout")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in ("gpu_rows", "gpu_bench"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = importlib.import_module("gpu_bench")
    rows = importlib.import_module("gpu_rows")
    monkeypatch.setattr(rows, "BATCH", 2)
    monkeypatch.setattr(found, "ROWS", (rows.Row("par-digits", (50, 50), rivals=2), rows.Row("ar-digits", (50, 50))))
    monkeypatch.setattr(found, "find_bounds", lambda parts: Bounds(generator=None, decoder=None))
    monkeypatch.setattr(found, "describe_hardware", lambda device: {"name": "NVIDIA Test 80GB"})
    yield found
    for name in ("gpu_rows", "gpu_bench"):
        sys.modules.pop(name, None)


@pytest.fixture
def measured(script, monkeypatch):
    """What is measured, by name; nothing is drawn."""
    calls = []

    def measure(parts, cell):
        calls.append((parts, cell.engine, cell.batch_size))
        figures = {"batch_size": cell.batch_size, "seconds_per_image": 0.5, "floor_seconds_per_image": 0.1}
        return {"against": []} if cell.engine == "compare" else {**figures, "phases": {"decode": 0.01}}

    monkeypatch.setattr(script, "load", lambda row, device, shared: row.name)
    monkeypatch.setattr(script, "describe", lambda parts, *rest: {"model": parts})
    monkeypatch.setattr(script, "measure", measure)
    return calls


def read(folder, name):
    return json.loads((folder / f"{name}-test-80gb.json").read_text())


def test_a_row_is_measured_by_each_engine_and_beside_the_plain_ways(script, tmp_path, monkeypatch, capsys):
    def load(row, device, shared):
        random = {"weights": RANDOM, "tokenizer_weights": RANDOM}
        return load_parts("par", config=TINY["par"]["config"], **random, device=device, sampling=row.sampling)

    monkeypatch.setattr(script, "load", load)
    assert script.main([*CPU, "--rows", "par-digits", "--out", str(tmp_path)]) == 0
    record = read(tmp_path, "par-digits")
    eager, compared = record["engines"]["eager"], record["engines"]["compare"]["latency"]
    assert (eager["method"], eager["latency"]["batch_size"], eager["throughput"]["batch_size"]) == ("par", 1, 2)
    assert [pair["against"] for pair in compared["against"]] == ["no KV cache", "the release's way"]
    graph = record["engines"]["graph"]
    assert [(graph[part]["batch_size"], graph[part]["repeats"]) for part in ("latency", "throughput")] == [
        (1, 3),
        (2, 3),
    ]
    assert (compared["engine"], compared["batch_size"]) == ("eager", 1)
    assert record["protocol"]["engines"] == ["graph", "eager", "compare"]
    assert record["protocol"]["repeats"] == {"graph": 3, "eager": 1, "compare": 1}
    assert record["protocol"]["sampling"]["cfg_scale"] == eager["sampling"]["cfg_scale"]
    assert "par-digits against the release's way" in capsys.readouterr().out


def test_what_is_there_is_not_measured_again_and_what_is_not_is(script, measured, tmp_path):
    given = [*CPU, "--out", str(tmp_path)]
    script.main([*given, "--engines", "graph"])
    every = [(row, engine, size) for row in ("par-digits", "ar-digits") for engine in ("graph",) for size in (1, 2)]
    assert measured == every
    measured.clear()
    script.main(given)
    assert measured == [
        *(("par-digits", "eager", size) for size in (1, 2)),
        ("par-digits", "compare", 1),
        *(("ar-digits", "eager", size) for size in (1, 2)),
    ]
    measured.clear()
    script.main(given)
    assert measured == []
    script.main([*given, "--decode-dtype", "float32", "--rows", "ar-digits"])  # stands in a file of its own
    assert len(measured) == 4
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "ar-digits-test-80gb-decode-float32.json",
        "ar-digits-test-80gb.json",
        "par-digits-test-80gb.json",
    ]


@pytest.mark.parametrize("error", [RuntimeError("out of memory\nmore"), EngineWarning("no graph")])
def test_what_failed_is_measured_again_and_takes_nothing_with_it(script, measured, tmp_path, monkeypatch, error):
    well = script.measure

    def fail(parts, cell):
        if (parts, cell.engine, cell.batch_size) == ("par-digits", "graph", 2):
            raise error
        return well(parts, cell)

    monkeypatch.setattr(script, "measure", fail)
    given = [*CPU, "--out", str(tmp_path)]
    assert script.main(given) == 1
    graph = read(tmp_path, "par-digits")["engines"]["graph"]
    assert graph["latency"]["seconds_per_image"] == 0.5
    assert graph["throughput"]["error"] == str(error).partition("\n")[0]
    assert len(measured) == 8
    measured.clear()
    monkeypatch.setattr(script, "measure", well)
    assert script.main(given) == 0
    assert measured == [("par-digits", "graph", 2)]


def test_a_model_that_cannot_be_loaded_leaves_the_others(script, measured, tmp_path, monkeypatch, capsys):
    tries = []

    def load(row, device, shared):
        tries.append(row.name)
        if row.name == "par-digits":
            raise RuntimeError("CUDA out of memory")
        return row.name

    monkeypatch.setattr(script, "load", load)
    assert script.main([*CPU, "--out", str(tmp_path)]) == 1
    assert tries == ["par-digits", "ar-digits"]
    assert read(tmp_path, "par-digits")["engines"]["eager"]["latency"]["error"] == "CUDA out of memory"
    assert [name for name, _, _ in measured] == ["ar-digits"] * 4
    assert "left: par-digits, graph, batch 1" in capsys.readouterr().out


@pytest.fixture
def clock(script, monkeypatch):
    """The script's time, which goes on when it is told to."""
    found = SimpleNamespace(now=0.0)
    monkeypatch.setattr(script, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


def test_what_does_not_fit_is_left_with_the_command_that_goes_on(
    script, measured, clock, tmp_path, monkeypatch, capsys
):
    well = script.measure

    def measure(parts, cell):
        clock.now += 20
        return well(parts, cell)

    monkeypatch.setattr(script, "measure", measure)
    # Guessed: loading 15 s, then 150 s by graphs, 100 s by the eager engine (it takes 20), 600 s to compare.
    given = [*CPU, "--out", str(tmp_path), "--budget"]
    assert script.main([*given, "140", "--spent=10"]) == 0
    assert [name for name, engine, _ in measured if engine == "eager"] == ["par-digits"] * 2 + ["ar-digits"] * 2
    assert len(measured) == 4
    said = capsys.readouterr().out
    assert "left: par-digits, compare, batch 1" in said
    assert "left: ar-digits, graph, batch 2" in said
    assert said.splitlines()[-1] == f"go on with: bash scripts/gpu_bench.sh {' '.join(given)} 140"


def test_a_cell_that_takes_longer_than_is_left_is_cut_off(script, measured, clock, tmp_path, monkeypatch):
    def measure(parts, cell):
        clock.now += 2000
        signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(script, "measure", measure)
    before = signal.getsignal(signal.SIGALRM)
    assert script.main([*CPU, "--out", str(tmp_path)]) == 0
    assert read(tmp_path, "par-digits")["engines"]["graph"]["latency"] == {
        "error": script.CUT_OFF,
        "took_seconds": 2000.0,
    }
    assert not (tmp_path / "ar-digits-test-80gb.json").exists()
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]) == (before, 0.0)


def test_the_timer_is_set_to_what_is_left(script, clock):
    budget = script.Budget(1000)
    clock.now = 400
    with budget.held():
        assert 590 < signal.getitimer(signal.ITIMER_REAL)[0] <= 600


def test_estimates_follow_what_was_measured(script):
    row, pace = script.ROWS[0], script.Pace()
    graph, eager = (script.Cell(engine=engine, batch_size=1) for engine in ("graph", "eager"))
    before = pace.estimate(row, graph, {}), pace.estimate(row, eager, {})
    pace.learn(row, graph, before[0] / 2)
    assert (pace.estimate(row, graph, {}), pace.estimate(row, eager, {})) == (before[0] / 2, before[1])
    assert pace.estimate(row, eager, {"took_seconds": 100.0}) == 150.0


def test_tests_that_passed_are_not_run_again_with_this_code(script, measured, tmp_path, monkeypatch, capsys):
    runs, results = [], {"tests/a.py": True, "tests/b.py": False, "tests/c.py": None}

    def run(file, seconds):
        runs.append(file)
        return results[file]

    monkeypatch.setattr(script, "run_tests", run)
    monkeypatch.setattr(script, "gpu_test_files", lambda: list(results))
    monkeypatch.setattr(script, "code_hash", lambda: "one")
    given = ["--device", "cpu", "--out", str(tmp_path), "--engines", "eager"]
    assert script.main(given) == 1
    said = capsys.readouterr().out
    assert "tests/b.py: failed" in said
    assert "left: tests/c.py" in said
    results.update({"tests/b.py": True, "tests/c.py": True})
    assert script.main(given) == 0
    assert script.main(given) == 0
    assert runs == ["tests/a.py", "tests/b.py", "tests/c.py", "tests/b.py", "tests/c.py"]
    monkeypatch.setattr(script, "code_hash", lambda: "another")
    assert script.main([*given, "--budget", "50"]) == 0  # and a file is guessed to take a minute
    assert runs[5:] == ["tests/a.py", "tests/b.py", "tests/c.py"]  # but for what it took before
    monkeypatch.setattr(script, "code_hash", lambda: "third")
    assert script.main([*given, "--no-tests"]) == 0
    (tmp_path / "tests-test-80gb.json").unlink()
    assert script.main([*given, "--budget", "50"]) == 0
    assert len(runs) == 8


def test_the_tests_of_a_gpu_are_found(script):
    assert "tests/test_gpu.py" in script.gpu_test_files()
    assert "tests/test_gpu_bench.py" not in script.gpu_test_files()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda"], "device 'cuda' is not available here"),
        (["--device", "cpu", "--rows", "par-digit"], "did you mean 'par-digits'?"),
        (["--device", "cpu", "--engines", "grph"], "did you mean 'graph'?"),
        (["--device", "cpu", "--dtype", "bfloat61"], "did you mean 'bfloat16'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(script, words, message, capsys):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert script.main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_files_are_told_apart(script):
    row, file_name = script.ROWS[0], script.file_name
    assert file_name(row, "NVIDIA H100 80GB HBM3", "auto", "bfloat16") == "par-digits-h100-80gb-hbm3.json"
    assert file_name(row, "NVIDIA H200", "float32", "float32") == "par-digits-h200-float32-decode-float32.json"


def test_the_record_that_is_here_can_be_read(script):
    record = json.loads((RECORDS / "mar-b-64-h200.json").read_text())
    told = (RECORDS.parent.parent / "gpu.md").read_text()
    latency, throughput = (line.split(" | ")[1:] for line in script.table_lines(record))
    for line in (latency, throughput):
        assert " | ".join(line) in told


def test_the_shell_script_is_bash():
    subprocess.run(["bash", "-n", str(SCRIPTS / "gpu_bench.sh")], check=True)
