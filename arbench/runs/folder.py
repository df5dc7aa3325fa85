"""The folder of one run: its name, config.yaml, labels.npy and events.jsonl; started afresh or resumed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from arbench import __version__
from arbench.evaluation.stored_run import CONFIG, HASH, LABELS, SHARDS, config_hash, read_config, settings_hash
from arbench.machine.files import remove_partials, whole_file, write_whole
from arbench.machine.log import append_line, read_lines
from arbench.runs.shards import SHARD_SIZE, Claims, Shards

RECORD_FILE = "record.json"
EVENTS_FILE = "events.jsonl"


class RunFolder:
    """A run folder that exists.

    `settings["images"]` is what decides the images and names the folder; `shard_size` and `batch_size` beside it are
    fixed when the run starts, so that every process and every resume computes with the same shape.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], rank: int = 0) -> None:
        self.path, self.settings, self.rank = path, dict(settings), rank
        images = settings["images"]
        self.shards = Shards(path / SHARDS, images["num_images"], settings["shard_size"], settings_hash(images))

    @property
    def batch_size(self) -> int:
        """Images a batch, in every process and after every resume."""
        return self.settings["batch_size"]

    def batches_each(self, processes: int) -> int:
        """Batches that each of `processes` draws, about."""
        return -(-self.shards.num_images // (self.batch_size * processes))

    @property
    def is_finished(self) -> bool:
        return (self.path / RECORD_FILE).exists()

    def claims(self) -> Claims:
        """The claims of this process on shards of the run."""
        return Claims(self.path / ".claims")

    def log(self, event: str, **facts: Any) -> None:
        """Append one line to events.jsonl: UTC time, event, rank and `facts`. Never fails."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        append_line(self.path / EVENTS_FILE, {"time": now, "event": event, "rank": self.rank, **facts})

    @contextmanager
    def timed(self, event: str, **facts: Any) -> Iterator[None]:
        """Log `event` with the seconds that passed, once what is inside has succeeded."""
        start = time.perf_counter()
        yield
        self.log(event, seconds=round(time.perf_counter() - start, 6), **facts)

    def events(self, event: str) -> Iterator[dict[str, Any]]:
        """Every logged line of this kind that can be read, oldest first."""
        return (facts for facts in read_lines(self.path / EVENTS_FILE) if facts.get("event") == event)

    def write_labels(self, labels: np.ndarray) -> None:
        """labels.npy: (N,) int64, the class that image i was asked for."""
        with whole_file(self.path / LABELS) as partial, partial.open("wb") as stream:
            np.save(stream, labels.astype(np.int64))


def start_run(out: Path, model: str, settings: Mapping[str, Any], batch_size: int = SHARD_SIZE) -> RunFolder:
    """A new folder `<out>/<model>-<hash>`; where finished runs of the same settings exist, `-2`, `-3` … is added.

    `batch_size` is that of the run, to its end.

    Raises ValueError where an unfinished run of the same settings waits there, and OSError where `out` cannot be
    written.
    """
    earlier = same_runs(out, model, settings)
    if earlier and not (earlier[-1] / RECORD_FILE).exists():
        waiting = Shards(earlier[-1] / SHARDS, settings["images"]["num_images"]).num_written()
        raise ValueError(
            f"{earlier[-1]} is an unfinished run of these settings ({waiting} of "
            f"{settings['images']['num_images']} images); add --resume to go on, or choose another --out"
        )
    path = run_path(out, model, settings, len(earlier) + 1)
    path.mkdir(parents=True)
    folder = RunFolder(path, {**settings, "shard_size": SHARD_SIZE, "batch_size": batch_size})
    _write_config(folder)
    folder.log("start", settings=settings_hash(settings["images"]))
    return folder


def resume_run(out: Path, model: str, settings: Mapping[str, Any], batch_size: int = SHARD_SIZE) -> RunFolder:
    """The latest run of these settings, with damaged and foreign shards dropped; its evaluation settings become the
    given ones, its batch stays as it was stored (`batch_size` is for runs of earlier versions, which stored none).

    Raises ValueError where there is none, where its configuration was edited, where shards lie in it that are not its
    own, or where another process is working on it.
    """
    earlier = same_runs(out, model, settings)
    if not earlier:
        path = run_path(out, model, settings, 1)
        raise ValueError(f"nothing to resume: {path} does not exist; expected the --out and settings of a started run")
    layout = {"shard_size": SHARD_SIZE, "batch_size": batch_size}
    stored = read_config(earlier[-1]) or {**settings, **layout}
    if settings_hash(stored["images"]) != settings_hash(settings["images"]):
        file = earlier[-1] / CONFIG
        raise ValueError(f"{file}: `images` was edited since the run wrote it; expected what names the folder")
    layout = {name: stored.get(name, layout[name]) for name in layout}
    folder = RunFolder(earlier[-1], {**settings, **layout})
    strangers = folder.shards.strangers()
    if strangers:
        raise ValueError(
            f"{folder.shards.folder}: holds {strangers[0]}, but the run has {len(folder.shards)} shards; "
            "expected its own shards alone, move others away"
        )
    _write_config(folder)
    damaged = _drop_damaged(folder)
    folder.log("resume", images_present=folder.shards.num_written(), damaged_shards=damaged)
    return folder


def _drop_damaged(folder: RunFolder) -> list[int]:
    claims = folder.claims()
    try:
        if not all(claims.take(index) for index in range(len(folder.shards))):
            raise ValueError(f"{folder.path} is being written by another process; expected a run that has stopped")
        remove_partials(folder.path)
        return folder.shards.drop_damaged()
    finally:
        claims.close(remove=not folder.shards.unfinished())


def run_path(out: Path, model: str, settings: Mapping[str, Any], number: int) -> Path:
    """Where run `number` (from 1) of these settings stands."""
    suffix = "" if number == 1 else f"-{number}"
    return out / f"{model}-{settings_hash(settings['images'])}{suffix}"


def same_runs(out: Path, model: str, settings: Mapping[str, Any]) -> list[Path]:
    """The folders of these settings that exist, in the order of their numbers."""
    found: list[Path] = []
    while (path := run_path(out, model, settings, len(found) + 1)).exists():
        found.append(path)
    return found


def _write_config(folder: RunFolder) -> None:
    heading = "# Everything that decides the result. The folder is named by the hash of `images`.\n"
    config = {"arbench": __version__, **folder.settings, HASH: config_hash(folder.settings)}
    write_whole(folder.path / CONFIG, heading + yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
