"""`arbench.reproduce`: the plan of a paper's table, and with `yes` or `again` the rows that can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from arbench.papers.collect import of_experiment, stored_records
from arbench.papers.experiment import SHIPPED, TRAINED, Experiment, Row, load_experiment
from arbench.papers.plan import READY, RowPlan, measured_seeds, next_repeat, plan, weights_file
from arbench.papers.training import trained_weights, training_facts
from arbench.report.record import RECORD_FILE, Record, write_record
from arbench.runs.execute import execute
from arbench.runs.request import RunRequest
from arbench.training.tokens import Progress, no_progress

RUNS = Path("runs/reproduce")
Say = Callable[[str], None]


def silent(line: str) -> None:
    """Tell nobody."""


def reproduce(
    table: str,
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    yes: bool = False,
    again: bool = False,
    out: str | Path = RUNS,
    say: Say = silent,
    progress: Progress = no_progress,
    **changes: Any,
) -> list[RowPlan]:
    """The plan of a paper's table or figure: for every row what is measured, what can run, and what is missing.

    `table` is a name as "mar/table4" or the path of an own YAML file; `rows` names some of its rows (all where none),
    `seeds` stand in place of the rows' own. With `yes` every row that can run and has no record runs first, with
    `again` those that were measured as well, beside what there is; `changes` are keywords of `arbench.run` that
    rows may have otherwise (`num_images`, `dtype`, `device`, `batch_size`). Each `RowPlan` holds the row, its state and
    its `records`. What ran stays below `out` when a later row fails; an interrupted row goes on where it stopped.

    Raises ValueError or OSError for a user's mistake: an unknown table, row or setting.
    """
    experiment, out = load_experiment(str(table)), Path(out)
    RunRequest.of(**changes)  # a mistake shows before anything runs
    plans = make_plan(experiment, rows, out, seeds)
    if not (yes or again):
        return plans
    run_rows(experiment, plans, out, changes, again=again, say=say, progress=progress)
    return make_plan(experiment, rows, out, seeds)


def make_plan(experiment: Experiment, rows: Sequence[str], out: Path, seeds: Sequence[int]) -> list[RowPlan]:
    """The plan of the named rows (all for none), with the records that come with the package and those under `out`.

    `seeds` stand in place of the rows' own where there are any.
    """
    return plan(experiment, rows, of_experiment(stored_records(out), experiment), seeds)


def run_rows(
    experiment: Experiment,
    plans: Sequence[RowPlan],
    out: Path,
    changes: Mapping[str, Any],
    *,
    again: bool,
    say: Say,
    progress: Progress,
) -> None:
    """Run each seed of each row that can run and has no record yet; what finished stays when a later one fails.

    With `again`, rows that were measured already are measured once more, beside what there is.
    """
    ready = [row for row in plans if row.state == READY or (again and row.can_repeat)]
    for planned in ready:
        repeat = next_repeat(planned.row, planned.records) if again and planned.state != READY else 0
        measured = measured_seeds(planned.row, planned.records, repeat)
        for seed in planned.row.seeds:
            if seed not in measured:
                say(f"{experiment.name} {planned.row.name}, seed {seed}{f', again ({repeat})' if repeat else ''}")
                run_row(experiment, planned.row, seed, out, changes, again=repeat, say=say, progress=progress)
    if not ready:
        say("nothing to run: every row is measured, quoted, or lacks something (see below)")


def run_row(
    experiment: Experiment,
    row: Row,
    seed: int,
    out: Path,
    changes: Mapping[str, Any],
    *,
    again: int,
    say: Say,
    progress: Progress,
) -> None:
    """Run one row with one seed in its own folder, for the `again`-th repeat, going on where an earlier run stopped."""
    folder = out / experiment.name / row.name / (f"again-{again}" if again else "") / f"seed-{seed}"
    trained = row.weights == TRAINED
    weights = trained_weights(row, seed, out / "trained", progress) if trained else weights_file(row.weights or SHIPPED)
    settings = {
        **row.settings,
        "weights": weights,
        "tokenizer_weights": weights_file(row.tokenizer_weights or SHIPPED),
        "reference": row.protocol.reference or None,
        "extractor": row.protocol.extractor,
        "seed": seed,
        "out": folder,
        "resume": is_unfinished(folder),
        **changes,
    }
    source = {**experiment.row_source(row.name), **({"again": again} if again else {})}
    path, record = execute(replace(RunRequest.of(**settings), source=source), say=say)
    if record and trained:
        add_training(path, record, training_facts(row, seed, out / "trained"))


def add_training(path: Path, record: Record, facts: Mapping[str, float]) -> None:
    """Write into the record of a run how its weights were trained."""
    write_record({**record, "source": {**record["source"], "training": dict(facts)}}, path)


def is_unfinished(folder: Path) -> bool:
    """Whether a run in `folder` was started and has no record."""
    return any(run.is_dir() and not (run / RECORD_FILE).is_file() for run in folder.glob("*"))
