"""Records to tables: which columns, which cells are best, which must not be compared and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from arbench.generators.methods import settings_with
from arbench.report.data import DataRow, measured_data
from arbench.report.estimates import IMAGES, SEEDS, Estimate, estimate
from arbench.report.formats import render
from arbench.report.naming import row_names
from arbench.report.protocols import SCORE, TIME, Marks, counted, record_marks, timing_text
from arbench.report.record import Record
from arbench.report.values import (
    FULL_COUNT,
    OF_TRAINING,
    Quantity,
    SeedGroup,
    fid_name,
    group_seeds,
    quantity,
    score_names,
    split_score,
    timing_key,
    varying,
    varying_within_methods,
)
from arbench.settings import NUM_ITER

NOTHING = "–"  # in a cell
SPANS = {
    SEEDS: "[low, high]: 95 % interval of the mean over seeds (Student's t, three or more)",
    IMAGES: "[low, high]: 95 % interval over the drawing of images (bootstrap)",
}
BOTH_SPANS = (
    "[low, high]: 95 % interval of the mean over seeds (Student's t) where there are three or more, "
    "else over the drawing of images (bootstrap)"
)
BOLD = "bold: the best, and what is not told apart from it at 95 % (seed by seed where both have three in common)"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One printed value; `value` is its number as printed where it has one, `mark` the letter of its footnote."""

    text: str
    value: float | None = None
    mark: str = ""
    best: bool = False
    estimate: Estimate | None = None  # what was measured, where it was
    span: str = ""  # its 95 % interval as it is printed


@dataclass(frozen=True, kw_only=True)
class Table:
    """Heads and rows of cells, ready to be written in any format."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    footnotes: tuple[tuple[str, str], ...] = ()  # (mark, text); an empty mark is a general remark
    data: tuple[DataRow, ...] = ()  # the rows for machines


def render_table(records: Sequence[Record], format: str = "md", title: str = "", *, intervals: bool = True) -> str:
    """The table of `records`, one row for those that differ in the seed alone, as md, csv, latex or html.

    Raises ValueError where there are no records or the format is unknown.
    """
    return render(records_table(records, title, intervals=intervals), format)


def records_table(records: Sequence[Record], title: str = "", *, intervals: bool = True) -> Table:
    """The `Table` of `records`: the settings that differ, the scores that were measured, time and memory.

    With `intervals` numbers carry their 95 % intervals.
    """
    if not records:
        raise ValueError("no records to tabulate; expected at least one run folder or record.json")
    groups = in_order(group_seeds(records))
    columns = [quantity(name) for name in _columns(groups)]
    marks = record_marks((group.first for group in groups), [column.name for column in columns])
    names, texts = row_names(groups)
    cells = [[measured_cell(group, column, marks) for column in columns] for group in groups]
    rows = [
        (*(Cell(text=text) for text in label), *row)
        for label, row in zip(texts, mark_best(cells, columns), strict=True)
    ]
    heads = (*names, *(_head(column, groups) for column in columns))
    named = [(" ".join(label), group) for label, group in zip(texts, groups, strict=True)]
    notes = (*footnotes(named, marks), *estimate_notes(rows))
    data = tuple(measured_data(group) for group in groups)
    table = Table(heads=heads, rows=tuple(rows), title=title, footnotes=notes, data=data)
    return table if intervals else without_intervals(table)


def mark_best(rows: Sequence[Sequence[Cell]], columns: Sequence[Quantity]) -> list[list[Cell]]:
    """The same cells with the best of each column in bold, and with it what is not told apart from it.

    Only cells that share a protocol are compared; where all are printed alike, none is better.
    """
    compared: dict[tuple[int, str], list[Cell]] = {}
    for row in rows:
        for place, cell in enumerate(row):
            if cell.value is not None and columns[place].better:
                compared.setdefault((place, cell.mark), []).append(cell)
    best = {
        key: (min if columns[key[0]].better == "lower" else max)(found, key=_number)
        for key, found in compared.items()
        if len({cell.value for cell in found}) > 1
    }

    def judged(place: int, cell: Cell) -> Cell:
        first = best.get((place, cell.mark))
        return cell if first is None or cell.value is None else replace(cell, best=not _is_apart(cell, first))

    return [[judged(place, cell) for place, cell in enumerate(row)] for row in rows]


def _number(cell: Cell) -> float:
    assert cell.value is not None
    return cell.value


def _is_apart(cell: Cell, other: Cell) -> bool:
    """Whether two printed numbers differ, and by more than chance gives where their intervals are known."""
    if cell.value == other.value:
        return False
    if cell.estimate is None or other.estimate is None:
        return True
    return cell.estimate.is_apart(other.estimate)


def without_intervals(table: Table) -> Table:
    """The same table with plain numbers; what is bold stays so."""
    rows = tuple(tuple(replace(cell, span="") for cell in row) for row in table.rows)
    spans = (*SPANS.values(), BOTH_SPANS)
    return replace(table, rows=rows, footnotes=tuple(note for note in table.footnotes if note[1] not in spans))


def estimate_notes(rows: Sequence[Sequence[Cell]]) -> list[tuple[str, str]]:
    """What the intervals of `rows` are over, and what bold means where they decide it."""
    cells = [cell for row in rows for cell in row if cell.span and cell.estimate is not None]
    over = {cell.estimate.over for cell in cells if cell.estimate is not None}
    told = [BOTH_SPANS] if over >= {SEEDS, IMAGES} else [SPANS[kind] for kind in (SEEDS, IMAGES) if kind in over]
    return [("", text) for text in (*told, *([BOLD] if any(cell.best for cell in cells) else []))]


def in_order(groups: Sequence[SeedGroup]) -> list[SeedGroup]:
    """Models as they come, each by its number of steps, then by its settings."""
    models = list(dict.fromkeys((group.first["method"], group.first["model"]) for group in groups))
    place = {model: index for index, model in enumerate(models)}

    known = settings_with(name for group in groups for name in group.first["sampling"])

    def key(group: SeedGroup) -> tuple:
        settings = (quantity(name).rank(group.mean(name)) for name in known)
        return place[group.first["method"], group.first["model"]], group.mean("steps") or 0, *settings

    return sorted(groups, key=key)


def _columns(groups: Sequence[SeedGroup]) -> list[str]:
    """Size, steps and the settings on which rows differ, then every result that some row has."""

    def has(name: str) -> bool:
        return any(group.mean(name) is not None for group in groups)

    # Guidance is told wherever it differs; other settings only where one method was run with several.
    known = settings_with(name for group in groups for name in group.first["sampling"])
    told = {*varying_within_methods(groups, known), *varying(groups, ["cfg_scale"])} - {NUM_ITER.name}
    settings = [name for name in known if name in told]
    sizes = ["batch_size"] if len(varying(groups, ["batch_size"])) else []
    results = (*score_names(groups), "seconds_per_image", "peak_memory_gib")
    moments = varying(groups, OF_TRAINING[:1])
    return [name for name in ("params_m", "steps", *moments, *settings, *sizes, *results) if has(name)]


def measured_cell(group: SeedGroup, column: Quantity, marks: Marks) -> Cell:
    """The mean of a quantity with its interval; its number is the printed one, so that what reads alike is alike."""
    value = group.mean(column.name)
    if value is None:
        return Cell(text=NOTHING)
    if not isinstance(value, (int, float)):
        return Cell(text=str(value))
    text = column.text(value)
    printed = float(value) if value in column.words else float(text)
    found = estimate(group, column.name) if column.better else None
    span = "" if found is None else column.span(value, found.interval)
    if found is not None and column.within_noise(found.interval):
        text += f" (≈ {column.null:g})"
    return Cell(text=text, value=printed, mark=marks.of(column.name, group.first), estimate=found, span=span)


def _head(column: Quantity, groups: Sequence[SeedGroup]) -> str:
    """A FID column over one number of images is named by it."""
    counts = {group.first["num_images"] for group in groups if group.mean(column.name) is not None}
    if split_score(column.name)[0] != "fid" or len(counts) != 1:
        return column.head
    return column.head.replace("FID", fid_name(counts.pop()))


def footnotes(named: Sequence[tuple[str, SeedGroup]], marks: Marks) -> tuple[tuple[str, str], ...]:
    """How scores were made, over how many seeds and from how few images, and what times were measured on.

    `named` holds what each row is called and what stands in it.
    """
    remarks, groups = [], [group for _, group in named]
    seeds = {group.num_seeds for group in groups}
    if seeds and max(seeds) > 1:
        told = str(max(seeds)) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
        remarks.append(("", f"mean over {told} seeds"))
    counts = {group.first["num_images"] for group in groups if group.first["metrics"]} - {None}
    if counts and max(counts) < FULL_COUNT:
        remarks.append(("", f"scores from fewer than {FULL_COUNT} images are not comparable with published ones"))
    return (*marks.footnotes(SCORE), *remarks, *marks.footnotes(TIME), *_threads(named), *_partly_timed(named))


def _threads(named: Sequence[tuple[str, SeedGroup]]) -> list[tuple[str, str]]:
    """Which rows were timed with how many threads, where those of one machine differ."""
    rows: dict[str, dict[int, list[str]]] = {}
    for name, group in named:
        threads = group.first["hardware"].get("threads")
        if threads and group.first["hardware"].get("device") == "cpu" and group.mean("seconds_per_image") is not None:
            rows.setdefault(timing_key(group.first), {}).setdefault(threads, []).append(name)
    return [
        ("", f"time with {counted([threads], 'thread')}: {', '.join(of)}")
        for told in rows.values()
        if len(told) > 1
        for threads, of in sorted(told.items())
    ]


def _partly_timed(named: Sequence[tuple[str, SeedGroup]]) -> list[tuple[str, str]]:
    """Rows whose times are of some seeds only: the others had another machine, batch or number of threads."""
    rows: dict[str, list[str]] = {}
    for name, group in named:
        if len(group.timed) < group.num_seeds and group.mean("seconds_per_image") is not None:
            others = [record for record in group.records if record not in group.timed]
            told = dict.fromkeys(timing_text(record).removeprefix("time on ") for record in others)
            text = f"time of {len(group.timed)} of {group.num_seeds} seeds; not pooled with it: {'; '.join(told)}"
            rows.setdefault(text, []).append(name)
    return [("", text if len(of) == len(named) else f"{text} ({', '.join(of)})") for text, of in rows.items()]
