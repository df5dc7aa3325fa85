"""A paper's table as printed, with what was measured under each row; and its curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from arbench.papers.data import published_data
from arbench.papers.experiment import Experiment, Row
from arbench.papers.published import PublishedValue, published_row
from arbench.report.curves import Curve, Point
from arbench.report.data import DataRow, measured_data
from arbench.report.naming import measured_label, telling_labels
from arbench.report.protocols import SCORE, TIME, Marks
from arbench.report.record import Record
from arbench.report.tables import (
    NOTHING,
    Cell,
    Table,
    estimate_notes,
    footnotes,
    mark_best,
    measured_cell,
    without_intervals,
)
from arbench.report.values import Quantity, SeedGroup, group_seeds, is_score, method_name, quantity


def experiment_table(
    experiment: Experiment, measured: Mapping[str, Sequence[Record]], *, intervals: bool = True
) -> Table:
    """The table of `experiment`: printed values digit for digit, then, by row name, measured ones below theirs.

    With `intervals` measured numbers carry their 95 % intervals.
    """
    columns = [quantity(name) for name in experiment.columns]
    columns += _further_columns(columns, measured)
    marks = _marks(experiment, measured, [column.name for column in columns])
    labels: list[tuple[str, ...]] = []
    cells: list[list[Cell]] = []
    groups: list[tuple[str, SeedGroup]] = []
    data: list[DataRow] = []
    for row in experiment.rows:
        printed = published_row(row.published)
        if printed or not measured.get(row.name):
            labels.append((row.name, row.group, row.label))
            data.append(published_data(experiment, row, printed))
            cells.append([_printed_cell(printed.get(c.name), c, marks, row) for c in columns])
        for group in group_seeds(measured.get(row.name, ())):
            told = measured_label(row.label, group, measured="measured" if printed else "")
            labels.append((row.name, row.group, told))
            groups.append((row.name, group))
            data.append({**measured_data(group), "group": row.group, "label": row.label})
            cells.append([measured_cell(group, c, marks) for c in columns])
    heads, labels = telling_labels(labels)
    rows = [
        (*(Cell(text=text) for text in label), *row)
        for label, row in zip(labels, mark_best(cells, columns), strict=True)
    ]
    table = Table(
        heads=(*heads, *(column.head for column in columns)),
        rows=tuple(rows),
        title=_title(experiment),
        footnotes=(*_footnotes(experiment, marks, groups), *estimate_notes(rows)),
        data=tuple(data),
    )
    return table if intervals else without_intervals(table)


def published_curves(experiment: Experiment, x: str, y: str) -> list[Curve]:
    """The printed points of an experiment, one curve a method, or a group for methods that are only quoted.

    Points are joined where one model was run with several settings; different models are no curve.
    """
    own = {method_name(row.method) for row in experiment.rows if row.method}
    points: dict[str, list[tuple[Point, str]]] = {}
    for row in experiment.rows:
        printed = published_row(row.published)
        across, up = _place(row, printed, x), _place(row, printed, y)
        if across is None or up is None:
            continue
        name = (
            method_name(row.method)
            if row.method
            else f"other {row.group}"
            if row.group in own
            else row.group or "others"
        )
        point = Point(x=across, y=up, label=_step_label(row, printed, x))
        points.setdefault(name, []).append((point, row.model or row.name))
    return [
        Curve(
            name=name,
            points=tuple(sorted((point for point, _ in found), key=lambda point: point.x)),
            published=True,
            joined=len({model for _, model in found}) == 1,
        )
        for name, found in points.items()
    ]


def printed_values(experiment: Experiment) -> list[PublishedValue]:
    """Every printed value in the columns of an experiment, row by row."""
    rows = (published_row(row.published) for row in experiment.rows)
    return [printed[name] for printed in rows for name in experiment.columns if name in printed]


def _printed_cell(value: PublishedValue | None, column: Quantity, marks: Marks, row: Row) -> Cell:
    if value is None:
        return Cell(text=NOTHING)
    kind = SCORE if is_score(column.name) else TIME
    mark = marks.letter(kind, _published_key(row) if kind == SCORE else _timing_key(value))
    return Cell(text=value.value, value=value.number, mark=mark)


def _further_columns(columns: Sequence[Quantity], measured: Mapping[str, Sequence[Record]]) -> list[Quantity]:
    """Label accuracy and time, where they were measured and are no column of the paper's."""
    known = {column.name for column in columns}
    groups = group_seeds(record for records in measured.values() for record in records)
    wanted = [name for name in ("label_accuracy", "seconds_per_image") if name not in known]
    return [quantity(name) for name in wanted if any(group.mean(name) is not None for group in groups)]


def _marks(experiment: Experiment, measured: Mapping[str, Sequence[Record]], names: Sequence[str]) -> Marks:
    """The protocols of the paper, then those of the records, as far as they made the quantities `names`."""
    marks = Marks()
    for row in experiment.rows:
        printed = published_row(row.published)
        if any(is_score(name) for name in printed):
            marks.add(SCORE, _published_key(row), _published_text(experiment))
        for value in (printed[name] for name in experiment.columns if name in printed):
            if value.hardware:
                marks.add(TIME, _timing_key(value), f"printed times: {value.hardware}, batch {value.batch}")
    for group in group_seeds(record for records in measured.values() for record in records):
        marks.add_record(group.first, told="measured: ", names=names)
    return marks


def _published_key(row: Row) -> str:
    """One key for all printed values of a table: the paper puts them in one column."""
    return json.dumps(["published", (row.published or "").rpartition("/")[0]])


def _timing_key(value: PublishedValue) -> str:
    return json.dumps(["published", value.hardware, value.batch])


def _published_text(experiment: Experiment) -> str:
    ours = next((row for row in experiment.rows if row.task != "quoted"), None)
    if ours is None or not ours.protocol.evaluator:
        return f"as printed in {experiment.source}"
    parts = [f"{ours.num_images} images", ours.protocol.evaluator]
    parts += [f"resize {ours.protocol.resize}"] if ours.protocol.resize else []
    return f"as printed in {experiment.source}: {', '.join(parts)}"


def _footnotes(
    experiment: Experiment, marks: Marks, groups: Sequence[tuple[str, SeedGroup]]
) -> tuple[tuple[str, str], ...]:
    printed = any(published_row(row.published) for row in experiment.rows)
    unscored = (("", f"as printed in {experiment.source}"),) if printed and not marks.footnotes(SCORE) else ()
    notes = (("", note) for note in experiment.notes)
    return (*unscored, *footnotes(groups, marks), *notes, *_row_notes(experiment))


def _row_notes(experiment: Experiment) -> list[tuple[str, str]]:
    """The notes of single rows, each once with the rows that it is on."""
    rows: dict[str, list[str]] = {}
    for row in experiment.rows:
        for note in row.notes:
            rows.setdefault(note, []).append(row.label)
    return [("", f"{'; '.join(labels)}: {note}") for note, labels in rows.items()]


def _title(experiment: Experiment) -> str:
    return f"{experiment.name}: {experiment.title}"


def _place(row: Row, printed: Mapping[str, PublishedValue], name: str) -> float | None:
    """Where a printed row stands on an axis: its printed value, or the setting it was sampled with."""
    if name in printed:
        number = printed[name].number
        return None if number is None else number * quantity(name).scale
    setting = row.sampling.get(name) if printed else None
    return float(setting) if isinstance(setting, (int, float)) else None


def _step_label(row: Row, printed: Mapping[str, PublishedValue], x: str) -> str:
    if "steps" in printed and x != "steps":
        return printed["steps"].value
    return str(row.sampling["num_iter"]) if "num_iter" in row.sampling and x == "seconds_per_image" else ""
