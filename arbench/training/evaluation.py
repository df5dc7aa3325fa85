"""Evaluation while training: between two steps the averaged weights of that moment are drawn and scored by `run`.

Each becomes an ordinary record, `evaluations/step-0005000/MODEL-HASH/record.json` in the training's folder, that says
its epoch and step; the weights of the best FID so far stay as `best.safetensors`. Nothing of the training changes: its
random numbers are put back, its model is not touched (a second one is loaded for the time being), and what goes wrong
costs one line.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeVar

import torch
from torch import Tensor

from arbench.evaluation.stored_run import GRID, SHARDS
from arbench.generators.methods import get_preset
from arbench.generators.recipe import TrainConfig
from arbench.generators.spec import DIGITS
from arbench.machine.distributed import Processes, gathered, tell_all
from arbench.machine.files import one_line
from arbench.report.logs import EVALUATION, Logs, record_scalars
from arbench.report.record import RECORD_FILE, Record, load_record
from arbench.report.values import fid_name, protocol_key
from arbench.runs.execute import finish, open_folder, sample
from arbench.runs.request import DEFAULT_IMAGES, IF_STARTED, RunRequest, check_evaluation, evaluation_settings, prepare
from arbench.training.engine import whole
from arbench.training.export import export_weights, origin_of
from arbench.training.job import Job
from arbench.training.loop import Trainer
from arbench.training.stopping import interruptible

FOLDER_NAME, BEST_NAME = "evaluations", "best.safetensors"
PUBLISHED_IMAGES = 50_000  # of the papers' FID
STEP_NAME = re.compile(r"step-(\d+)")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """How often weights are evaluated, every so many `epochs` or `steps`, and how; None is `run`'s own default.

    `num_images` is by default 500 of the digits and 50,000 of other models. Raises ValueError where both or neither of
    the lengths are given.
    """

    epochs: float | None = None
    steps: int | None = None
    num_images: int | None = None
    reference: str | None = None
    extractor: str | None = None
    inception_weights: str | None = None

    def __post_init__(self) -> None:
        given = [length for length in (self.epochs, self.steps) if length is not None]
        if len(given) != 1 or given[0] <= 0:
            told = f"--eval-every {self.epochs}, --eval-steps {self.steps}"
            raise ValueError(f"{told}: expected one of them, above 0, to evaluate while training")

    def period(self, config: TrainConfig) -> int:
        """Images between two evaluations of a training whose epoch is known."""
        if self.steps is not None:
            return self.steps * config.batch_size
        assert self.epochs is not None
        return max(config.batch_size, round(self.epochs * config.images))


class Evaluation:
    """What `loop.train` does `between` steps: evaluate the weights of `job` in `folder` whenever it is due.

    Raises ValueError or OSError for a reference, an extractor or a number of images that cannot be.
    """

    def __init__(
        self,
        asked: Evaluating,
        job: Job,
        folder: Path,
        mine: Processes,
        *,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._asked, self._job, self._folder, self._mine = asked, job, folder, mine
        self._say, self.logs = say, Logs()
        self._period = asked.period(job.config)
        tell_all(mine, lambda: check_asked(asked, job, self._request(0, Path("random"))))

    def due(self, step: int) -> bool:
        """After the first step past each period, and after the last one."""
        batch, period = self._job.config.batch_size, self._period
        return step == self._job.config.steps or step * batch // period > (step - 1) * batch // period

    def __call__(self, trainer: Trainer, signalled: Event) -> bool:
        step = trainer.step
        try:
            if tell_all(self._mine, lambda: self._is_done(step)):
                return False
            with undisturbed(trainer.device):
                self._evaluate(trainer, signalled)
        except (ValueError, OSError) as error:
            if not signalled.is_set():
                self._say(f"evaluation at step {step} failed, training goes on: {one_line(error)}")
                self._clear(step)
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._mine.is_first:
            self._weights(step).unlink(missing_ok=True)
        return any(gathered(signalled.is_set(), self._mine))

    def _evaluate(self, trainer: Trainer, signalled: Event) -> None:
        """Weights, images, scores, record; raises ValueError or OSError on all processes where it fails on any."""
        mine, step = self._mine, trainer.step
        weights = averaged_weights(trainer)

        def write() -> None:
            if mine.is_first:
                origin = {**origin_of(self._job, trainer.task), "step": str(step), "epoch": f"{self._epoch(step):g}"}
                export_weights(
                    self._weights(step), weights, target=self._job.target, config=self._job.config, origin=origin
                )

        together(mine, write)
        job = together(mine, lambda: prepare(self._request(step, self._weights(step))))
        folder = open_folder(job)

        def draw() -> Record | None:
            try:
                with interruptible(signalled):
                    sample(job, folder, lambda line: None)
                    return finish(job, folder) if mine.is_first else None
            except KeyboardInterrupt:
                return None
            except Exception as error:
                if mine.is_first:
                    raise
                # The first process draws what others leave undone.
                print(f"process {mine.rank}, evaluation at step {step}: {one_line(error)}", file=sys.stderr)
                return None

        record = together(mine, draw)
        if record is not None:
            shutil.rmtree(folder.path / SHARDS, ignore_errors=True)
            self._tell(step, record, folder.path)

    def _tell(self, step: int, record: Record, path: Path) -> None:
        """Keep the weights where they are the best, and say what was found."""
        best = self._settle_best()
        fid, count = record["metrics"].get("fid"), record["num_images"]
        scored = "no FID" if fid is None else f"{fid_name(count)} {fid:.2f}"
        praise = ", the best so far" if best == step else ""
        self._say(f"step {step}, epoch {self._epoch(step):g}: {scored}{praise}; {path}")
        self.logs.scalars(record_scalars(record), step)
        self.logs.picture(f"{EVALUATION}images", path / GRID, step)

    def _settle_best(self) -> int | None:
        """Let the weights of the best record become `best.safetensors` where they are there; returns its step."""
        records = self._records()
        if not records:
            return None
        protocol = protocol_key(records[max(records)])  # an earlier protocol's scores are not compared
        fids = {
            step: record["metrics"]["fid"]
            for step, record in records.items()
            if record["metrics"].get("fid") is not None and protocol_key(record) == protocol
        }
        best = min(fids, key=lambda step: (fids[step], step), default=None)
        if best is not None and self._weights(best).is_file():
            os.replace(self._weights(best), self._folder / BEST_NAME)
        return best

    def _records(self) -> dict[int, Record]:
        """The records of the evaluations so far, without one that cannot be read, which is told."""
        found = {}
        for step, file in stored_evaluations(self._folder).items():
            try:
                found[step] = load_record(file)
            except (ValueError, OSError) as error:
                self._say(f"not compared with others: {one_line(error)}")
        return found

    def _clear(self, step: int) -> None:
        """Let go of the images of an evaluation that has failed, which nobody does again."""
        if self._mine.is_first and step not in stored_evaluations(self._folder):
            shutil.rmtree(self._folder / FOLDER_NAME / step_name(step), ignore_errors=True)

    def _is_done(self, step: int) -> bool:
        """Whether the record of `step` is there; what a killed process left undone after writing it is done now."""
        done = step in stored_evaluations(self._folder)
        if done:
            self._settle_best()
            self._weights(step).unlink(missing_ok=True)
        return done

    def _epoch(self, step: int) -> float:
        return round(step * self._job.config.batch_size / self._job.config.images, 4)

    def _weights(self, step: int) -> Path:
        return self._folder / f"{step_name(step)}.safetensors"

    def _request(self, step: int, weights: Path) -> RunRequest:
        """The run of these weights; its record says of which training they are, and when."""
        job, asked = self._job, self._asked
        usual = DEFAULT_IMAGES if get_preset(job.target).data == DIGITS else PUBLISHED_IMAGES
        return RunRequest(
            model=job.target,
            weights=weights,
            tokenizer=job.tokenizer,
            tokenizer_weights=job.tokenizer_weights,
            tokenizer_config=job.tokenizer_config,
            num_images=usual if asked.num_images is None else asked.num_images,
            out=self._folder / FOLDER_NAME / step_name(step),
            device=job.device,
            resume=IF_STARTED,
            reference=asked.reference,
            extractor=asked.extractor,
            inception_weights=asked.inception_weights,
            on_the_fly=self._mine.count > 1,
            source={"trained_in": training_name(self._folder), "epoch": self._epoch(step), "step": step},
        )


def check_asked(asked: Evaluating, job: Job, request: RunRequest) -> None:
    """Raise ValueError or OSError where `request` cannot be scored: no generator, no reference, no extractor."""
    if job.kind != "generator":
        raise ValueError(f"{job.target} is a {job.kind}; expected a generator to evaluate while training")
    own = get_preset(job.target).data == DIGITS and job.data == DIGITS
    if asked.reference is None and not own:
        raise ValueError(f"evaluation of {job.target} on {job.data}: expected --eval-reference with real images")
    check_evaluation(evaluation_settings(request, get_preset(job.target)), request.num_images)


def averaged_weights(trainer: Trainer) -> dict[str, Tensor]:
    """The averaged weights of now, whole, on the first process's host; {} on others. All of them call it."""
    found = {}
    for name in trainer.task.weights():
        value = whole(trainer.ema.weights[name])
        if trainer.mine.is_first:
            found[name] = value.detach().cpu()
    return found


def together(mine: Processes, do: Callable[[], T]) -> T:
    """`do()` on every process; a ValueError on all of them where it failed on any."""
    result, told = None, ""
    try:
        result = do()
    except Exception as error:  # noqa: BLE001 - a stranger's extractor may raise anything, and the training goes on
        told = one_line(error) or type(error).__name__
    failed = [one for one in gathered(told, mine) if one]
    if failed:
        raise ValueError(failed[0])
    return result  # type: ignore[return-value]


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Within it the training's random numbers are not used up."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def stored_evaluations(folder: Path) -> dict[int, Path]:
    """The record files of a training's evaluations by ascending step."""
    found = {}
    for file in (folder / FOLDER_NAME).glob(f"step-*/*/{RECORD_FILE}"):
        match = STEP_NAME.fullmatch(file.parent.parent.name)
        if match:
            found[int(match[1])] = file
    return dict(sorted(found.items()))


def step_name(step: int) -> str:
    return f"step-{step:07d}"


def training_name(folder: Path) -> str:
    """What a training is called in curves of several: the last two parts of its folder."""
    return "/".join(folder.parts[-2:])
