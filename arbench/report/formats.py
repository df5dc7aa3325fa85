"""Tables as text: Markdown, CSV, LaTeX (booktabs) and HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from arbench.machine.plain_text import printable
from arbench.registry import unknown_name
from arbench.report.data import data_columns
from arbench.report.page import page

if TYPE_CHECKING:
    from arbench.report.tables import Cell, Table

# What LaTeX reads as commands, and the signs of our heads that plain fonts lack.
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "–": "--",
    "<": r"$<$",
    ">": r"$>$",
    "→": r"$\rightarrow$",
    "[": "{[}",  # behind a line's end it would be taken for a distance, and a star for a part of it
    "*": "{*}",
}

LATEX_PACKAGES = r"% \usepackage{booktabs,graphicx}"
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # never wider than its own width
FORMULA = ("=", "+", "-", "@")  # how a formula begins in a spreadsheet
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
LONG_TEXT = 40  # characters; a longer HTML cell may break into lines


def render(tables: Table | Sequence[Table], format: str = "md") -> str:
    """One or several tables as text ending in a newline.

    Raises ValueError where the format is none of md, csv, latex, html.
    """
    if format not in FORMATS:
        raise unknown_name("table format", format, FORMATS)
    given = list(tables) if isinstance(tables, Sequence) else [tables]
    return FORMATS[format]([_shown(table) for table in given])


def _shown(table: Table) -> Table:
    """`table` without the control characters and line ends that texts of foreign records may hold."""
    return replace(
        table,
        title=_line(table.title),
        heads=tuple(_line(head) for head in table.heads),
        rows=tuple(tuple(replace(cell, text=_line(cell.text)) for cell in row) for row in table.rows),
        footnotes=tuple((_line(mark), _line(text)) for mark, text in table.footnotes),
    )


def _line(text: str) -> str:
    return printable(re.sub(r"[\r\n\t]+", " ", text))


def to_markdown(tables: Sequence[Table]) -> str:
    """GitHub tables, columns padded so that they read as plain text too; footnotes as a list below each."""
    return "\n".join(_markdown(table) for table in tables)


def to_csv(tables: Sequence[Table]) -> str:
    """One head of column names, then all rows as machines read them (see `arbench.report.data`); no other lines."""
    rows = [row for table in tables for row in table.data]
    out = io.StringIO()
    columns = data_columns(rows)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_csv_cell(column) for column in columns])
    writer.writerows([_csv_cell(row.get(column, "")) for column in columns] for row in rows)
    return out.getvalue()


def _csv_cell(value: object) -> object:
    """Text that a spreadsheet would run as a formula gets a quote before it; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = _line(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def to_latex(tables: Sequence[Table]) -> str:
    """A `table` environment each, with caption and label, made narrower where it is wider than the page."""
    return "\n".join([LATEX_PACKAGES, *(_latex_table(table) for table in tables)])


def to_html(tables: Sequence[Table]) -> str:
    """A whole page with nothing to fetch."""
    title = "; ".join(table.title for table in tables if table.title) or "arbench"
    return page(title, "\n".join(f'<div class="wide">{table_element(table)}</div>' for table in tables))


def _markdown(table: Table) -> str:
    grid = [[_escaped(head) for head in table.heads]]
    grid += [[_markdown_cell(cell) for cell in row] for row in table.rows]
    widths = [max(3, *(len(row[place]) for row in grid)) for place in range(len(table.heads))]
    numeric = _numeric_columns(table)
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    lines = [_markdown_line(grid[0], widths, numeric), f"| {' | '.join(rule)} |"]
    lines += [_markdown_line(row, widths, numeric) for row in grid[1:]]
    if table.title:
        lines = [f"**{_escaped(table.title)}**", "", *lines]
    if table.footnotes:
        notes = ((mark, _escaped(text)) for mark, text in table.footnotes)
        lines += ["", *(f"- {f'<sup>{mark}</sup> ' if mark else ''}{text}" for mark, text in notes)]
    return "\n".join(lines) + "\n"


def _latex_table(table: Table) -> str:
    """Footnotes stand under the rule, flush left."""
    spec = "".join("r" if right else "l" for right in _numeric_columns(table))
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_latex(_caption(table))}}}",
        rf"\label{{tab:{_label(table)}}}",
        FIT,
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
    ]
    lines += [" & ".join(_latex(head) for head in table.heads) + r" \\", r"\midrule"]
    lines += [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if table.footnotes:
        notes = [rf"{f'$^{{{mark}}}$ ' if mark else ''}{_latex(text)}\par" for mark, text in table.footnotes]
        lines += [r"\begin{flushleft}\footnotesize", *notes, r"\end{flushleft}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _caption(table: Table) -> str:
    """The title, or what is measured."""
    return table.title or f"Measured: {', '.join(table.heads)}"


def _label(table: Table) -> str:
    """`mar-table4` for the title `mar/table4: Systems …`."""
    return re.sub(r"[^a-z0-9]+", "-", table.title.partition(":")[0].lower()).strip("-") or "results"


def table_element(table: Table) -> str:
    """A bare `<table>` with its footnotes, to stand in a page."""
    numeric = _numeric_columns(table)

    def row(start: str, end: str, texts: list[str], values: Sequence[float | None]) -> str:
        cells = "".join(
            f"<{start}{_html_class(text, right)}{_html_value(value)}>{text}</{end}>"
            for text, right, value in zip(texts, numeric, values, strict=True)
        )
        return f"<tr>{cells}</tr>"

    lines = ["<table>"]
    if table.title:
        lines.append(f"<caption>{html.escape(table.title)}</caption>")
    lines += [
        "<thead>",
        row('th scope="col"', "th", [html.escape(head) for head in table.heads], [None] * len(table.heads)),
        "</thead>",
        "<tbody>",
    ]
    lines += [
        row("td", "td", [_html_cell(cell) for cell in cells], [cell.value for cell in cells]) for cells in table.rows
    ]
    lines += ["</tbody>", "</table>"]
    if table.footnotes:
        notes = (
            f"<li>{f'<sup>{mark}</sup> ' if mark else ''}{html.escape(text)}</li>" for mark, text in table.footnotes
        )
        lines += ['<ul class="footnotes">', *notes, "</ul>"]
    return "\n".join(lines) + "\n"


def _numeric_columns(table: Table) -> list[bool]:
    """Columns that hold numbers stand flush right."""
    return [any(row[place].value is not None for row in table.rows) for place in range(len(table.heads))]


def _markdown_line(texts: list[str], widths: list[int], numeric: list[bool]) -> str:
    cells = (
        text.rjust(width) if right else text.ljust(width)
        for text, width, right in zip(texts, widths, numeric, strict=True)
    )
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = _escaped(cell.text)
    text = f"**{text}**" if cell.best else text
    text = f"{text}<sup>{cell.mark}</sup>" if cell.mark else text
    return f"{text} {cell.span}" if cell.span else text


def _escaped(text: str) -> str:
    """`text` as Markdown shows it literally: no column ends in it, no HTML begins."""
    return text.replace("|", "\\|").replace("<", "\\<")


def _latex(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in text)


def _latex_cell(cell: Cell) -> str:
    text = _latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    text = f"{text}$^{{{cell.mark}}}$" if cell.mark else text
    return rf"{text} {{\scriptsize {_latex(cell.span)}}}" if cell.span else text


def _html_class(text: str, number: bool) -> str:
    """What a page's style sheet needs to know of a cell."""
    name = "number" if number else "text" if len(text) > LONG_TEXT else ""
    return f' class="{name}"' if name else ""


def _html_value(value: float | None) -> str:
    """The number that a page sorts a cell by."""
    return "" if value is None else f' data-value="{value!r}"'


def _html_cell(cell: Cell) -> str:
    text = html.escape(cell.text)
    text = f"<strong>{text}</strong>" if cell.best else text
    text = f"{text}<sup>{cell.mark}</sup>" if cell.mark else text
    return f"{text}<br/><small>{html.escape(cell.span)}</small>" if cell.span else text


FORMATS = {"md": to_markdown, "csv": to_csv, "latex": to_latex, "html": to_html}
