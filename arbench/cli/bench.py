"""`arbench bench`: speed alone; random weights do.

The last line of standard output is one JSON object, but on a terminal, where a reader wants the table, only on --json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from arbench.cli import options
from arbench.cli.run import InceptionWeights, parse_batch_size, say

if TYPE_CHECKING:
    from arbench.runs.models import Parts

EXAMPLES = """Examples:

  arbench bench --method mar

  arbench bench --method mar --model mar-l --num-iter 64 --batch-size 64 --dtype bfloat16 --compare

  arbench bench --tokenizer kl16

  arbench bench --method mar --out speed.json

  arbench bench --method mar --tiers --num-images 1000

The last line is one JSON object where the output is no terminal, or with --json.
"""

DEFAULT_REPEATS = 3
TOKENIZER_OPTIONS = (
    *("tokenizer", "tokenizer_weights", "batch_size", "repeats", "device", "dtype", "seed"),
    *("as_json", "out"),
)
TIERS_OPTIONS = ("num_images", "reference", "inception_weights", "runs")
BENCH_OPTIONS = ("batch_size", "repeats", "compare", "tiers", "runs", "as_json", "out")  # and of no run

Repeats = Annotated[int, typer.Option("--repeats", help="Timed batches after the warm-up.")]
Compare = Annotated[
    bool, typer.Option("--compare", help="Also the ratio to the plain head and to no KV cache, measured alternately.")
]
Tiers = Annotated[
    bool, typer.Option("--tiers", help="Approximate ways instead: speed and FID of each beside the exact one.")
]
Runs = Annotated[Path, typer.Option("--runs", help="With --tiers: where the runs of the ways go.")]
Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON on a terminal too.")]
Out = Annotated[Optional[Path], typer.Option("--out", "-o", help="Also write the JSON to this file.")]


def register(app: typer.Typer) -> None:
    """Add `bench` to the app."""
    app.command("bench", epilog=EXAMPLES)(bench)


@options.with_sampling
def bench(
    ctx: typer.Context,
    method: options.Method = None,
    model: options.Model = None,
    tokenizer: options.Tokenizer = None,
    weights: options.Weights = None,
    tokenizer_weights: options.TokenizerWeights = None,
    which: options.Which = "ema",
    batch_size: options.BatchSize = None,
    repeats: Repeats = DEFAULT_REPEATS,
    compare: Compare = False,
    tiers: Tiers = False,
    num_images: options.NumImages = None,
    reference: options.Reference = None,
    inception_weights: InceptionWeights = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
    out: Out = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Precision = "auto",
    decode_dtype: options.DecodeDtype = "float32",
    engine: options.Engine = "auto",
) -> None:
    """Time generator, head and decoder at batch 1 and at --batch-size; a tokenizer alone with --tokenizer alone.

    Weights that are not on this machine are replaced by random ones, but for --tiers, which also scores images.
    """
    chosen = options.given_options(ctx)
    from arbench.runs.request import BatchSize
    from arbench.validation import Count, Seed, check

    for name in TIERS_OPTIONS:
        if name in chosen and not tiers:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} {chosen[name]}: speed alone scores no images; expected --tiers with it")
    batch = None if batch_size is None else parse_batch_size(batch_size)
    if batch is not None:
        check("batch_size", batch, BatchSize)
    check("repeats", repeats, Count)
    check("seed", seed, Seed)
    if out is not None:  # a mistake shows before anything is measured
        out.parent.mkdir(parents=True, exist_ok=True)

    if tiers:
        result = weigh_tiers(batch, repeats, chosen)
    elif tokenizer is not None and method is None and model is None and weights is None:
        result = time_tokenizer(tokenizer, batch, chosen)
    else:
        result = time_generation(batch, repeats, seed, compare, chosen)
    tell(result, as_json or not sys.stdout.isatty(), out)


def tell(result: dict[str, Any], as_json: bool, out: Path | None) -> None:
    """The result as one line of JSON, where it is asked for, and in a file."""
    from arbench.machine.files import write_whole

    line = json.dumps(result, allow_nan=False)
    if out is not None:
        write_whole(out, line + "\n")
        say(str(out))
    if as_json:
        print(line)


def time_generation(
    batch: int | str | None, repeats: int, seed: int, compare: bool, chosen: dict[str, Any]
) -> dict[str, Any]:
    """Measure a generator with its tokenizer, print the table and return what was found."""
    from arbench.bench.generation import bench_generation
    from arbench.bench.table import render

    parts = load_for_speed(chosen)
    engine = chosen.get("engine", "auto")
    result = bench_generation(
        parts, batch_size=batch, repeats=repeats, seed=seed, compare=compare, engine=engine, say=say
    )
    print(render(result))
    return result


def weigh_tiers(batch: int | str | None, repeats: int, chosen: dict[str, Any]) -> dict[str, Any]:
    """Measure the approximate ways beside the exact one, print the table and return what was found."""
    from arbench.bench.approximate import bench_tiers
    from arbench.bench.table import render_tiers
    from arbench.runs.request import RunRequest

    if "compare" in chosen:
        raise ValueError("--compare and --tiers: two benchmarks; expected one of them")
    asked = {name: value for name, value in chosen.items() if name not in BENCH_OPTIONS}
    request = RunRequest.of(**asked, **({"out": chosen["runs"]} if "runs" in chosen else {}))
    result = bench_tiers(request, batch_size=batch, repeats=repeats, say=say)
    print(render_tiers(result))
    return result


def time_tokenizer(name: str, batch: int | str | None, chosen: dict[str, Any]) -> dict[str, Any]:
    """Measure a tokenizer alone, at the size of the images that its first generator makes.

    Raises ValueError for options that mean nothing without a generator.
    """
    foreign = [option for option in chosen if option not in TOKENIZER_OPTIONS]
    if foreign or isinstance(batch, str):
        misplaced = (foreign or ["batch_size"])[0]
        option = f"--{misplaced.replace('_', '-')} {chosen[misplaced]}"
        raise ValueError(f"{option}: not for a tokenizer alone; expected --model NAME with it")
    from arbench.bench.generation import native_size
    from arbench.bench.table import render_tokenizer
    from arbench.bench.tokenizer import bench_tokenizer
    from arbench.machine.hardware import resolve_dtype
    from arbench.runs.choice import find_tokenizer_weights

    weights = chosen.get("tokenizer_weights") or find_tokenizer_weights(name, may_be_random=True)
    result = bench_tokenizer(
        name,
        weights=weights,
        image_size=native_size(name),
        batch_size=batch or 1,
        device=chosen.get("device", "auto"),
        dtype=resolve_dtype("float32" if chosen.get("dtype", "auto") == "auto" else chosen["dtype"]),
        repeats=chosen.get("repeats", DEFAULT_REPEATS),
    )
    print(render_tokenizer(result))
    return {"benchmark": "tokenizer", **result}


def load_for_speed(chosen: dict[str, Any]) -> Parts:
    """The models of the given options; whatever weights are missing are random."""
    from arbench.bench.generation import tokenizer_weights_or_random, weights_or_random
    from arbench.machine.hardware import resolve_device
    from arbench.runs.choice import choose_model
    from arbench.runs.models import load_parts
    from arbench.weights.provenance import read_provenance

    told = read_provenance(chosen.get("weights"))
    model, tokenizer = choose_model(chosen.get("method"), chosen.get("model"), told), chosen.get("tokenizer")
    return load_parts(
        chosen.get("method"),
        model if told is None else chosen.get("model"),
        tokenizer=tokenizer,
        weights=chosen.get("weights") or weights_or_random(model),
        tokenizer_weights=chosen.get("tokenizer_weights") or tokenizer_weights_or_random(tokenizer, model, told),
        which=chosen.get("which", "ema"),
        device=resolve_device(chosen.get("device", "auto")),
        dtype=chosen.get("dtype", "auto"),
        decode_dtype=chosen.get("decode_dtype", "float32"),
        sampling=options.sampling_of(chosen),
    )
