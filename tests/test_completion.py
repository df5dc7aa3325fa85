"""What a shell that asks is told: commands and options that may follow."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def asked(words: str, **shell: str) -> str:
    environment = {**os.environ, "_ARBENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, **shell}
    done = subprocess.run(
        [sys.executable, "-m", "arbench"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [("arbench sam", "1", ["sample"]), ("arbench sample --per", "2", ["--per-class"])],
)
def test_bash_completes_commands_and_options(words, place, expected):
    assert asked(words, COMP_CWORD=place).split() == expected


def test_zsh_too():
    told = asked("", _ARBENCH_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="arbench rep")
    assert "report" in told
    assert "sample" not in told
