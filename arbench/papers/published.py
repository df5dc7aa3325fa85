"""The papers' printed values, as they are printed: `results/published/*.csv`, one value a line."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from arbench.papers.experiment import package_folder
from arbench.registry import unknown_name

COLUMNS = ("paper", "table", "row", "metric", "value", "unit", "hardware", "batch", "source", "confidence")


@dataclass(frozen=True, kw_only=True)
class PublishedValue:
    """One printed value. `value` is its text, digit for digit; `confidence` says how it was read."""

    paper: str
    table: str
    row: str
    metric: str
    value: str
    unit: str
    hardware: str
    batch: str
    source: str
    confidence: str

    @property
    def key(self) -> str:
        """`paper/table/row`, by which an experiment's row names it."""
        return f"{self.paper}/{self.table}/{self.row}"

    @property
    def number(self) -> float | None:
        """The value as a number, None where it is a bound or a text (`<0.3`)."""
        return float(self.value) if re.fullmatch(r"-?\d+(\.\d+)?", self.value) else None

    @property
    def last_digit(self) -> float:
        """One unit of the last printed digit: how far rounding or cutting off may have moved the value."""
        decimals = len(self.value.partition(".")[2])
        return 10.0**-decimals


@cache
def published_values() -> Mapping[str, Mapping[str, PublishedValue]]:
    """Every printed value by `paper/table/row`, then by metric. Raises ValueError where a file is not in the format."""
    found: dict[str, dict[str, PublishedValue]] = {}
    for file in sorted((package_folder("results") / "published").glob("*.csv")):
        with file.open(newline="", encoding="utf-8") as stream:
            lines = csv.DictReader(stream)
            if tuple(lines.fieldnames or ()) != COLUMNS:
                raise ValueError(f"{file}: columns are {lines.fieldnames}; expected {', '.join(COLUMNS)}")
            for line in lines:
                value = PublishedValue(**line)
                found.setdefault(value.key, {})[value.metric] = value
    return found


def published_row(key: str | None) -> Mapping[str, PublishedValue]:
    """The printed values of one row by metric, empty for None. Raises ValueError where there is no such row."""
    if key is None:
        return {}
    if key not in published_values():
        raise unknown_name("published row", key, published_values())
    return published_values()[key]
