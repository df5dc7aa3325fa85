"""Finding records: run folders, folders of run folders, record files, and those that come with the package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from arbench.papers.experiment import Experiment, package_folder
from arbench.report.record import RECORD_FILE, Record, load_record

SPEED = "gpu"
RUNS = Path("runs")  # where runs are written unless told otherwise


def load_records(paths: Sequence[str | Path]) -> list[Record]:
    """The records at `paths`, each a record file, a run folder or a folder of such, in the order given.

    Raises OSError where a path does not exist and ValueError where a folder holds no record.
    """
    return [load_record(file) for path in paths for file in record_files(Path(path))]


def record_files(path: Path) -> list[Path]:
    """The record files at one path, sorted by name."""
    if not path.exists():
        raise FileNotFoundError(2, "no such run folder or record; expected one that `arbench run` wrote", str(path))
    if path.is_file():
        return [path]
    if (path / RECORD_FILE).is_file():
        return [path / RECORD_FILE]
    files = sorted(path.glob(f"*/{RECORD_FILE}")) or sorted(path.glob(f"**/{RECORD_FILE}"))
    files = files or sorted(path.glob("**/*.json"))
    if not files:
        raise ValueError(f"{path} holds no {RECORD_FILE}; expected a run folder, or a folder of run folders")
    return files


def stored_records(runs: Path = RUNS) -> list[Record]:
    """Records that travel with the package (`results/records`), then those of finished runs under `runs`."""
    local = sorted(runs.glob(f"**/{RECORD_FILE}")) if runs.is_dir() else []
    return [load_record(file) for file in (*shipped_files(), *local)]


def shipped_files() -> list[Path]:
    """The record files that travel with the package; those of speed alone, in `records/gpu`, are no runs."""
    folder = package_folder("results") / "records"
    return sorted(file for file in folder.glob("**/*.json") if file.parent != folder / SPEED)


def of_experiment(records: Iterable[Record], experiment: Experiment) -> dict[str, list[Record]]:
    """The records of one experiment by row name, repeats last; one of other settings than its row has is of none."""
    digests = {row.name: row.digest for row in experiment.rows}
    found: dict[str, list[Record]] = {}
    for record in records:
        source = record["source"]
        row = source.get("row")
        if source.get("experiment") == experiment.name and row in digests and source.get("row_digest") == digests[row]:
            found.setdefault(row, []).append(record)
    return {row: sorted(of_row, key=lambda record: record["source"].get("again", 0)) for row, of_row in found.items()}


def in_row_order(experiment: Experiment, records: Iterable[Record]) -> list[Record]:
    """The records of `experiment` in the order of its rows, each with what its row changes in the configuration."""
    found = of_experiment(records, experiment)
    return [
        {**record, "source": {**record["source"], "config": dict(row.config)}}
        for row in experiment.rows
        for record in found.get(row.name, ())
    ]
