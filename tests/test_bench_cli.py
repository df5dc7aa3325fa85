"""`arbench bench` from the command line: the last line is JSON, and a mistake is one line."""

import json
import sys

import pytest
from commands import commands_of

from arbench.cli.bench import register

QUICK = ["--repeats", "1", "--device", "cpu"]


@pytest.fixture
def cli():
    return commands_of(register, stream="stdout")


def test_the_last_line_is_one_json_object(cli):
    short = ["--num-iter", 1, "--head-steps", 2, "--weights", "random"]
    output = cli("--method", "mar", "--batch-size", 2, *short, *QUICK)
    result = json.loads(output.splitlines()[-1])
    assert (result["model"], result["tier"], result["steps"]) == ("mar-digits", "A1", 1)
    assert result["throughput"]["batch_size"] == 2
    assert "roofline floor" in output


def test_compare_adds_ratios(cli):
    output = cli("--method", "par", "--batch-size", 1, "--compare", *QUICK)
    compared, released = json.loads(output.splitlines()[-1])["compare"]
    assert (compared["against"], released["against"]) == ("no KV cache", "the release's way")
    assert f"against no KV cache: {compared['ratio']:.2f}× as fast" in output


def test_a_tokenizer_alone(cli):
    output = cli("--tokenizer", "digits-vq", *QUICK)
    result = json.loads(output.splitlines()[-1])
    assert (result["benchmark"], result["image_size"]) == ("tokenizer", 32)
    assert "encode" in output


@pytest.mark.parametrize(
    ("arguments", "terminal", "shown"),
    [([], False, True), ([], True, False), (["--json"], True, True), (["--json"], False, True)],
)
def test_json_is_left_out_on_a_terminal_unless_it_is_asked_for(arguments, terminal, shown, capsys, monkeypatch):
    from arbench.cli import bench, run_command

    found = {"benchmark": "tokenizer", "seconds": 0.1}
    monkeypatch.setattr(bench, "time_tokenizer", lambda name, batch, chosen: found)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert run_command(["bench", "--tokenizer", "digits-vq", *arguments]) == 0
    assert capsys.readouterr().out == (json.dumps(found) + "\n" if shown else "")


def test_json_goes_to_a_file_whole(cli, tmp_path):
    file = tmp_path / "new" / "speed.json"
    output = cli("--tokenizer", "digits-vq", "--json", "--out", file, *QUICK)
    assert file.read_text() == output.splitlines()[-1] + "\n"
    assert json.loads(file.read_text())["benchmark"] == "tokenizer"
    assert [left.name for left in file.parent.iterdir()] == ["speed.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "mar-x"], "did you mean 'mar-"),
        (["--method", "mar", "--top-k", "3"], "unknown sampling setting of this generator 'top_k'"),
        (["--method", "mar", "--batch-size", "0"], "batch_size is 0; expected a whole number of at least 1"),
        (["--method", "mar", "--repeats", "0"], "repeats is 0; expected a whole number of at least 1"),
        (["--tokenizer", "digits-kl", "--num-iter", "3"], "--num-iter 3: not for a tokenizer alone"),
        (["--tokenizer", "digits-kl", "--batch-size", "auto"], "--batch-size auto: not for a tokenizer alone"),
        (["--method", "mar", "--model", "ar-b"], "expected --method ar"),
    ],
)
def test_a_mistake_is_one_line(cli, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        cli(*arguments, "--device", "cpu")
    assert "\n" not in str(error.value)


def test_help_shows_an_example(cli):
    assert "arbench bench --method mar --model mar-l" in " ".join(cli("--help").split())
