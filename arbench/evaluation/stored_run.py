"""What a run folder says of itself: its configuration, checked against its hash, and what binds a shard to its run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arbench.machine.files import checksum_line, checksum_path
from arbench.machine.yaml_file import read_yaml

SHARDS, LABELS, CONFIG, GRID = "shards", "labels.npy", "config.yaml", "grid.png"
HASH_DIGITS = 10
HASH = "hash"  # of `images` and LAYOUT, in config.yaml
LAYOUT = ("shard_size", "batch_size")  # how images are stored and computed; the folder's name leaves them out
NOTE = re.compile(r"# run (\S+), shard (\d+), images (\d+) to (\d+) of (\d+)(?:, batch (\d+(?:\+\d+)*))?")


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits that name `settings` (plain values only): equal settings, equal name."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:HASH_DIGITS]


def config_hash(config: Mapping[str, Any]) -> str:
    """What config.yaml holds as `hash`: of all that decides the images, and of how they are stored and computed."""
    return settings_hash({name: config[name] for name in ("images", *LAYOUT)})


def read_config(run: Path) -> dict[str, Any] | None:
    """The stored settings, or None where the process was killed before it wrote them.

    Those of an earlier version, without hash and `batch_size`, are read as they are. Raises ValueError where the file
    is no configuration of a run, or was edited in what its hash covers.
    """
    file = run / CONFIG
    try:
        stored = read_yaml(file)
    except FileNotFoundError:
        return None
    if not isinstance(stored, dict):
        raise _no_config(file, f"a {type(stored).__name__}")
    for name in LAYOUT if HASH in stored or "batch_size" in stored else LAYOUT[:1]:
        if not _is_count(stored.get(name)):
            raise _no_config(file, f"{name} {stored.get(name)!r}")
    images = stored.get("images")
    if not isinstance(images, dict) or not _is_count(images.get("num_images")):
        raise _no_config(file, "no `images` with their number")
    try:
        found = config_hash({**dict.fromkeys(LAYOUT), **stored})
    except TypeError:  # dates, sets, bytes, numbers as keys
        raise _no_config(file, "more than texts, numbers and lists of them") from None
    if "batch_size" in stored and stored.get(HASH) != found:
        raise ValueError(
            f"{file}: was edited since the run wrote it (hash {found}, not {stored.get(HASH)}); "
            "expected it as it was, or a new run in another --out"
        )
    return stored


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _no_config(file: Path, told: str) -> ValueError:
    return ValueError(f"{file}: holds {told}; expected the configuration that the run wrote")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a shard belongs: shard `index` of `run` (the hash of its settings), the `count` images from `first` on."""

    run: str
    index: int
    first: int
    count: int
    total: int  # images of the run

    def note(self, batches: tuple[int, ...] = ()) -> str:
        """The second line beside a shard, a comment to `sha256sum`; `batches` are those its images were drawn in."""
        drawn = f", batch {'+'.join(map(str, batches))}" if batches else ""
        last = self.first + self.count - 1
        return f"# run {self.run}, shard {self.index}, images {self.first} to {last} of {self.total}{drawn}\n"


@dataclass(frozen=True, kw_only=True)
class ShardLine:
    """What stands beside a shard: SHA-256, the file's name, and, but in runs of earlier versions, its place."""

    sha256: str
    name: str
    place: Place | None
    batches: tuple[int, ...] = ()

    def tells(self, shard: Path, expected: Place) -> bool:
        """Whether this is the line of `shard` at the place where it is expected."""
        return self.name == shard.name and self.place in (None, expected)


def is_bound(shard: Path, place: Place) -> bool:
    """Whether the line beside `shard` is one of a run, and of this place where it says so."""
    line = read_shard_line(shard)
    return line is not None and line.tells(shard, place)


def shard_line(shard: Path, data: bytes | memoryview, place: Place, batches: tuple[int, ...] = ()) -> str:
    """The two lines beside a shard that holds `data`."""
    return checksum_line(shard, data) + place.note(batches)


def read_shard_line(shard: Path) -> ShardLine | None:
    """What stands beside `shard`; None where that is missing or not what a run writes."""
    beside = checksum_path(shard)
    if not beside.exists():
        return None
    first, *notes = beside.read_text(encoding="ascii", errors="replace").splitlines() or [""]
    sha256, _, name = first.partition("  ")
    if not notes:
        return ShardLine(sha256=sha256, name=name, place=None)
    found = NOTE.fullmatch(notes[0])
    if found is None or len(notes) > 1:
        return None
    run, *numbers, batches = found.groups()
    index, start, last, total = (int(number[:18]) for number in numbers)
    place = Place(run=run, index=index, first=start, count=last - start + 1, total=total)
    drawn = tuple(int(batch[:18]) for batch in (batches or "").split("+") if batch)
    return ShardLine(sha256=sha256, name=name, place=place, batches=drawn)
