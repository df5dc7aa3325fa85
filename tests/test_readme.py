"""README.md is run: its Python as it stands, its command lines as far as they need neither network nor weights."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file

from arbench import cli
from arbench.evaluation.digits_cnn import DigitsCNN
from arbench.training.recipes import get_recipe

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
DIGITS_RANGE = (-1.25, 1.25)  # a decoder trained on [-1, 1] overshoots a little
RUN_HERE = ("arbench models", "arbench weights", "arbench doctor")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def command_lines() -> list[str]:
    """Lines of the shell blocks without their comments, and commands inside the text, without those cut short by …"""
    lines = [line.split(" #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    inline = re.findall(r"`(arbench \w[^`…]*)`", TEXT)
    return list(dict.fromkeys(line for line in (*lines, *inline) if line))


ARBENCH_LINES = [line for line in command_lines() if line.startswith("arbench ")]


def parse(words: list[str]) -> None:
    """Parse a command line of arbench without running it; Click's usage error for a command or option that is not."""
    command, context, name = typer.main.get_command(cli.build_app()), None, "arbench"
    while hasattr(command, "get_command"):
        context = command.make_context(name, words, parent=context)
        words = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
        if not words:
            return
        name, command, words = command.resolve_command(context, list(words))
    command.make_context(name, words, parent=context)


def test_python_draws_the_digits_that_were_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    images = names["images"]
    assert images.shape == (5, 3, 32, 32)
    assert images.min() >= DIGITS_RANGE[0]
    assert images.max() <= DIGITS_RANGE[1]
    classifier = DigitsCNN().eval()
    classifier.load_state_dict(load_file(ROOT / get_recipe("digits-cnn").asset))
    with torch.inference_mode():
        assert classifier(images).argmax(1).tolist() == [3, 1, 4, 1, 5]
    assert [picture.size for picture in names["pictures"]] == [(32, 32)] * 5
    assert names["record"]["metrics"]["label_accuracy"] > 0.9
    assert names["record"].folder.is_relative_to("runs")


@pytest.mark.parametrize("line", ARBENCH_LINES)
def test_commands_and_options_exist(line):
    parse(shlex.split(line)[1:])


@pytest.mark.parametrize("line", ["arbench sampel", "arbench run --methd mar", "arbench weights gte mar-b"])
def test_the_parser_refuses_what_is_not_there(line):
    with pytest.raises(cli.click_errors()[0]):
        parse(shlex.split(line)[1:])


@pytest.mark.parametrize("line", RUN_HERE)
def test_commands_that_need_nothing_run(line, capsys):
    assert line in ARBENCH_LINES
    assert cli.run_command(shlex.split(line)[1:]) == 0
    assert "mar-b" in capsys.readouterr().out


def test_every_row_of_the_table_of_commands_is_a_command():
    named = [name for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", TEXT, re.MULTILINE) for name in row.split(", ")]
    known = typer.main.get_command(cli.build_app()).commands
    assert {name.strip("`") for name in named} <= set(known)
    assert {"run", "sample", "tokenizers", "weights"} <= {name.strip("`") for name in named}


def test_scripts_exist():
    scripts = [shlex.split(line)[1] for line in command_lines() if line.startswith("bash ")]
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


PROMISES = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TEXT)


@pytest.mark.parametrize(("file", "name"), PROMISES)
def test_every_promise_has_its_test(file, name):
    (found,) = (ROOT / "tests").rglob(file)
    assert re.search(rf"^def {name}\(", found.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_row_of_promises_names_a_test():
    table = TEXT.partition("## What is promised")[2].partition("## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "what happens" not in line]
    assert len(rows) == len(PROMISES) > 10
