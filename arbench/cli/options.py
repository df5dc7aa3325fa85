"""The shared options: one spelling and one help text everywhere. `None` means: the preset's own setting."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from arbench.generators.methods import method_names
from arbench.settings import SETTINGS, Setting

METHODS = "|".join(method_names())

Method = Annotated[Optional[str], typer.Option("--method", metavar=METHODS, help="What draws (run: also all).")]
Model = Annotated[Optional[str], typer.Option("--model", help="Generator preset, e.g. mar-b.")]
Tokenizer = Annotated[Optional[str], typer.Option("--tokenizer", help="Tokenizer name or module:Class.")]
Weights = Annotated[Optional[str], typer.Option("--weights", help="Generator weights: a file, or 'random'.")]
TokenizerWeights = Annotated[Optional[str], typer.Option("--tokenizer-weights", help="Tokenizer weights file.")]
Which = Annotated[str, typer.Option("--which", help="Weights inside a checkpoint: ema or raw.")]
NumImages = Annotated[Optional[int], typer.Option("--num-images", help="How many images.")]
BatchSize = Annotated[Optional[str], typer.Option("--batch-size", help="Images a batch: a number or 'auto'.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or float64.")]
Seed = Annotated[int, typer.Option("--seed", help="Image i is a function of (seed, i) alone.")]
Out = Annotated[Optional[Path], typer.Option("--out", "-o", help="Where to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Reference = Annotated[Optional[str], typer.Option("--reference", help="Reference name, statistics file or folder.")]
Data = Annotated[Optional[str], typer.Option("--data", help="'digits' or a folder with one folder a class.")]


def with_sampling(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with an option for every sampling setting; it finds those that were given in its context."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(**{name: value for name, value in given.items() if name not in SETTINGS})

    own = inspect.signature(command, eval_str=True).parameters.values()
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_sampling_option(setting))
        for name, setting in SETTINGS.items()
    ]
    wrapped.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {part.name: part.annotation for part in (*own, *added)}
    return wrapped


def _sampling_option(setting: Setting) -> Any:
    """The type of one setting's option, as typer reads it; None means the preset's own setting."""
    choices = "|".join(setting.choices) or None
    option = typer.Option(f"--{setting.name.replace('_', '-')}", help=setting.help, metavar=choices)
    return Annotated[Optional[setting.kind], option]


def given(**options: object) -> dict[str, object]:
    """The options that were really given (not None), by name."""
    return {name: value for name, value in options.items() if value is not None}
