"""What must not be compared: letters and footnotes for scores and times that were made in different ways."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from arbench.report.record import Record
from arbench.report.values import TIMED, is_score, lookup, protocol_key, scores_of, split_score, timing_key

SCORE, TIME = "score", "time"


@dataclass
class Marks:
    """Letters for the protocols of scores and of times; none for a kind while all of it were made alike."""

    texts: dict[tuple[str, str], str] = field(default_factory=dict)  # (kind, protocol) -> description

    def add(self, kind: str, key: str, text: str) -> None:
        self.texts.setdefault((kind, key), text)

    def add_record(self, record: Record, told: str = "", extractors: Iterable[str | None] = (None,)) -> None:
        """Note how the scores and the times that `record` holds were made; `told` stands before each description.

        Of its extractors, those named; None is its first.
        """
        for extractor in extractors:
            if scores_of(record, extractor)["metrics"]:
                self.add(SCORE, protocol_key(record, extractor), f"{told}{protocol_text(record, extractor)}")
        if any(lookup(record, name) is not None for name in TIMED):
            self.add(TIME, timing_key(record), timing_text(record))

    def letter(self, kind: str, key: str) -> str:
        """The mark of a protocol, empty where the table has one of its kind only."""
        lettered = [known for known in self._in_order() if self._several(known[0])]
        if (kind, key) not in lettered:
            return ""
        place, letters = lettered.index((kind, key)), string.ascii_lowercase
        return letters[place] if place < len(letters) else str(place + 1)

    def of(self, name: str, record: Record) -> str:
        """The mark of the quantity `name` of `record`."""
        if is_score(name):
            return self.letter(SCORE, protocol_key(record, split_score(name)[1]))
        return self.letter(TIME, timing_key(record)) if name in TIMED else ""

    def footnotes(self, kind: str) -> tuple[tuple[str, str], ...]:
        """(mark, description) of each protocol of a kind."""
        return tuple((self.letter(*known), text) for known, text in self.texts.items() if known[0] == kind)

    def _several(self, kind: str) -> bool:
        return sum(1 for known, _ in self.texts if known == kind) > 1

    def _in_order(self) -> list[tuple[str, str]]:
        return sorted(self.texts, key=lambda known: known[0] == TIME)  # stable: scores first, each as they came


def record_marks(records: Iterable[Record], names: Iterable[str] = ()) -> Marks:
    """The protocols of `records`: of their first extractors, and of those that the quantities `names` are by."""
    extractors = dict.fromkeys([None, *(split_score(name)[1] for name in names)])
    marks = Marks()
    for record in records:
        marks.add_record(record, extractors=extractors)
    return marks


def protocol_text(record: Mapping[str, Any], extractor: str | None = None) -> str:
    """One line on how the scores of `record` by an extractor (None: its first) were made."""
    scored, count = scores_of(record, extractor), record["num_images"]
    protocol = scored["metric_protocol"]
    evaluator = " ".join(str(protocol[key]) for key in ("evaluator", "evaluator_version") if protocol.get(key))
    estimator = str(protocol.get("kid", "")).partition("; ")[2]  # "100 subsets …; stratified by class"
    parts = [
        f"{count} images" if count else "",
        f"extractor {protocol['extractor']}{_short_hash(protocol.get('extractor_sha256'))}",
        f"reference {protocol['reference']}{_short_hash(protocol.get('reference_sha256'))}"
        + (f" of {protocol['reference_count']} images" if protocol.get("reference_count") else ""),
        f"resize {protocol['resize']}" if protocol.get("resize") else "",
        f"KID {estimator}" if estimator and scored["metrics"].get("kid") is not None else "",
        f"evaluator {evaluator}" if evaluator else "",
    ]
    return ", ".join(part for part in parts if part)


def timing_text(record: Mapping[str, Any]) -> str:
    """One line on what the times of `record` were measured on."""
    hardware, batch = record["hardware"], record["speed"].get("batch_size")
    device = hardware.get("name") or hardware.get("device") or "a device that is not recorded"
    processes = hardware.get("processes") or 1
    several = f"{processes} × " if processes > 1 else ""
    cores = hardware.get("cores") if hardware.get("device") == "cpu" else None
    told = f", {cores} core{'s' if cores > 1 else ''}" if cores else ""
    return f"time on {several}{device}{told}, batch {batch or 'not recorded'}"


def _short_hash(sha256: str | None) -> str:
    return f" ({sha256[:8]})" if sha256 else ""
