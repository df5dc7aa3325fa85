"""record.json: what one run was, what it measured and how; versioned, checked on the way out and on the way in."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from arbench.evaluation.table import numbers
from arbench.machine.files import one_line, write_whole
from arbench.registry import unknown_name

SCHEMA_VERSION = 2  # 1 had one extractor a record
RECORD_FILE = "record.json"
LARGEST_WHOLE = 2**64  # the seeds end there

Record = dict[str, Any]

TEXT, NUMBER, COUNT, FOLDED = (str,), (int, float), (int,), (dict,)

# field: (accepted types, None allowed)
FIELDS: dict[str, tuple[tuple[type, ...], bool]] = {
    "schema": (COUNT, False),
    "method": (TEXT, False),
    "model": (TEXT, False),
    "params_m": (NUMBER, True),  # millions of generator parameters
    "tokenizer": (TEXT, True),
    "weights": (FOLDED, False),
    "sampling": (FOLDED, False),  # every sampling setting, resolved
    "seed": (COUNT, True),
    "num_images": (COUNT, True),
    "labels": ((str, list), True),  # "balanced", "random" or the list of classes asked for
    "metrics": (FOLDED, False),
    "metric_protocol": (FOLDED, False),
    "other_extractors": (FOLDED, False),  # by name: metrics and metric_protocol of those after the first
    "speed": (FOLDED, False),
    "hardware": (FOLDED, False),  # device, name, cores, memory …
    "versions": (FOLDED, False),  # package: version
    "source": (FOLDED, False),  # kind: measured or published; where it comes from
}
# What `new_record` fills in where a caller has nothing to say.
DEFAULTS: dict[str, Any] = {
    "params_m": None,
    "tokenizer": None,
    "weights": {},
    "sampling": {},
    "seed": None,
    "num_images": None,
    "labels": None,
    "metrics": {},
    "metric_protocol": {},
    "other_extractors": {},
    "speed": {},
    "hardware": {},
    "versions": {},
    "source": {"kind": "measured"},
}
WEIGHTS = ("file", "sha256", "which", "tokenizer_file", "tokenizer_sha256")
SCORED = ("metrics", "metric_protocol")  # of one extractor
SPEED = (
    "seconds_per_image",  # after warm-up, device synchronised, image writing excluded
    "images_per_second",
    "batch_size",
    "batch_sizes",  # the shapes that the images were computed in; more than one where memory ran out
    "phases",  # seconds per image in generator, head, decode
    "peak_memory_gib",
    "steps",  # generator steps (forward passes of the backbone) an image
    "flops_per_image",
    "excludes",  # what the time leaves out, in words
)
PHASES = ("generator", "head", "decode")
SOURCE_KINDS = ("measured", "published")


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
    _check_names("record field", record, FIELDS)
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise ValueError(f"record lacks the field {missing[0]!r} ({len(missing)} missing: {', '.join(missing)})")
    for name, (types, optional) in FIELDS.items():
        _check_type(name, record[name], types, optional)
    _check_parts(record)
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


def _check_parts(record: Mapping[str, Any]) -> None:
    """The names and kinds inside the folded fields."""
    for field, names in (("weights", WEIGHTS), ("speed", SPEED)):
        _check_names(f"{field} entry", record[field], names)
    _check_scores("", record)
    _check_other_extractors(record)
    phases = record["speed"].get("phases")
    if phases is not None:
        _check_type("speed.phases", phases, FOLDED, optional=False)
        _check_names("phase", phases, PHASES)
    kind = record["source"].get("kind")
    if kind not in SOURCE_KINDS:
        raise unknown_name("record source kind", str(kind), SOURCE_KINDS)
    count = record["num_images"]
    if count is not None and count < 1:
        raise ValueError(f"record field 'num_images' is {count}; expected at least 1")


def _check_scores(place: str, scored: Mapping[str, Any]) -> None:
    """Metrics and protocol of one extractor, `place` in the record."""
    _check_names(f"{place}metrics entry", scored["metrics"], (*numbers(), "duplicates"))
    for name, value in scored["metrics"].items():
        _check_type(f"{place}metrics.{name}", value, NUMBER, optional=True)
    if scored["metrics"]:
        for name in ("extractor", "reference"):
            _check_type(f"{place}metric_protocol.{name}", scored["metric_protocol"].get(name), TEXT, optional=False)


def _check_other_extractors(record: Mapping[str, Any]) -> None:
    """Each is named as its protocol names it, and none is the first one again."""
    for name, scored in record["other_extractors"].items():
        place = f"other_extractors.{name}."
        _check_type(place[:-1], scored, FOLDED, optional=False)
        _check_names(f"entry of {place[:-1]}", scored, SCORED)
        for part in SCORED:
            _check_type(f"{place}{part}", scored.get(part), FOLDED, optional=False)
        _check_scores(place, scored)
        for protocol, same in ((scored["metric_protocol"], True), (record["metric_protocol"], False)):
            if (protocol.get("extractor") == name) != same:
                told = f"is of {protocol.get('extractor')!r}" if same else "is the first one again"
                raise ValueError(f"record field {place[:-1]!r} {told}; expected each extractor once, by its own name")


def _check_names(kind: str, given: Mapping[str, Any], names: Collection[str]) -> None:
    for name in given:
        if name not in names:
            raise unknown_name(kind, str(name), names)


def _check_type(name: str, value: object, types: tuple[type, ...], optional: bool) -> None:
    if value is None and optional:
        return
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        wanted = " or ".join(kind.__name__ for kind in types) + (" or null" if optional else "")
        raise ValueError(f"record field {name!r} is {value!r}; expected {wanted}")


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
