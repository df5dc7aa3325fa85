"""Texts of other people's records: shown as they are, and nothing more than shown."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from arbench.report.formats import render
from arbench.report.plots import plot_records
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


@pytest.mark.parametrize("text", ["$$", "a$\\frac{$b", "$x^$", "", " ", "\u6f22\u5b57", "a\nb\x07\x1b[2J", "_x", "\\$"])
@pytest.mark.parametrize("field", ["method", "model"])
def test_a_plot_shows_a_name_and_no_formula(text: str, field: str, tmp_path: Path) -> None:
    records = [
        new_record(
            **{"method": "mar", "model": model, "seed": 0, field: name}, metrics=METRICS, metric_protocol=OF, speed=TOOK
        )
        for model, name in (("a", text), ("b", "mar-b"))
    ]
    for suffix in ("svg", "pdf"):
        plot_records(records, tmp_path / f"curve.{suffix}", title=text)
    if text == "$x^$" and field == "model":
        assert "$x^$" in (tmp_path / "curve.svg").read_text()  # SVG tells beside the outlines what they spell


METRICS, OF, TOOK = {"fid": 3.0}, {"extractor": "a", "reference": "b"}, {"seconds_per_image": 0.1}
