"""Texts of other people's records: shown as they are, and nothing more than shown."""

from __future__ import annotations

import csv

import pytest

from arbench.report.formats import render
from arbench.report.record import new_record
from arbench.report.tables import Cell, Table, records_table

EVIL = "a\x1b[2Jb\n|<script>alert(1)</script>"


def table(*texts: str) -> Table:
    rows = tuple((Cell(text=text), Cell(text="-1.5", value=-1.5)) for text in texts)
    return Table(heads=("run", "change"), rows=rows, title=EVIL, footnotes=(("a", EVIL),))


def test_markdown_shows_marks_and_columns_literally() -> None:
    lines = render(table(EVIL), "md").splitlines()
    assert lines[0] == r"**a�[2Jb \|\<script>alert(1)\</script>**"
    assert lines[4].startswith(r"| a�[2Jb \|\<script>alert(1)\</script> |")
    assert lines[6] == r"- <sup>a</sup> a�[2Jb \|\<script>alert(1)\</script>"
    assert len(lines) == 7


@pytest.mark.parametrize("format", ["md", "csv", "latex", "html"])
def test_no_format_lets_control_characters_through(format: str) -> None:
    text = render([records_table([foreign_record("\x1b[31m=1\r\n\u202e")])], format)
    assert not any(character in text for character in "\x1b\r\u202e")
    assert text.isprintable() or set(text) - {"\n"} == {c for c in text if c.isprintable()}


def foreign_record(text: str) -> dict:
    return new_record(method="ar", model=text, seed=0, num_images=5, sampling={"temperature": -1.5})


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1", "\t=1", "\r\n=1"])
def test_a_spreadsheet_runs_no_cell(text: str) -> None:
    (head, row) = csv.reader(render([records_table([foreign_record(text)])], "csv").splitlines())
    cells = dict(zip(head, row, strict=True))
    assert not any(cell.strip().startswith(("=", "+", "@")) for cell in row)
    assert "-1.5" in cells.values()  # a number stays one
    assert any(cell.startswith("'") and cell.strip("' ") == text.strip() for cell in row)
