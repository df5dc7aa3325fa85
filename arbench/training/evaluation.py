"""Evaluation while training: between two steps the averaged weights of that moment are drawn and scored by `run`.

Each becomes an ordinary record, `evaluations/step-0005000/MODEL-HASH/record.json` in the training's folder, that says
its epoch and step. Where a method is evaluated with several settings, each has a record of its own, the others than the
model's own in `step-0005000-NAME`; the first says which weights are the best so far, which stay as `best.safetensors`.
Nothing of the training changes: its random numbers are put back, its model is not touched (a second one is loaded for
the time being), and what goes wrong costs one line.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeVar

import torch

from arbench.evaluation.stored_run import GRID, SHARDS
from arbench.generators.methods import get_preset
from arbench.generators.recipe import TrainConfig
from arbench.generators.spec import DIGITS, OWN_SETTINGS, Evaluated
from arbench.machine.distributed import Processes, gathered, tell_all
from arbench.machine.files import one_line
from arbench.report.logs import EVALUATION, Logs, record_scalars
from arbench.report.record import Record
from arbench.report.values import fid_name
from arbench.runs.choice import RANDOM
from arbench.runs.execute import finish, open_folder, sample
from arbench.runs.request import DEFAULT_IMAGES, IF_STARTED, RunRequest, check_evaluation, evaluation_settings, prepare
from arbench.settings import CFG_SCALE
from arbench.training.engine import whole_on_first
from arbench.training.evaluated import (
    BEST_NAME,
    FOLDER_NAME,
    best_step,
    evaluated_with,
    evaluation_name,
    step_name,
    stored_evaluations,
    training_name,
)
from arbench.training.export import export_weights, origin_of
from arbench.training.job import Job
from arbench.training.loop import Trainer
from arbench.training.parts import undisturbed
from arbench.training.stopping import interruptible

PUBLISHED_IMAGES = 50_000  # of the papers' FID
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """How often weights are evaluated, every so many `epochs` or `steps`, and how; None is `run`'s own default.

    `num_images` is by default 500 of the digits and 50,000 of other models, `cfg_scales` the guidance of each
    evaluation of a step, in place of the settings that the method names. Raises ValueError where both or neither of the
    lengths are given, and for a guidance that cannot be.
    """

    epochs: float | None = None
    steps: int | None = None
    num_images: int | None = None
    cfg_scales: tuple[float, ...] = ()
    reference: str | None = None
    extractor: str | None = None
    inception_weights: str | None = None

    def __post_init__(self) -> None:
        given = [length for length in (self.epochs, self.steps) if length is not None]
        if len(given) != 1 or given[0] <= 0:
            told = f"--eval-every {self.epochs}, --eval-steps {self.steps}"
            raise ValueError(f"{told}: expected one of them, above 0, to evaluate while training")
        for scale in self.cfg_scales:
            CFG_SCALE.check(scale)

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
        tell_all(mine, lambda: check_asked(asked, job, self._request(0, OWN_SETTINGS, Path(RANDOM))))
        self._settings = evaluated_with(job, asked.cfg_scales)

    def due(self, step: int) -> bool:
        """After the first step past each period, and after the last one."""
        batch, period = self._job.config.batch_size, self._period
        return step == self._job.config.steps or step * batch // period > (step - 1) * batch // period

    def __call__(self, trainer: Trainer, signalled: Event) -> bool:
        step = trainer.step
        with self._told(step, self._settings, signalled):
            missing = tell_all(self._mine, lambda: self._missing(step))
            if not missing:
                return False
            with undisturbed(trainer.device):
                self._evaluate(trainer, [one for one in self._settings if one.name in missing], signalled)
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._mine.is_first:
            self._weights(step).unlink(missing_ok=True)
        return any(gathered(signalled.is_set(), self._mine))

    @contextmanager
    def _told(self, step: int, settings: Sequence[Evaluated], signalled: Event) -> Iterator[None]:
        """Within it what goes wrong costs one line, and the images of those evaluations that `settings` are of."""
        try:
            yield
        except (ValueError, OSError) as error:
            if not signalled.is_set():
                name = settings[0].name if len(settings) == 1 else ""
                self._say(f"evaluation at {titled(f'step {step}', name)} failed, training goes on: {one_line(error)}")
                for one in settings:
                    self._clear(step, one)

    def _evaluate(self, trainer: Trainer, settings: Sequence[Evaluated], signalled: Event) -> None:
        """Weights, then images, scores and record of each of `settings`, of which one may fail by itself.

        Raises ValueError or OSError on all processes where writing the weights fails.
        """
        mine, step = self._mine, trainer.step
        weights = whole_on_first({name: trainer.ema.weights[name] for name in trainer.task.weights()}, mine)

        def write() -> None:
            if mine.is_first:
                origin = {**origin_of(self._job, trainer.task), "step": str(step), "epoch": f"{self._epoch(step):g}"}
                export_weights(
                    self._weights(step), weights, target=self._job.target, config=self._job.config, origin=origin
                )

        together(mine, write)
        for one in settings:
            if not any(gathered(signalled.is_set(), mine)):
                with self._told(step, [one], signalled):
                    self._draw(step, one, signalled)
        if mine.is_first:
            self._keep_best()

    def _draw(self, step: int, setting: Evaluated, signalled: Event) -> None:
        """Images, scores, record; raises ValueError or OSError on all processes where it fails on any."""
        mine = self._mine
        job = together(mine, lambda: prepare(self._request(step, setting, self._weights(step))))
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
            self._tell(step, setting, record, folder.path)

    def _tell(self, step: int, setting: Evaluated, record: Record, path: Path) -> None:
        """Say what was found, and whether it is the best, which the first of the settings decides."""
        is_best = setting == self._settings[0] and best_step(self._folder, setting.name, self._say) == step
        fid, count = record["metrics"].get("fid"), record["num_images"]
        scored = "no FID" if fid is None else f"{fid_name(count)} {fid:.2f}"
        praise = ", the best so far" if is_best else ""
        moment = titled(f"step {step}, epoch {self._epoch(step):g}", setting.name)
        self._say(f"{moment}: {scored}{praise}; {path}")
        under = f"{EVALUATION}{setting.name}/" if setting.name else EVALUATION
        self.logs.scalars(record_scalars(record, under), step)
        self.logs.picture(f"{under}images", path / GRID, step)

    def _keep_best(self) -> None:
        """Let the weights of the best record become `best.safetensors` where they are there."""
        best = best_step(self._folder, self._settings[0].name)
        if best is not None and self._weights(best).is_file():
            os.replace(self._weights(best), self._folder / BEST_NAME)

    def _clear(self, step: int, setting: Evaluated) -> None:
        """Let go of the images of an evaluation that has failed, which nobody does again."""
        if self._mine.is_first and step not in stored_evaluations(self._folder, setting.name):
            shutil.rmtree(self._folder / FOLDER_NAME / evaluation_name(step, setting.name), ignore_errors=True)

    def _missing(self, step: int) -> list[str]:
        """The settings of which `step` has no record; what a killed process left undone after the last is done now."""
        names = [one.name for one in self._settings]
        missing = [name for name in names if step not in stored_evaluations(self._folder, name)]
        if not missing:
            self._keep_best()
            self._weights(step).unlink(missing_ok=True)
        return missing

    def _epoch(self, step: int) -> float:
        return round(step * self._job.config.batch_size / self._job.config.images, 4)

    def _weights(self, step: int) -> Path:
        return self._folder / f"{step_name(step)}.safetensors"

    def _request(self, step: int, setting: Evaluated, weights: Path) -> RunRequest:
        """The run of these weights with `setting`; its record says of which training they are, and when."""
        job, asked = self._job, self._asked
        usual = DEFAULT_IMAGES if get_preset(job.target).data == DIGITS else PUBLISHED_IMAGES
        return RunRequest(
            model=job.target,
            weights=weights,
            tokenizer=job.tokenizer,
            tokenizer_weights=job.tokenizer_weights,
            tokenizer_config=job.tokenizer_config,
            num_images=usual if asked.num_images is None else asked.num_images,
            out=self._folder / FOLDER_NAME / evaluation_name(step, setting.name),
            device=job.device,
            resume=IF_STARTED,
            reference=asked.reference,
            extractor=asked.extractor,
            inception_weights=asked.inception_weights,
            on_the_fly=self._mine.count > 1,
            sampling=setting.sampling,
            source={"trained_in": training_name(self._folder), "epoch": self._epoch(step), "step": step},
        )


def titled(moment: str, name: str) -> str:
    """`moment` with the name of an evaluation's settings, where they have one."""
    return f"{moment}, {name}" if name else moment


def check_asked(asked: Evaluating, job: Job, request: RunRequest) -> None:
    """Raise ValueError or OSError where `request` cannot be scored: no generator, no reference, no extractor."""
    if job.kind != "generator":
        raise ValueError(f"{job.target} is a {job.kind}; expected a generator to evaluate while training")
    own = get_preset(job.target).data == DIGITS and job.data == DIGITS
    if asked.reference is None and not own:
        raise ValueError(f"evaluation of {job.target} on {job.data}: expected --eval-reference with real images")
    check_evaluation(evaluation_settings(request, get_preset(job.target)), request.num_images)


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
