"""How long the rows that run will take: each training by a few steps of it or by records, images by records."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arbench.generators.methods import presets
from arbench.generators.spec import DIGITS
from arbench.machine.progress import span
from arbench.papers.experiment import TRAINED, Experiment, Row, experiment_names, load_experiment
from arbench.papers.training import step_seconds_here, steps_left, training_digest
from arbench.report.record import Record

# Settings of a training that change how long it is, or what is learned, but not how long a step takes.
LENGTH = ("steps", "epochs", "learning_rate", "warmup_steps", "warmup_epochs", "views")
TRIED_STEPS = 3  # of each training that is to begin; one more comes first and does not count
GUESS = 0.1  # how much of the whole the estimate weighs beside what has been seen, once it runs
APART = "loading, encoding of images for the trainings and scoring apart"


@dataclass(frozen=True, kw_only=True)
class RowRun:
    """A run of a row with one seed, for the first time or `again`: its images, and the training that comes before.

    `steps` are those of a training that is not finished and that no run before it makes, else 0. `roofline_seconds`
    are an image's on a GPU that is not here, None where nobody knows.
    """

    row: Row
    seed: int
    again: int = 0
    images: int
    steps: int = 0
    roofline_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Seconds of a training step and of an image, by what decides them, and where they come from, in words."""

    step: Mapping[str, float] = field(default_factory=dict)
    image: Mapping[str, float] = field(default_factory=dict)
    step_told: str = ""
    image_told: str = ""

    def training(self, run: RowRun) -> float | None:
        """Seconds of the training before `run`, None where they are not known."""
        return _times(run.steps, self.step.get(step_key(run.row)))

    def sampling(self, run: RowRun) -> float | None:
        """Seconds of the images of `run`, None where they are not known."""
        return _times(run.images, self.image.get(image_key(run.row)))

    def seconds(self, run: RowRun) -> float | None:
        """Seconds of both."""
        training, sampling = self.training(run), self.sampling(run)
        return None if training is None or sampling is None else training + sampling


def _times(count: int, each: float | None) -> float | None:
    return 0.0 if count == 0 else None if each is None else count * each


def step_key(row: Row) -> str:
    """What rows have in common whose training steps take equally long."""
    training = {name: value for name, value in row.training.items() if name not in LENGTH}
    return _key(row.model, row.config, row.tokenizer, row.tokenizer_config, training)


def image_key(row: Row) -> str:
    """What rows have in common whose images take equally long."""
    return _key(row.model, row.config, row.tokenizer, row.tokenizer_config, row.sampling, row.dtype, row.batch_size)


def _key(*deciding: Any) -> str:
    return json.dumps([dict(part) if isinstance(part, Mapping) else part for part in deciding], sort_keys=True)


def with_trainings(runs: Iterable[RowRun], trained: Path) -> list[RowRun]:
    """`runs` in their order, each with the steps of the training that it is the first to need, as `trained` stands."""
    seen, found = set(), []
    for run in runs:
        training = (training_digest(run.row), run.seed)
        if run.row.weights == TRAINED and training not in seen:
            seen.add(training)
            run = RowRun(**{**vars(run), "steps": steps_left(run.row, run.seed, trained)})
        found.append(run)
    return found


def recorded_speeds(runs: Sequence[RowRun], records: Iterable[Record], own: Experiment, device: str) -> Speeds:
    """What `records` of runs on a `device` of that kind tell of trainings and images like those of `runs`: medians.

    Trainings are told in seconds of processor time where the records have them, over its threads: what others took of
    the machine does not count.
    """
    models = {run.row.model for run in runs}
    steps, busy, images = Told(step_key), Told(step_key), Told(image_key)
    for record in records:
        row = row_of(record, own) if record["model"] in models and _is_of(record, device) else None
        if row is None:
            continue
        training, threads = record["source"].get("training", {}), record["hardware"].get("threads", 1)
        machine = f"{record['hardware'].get('name', device)}, {threads} thread{'s'[: threads != 1]}"
        images.add(row, record["speed"]["seconds_per_image"], machine)
        if "seconds" in training:
            steps.add(row, training["seconds"] / training["steps"], machine)
        if "cpu_seconds" in training:
            busy.add(row, training["cpu_seconds"] / training["steps"] / threads, machine)
    return Speeds(
        step={**steps.medians(), **busy.medians()},
        image=images.medians(),
        step_told=f"by records of such trainings: {steps.machines(runs)}",
        image_told=f"by records of such rows: {images.machines(runs)}",
    )


class Told:
    """Seconds that records tell of rows, by what decides them (`key`), and on which machines."""

    def __init__(self, key: Callable[[Row], str]) -> None:
        self._key = key
        self._found: dict[str, list[tuple[float, str]]] = {}

    def add(self, row: Row, seconds: float, machine: str) -> None:
        self._found.setdefault(self._key(row), []).append((seconds, machine))

    def medians(self) -> dict[str, float]:
        return {key: statistics.median(seconds for seconds, _ in found) for key, found in self._found.items()}

    def machines(self, runs: Iterable[RowRun]) -> str:
        """Those that anything about `runs` was measured on."""
        keys = {self._key(run.row) for run in runs}
        return "; ".join(sorted({machine for key in keys for _, machine in self._found.get(key, ())}))


def _is_of(record: Record, device: str) -> bool:
    return record["hardware"].get("device") == device and "seconds_per_image" in record["speed"]


def row_of(record: Record, own: Experiment) -> Row | None:
    """The row that `record` measures, of `own` experiment or a shipped one; None where it has none, or has changed."""
    source = record["source"]
    name = source.get("experiment")
    experiment = own if name == own.name else load_experiment(name) if name in experiment_names() else None
    named = [row for row in experiment.rows if row.name == source["row"]] if experiment else []
    return next((row for row in named if row.digest == source.get("row_digest")), None)


def measured_steps(runs: Sequence[RowRun], speeds: Speeds) -> Speeds:
    """`speeds` with those of the digits trainings that `runs` begin with, each measured here by a few steps."""
    rows = {step_key(run.row): run.row for run in runs if run.steps and _is_small(run.row)}
    measured = {key: step_seconds_here(row, TRIED_STEPS) for key, row in rows.items()}
    told = f"by {TRIED_STEPS} steps of each, measured here just now" if measured else speeds.step_told
    return Speeds(**{**vars(speeds), "step": {**speeds.step, **measured}, "step_told": told})


def _is_small(row: Row) -> bool:
    """Whether some steps of its training take no more than seconds."""
    return presets()[str(row.model)].data == DIGITS


def estimate_line(runs: Sequence[RowRun], speeds: Speeds) -> str:
    """Trainings and images of `runs`, the time that they are to take, and where that comes from; "" for nothing known.

    As "about 1 h 50 min for 6 trainings of 6,000 steps (…) and 16 runs of 300 images (…); …".
    """
    trainings = [run for run in runs if run.steps]
    parts = [
        (counted(trainings, "training", "steps"), [speeds.training(run) for run in trainings], speeds.step_told),
        (counted(runs, "run", "images"), [speeds.sampling(run) for run in runs], speeds.image_told),
    ]
    parts = [part for part in parts if part[1]]
    known = [seconds for _, each, _ in parts for seconds in each if seconds is not None]
    if not known:
        return ""
    whole = len(known) == sum(len(each) for _, each, _ in parts)
    told = " and ".join(f"{what} ({_part_told(each, source)})" for what, each, source in parts)
    return f"{'about' if whole else 'at least'} {span(sum(known))} for {told}; {APART}"


def _part_told(each: Sequence[float | None], source: str) -> str:
    known = [seconds for seconds in each if seconds is not None]
    if not known:
        return "how long is not known"
    missing = len(each) - len(known)
    return f"{span(sum(known))}{f' for all but {missing}' if missing else ''}, {source}"


def counted(runs: Sequence[RowRun], what: str, unit: str) -> str:
    """As "6 trainings of 6,000 steps", or "6 trainings of 500 to 6,000 steps"."""
    counts = sorted({getattr(run, unit) for run in runs})
    ends = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"
    return f"{len(runs)} {what}{'s'[: len(runs) != 1]} of {ends} {unit}"


class TimeLeft:
    """Tells after each of `runs` how many are done and about how long the others will take.

    What they take is the estimate, by what the finished ones took beside theirs. Where no speed is known here, times on
    a GPU that is not here say what one run takes beside another.
    """

    def __init__(self, runs: Sequence[RowRun], speeds: Speeds, clock: Callable[[], float] = time.perf_counter) -> None:
        here = [speeds.seconds(run) for run in runs]
        known = None not in here
        there = here if known else [_elsewhere(run) for run in runs]
        self._each = [seconds for seconds in there if seconds is not None]
        self._total, self._guess = len(runs), GUESS if known else 0.0
        self._clock, self._began, self._done = clock, clock(), 0

    def one_more(self) -> str:
        """One more is done; the line that says so."""
        self._done += 1
        told = f"{self._done} of {self._total} runs done"
        left = self._left()
        return told if left is None else f"{told}, about {span(left)} left"

    def _left(self) -> float | None:
        if len(self._each) != self._total or self._done == self._total:
            return None
        done, guess = sum(self._each[: self._done]), self._guess * sum(self._each)
        return sum(self._each[self._done :]) * (self._clock() - self._began + guess) / (done + guess)


def _elsewhere(run: RowRun) -> float | None:
    return None if run.steps else _times(run.images, run.roofline_seconds)
