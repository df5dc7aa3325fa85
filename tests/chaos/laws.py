"""The one law of broken input: a result, or one line that says what is wrong; nothing half-written."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arbench import cli
from arbench.machine.files import PARTIAL

CODES = (0, 2, 130)


def keeps_the_law(read: Callable[[], Any], folder: Path) -> None:
    """`read` returns, or raises what the command line turns into one line and exit code 2."""
    with contextlib.suppress(*cli.USER_ERRORS):
        read()
    assert_nothing_partial(folder)


def command_keeps_the_law(arguments: list[str], folder: Path) -> int:
    """Run one command line; returns its exit code."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = cli.run_command(arguments)
    assert code in CODES, f"exit code {code} of {arguments}"
    if code:
        lines = errors.getvalue().splitlines()
        assert len(lines) <= 1, f"{arguments}: {lines}"
        # Without arguments a command tells its help on standard output instead.
        assert lines or "Usage" in out.getvalue(), f"{arguments} failed without a word"
        assert all(line.isprintable() for line in lines), lines
    assert_nothing_partial(folder)
    return code


def assert_nothing_partial(folder: Path) -> None:
    left = [path for path in folder.rglob("*") if path.name.endswith((PARTIAL, ".part"))]
    assert not left, f"half-written: {left}"
