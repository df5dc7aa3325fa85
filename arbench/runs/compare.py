"""`arbench run --method all`: the methods one after another, each at several speeds; one table and one plot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arbench.evaluation.floor import digits_floor
from arbench.generators.methods import all_settings, methods
from arbench.generators.spec import Method
from arbench.machine.files import write_whole
from arbench.report.comparison import draw_comparison
from arbench.report.record import Record
from arbench.report.tables import Table, records_table, render_table
from arbench.report.values import method_name
from arbench.runs.execute import execute
from arbench.runs.request import DEFAULT_OUT, DIGITS_EVALUATION, IF_STARTED, RunRequest

OWN = ("model", "tokenizer", "tokenizer_weights", "experiment", "row")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a comparison: a method at a setting, drawn as several sets of images with seeds of their own."""

    method: Method
    setting: Mapping[str, Any]
    is_default: bool

    @property
    def told(self) -> str:
        """The setting in words."""
        return ", ".join(f"{name} {value}" for name, value in self.setting.items()) or "default setting"


def compare(
    asked: Mapping[str, Any], *, say: Callable[[str], None] = lambda line: None
) -> tuple[Table | None, list[Path]]:
    """Run all methods, each at several speeds, with the settings `asked`; returns the table and the files drawn.

    A point is drawn as `Method.compared_sets` sets of images, from the seed asked for on. The table has a row a method
    at its default setting; comparison.md has every point of the curves. None on any process but the first. Raises
    ValueError for a setting that belongs to one method.
    """
    refuse_own(asked)
    sets = rounds(points())
    resume = IF_STARTED if asked.get("resume") else False
    records: list[tuple[Point, Record]] = []
    for place, (point, number) in enumerate(sets, 1):
        seed = asked.get("seed", 0) + number
        say(f"[{place}/{len(sets)}] {method_name(point.method.name)}, {point.told}, seed {seed}")
        own = {"method": point.method.name, **point.setting, "seed": seed, "resume": resume}
        records.append((point, execute(RunRequest.of(**{**asked, **own}), say=say)[1]))
    if not all(record for _, record in records):
        return None, []
    table = records_table([record for point, record in records if point.is_default])
    return table, draw([record for _, record in records], Path(asked.get("out") or DEFAULT_OUT))


def refuse_own(asked: Iterable[str]) -> None:
    """Raise ValueError where something is `asked` that belongs to one method."""
    for name in asked:
        if name in (*OWN, *all_settings()):
            option = name.replace("_", "-")
            raise ValueError(f"--{option} belongs to one method; expected --method all without it, or one --method")


def compared_methods() -> list[Method]:
    """The methods that a comparison is of, in the order of listings."""
    return [method for method in methods().values() if method.compared is not None]


def points() -> list[Point]:
    """The points of a comparison, method by method: the default where it is one, then the settings beside it."""
    found = []
    for method in compared_methods():
        settings = [*([{}] if method.compared_default else []), *variants(method)]
        found += [Point(method=method, setting=setting, is_default=not setting) for setting in settings]
    return found


def rounds(points: Iterable[Point]) -> list[tuple[Point, int]]:
    """The sets of images of all points, each with its number among those of its point, in the order they are drawn in.

    One of every point and then the next of each: where the machine changes its speed, it does so for all of them. The
    defaults, which the table has, come first.
    """
    sets = [(point, number) for point in points for number in range(point.method.compared_sets)]
    return sorted(sets, key=lambda drawn: (drawn[1], not drawn[0].is_default))


def variants(method: Method) -> list[Mapping[str, Any]]:
    """The settings beside the default one, for a curve instead of a dot; those that are the default are left out."""
    preset = method.default_preset
    own = {} if preset is None else {**preset.sampling, "model": preset.name}
    beside = method.compared or ()
    return [variant for variant in beside if any(own.get(name) != value for name, value in variant.items())]


def draw(records: list[Record], out: Path) -> list[Path]:
    """comparison.md with every point, and the picture of speed against accuracy where the records have scores."""
    table = out / "comparison.md"
    write_whole(table, render_table(records) + "\n")
    if not all("fid" in record["metrics"] for record in records):
        return [table]
    return [draw_comparison(records, out / "comparison.png", floor_of(records)), table]


def floor_of(records: list[Record]) -> tuple[float, float] | None:
    """What real digits score, where these are scored as the digits are and on equally many images."""
    protocols = {(r["metric_protocol"].get("reference"), r["metric_protocol"].get("extractor")) for r in records}
    counts = {record["num_images"] for record in records}
    is_known = protocols == {(DIGITS_EVALUATION["reference"], DIGITS_EVALUATION["extractor"])} and len(counts) == 1
    return digits_floor(counts.pop()) if is_known else None
