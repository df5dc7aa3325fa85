"""The shared options: one spelling and one help text everywhere. `None` means: the preset's own setting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

SAMPLING_PANEL = "Sampling"

Method = Annotated[Optional[str], typer.Option("--method", help="mar, par or ar (run: also all).")]
Model = Annotated[Optional[str], typer.Option("--model", help="Generator preset, e.g. mar-b.")]
Tokenizer = Annotated[Optional[str], typer.Option("--tokenizer", help="Tokenizer name or module:Class.")]
Weights = Annotated[Optional[str], typer.Option("--weights", help="Generator weights: a file, or 'random'.")]
TokenizerWeights = Annotated[Optional[str], typer.Option("--tokenizer-weights", help="Tokenizer weights file.")]
Which = Annotated[str, typer.Option("--which", help="Weights inside a checkpoint: ema or raw.")]
NumImages = Annotated[Optional[int], typer.Option("--num-images", help="How many images.")]
BatchSize = Annotated[Optional[str], typer.Option("--batch-size", help="Images a batch: a number or 'auto'.")]
NumIter = Annotated[Optional[int], typer.Option("--num-iter", help="MAR: autoregressive iterations.")]
CfgScale = Annotated[Optional[float], typer.Option("--cfg-scale", help="Classifier-free guidance; 1 is none.")]
CfgSchedule = Annotated[Optional[str], typer.Option("--cfg-schedule", help="MAR: linear or constant.")]
CfgInterval = Annotated[Optional[int], typer.Option("--cfg-interval", help="AR, PAR: last guided step; -1 is all.")]
Temperature = Annotated[Optional[float], typer.Option("--temperature", help="0 is greedy for AR and PAR.")]
TopK = Annotated[Optional[int], typer.Option("--top-k", help="AR, PAR: keep the k likeliest codes; 0 keeps all.")]
TopP = Annotated[Optional[float], typer.Option("--top-p", help="AR, PAR: nucleus mass; 1 keeps all.")]
HeadSteps = Annotated[Optional[int], typer.Option("--head-steps", help="MAR: diffusion steps a token.")]
HeadSampler = Annotated[Optional[str], typer.Option("--head-sampler", help="MAR: sampler of the diffusion head.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or float64.")]
Seed = Annotated[int, typer.Option("--seed", help="Image i is a function of (seed, i) alone.")]
Out = Annotated[Optional[Path], typer.Option("--out", "-o", help="Where to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Reference = Annotated[Optional[str], typer.Option("--reference", help="Reference name, statistics file or folder.")]
Data = Annotated[Optional[str], typer.Option("--data", help="'digits' or a folder with one folder a class.")]

SAMPLING_NAMES = (
    "num_iter",
    "cfg_scale",
    "cfg_schedule",
    "cfg_interval",
    "temperature",
    "top_k",
    "top_p",
    "head_steps",
    "head_sampler",
)


def given(**options: object) -> dict[str, object]:
    """The options that were really given (not None), by name."""
    return {name: value for name, value in options.items() if value is not None}
