"""A table as text: Markdown, CSV, LaTeX (booktabs) and HTML."""

from __future__ import annotations

import csv
import html
import io
from typing import TYPE_CHECKING

from arbench.registry import unknown_name

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
    "×": r"$\times$",
    "–": "--",
    "<": r"$<$",
    ">": r"$>$",
    "→": r"$\rightarrow$",
}

LONG_TEXT = 40  # characters; a longer HTML cell may break into lines


def render(table: Table, format: str = "md") -> str:
    """`table` as text ending in a newline; ValueError where the format is none of md, csv, latex, html."""
    if format not in FORMATS:
        raise unknown_name("table format", format, FORMATS)
    return FORMATS[format](table)


def to_markdown(table: Table) -> str:
    """A GitHub table, columns padded so that it reads as plain text too; footnotes as a list below."""
    grid = [[_pipe(head) for head in table.heads]]
    grid += [[_markdown_cell(cell) for cell in row] for row in table.rows]
    widths = [max(3, *(len(row[place]) for row in grid)) for place in range(len(table.heads))]
    numeric = _numeric_columns(table)
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    lines = [_markdown_line(grid[0], widths, numeric), f"| {' | '.join(rule)} |"]
    lines += [_markdown_line(row, widths, numeric) for row in grid[1:]]
    if table.title:
        lines = [f"**{table.title}**", "", *lines]
    if table.footnotes:
        lines += ["", *(f"- {f'<sup>{mark}</sup> ' if mark else ''}{text}" for mark, text in table.footnotes)]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """Comma-separated values: heads, then rows; marks in a last column where the table has any."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    marked = any(cell.mark for row in table.rows for cell in row)
    writer.writerow([*table.heads, *(["mark"] if marked else [])])
    for row in table.rows:
        mark = "".join(sorted({cell.mark for cell in row}))
        writer.writerow([*(cell.text for cell in row), *([mark] if marked else [])])
    for mark, text in table.footnotes:
        out.write(f"# {f'{mark}: ' if mark else ''}{text}\n")
    return out.getvalue()


def to_latex(table: Table) -> str:
    """A `table` environment for the booktabs package; footnotes under the rule."""
    spec = "".join("r" if right else "l" for right in _numeric_columns(table))
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
    ]
    lines += [" & ".join(_latex(head) for head in table.heads) + r" \\", r"\midrule"]
    lines += [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    for mark, text in table.footnotes:
        lines.append(rf"\par\footnotesize {f'$^{{{mark}}}$ ' if mark else ''}{_latex(text)}")
    if table.title:
        lines.append(rf"\caption{{{_latex(table.title)}}}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def to_html(table: Table) -> str:
    """A bare `<table>` with its footnotes, to stand in a page."""
    numeric = _numeric_columns(table)

    def row(start: str, end: str, texts: list[str]) -> str:
        cells = "".join(
            f"<{start}{_html_class(text, right)}>{text}</{end}>" for text, right in zip(texts, numeric, strict=True)
        )
        return f"<tr>{cells}</tr>"

    lines = ["<table>"]
    if table.title:
        lines.append(f"<caption>{html.escape(table.title)}</caption>")
    lines += [
        "<thead>",
        row('th scope="col"', "th", [html.escape(head) for head in table.heads]),
        "</thead>",
        "<tbody>",
    ]
    lines += [row("td", "td", [_html_cell(cell) for cell in cells]) for cells in table.rows]
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
    text = _pipe(cell.text)
    text = f"**{text}**" if cell.best else text
    return f"{text}<sup>{cell.mark}</sup>" if cell.mark else text


def _pipe(text: str) -> str:
    return text.replace("|", "\\|")


def _latex(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in text)


def _latex_cell(cell: Cell) -> str:
    text = _latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    return f"{text}$^{{{cell.mark}}}$" if cell.mark else text


def _html_class(text: str, number: bool) -> str:
    """What a page's style sheet needs to know of a cell."""
    name = "number" if number else "text" if len(text) > LONG_TEXT else ""
    return f' class="{name}"' if name else ""


def _html_cell(cell: Cell) -> str:
    text = html.escape(cell.text)
    text = f"<strong>{text}</strong>" if cell.best else text
    return f"{text}<sup>{cell.mark}</sup>" if cell.mark else text


FORMATS = {"md": to_markdown, "csv": to_csv, "latex": to_latex, "html": to_html}
