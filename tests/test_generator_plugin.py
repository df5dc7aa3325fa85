"""A stranger's method, really installed, comes in by the same door and runs through every command."""

from __future__ import annotations

import json
import sys

import pytest
from installed_plugins import install_plugin

from arbench.cli import run_command
from arbench.generators import methods
from arbench.generators.methods import get_method

MODEL, STEPS = "unigram-digits", "3"
TABLE = """
title: Independent tokens
columns: [seconds_per_image]
rows:
  by-place:
    method: unigram
    model: unigram-digits
    tokenizer: digits-vq
    weights: trained
    training: {steps: 3, batch_size: 8, learning_rate: 0.1}
    num_images: 20
    dtype: float32
    metrics: [fid]
    protocol: {extractor: digits-cnn, reference: digits-heldout}
"""
STRANGER = """
from dataclasses import replace
from unigram import METHOD, Unigram

def build(config):
    generator = Unigram(config)
    generator.method = NAME
    return generator

METHOD = replace(METHOD, name=NAME, model=build, presets=(), tiny={"vocab_size": 7})
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return install_plugin("unigram", tmp_path_factory.mktemp("plugin"))


@pytest.fixture
def arbench(installed, monkeypatch, capsys):
    """Run one command line in this process with the plug-in installed: exit code, standard output, standard error."""
    monkeypatch.syspath_prepend(str(installed))
    for module in ("unigram", "unigram_broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(list(arguments))
        return code, *capsys.readouterr()

    return run


def test_list_has_it_and_names_those_that_cannot_be_used(arbench):
    code, out, err = arbench("models")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert rows[MODEL].split()[1:5] == ["unigram", "0.2", "32", "digits-vq"]
    assert {"mar-b", "ar-digits", "dit-digits"} <= set(rows)
    told = err.splitlines()
    assert len(told) == 4
    assert "note: method 'unigram-broken' cannot be imported: ModuleNotFoundError" in err
    assert "note: method 'unigram-plain' is of type type; expected an arbench.Method" in err
    assert "note: method 'unigram-misnamed' calls itself 'unigram'; expected the name of its entry point" in err
    assert "note: method 'mar' of arbench-unigram is not used: the name is that of arbench" in err


def test_doctor_has_them_too(arbench):
    code, out, _ = arbench("doctor", "--json")
    assert code == 0
    problems = [fact["value"] for fact in json.loads(out) if fact["name"] == "plug-in"]
    assert len(problems) == 4
    assert any("'unigram-broken' cannot be imported" in problem for problem in problems)


def test_the_shipped_method_wins_its_name(arbench):
    code, out, _ = arbench("models", "mar-digits")
    assert code == 0
    assert "mar-digits" in out
    assert get_method("mar").label == "MAR"


@pytest.mark.parametrize("name", ["unigram", MODEL, "unigram:METHOD"])
def test_check_passes(arbench, name):
    code, out, err = arbench("models", "check", name)
    assert code == 0, err
    assert "failed" not in out
    assert "batch invariance  passed" in out


@pytest.mark.parametrize(
    ("name", "code", "told"), [("loose", 0, "passed"), ("ar", 2, "is the name of an installed one")]
)
def test_one_that_is_not_installed_is_named_by_its_module(arbench, monkeypatch, tmp_path, name, code, told):
    (tmp_path / "loose_module.py").write_text(f"NAME = {name!r}\n{STRANGER}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "loose_module", raising=False)
    monkeypatch.setattr(methods, "_given", {})
    found, out, err = arbench("models", "check", "loose_module:METHOD")
    assert found == code
    assert told in out + err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("unigram-broken", "method 'unigram-broken' cannot be imported: ModuleNotFoundError"),
        ("unigram-plain", "method 'unigram-plain' is of type type; expected an arbench.Method"),
        ("unigram-memberless", "method 'unigram-memberless' failed 1 of 1 checks: members"),
        ("unigram:Missing", "method 'unigram:Missing' cannot be imported: AttributeError"),
        ("unigran", "unknown method 'unigran'; did you mean 'unigram'?"),
    ],
)
def test_a_broken_one_is_one_line(arbench, name, told):
    code, _, err = arbench("models", "check", name)
    assert code == 2
    assert err.count("\n") == 1
    assert told in err


def test_a_run_names_the_broken_one(arbench):
    code, _, err = arbench("run", "--method", "unigram-broken")
    assert code == 2
    assert err.startswith("arbench: error: method 'unigram-broken' cannot be imported")


@pytest.mark.parametrize("chosen", [("--method", "unigram"), ("--model", "unigram:METHOD")])
def test_a_run_with_random_weights_is_recorded(arbench, tmp_path, chosen):
    code, out, err = arbench("run", *chosen, "--weights", "random", "--num-images", "20", "--out", str(tmp_path))
    assert code == 0, err
    assert "UNIGRAM" in out
    record = json.loads(next(tmp_path.rglob("record.json")).read_text())
    assert (record["method"], record["model"], record["speed"]["steps"]) == ("unigram", MODEL, 1)
    assert record["speed"]["flops_per_image"] is None
    assert record["versions"]["arbench-unigram"] == "0.1.0"
    assert "GiB each" not in err


def test_sample_draws(arbench, tmp_path):
    target = tmp_path / "grid.png"
    code, _, err = arbench(
        "sample", "--method", "unigram", "--weights", "random", "--labels", "3", "--out", str(target)
    )
    assert code == 0, err
    assert target.is_file()


def test_bench_has_no_roofline(arbench):
    code, out, err = arbench("bench", "--method", "unigram", "--repeats", "1", "--batch-size", "auto")
    assert code == 0, err
    assert "no roofline for this method in 1 steps" in out
    result = json.loads(out.splitlines()[-1])
    assert result["flops_per_image"] is None
    assert result["throughput"]["share_of_floor"] is None
    assert result["throughput"]["batch_size"] == 8


def test_training_needs_what_its_spec_leaves_out(arbench, tmp_path):
    code, _, err = arbench("train", "--method", "unigram", "--steps", "2", "--out", str(tmp_path))
    assert code == 2
    assert "method 'unigram' has no training recipe; expected --batch-size, --learning-rate with it" in err


def test_trained_weights_run(arbench, tmp_path):
    settings = ("--steps", STEPS, "--batch-size", "8", "--learning-rate", "0.1", "--device", "cpu")
    code, _, err = arbench("train", "--method", "unigram", *settings, "--out", str(tmp_path / "train"))
    assert code == 0, err
    weights = tmp_path / "train" / MODEL / f"{MODEL}.safetensors"
    assert weights.is_file()
    code, _, err = arbench("run", "--weights", str(weights), "--num-images", "20", "--out", str(tmp_path))
    assert code == 0, err
    record = json.loads(next(tmp_path.rglob("record.json")).read_text())
    assert (record["model"], record["weights"]["file"]) == (MODEL, weights.name)


def test_a_table_of_its_own_is_reproduced(arbench, tmp_path):
    table = tmp_path / "tokens.yaml"
    table.write_text(TABLE)
    code, out, err = arbench("reproduce", str(table), "--yes", "--device", "cpu", "--out", str(tmp_path / "runs"))
    assert code == 0, err
    assert "measured" in out
    record = json.loads(next(tmp_path.rglob("record.json")).read_text())
    assert (record["source"]["row"], record["num_images"]) == ("by-place", 20)
