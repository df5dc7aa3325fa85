"""Tables on a narrow terminal: turned round or in parts, numbers whole, every row named in every part."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arbench.cli.layout import GAP, parts
from arbench.cli.screen import show
from arbench.report.tables import Cell, Table


def table_of(*names):
    """A table of three numbers a row, the last with its interval."""
    last = Cell(text="0.00504 (≈ 0)", value=0.00504, span="[-0.10429, 0.11438]")
    return Table(
        heads=("method", "FID ↓", "label accuracy (%) ↑", "KID ↓"),
        rows=tuple(
            (Cell(text=name), *[Cell(text=f"{place}.25", value=place + 0.25)] * 2, last)
            for place, name in enumerate(names, start=10)
        ),
    )


@pytest.fixture
def shown(capsys, monkeypatch):
    """The words of each line of a table on a screen of so many characters."""

    def lines(table, screen):
        monkeypatch.setenv("COLUMNS", str(screen))
        show([table])
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= screen
        return [line.split() for line in out.splitlines() if line.strip(" ─")]

    return lines


def test_few_rows_are_turned_round_where_they_then_fit_and_many_stand_in_parts_that_name_them(shown):
    assert shown(table_of("MAR"), 50) == [
        ["method", "MAR"],
        ["FID", "↓", "10.25"],
        ["label", "accuracy", "(%)", "↑", "10.25"],
        ["KID", "↓", "0.00504", "(≈", "0)"],
        ["[-0.10429,", "0.11438]"],
    ]
    names = [f"method-{place}" for place in range(6)]
    lines = shown(table_of(*names), 40)
    assert [line[0] for line in lines if line[0].startswith("method-")] == names * 2  # in both parts
    assert [line[1:] for line in lines if line[0] == "method-3"] == [["13.25", "13.25"], ["0.00504", "(≈", "0)"]]


@pytest.mark.parametrize("screen", [1, 9, 17, 30, 45, 80, 200])
def test_parts_hold_every_column_once_within_the_screen(screen):
    table = table_of("MAR", "AR")
    found = parts(table, screen)
    assert [place for part in found for place in part.places if place] == [1, 2, 3]
    for part in found:
        assert part.places[0] == 0
        assert screen < 10 or sum(part.widths) + GAP * len(part.widths) <= screen


def test_rows_of_one_name_are_named_by_as_many_columns_as_tell_them_apart():
    table = table_of("MAR", "MAR", "AR")
    runs = (Cell(text="run"), Cell(text="again"), Cell(text="run"))
    rows = tuple((row[0], run, *row[1:]) for row, run in zip(table.rows, runs, strict=True))
    assert parts(replace(table, heads=("method", "run", *table.heads[1:]), rows=rows), 40)[1].places[:2] == (0, 1)
    assert all(part.places[0] == 0 and 1 not in part.places[:1] for part in parts(table, 40))
