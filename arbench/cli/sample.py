"""`arbench sample`: images for chosen classes as one grid, nothing evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from arbench.cli import options
from arbench.cli.run import given_options, parse_batch_size
from arbench.registry import unknown_name
from arbench.settings import SETTINGS

EXAMPLES = """Examples:

  arbench sample --method mar --labels 3,7 --out grid.png

  arbench sample --model mar-b --weights mar-base.safetensors --tokenizer-weights kl16.ckpt --labels 207,monarch
"""
DEFAULT_OUT = Path("grid.png")
DEFAULT_PER_CLASS = 8

Labels = Annotated[
    Optional[str], typer.Option("--labels", help="Classes by number, or by name for ImageNet; all of ten by default.")
]
PerClass = Annotated[int, typer.Option("--per-class", help="Images a class.")]


def register(app: typer.Typer) -> None:
    """Add `sample` to the app."""
    app.command("sample", epilog=EXAMPLES)(sample)


@options.with_sampling
def sample(
    ctx: typer.Context,
    method: options.Method = None,
    model: options.Model = None,
    tokenizer: options.Tokenizer = None,
    weights: options.Weights = None,
    tokenizer_weights: options.TokenizerWeights = None,
    which: options.Which = "ema",
    labels: Labels = None,
    per_class: PerClass = DEFAULT_PER_CLASS,
    seed: options.Seed = 0,
    out: options.Out = None,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
) -> None:
    """Draw images for chosen classes and write them as one grid, a row a class."""
    target = check_target(out or DEFAULT_OUT)
    chosen = given_options(ctx)

    from arbench.hardware import resolve_device, resolve_dtype
    from arbench.noise import check_seed
    from arbench.parts import load_parts
    from arbench.progress import image_progress
    from arbench.running.job import AUTO, count_steps, require_batch_size, require_whole
    from arbench.running.samples import parse_labels, sample_rows
    from arbench.sampling.grid import MOST_ROWS, save_grid

    require_whole("per_class", per_class, 1)
    check_seed(seed)
    batch = parse_batch_size(batch_size or AUTO)
    require_batch_size(batch)
    parts = load_parts(
        method,
        model,
        tokenizer=tokenizer,
        weights=weights,
        tokenizer_weights=tokenizer_weights,
        which=which,
        device=resolve_device(device),
        dtype=resolve_dtype(dtype),
        sampling={name: chosen[name] for name in SETTINGS if name in chosen},
    )
    num_classes = parts.generator.num_classes
    classes = range(min(num_classes, MOST_ROWS)) if labels is None else parse_labels(labels, num_classes)
    count = len(classes) * per_class
    with image_progress(parts.model, count, 0, steps=count_steps(parts)) as progress:
        rows = sample_rows(
            parts, classes, per_class, seed=seed, batch_size=batch, progress=progress, step=progress.step
        )
    save_grid(target, rows)
    print(target)


def check_target(path: Path) -> Path:
    """`path`, its folder made; before anything is drawn. ValueError unless it ends in .png, OSError if unwritable."""
    if path.suffix.lower() != ".png":
        raise unknown_name("suffix of --out", path.suffix, [".png"])
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent} is no folder; expected one to write {path.name} into")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a PNG file")
    return path
