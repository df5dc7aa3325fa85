"""A user's mistake: exit code 2 and one line that names the value and what was expected; Ctrl-C: 130; no leftovers."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file

from arbench import cli
from arbench.generators.methods import method_names
from arbench.heads.solvers import SOLVERS
from arbench.runs import pipeline as loop

RANDOM = ("--weights", "random")
ALL_COMMANDS = cli.COMMAND_MODULES


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARBENCH_WEIGHTS", str(tmp_path / "no-weights"))
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("run", "sample"))


@pytest.fixture
def nothing_is_drawn(monkeypatch):
    def generate(*_, **__):
        raise AssertionError("the mistake was not found before sampling")

    monkeypatch.setattr(loop, "draw_tokens", generate)


def told(capsys, *arguments, code=2):
    """Run a command line that must fail; the one line it prints on standard error."""
    assert cli.run_command([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--method", "mra"), "unknown method 'mra'; did you mean 'mar'?"),
        (("--model", "mar-digit"), "unknown model 'mar-digit'; did you mean 'mar-digits'?"),
        (("--num-images", "1e3"), "--num-images '1e3': expected a whole number"),
        (("--cfg-scale=x",), "--cfg-scale 'x': expected a number"),
        (("--num-images", "3"), "num_images is 3; expected at least 4, which precision takes, or no scores"),
        (("--num-images", "1", "--metrics", "fid"), "num_images is 1; expected at least 2, which fid takes"),
        (("--method", "ar", "--model", "mar-digits"), "is of method 'mar', not 'ar'"),
        (("--tokenizer", "digits-lk"), "unknown tokenizer 'digits-lk'; did you mean 'digits-kl'?"),
        (("--method", "ar", "--tokenizer", "digits-kl", *RANDOM), "expected a discrete tokenizer"),
        (("--method", "mar", "--tokenizer", "digits-vq", *RANDOM), "expected a continuous tokenizer"),
        (("--num-images", "0"), "num_images is 0; expected a whole number of at least 1"),
        (("--num-images", "-5"), "num_images is -5"),
        (("--num-images", "many"), "--num-images"),
        (("--seed", "-1"), "seed is -1"),
        (("--seed", str(2**64)), "seed is 18446744073709551616; expected a whole number from 0 to 2**64 - 1"),
        (("--seed", str(2**70)), "seed is 1180591620717411303424"),
        (("--num-images", str(10**12)), "num_images is 1000000000000; expected at most 4294967296"),
        (("--batch-size", "²"), "batch_size is '²'; expected a whole number of at least 1 or 'auto'"),
        (("--batch-size", "--5"), "batch_size is '--5'"),
        (("--temperature", "inf", *RANDOM), "temperature inf"),
        (("--temperature", "nan", *RANDOM), "temperature nan"),
        (("--cfg-scale", "inf", *RANDOM), "cfg_scale inf"),
        (("--method", "ar", "--top-k", str(10**400), *RANDOM), "top_k 1"),
        (("--batch-size", "0"), "batch_size is 0; expected a whole number of at least 1 or 'auto'"),
        (("--batch-size", "big"), "batch_size is 'big'"),
        (("--num-iter", "0", *RANDOM), "num_iter 0: expected 1"),
        (("--method", "ar", "--num-iter", "8", *RANDOM), "'num_iter'"),
        (("--cfg-scale", "-1", *RANDOM), "cfg_scale -1.0"),
        (("--cfg-schedule", "linaer", *RANDOM), "did you mean 'linear'?"),
        (("--method", "ar", "--top-p", "0", *RANDOM), "top_p 0.0"),
        (("--head-sampler", "ddmp", *RANDOM), "did you mean 'ddpm'?"),
        (("--label-mode", "balance", *RANDOM), "did you mean 'balanced'?"),
        (("--device", "gpu"), "unknown device 'gpu'"),
        (("--dtype", "float23"), "unknown dtype 'float23'; did you mean"),
        (("--weights", "nowhere.safetensors"), "nowhere.safetensors: No such file or directory"),
        (("--model", "mar-b"), "no weights on this machine; expected --weights FILE (arbench weights get mar-b)"),
        (("--reference", "nothing.npz", *RANDOM), "nothing.npz"),
        (("--extractor", "inceptoin", *RANDOM), "did you mean 'inception'?"),
        (("--metrics", "fib", *RANDOM), "unknown metric 'fib'; did you mean 'fid'?"),
        (("--experiment", "mar/table44"), "unknown experiment 'mar/table44'"),
        (("--row", "mar-b"), "--row mar-b needs an experiment"),
        (("--method", "all", "--model", "mar-digits"), "--model belongs to one method"),
        (("--methd", "mar"), "--methd"),
        (("--resume", *RANDOM), "nothing to resume"),
        (("--out", "/dev/null/here", *RANDOM), "/dev/null/here"),
    ],
)
def test_a_wrong_run_is_one_line_and_leaves_nothing(capsys, tmp_path, nothing_is_drawn, arguments, line):
    assert line in told(capsys, "run", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--labels", "3,10"), "label '10': expected a class number from 0 to 9"),
        (("--labels", "-1"), "label '-1'"),
        (("--labels", "²"), "label '²'"),
        (("--seed", str(2**64)), "seed is 18446744073709551616"),
        (("--cfg-scale", "nan"), "cfg_scale nan"),
        (("--labels", "seven"), "label 'seven'"),
        (("--labels", ","), "expected class numbers such as 3,7"),
        (("--per-class", "0"), "per_class is 0"),
        (("--out", "grid.pgn"), "did you mean '.png'?"),
        (("--out", "grid"), "unknown suffix of --out (a folder ends in /) ''"),
        (("--out", "/dev/null/grid.png"), "/dev/null is no folder"),
        (("--batch-size", "-2"), "batch_size is -2"),
    ],
)
def test_a_wrong_sample_is_one_line_and_leaves_nothing(capsys, tmp_path, nothing_is_drawn, arguments, line):
    assert line in told(capsys, "sample", "--method", "par", *RANDOM, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def every_command(monkeypatch):
    monkeypatch.setattr(cli, "COMMAND_MODULES", ALL_COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("smaple",), "unknown command 'smaple'; did you mean 'sample'?"),
        (("weights", "lst"), "unknown command weights 'lst'; did you mean 'list'? expected one of: convert, get, list"),
        (("tokenizers", "mesure"), "unknown command tokenizers 'mesure'; did you mean 'measure'?"),
    ],
)
def test_an_unknown_command_names_the_nearest(capsys, every_command, arguments, line):
    assert line in told(capsys, *arguments)


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ("run", "--row mar-b --weights mar-base.safetensors --tokenizer-weights kl16.ckpt"),
        ("tokenizers stats", "stats diffusers:stabilityai/sd-vae-ft-mse --data imagenet/train --size 256 --num-images"),
        ("train", "-m arbench train --model mar-b --data DIR --tokenizer-weights kl16.ckpt --resume auto"),
    ],
)
def test_a_long_example_of_a_help_can_be_copied_from_a_narrow_terminal(
    capsys, monkeypatch, every_command, command, example
):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run_command([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert example not in shown
    assert example in re.sub(r" \\\n +", " ", shown)  # as a shell joins it
    assert max(map(len, shown.splitlines())) <= 80


def test_the_help_of_every_command_has_an_example(every_command):
    def commands(path, command):
        yield path, command
        for name, part in getattr(command, "commands", {}).items():
            yield from commands(f"{path} {name}", part)

    found = dict(commands("arbench", typer.main.get_command(cli.build_app())))
    assert len(found) > 20
    bare = [path for path, command in found.items() if " ".join(path.split()[:2]) not in (command.epilog or "")]
    assert bare == ["arbench"]


@pytest.mark.parametrize("group", ["tokenizers", "weights"])
def test_list_is_a_command_and_what_the_group_does_alone(capsys, every_command, group):
    assert cli.run_command([group]) == 0
    alone = capsys.readouterr().out
    assert cli.run_command([group, "list"]) == 0
    assert capsys.readouterr().out == alone != ""


@pytest.mark.parametrize("command", ["run", "sample", "bench"])
def test_help_shows_the_closed_choices(capsys, every_command, command):
    assert cli.run_command([command, "--help"]) == 0
    text = capsys.readouterr().out
    shown = {words[0]: words[1] for words in map(str.split, text.splitlines()) if len(words) > 1}
    methods, samplers = shown["--method"].split("|"), shown["--head-sampler"].split("|")
    assert set(methods) == set(method_names())
    assert tuple(samplers) == tuple(SOLVERS)


def test_random_weights_without_the_reference_are_told_of_no_evaluate(capsys, tmp_path, nothing_is_drawn):
    missing = ("--reference", "adm-train-256", "--out", tmp_path / "runs")
    assert "--no-evaluate" in told(capsys, "run", "--method", "mar", *RANDOM, *missing)
    assert "--no-evaluate" not in told(capsys, "run", "--method", "mar", *missing)


def test_a_truncated_weights_file_is_one_line(capsys, tmp_path):
    file = tmp_path / "cut.safetensors"
    save_file({"weight": torch.zeros(1000)}, file)
    os.truncate(file, 500)
    assert "cut.safetensors" in told(capsys, "run", "--method", "mar", "--weights", file)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission_is_one_line(capsys, tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in told(capsys, "run", *RANDOM, "--out", tmp_path / "runs")


def test_ctrl_c_says_how_to_go_on_and_leaves_nothing_half_written(capsys, tmp_path, monkeypatch):
    draw, drawn = loop.draw_tokens, []

    def interrupted(*positional, **named):
        drawn.append(1)
        if len(drawn) == 3:  # the warm-up draw, one batch, then the key
            raise KeyboardInterrupt
        return draw(*positional, **named)

    arguments = ["run", "--method", "par", *RANDOM, "--num-images", "80", "--batch-size", "64", "--no-evaluate"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "draw_tokens", interrupted)
        assert cli.run_command(arguments) == 130
    message = capsys.readouterr().err
    assert re.search(r"64 of 80 images are safe in runs/par-digits-\w+; give the same command with --resume", message)
    (run,) = (tmp_path / "runs").iterdir()
    assert [file.name for file in sorted((run / "shards").iterdir())] == ["000000.npy", "000000.npy.sha256"]
    assert "add --resume" in told(capsys, *arguments)
    assert cli.run_command([*arguments, "--resume"]) == 0
    assert np.load(run / "shards" / "000001.npy").shape == (16, 32, 32, 3)


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="num_images"):
        cli.run_command(["--debug", "run", "--num-images", "0"])
