"""Lines beside a bar, and tables on a terminal that is too narrow for Markdown: the same cells, broken into lines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import typer

from arbench.machine.progress import resting_bar

if TYPE_CHECKING:
    from rich.table import Table as Frame
    from rich.text import Text

    from arbench.report.tables import Cell, Table


def tell(line: str) -> None:
    """Print a line, also while a bar is on the terminal."""
    with resting_bar():
        typer.echo(line)


def print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of words, each column as wide as its longest."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def is_wider_than_screen(markdown: str) -> bool:
    """Whether standard output is a terminal and a row of the `markdown` tables does not fit into its width."""
    import shutil

    if not sys.stdout.isatty():
        return False
    rows = (len(line) for line in markdown.splitlines() if line.startswith("|"))
    return max(rows, default=0) > shutil.get_terminal_size().columns


def print_tables(tables: Sequence[Table]) -> None:
    """Print `tables` as Markdown, or on a terminal that is too narrow for it as far as they fit."""
    from arbench.report.formats import render

    text = render(tables)
    if is_wider_than_screen(text):
        show(tables)
    else:
        print(text, end="")


def show(tables: Sequence[Table]) -> None:
    """Print `tables` within the width of the terminal; nothing is cut off.

    A table of few rows is turned round where it then fits, a line for each quantity; another is printed in parts.
    """
    import shutil

    from rich.console import Console
    from rich.text import Text

    from arbench.cli.layout import parts, turned, whole_width

    screen = shutil.get_terminal_size().columns
    console = Console(highlight=False, width=screen)
    for table in tables:
        if table.title:
            console.print(Text(table.title))
        round_ = turned(table)
        if whole_width(round_) <= screen:
            console.print(_framed(round_, range(len(round_.heads))))
            console.print()
        else:
            for part in parts(table, screen):
                console.print(_framed(table, part.places, part.widths))
        for mark, text in table.footnotes:
            console.print(Text(f"- {f'{mark}: ' if mark else ''}{text}"))
        console.print()


def _framed(table: Table, places: Sequence[int], widths: Sequence[int] = ()) -> Frame:
    """Some columns of the table as rich draws them; Text everywhere, so that nothing in a cell is read as markup."""
    from rich import box
    from rich.table import Table as Frame
    from rich.text import Text

    headed = any(table.heads)
    style = box.SIMPLE_HEAD if headed else None
    frame = Frame(box=style, show_header=headed, pad_edge=False, padding=(0, 1))
    for place, width in zip_longest(places, widths):
        numeric = any(row[place].value is not None for row in table.rows)
        head = Text(table.heads[place])
        frame.add_column(head, width=width, justify="right" if numeric else "left", overflow="fold")
    for row in table.rows:
        frame.add_row(*(_text(row[place]) for place in places))
    return frame


def _text(cell: Cell) -> Text:
    from rich.text import Text

    from arbench.cli.layout import cell_text

    text = Text(cell_text(cell), style="bold" if cell.best else "")
    return text.append(f"\n{cell.span}", style="not bold dim") if cell.span else text
