"""`arbench.reproduce`: the plan of a paper's table, and with `yes` or `again` the rows that can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from arbench.machine.hardware import resolve_device
from arbench.papers.collect import of_experiment, stored_records
from arbench.papers.duration import (
    RowRun,
    Speeds,
    TimeLeft,
    estimate_line,
    measured_steps,
    recorded_speeds,
    with_trainings,
)
from arbench.papers.experiment import SHIPPED, TRAINED, Experiment, Row, load_experiment
from arbench.papers.plan import READY, RowPlan, measured_seeds, next_repeat, plan, weights_file
from arbench.papers.training import trained_weights, training_facts
from arbench.report.record import RECORD_FILE, Record, write_record
from arbench.runs.execute import execute
from arbench.runs.request import IF_STARTED, RunRequest
from arbench.training.tokens import Progress, no_progress

RUNS = Path("runs/reproduce")
TRAININGS = "trained"  # the folder of the trainings below that of the runs
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

    With `again`, rows that were measured already are measured once more, beside what there is. `say` is told
    beforehand how long it is to take, and after each run how long is left.
    """
    runs = with_trainings(row_runs(plans, changes, again=again), out / TRAININGS)
    if not runs:
        say("nothing to run: every row is measured, quoted, or lacks something (see below)")
        return
    speeds = measured_steps(runs, _recorded(experiment, runs, out, changes))
    estimate = estimate_line(runs, speeds)
    if estimate:
        say(f"time: {estimate}")
    left = TimeLeft(runs, speeds)
    for run in runs:
        told = f", again ({run.again})" if run.again else ""
        say(f"{experiment.name} {run.row.name}, seed {run.seed}{told}")
        run_row(experiment, run.row, run.seed, out, changes, again=run.again, say=say, progress=progress)
        say(left.one_more())


def row_runs(plans: Sequence[RowPlan], changes: Mapping[str, Any], *, again: bool) -> Iterator[RowRun]:
    """The seeds of the rows that can run and have no record yet, in their order; with `again` those that have, too."""
    for planned in plans:
        if planned.state != READY and not (again and planned.can_repeat):
            continue
        row, cost = planned.row, planned.cost
        repeat = next_repeat(row, planned.records) if again and planned.state != READY else 0
        measured = measured_seeds(row, planned.records, repeat)
        images = changes.get("num_images", row.num_images)
        roofline = None if cost is None else cost.seconds_per_image
        for seed in dict.fromkeys(row.seeds):
            if seed not in measured:
                yield RowRun(row=row, seed=seed, again=repeat, images=images, roofline_seconds=roofline)


def expected_time(
    table: str, plans: Sequence[RowPlan], out: Path, changes: Mapping[str, Any], *, again: bool = False
) -> str:
    """How long what can run of `plans` would take by the records that there are, in words; "" where none tells."""
    experiment = load_experiment(str(table))
    runs = with_trainings(row_runs(plans, changes, again=again), out / TRAININGS)
    return estimate_line(runs, _recorded(experiment, runs, out, changes)) if runs else ""


def _recorded(experiment: Experiment, runs: Sequence[RowRun], out: Path, changes: Mapping[str, Any]) -> Speeds:
    device = resolve_device(changes.get("device", "auto")).type
    return recorded_speeds(runs, stored_records(out), experiment, device)


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
    if trained:
        weights: Path | str | None = trained_weights(row, seed, out / TRAININGS, progress, say)
    else:
        weights = weights_file(row.weights or SHIPPED)
    settings = {
        **row.settings,
        "weights": weights,
        "tokenizer_weights": weights_file(row.tokenizer_weights or SHIPPED),
        "reference": row.protocol.reference or None,
        "extractor": row.protocol.extractor,
        "seed": seed,
        "out": folder,
        "resume": IF_STARTED if is_unfinished(folder) else False,
        **changes,
    }
    source = {**experiment.row_source(row.name), **({"again": again} if again else {})}
    path, record = execute(replace(RunRequest.of(**settings), source=source), say=say)
    if record and trained:
        add_training(path, record, training_facts(row, seed, out / TRAININGS))


def add_training(path: Path, record: Record, facts: Mapping[str, float]) -> None:
    """Write into the record of a run how its weights were trained."""
    write_record({**record, "source": {**record["source"], "training": dict(facts)}}, path)


def is_unfinished(folder: Path) -> bool:
    """Whether a run in `folder` was started and has no record."""
    return any(run.is_dir() and not (run / RECORD_FILE).is_file() for run in folder.glob("*"))
