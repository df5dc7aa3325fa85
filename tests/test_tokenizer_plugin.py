"""A stranger's package, really installed, comes in by the same door; a broken one is named and harms nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugins" / "quadrants"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The plug-in as pip installs it, in a folder that only these tests see."""
    source = tmp_path_factory.mktemp("source") / "quadrants"
    shutil.copytree(PLUGIN, source)
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True, text=True)
    return target


@pytest.fixture
def arbench(installed):
    """Run one command line with the plug-in installed."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "arbench", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    return run


def test_list_names_the_broken_and_keeps_the_rest(arbench):
    result = arbench("tokenizers")
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert "continuous" in rows["quadrants"]
    assert "arbench-quadrants" in rows["quadrants"]
    assert "No module named 'a_package_that_nobody_has'" in rows["quadrants-broken"]
    assert {"digits-kl", "digits-vq", "kl16", "vq16", "llamagen-vq"} <= set(rows)


def test_check_passes(arbench):
    result = arbench("tokenizers", "check", "quadrants")
    assert result.returncode == 0, result.stderr
    assert "failed" not in result.stdout
    assert "batch invariance  passed" in result.stdout


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
    result = arbench("tokenizers", "check", name)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("arbench: error: ")
    assert told in result.stderr


@pytest.mark.parametrize("name", ["quadrants", "quadrants:Quadrants"])
def test_a_run_uses_it(arbench, tmp_path, name):
    options = ["--tokenizer", name, "--num-images", "20", "--num-iter", "2", "--head-steps", "2", "--device", "cpu"]
    result = arbench("run", "--method", "mar", *options, "--out", str(tmp_path))
    assert result.returncode == 0, result.stderr
    record = json.loads(next(tmp_path.rglob("record.json")).read_text())
    assert record["tokenizer"] == name
    assert record["num_images"] == 20


def test_a_run_names_a_misshapen_one(arbench, tmp_path):
    options = ["--tokenizer", "quadrants-misshapen", "--num-images", "2", "--num-iter", "2", "--head-steps", "2"]
    result = arbench("run", "--method", "mar", *options, "--device", "cpu", "--out", str(tmp_path))
    assert result.returncode == 2
    assert "tokenizer 'quadrants-misshapen': decode returned (2, 3, 16, 16); expected" in result.stderr
