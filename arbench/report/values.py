"""What a record can be asked for: quantities with their titles and units, and records grouped over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from arbench.evaluation.table import Head, heads, protocol_entries
from arbench.generators.methods import all_settings, find_method
from arbench.registry import unknown_name
from arbench.report.record import Record
from arbench.settings import SETTINGS, Setting

FULL_COUNT = 50_000  # the number of images behind a FID that needs no number in its name


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """How one number is told: its head, unit, which way is better and how it is written."""

    name: str
    title: str
    unit: str = ""
    better: str | None = None  # "lower", "higher" or None
    decimals: int | None = None  # None: `digits` significant digits
    digits: int = 3
    scale: float = 1.0  # shown = stored * scale
    null: float | None = None  # the number of two sets that do not differ, where chance goes below it
    words: Mapping[Any, str] = field(default_factory=dict)  # values of a setting that are written as a word

    @property
    def head(self) -> str:
        """The column head with unit and direction, as `time (s/image) ↓`."""
        arrow = {"lower": " ↓", "higher": " ↑", None: ""}[self.better]
        return f"{self.title}{f' ({self.unit})' if self.unit else ''}{arrow}"

    def within_noise(self, interval: tuple[float, float] | None) -> bool:
        """Whether chance alone gives such a number."""
        return self.null is not None and interval is not None and interval[0] <= self.null <= interval[1]

    def span(self, value: float, interval: tuple[float, float] | None) -> str:
        """`[low, high]` to the decimals that `value` is printed with; empty without one, and for a setting."""
        if interval is None or self.better is None:
            return ""
        decimals = len(self.text(value).partition(".")[2])
        low, high = (f"{end * self.scale:.{decimals}f}" for end in interval)
        return f"[{low}, {high}]"

    def text(self, value: float) -> str:
        """`value` as it is printed in a table."""
        if value in self.words:
            return self.words[value]
        shown = value * self.scale
        if self.decimals is not None:
            return f"{shown:.{self.decimals}f}"
        if isinstance(value, int) or shown == 0:
            return f"{shown:g}"
        places = max(0, self.digits - 1 - math.floor(math.log10(abs(shown))))
        return f"{shown:.{places}f}"

    def rank(self, value: object) -> tuple[float, str]:
        """What sorts values of a setting: numbers by size, those with a word behind them, texts by letter."""
        if value in self.words:
            return math.inf, self.words[value]
        return (float(value), "") if isinstance(value, (int, float)) else (-math.inf, str(value or ""))


def _quantity(name: str, title: str, unit: str = "", better: str | None = None, **how: Any) -> Quantity:
    return Quantity(name=name, title=title, unit=unit, better=better, **how)


def _of_setting(setting: Setting) -> Quantity:
    return _quantity(setting.name, setting.title, words=setting.words)


QUANTITIES: dict[str, Quantity] = {
    q.name: q
    for q in (
        #         name                  head                unit           better
        _quantity("params_m", "parameters", "M"),
        _quantity("mlp_params_m", "head parameters", "M"),
        _quantity("steps", "steps"),
        _quantity("seconds_per_image", "time", "s/image", "lower"),
        _quantity("seconds_per_batch", "time", "s/batch", "lower"),
        _quantity("seconds_per_video", "time", "s/video", "lower"),
        _quantity("images_per_second", "throughput", "images/s", "higher"),
        _quantity("generator", "generator time", "s/image", "lower"),
        _quantity("head", "head time", "s/image", "lower"),
        _quantity("decode", "decode time", "s/image", "lower"),
        _quantity("peak_memory_gib", "peak memory", "GiB", "lower"),
        _quantity("flops_per_image", "compute", "GFLOP/image", "lower", scale=1e-9),
        _quantity("batch_size", "batch"),
        _quantity("epoch", "epoch"),
        _quantity("step", "training step"),
        _quantity("num_images", "images"),
        _quantity("duplicates", "duplicates"),
        _quantity("rfid", "rFID", "", "lower", decimals=2),
        _quantity("rfid_coco", "rFID, COCO", "", "lower", decimals=2),
        _quantity("psnr", "PSNR", "dB", "higher", decimals=2),
        _quantity("psnr_coco", "PSNR, COCO", "dB", "higher", decimals=2),
        _quantity("ssim", "SSIM", "", "higher", decimals=3),
        _quantity("ssim_coco", "SSIM, COCO", "", "higher", decimals=3),
        _quantity("codebook_usage", "codebook use", "%", "higher", decimals=1),
        _quantity("fvd", "FVD", "", "lower", decimals=1),
        _quantity("speedup_pct", "speed-up", "%", "higher"),
        *map(_of_setting, SETTINGS.values()),
    )
}
SHORT_NAMES = {"is": "is_mean"}  # as `--metrics` has them, where records say more
OF_TRAINING = ("epoch", "step")  # of the training whose weights of that moment a record is of, in its `source`
# Entries of metric_protocol that tell what one evaluation found, not how scores are made.
OF_ONE_RUN = ("measured", "warnings", "fid_name")
TIMED = ("seconds_per_image", "images_per_second", "generator", "head", "decode", "peak_memory_gib")


def quantity(name: str) -> Quantity:
    """The `Quantity` called `name`, or by its short name; a score may name its extractor, as in `fid@inception`.

    ValueError names the nearest where there is none.
    """
    score, extractor = split_score(name)
    score = SHORT_NAMES.get(score, score)
    if score in QUANTITIES and extractor is None:
        return QUANTITIES[score]
    head = heads().get(score)
    if head is None and name in all_settings():  # a plug-in's
        return _of_setting(all_settings()[name])
    if head is None:
        raise unknown_name("quantity", name, [*heads(), *QUANTITIES, *SHORT_NAMES])
    if extractor is None:
        return Quantity(**_written(head))
    return Quantity(**{**_written(head), "name": f"{score}@{extractor}", "title": f"{head.title} ({extractor})"})


def setting_text(name: str, value: object) -> str:
    """A sampling setting beside a point or below a picture, as `guidance 2`; by its name where it is not known here."""
    known = all_settings().get(name)
    return f"{name} {value}" if known is None else f"{known.title} {known.text(value)}"


def _written(head: Head) -> dict[str, Any]:
    """What a quantity takes over from a metric's head."""
    return {name: value for name, value in asdict(head).items() if name != "range"}


def split_score(name: str) -> tuple[str, str | None]:
    """`fid@inception` as ("fid", "inception"); without an extractor, the record's first one is meant: None."""
    score, _, extractor = name.partition("@")
    return score, extractor or None


def is_score(name: str) -> bool:
    """Whether `name` is that of a metric, with or without its extractor."""
    return split_score(name)[0] in heads()


def score_names(groups: Sequence[SeedGroup]) -> list[str]:
    """The scores that `groups` may have: those of their first extractors, then the others' as `fid@inception`."""
    others = dict.fromkeys(extractor for group in groups for extractor in group.first["other_extractors"])
    return [f"{score}{by}" for by in ("", *(f"@{extractor}" for extractor in others)) for score in heads()]


def scores_of(record: Mapping[str, Any], extractor: str | None = None) -> Mapping[str, Any]:
    """`metrics` and `metric_protocol` by the record's extractor of that name (None: its first), empty without."""
    if extractor in (None, record["metric_protocol"].get("extractor")):
        return record
    return record["other_extractors"].get(extractor, {"metrics": {}, "metric_protocol": {}})


def method_name(method: str) -> str:
    """A method as it is written: MAR, PAR, AR, DiT; in capitals where it is not installed here."""
    known = find_method(method)
    return method.upper() if known is None else known.label


def lookup(record: Mapping[str, Any], name: str) -> Any:
    """What `record` holds under `name` (metrics, speed, phases, sampling, then its own fields), or None.

    `fid@inception` is what that extractor says.
    """
    score, extractor = split_score(name)
    if extractor is not None:
        return scores_of(record, extractor)["metrics"].get(score)
    if name in OF_TRAINING:
        return record["source"].get(name)
    speed = record["speed"]
    for part in (record["metrics"], speed, speed.get("phases") or {}, record["sampling"], record):
        if part.get(name) is not None:
            return part[name]
    return None


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Records that differ in nothing but the seed and the machine.

    Scores are pooled over all of them. Times are pooled over those alone that were taken on one machine, with one batch
    and number of threads: on the machine of most seeds, whose records come first (`timed`).
    """

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def num_seeds(self) -> int:
        return len(self.records)

    @property
    def timed(self) -> tuple[Record, ...]:
        """The records whose times are pooled."""
        return tuple(record for record in self.records if _times_key(record) == _times_key(self.first))

    def mean(self, name: str) -> Any:
        """The mean over seeds of a number, the common value of anything else, None where any record lacks it."""
        values = self._values(name)
        if any(value is None for value in values):
            return None
        if len(values) > 1 and all(isinstance(value, (int, float)) for value in values):
            return statistics.fmean(values) if len(set(values)) > 1 else values[0]
        return values[0]

    def spread(self, name: str) -> float | None:
        """Standard deviation over seeds (n - 1 in the denominator), None with fewer than two numbers."""
        values = self._values(name)
        if len(values) < 2 or not all(isinstance(value, (int, float)) for value in values):
            return None
        return statistics.stdev(values)

    def by_seed(self, name: str) -> dict[int, float]:
        """The numbers of single seeds; empty where a record lacks it or its seed."""
        records = self.timed if name in TIMED else self.records
        found = dict(zip((record["seed"] for record in records), self._values(name), strict=True))
        known = all(isinstance(seed, int) and isinstance(value, (int, float)) for seed, value in found.items())
        return found if known else {}

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95 % interval of the mean over the drawing of images, None where a record has none.

        One record's is its own. Of several seeds, whose images are independent, distances from the mean add in squares:
        what training varies is not in it, but in `spread`.
        """
        score, extractor = split_score(name)
        path = ("metric_protocol", "measured", "intervals", score)
        told = [_at(scores_of(record, extractor), path) for record in self.records]
        values = self._values(name)
        if None in told or None in values:
            return None
        if len(told) == 1:
            return told[0][0], told[0][1]
        below, above = (
            math.hypot(*(value - ends[side] for value, ends in zip(values, told, strict=True))) / len(values)
            for side in (0, 1)
        )
        middle = statistics.fmean(values)
        return middle - below, middle + above

    def _values(self, name: str) -> list[Any]:
        """What the records hold; of times, those that are pooled."""
        return [lookup(record, name) for record in (self.timed if name in TIMED else self.records)]


def group_seeds(records: Iterable[Record]) -> list[SeedGroup]:
    """`records` in their order of first appearance, those that differ in the seed alone put together.

    Two records of one seed are two measurements of one thing, of which the later one stands, unless they are told to
    be two: a row that was measured again, and runs whose folders are named by other settings, are rows of their own.
    """
    groups: dict[tuple[str, int], dict[Any, Record]] = {}
    for record in records:
        identity, seed, place = _identity(record), record["seed"], 0
        while _is_another_run(groups.get((identity, place), {}).get(seed), record):
            place += 1
        groups.setdefault((identity, place), {})[seed] = record
    return [SeedGroup(records=_usual_times_first(tuple(by_seed.values()))) for by_seed in groups.values()]


def _is_another_run(known: Record | None, record: Record) -> bool:
    """Whether two records of one seed, which agree in all that they tell, are of folders with different names."""
    if known is None or "row" in record["source"]:
        return False
    names = {known["source"].get("run"), record["source"].get("run")}
    return None not in names and len(names) == 2


def _usual_times_first(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """`records` with those in front whose times were taken as most were, of equally many the later ones."""
    keys = [_times_key(record) for record in records]
    usual = Counter(reversed(keys)).most_common(1)[0][0]
    return tuple(sorted(records, key=lambda record: _times_key(record) != usual))


def protocol_key(record: Mapping[str, Any], extractor: str | None = None, score: str | None = None) -> str:
    """A text that is equal for two records exactly when their scores by an extractor may stand in one column.

    Of one `score`, such as "fid", when this one may: how others were computed does not matter to it.
    """
    told, entries = scores_of(record, extractor)["metric_protocol"], protocol_entries()
    others = set() if score is None else set(entries.values()) - {entries.get(score)}
    protocol = {name: value for name, value in told.items() if name not in OF_ONE_RUN and name not in others}
    return json.dumps([protocol, record["num_images"]], sort_keys=True)


def timing_key(record: Mapping[str, Any]) -> str:
    """A text that is equal for two records exactly when their times may stand in one column.

    Precision and threads are settings like any other: a device is compared with itself. Processors of one name are
    told apart by their cores.
    """
    hardware, speed = record["hardware"], record["speed"]
    cores = [hardware.get("cores")] if hardware.get("device") == "cpu" else []
    device = hardware.get("name") or hardware.get("device")
    return json.dumps([device, *cores, hardware.get("processes") or 1, speed.get("batch_size")])


def _times_key(record: Mapping[str, Any]) -> str:
    """A text that is equal for two records exactly when their times may be pooled."""
    return json.dumps([timing_key(record), record["hardware"].get("threads")])


def _at(record: Mapping[str, Any], path: Sequence[str]) -> Any:
    """What stands in `record` under `path`, None where a part is missing."""
    found: Any = record
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def fid_name(count: int | None) -> str:
    """A FID from N images is named FID-N; from 50,000 it is FID-50k."""
    if count is None:
        return "FID"
    return f"FID-{count // 1000}k" if count % 1000 == 0 else f"FID-{count}"


def varying(groups: Sequence[SeedGroup], names: Iterable[str]) -> list[str]:
    """Those of `names` on which groups disagree that have them at all."""
    return [name for name in names if len({json.dumps(g.mean(name)) for g in groups if g.mean(name) is not None}) > 1]


def varying_within_methods(groups: Sequence[SeedGroup], names: Iterable[str]) -> list[str]:
    """Those of `names` on which groups of one method disagree."""
    methods = {group.first["method"] for group in groups}
    return [
        name for name in names if any(varying([g for g in groups if g.first["method"] == m], [name]) for m in methods)
    ]


def _identity(record: Record) -> str:
    """Everything that makes two records two rows: an experiment's row where there is one, else all settings."""
    source = record["source"]
    named = [source[key] for key in ("experiment", "row", "again") if key in source]
    deciding = ("method", "model", "tokenizer", "sampling", "num_images", "labels")
    parts = [named, [record[name] for name in deciding], protocol_key(record), record["hardware"].get("dtype")]
    decoded_in = record["hardware"].get("decode_dtype", "float32")
    parts += [] if decoded_in == "float32" else [decoded_in]
    parts += [protocol_key(record, extractor) for extractor in sorted(record["other_extractors"])]
    if not named:  # the seeds of one experiment row may each have been trained anew, and run on any machine
        parts += [record["weights"], timing_key(record)]
    return json.dumps(parts, sort_keys=True)
