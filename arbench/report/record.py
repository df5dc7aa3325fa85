"""record.json: what one run was, what it measured and how; versioned, checked on the way out and on the way in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

from arbench.evaluation.table import numbers
from arbench.machine.files import one_line, write_whole
from arbench.validation import Count, Limits, Wording, check, check_fields, check_names

SCHEMA_VERSION = 2  # 1 had one extractor a record
RECORD_FILE = "record.json"
LARGEST_WHOLE = 2**64  # the seeds end there

Record = dict[str, Any]

Scores = Mapping[str, float | None]


class Weights(TypedDict, total=False):
    """Which files were loaded; None where there was none."""

    file: str | None
    sha256: str | None
    which: str | None
    tokenizer_file: str | None
    tokenizer_sha256: str | None


class Phases(TypedDict, total=False):
    """Seconds an image in each."""

    generator: float | None
    head: float | None
    decode: float | None


class Speed(TypedDict, total=False):
    """How fast, measured after warm-up, the device synchronised, the writing of images excluded."""

    seconds_per_image: float | None
    images_per_second: float | None
    batch_size: float | None
    batch_sizes: list[int] | None  # the shapes that the images were computed in; more than one where memory ran out
    phases: Phases | None
    peak_memory_gib: float | None
    steps: float | None  # generator steps (forward passes of the backbone) an image
    flops_per_image: float | None
    overlaps: str | None  # what ran beside what, in words: the phases then add up to more than the seconds
    tier: str | None  # how far a fast way may change the result (`arbench.runs.tiers`)
    excludes: str | None  # what the time leaves out, in words


class Scored(TypedDict):
    """What one extractor says of the images."""

    metrics: Scores
    metric_protocol: Mapping[str, Any]


class Fields(TypedDict):
    """A record of this schema."""

    schema: int
    method: str
    model: str
    params_m: float | None  # millions of generator parameters
    tokenizer: str | None
    weights: Weights
    sampling: Mapping[str, int | float | str | bool | None]  # every sampling setting, resolved
    seed: int | None
    num_images: Count | None
    labels: str | list[Any] | None  # "balanced", "random" or the list of classes asked for
    metrics: Scores
    metric_protocol: Mapping[str, Any]
    other_extractors: Mapping[str, Scored]  # by name: those after the first
    speed: Speed
    hardware: Mapping[str, Any]  # device, name, cores, memory …
    versions: Mapping[str, str]  # package: version
    source: Mapping[str, Any]  # kind: measured or published; where it comes from


FIELDS = tuple(Fields.__annotations__)
PHASES = tuple(Phases.__annotations__)
# What `new_record` fills in where a caller has nothing to say.
FOLDED = ("weights", "sampling", "metrics", "metric_protocol", "other_extractors", "speed", "hardware", "versions")
DEFAULTS = {**dict.fromkeys(FIELDS[3:]), **{name: {} for name in FOLDED}, "source": {"kind": "measured"}}
SOURCE_KIND = Limits(choices=("measured", "published"), called="record source kind")
WORDING = Wording(
    line="record field {name!r} is {value!r}; expected {expected}",
    kinds={"float": "int or float", "NoneType": "null", "Mapping": "dict"},
)


def new_record(**fields: Any) -> Record:
    """A checked record from `fields` (`method` and `model` at least); the rest are empty or None.

    NumPy scalars, paths and tuples become what JSON holds. Raises ValueError like `validate`.
    """
    record = {"schema": SCHEMA_VERSION, **DEFAULTS, **fields}
    ordered = {name: _plain(record[name]) for name in FIELDS if name in record}
    ordered.update({name: value for name, value in record.items() if name not in FIELDS})
    validate(ordered)
    return ordered


def validate(record: Mapping[str, Any]) -> None:
    """Raise ValueError, in one line, where `record` is not a record of this schema version."""
    if not isinstance(record, Mapping):
        raise ValueError(f"a record is a mapping with the fields {', '.join(FIELDS)}, not {type(record).__name__}")
    version = record.get("schema")
    if version != SCHEMA_VERSION:
        raise ValueError(f"record schema {version!r} is not readable here; expected {SCHEMA_VERSION}")
    check_names("record field", record, FIELDS)
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise ValueError(f"record lacks the field {missing[0]!r} ({len(missing)} missing: {', '.join(missing)})")
    check_fields(Fields, record, wording=WORDING)
    check("source.kind", record["source"].get("kind"), Annotated[str, SOURCE_KIND], WORDING)
    _check_scores("", record)
    _check_other_extractors(record)
    _check_finite("", record)


def load_record(path: str | Path) -> Record:
    """Read and check a record.json, or the one in a run folder.

    A record of an earlier schema is brought to this one. Raises OSError where there is none and ValueError where it is
    broken or of another schema.
    """
    file = Path(path)
    if file.is_dir():
        file = file / RECORD_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        told = one_line(error)
        raise ValueError(f"{file}: not valid JSON ({told}); expected a {RECORD_FILE} written by arbench") from error
    try:
        record = upgrade(record)
        validate(record)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: {one_line(error)}") from error
    return record


def upgrade(record: object) -> Any:
    """A record of schema 1 as one of this schema; any other as it is."""
    if not isinstance(record, Mapping) or record.get("schema") != 1:
        return record
    upgraded = {**record, "schema": SCHEMA_VERSION, "other_extractors": {}}
    known = {name: upgraded.pop(name) for name in FIELDS if name in upgraded}
    return {**known, **upgraded}


def write_record(record: Mapping[str, Any], path: str | Path) -> Path:
    """Check `record` and write it whole or not at all; `path` is a file, or a run folder. Returns the file."""
    validate(record)
    file = Path(path)
    if file.is_dir():
        file = file / RECORD_FILE
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(file, text)
    return file


def _check_scores(place: str, scored: Mapping[str, Any]) -> None:
    """Metrics and protocol of one extractor, `place` in the record."""
    check_names(f"{place}metrics entry", scored["metrics"], (*numbers(), "duplicates"))
    if scored["metrics"]:
        for name in ("extractor", "reference"):
            check(f"{place}metric_protocol.{name}", scored["metric_protocol"].get(name), str, WORDING)


def _check_other_extractors(record: Mapping[str, Any]) -> None:
    """Each is named as its protocol names it, and none is the first one again."""
    for name, scored in record["other_extractors"].items():
        place = f"other_extractors.{name}."
        _check_scores(place, scored)
        for protocol, same in ((scored["metric_protocol"], True), (record["metric_protocol"], False)):
            if (protocol.get("extractor") == name) != same:
                told = f"is of {protocol.get('extractor')!r}" if same else "is the first one again"
                raise ValueError(f"record field {place[:-1]!r} {told}; expected each extractor once, by its own name")


def _check_finite(name: str, value: object) -> None:
    """NaN and infinity are no measurements, and JSON cannot hold them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"record field {name!r} is {value}; expected a finite number, or null where not measured")
    if isinstance(value, int) and abs(value) >= LARGEST_WHOLE:
        raise ValueError(
            f"record field {name!r} is a whole number of {len(str(value))} digits; expected one below 2**64"
        )
    if isinstance(value, Mapping):
        for key, part in value.items():
            _check_finite(f"{name}.{key}" if name else str(key), part)
    elif isinstance(value, list):
        for part in value:
            _check_finite(name, part)


def _plain(value: object) -> Any:
    """`value` as JSON holds it: NumPy scalars and arrays, tuples and paths are turned into Python's own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, torch tensors
        return value.tolist()
    return value
