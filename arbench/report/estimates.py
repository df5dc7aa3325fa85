"""How sure a number is: its 95 % interval, and which numbers that tells apart."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from scipy.special import stdtrit

from arbench.evaluation.table import heads
from arbench.report.values import TIMED, SeedGroup, split_score

LEVEL = 0.975  # of each end: 95 % lie between
NORMAL = 1.959964  # standard errors to an end of a Gaussian's interval
LEAST_SEEDS = 3  # with two, Student's t is 12.7 standard errors wide: the drawing of images tells more
SEEDS, IMAGES = "seeds", "images"  # what an interval is over


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured number with what its 95 % interval `low` to `high` is over, None where nothing is known of it.

    `error` is its standard error. `by_seed` are the numbers of single seeds and `asked` what they drew: two estimates
    that drew the same are compared seed by seed.
    """

    value: float
    low: float | None = None
    high: float | None = None
    over: str | None = None
    error: float | None = None
    by_seed: Mapping[int, float] = field(default_factory=dict)
    asked: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval, None where it is not known."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def is_apart(self, other: Estimate) -> bool:
        """Whether the two differ by more than chance gives, at 95 %; numbers without intervals where they differ.

        Of the same labels and three seeds or more in common, the differences seed by seed are judged by Student's t.
        Else the difference has an interval of its own: distances from the means to the facing ends add in squares
        (Zou and Donner 2008).
        """
        shared = sorted(set(self.by_seed) & set(other.by_seed)) if self.asked == other.asked else []
        if len(shared) >= LEAST_SEEDS:
            differences = [self.by_seed[seed] - other.by_seed[seed] for seed in shared]
            return abs(statistics.fmean(differences)) > _student(differences)
        lower, upper = sorted((self, other), key=lambda estimate: estimate.value)
        above = 0.0 if lower.high is None else lower.high - lower.value
        below = 0.0 if upper.low is None else upper.value - upper.low
        return upper.value - lower.value > math.hypot(above, below)


def estimate(group: SeedGroup, name: str) -> Estimate | None:
    """The number `name` of `group`: its interval over seeds where there are three, else over the drawing of images.

    None where it is no number. An interval ends where the score does: no accuracy is above 1.
    """
    value = group.mean(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    by_seed = group.by_seed(name)
    head = heads().get(split_score(name)[0])
    least, most = (0.0 if name in TIMED else -math.inf, math.inf) if head is None else head.range
    asked = json.dumps([group.first["labels"], group.first["num_images"]])
    if len(by_seed) >= LEAST_SEEDS:
        half, over = _student(list(by_seed.values())), SEEDS
        low, high, error = value - half, value + half, half / float(stdtrit(len(by_seed) - 1, LEVEL))
    elif (span := group.interval(name)) is not None:
        (low, high), over = span, IMAGES
        error = (high - low) / (2 * NORMAL)
    else:
        return Estimate(value=value, by_seed=by_seed, asked=asked)
    low, high = max(low, least), min(high, most)
    return Estimate(value=value, low=low, high=high, over=over, error=error, by_seed=by_seed, asked=asked)


def _student(values: list[float]) -> float:
    """Half the 95 % interval of the mean of `values` by Student's t."""
    return float(stdtrit(len(values) - 1, LEVEL)) * statistics.stdev(values) / math.sqrt(len(values))
