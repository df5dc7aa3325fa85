"""`arbench reproduce TABLE`: the plan of a paper's table, and with --yes the rows that can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from arbench.cli import options

if TYPE_CHECKING:
    from arbench.papers.experiment import Experiment
    from arbench.papers.plan import RowPlan

EXAMPLES = """Examples:

  arbench reproduce mar/table4

  arbench reproduce mar/table4 --rows mar-b,mar-b-no-cfg --yes

  arbench reproduce digits/mar-table1 --seeds 0 --yes

  arbench reproduce digits/mar-fig6 --rows mar-8 --again

Without a table the tables are listed. Without --yes nothing runs: the plan tells what can run, what has been measured
and what is missing. A row that was interrupted goes on where it stopped.
"""
RUNS = Path("runs/reproduce")

TableName = Annotated[
    Optional[str], typer.Argument(metavar="TABLE", help="A table or figure, e.g. mar/table4, or a file: my.yaml.")
]
Rows = Annotated[Optional[str], typer.Option("--rows", help="Some rows only, by name: a,b,c.")]
Seeds = Annotated[Optional[str], typer.Option("--seeds", help="Instead of the rows' own seeds: 0,1,2.")]
Yes = Annotated[bool, typer.Option("--yes", help="Run every row that can run and was not measured yet.")]
Again = Annotated[
    bool, typer.Option("--again", help="Run every row that can run anew, measured or not; shown beside what there is.")
]
Folder = Annotated[Path, typer.Option("--out", "-o", help="Where the runs go, one folder a row and seed.")]
DtypeOption = Annotated[Optional[str], typer.Option("--dtype", help="Instead of the row's own.")]


def register(app: typer.Typer) -> None:
    """Add `reproduce` to the app."""
    app.command("reproduce", epilog=EXAMPLES)(reproduce)


def reproduce(
    table: TableName = None,
    rows: Rows = None,
    seeds: Seeds = None,
    yes: Yes = False,
    again: Again = False,
    out: Folder = RUNS,
    num_images: options.NumImages = None,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Print the plan of a paper's table: what is printed, measured, missing; with --yes or --again run what can run."""
    from arbench.papers.experiment import experiment_names, load_experiment

    if table is None:
        for name in experiment_names():
            typer.echo(f"{name:18} {load_experiment(name).title}")
        return
    from arbench.cli.run import parse_batch_size, say
    from arbench.machine.progress import progress_bar
    from arbench.papers import run

    batch = None if batch_size is None else parse_batch_size(batch_size)
    given = {"num_images": num_images, "dtype": dtype, "device": device, "batch_size": batch}
    changes = {name: value for name, value in given.items() if value is not None}
    plans = run.reproduce(
        table,
        rows=[name.strip() for name in (rows or "").split(",") if name.strip()],
        seeds=parse_seeds(seeds),
        yes=yes,
        again=again,
        out=out,
        say=say,
        progress=progress_bar,
        **changes,
    )
    experiment = load_experiment(table)
    print_plan(experiment, plans)
    if not (yes or again) and any(plan.state == "can run" for plan in plans):
        chosen = "".join(f" {option} {text}" for option, text in (("--rows", rows), ("--seeds", seeds)) if text)
        typer.echo(f"\nTo run what can run: arbench reproduce {experiment.told}{chosen} --yes")
        estimate = run.expected_time(table, plans, out, changes)
        if estimate:
            typer.echo(f"It would take {estimate}")


def print_plan(experiment: Experiment, plans: list[RowPlan]) -> None:
    """Print a plan; on a terminal that is too narrow for its table, the table broken into lines."""
    from arbench.cli.screen import is_wider_than_screen, show
    from arbench.papers.text import plan_head, plan_notes, plan_table, render_plan

    text = render_plan(experiment, plans)
    if is_wider_than_screen(text):
        typer.echo(plan_head(experiment), nl=False)
        show([plan_table(experiment, plans)])
        text = plan_notes(experiment, plans)
    typer.echo(text, nl=False)


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """`0,1,2` as numbers; none for None. Raises ValueError for anything else."""
    given = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in given):
        raise ValueError(f"--seeds {text!r}: expected whole numbers of 0 or more, as 0,1,2")
    return tuple(int(part) for part in given)
