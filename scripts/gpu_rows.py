"""What `gpu_bench.py` measures: the rows, the most telling first, their parts, and how long each may take."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from arbench.generators.methods import presets
from arbench.machine.hardware import versions
from arbench.runs.choice import RANDOM

BATCH = 64
COMPARE = "compare"  # eager, beside the plain ways, at batch 1
ENGINES = ("graph", "eager", COMPARE)
REPEATS = {"graph": 3, "eager": 1, COMPARE: 1}  # the eager engine is bound by the host, and steady
DTYPE, DECODE_DTYPE = "auto", "bfloat16"
# Guesses of seconds, from MAR-B on an H200 (results/gpu.md): loading, compiling, a batch by graphs in batches by the
# eager engine, a batch in a plain way in the same, and the tests of one file.
LOAD, COMPILE, GRAPH_SHARE, PLAIN_SHARE, TEST_FILE = 15.0, 20.0, 0.4, 2.0, 60.0


@dataclass(frozen=True)
class Row:
    """A model with settings, as the published tables measure it, and a guess of the seconds that eager batches take."""

    model: str
    seconds: tuple[float, float]  # of one image, of `BATCH`
    sampling: Mapping[str, Any] = field(default_factory=dict, hash=False)
    is_quick: bool = False
    dtype: str = DTYPE
    rivals: int = 0  # plain ways that it is compared with

    @property
    def name(self) -> str:
        return "-".join([self.model, *(str(value) for value in self.sampling.values())])


def mar_row(size: str, num_iter: int, seconds: tuple[float, float], **more: Any) -> Row:
    # The release's float16 overflows with random weights, whose predicted noise is zero; bfloat16 is as fast.
    return Row(f"mar-{size}", seconds, {"num_iter": num_iter}, dtype="mixed-bfloat16", **more)


ROWS = (  # MAR-B's seconds were measured, the others are scaled from them by layers, steps and parameters
    mar_row("b", 64, (6, 7), is_quick=True, rivals=2),
    Row("ar-l-384", (4.5, 8), is_quick=True, rivals=2),
    Row("par-xl-4x", (1.7, 5), is_quick=True, rivals=2),
    Row("arpg-l", (0.7, 2), is_quick=True),
    Row("par-3b-16x", (0.5, 4), is_quick=True),
    mar_row("l", 64, (8, 10)),
    mar_row("h", 64, (11.5, 18)),
    Row("ar-xl-384", (6.5, 12)),
    Row("ar-xxl-384", (9, 20)),
    Row("ar-3b-384", (4.5, 25)),
    Row("par-xxl-4x", (2.2, 8)),
    Row("par-3b-4x", (1.2, 10)),
    Row("arpg-xl", (1, 4)),
    Row("arpg-xxl", (1.3, 6)),
    mar_row("b", 256, (24, 26)),
    mar_row("l", 256, (32, 36)),
    mar_row("h", 256, (46, 55)),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A part of a row that is measured by itself: an engine (or the comparison) at a batch size."""

    engine: str
    batch_size: int

    @property
    def part(self) -> str:
        return "latency" if self.batch_size == 1 else "throughput"

    def of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Its figures in a record, or its error; empty where there is neither."""
        return record.get("engines", {}).get(self.engine, {}).get(self.part) or {}

    def is_in(self, record: Mapping[str, Any]) -> bool:
        """Whether it needs no measurement: an error is none."""
        return bool(found := self.of(record)) and "error" not in found

    def guess(self, row: Row) -> float:
        """Seconds that measuring it is guessed to take."""
        batch = row.seconds[0 if self.batch_size == 1 else 1]
        if self.engine == COMPARE:
            return row.rivals * (1 + REPEATS[COMPARE]) * (1 + PLAIN_SHARE) * batch
        if self.engine == "graph":
            return COMPILE + batch * (1 + (1 + REPEATS["graph"]) * GRAPH_SHARE)
        return (1 + REPEATS["eager"]) * batch


def cells(row: Row, engines: Sequence[str]) -> list[Cell]:
    """What is measured of a row, in order."""
    sizes = {COMPARE: (1,) if row.rivals else ()}
    return [Cell(engine=name, batch_size=size) for name in engines for size in sizes.get(name, (1, BATCH))]


class Pace:
    """How often longer than guessed the cells took that were measured, by engine."""

    def __init__(self) -> None:
        self._ratios: dict[str, list[float]] = {}

    def learn(self, row: Row, cell: Cell, seconds: float) -> None:
        self._ratios.setdefault(cell.engine, []).append(seconds / cell.guess(row))

    def estimate(self, row: Row, cell: Cell, before: Mapping[str, Any]) -> float:
        """Seconds for `cell`; more than it took in vain where it was cut off `before`."""
        ratio = statistics.median(self._ratios.get(cell.engine, [1.0]))
        return max(ratio * cell.guess(row), 1.5 * before.get("took_seconds", 0.0))


def short_name(gpu: str) -> str:
    """A GPU's name for a file: "NVIDIA H100 80GB HBM3" is "h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower().removeprefix("nvidia ")).strip("-")


def file_name(row: Row, gpu: str, dtype: str, decode_dtype: str) -> str:
    """The file of a record: row, GPU, and what differs from the usual."""
    parts = [row.name, short_name(gpu)]
    if dtype != DTYPE:
        parts.append(dtype)
    if decode_dtype != DECODE_DTYPE:
        parts.append(f"decode-{decode_dtype}")
    return "-".join(parts) + ".json"


def protocol(row: Row, gpu: str, dtype: str, decode_dtype: str) -> dict[str, Any]:
    """What two measurements must share to stand in one record; the engines in it are added."""
    return {
        "batches": [1, BATCH],
        "dtype": row.dtype if dtype == DTYPE else dtype,
        "decode_dtype": decode_dtype,
        "weights": RANDOM,
        "sampling": {**presets()[row.model].sampling, **row.sampling},
        "repeats": dict(REPEATS),
        "gpu": gpu,
        "versions": versions(),
    }
