"""The plan of a paper's table as text: printed and measured values, what runs, what is missing and how to get it."""

from __future__ import annotations

from collections.abc import Sequence

from arbench.experiment import Experiment
from arbench.report.formats import render
from arbench.report.published import published_row
from arbench.report.tables import Cell, Table
from arbench.report.values import Quantity, group_seeds, quantity
from arbench.reproduction.plan import BY_COMMAND, MEASURED, MISSING, RowPlan, differences

COST_HEADS = ("est. A100 hours", "est. memory (GiB)")
WITHIN = {True: " ✓", False: " ✗", None: ""}


def render_plan(experiment: Experiment, plans: Sequence[RowPlan]) -> str:
    """The plan of `experiment`: a table of its rows, then what is missing, row notes and what to know."""
    parts = [f"{experiment.name}: {experiment.title}", f"{experiment.source}", ""]
    parts.append(render(plan_table(experiment, plans)))
    parts += _missing(plans)
    parts += _by_command(plans)
    parts += _unprinted(plans)
    parts += ["What to know", *(f"  - {note}" for note in experiment.notes), ""] if experiment.notes else []
    parts += _row_notes(plans)
    return "\n".join(parts).rstrip() + "\n"


def plan_table(experiment: Experiment, plans: Sequence[RowPlan]) -> Table:
    """One row a plan: printed value, the measured one with its difference, state, cost."""
    columns = [quantity(name) for name in experiment.columns]
    grouped, priced = any(plan.row.group for plan in plans), any(plan.cost for plan in plans)
    rows = []
    for plan in plans:
        named = (*([Cell(text=plan.row.group)] if grouped else ()), Cell(text=plan.row.label))
        cells = [_value_cell(experiment, plan, column) for column in columns]
        rows.append((*named, *cells, Cell(text=_state(plan)), *(_cost_cells(plan) if priced else ())))
    named_heads = ("group", "row") if grouped else ("row",)
    heads = (*named_heads, *(column.head for column in columns), "state", *(COST_HEADS if priced else ()))
    footnotes = []
    if any(differences(experiment, plan.row, plan.records) for plan in plans):
        footnotes.append(("", "printed → measured (difference); ✓ within and ✗ outside tolerance, neither: not judged"))
    if priced:
        footnotes.append(("", "hours: a quarter of the speed that the roofline of one A100 allows; memory: one batch"))
    return Table(heads=heads, rows=tuple(rows), footnotes=tuple(footnotes))


def _value_cell(experiment: Experiment, plan: RowPlan, column: Quantity) -> Cell:
    """The printed value, the measured one, or both with their difference."""
    printed = published_row(plan.row.published).get(column.name)
    found = differences(experiment, plan.row, plan.records).get(column.name)
    if printed is not None and found is not None:
        text = f"{printed.value} → {column.text(found.measured)} ({found.difference:+.2g}){WITHIN[found.within]}"
        return Cell(text=text, value=found.measured)
    if printed is not None:
        return Cell(text=printed.value, value=printed.number)
    groups = group_seeds(plan.records)
    measured = groups[-1].mean(column.name) if groups else None
    if not isinstance(measured, (int, float)):
        return Cell(text="–")
    return Cell(text=column.with_spread(measured, groups[-1].spread(column.name)), value=float(measured))


def _state(plan: RowPlan) -> str:
    count = len(plan.needs)
    state = f"missing {count} thing{'s' if count > 1 else ''}" if plan.state == MISSING else plan.state
    if plan.records and plan.state != MEASURED:
        return f"{state}; shown: {plan.records[-1]['num_images']} images"
    return state


def _by_command(plans: Sequence[RowPlan]) -> list[str]:
    """Rows that another command runs: times and reconstructions."""
    lines = [f"  {plan.command}\n      for: {plan.row.name}" for plan in plans if plan.state == BY_COMMAND]
    return ["By command", *lines, ""] if lines else []


def _cost_cells(plan: RowPlan) -> tuple[Cell, Cell]:
    if plan.cost is None:
        return Cell(text="–"), Cell(text="–")
    if plan.row.task != "generate":
        return Cell(text="–"), _number(plan.cost.memory_gib)
    return _number(plan.cost.hours(plan.row.num_images * len(plan.row.seeds))), _number(plan.cost.memory_gib)


def _number(value: float) -> Cell:
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
