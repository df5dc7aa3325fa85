"""One training job from its description to a weights file: open data, build model and cache, train, export."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from arbench.evaluation.digits_cnn import NUM_CLASSES, DigitsCNN
from arbench.generators.methods import get_method, get_preset
from arbench.generators.recipe import lengthened
from arbench.generators.spec import DIGITS, same_name
from arbench.images.pixels import to_float
from arbench.machine.distributed import by_first, process_group, processes, tell_all
from arbench.machine.files import require_writable
from arbench.machine.hardware import resolve_device, use_device
from arbench.report.logs import Logs, log_names, open_logs
from arbench.runs.choice import RANDOM, find_tokenizer_weights
from arbench.training.absent import AbsentImages
from arbench.training.cache_build import describe_cache
from arbench.training.checkpoint import begin_folder, chosen_checkpoint, read_checkpoint_facts
from arbench.training.data import ImageBatches
from arbench.training.encoding import encoding_of
from arbench.training.engine import Engine, whole_on_first
from arbench.training.evaluation import Evaluating, Evaluation
from arbench.training.export import export_release, export_weights, origin_of
from arbench.training.fit import fitted_config
from arbench.training.identity import trained_on
from arbench.training.job import Job, write_job
from arbench.training.loop import check_resumable, train
from arbench.training.parts import fit_micro_batches
from arbench.training.plan import plan_training
from arbench.training.reading import usual_workers
from arbench.training.recipes import TOKENIZERS
from arbench.training.start import load_start, started
from arbench.training.tasks import ClassifierTask, GeneratorTask
from arbench.training.tokenizer_job import check_sides, tokenizer_task
from arbench.training.tokenizer_plan import plan_tokenizer
from arbench.training.tokenizer_task import TokenizerTask
from arbench.training.tokens import (
    Progress,
    cache_folder,
    no_progress,
    no_words,
    open_cache,
    open_images,
    open_tokenizer,
    seen_by,
)
from arbench.training.uncached import FreshTokens
from arbench.weights.load import load_generator
from arbench.weights.provenance import describe_tokenizer
from arbench.weights.read import read_tensors

if TYPE_CHECKING:
    from arbench.generators.spec import Release
    from arbench.images.data import ImageData
    from arbench.machine.distributed import Processes
    from arbench.protocols import Tokenizer
    from arbench.training.cache import TokenCache
    from arbench.training.checkpoint import Keeping
    from arbench.training.loop import Task, Trainer, Watcher
    from arbench.weights.provenance import TokenizerFacts

SCALE_IMAGES = 2000  # images that the deviation of a new tokenizer's latents is measured on, at most


def run_job(
    job: Job,
    out: Path,
    *,
    resume: bool | str = False,
    engine: Engine | None = None,
    keeping: Keeping | None = None,
    evaluating: Evaluating | None = None,
    logs: Sequence[str] = (),
    relist: bool = False,
    watch: Watcher | None = None,
    progress: Progress = no_progress,
    say: Callable[[str], None] = no_words,
) -> Path:
    """Train and export; returns the weights file. `progress` is asked for the caching of tokens and for the training;
    with `relist` a folder of images is listed anew, whatever its index says; `resume` is as `chosen_checkpoint` has it.

    `evaluating` says how often weights are evaluated on the way, `logs` where its numbers go beside log.jsonl. Raises
    ValueError for what a user can have got wrong: unknown names, a tokenizer of the wrong kind, a run that is already
    there, a missing checkpoint; OSError for folders that cannot be read or written.
    """
    mine = processes()
    folder = job.folder(out)
    begun = chosen_checkpoint(folder, resume, mine, say)
    facts = None if begun is None else read_checkpoint_facts(begun)
    device = use_device(resolve_device(job.device, mine.local_rank))
    data = open_images(job, out, device, relist=relist, say=say, begun=facts)
    config = fit_micro_batches(job.config.for_images(len(data), say), mine.count, say, begun=facts)
    workers = usual_workers(job.data, device, mine) if job.workers is None else job.workers
    job = dataclasses.replace(job, config=config, workers=workers)
    tell_plan(job, data, mine, engine or Engine(), device, say)
    tell_all(mine, lambda: require_writable(folder))  # this and what follows before anything is encoded
    frozen = open_described(job, device, folder) if job.kind == "generator" else None
    made_of = {**job.made_of, **trained_on(data, frozen[1] if frozen else None)}
    if facts is not None:
        check_resumable(lengthened(config, facts["config"], facts["step"], no_words), made_of, facts)
    with process_group(mine, device):
        shown = progress if mine.is_first else no_progress
        names = log_names(logs)
        evaluation = None if evaluating is None else Evaluation(evaluating, job, folder, mine, say=say)
        if frozen is None:
            make_task: Callable[[], Task] = TASKS[job.kind](job, data, device)
        else:
            make_task = _generator_task(job, data, *frozen, out, device, say, shown)
        if mine.is_first:
            begin_folder(folder)
            write_job(job, folder)
        began = 0 if facts is None else facts["step"]
        with shown(job.target, config.steps) as advance, opened(job, folder, names, began, mine) as log:
            if evaluation is not None:
                evaluation.logs = log
            trainer = train(
                make_task,
                config,
                folder,
                resume=begun or False,
                watch=(watch or advance) if mine.is_first else None,
                logs=log,
                between=evaluation,
                mine=mine,
                engine=engine,
                keeping=keeping,
                made_of=made_of,
                device=device,
                say=say,
            )
        _hand_over(job, trainer, out, data, device)
    return job.weights_path(out)


@contextmanager
def opened(job: Job, folder: Path, names: Sequence[str], step: int, mine: Processes) -> Iterator[Logs]:
    """The named logs of a training from `step` on; on the first process alone."""
    log = Logs()
    if mine.is_first:
        log = open_logs(names, folder, title=job.target, facts={**job.config.as_dict(), **job.made_of}, step=step)
    try:
        yield log
    finally:
        log.close()


def tell_plan(
    job: Job, data: ImageData, mine: Processes, engine: Engine, device: torch.device, say: Callable[[str], None]
) -> None:
    """Say what training a paper's generator or tokenizer will take.

    Raises ValueError where a generator has fewer classes than the data has, or a tokenizer is to be sharded.
    """
    if job.kind == "tokenizer":
        if engine.shard:
            raise ValueError(f"--shard is for generators; {job.target!r} is small enough for DDP: expected --no-shard")
        check_sides(job, data)
        if job.target not in TOKENIZERS:
            for line in plan_tokenizer(job, mine.count, engine).lines(device):
                say(line)
    if job.kind != "generator":
        return
    classes = job.model_config.get("num_classes", data.num_classes)
    if classes < data.num_classes:
        raise ValueError(f"num_classes {classes}: {job.data} has {data.num_classes}; expected at least as many")
    if get_preset(job.target).data == DIGITS:
        return
    given = {**job.model_config, "num_classes": classes}
    for line in plan_training(job.target, job.config, mine.count, engine, given, encoding_of(job)).lines(device):
        say(line)


def _hand_over(job: Job, trainer: Trainer, out: Path, data: ImageData, device: torch.device) -> None:
    """Write the weights of a finished training, raw and averaged; all processes put sharded ones together."""
    raw, average = trainer.task.model.state_dict(), trainer.ema.weights
    states = {"raw": raw, "ema": average} if trainer.ema.rate else {"ema": raw}
    put_together = {which: whole_on_first(state, trainer.mine) for which, state in states.items()}
    by_first(trainer.mine, lambda: _export(job, trainer.task, put_together, out, data, device))


def _export(
    job: Job,
    task: Task,
    states: Mapping[str, dict[str, torch.Tensor]],
    out: Path,
    data: ImageData,
    device: torch.device,
) -> None:
    """Write `states`, the raw weights and last the averaged ones (without an average those alone), each with what it is
    of, and the file of the method's release."""
    written: dict[str, dict[str, torch.Tensor]] = {}
    for which, state in states.items():
        if isinstance(task, TokenizerTask):  # never sharded; its scale is measured with these weights
            task.model.load_state_dict(state)
            _measure_scale(task.tokenizer, data, device)
            weights = task.weights()
        else:  # not the model's own tensors, which the next set of weights would be copied into
            weights = {name: state[name] for name in task.weights()}
        path = job.weights_path(out) if which == "ema" else job.raw_weights_path(out)
        export_weights(path, weights, target=job.target, config=job.config, origin=origin_of(job, task))
        written[which] = weights
    release = release_of(job)
    if release is not None:
        averaged, path = written["ema"], job.weights_path(out).with_suffix(".pth")
        export_release(path, release, written.get("raw", averaged), averaged)


def release_of(job: Job) -> Release | None:
    """How the release of a paper's generator wraps its weights; None where its files name tensors otherwise."""
    if job.kind != "generator" or get_preset(job.target).data == DIGITS:
        return None
    release = get_method(get_preset(job.target).method).release
    return release if release is not None and release.rename is same_name else None


def _classifier_task(job: Job, data: ImageData, device: torch.device) -> Callable[[], Task]:
    if data.num_classes != NUM_CLASSES:
        raise ValueError(f"{job.data} has {data.num_classes} classes; {job.target} reads {NUM_CLASSES}")
    batches = ImageBatches(data, job.config.augmentation, device, job.workers or 0)
    start = None if job.init is None else read_tensors(job.init).tensors(job.which)
    return lambda: ClassifierTask(started(DigitsCNN().to(device), start, job.init), batches)


def _generator_task(
    job: Job,
    data: ImageData,
    tokenizer: Tokenizer,
    facts: TokenizerFacts,
    out: Path,
    device: torch.device,
    say: Callable[[str], None],
    progress: Progress,
) -> Callable[[], Task]:
    config = job.config
    settings = fitted_config(job.target, facts.name, tokenizer, data.side, dict(job.model_config))
    start, classes = None, data.num_classes
    if job.init is not None:  # before anything is encoded: a file that does not fit is told at once
        start, classes = load_start(job.target, job.init, job.which, settings, classes, say)
    settings = {"num_classes": classes, **settings}
    cache = _tokens(job, tokenizer, data, out, device, say, progress)

    def make() -> Task:
        model = load_generator(job.target, weights="random", device=device, **settings)
        return GeneratorTask(model, cache, config, tokenizer=facts, start=start)

    return make


def _tokens(
    job: Job,
    tokenizer: Tokenizer,
    data: ImageData,
    out: Path,
    device: torch.device,
    say: Callable[[str], None],
    progress: Progress,
) -> TokenCache | FreshTokens:
    """The tokens that a generator is trained on: a cache, or each as a step asks for it."""
    if isinstance(data, AbsentImages):
        return data.cache
    config, workers, seen = job.config, job.workers or 0, seen_by(job.config)
    if not config.cached:
        spec = describe_cache(tokenizer, data, device=device, **seen)
        say(f"no token cache: {len(data):,} images are encoded in the steps that ask for them, {workers} workers read")
        return FreshTokens(tokenizer, data, spec, seed=config.seed, workers=workers, device=device)
    folder = cache_folder(job, out)
    return open_cache(tokenizer, data, folder, device=device, workers=workers, say=say, progress=progress, **seen)


def open_described(job: Job, device: torch.device, folder: Path) -> tuple[Any, TokenizerFacts]:
    """The tokenizer of a generator's job, and what the weights in `folder` will say of it."""
    tokenizer = open_tokenizer(job.tokenizer, job.tokenizer_weights, device, **job.tokenizer_config)
    name, given = str(job.tokenizer), job.tokenizer_weights
    if given == RANDOM:
        return tokenizer, describe_tokenizer(name, tokenizer, None, job.tokenizer_config)
    if given is not None:
        again = Path(os.path.relpath(given, folder))
        return tokenizer, describe_tokenizer(name, tokenizer, Path(given), job.tokenizer_config, given=again)
    found = find_tokenizer_weights(name, may_be_random=False)
    return tokenizer, describe_tokenizer(name, tokenizer, None if found is None else Path(found), job.tokenizer_config)


TASKS = {"classifier": _classifier_task, "tokenizer": tokenizer_task}  # a generator's needs its tokenizer beside that


@torch.no_grad()
def _measure_scale(tokenizer: Any, data: ImageData, device: torch.device) -> None:
    """Set a continuous tokenizer's scale to 1 / standard deviation of its posterior samples, as LDM does."""
    if tokenizer.kind != "continuous":
        return
    mean, deviation = tokenizer.moments(to_float(data.images(range(min(len(data), SCALE_IMAGES)))).to(device))
    variance = mean.double().var() + deviation.double().square().mean()
    tokenizer.set_scale(float(variance.rsqrt()))
