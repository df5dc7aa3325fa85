"""Planning a paper's table: what each row needs, what is there, what it will cost, and how far a rerun lies off."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbench.evaluation.reference_cards import REFERENCES
from arbench.generators.cards import WeightsCard
from arbench.generators.methods import presets
from arbench.generators.spec import DIGITS
from arbench.papers.cost import estimate_cost
from arbench.papers.experiment import RANDOM, SHIPPED, TRAINED, UNRELEASED, Experiment, Row
from arbench.papers.published import PublishedValue, published_row
from arbench.registry import tokenizer_entry_points
from arbench.report.estimates import estimate
from arbench.report.record import Record
from arbench.report.values import group_seeds
from arbench.settings import as_option
from arbench.weights.cards import all_cards, cards_for, get_card, how_to_get

if TYPE_CHECKING:
    from arbench.papers.cost import Cost

QUOTED, MEASURED, READY, BY_COMMAND, MISSING = "quoted", "measured", "can run", "by command", "missing"
DEFAULT_BATCH = 64  # of the estimate, where a row names no batch


@dataclass(frozen=True, kw_only=True)
class Need:
    """Something that a row lacks on this machine, and how to come by it."""

    what: str
    how: str


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """A row, where it stands, what it lacks, what it costs, and the records of its earlier runs."""

    row: Row
    state: str
    needs: tuple[Need, ...] = ()
    cost: Cost | None = None
    command: str = ""
    records: tuple[Record, ...] = ()

    @property
    def can_repeat(self) -> bool:
        """Whether a row that was measured could be run here once more."""
        return self.state == MEASURED and self.row.task == "generate" and not self.needs


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A measured value beside the printed one; `within` is None where the two cannot be judged together."""

    printed: PublishedValue
    measured: float
    within: bool | None
    error: float | None = None  # standard error of the measured value

    @property
    def difference(self) -> float:
        return self.measured - float(self.printed.value)

    @property
    def errors(self) -> float | None:
        """The difference in standard errors of the measured value, None where they are not known or 0."""
        return self.difference / self.error if self.error else None


def plan(
    experiment: Experiment,
    rows: Sequence[str],
    measured: Mapping[str, Sequence[Record]],
    seeds: Sequence[int] = (),
) -> list[RowPlan]:
    """A plan for each of `rows` (all where none are named), for `seeds` or for the rows' own where there are none.

    Raises ValueError for an unknown row.
    """
    chosen = [experiment.row(name) for name in rows] or list(experiment.rows)
    if seeds:
        chosen = [dataclasses.replace(row, seeds=tuple(seeds)) for row in chosen]
    return [plan_row(experiment, row, tuple(measured.get(row.name, ()))) for row in chosen]


def plan_row(experiment: Experiment, row: Row, records: tuple[Record, ...] = ()) -> RowPlan:
    """Where one row stands: quoted, measured with all its seeds, ready to run, run by its own command, or missing."""
    if row.task == "quoted":
        return RowPlan(row=row, state=QUOTED)
    needs = tuple(row_needs(experiment, row))
    if set(row.seeds) <= measured_seeds(row, records):
        state = MEASURED
    elif needs:
        state = MISSING
    else:
        state = READY if row.task == "generate" else BY_COMMAND
    command = row_command(experiment, row)
    return RowPlan(row=row, state=state, needs=needs, cost=row_cost(row), command=command, records=records)


def measured_seeds(row: Row, records: Iterable[Record], again: int = 0) -> set[int]:
    """The seeds that were measured with all the images that the row asks for, for the first time or `again`."""
    times = (record for record in records if record["source"].get("again", 0) == again)
    return {record["seed"] for record in times if record["num_images"] == row.num_images}


def next_repeat(row: Row, records: Sequence[Record]) -> int:
    """The number of the next repeated measurement of `row`, 1 or more: the first that lacks one of its seeds."""
    return next(again for again in itertools.count(1) if not set(row.seeds) <= measured_seeds(row, records, again))


def row_needs(experiment: Experiment, row: Row) -> Iterable[Need]:
    """Everything that this machine lacks to run `row`, in the order in which one would get it."""
    if row.unsupported:
        yield Need(what=row.unsupported, how="nothing to get: not in this version of arbench")
    if row.model and row.model not in presets():
        yield Need(what=f"generator {row.model}", how="no such preset in this version of arbench")
    if row.tokenizer and row.tokenizer not in tokenizer_entry_points():
        yield Need(what=f"tokenizer {row.tokenizer}", how="no such plug-in is installed (arbench tokenizers)")
    elif row.tokenizer_weights == UNRELEASED:
        yield Need(what=f"weights of the tokenizer {_told(row.tokenizer, row.tokenizer_config)}", how="none released")
    elif row.tokenizer_weights:
        yield from _file_needs(row.tokenizer_weights)
    if row.weights == UNRELEASED:
        which = f"--experiment {experiment.told} --row {row.name}"
        how = f"none released; arbench train {which} --data DIR, then arbench run {which} --weights FILE"
        yield Need(what=f"weights of {_told(row.model, row.config)}", how=how)
    elif row.weights:
        yield from _file_needs(row.weights)
    reference = REFERENCES.get(row.protocol.reference)
    if row.metrics and reference is not None and not reference.path.is_file():
        yield Need(what=f"reference {reference.name} ({reference.file})", how=reference.how_to_get)


def weights_file(name: str) -> Path | str | None:
    """The file that the card `name` means on this machine: its own, or another release of the same weights.

    "random" stays itself; None where weights ship with the package, are yet to be trained, or are not here.
    """
    if name == RANDOM:
        return RANDOM
    if name in (SHIPPED, TRAINED, UNRELEASED):
        return None
    cards = (get_card(name), *cards_for(name))
    return next((card.path for card in cards if card.path.is_file()), None)


def _file_needs(name: str) -> Iterable[Need]:
    if name in all_cards() and weights_file(name) is None:
        card = get_card(name)
        yield Need(what=f"weights {card.name} ({card.file})", how=_get_line(card))
    elif name not in (*all_cards(), SHIPPED, RANDOM, TRAINED):
        get_card(name)  # tells the nearest


def _get_line(card: WeightsCard) -> str:
    line = f"arbench weights get {card.name}"
    return line if card.urls else f"{line} ({how_to_get(card)})"


def _told(name: str | None, config: Mapping[str, Any]) -> str:
    told = ", ".join(f"{key} {value}" for key, value in config.items())
    return f"{name} with {told}" if told else str(name)


def row_command(experiment: Experiment, row: Row) -> str:
    """The command line that runs one row."""
    if row.task == "reconstruct":
        return f"arbench tokenizers reconstruct {row.tokenizer} --data DIR"
    if row.task == "bench":
        settings = " ".join(as_option(name, value) for name, value in row.sampling.items())
        batch = f" --batch-size {row.batch_size}" if row.batch_size else ""
        return f"arbench bench --method {row.method} --model {row.model}{batch} {settings}".rstrip()
    return f"arbench reproduce {experiment.told} --rows {row.name} --yes"


def row_cost(row: Row) -> Cost | None:
    """What a row costs; None for the digits models, and for generators that are not in this version."""
    preset = presets().get(str(row.model))
    if preset is None or preset.data == DIGITS:
        return None
    batch_size = row.batch_size or DEFAULT_BATCH
    return estimate_cost(preset.name, dict(row.config), dict(row.sampling), row.tokenizer, row.dtype, batch_size)


def differences(experiment: Experiment, row: Row, records: Sequence[Record]) -> dict[str, Difference]:
    """Measured means over seeds beside the printed numbers of a row, by quantity.

    A value lies within tolerance where it is off by at most the experiment's share of the printed one and one unit of
    its last digit. Quantities without a tolerance, and scores from another number of images, are not judged.
    """
    found = {}
    for group in group_seeds(records):
        for name, printed in published_row(row.published).items():
            measured = group.mean(name)
            if not isinstance(measured, (int, float)) or printed.number is None or name not in experiment.columns:
                continue
            judged = name in experiment.tolerance and group.first["num_images"] == row.num_images
            allowed = experiment.tolerance.get(name, math.inf) * printed.number + printed.last_digit
            within = abs(measured - printed.number) <= allowed if judged else None
            told = estimate(group, name)
            error = None if told is None else told.error
            found[name] = Difference(printed=printed, measured=float(measured), within=within, error=error)
    return found
