"""The training loop: one for classifiers, tokenizers and generators; what differs is a `Task`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from arbench.generators.recipe import TrainConfig, check_same_run, lengthened
from arbench.machine.distributed import Agreement, Processes
from arbench.machine.files import one_line
from arbench.machine.saving import saving
from arbench.machine.sharded import load_into, stored_tensors
from arbench.report.logs import Logs
from arbench.training.checkpoint import (
    Keeping,
    begin_checkpoint,
    begin_folder,
    chosen_checkpoint,
    find_checkpoint,
    read_checkpoint_facts,
)
from arbench.training.data import batch_examples, batch_indices
from arbench.training.ema import EMA
from arbench.training.engine import Engine, distribute, reducing, whole
from arbench.training.log import Reporter, Watcher, check_finite
from arbench.training.optimiser import make_optimiser, optimiser_tensors, prepare_optimiser
from arbench.training.parts import PART_SEEDS, Part, fit_micro_batches, number_of_parts, undisturbed
from arbench.training.plan import share_of_peak
from arbench.training.reading import Examples, ReadsAhead
from arbench.training.stopping import deferred_signals

MODEL, AVERAGE, OPTIMISER, RANDOMNESS = "model.", "ema.", "optimizer.", "rng."  # of the names in a checkpoint


class Task(Protocol):
    """What is trained, on what: a model and the loss of a batch of examples given by their indices."""

    model: nn.Module

    def __len__(self) -> int:
        """Number of examples an epoch has."""

    def loss(self, indices: Tensor, rng: torch.Generator) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Scalar loss of the examples `indices` (B,) int64, and scalars to log; all randomness comes from `rng`."""

    def weights(self) -> dict[str, Tensor]:
        """The tensors of `model` that are handed on after training."""

    def after_step(self, step: int, config: TrainConfig, rng: torch.Generator) -> None:
        """Called after optimiser step `step` (0-based), e.g. to re-seed dead codes."""


class Between(Protocol):
    """What is done between two steps, every so often, on all processes; it changes nothing of the training."""

    def due(self, step: int) -> bool:
        """Whether it is to be done after `step` steps; a checkpoint is saved beforehand."""

    def __call__(self, trainer: Trainer, signalled: Event) -> bool:
        """Do it; returns, alike on all processes, whether a signal that ends the training came meanwhile."""


@runtime_checkable
class SeveralNetworks(Protocol):
    """A task that trains networks against each other."""

    def before_step(self, step: int) -> None:
        """Called before optimiser step `step` (0-based), also the first one of a resumed run."""

    def networks(self) -> list[list[nn.Parameter]]:
        """The weights of each network, whose gradients are clipped by themselves."""


class Trainer:
    """State of one run: model, average, optimiser, randomness and the step; saved and restored as a whole."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        *,
        mine: Processes | None = None,
        made_of: Mapping[str, Any] | None = None,
        engine: Engine | None = None,
        parts: int = 0,
    ) -> None:
        """`made_of` is what its checkpoints have to agree on beside the recipe: plain containers. `parts` are those of
        a step where the recipe leaves them open."""
        self.task, self.config, self.made_of = task, config, dict(made_of or {})
        self.mine = mine or Processes()
        self.step = 0
        self.device = next(task.model.parameters()).device
        self.module = distribute(task, config, self.mine, engine or Engine())
        self.ema = EMA(task.model, config.ema_rate, warmup=config.ema_warmup)
        self.optimizer = make_optimiser(task.model, config)
        self.num_parts = number_of_parts(config, self.mine.count, parts)
        each = self.num_parts // self.mine.count
        numbers = range(self.mine.rank * each, (self.mine.rank + 1) * each)
        self.parts = [Part(number, config.seed, self.device) for number in numbers]

    def one_step(self) -> dict[str, Any]:
        """One optimiser step on the next batch; returns the loss and what the task logs, some of it on the device."""
        config, model = self.config, self.task.model
        model.train()
        rate = config.learning_rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if isinstance(self.task, SeveralNetworks):
            self.task.before_step(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        rows = [self._backward(part, last=part is self.parts[-1]) for part in self.parts]
        norm = self._clip()
        if self.device.type == "cpu":  # elsewhere it is looked at when it is logged: a step waits for nothing
            check_finite(norm.item(), self.step)
        self.optimizer.step()
        self.task.after_step(self.step, config, self._shared_rng())
        self.ema.update(model)
        self.step += 1
        logged = rows[0] if len(rows) == 1 else {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        return {**logged, "gradient_norm": norm, "learning_rate": rate}

    def _clip(self) -> Tensor:
        """Shorten gradients that are too long, each network's by themselves; returns the length of all."""
        task, most = self.task, self.config.clip_norm
        networks = task.networks() if isinstance(task, SeveralNetworks) else [list(task.model.parameters())]
        norms = [whole(nn.utils.clip_grad_norm_(weights, most)) for weights in networks]
        return norms[0] if len(norms) == 1 else torch.stack(norms).norm()

    def _backward(self, part: Part, *, last: bool) -> dict[str, Any]:
        """Add the gradients of one part of the batch; returns its loss and what the task logs."""
        config = self.config
        indices = batch_indices(
            len(self.task), config.batch_size, self.step, config.seed, rank=part.number, world_size=self.num_parts
        )
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")
        with part.drawing(), reducing(self.module, last):
            with mixed:
                loss, logged = self.module(indices.numpy(), part.rng)
            (loss / len(self.parts)).backward()
        return {"loss": loss.detach(), **logged}

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Within it the task may read what the coming steps ask for."""
        if not isinstance(self.task, ReadsAhead):
            yield
            return
        self.task.read_ahead(self._coming())
        try:
            yield
        finally:
            self.task.read_ahead(iter(()))

    def _coming(self) -> Iterator[Examples]:
        """The examples of all steps that are left, part after part."""
        config, size = self.config, len(self.task)
        for step in range(self.step, config.steps):
            for part in self.parts:
                shared = {"rank": part.number, "world_size": self.num_parts}
                yield batch_examples(size, config.batch_size, step, config.seed, **shared)

    def _shared_rng(self) -> torch.Generator:
        """Random numbers that all processes have alike, for what is done to the one model of all."""
        if self.mine.count == 1:
            return self.parts[0].rng
        return torch.Generator(device=self.device).manual_seed(self.config.seed + PART_SEEDS * (self.step + 1))

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds as tensors, by name; sharded ones as they are."""
        average = self.ema.weights if self.ema.rate else {}
        randomness = {f"{part.number}.{name}": value for part in self.parts for name, value in part.state().items()}
        groups = {
            MODEL: self.task.model.state_dict(),
            AVERAGE: average,
            OPTIMISER: optimiser_tensors(self.task.model, self.optimizer),
            RANDOMNESS: randomness,
        }
        return {f"{prefix}{name}": value for prefix, group in groups.items() for name, value in group.items()}

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of itself; plain containers."""
        return {
            "step": self.step,
            "config": self.config.as_dict(),
            "made_of": self.made_of,
            "parts": self.num_parts,
            "processes": self.mine.count,
            "num_updates": self.ema.num_updates,
        }

    def load(self, path: Path) -> None:
        """Take over a saved run in place, which `chosen_checkpoint` has found intact; raises ValueError where it is of
        another model or another recipe."""
        facts = read_checkpoint_facts(path)
        check_resumable(self.config, self.made_of, facts)
        stored = stored_tensors(path)
        held = {name[len(OPTIMISER) :] for name in stored if name.startswith(OPTIMISER)}
        prepare_optimiser(self.task.model, self.optimizer, held)
        tensors = {name: value.detach() for name, value in self.tensors().items() if not name.startswith(RANDOMNESS)}
        check_same_tensors(path, tensors, {name: size for name, (size, _) in stored.items()})
        randomness = {
            name: torch.empty(size, dtype=dtype)
            for name, (size, dtype) in stored.items()
            if any(name.startswith(f"{RANDOMNESS}{part.number}.") for part in self.parts)
        }
        load_into(path, {**tensors, **randomness}, self.mine)
        self.step, self.ema.num_updates = facts["step"], facts["num_updates"]
        self._load_randomness(path, randomness, same=facts["parts"] == self.num_parts)

    def _load_randomness(self, path: Path, randomness: Mapping[str, Tensor], *, same: bool) -> None:
        for part in self.parts:
            prefix = f"{RANDOMNESS}{part.number}."
            state = {name[len(prefix) :]: value for name, value in randomness.items() if name.startswith(prefix)}
            if not state or not same:  # another number of parts than before: fresh, equally good noise
                part.seed_afresh(self.config.seed, self.step)
                continue
            try:
                part.load(state)
            except (RuntimeError, TypeError, KeyError) as error:
                raise ValueError(f"{path}: its random state is of another kind ({one_line(error)})") from error


def check_same_tensors(path: Path, wanted: Mapping[str, Tensor], stored: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError where a checkpoint has not the tensors of this model, or others."""
    for name, value in wanted.items():
        if name not in stored:
            raise ValueError(f"the checkpoint {path} belongs to another model: it has no {name}")
        if tuple(stored[name]) != tuple(value.shape):
            found, expected = list(stored[name]), list(value.shape)
            raise ValueError(f"the checkpoint {path} belongs to another model: {name} is {found}; expected {expected}")
    others = [name for name in stored if name not in wanted and not name.startswith(RANDOMNESS)]
    if others:
        raise ValueError(f"the checkpoint {path} belongs to another model: it has {others[0]} as well")


def check_resumable(config: TrainConfig, made_of: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raise ValueError where a checkpoint is of another recipe, seed, model or tokenizer than is asked for."""
    check_same_run(config, facts["config"])
    for name, value in facts["made_of"].items():
        if value != made_of.get(name, value):
            raise ValueError(f"cannot resume with {name} {made_of[name]!r}: the checkpoint has {value!r}")


def train(
    make_task: Callable[[], Task],
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool | str | Path = False,
    watch: Watcher | None = None,
    logs: Logs | None = None,
    between: Between | None = None,
    mine: Processes | None = None,
    engine: Engine | None = None,
    keeping: Keeping | None = None,
    made_of: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> Trainer:
    """Train to `config.steps`, with checkpoints and a log in `folder`; returns the trainer at its end.

    `make_task` is called under the run's seed, which decides the weights' start, and puts its model on `device`. The
    caller's global random state, the host's and that device's, is left as it was. Checkpoints are written in the
    background, one at a time, and are all there when this ends, however it ends. Ctrl-C, SIGTERM and SIGUSR1, once or
    again, finish the step and save a checkpoint first. Process `mine` takes its share of every batch in a process group
    that is there already; the first one writes the log, and `logs`; `between` is done between steps. `resume` is as
    `chosen_checkpoint` has it, or what that has chosen. Raises ValueError where `folder` already holds a run and
    `resume` is false, or holds none and `resume` is true, or the batch cannot be shared, and OSError where a checkpoint
    cannot be written. More steps than the checkpoint was to have lengthen the run; `say` is told what that means for
    the rate.
    """
    mine, parts = mine or Processes(), 0
    path = resume if isinstance(resume, Path) else chosen_checkpoint(folder, resume, mine, say)
    facts = None if path is None else read_checkpoint_facts(path)
    config = fit_micro_batches(config, mine.count, say, begun=facts)
    if facts is not None:
        parts = facts["parts"]
        config = lengthened(config, facts["config"], facts["step"], say)
    if mine.is_first:
        begin_folder(folder)
    with undisturbed(torch.device(device)):
        torch.manual_seed(config.seed)
        trainer = Trainer(make_task(), config, mine=mine, made_of=made_of, engine=engine, parts=parts)
        if path is not None:
            trainer.load(path)
        report = Reporter(
            folder,
            mine,
            trainer.device,
            step=trainer.step,
            batch_size=config.batch_size,
            epoch=len(trainer.task),
            watch=watch,
            logs=logs,
            share_of_peak=share_of_peak(trainer.task.model, config.dtype, mine.count, trainer.device),
        )
        _run(trainer, folder, report, keeping or Keeping(), between)
    trainer.task.model.eval()
    return trainer


def _run(trainer: Trainer, folder: Path, report: Reporter, keeping: Keeping, between: Between | None) -> None:
    config, mine = trainer.config, trainer.mine
    stop, stopped = Agreement(mine), False
    with deferred_signals() as signalled, saving(mine) as saver, trainer.reading_ahead():

        def is_due() -> bool:
            return between is not None and between.due(trainer.step)

        def pause() -> bool:
            assert between is not None
            with report.paused():
                return between(trainer, signalled)

        if trainer.step and is_due():  # what the run before may not have ended
            stopped = pause()
        while trainer.step < config.steps and not stopped:
            report.stepped(trainer.step + 1, trainer.one_step())
            stopped = stop.ask(signalled.is_set() or saver.has_failed())
            last = trainer.step == config.steps or stopped
            if last or trainer.step % config.log_every == 0:
                report.line(trainer.step)
            regular = trainer.step % config.checkpoint_every == 0 or keeping.is_milestone(trainer.step)
            if last or is_due() or regular:
                report.check(trainer.step)
                begin_checkpoint(folder, trainer.step, trainer.tensors(), trainer.facts(), keeping, saver)
            if is_due() and not stopped:
                stopped = pause()
        stop.close()
    if stopped:
        raise KeyboardInterrupt(f"step {trainer.step} is saved in {find_checkpoint(folder)}; go on with --resume")
