#!/usr/bin/env python3
"""Rebuild results/tables and results/plots from results/published and results/records, byte for byte.

Nothing is run. Every experiment with a printed or measured value gets its table as Markdown and, where its quantities
allow, its curves as SVG and PNG; files of experiments that are gone are removed.

    python scripts/rebuild_results.py [--check]

`--check` writes nothing and ends with 1 where a file would change.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from arbench.papers.collect import in_row_order, of_experiment, shipped_files
from arbench.papers.experiment import Experiment, experiment_names, load_experiment
from arbench.papers.table import experiment_table, printed_values, published_curves
from arbench.report.formats import render
from arbench.report.plots import plot_records
from arbench.report.record import Record, load_record
from arbench.report.values import lookup

RESULTS = Path(__file__).resolve().parents[1] / "results"
BUILT = ("tables", "plots")
SUFFIXES = ("svg", "png")


def build(target: Path) -> None:
    """Write tables/ and plots/ under `target`."""
    records = [load_record(file) for file in shipped_files()]
    for name in experiment_names():
        experiment = load_experiment(name)
        measured = of_experiment(records, experiment)
        if not measured and not printed_values(experiment):
            continue  # a table of dashes tells nothing
        file = target / "tables" / f"{name}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(render(experiment_table(experiment, measured)), encoding="utf-8")
        draw(experiment, in_row_order(experiment, records), target)


def draw(experiment: Experiment, records: list[Record], target: Path) -> None:
    """The curves of an experiment that says which quantities to plot, where they have more than one place along x."""
    if not experiment.plot:
        return
    x, y = experiment.plot["x"], experiment.plot["y"]
    curves = published_curves(experiment, x, y)
    places = {point.x for curve in curves for point in curve.points}
    places |= {lookup(record, x) for record in records if lookup(record, y) is not None} - {None}
    if len(places) < 2:
        return
    for suffix in SUFFIXES:
        file = target / "plots" / f"{experiment.name}.{suffix}"
        plot_records(records, file, x, y, published=curves, title=experiment.title)


def differing(built: Path) -> list[str]:
    """Files that are not the same bytes in `built` and in results/, by their path."""
    names = {
        str(file.relative_to(root))
        for root in (built, RESULTS)
        for part in BUILT
        for file in (root / part).glob("**/*")
        if file.is_file()
    }

    def content(root: Path, name: str) -> bytes | None:
        return (root / name).read_bytes() if (root / name).is_file() else None

    return sorted(name for name in names if content(built, name) != content(RESULTS, name))


def main() -> int:
    """Build beside, compare, then put in place."""
    parser = argparse.ArgumentParser(description="Rebuild results/tables and results/plots from the stored records.")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where a file would change")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        changed = differing(Path(folder))
        for part in BUILT if not check else ():
            shutil.rmtree(RESULTS / part, ignore_errors=True)
            shutil.copytree(Path(folder) / part, RESULTS / part)
    for name in changed:
        print(f"{'would change' if check else 'changed'}: results/{name}")
    print(f"{len(changed)} files {'would change' if check else 'changed'}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
