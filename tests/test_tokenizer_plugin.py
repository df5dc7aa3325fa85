"""A stranger's package, really installed, comes in by the same door; a broken one is named and harms nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from installed_plugins import install_plugin

from arbench.cli import run_command

RANDOM_MAR = ("run", "--method", "mar", "--weights", "random", "--num-iter", "2", "--head-steps", "2")
SHORT_RUN = (*RANDOM_MAR, "--device", "cpu", "--tokenizer")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return install_plugin("quadrants", tmp_path_factory.mktemp("plugin"))


@pytest.fixture
def arbench(installed, monkeypatch, capsys):
    """Run one command line in this process with the plug-in installed: exit code, standard output, standard error."""
    monkeypatch.syspath_prepend(str(installed))
    for module in ("quadrants", "quadrants_broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(list(arguments))
        return code, *capsys.readouterr()

    return run


def test_list_tells_what_the_packages_say_and_imports_nothing(arbench):
    code, out, _ = arbench("tokenizers")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "arbench-quadrants 0.1.0" in rows["quadrants"]
    assert "arbench tokenizers check quadrants-broken" in rows["quadrants-broken"]
    assert "quadrants" not in sys.modules
    assert {"digits-kl", "digits-vq", "kl16", "vq16", "llamagen-vq", "diffusers:ID"} <= set(rows)


@pytest.mark.parametrize("name", ["quadrants", "quadrants:Quadrants"])
def test_check_passes(arbench, name):
    code, out, err = arbench("tokenizers", "check", name)
    assert code == 0, err
    assert "failed" not in out
    assert "batch invariance  passed" in out


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quadrants-broken", "'quadrants-broken' cannot be imported: ModuleNotFoundError"),
        ("quadrants-memberless", "'quadrants-memberless' lacks scale, decode"),
        ("quadrants-failing", "'quadrants-failing' cannot be built: RuntimeError: no licence file"),
        ("quadrants-misshapen", "'quadrants-misshapen' failed 5 of 13 checks"),
        ("quadrants:Missing", "'quadrants:Missing' cannot be imported: AttributeError"),
    ],
)
def test_a_broken_plugin_is_one_line(arbench, name, told):
    code, _, err = arbench("tokenizers", "check", name)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("arbench: error: ")
    assert told in err


def test_a_run_names_a_misshapen_one(arbench, tmp_path):
    code, _, err = arbench(*SHORT_RUN, "quadrants-misshapen", "--num-images", "8", "--out", str(tmp_path))
    assert code == 2
    assert "tokenizer 'quadrants-misshapen': decode returned (8, 3, 16, 16); expected" in err


def test_a_run_of_its_own_uses_it(installed, tmp_path):
    """As a user would: a new process that knows nothing but what is installed."""
    command = [sys.executable, "-m", "arbench", *SHORT_RUN, "quadrants", "--num-images", "20", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    record = json.loads(next(tmp_path.rglob("record.json")).read_text())
    assert (record["tokenizer"], record["num_images"]) == ("quadrants", 20)
    assert record["versions"]["arbench-quadrants"] == "0.1.0"
