"""Full-size models on this GPU, batch 1 and 64: the eager engine beside graphs, one record a row, and their table.

First the tests marked `gpu`, a file at a time, but for files that passed on this GPU with this code; then the rows, the
most telling first. Some are also drawn in the plain ways of `arbench bench --compare`. Tests and rows share --budget:
what would not fit by its estimate is left, and the command that goes on is printed. What a record of this protocol
holds is not measured again; what failed is. Weights are random: speed does not depend on their values.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gpu_rows import (
    COMPARE,
    DECODE_DTYPE,
    DTYPE,
    ENGINES,
    LOAD,
    REPEATS,
    ROWS,
    TEST_FILE,
    Cell,
    Pace,
    Row,
    cells,
    file_name,
    protocol,
    short_name,
)

from arbench.bench.generation import bench_batch, compare_rivals, describe, find_bounds
from arbench.bench.table import comparisons
from arbench.machine.files import write_whole
from arbench.machine.fused import EngineWarning, forget_compiled
from arbench.machine.hardware import describe_hardware, resolve_device, resolve_dtype, versions
from arbench.machine.precision import Precision
from arbench.registry import unknown_name
from arbench.runs.choice import RANDOM
from arbench.runs.models import Parts, load_parts

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "results" / "records" / "gpu"
COMMAND = "bash scripts/gpu_bench.sh"
BUDGET = 1140.0  # seconds: a minute less than twenty minutes
CUT_OFF = "cut off, the time was over"
HEAD = (
    "| model | batch | eager, ms | graphs, ms | eager / graphs | floor, ms | graphs / floor | decode, ms |",
    "|---|---|---|---|---|---|---|---|",
)


class TimeIsOver(BaseException):
    """Raised wherever the program is when its budget is spent."""


class Budget:
    """Seconds for everything together, counted from when it is made."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    @contextmanager
    def held(self) -> Iterator[None]:
        """`TimeIsOver` in the middle of what runs inside, when the time comes."""

        def stop(*_: object) -> None:
            raise TimeIsOver

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(self.left, 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def code_hash() -> str:
    """SHA-256 of all Python files that the tests marked `gpu` can depend on."""
    digest = hashlib.sha256()
    for folder in ("arbench", "tokenizers", "tests"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def gpu_test_files() -> list[str]:
    return sorted(f"tests/{file.name}" for file in (ROOT / "tests").glob("test_*.py") if "mark.gpu" in file.read_text())


def run_tests(file: str, seconds: float) -> bool | None:
    """Whether the tests marked `gpu` in `file` pass; None where they take longer than `seconds`."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-s", file]
    try:
        return subprocess.run(command, cwd=ROOT, timeout=seconds, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return None


def check_tests(files: Sequence[str], path: Path, shared: Mapping[str, Any], budget: Budget) -> tuple[list[str], bool]:
    """Run what has not passed yet under `shared`, as `path` tells; what is left to run, and whether a file failed."""
    told, left, has_failed = read_json(path), [], False
    passed: dict[str, float] = dict(told["passed"]) if told.get("protocol") == shared else {}
    for file in files:
        if file in passed:
            print(f"{file}: passed before with this code, on this GPU", flush=True)
            continue
        # Seconds of other code, where there are any, are the better guess.
        if max(told.get("passed", {}).get(file, TEST_FILE), 1.0) > budget.left:
            left.append(file)
            continue
        start = time.monotonic()
        found = run_tests(file, budget.left)
        if found:
            passed[file] = round(time.monotonic() - start, 1)
            write_json(path, {"protocol": shared, "passed": passed})
        elif found is None:
            left.append(file)
        else:
            has_failed = True
            print(f"{file}: failed; the speeds below stand all the same", flush=True)
    return left, has_failed


def load(row: Row, device: torch.device, shared: Mapping[str, Any]) -> Parts:
    """The models of a row with random weights."""
    return load_parts(
        model=row.model,
        weights=RANDOM,
        tokenizer_weights=RANDOM,
        device=device,
        dtype=shared["dtype"],
        decode_dtype=shared["decode_dtype"],
        sampling=dict(row.sampling),
    )


def measure(parts: Parts, cell: Cell) -> dict[str, Any]:
    """The figures of a cell. Raises EngineWarning where its engine falls back to another."""
    if cell.engine == COMPARE:
        pairs = compare_rivals(parts, cell.batch_size, REPEATS[COMPARE], 0, lambda line: None)
        return {"batch_size": cell.batch_size, "engine": "eager", "against": pairs}
    bounds, repeats = find_bounds(parts), REPEATS[cell.engine]
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineWarning)
        return bench_batch(parts, cell.batch_size, bounds=bounds, repeats=repeats, engine=cell.engine, launches=False)


@contextmanager
def attempt(found: dict[str, Any]) -> Iterator[None]:
    """Into `found` the seconds that the inside takes, and its error or that it was cut off."""
    start = time.monotonic()
    try:
        yield
    except (ValueError, RuntimeError, OSError, EngineWarning) as error:
        found["error"] = str(error).strip().partition("\n")[0] or type(error).__name__
    except TimeIsOver:
        found["error"] = CUT_OFF
    found["took_seconds"] = round(time.monotonic() - start, 1)


def measure_row(
    row: Row, record: dict[str, Any], missing: Sequence[Cell], device: torch.device, budget: Budget, pace: Pace
) -> Iterator[Cell]:
    """Measure the `missing` cells into `record`, but for those that do not fit; a cell is yielded when it is in."""
    parts: Parts | None = None
    failure: dict[str, Any] = {}
    for cell in missing:
        fits = pace.estimate(row, cell, cell.of(record)) + (LOAD if parts is None else 0) <= budget.left
        if not (fits or failure):
            continue
        described, found = record["engines"].setdefault(cell.engine, {}), dict(failure)
        if parts is None and not failure:
            with attempt(failure):
                parts = load(row, device, record["protocol"])
            found.update(failure)
        if parts is not None:
            failure.clear()
            with attempt(found):
                described.update(describe(parts, cell.batch_size, find_bounds(parts), 0), engine=cell.engine)
                found.update(measure(parts, cell))
            if "error" not in found:
                pace.learn(row, cell, found["took_seconds"])
        described[cell.part] = found
        record["protocol"]["engines"] = [name for name in ENGINES if name in record["engines"]]
        yield cell
        if "error" in found:  # what could not be compiled for one cell is tried again for the next
            forget_compiled()
        if device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
    forget_compiled()


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Milliseconds an image by engine and batch, the ratio, and how often the roofline's floor graphs take."""
    return "\n".join([*HEAD, *(line for record in records for line in table_lines(record))])


def table_lines(record: Mapping[str, Any]) -> list[str]:
    """A line for each batch size."""
    lines = []
    for part, size in zip(("latency", "throughput"), record["protocol"]["batches"], strict=True):
        eager, graph = (record["engines"].get(engine, {}).get(part, {}) for engine in ("eager", "graph"))
        slow, fast = eager.get("seconds_per_image"), graph.get("seconds_per_image")
        floor = (graph if fast else eager).get("floor_seconds_per_image")
        cells = [
            record["row"],
            str(size),
            f"{1e3 * slow:.4g}" if slow else eager.get("error", "not measured"),
            f"{1e3 * fast:.4g}" if fast else graph.get("error", "not measured"),
            f"{slow / fast:.2f}" if slow and fast else "–",
            f"{1e3 * floor:.4g}" if floor else "–",
            f"{fast / floor:.2f}" if fast and floor else "–",
            f"{1e3 * graph['phases'].get('decode', 0):.3g}" if fast else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def compared_lines(record: Mapping[str, Any]) -> list[str]:
    """A line for each plain way that the row was compared with."""
    found = record["engines"].get(COMPARE, {}).get("latency", {})
    return [f"{record['row']} {line}" for line in comparisons(found.get("against", []))]


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The options. Raises ValueError for an unknown row, engine or dtype."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rows")
    parser.add_argument("--rows", default="", help="names of rows, separated by commas")
    parser.add_argument("--engines", default=",".join(ENGINES), help="of these, separated by commas")
    parser.add_argument("--dtype", default=DTYPE)
    parser.add_argument("--decode-dtype", default=DECODE_DTYPE)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tests", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for tests and rows together")
    parser.add_argument("--spent", type=float, default=0.0, help="seconds of the budget that are gone already")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args(words)
    given.rows = [name for name in given.rows.split(",") if name]
    given.engines = [name for name in given.engines.split(",") if name]
    for kind, names, known in (("row", given.rows, [row.name for row in ROWS]), ("engine", given.engines, ENGINES)):
        for name in names:
            if name not in known:
                raise unknown_name(kind, name, known)
    if given.dtype != DTYPE:
        Precision.of(given.dtype)
    resolve_dtype(given.decode_dtype, "decode_dtype")
    return given


def bench(given: argparse.Namespace, device: torch.device, again: str) -> int:
    """Tests and rows within the budget, then what was found and what is left; 1 where a test or a row failed."""
    budget, gpu = Budget(given.budget - given.spent), describe_hardware(device)["name"]
    left, has_failed = [], False
    if given.tests:
        shared = {"gpu": gpu, "versions": versions(), "code": code_hash()}
        path = given.out / f"tests-{short_name(gpu)}.json"
        left, has_failed = check_tests(gpu_test_files(), path, shared, budget)
    rows = [row for row in ROWS if (row.name in given.rows if given.rows else row.is_quick or not given.quick)]
    kept = {row: open_record(row, gpu, given) for row in rows}
    fill(kept, given.engines, device, budget)
    records = [record for _, record in kept.values() if record["engines"]]
    print(f"\n{gpu}, {given.dtype}, decoded in {given.decode_dtype}\n\n{table(records)}\n")
    print("\n".join(line for record in records for line in compared_lines(record)))
    for row, (_, record) in kept.items():
        missing = [cell for cell in cells(row, given.engines) if not cell.is_in(record)]
        left += [f"{row.name}, {cell.engine}, batch {cell.batch_size}" for cell in missing]
        has_failed |= any(cell.of(record).get("error", CUT_OFF) != CUT_OFF for cell in missing)
    if left:
        print("\n".join(["", *(f"left: {what}" for what in left), f"go on with: {again}"]))
    return int(has_failed)


def open_record(row: Row, gpu: str, given: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The file of a row and its record there; an empty one where there is none of this protocol."""
    path = given.out / file_name(row, gpu, given.dtype, given.decode_dtype)
    shared, record = protocol(row, gpu, given.dtype, given.decode_dtype), read_json(path)
    if {**record.get("protocol", {}), "engines": None} == {**shared, "engines": None}:
        return path, record
    return path, {"row": row.name, "protocol": shared, "engines": {}}


def fill(
    kept: Mapping[Row, tuple[Path, dict[str, Any]]], engines: Sequence[str], device: torch.device, budget: Budget
) -> None:
    """Measure what the records lack, as far as the budget goes; each is written when a part of it is in."""
    pace, wanted = Pace(), {row: cells(row, engines) for row in kept}
    try:
        with budget.held():
            for row, (path, record) in kept.items():
                missing = [cell for cell in wanted[row] if not cell.is_in(record)]
                for cell in measure_row(row, record, missing, device, budget, pace):
                    write_json(path, record)
                    print(
                        f"{row.name}, {cell.engine}, batch {cell.batch_size}: {in_words(cell.of(record))}", flush=True
                    )
    except TimeIsOver:
        print(CUT_OFF, flush=True)


def in_words(found: Mapping[str, Any]) -> str:
    """A cell in a few words."""
    if "seconds_per_image" in found:
        return f"{1e3 * found['seconds_per_image']:.4g} ms an image, {found['took_seconds']:.0f} s"
    return found.get("error") or f"{len(found['against'])} plain ways, {found['took_seconds']:.0f} s"


def main(words: Sequence[str]) -> int:
    """The exit code: 2 for a mistake, told in one line, 1 where a test or a row failed."""
    try:
        given = parse(words)
        device = resolve_device(given.device)
    except ValueError as error:
        print(f"gpu_bench: {error}", file=sys.stderr)
        return 2
    kept = [word for word in words if not word.startswith("--spent")]
    return bench(given, device, shlex.join([*COMMAND.split(), *kept]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
