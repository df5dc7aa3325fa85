"""The plan of a paper's table as text: printed and measured values, what runs, what is missing and how to get it."""

from __future__ import annotations

from collections.abc import Sequence

from arbench.experiment import Experiment
from arbench.report.formats import render
from arbench.report.published import PublishedValue, published_row
from arbench.report.tables import Cell, Table
from arbench.report.values import quantity
from arbench.reproduce import MISSING, Difference, RowPlan, differences

WITHIN = {True: " ✓", False: " ✗", None: ""}


def render_plan(experiment: Experiment, plans: Sequence[RowPlan]) -> str:
    """The plan of `experiment`: a table of its rows, then what is missing, row notes and what to know."""
    parts = [f"{experiment.name}: {experiment.title}", f"{experiment.source}", ""]
    parts.append(render(plan_table(experiment, plans)))
    parts += _missing(plans)
    parts += _unprinted(plans)
    parts += ["What to know", *(f"  - {note}" for note in experiment.notes), ""] if experiment.notes else []
    parts += _row_notes(plans)
    return "\n".join(parts).rstrip() + "\n"


def plan_table(experiment: Experiment, plans: Sequence[RowPlan]) -> Table:
    """One row a plan: printed value, the measured one with its difference, state, cost."""
    columns = [quantity(name) for name in experiment.columns]
    rows = []
    for plan in plans:
        printed = published_row(plan.row.published)
        measured = differences(experiment, plan.row, plan.records)
        cells = [_value_cell(printed.get(column.name), measured.get(column.name)) for column in columns]
        rows.append((Cell(text=plan.row.label), *cells, Cell(text=_state(plan)), *_cost_cells(plan)))
    heads = ("row", *(column.head for column in columns), "state", "est. A100 hours", "est. memory (GiB)")
    footnotes = []
    if any(differences(experiment, plan.row, plan.records) for plan in plans):
        footnotes.append(("", "printed → measured (difference); ✓ within and ✗ outside tolerance, neither: not judged"))
    if any(plan.cost for plan in plans):
        footnotes.append(("", "hours: counted operations at a quarter of an A100's peak; memory: one batch"))
    return Table(heads=heads, rows=tuple(rows), footnotes=tuple(footnotes))


def _value_cell(printed: PublishedValue | None, found: Difference | None) -> Cell:
    if printed is None:
        return Cell(text="–")
    if found is None:
        return Cell(text=printed.value, value=printed.number)
    column = quantity(printed.metric)
    text = f"{printed.value} → {column.text(found.measured)} ({found.difference:+.2g}){WITHIN[found.within]}"
    return Cell(text=text, value=found.measured)


def _state(plan: RowPlan) -> str:
    if plan.state != MISSING:
        return plan.state
    count = len(plan.needs)
    return f"missing {count} thing{'s' if count > 1 else ''}"


def _cost_cells(plan: RowPlan) -> tuple[Cell, Cell]:
    if plan.cost is None:
        return Cell(text="–"), Cell(text="–")
    if plan.row.task != "generate":
        return Cell(text="–"), _number(plan.cost.memory_gib)
    return _number(plan.cost.a100_hours(plan.row.num_images * len(plan.row.seeds))), _number(plan.cost.memory_gib)


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
