"""What must not be compared: letters and footnotes for scores and times that were made in different ways."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from arbench.report.record import Record
from arbench.report.values import TIMED, is_score, lookup, protocol_key, scores_of, split_score, timing_key

SCORE, TIME = "score", "time"


@dataclass
class Marks:
    """Letters for the protocols of scores and of times; none for a kind while all of it were made alike.

    A protocol tells how every score is computed. Two that differ in one score's are alike in the columns of the others:
    there the first one's letter stands for both, or none where no third is.
    """

    texts: dict[tuple[str, str], str] = field(default_factory=dict)  # (kind, protocol) -> description
    alone: dict[str, dict[str, str]] = field(default_factory=dict)  # protocol -> score -> what decides that one
    threads: dict[str, set[int]] = field(default_factory=dict)  # protocol of times -> with how many they were taken

    def add(self, kind: str, key: str, text: str) -> None:
        self.texts.setdefault((kind, key), text)

    def add_record(self, record: Record, told: str = "", names: Iterable[str] | None = None) -> None:
        """Note how the scores and the times that `record` holds were made; `told` stands before each description.

        Of its scores, those among the quantities `names`; without, all by its first extractor.
        """
        for name in score_names(record) if names is None else filter(is_score, names):
            score, extractor = split_score(name)
            if lookup(record, name) is not None:
                key = protocol_key(record, extractor)
                self.add(SCORE, key, f"{told}{protocol_text(record, extractor)}")
                self.alone.setdefault(key, {})[score] = protocol_key(record, extractor, score)
        if any(lookup(record, name) is not None for name in TIMED):
            key = timing_key(record)
            counts = self.threads.setdefault(key, set())
            counts |= {record["hardware"].get("threads")} - {None}
            self.texts[TIME, key] = timing_text(record, sorted(counts))  # one line for all, however many threads

    def letter(self, kind: str, key: str) -> str:
        """The mark of a protocol, empty where all of its kind, in every column, were made alike."""
        times = self._known(TIME)
        lettered = [(SCORE, known) for known in self._known(SCORE) if known in self._apart()]
        lettered += [(TIME, known) for known in times if len(times) > 1]
        if (kind, key) not in lettered:
            return ""
        place, letters = lettered.index((kind, key)), string.ascii_lowercase
        return letters[place] if place < len(letters) else str(place + 1)

    def of(self, name: str, record: Record) -> str:
        """The mark of the quantity `name` of `record`."""
        if is_score(name):
            score, extractor = split_score(name)
            firsts = self._firsts(score)
            return self.letter(SCORE, firsts[protocol_key(record, extractor, score)]) if len(firsts) > 1 else ""
        return self.letter(TIME, timing_key(record)) if name in TIMED else ""

    def footnotes(self, kind: str) -> tuple[tuple[str, str], ...]:
        """(mark, description) of each protocol of a kind that stands for itself in some column."""
        known = self._known(kind)
        if kind == SCORE:
            standing = {first for score in self._scores() for first in self._firsts(score).values()}
            known = [key for key in known if key in standing]
        return tuple(dict.fromkeys((self.letter(kind, key), self.texts[kind, key]) for key in known))

    def _known(self, kind: str) -> list[str]:
        """The protocols of a kind, as they came."""
        return [key for known, key in self.texts if known == kind]

    def _scores(self) -> list[str]:
        """Every score that was noted; one without a name where there are printed ones alone."""
        return list(dict.fromkeys(score for told in self.alone.values() for score in told)) or [""]

    def _firsts(self, score: str) -> dict[str, str]:
        """What decides `score` -> the first protocol with it; one that tells of no single scores decides them all."""
        firsts: dict[str, str] = {}
        for key in self._known(SCORE):
            told = self.alone.get(key, {score: key})
            if score in told:
                firsts.setdefault(told[score], key)
        return firsts

    def _apart(self) -> set[str]:
        """The protocols that some column must tell from another."""
        firsts = map(self._firsts, self._scores())
        return {key for found in firsts if len(found) > 1 for key in found.values()}


def score_names(record: Mapping[str, Any]) -> list[str]:
    """The scores of a record's first extractor."""
    return [name for name in record["metrics"] if is_score(name)]


def record_marks(records: Iterable[Record], names: Iterable[str] | None = None) -> Marks:
    """The protocols of `records`, as far as they made the quantities `names`; without, as `Marks.add_record` says."""
    marks, told = Marks(), None if names is None else tuple(names)
    for record in records:
        marks.add_record(record, names=told)
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


def timing_text(record: Mapping[str, Any], threads: Sequence[int] | None = None) -> str:
    """One line on what the times of `record` were measured on, and of others that differ in their `threads` alone."""
    hardware, batch = record["hardware"], record["speed"].get("batch_size")
    device = hardware.get("name") or hardware.get("device") or "a device that is not recorded"
    processes = hardware.get("processes") or 1
    several = f"{processes} × " if processes > 1 else ""
    is_cpu = hardware.get("device") == "cpu"
    cores = [hardware["cores"]] if is_cpu and hardware.get("cores") else []
    own = [hardware["threads"]] if hardware.get("threads") else []
    counts = (own if threads is None else threads) if is_cpu else ()
    told = [counted(cores, "core"), counted(counts, "thread"), f"batch {batch or 'not recorded'}"]
    return f"time on {several}{device}, {', '.join(filter(None, told))}"


def counted(counts: Sequence[int], noun: str) -> str:
    """`1 thread`, `1 or 2 threads`; empty without any."""
    return f"{' or '.join(map(str, counts))} {noun}{'' if counts[-1] == 1 else 's'}" if counts else ""


def _short_hash(sha256: str | None) -> str:
    return f" ({sha256[:8]})" if sha256 else ""
