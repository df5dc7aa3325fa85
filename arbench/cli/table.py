"""`arbench table`, `arbench plot` and `arbench report`: what is stored, shown; nothing is run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from arbench.papers.experiment import Experiment

Sources = Annotated[
    Optional[list[str]],
    typer.Argument(metavar="TABLE|RUN", help="A table (mar/table4, my.yaml), run folders, record files."),
]
Runs = Annotated[
    Optional[list[str]],
    typer.Argument(metavar="RUN", help="Run folders or record files; by default every run under runs/."),
]
Format = Annotated[str, typer.Option("--format", "-f", help="md, csv, latex or html.")]
Intervals = Annotated[bool, typer.Option("--intervals/--no-intervals", help="95 % intervals beside the numbers.")]
Films = Annotated[
    Optional[list[Path]],
    typer.Option("--film", help="A GIF of `arbench sample --film`; repeatable. A run folder's film.gif is taken too."),
]
Output = Annotated[
    Optional[Path], typer.Option("--out", "-o", help="File to write; a table goes to the screen without.")
]

TABLE_EXAMPLES = """Examples:

  arbench table mar/table4

  arbench table runs/mar-digits-* runs/ar-digits-* --format latex

  arbench table my.yaml --format csv -o my.csv
"""
PLOT_EXAMPLES = """Examples:

  arbench plot runs --x seconds_per_image --y fid -o curve.png

  arbench plot par/fig2 --x steps --y seconds_per_image -o fig2.pdf
"""
REPORT_EXAMPLES = """Examples:

  arbench report runs/mar-digits-* -o report.html

  arbench report --film film.gif
"""


def register(app: typer.Typer) -> None:
    """Add `table`, `plot` and `report` to the app."""
    app.command("table", epilog=TABLE_EXAMPLES)(table)
    app.command("plot", epilog=PLOT_EXAMPLES)(plot)
    app.command("report", epilog=REPORT_EXAMPLES)(report)


def table(sources: Sources = None, format: Format = "md", out: Output = None, intervals: Intervals = True) -> None:
    """Print the table of stored records, or of a paper with what was measured; nothing is run."""
    from arbench.cli.screen import print_tables
    from arbench.papers.collect import RUNS, load_records, of_experiment, stored_records
    from arbench.papers.table import experiment_table
    from arbench.report.formats import render
    from arbench.report.tables import records_table

    experiments, paths = split_sources(sources or [])
    if experiments:
        records = load_records(paths) if paths else stored_records()
        tables = [experiment_table(e, of_experiment(records, e), intervals=intervals) for e in experiments]
    else:
        tables = [records_table(load_records(paths or [str(RUNS)]), intervals=intervals)]
    if format == "md" and out is None:
        print_tables(tables)
    else:
        emit(render(tables, format), out)


def plot(
    sources: Sources = None,
    x: Annotated[Optional[str], typer.Option("--x", help="Quantity along the axis, e.g. seconds_per_image.")] = None,
    y: Annotated[Optional[str], typer.Option("--y", help="Quantity upwards, e.g. fid.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG, SVG or PDF by suffix.")] = Path("curve.png"),
    intervals: Intervals = True,
) -> None:
    """Draw curves of stored records, published points hollow; nothing is run."""
    from arbench.papers.collect import RUNS, in_row_order, load_records, stored_records
    from arbench.papers.table import published_curves
    from arbench.report.plots import plot_records
    from arbench.report.values import quantity

    experiments, paths = split_sources(sources or [])
    if len(experiments) > 1:
        raise ValueError(f"one table or figure at a time; got {', '.join(e.name for e in experiments)}")
    axes = {"x": "seconds_per_image", "y": "fid"}
    curves = []
    title = ""
    if experiments:
        experiment = experiments[0]
        axes |= dict(experiment.plot)
        records = in_row_order(experiment, load_records(paths) if paths else stored_records())
        title = experiment.title
    else:
        records = load_records(paths or [str(RUNS)])
    axes |= {axis: quantity(name).name for axis, name in (("x", x), ("y", y)) if name is not None}
    if experiments:
        curves = published_curves(experiments[0], axes["x"], axes["y"])
    if experiments:
        tell_single(experiments[0], records, curves, axes)
    drawn = plot_records(records, out, axes["x"], axes["y"], published=curves, title=title, intervals=intervals)
    typer.echo(str(drawn))


def tell_single(experiment: Experiment, records: list, curves: list, axes: Mapping[str, str]) -> None:
    """Say on standard error why a figure has one point only: the other rows lack one of its numbers."""
    from arbench.report.values import group_seeds

    both = [g for g in group_seeds(records) if g.mean(axes["x"]) is not None and g.mean(axes["y"]) is not None]
    if len(both) + sum(len(curve.points) for curve in curves) == 1:
        print(
            f"one point: of the {len(experiment.rows)} rows of {experiment.name} one alone has {axes['x']} and "
            f"{axes['y']}, printed or measured; arbench reproduce {experiment.told} says what the others need",
            file=sys.stderr,
        )


def report(
    runs: Runs = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option("--title", help="Heading of the page.")] = "arbench report",
    intervals: Intervals = True,
    film: Films = None,
) -> None:
    """Write one self-contained page: tables, curves, sample grids, films and protocols."""
    from arbench.evaluation.stored_run import GRID
    from arbench.papers.collect import RUNS, record_files
    from arbench.report.films import FILM_FILE
    from arbench.report.html import Entry, write_report
    from arbench.report.record import load_record

    files = [file for path in (runs or [str(RUNS)]) for file in record_files(Path(path))]
    entries = []
    for file in files:
        grid, own = (path if path.is_file() else None for path in (file.parent / GRID, file.parent / FILM_FILE))
        entries.append(Entry(record=load_record(file), grid=grid, film=own))
    from arbench.runs.compare import floor_of

    floor = floor_of([entry.record for entry in entries]) if len(entries) > 1 else None
    typer.echo(str(write_report(entries, out, title, intervals=intervals, floor=floor, films=film or ())))


def split_sources(sources: Sequence[str]) -> tuple[list, list[str]]:
    """Experiments among the given names, and the paths. ValueError for what is neither."""
    from arbench.papers.experiment import experiment_names, is_experiment_file, load_experiment
    from arbench.registry import unknown_name

    experiments, paths = [], []
    for source in sources:
        if source in experiment_names() or is_experiment_file(source):
            experiments.append(load_experiment(source))
        elif Path(source).exists():
            paths.append(source)
        else:
            raise unknown_name("table or run folder", source, experiment_names())
    return experiments, paths


def emit(text: str, out: Path | None) -> None:
    """Print `text`, or write it to a file and say which."""
    if out is None:
        typer.echo(text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    from arbench.machine.files import write_whole

    write_whole(out, text)
    typer.echo(str(out))
