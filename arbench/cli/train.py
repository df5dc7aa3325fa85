"""`arbench train`: classifiers, tokenizers and generators; `arbench cache`: latents and codes computed beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperCommand

from arbench.cli import evaluating, learning, options
from arbench.cli.jobs import asked_jobs
from arbench.cli.screen import tell
from arbench.machine.progress import progress_bar
from arbench.registry import unknown_name

if TYPE_CHECKING:
    from arbench.training.job import Job

TRAIN_EXAMPLES = """Examples:

  arbench train --config digits --target mar-digits

  arbench train --config digits --target all --out runs/train

  arbench train --model mar-l --data DIR --tokenizer-weights kl16.ckpt

  arbench train --model mar-b --data DIR --tokenizer-weights kl16.ckpt --batch-size 256 --accumulate 4 --recompute

  arbench train --model ar-3b --plan 64

  arbench train --tokenizer llamagen-vq --data DIR

  arbench train --model mar-l --data DIR --tokenizer-weights kl16.ckpt --no-cache --workers 8

  arbench train --experiment par/table4 --row a-without --data DIR --tokenizer-weights vq_ds16_c2i.pt

  arbench train --config digits --target mar-digits --eval-steps 1000 --log tensorboard

  arbench train --model mar-l --data DIR --tokenizer-weights kl16.ckpt --eval-every 40 --eval-reference adm-train-256

  arbench train --method mar --tokenizer my_module:MyTokenizer --data DIR --size 64

  arbench train --config runs/train/mar-digits/config.yaml --out again

  torchrun --nproc_per_node=8 -m arbench train --model mar-b --data DIR --tokenizer-weights kl16.ckpt --resume auto

  torchrun --nproc_per_node=8 -m arbench train --model ar-3b --data DIR --tokenizer-weights vq_ds16_c2i.pt --shard
"""
CACHE_EXAMPLES = """Examples:

  arbench cache --model mar-l --data DIR --tokenizer-weights kl16.ckpt --cache cache

  arbench cache --plan --model ar-3b --data DIR --tokenizer-weights vq_ds16_c2i.pt

  arbench cache --tokenizer kl16 --tokenizer-weights kl16.ckpt --data DIR --size 256 --view-set mirror --cache cache

  arbench cache --tokenizer digits-kl --views 8 --out runs/cache

  arbench cache --tokenizer kl16 --tokenizer-weights kl16.ckpt --data DIR --size 256 --flip --views 2 --out DIR

  arbench cache --plan --tokenizer kl16 --tokenizer-weights kl16.ckpt --data DIR --size 256 --views 2

  torchrun --nproc_per_node=8 -m arbench cache --tokenizer kl16 --tokenizer-weights kl16.ckpt --data DIR --size 256
"""
DEFAULT_OUT = Path("runs/train")
TRAINED_ON = ("cuda", "cpu")  # by themselves; MPS where it is asked for: nobody has trained there yet
AUTO = "--resume-auto"  # an earlier spelling, and what the parser is given: its flags take no value

ExperimentName = Annotated[
    Optional[str], typer.Option("--experiment", help="A paper's table, e.g. mar/table1, or a file: my.yaml.")
]
RowName = Annotated[Optional[str], typer.Option("--row", help="The row of the experiment whose generator is trained.")]
Config = Annotated[Optional[str], typer.Option("--config", help="Recipes (digits), or a config.yaml.")]
Target = Annotated[Optional[str], typer.Option("--target", help="What to train of a set of recipes, or 'all'.")]
Steps = Annotated[Optional[int], typer.Option("--steps", help="Optimiser steps; the recipe's where not given.")]
TrainBatch = Annotated[Optional[int], typer.Option("--batch-size", help="Images a step.")]
Rate = Annotated[Optional[float], typer.Option("--learning-rate", help="Peak learning rate.")]
Init = Annotated[Optional[str], typer.Option("--init", help="Weights to start from (--which of them).")]
Size = Annotated[Optional[int], typer.Option("--size", help="Image side in pixels; ADM's centre crop brings it there.")]
Epochs = Annotated[Optional[float], typer.Option("--epochs", help="Length in epochs, in place of --steps.")]
Accumulate = Annotated[Optional[int], typer.Option("--accumulate", min=1, help="Micro-batches a process and step.")]
Shard = Annotated[
    Optional[bool], typer.Option("--shard/--no-shard", help="FSDP2 rather than DDP; left out, for large models.")
]
Recompute = Annotated[bool, typer.Option("--recompute", help="Compute blocks anew rather than keep activations.")]
Compile = Annotated[
    Optional[bool],
    typer.Option("--compile/--no-compile", help="torch.compile the blocks; left out, as the recipe says on CUDA."),
]
CacheFolder = Annotated[Optional[str], typer.Option("--cache", help="Folder of token caches that runs share.")]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Encode images in the step that asks for them, each epoch in another view.")
]
Workers = Annotated[
    Optional[int],
    typer.Option("--workers", min=0, help="Processes that read images, beside each that computes; 0: none."),
]
Relist = Annotated[bool, typer.Option("--relist", help="List the folder of images anew, whatever its index says.")]
KeepLast = Annotated[int, typer.Option("--keep-last", help="Newest checkpoints that stay.")]
KeepEvery = Annotated[int, typer.Option("--keep-every", help="Steps between checkpoints that stay for good; 0: none.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with an interrupted run; --resume auto: where there is one, else begin.")
]
ResumeAuto = Annotated[bool, typer.Option(AUTO, hidden=True, help="As --resume auto.")]
Plan = Annotated[
    Optional[int], typer.Option("--plan", min=1, help="Say what training on so many GPUs takes, and train nothing.")
]
Views = Annotated[
    Optional[int], typer.Option("--views", min=1, help="Random views of each image; 1 where nothing else is said.")
]
ViewSet = Annotated[
    Optional[str], typer.Option("--view-set", help="random (--views), mirror (2 views) or ten-crop (20 views).")
]
CacheSeed = Annotated[Optional[int], typer.Option("--seed", help="Of random views.")]
Flip = Annotated[bool, typer.Option("--flip", help="Mirror views at random.")]


class TrainCommand(TyperCommand):
    """`train`, whose `--resume` may be followed by `auto`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_auto(args))


def with_auto(words: list[str]) -> list[str]:
    """`--resume auto` as the one word that the parser knows; ValueError where something else follows `--resume=`."""
    joined: list[str] = []
    for word in words:
        if word == "auto" and joined[-1:] == ["--resume"]:
            word = f"{joined.pop()}=auto"
        name, equals, value = word.partition("=")
        if name == "--resume" and equals:
            if value != "auto":
                raise unknown_name("value of --resume", value, ["auto"])
            word = AUTO
        joined.append(word)
    return joined


def register(app: typer.Typer) -> None:
    """Add `train` and `cache` to the app."""
    app.command("train", epilog=TRAIN_EXAMPLES, cls=TrainCommand)(train)
    app.command("cache", epilog=CACHE_EXAMPLES)(cache)


def train(
    config: Config = None,
    target: Target = None,
    method: options.Method = None,
    model: options.Model = None,
    experiment: ExperimentName = None,
    row: RowName = None,
    data: options.Data = None,
    tokenizer: options.Tokenizer = None,
    tokenizer_weights: options.TokenizerWeights = None,
    init: Init = None,
    which: options.Which = "ema",
    steps: Steps = None,
    batch_size: TrainBatch = None,
    learning_rate: Rate = None,
    size: Size = None,
    views: Annotated[Optional[int], typer.Option("--views", help="Augmented views of each image.")] = None,
    seed: Annotated[Optional[int], typer.Option("--seed", help="Start, data order and augmentation.")] = None,
    device: options.Device = "auto",
    dtype: Annotated[Optional[str], typer.Option("--dtype", help="float32, or bfloat16 for mixed precision.")] = None,
    out: options.Out = None,
    resume: Resume = False,
    resume_auto: ResumeAuto = False,
    epochs: Epochs = None,
    accumulate: Accumulate = None,
    shard: Shard = None,
    recompute: Recompute = False,
    compile: Compile = None,
    cache: CacheFolder = None,
    keep_last: KeepLast = 1,
    keep_every: KeepEvery = 0,
    eval_every: evaluating.Every = None,
    eval_steps: evaluating.Steps = None,
    eval_images: evaluating.Images = None,
    eval_cfg: evaluating.Guidance = None,
    eval_reference: evaluating.Reference = None,
    eval_extractor: evaluating.Extractor = None,
    inception_weights: evaluating.InceptionWeights = None,
    log: options.Log = None,
    plan: Plan = None,
    workers: Workers = None,
    relist: Relist = False,
    perceptual_weight: learning.PerceptualWeight = None,
    discriminator_weight: learning.DiscriminatorWeight = None,
    discriminator_start: learning.DiscriminatorStart = None,
    no_cache: NoCache = False,
) -> None:
    """Train a tokenizer, the digits classifier or a generator, and write its averaged weights as safetensors.

    A generator takes channels, codes and grid from the tokenizer; --tokenizer with no generator is trained itself.
    config.yaml beside the weights repeats the training.
    """
    from arbench.machine.distributed import processes
    from arbench.machine.hardware import device_name
    from arbench.report.logs import log_names
    from arbench.training.checkpoint import Keeping
    from arbench.training.engine import Engine
    from arbench.training.forecast import forecast

    if no_cache and cache is not None:
        raise ValueError(f"--no-cache and --cache {cache}: expected one of them")
    changes: dict[str, Any] = {
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "views": views,
        "dtype": dtype,
        "seed": seed,
        "cached": False if no_cache else None,
        "micro_batches": None if accumulate is None else accumulate * (plan or processes().count),
    }
    shared: dict[str, Any] = {
        "data": data,
        "size": size,
        "tokenizer": tokenizer,
        "tokenizer_weights": tokenizer_weights,
        "cache": cache,
        "workers": workers,
        "init": init,
        "which": which,
        "device": device_name(device, TRAINED_ON),
        "losses": learning.losses(perceptual_weight, discriminator_weight, discriminator_start),
    }
    named = {"config": config, "target": target, "method": method, "model": model}
    jobs, folder = asked_jobs(named, (experiment, row), shared, out or DEFAULT_OUT, changes)
    evaluations = {
        "epochs": eval_every,
        "steps": eval_steps,
        "num_images": eval_images,
        "cfg_scales": eval_cfg,
        "reference": eval_reference,
        "extractor": eval_extractor,
        "inception_weights": inception_weights,
    }
    engine = Engine(shard=shard, recompute=recompute, compile=compile)
    how: dict[str, Any] = {
        "engine": engine,
        "keeping": Keeping(last=keep_last, every=keep_every),
        "evaluating": evaluating.asked(jobs, evaluations),
        "logs": log_names(log or ()),
        "relist": relist,
    }
    if plan is None:
        run_jobs(jobs, folder, resume, changes, auto=resume_auto, how=how)
    else:
        for line in forecast(jobs, plan, engine, changes, data=data, say=typer.echo):
            typer.echo(line)


def run_jobs(
    jobs: list[Job],
    folder: Path,
    resume: bool,
    changes: dict[str, Any],
    *,
    auto: bool = False,
    how: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Train one after another with the recipes' settings changed by those of `changes` that are not None.

    With `auto` a training goes on where it has a checkpoint and begins where it has none; `how` is for `run_job`.
    """
    from dataclasses import replace

    from arbench.machine.distributed import processes
    from arbench.runs.request import IF_STARTED
    from arbench.training.asked import with_settings
    from arbench.training.checkpoint import has_checkpoint
    from arbench.training.jobs import run_job
    from arbench.training.recipes import digits_recipes

    recipes = digits_recipes()
    mine = processes()
    say = tell if mine.is_first else lambda line: None
    if mine.restarts and not auto:  # torchrun restarts a group with the command it began with
        say("restarted by torchrun: going on where there is a checkpoint, as with --resume auto")
        auto = True
    begun = [job.target for job in jobs if has_checkpoint(job.folder(folder))]
    for job in jobs:
        job = replace(job, config=with_settings(job.config, scale_rate=job.target not in recipes, say=say, **changes))
        # Of several jobs, those after the interrupted one have nothing to resume yet.
        go_on = IF_STARTED if auto else resume and (job.target in begun or not begun)
        its = how if job.kind == "generator" else {**how, "evaluating": None}
        path = run_job(job, folder, resume=go_on, progress=progress_bar, say=say, **its)
        length = f"{job.config.steps} steps" if job.config.steps else f"{job.config.epochs:g} epochs"
        say(f"{job.target}: {length} done, weights in {path}")


def cache(
    tokenizer: options.Tokenizer = None,
    tokenizer_weights: options.TokenizerWeights = None,
    data: options.Data = None,
    size: Size = None,
    views: Views = None,
    flip: Flip = False,
    seed: CacheSeed = None,
    device: options.Device = "auto",
    out: options.Out = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say bytes and GPU-hours, and encode nothing.")] = False,
    workers: Workers = None,
    relist: Relist = False,
    model: Annotated[Optional[str], typer.Option("--model", help="Make what this generator is trained on.")] = None,
    view_set: ViewSet = None,
    cache: CacheFolder = None,
) -> None:
    """Compute the latents or codes of a data set once; trainings find them by their hash.

    --model makes what `arbench train --model` then reads: its tokenizer, its size and the views of its recipe.
    """
    from arbench.cli.jobs import asked_cache
    from arbench.images.data import open_data
    from arbench.machine.distributed import processes
    from arbench.machine.hardware import device_name, resolve_device, use_device
    from arbench.training.cache import stored_spec
    from arbench.training.cache_build import describe_cache
    from arbench.training.fit import fitted_config
    from arbench.training.reading import list_once, usual_workers
    from arbench.training.tokens import (
        CACHE_FOLDER,
        describe_cost,
        describe_size,
        known_tokens,
        no_progress,
        open_cache,
        open_tokenizer,
    )

    if out is not None and cache is not None:
        raise ValueError(f"--out {out} and --cache {cache}: expected one of them, the folder of caches")
    shared = {
        "data": data or "digits",
        "size": size,
        "tokenizer": tokenizer,
        "tokenizer_weights": tokenizer_weights,
        "device": device_name(device, TRAINED_ON),
    }
    asked, seen = asked_cache(model, shared, {"views": views, "flip": flip, "seed": seed, "view_set": view_set})
    mine, folder = processes(), Path(cache) if cache else out or DEFAULT_OUT / CACHE_FOLDER
    say = typer.echo if mine.is_first else lambda line: None
    place = use_device(resolve_device(device, mine.local_rank, TRAINED_ON))
    list_once(asked["data"], mine, again=relist, say=say)
    images = open_data(asked["data"], size=asked["size"])
    opened = open_tokenizer(asked["tokenizer"], tokenizer_weights, place)
    if asked["target"] is not None:
        fitted_config(asked["target"], asked["tokenizer"], opened, images.side, {})
    if plan:
        spec = stored_spec(describe_cache(opened, images, device=place, **seen), images, folder)
        say(describe_size(spec, folder))
        say(describe_cost(opened, images, spec, place, known_tokens(spec, images, folder, say)))
        return
    built = open_cache(
        opened,
        images,
        folder,
        device=place,
        workers=usual_workers(asked["data"], place, mine) if workers is None else workers,
        say=say,
        progress=progress_bar if mine.is_first else no_progress,
        **seen,
    )
    say(f"{len(built)} images in {built.folder}")
