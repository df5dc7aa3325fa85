"""`arbench doctor`: tells what is here and what is missing, also where nothing is."""

from __future__ import annotations

import json

import pytest

from arbench import cli
from arbench.evaluation.reference_cards import REFERENCES
from arbench.generators.presets import PRESETS
from arbench.inventory import MISSING, PRESENT, PROBLEM, inventory


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    for name in ("ARBENCH_WEIGHTS", "ARBENCH_REFERENCES", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name / "deeper"))
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("doctor",))


def facts():
    return {(fact.section, fact.name): fact for fact in inventory()}


def test_an_empty_machine_has_the_digits_and_is_told_how_to_get_the_rest(tmp_path):
    found = facts()
    assert found["generators", "mar-digits"].state == PRESENT
    assert found["generators", "mar-b"].remedy == "arbench weights get mar-b"
    assert "by hand" in found["tokenizers", "kl16"].remedy
    assert found["references", "adm-train-256"].state == MISSING
    assert list(tmp_path.iterdir()) == []


def test_every_preset_and_reference_is_told_about():
    text = " ".join(f"{fact.name} {fact.value}" for fact in inventory())
    assert all(name in text for name in (*PRESETS, *REFERENCES, "digits-heldout"))


def test_files_that_are_there_are_found():
    for card_path in (REFERENCES["adm-train-256"].path,):
        card_path.parent.mkdir(parents=True)
        card_path.write_bytes(b"x")
    assert facts()["references", "adm-train-256"].state == PRESENT


def test_a_broken_plug_in_is_a_problem_of_its_own_only(monkeypatch):
    import arbench.inventory
    from arbench.registry import tokenizer_entry_points

    real = dict(tokenizer_entry_points())
    broken = type(next(iter(real.values())))(
        name="broken", value="not_installed_anywhere:X", group="arbench.tokenizers"
    )
    points = {**real, "broken": broken}
    monkeypatch.setattr(arbench.inventory, "tokenizer_entry_points", lambda: points)
    monkeypatch.setattr("arbench.tokenizer.tokenizer_entry_points", lambda: points)
    found = facts()
    assert found["tokenizers", "broken"].state == PROBLEM
    assert found["tokenizers", "digits-kl"].state == PRESENT


def test_the_command_prints_lines_or_json(capsys):
    assert cli.run_command(["doctor"]) == 0
    assert "generators" in capsys.readouterr().out
    assert cli.run_command(["doctor", "--json"]) == 0
    assert {"section", "name", "value", "state", "remedy"} == set(json.loads(capsys.readouterr().out)[0])
