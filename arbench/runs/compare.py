"""`arbench run --method all`: the methods one after another, each at several speeds; one table and one plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from arbench.generators.methods import all_settings, methods
from arbench.generators.spec import Method
from arbench.machine.files import write_whole
from arbench.report.plots import plot_records
from arbench.report.record import Record
from arbench.report.tables import Table, records_table, render_table
from arbench.report.values import method_name
from arbench.runs.execute import execute
from arbench.runs.request import DEFAULT_OUT, IF_STARTED, RunRequest

OWN = ("model", "tokenizer", "tokenizer_weights", "experiment", "row")


def compare(
    asked: Mapping[str, Any], *, say: Callable[[str], None] = lambda line: None
) -> tuple[Table | None, list[Path]]:
    """Run all methods and their variants with the settings `asked`; returns the table and the files that were drawn.

    The table has a row a method at its default setting; comparison.md has every point of the curves. None on any
    process but the first. Raises ValueError for a setting that belongs to one method.
    """
    for name in asked:
        if name in (*OWN, *all_settings()):
            option = name.replace("_", "-")
            raise ValueError(f"--{option} belongs to one method; expected --method all without it, or one --method")
    compared = [method for method in methods().values() if method.compared is not None]
    points: list[tuple[str, Mapping[str, Any]]] = [(method.name, {}) for method in compared]
    points += [(method.name, variant) for method in compared for variant in variants(method)]
    records: list[Record] = []
    for number, (method, variant) in enumerate(points, 1):
        setting = ", ".join(f"{name} {value}" for name, value in variant.items()) or "default setting"
        say(f"[{number}/{len(points)}] {method_name(method)}, {setting}")
        resume = IF_STARTED if asked.get("resume") else False
        records.append(execute(RunRequest.of(**{**asked, "method": method, **variant, "resume": resume}), say=say)[1])
    if not all(records):
        return None, []
    return records_table(records[: len(compared)]), draw(records, Path(asked.get("out") or DEFAULT_OUT))


def variants(method: Method) -> list[Mapping[str, Any]]:
    """The settings beside the default one, for a curve instead of a dot; those that are the default are left out."""
    own = {} if method.default_preset is None else method.default_preset.sampling
    beside = method.compared or ()
    return [variant for variant in beside if any(own.get(name) != value for name, value in variant.items())]


def draw(records: list[Record], out: Path) -> list[Path]:
    """comparison.md with every record, and the speed/accuracy plot where the records have scores."""
    table = out / "comparison.md"
    write_whole(table, render_table(records) + "\n")
    if not all("fid" in record["metrics"] for record in records):
        return [table]
    return [plot_records(records, out / "comparison.png", x="seconds_per_image", y="fid"), table]
