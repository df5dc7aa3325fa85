"""Full-size models on this GPU, batch 1 and 64: the eager engine beside graphs, one record a row, and their table.

Weights are random: speed does not depend on their values. A row whose record is there, of this protocol, is not
measured again, so that a run that was cut off goes on: `python scripts/gpu_bench.py [--quick] [--rows mar-b-64,..]`.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from arbench.bench.generation import bench_generation
from arbench.machine.files import write_whole
from arbench.machine.hardware import describe_hardware, resolve_device, versions
from arbench.runs.choice import RANDOM
from arbench.runs.models import load_parts

FOLDER = Path(__file__).resolve().parent.parent / "results" / "records" / "gpu"
BATCH = 64
ENGINES = ("graph", "eager")
REPEATS = {"graph": 3, "eager": 1}  # the eager engine is bound by the host, and steady


@dataclass(frozen=True)
class Row:
    """A model with settings, as the published tables measure it."""

    model: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    is_quick: bool = False
    dtype: str = "auto"

    @property
    def name(self) -> str:
        return "-".join([self.model, *(str(value) for value in self.sampling.values())])


def mar_row(size: str, num_iter: int, is_quick: bool = False) -> Row:
    # The release's float16 overflows with random weights, whose predicted noise is zero; bfloat16 is as fast.
    return Row(f"mar-{size}", {"num_iter": num_iter}, is_quick, "mixed-bfloat16")


ROWS = (
    mar_row("b", 64, True),
    Row("ar-l-384", is_quick=True),
    Row("par-xl-4x", is_quick=True),
    Row("arpg-l", is_quick=True),
    Row("par-3b-16x", is_quick=True),
    mar_row("l", 64),
    mar_row("h", 64),
    Row("ar-xl-384"),
    Row("ar-xxl-384"),
    Row("ar-3b-384"),
    Row("par-xxl-4x"),
    Row("par-3b-4x"),
    Row("arpg-xl"),
    Row("arpg-xxl"),
    mar_row("b", 256),
    mar_row("l", 256),
    mar_row("h", 256),
)


def protocol(device: torch.device, dtype: str, decode_dtype: str) -> dict[str, Any]:
    """What two records must share to stand in one table."""
    facts = describe_hardware(device)
    shared = {"batches": [1, BATCH], "dtype": dtype, "decode_dtype": decode_dtype, "weights": RANDOM}
    return {**shared, "gpu": facts["name"], "versions": versions()}


def measure(row: Row, device: torch.device, dtype: str, decode_dtype: str, engines: tuple[str, ...]) -> dict[str, Any]:
    """The benchmark of one row by each engine; what failed is told in place of its figures."""
    parts = load_parts(
        model=row.model,
        weights=RANDOM,
        tokenizer_weights=RANDOM,
        device=device,
        dtype=row.dtype if dtype == "auto" else dtype,
        decode_dtype=decode_dtype,
        sampling=dict(row.sampling),
    )
    found: dict[str, Any] = {}
    for engine in engines:
        start = time.perf_counter()
        try:
            given: dict[str, Any] = {"batch_size": BATCH, "repeats": REPEATS[engine], "engine": engine}
            found[engine] = bench_generation(parts, **given, launches=False)
        except (ValueError, RuntimeError) as error:
            found[engine] = {"error": str(error).strip().partition("\n")[0]}
        found[engine]["took_seconds"] = round(time.perf_counter() - start, 1)
        gc.collect()
        torch.cuda.empty_cache()
        torch._dynamo.reset()  # compilations of a layer are counted over all models that have it
    return found


def table(records: list[dict[str, Any]]) -> str:
    """Milliseconds an image by engine and batch, the ratio, and how often the roofline's floor graphs take."""
    lines = [
        "| model | batch | eager, ms | graphs, ms | eager / graphs | floor, ms | graphs / floor | decode, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        for part in ("latency", "throughput"):
            eager, graph = (record["engines"].get(engine, {}).get(part) for engine in ("eager", "graph"))
            if graph is None:
                reason = record["engines"].get("graph", {}).get("error", "not measured")
                lines.append(f"| {record['row']} | {part} | {reason} | | | | | |")
                continue
            floor = graph["floor_seconds_per_image"]
            took = graph["seconds_per_image"]
            cells = [
                record["row"],
                str(graph["batch_size"]),
                "–" if eager is None else f"{1e3 * eager['seconds_per_image']:.4g}",
                f"{1e3 * took:.4g}",
                "–" if eager is None else f"{eager['seconds_per_image'] / took:.2f}",
                "–" if floor is None else f"{1e3 * floor:.4g}",
                "–" if floor is None else f"{took / floor:.2f}",
                f"{1e3 * graph['phases'].get('decode', 0):.3g}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rows")
    parser.add_argument("--rows", default="", help="names of rows, separated by commas")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--decode-dtype", default="float32")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=1000.0, help="seconds after which no further row is begun")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    device, begun = resolve_device(given.device), time.perf_counter()
    asked = [name for name in given.rows.split(",") if name]
    rows = [row for row in ROWS if (row.name in asked if asked else row.is_quick or not given.quick)]
    shared, records = protocol(device, given.dtype, given.decode_dtype), []
    for row in rows:
        path = given.out / f"{row.name}.json"
        record = json.loads(path.read_text()) if path.exists() else {}
        if record.get("protocol") != shared:
            if time.perf_counter() - begun > given.budget:
                print(f"{row.name}: not measured, the time is over", flush=True)
                continue
            engines = measure(row, device, given.dtype, given.decode_dtype, tuple(given.engines.split(",")))
            record = {"row": row.name, "protocol": shared, "engines": engines}
            given.out.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(record, indent=1) + "\n")
        records.append(record)
        print("\n".join(table([record]).splitlines()[2:]), flush=True)
    took = time.perf_counter() - begun
    print(f"\n{shared['gpu']}, {given.dtype}, decoded in {given.decode_dtype}, {took:.0f} s\n\n{table(records)}")


if __name__ == "__main__":
    main()
