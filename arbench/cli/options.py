"""The shared options: one spelling and one help text everywhere. `None` means: the preset's own setting."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from arbench.generators.methods import all_settings, method_by_module, method_names
from arbench.registry import unknown_name
from arbench.settings import SETTINGS, Setting

METHODS = "|".join(method_names())
SET = "set"  # the option by which a plug-in's settings are given

Method = Annotated[
    Optional[str], typer.Option("--method", metavar=METHODS, help="What draws; run and sample also take all.")
]
Model = Annotated[Optional[str], typer.Option("--model", help="Generator preset, e.g. mar-b.")]
Tokenizer = Annotated[Optional[str], typer.Option("--tokenizer", help="Tokenizer name or module:Class.")]
Weights = Annotated[Optional[str], typer.Option("--weights", help="Generator weights: a file, or 'random'.")]
TokenizerWeights = Annotated[Optional[str], typer.Option("--tokenizer-weights", help="Tokenizer weights file.")]
Which = Annotated[str, typer.Option("--which", help="Weights inside a checkpoint: ema or raw.")]
NumImages = Annotated[Optional[int], typer.Option("--num-images", help="How many images.")]
BatchSize = Annotated[Optional[str], typer.Option("--batch-size", help="Images a batch: a number or 'auto'.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or float64.")]
Precision = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="auto (float32; on CUDA what the release is evaluated in), float32, bfloat16, float16, float64, "
        "mixed-float16 or mixed-bfloat16 (half precision in products alone).",
    ),
]
DecodeDtype = Annotated[
    str,
    typer.Option("--decode-dtype", help="The tokenizer's: float32, or bfloat16 for speed, which shows in the images."),
]
Engine = Annotated[str, typer.Option("--engine", help="auto, eager or graph (CUDA graphs): speed, not images.")]
Seed = Annotated[int, typer.Option("--seed", help="Image i is a function of (seed, i) alone.")]
Out = Annotated[Optional[Path], typer.Option("--out", "-o", help="Where to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Reference = Annotated[Optional[str], typer.Option("--reference", help="Reference name, statistics file or folder.")]
Data = Annotated[
    Optional[str],
    typer.Option("--data", help="'digits', a folder with one folder a class, shards:GLOB (tars) or hf:NAME[:SPLIT]."),
]
Log = Annotated[Optional[str], typer.Option("--log", help="Where numbers go too: tensorboard, wandb; several as a,b.")]

Set = Annotated[
    Optional[list[str]],
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of a plug-in's method; repeatable."),
]


def with_sampling(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with an option for every sampling setting, and `--set`; `given_options` tells those that were given."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(**{name: value for name, value in given.items() if name not in (*SETTINGS, SET)})

    own = inspect.signature(command, eval_str=True).parameters.values()
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_sampling_option(setting))
        for name, setting in SETTINGS.items()
    ]
    added.append(inspect.Parameter(SET, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Set))
    wrapped.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {part.name: part.annotation for part in (*own, *added)}
    return wrapped


def _sampling_option(setting: Setting) -> Any:
    """The type of one setting's option, as typer reads it; None means the preset's own setting."""
    choices = "|".join(setting.choices) or None
    option = typer.Option(f"--{setting.name.replace('_', '-')}", help=setting.help, metavar=choices)
    return Annotated[Optional[setting.kind], option]


def given_options(ctx: typer.Context) -> dict[str, Any]:
    """The options on the command line, by name; what was left at its default is not among them.

    What `--set` says stands under the setting's own name. Raises ValueError where it says what is none.
    """
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    asked = {name: ctx.params[name] for name, source in sources.items() if source and source.name != "DEFAULT"}
    pairs = asked.pop(SET, ())
    if pairs and ":" in asked.get("model", ""):
        method_by_module(asked["model"])  # its settings are known from here on
    for pair in pairs:
        name, value = read_setting(pair)
        if name in asked:
            raise ValueError(f"--set {pair}: {name} is given twice")
        asked[name] = value
    return asked


def read_setting(pair: str) -> tuple[str, Any]:
    """Name and value of `NAME=VALUE`. Raises ValueError for an unknown name and a value out of range."""
    name, equals, text = pair.partition("=")
    name = name.strip().replace("-", "_")
    if not equals:
        raise ValueError(f"--set {pair}: expected NAME=VALUE")
    known = all_settings()
    if name not in known:
        raise unknown_name("sampling setting", name, known)
    return name, known[name].read(text.strip())


def sampling_of(asked: Mapping[str, Any], others: Collection[str] = ()) -> dict[str, Any]:
    """The sampling settings among the given options, of which `others` are none."""
    known = all_settings()
    return {name: value for name, value in asked.items() if name not in others and name in known}
