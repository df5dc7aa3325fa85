"""Counts of the cases that were tried, told at the end."""

from __future__ import annotations

import pytest
from laws import CASES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for kind, (cases, failures) in sorted(CASES.items()):
        terminalreporter.write_line(f"chaos: {kind}: {cases} cases, {failures} failures")
    total = [sum(counts[place] for counts in CASES.values()) for place in (0, 1)]
    terminalreporter.write_line(f"chaos: all kinds: {total[0]} cases, {total[1]} failures")
