"""How a table is laid out on a terminal that is too narrow for it: turned round, or column after column in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from arbench.report.tables import Cell, Table

GAP = 3  # characters that a column takes beside its text
KEPT = 2  # one part of so many of the screen, at most, goes to the columns that name a row


@dataclass(frozen=True, kw_only=True)
class Part:
    """Columns of a table, by their places, that stand side by side, and the characters each has."""

    places: tuple[int, ...]
    widths: tuple[int, ...]


def turned(table: Table) -> Table:
    """The same cells with what were heads in the first column: a row becomes a column without a head of its own."""
    columns = zip(table.heads, *table.rows, strict=True)
    rows = tuple((Cell(text=head), *cells) for head, *cells in columns)
    return Table(heads=("",) * (1 + len(table.rows)), rows=rows, title=table.title, footnotes=table.footnotes)


def whole_width(table: Table) -> int:
    """Characters that a row of `table` takes with each cell in one line, its interval below it."""
    return sum(max(map(len, lines)) + GAP for lines in _columns(table))


def parts(table: Table, screen: int) -> list[Part]:
    """The columns in parts, none wider than `screen` characters, no word of a number broken where it fits.

    Each part begins with the columns that name the rows.
    """
    lines = _columns(table)
    least = [_least_width(table, place) for place in range(len(lines))]
    names = _naming(table)
    share = max(screen // KEPT // len(names) - GAP, 1)
    kept = [min(least[place], share) for place in names]
    room = screen - sum(kept) - GAP * len(kept)
    found: list[list[int]] = [[]]
    for place in range(len(lines)):
        if place in names:
            continue
        least[place] = max(1, min(least[place], room - GAP))
        if found[-1] and sum(least[other] + GAP for other in (*found[-1], place)) > room:
            found.append([])
        found[-1].append(place)
    widest = [max(map(len, column)) for column in lines]
    return [
        Part(
            places=(*names, *places),
            widths=_spread([*kept, *(least[p] for p in places)], [widest[p] for p in (*names, *places)], screen),
        )
        for places in found
    ]


def _spread(least: Sequence[int], widest: Sequence[int], screen: int) -> tuple[int, ...]:
    """What is left of the screen, given to the columns from the left as far as they can use it."""
    left = screen - sum(least) - GAP * len(least)
    widths = []
    for low, high in zip(least, widest, strict=True):
        more = max(0, min(left, high - low))
        left -= more
        widths.append(low + more)
    return tuple(widths)


def _least_width(table: Table, place: int) -> int:
    """Characters below which a number, or a word of a head, text or interval, would be broken."""
    cells = [row[place] for row in table.rows]
    words = [word for line in (table.heads[place], *(cell.span for cell in cells)) for word in line.split()]
    for cell in cells:
        words += cell_text(cell).split() if cell.value is None else [cell_text(cell)]
    return max(map(len, words), default=1)


def _columns(table: Table) -> list[list[str]]:
    """Every line of each column: its head, the cells with their marks, the intervals."""
    return [
        [head, *(line for row in table.rows for line in (cell_text(row[place]), row[place].span))]
        for place, head in enumerate(table.heads)
    ]


def cell_text(cell: Cell) -> str:
    """What stands in a cell, with the letter of its footnote."""
    return f"{cell.text} {cell.mark}" if cell.mark else cell.text


def _naming(table: Table) -> list[int]:
    """Places of the first columns that tell all rows apart, as few as will do; the first where none do."""
    for count in range(1, len(table.heads)):
        if any(row[count - 1].value is not None for row in table.rows):
            break
        labels = sorted(tuple(cell.text for cell in row[:count]) for row in table.rows)
        if all(one != other for one, other in pairwise(labels)):
            return list(range(count))
    return [0]
