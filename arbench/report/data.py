"""Rows of a table for machines: plain numbers at full precision under the names that records have.

Every row says what it is (`kind`: measured or published), how its scores were made and what its times were taken on.
`NAME_low` and `NAME_high` are the 95 % interval of a score, `interval_method` says over what: seeds where there are
three, else the drawing of images. `NAME_seed_std` is its standard deviation over seeds (n - 1), `NAME@EXTRACTOR` what
an extractor after the first says; `is_std` and `kid_std` are the records' own, within one set of images.
Where a paper prints a bound (`<2.0`), it stands in `bounds` and its number is left empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arbench.evaluation.table import heads
from arbench.report.estimates import LEAST_SEEDS, estimate
from arbench.report.values import OF_TRAINING, TIMED, SeedGroup, is_score, lookup, score_names, scores_of
from arbench.settings import SETTINGS

DataRow = dict[str, Any]

IDENTITY = (
    *("experiment", "row", "group", "label", "kind", "again", "source"),
    *("method", "model", "params_m", "tokenizer", "weights", "weights_sha256", "which", "tokenizer_sha256"),
    *("run", "seeds", "num_seeds", "num_images", "labels", "dtype", *SETTINGS, "steps"),
)
WITHIN = ("is_std", "kid_std", "duplicates")  # what a record tells of one set of images
TIMES = (*TIMED, "seconds_per_image_seed_std", "flops_per_image", "batch_size", "timed_seeds")
MACHINE = ("device", "hardware", "cores", "threads", "processes")
PROTOCOL = (
    *("evaluator", "evaluator_version", "extractor", "extractor_sha256", "resize"),
    *("reference", "reference_sha256", "reference_count", "interval_method"),
)
OF_OTHERS = ("extractor_sha256", "resize", "reference", "reference_sha256", "reference_count")  # as NAME@EXTRACTOR
COLUMNS = (*IDENTITY, *TIMES, *MACHINE, *PROTOCOL, "bounds")  # of every table; scores stand behind the settings
SPREADS = ("low", "high", "seed_std")


def data_columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns of `rows`: the fixed ones, each score that some row has with its spreads, then what is left."""
    told = dict.fromkeys(name for row in rows for name in row)
    others = [name for name in told if "@" in name and is_score(name) and f"{name}_low" in told]
    scores = [name for score in (*heads(), *others) for name in (score, *_spreads(score)) if score in told]
    scores += [name for name in WITHIN if name in told]
    fixed = [*IDENTITY, *scores, *COLUMNS[len(IDENTITY) :]]
    return [*fixed, *(name for name in told if name not in fixed)]


def measured_data(group: SeedGroup) -> DataRow:
    """The row of records that differ in the seed: means over seeds, what differs among them joined by semicolons."""
    first, protocol, hardware = group.first, group.first["metric_protocol"], group.first["hardware"]
    labels = first["labels"]
    return {
        **{name: first["source"].get(name) for name in ("experiment", "row", "group", "label", "kind", "again")},
        **{name: first[name] for name in ("method", "model", "params_m", "tokenizer", "num_images")},
        "weights": _joined(group, "weights", "file"),
        "weights_sha256": _joined(group, "weights", "sha256"),
        "which": first["weights"].get("which"),
        "tokenizer_sha256": _joined(group, "weights", "tokenizer_sha256"),
        "run": _joined(group, "source", "run"),
        "seeds": ";".join(str(record["seed"]) for record in group.records if record["seed"] is not None),
        "num_seeds": group.num_seeds,
        "labels": labels if isinstance(labels, str) or labels is None else "given",
        "dtype": hardware.get("dtype"),
        **{name: first["source"][name] for name in OF_TRAINING if name in first["source"]},
        **first["sampling"],
        "steps": group.mean("steps"),
        **_scores(group),
        **{name: group.mean(name) for name in (*TIMED, "flops_per_image")},
        "seconds_per_image_seed_std": group.spread("seconds_per_image"),
        "batch_size": first["speed"].get("batch_size"),
        "timed_seeds": len(group.timed) if lookup(first, "seconds_per_image") is not None else None,
        **{name: hardware.get("name" if name == "hardware" else name) for name in MACHINE},
        **{name: protocol.get(name) for name in PROTOCOL},
        "interval_method": _interval_method(group),
        **{
            f"{name}@{extractor}": scores_of(first, extractor)["metric_protocol"].get(name)
            for extractor in first["other_extractors"]
            for name in OF_OTHERS
        },
    }


def _scores(group: SeedGroup) -> DataRow:
    """Every score with its interval and its spread over seeds, then what is told of one set of images."""
    told: DataRow = {}
    for name in score_names([group]):
        if group.mean(name) is not None:
            told_of = estimate(group, name)
            low, high = (None, None) if told_of is None else (told_of.low, told_of.high)
            values = (group.mean(name), low, high, group.spread(name))
            told |= dict(zip((name, *_spreads(name)), values, strict=True))
    return told | {name: group.mean(name) for name in WITHIN if group.mean(name) is not None}


def _interval_method(group: SeedGroup) -> str | None:
    """How the intervals of the row's scores were made."""
    if not group.first["metrics"]:
        return None
    if group.num_seeds >= LEAST_SEEDS:
        return f"95 % of the mean over {group.num_seeds} seeds, Student's t"
    return (group.first["metric_protocol"].get("measured") or {}).get("interval_method")


def _spreads(score: str) -> list[str]:
    return [f"{score}_{spread}" for spread in SPREADS]


def _joined(group: SeedGroup, *path: str) -> str | None:
    """What the records hold under `path`, each once."""
    found: Sequence[Any] = [record[path[0]].get(path[1]) for record in group.records]
    return ";".join(dict.fromkeys(str(value) for value in found if value is not None)) or None
