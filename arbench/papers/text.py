"""The plan of a paper's table as text: printed and measured values, what runs, what is missing and how to get it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from arbench.papers.experiment import Experiment
from arbench.papers.plan import BY_COMMAND, MEASURED, MISSING, RowPlan, differences
from arbench.papers.published import published_row
from arbench.report.formats import render
from arbench.report.naming import measured_label, telling_labels
from arbench.report.protocols import TIME, Marks, record_marks
from arbench.report.tables import NOTHING, Cell, Table, estimate_notes, measured_cell
from arbench.report.values import TIMED, Quantity, SeedGroup, group_seeds, quantity

COST_HEADS = ("est. A100 hours", "est. memory (GiB)")
WITHIN = {True: " ✓", False: " ✗", None: ""}


def render_plan(experiment: Experiment, plans: Sequence[RowPlan]) -> str:
    """The plan of `experiment`: a table of its rows, then what is missing, row notes and what to know."""
    return (
        f"{plan_head(experiment)}{render(plan_table(experiment, plans))}\n{plan_notes(experiment, plans)}".rstrip()
        + "\n"
    )


def plan_head(experiment: Experiment) -> str:
    """What stands above the table."""
    return f"{experiment.name}: {experiment.title}\n{experiment.source}\n\n"


def plan_notes(experiment: Experiment, plans: Sequence[RowPlan]) -> str:
    """What stands below the table: what is missing, what other commands run, what to know."""
    parts = _missing(plans)
    parts += _by_command(plans)
    parts += _unprinted(plans)
    parts += ["What to know", *(f"  - {note}" for note in experiment.notes), ""] if experiment.notes else []
    parts += _row_notes(plans)
    return "\n".join(parts).rstrip() + "\n" if parts else ""


def plan_table(experiment: Experiment, plans: Sequence[RowPlan]) -> Table:
    """A line a plan and measurement: printed value, the measured one with its difference, state, cost.

    What was measured again, or with another number of images, stands beside in a line of its own.
    """
    columns = [quantity(name) for name in experiment.columns]
    priced = any(plan.cost for plan in plans)
    lines: list[tuple[RowPlan, SeedGroup | None]] = []
    for plan in plans:
        lines += [(plan, group) for group in group_seeds(plan.records)] or [(plan, None)]
    marks = record_marks((group.first for _, group in lines if group), [column.name for column in columns])
    named, labels = telling_labels([_named(plan, group) for plan, group in lines])
    rows = []
    for (plan, group), label in zip(lines, labels, strict=True):
        cells = [_value_cell(experiment, plan, group, column, marks) for column in columns]
        texts = (Cell(text=text) for text in label)
        rows.append((*texts, *cells, Cell(text=_state(plan, group)), *(_cost_cells(plan) if priced else ())))
    heads = (*named, *(column.head for column in columns), "state", *(COST_HEADS if priced else ()))
    footnotes = []
    found = [one for plan in plans for one in differences(experiment, plan.row, plan.records).values()]
    if found:
        footnotes.append(("", "printed → measured (difference); ✓ within and ✗ outside tolerance, neither: not judged"))
    if any(one.errors is not None for one in found):
        footnotes.append(("", "s.e.: the difference in standard errors of the measured value"))
    if priced:
        footnotes.append(("", "hours: a quarter of the speed that the roofline of one A100 allows; memory: one batch"))
    timed = any(name in TIMED for name in experiment.columns)
    notes = (*footnotes, *(marks.footnotes(TIME) if timed else ()), *estimate_notes(rows))
    return Table(heads=heads, rows=tuple(rows), footnotes=notes)


def _named(plan: RowPlan, group: SeedGroup | None) -> tuple[str, str, str]:
    """Row, group and label of one line."""
    label = plan.row.label if group is None else measured_label(plan.row.label, group)
    return plan.row.name, plan.row.group, label


def _value_cell(experiment: Experiment, plan: RowPlan, group: SeedGroup | None, column: Quantity, marks: Marks) -> Cell:
    """The printed value, the measured one, or both with their difference; times of different machines are marked."""
    printed = published_row(plan.row.published).get(column.name)
    found = differences(experiment, plan.row, group.records if group else ()).get(column.name)
    mark = marks.of(column.name, group.first) if group and column.name in TIMED else ""
    if printed is not None and found is not None:
        errors = "" if found.errors is None else f", {found.errors:+.1f} s.e."
        text = (
            f"{printed.value} → {column.text(found.measured)} ({found.difference:+.2g}{errors}){WITHIN[found.within]}"
        )
        return Cell(text=text, value=found.measured, mark=mark)
    if printed is not None:
        return Cell(text=printed.value, value=printed.number)
    measured = group.mean(column.name) if group else None
    if group is None or not isinstance(measured, (int, float)):
        return Cell(text=NOTHING)
    return replace(measured_cell(group, column, marks), mark=mark)


def _state(plan: RowPlan, group: SeedGroup | None) -> str:
    count = len(plan.needs)
    state = f"missing {count} thing{'s' if count > 1 else ''}" if plan.state == MISSING else plan.state
    if group and (plan.state != MEASURED or group.first["num_images"] != plan.row.num_images):
        return f"{state}; shown: {group.first['num_images']} images"
    return state


def _by_command(plans: Sequence[RowPlan]) -> list[str]:
    """Rows that another command runs: times and reconstructions."""
    lines = [f"  {plan.command}\n      for: {plan.row.name}" for plan in plans if plan.state == BY_COMMAND]
    return ["By command", *lines, ""] if lines else []


def _cost_cells(plan: RowPlan) -> tuple[Cell, Cell]:
    if plan.cost is None:
        return Cell(text=NOTHING), Cell(text=NOTHING)
    if plan.row.task != "generate":
        return Cell(text=NOTHING), _number(plan.cost.memory_gib)
    return _number(plan.cost.hours(plan.row.num_images * len(plan.row.seeds))), _number(plan.cost.memory_gib)


def _number(value: float | None) -> Cell:
    if value is None:
        return Cell(text="–")
    return Cell(text=f"{value:.2g}" if value < 10 else f"{value:.0f}", value=value)


def _missing(plans: Sequence[RowPlan]) -> list[str]:
    """Each missing thing once, with how to get it and the rows that wait for it."""
    waiting: dict[tuple[str, str], list[str]] = {}
    for plan in plans:
        for need in plan.needs if plan.state == MISSING else ():
            waiting.setdefault((need.what, need.how), []).append(plan.row.name)
    lines = [f"  {what}\n      {how}\n      for: {', '.join(rows)}" for (what, how), rows in waiting.items()]
    return ["Missing", *lines, ""] if lines else []


def _unprinted(plans: Sequence[RowPlan]) -> list[str]:
    """Settings that the paper does not print, with the rows they are of."""
    rows: dict[str, list[str]] = {}
    for plan in plans:
        for name in plan.row.unprinted:
            value = plan.row.sampling.get(name)
            told = f"{name}: not printed; {'the default of the model' if value is None else value} is taken"
            rows.setdefault(told, []).append(plan.row.name)
    return ["Not printed", *(f"  {told} ({', '.join(names)})" for told, names in rows.items()), ""] if rows else []


def _row_notes(plans: Sequence[RowPlan]) -> list[str]:
    lines = [f"  - {plan.row.label}: {note}" for plan in plans for note in plan.row.notes]
    return ["On single rows", *lines, ""] if lines else []
