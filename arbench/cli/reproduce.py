"""`arbench reproduce TABLE`: the plan of a paper's table, and with --yes the rows that can run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from arbench.cli import options

if TYPE_CHECKING:
    from arbench.papers.experiment import Experiment, Row
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
    Optional[str], typer.Argument(metavar="[TABLE]", help="A table or figure, e.g. mar/table4, or a file: my.yaml.")
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
    experiment = load_experiment(table)
    names = [name.strip() for name in (rows or "").split(",") if name.strip()]
    chosen_seeds = parse_seeds(seeds)
    plans = make_plan(experiment, names, out, chosen_seeds)
    if yes or again:
        changes = {"num_images": num_images, "dtype": dtype, "device": device, "batch_size": parse_batch(batch_size)}
        given = {name: value for name, value in changes.items() if value is not None}
        run_rows(experiment, plans, out, given, again)
        plans = make_plan(experiment, names, out, chosen_seeds)
    print_plan(experiment, plans)
    if not (yes or again) and any(plan.state == "can run" for plan in plans):
        chosen = "".join(f" {option} {text}" for option, text in (("--rows", rows), ("--seeds", seeds)) if text)
        typer.echo(f"\nTo run what can run: arbench reproduce {experiment.told}{chosen} --yes")


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


def make_plan(experiment: Experiment, names: list[str], out: Path, seeds: Sequence[int]) -> list[RowPlan]:
    """The plan of the named rows (all for none), with the records that come with the package and those under `out`.

    `seeds` stand in place of the rows' own where there are any.
    """
    from arbench.papers.collect import of_experiment, stored_records
    from arbench.papers.plan import plan

    return plan(experiment, names, of_experiment(stored_records(out), experiment), seeds)


def run_rows(
    experiment: Experiment, plans: list[RowPlan], out: Path, changes: dict[str, Any], again: bool = False
) -> None:
    """Run each seed of each row that can run and has no record yet; what finished stays when a later one fails.

    With `again`, rows that were measured already are measured once more, beside what there is.
    """
    from arbench.papers.plan import measured_seeds, next_repeat

    ready = [plan for plan in plans if plan.state == "can run" or (again and plan.can_repeat)]
    for plan in ready:
        repeat = next_repeat(plan.row, plan.records) if again and plan.state == "measured" else 0
        measured = measured_seeds(plan.row, plan.records, repeat)
        for seed in plan.row.seeds:
            if seed not in measured:
                run_row(experiment, plan.row, seed, out, changes, repeat)
    if not ready:
        print("nothing to run: every row is measured, quoted, or lacks something (see below)", file=sys.stderr)


def run_row(experiment: Experiment, row: Row, seed: int, out: Path, changes: dict[str, Any], again: int = 0) -> None:
    """Run one row with one seed in its own folder, for the `again`-th repeat, going on where an earlier run stopped."""
    from dataclasses import replace

    from arbench.cli.run import say
    from arbench.papers.experiment import SHIPPED, TRAINED
    from arbench.papers.plan import weights_file
    from arbench.papers.training import training_facts
    from arbench.report.record import write_record
    from arbench.runs.execute import execute
    from arbench.runs.request import RunRequest

    folder = out / experiment.name / row.name / (f"again-{again}" if again else "") / f"seed-{seed}"
    settings = {
        **row.settings,
        "weights": trained(row, seed, out) if row.weights == TRAINED else weights_file(row.weights or SHIPPED),
        "tokenizer_weights": weights_file(row.tokenizer_weights or SHIPPED),
        "reference": row.protocol.reference or None,
        "extractor": row.protocol.extractor,
        "seed": seed,
        "out": folder,
        "resume": is_unfinished(folder),
        **changes,
    }
    print(f"{experiment.name} {row.name}, seed {seed}{f', again ({again})' if again else ''}", file=sys.stderr)
    repeated = {"again": again} if again else {}
    request = replace(RunRequest.of(**settings), source={**experiment.row_source(row.name), **repeated})
    path, record = execute(request, say=say)
    if record and row.weights == TRAINED:
        source = {**record["source"], "training": training_facts(row, seed, out / "trained")}
        write_record({**record, "source": source}, path)


def trained(row: Row, seed: int, out: Path) -> Path:
    """The weights of a row that is trained from scratch, trained now where they are not there yet."""
    from arbench.cli.progress import progress_bar
    from arbench.papers.training import trained_weights

    return trained_weights(row, seed, out / "trained", progress_bar)


def is_unfinished(folder: Path) -> bool:
    """Whether a run in `folder` was started and has no record."""
    from arbench.report.record import RECORD_FILE

    return any(run.is_dir() and not (run / RECORD_FILE).is_file() for run in folder.glob("*"))


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """`0,1,2` as numbers; none for None. Raises ValueError for anything else."""
    given = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in given):
        raise ValueError(f"--seeds {text!r}: expected whole numbers of 0 or more, as 0,1,2")
    return tuple(int(part) for part in given)


def parse_batch(text: str | None) -> int | str | None:
    """A number, "auto", or nothing."""
    from arbench.cli.run import parse_batch_size

    return None if text is None else parse_batch_size(text)
