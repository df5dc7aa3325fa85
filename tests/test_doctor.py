"""`arbench doctor`: tells what is here and what is missing, also where nothing is."""

from __future__ import annotations

import json

import pytest

from arbench import cli
from arbench.evaluation.reference_cards import REFERENCES
from arbench.generators.methods import presets
from arbench.weights.cards import get_card
from arbench.weights.download import partial_path
from arbench.weights.inventory import MISSING, PRESENT, PROBLEM, inventory


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
    assert found["generators", "ar-b"].value == "weights not here, tokenizer llamagen-vq not here"
    assert found["generators", "ar-b"].remedy == "arbench weights get ar-b"
    assert found["generators", "mar-l-w256"].value == "weights never released, tokenizer kl16 not here"
    assert "by hand" in found["tokenizers", "kl16"].remedy
    assert found["references", "adm-train-256"].state == MISSING
    assert list(tmp_path.iterdir()) == []


def test_every_preset_and_reference_is_told_about():
    names = [fact.name for fact in inventory()]
    assert set(names).issuperset((*presets(), *REFERENCES))


def test_a_preset_is_here_when_both_its_files_are():
    for name, state, remedy in (("ar-b", MISSING, "arbench weights get llamagen-vq"), ("llamagen-vq", PRESENT, "")):
        path = get_card(name).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        fact = facts()["generators", "ar-b"]
        assert (fact.state, fact.remedy) == (state, remedy)
    assert facts()["generators", "ar-b"].value.endswith("c2i_B_256.pt (0.0 MB), tokenizer llamagen-vq here")
    assert facts()["generators", "ar-l"].remedy == "arbench weights get ar-l"
    assert facts()["generators", "par-b-4x"].remedy == "arbench train, or --weights FILE"


def test_an_interrupted_download_is_told():
    part = partial_path(get_card("ar-b").path)
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(300_000))
    assert facts()["generators", "ar-b"].value.startswith("weights not here but for 0.3 MB of an interrupted download")


def test_files_that_are_there_are_found():
    for card_path in (REFERENCES["adm-train-256"].path,):
        card_path.parent.mkdir(parents=True)
        card_path.write_bytes(b"x")
    assert facts()["references", "adm-train-256"].state == PRESENT


def test_a_broken_plug_in_is_a_problem_of_its_own_only(monkeypatch, tmp_path):
    package = tmp_path / "broken-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[arbench.tokenizers]\nbroken = not_installed_anywhere:X\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = facts()
    assert found["tokenizers", "broken"].state == PROBLEM
    assert found["tokenizers", "digits-kl"].state == PRESENT


def test_the_command_prints_lines_or_json(capsys):
    assert cli.run_command(["doctor"]) == 0
    assert "generators" in capsys.readouterr().out
    assert cli.run_command(["doctor", "--json"]) == 0
    assert {"section", "name", "value", "state", "remedy"} == set(json.loads(capsys.readouterr().out)[0])
