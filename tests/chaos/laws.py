"""The one law of broken input: a result, or one line that says what is wrong; nothing half-written."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from arbench import cli
from arbench.machine.files import PARTIAL

MINUTES = float(os.environ.get("ARBENCH_CHAOS_MINUTES", "12"))  # of the long part, about
CODES = (0, 2, 130)
CASES: dict[str, list[int]] = {}  # by kind: how many were tried, and how many broke the law


@contextlib.contextmanager
def counted(kind: str) -> Iterator[None]:
    """One case of this kind; whatever it raises is its failure."""
    counts = CASES.setdefault(kind, [0, 0])
    counts[0] += 1
    try:
        yield
    except BaseException:
        counts[1] += 1
        raise


def keeps_the_law(read: Callable[[], Any], folder: Path) -> None:
    """`read` returns, or raises what the command line turns into one line and exit code 2."""
    with counted("broken input"):
        with contextlib.suppress(*cli.USER_ERRORS):
            read()
        assert_nothing_partial(folder)


def command_keeps_the_law(arguments: list[str], folder: Path) -> int:
    """Run one command line; returns its exit code."""
    with counted("command lines and records"):
        return _command_keeps_the_law(arguments, folder)


def _command_keeps_the_law(arguments: list[str], folder: Path) -> int:
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
