"""`arbench sample`: images for chosen classes as one grid, nothing evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from arbench.cli import options
from arbench.cli.run import ALL, parse_batch_size
from arbench.settings import SETTINGS

if TYPE_CHECKING:
    from arbench.runs.models import Parts

EXAMPLES = """Examples:

  arbench sample --method mar --labels 3,7 --out grid.png

  arbench sample --model mar-b --weights mar-base.safetensors --tokenizer-weights kl16.ckpt --labels 207,monarch

  arbench sample --method all --labels 3,1,4 --film film.gif
"""
DEFAULT_OUT = "grid.png"
DEFAULT_PER_CLASS = 8
DEFAULT_PICTURES = 32
PARTS = ("model", "tokenizer", "weights", "tokenizer_weights", "which")

Labels = Annotated[
    Optional[str], typer.Option("--labels", help="Classes by number, or by name for ImageNet; all of ten by default.")
]
PerClass = Annotated[
    Optional[int],
    typer.Option("--per-class", help="Images a class; 1 of listed labels and in films, else 8.", show_default=False),
]
Target = Annotated[
    Optional[str],
    typer.Option("--out", "-o", help="A .png, .jpg, .webp or .pdf, or a folder (ending in /) for single images."),
]
Film = Annotated[
    Optional[Path],
    typer.Option("--film", help="A .gif, or .mp4 where ffmpeg is: tokens as they are revealed; also of --method all."),
]
Pictures = Annotated[int, typer.Option("--film-pictures", help="Steps that a film shows at most.")]


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
    per_class: PerClass = None,
    seed: options.Seed = 0,
    out: Target = None,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    dtype: options.Precision = "auto",
    decode_dtype: options.DecodeDtype = "float32",
    engine: options.Engine = "auto",
    film: Film = None,
    film_pictures: Pictures = DEFAULT_PICTURES,
) -> None:
    """Draw images for chosen classes and write them as one grid, or singly into a folder, or film how they form."""
    chosen = options.given_options(ctx)
    sampling = options.sampling_of(chosen, set(ctx.params) - set(SETTINGS))
    if film is not None:
        from arbench.cli.film import write_film_of

        images = 1 if per_class is None else per_class
        write_film_of(chosen, sampling, film, per_class=images, pictures=film_pictures)
        return
    if method == ALL:
        raise ValueError("--method all is for films; expected --film FILE with it, or one method")
    target = check_target(out or DEFAULT_OUT)
    if per_class is None:
        per_class = DEFAULT_PER_CLASS if labels is None else 1

    from arbench.machine.progress import image_progress
    from arbench.runs.grid import MOST_ROWS, save_grid, save_singles
    from arbench.runs.request import AUTO, BatchSize
    from arbench.runs.samples import parse_labels, sample_rows
    from arbench.sampling.engine import check_engine
    from arbench.sampling.schedules import one_schedule
    from arbench.validation import Count, Seed, check

    check("per_class", per_class, Count)
    check("seed", seed, Seed)
    batch = parse_batch_size(batch_size or AUTO)
    check("batch_size", batch, BatchSize)
    check_engine(engine)
    parts = load_asked(chosen, sampling)
    num_classes = parts.generator.num_classes
    classes = range(min(num_classes, MOST_ROWS)) if labels is None else parse_labels(labels, num_classes)
    count = len(classes) * per_class
    steps = one_schedule(parts.generator, parts.settings).num_passes
    with image_progress(parts.model, count, 0, steps=steps) as progress:
        rows = sample_rows(
            parts, classes, per_class, seed=seed, batch_size=batch, progress=progress, step=progress.step, engine=engine
        )
    if target.is_dir():
        print(*save_singles(target, rows), sep="\n")
    else:
        save_grid(target, rows)
        print(target)


def load_asked(asked: Mapping[str, Any], sampling: Mapping[str, Any]) -> Parts:
    """The models that the options name, with the `sampling` settings over their preset's.

    Raises ValueError or OSError as `load_parts` does.
    """
    from arbench.machine.hardware import resolve_device
    from arbench.runs.models import load_parts

    return load_parts(
        **{name: asked[name] for name in ("method", *PARTS) if name in asked},
        device=resolve_device(asked.get("device", "auto")),
        dtype=asked.get("dtype", "auto"),
        decode_dtype=asked.get("decode_dtype", "float32"),
        sampling=sampling,
    )


def check_target(text: str) -> Path:
    """Where to write, its folder made; before anything is drawn.

    A folder is one that exists or a name that ends in a slash. Raises ValueError for a suffix of no picture, OSError
    where nothing can be written.
    """
    from arbench.runs.grid import check_format

    path = Path(text)
    if path.is_dir() or text.endswith("/"):
        path.mkdir(parents=True, exist_ok=True)
        return path
    check_format(path, "suffix of --out (a folder ends in /)")
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent} is no folder; expected one to write {path.name} into")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
