"""YAML, read safely: no objects, limited depth, mistakes in one line; by hand written files also in size and growth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from arbench.machine.files import one_line

MOST_BRACKETS = 50  # inside one another, before it is parsed: PyYAML's time grows with the square
MOST_BYTES = 1 << 18  # a table of a thousand rows has a third of it
MOST_DEPTH = 12  # rows, a row, its config, a list in it
MOST_NODES = 50_000  # counted where they are used, so that anchors cannot multiply


def read_yaml(file: Path) -> Any:
    """What a YAML file holds: plain values, nothing is built from tags.

    OSError where it cannot be read, ValueError in one line where it is no YAML, or nested beyond all use.
    """
    data = file.read_bytes()
    content = _parsed(file, data)
    if any(count > len(data) + 1 for count, _ in enumerate(_values(content), 1)):
        raise ValueError(f"{file}: not readable YAML: more values than bytes, anchors counted where they are used")
    return content


def read_keys(file: Path) -> dict[str, Any]:
    """The keys of a YAML file that somebody wrote by hand, all of them texts.

    Raises OSError where it cannot be read, and ValueError, in one line, where it is no YAML of plain values, holds no
    keys, or is larger, deeper or more entangled than any experiment.
    """
    with file.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{file} is larger than {MOST_BYTES} bytes; expected a short YAML file")
    content = _parsed(file, data)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no keys; expected at least `rows`")
    _check_growth(file, content)
    return content


def _parsed(file: Path, data: bytes) -> Any:
    try:
        text = data.decode("utf-8")
        if _bracket_depth(text) > MOST_BRACKETS:
            raise ValueError(f"brackets nested more than {MOST_BRACKETS} deep")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{file}: not readable YAML, or no YAML of plain values ({one_line(error)})") from error


def _bracket_depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest


def _values(content: object) -> Iterator[tuple[object, int]]:
    """Every value and how deep it lies, as often as anchors use it."""
    left = [(content, 1)]
    while left:
        node, depth = left.pop()
        yield node, depth
        parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        left += [(part, depth + 1) for part in parts]


def _check_growth(file: Path, content: object) -> None:
    for count, (node, depth) in enumerate(_values(content), 1):
        if count > MOST_NODES:
            raise ValueError(f"{file} holds more than {MOST_NODES} values, anchors counted where they are used")
        if depth > MOST_DEPTH:
            raise ValueError(f"{file} is nested more than {MOST_DEPTH} deep; expected rows with settings")
        for key in node if isinstance(node, dict) else ():
            if not isinstance(key, str):
                raise ValueError(f"{file}: key {key!r} is no text; expected it in quotes")
