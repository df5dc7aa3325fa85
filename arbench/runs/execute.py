"""One run: models → images in a run folder → scores → record. What `arbench run` and `arbench.run` do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arbench.evaluation.stored_run import GRID, LAYOUT
from arbench.machine.distributed import by_first, tell_all
from arbench.machine.files import FULL, NoSpaceError
from arbench.machine.hardware import peak_memory_gib, reset_peak_memory
from arbench.machine.progress import image_progress
from arbench.machine.timing import PhaseTimer
from arbench.report.logs import EVALUATION, open_logs, record_scalars
from arbench.report.notebook import RunRecord
from arbench.report.record import Record, load_record, write_record
from arbench.runs.choice import RANDOM
from arbench.runs.folder import RunFolder, resume_run, same_runs, start_run
from arbench.runs.grid import class_rows, save_grid
from arbench.runs.memory import automatic_batch, estimate_memory
from arbench.runs.models import class_names
from arbench.runs.pipeline import Pipeline, Worker
from arbench.runs.record import FEATURES, feature_observer, is_scored, make_record, score
from arbench.runs.request import IF_STARTED, PreparedRun, RunRequest, check_evaluation, prepare
from arbench.sampling.engine import GRAPH_BATCHES, engine_name, make_engine

WARM_UP_IMAGES = 8  # on the CPU; on a GPU a whole batch, whose shape decides which kernels are chosen


def run(**request: Any) -> RunRecord:
    """Sample, evaluate, write a run folder; returns the record that its record.json holds, a dict with its `folder`.

    Keywords, all optional: `method` ("mar", "par", "ar") or `model` (a preset, or a family with `weights` and
    `tokenizer`) say what runs, alone the embedded digits default; `weights`, `tokenizer_weights` (a file, or "random"),
    `which` ("ema", "raw"), `config` and `tokenizer_config` (fields of the models' configurations). `num_images` (500)
    are asked for `labels`, or for classes by `label_mode` ("balanced", "random"), from `seed`. `out` ("runs") is where
    the run folder goes, `resume` continues it. `batch_size` is a number or "auto", fixed when the run starts; `device`,
    `dtype` ("auto": float32, on CUDA what the release is evaluated in), `engine` ("auto", "eager", "graph") are names.
    `reference`, `extractor`, `metrics`, `inception_weights` are those of `arbench.evaluate`;
    `evaluate=False` only samples; `on_the_fly` lets every process extract features while it samples, not the first one
    afterwards; `export_npz` also writes samples.npz; `log` names where the record's numbers and its grid go beside its
    folder ("tensorboard", "wandb"). Every other keyword is a sampling setting (`num_iter` …).

    The folder is `<out>/<model>-<hash of what decides the images>`; a finished run is never overwritten (the next one
    of the same settings gets `-2`), an unfinished one must be resumed. Under `torchrun` all processes share the work
    and those other than the first return an empty dict. Raises ValueError or OSError for a user's mistake.
    """
    folder, record = execute(RunRequest.of(**request))
    return RunRecord(record, folder if record else None)


def execute(request: RunRequest, *, say: Callable[[str], None] = lambda line: None) -> tuple[Path, Record]:
    """Do what `request` asks; returns the run folder and the record (empty on any process but the first).

    `say` is given lines for the user: what is about to run, and how much memory it takes.
    """
    job = prepare(request)
    folder = open_folder(job, say)
    try:
        sample(job, folder, say if job.mine.is_first else lambda line: None)
        return folder.path, by_first(job.mine, lambda: finish(job, folder)) or {}
    except KeyboardInterrupt:
        written = folder.shards.num_written()
        folder.log("interrupted", images_present=written)
        raise KeyboardInterrupt(
            f"{written} of {request.num_images} images are safe in {folder.path}; "
            "give the same command with --resume to go on"
        ) from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise NoSpaceError(
            f"no space left in {folder.path}: {folder.shards.num_written()} of {request.num_images} images are safe "
            "there; make room and give the same command with --resume to go on"
        ) from error


def open_folder(job: PreparedRun, say: Callable[[str], None] = lambda line: None) -> RunFolder:
    """The run folder, opened by the first process for all of them."""
    out, model = Path(job.request.out), job.parts.model
    opened = tell_all(job.mine, lambda: _opened(out, model, job))
    settings = {**job.settings, **{name: opened[name] for name in LAYOUT}}
    if job.mine.is_first:
        for line in opened["told"]:
            say(line)
    return RunFolder(Path(opened["path"]), settings, job.mine.rank)


def _opened(out: Path, model: str, job: PreparedRun) -> dict[str, Any]:
    try:
        of_no_class = bool((job.labels == job.parts.generator.num_classes).any())
        check_evaluation(job.settings["evaluation"], job.request.num_images, of_no_class=of_no_class)
    except (ValueError, OSError) as error:
        if str(job.request.weights) != RANDOM:
            raise
        raise ValueError(f"{error}; or, to try random weights without scores: --no-evaluate") from error
    resumes = job.request.resume
    if resumes == IF_STARTED or job.mine.restarts > 0:  # torchrun restarts a group with the command it began with
        resumes = bool(same_runs(out, model, job.settings))
    folder = (resume_run if resumes else start_run)(out, model, job.settings, choose_batch(job))
    folder.write_labels(job.labels)
    return {
        "path": str(folder.path),
        "shard_size": folder.shards.size,
        "batch_size": folder.batch_size,
        "told": what_differs(job, folder),
    }


def choose_batch(job: PreparedRun) -> int:
    """The batch of a run that starts: the one asked for, or the one that fits; never more than there are images."""
    parts, asked, count = job.parts, job.request.batch_size, job.request.num_images
    if isinstance(asked, int):
        return min(asked, count)
    engine = engine_name(job.request.engine, parts.generator, GRAPH_BATCHES)  # "auto" as in a long run
    estimate = estimate_memory(parts.generator, parts.tokenizer, parts.decoded_size, engine)
    return automatic_batch(estimate, parts.device, -(-count // job.mine.count))


def what_differs(job: PreparedRun, folder: RunFolder) -> list[str]:
    """A line for each thing about a run that is gone on with that is not as it was asked for, or cannot be known."""
    told, asked = [], job.request.batch_size
    if isinstance(asked, int) and min(asked, job.request.num_images) != folder.batch_size:
        told.append(
            f"{folder.path} goes on in batches of {folder.batch_size}, as it began, not of {asked}: "
            "another shape rounds otherwise"
        )
    unbound = folder.shards.unbound()
    if unbound:
        told.append(
            f"{folder.path}: {len(unbound)} shards of an earlier version, not bound to the run, taken as they are"
        )
    return told


def sample(job: PreparedRun, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Draw what is missing; the first process returns when all images are there, the others when nothing is free."""
    if not folder.shards.unfinished():
        return
    parts, count = job.parts, job.mine.count
    observe = feature_observer(job, folder)
    engine, batch_size = engine_name(job.request.engine, parts.generator, folder.batches_each(count)), folder.batch_size
    estimate = estimate_memory(parts.generator, parts.tokenizer, parts.decoded_size, engine)
    memory = None if estimate is None else round(estimate.gib(batch_size), 2)
    folder.log("sampling", batch_size=batch_size, estimated_memory_gib=memory, processes=count)
    told = "" if memory is None else f", about {memory:.1f} GiB each"
    say(
        f"{parts.model}: {parts.params_m:.1f} M parameters, {job.request.num_images} images in batches of {batch_size} "
        f"on {count} × {parts.device.type}{told}; {folder.path}"
    )
    pipeline = Pipeline(
        generator=parts.generator,
        tokenizer=parts.tokenizer,
        labels=job.labels,
        settings=parts.settings,
        seed=job.request.seed,
        device=parts.device,
        image_size=parts.image_size,
        engine=make_engine(job.request.engine, parts.generator, folder.batches_each(count)),
    )
    written = folder.shards.num_written()
    reset_peak_memory(parts.device)
    shown, total = job.mine.is_first, job.request.num_images
    with image_progress(parts.model, total, written, shown=shown, steps=job.steps) as progress:
        worker = Worker(
            pipeline=pipeline,
            folder=folder,
            batch_size=batch_size,
            make_timer=lambda: PhaseTimer(parts.device),
            progress=progress,
            step=progress.step,
            observe=observe,
        )
        worker.warm_up(batch_size if parts.device.type == "cuda" else WARM_UP_IMAGES)
        worker.work(wait=job.mine.is_first)
    parts.require_unchanged()
    folder.log("sampled", peak_memory_gib=round(peak_memory_gib(parts.device), 3))


def finish(job: PreparedRun, folder: RunFolder) -> Record:
    """Grid, scores, record and, where asked for, samples.npz of a run whose images are all there."""
    if job.request.export_npz:
        with folder.timed("exported"):
            folder.shards.export_npz(folder.path / "samples.npz")
    if folder.is_finished and is_scored(folder):
        return load_record(folder.path)
    save_grid(folder.path / GRID, class_rows(folder.shards, job.labels, class_names(job.parts)))
    record = make_record(job, folder, score(job, folder))
    write_record(record, folder.path)
    shutil.rmtree(folder.path / FEATURES, ignore_errors=True)
    log_record(job, folder, record)
    folder.log("finished", evaluation=folder.settings["evaluation"], metrics=record["metrics"])
    return record


def log_record(job: PreparedRun, folder: RunFolder, record: Record) -> None:
    """The numbers and the grid of a record, in the logs that were asked for; ValueError where one cannot be opened."""
    logs = open_logs(job.request.log, folder.path, title=folder.path.name, facts=job.settings["images"])
    logs.scalars(record_scalars(record), 0)
    logs.picture(f"{EVALUATION}images", folder.path / GRID, 0)
    logs.close()
