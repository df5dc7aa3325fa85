"""The training loop: one for classifiers, tokenizers and generators; what differs is a `Task`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from arbench.generators.recipe import TrainConfig, check_same_run, lengthened
from arbench.machine.files import one_line
from arbench.machine.log import append_line
from arbench.training.checkpoint import FILE_NAME, begin_folder, load_checkpoint, save_checkpoint
from arbench.training.data import batch_indices
from arbench.training.ema import EMA
from arbench.training.optimiser import make_optimiser

LOG_NAME = "log.jsonl"
NOT_OURS = (RuntimeError, KeyError, TypeError, AttributeError, IndexError, ValueError)  # of loading foreign state
RANK_SEEDS = 1_000_003  # between the seeds of two processes, so that no two draw the same noise


class Task(Protocol):
    """What is trained, on what: a model and the loss of a batch of examples given by their indices."""

    model: nn.Module

    def __len__(self) -> int:
        """Number of examples an epoch has."""

    def loss(self, indices: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss of the examples `indices` (B,) int64, and scalars to log; all randomness comes from `rng`."""

    def weights(self) -> dict[str, Tensor]:
        """The tensors of `model` that are handed on after training."""

    def after_step(self, step: int, config: TrainConfig, rng: torch.Generator) -> None:
        """Called after optimiser step `step` (0-based), e.g. to re-seed dead codes."""


# Called with the gradients of this process before they are clipped: data-parallel training averages them here.
GradientHook = Callable[[list[Tensor]], None]
# Called after every step with the number of steps done and what was logged.
Watcher = Callable[[int, dict[str, float]], None]


class Trainer:
    """State of one run: model, average, optimiser, randomness and the step; saved and restored as a whole."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        made_of: Mapping[str, Any] | None = None,
    ) -> None:
        """`made_of` is what its checkpoints have to agree on beside the recipe: plain containers."""
        self.task, self.config, self.made_of = task, config, dict(made_of or {})
        self.rank, self.world_size = rank, world_size
        self.step = 0
        self.ema = EMA(task.model, config.ema_rate, warmup=config.ema_warmup)
        self.optimizer = make_optimiser(task.model, config)
        self.rng = torch.Generator(device=next(task.model.parameters()).device)
        self.rng.manual_seed(config.seed + RANK_SEEDS * rank)

    def one_step(self, reduce_gradients: GradientHook | None = None) -> dict[str, float]:
        """One optimiser step on the next batch; returns the loss and what the task logs."""
        config, model = self.config, self.task.model
        model.train()
        indices = batch_indices(
            len(self.task), config.batch_size, self.step, config.seed, rank=self.rank, world_size=self.world_size
        )
        rate = config.learning_rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.rng.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            loss, logged = self.task.loss(indices, self.rng)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if reduce_gradients is not None:
            reduce_gradients([weight.grad for weight in model.parameters() if weight.grad is not None])
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        if not torch.isfinite(norm):
            raise ValueError(f"step {self.step}: the gradient is not finite; try a smaller --learning-rate")
        self.optimizer.step()
        self.task.after_step(self.step, config, self.rng)
        self.ema.update(model)
        self.step += 1
        return {"loss": loss.item(), **logged, "gradient_norm": norm.item(), "learning_rate": rate}

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "config": self.config.as_dict(),
            "made_of": self.made_of,
            "model": self.task.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": {"loss": self.rng.get_state(), **global_rng_state(self.rng.device)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved run; raises ValueError where it was another model's or another recipe's."""
        check_resumable(self.config, self.made_of, state)
        try:
            self.task.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.rank == 0:
                self.rng.set_state(state["rng"]["loss"])
                set_global_rng_state(self.rng.device, state["rng"])
        except NOT_OURS as error:
            raise ValueError(f"the checkpoint belongs to another model: {one_line(error)}") from error
        self.step = state["step"]
        if self.rank:  # the file holds the first process's randomness: the others go on with fresh, equally good noise
            self.rng.manual_seed(self.rng.initial_seed() + RANK_SEEDS * self.step)
            torch.manual_seed(self.rng.initial_seed())


def check_resumable(config: TrainConfig, made_of: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raise ValueError where a checkpoint is of another recipe, seed, model or tokenizer than is asked for."""
    check_same_run(config, state["config"])
    for name, value in state.get("made_of", {}).items():
        if value != made_of.get(name, value):
            raise ValueError(f"cannot resume with {name} {made_of[name]!r}: the checkpoint has {value!r}")


def train(
    make_task: Callable[[], Task],
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    state: dict[str, Any] | None = None,
    watch: Watcher | None = None,
    reduce_gradients: GradientHook | None = None,
    rank: int = 0,
    world_size: int = 1,
    made_of: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Trainer:
    """Train to `config.steps`, with a checkpoint and a log in `folder`; returns the trainer at its end.

    `make_task` is called under the run's seed, which decides the weights' start. The caller's global random state is
    left as it was. Ctrl-C finishes the step and saves a checkpoint first. Process `rank` of `world_size` takes its
    share of every batch; `reduce_gradients` averages them; the first process writes. `state` is the checkpoint to go on
    with where it has been read already. Raises ValueError where `folder`
    already holds a run and `resume` is false, or holds none and `resume` is true, or the batch cannot be shared.
    More steps than the checkpoint was to have lengthen the run; `say` is told what that means for the learning rate.
    """
    path = folder / FILE_NAME
    if config.batch_size % world_size:
        raise ValueError(f"batch_size={config.batch_size} cannot be shared by {world_size} processes evenly")
    refuse_overwriting(path, resume)
    if state is None and resume:
        state = load_checkpoint(path)
    if rank == 0:
        begin_folder(folder)
    if state is not None:
        config = lengthened(config, state["config"], int(state["step"]), say)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        trainer = Trainer(make_task(), config, rank=rank, world_size=world_size, made_of=made_of)
        if rank:
            torch.manual_seed(config.seed + RANK_SEEDS * rank)  # dropout; the weights' start is the same everywhere
        if state is not None:
            trainer.load_state_dict(state)
        _run(trainer, path, watch, reduce_gradients)
    trainer.task.model.eval()
    return trainer


def refuse_overwriting(path: Path, resume: bool) -> None:
    """Raise ValueError where a checkpoint is there that nobody asked to go on with."""
    if path.exists() and not resume:
        raise ValueError(f"{path} exists: go on with --resume, or choose another --out")


def _run(trainer: Trainer, path: Path, watch: Watcher | None, reduce_gradients: GradientHook | None) -> None:
    config, writes = trainer.config, trainer.rank == 0
    recent: list[dict[str, float]] = []
    began, began_cpu, first = time.perf_counter(), time.process_time(), trainer.step
    with deferred_interrupt() as interrupted:
        while trainer.step < config.steps:
            recent.append(trainer.one_step(reduce_gradients))
            if watch is not None:
                watch(trainer.step, recent[-1])
            last = trainer.step == config.steps or interrupted.is_set()
            if writes and (last or trainer.step % config.log_every == 0):
                taken = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - began_cpu}
                a_step = {f"{name}_per_step": value / (trainer.step - first) for name, value in taken.items()}
                append_log(path.with_name(LOG_NAME), trainer.step, recent, a_step)
                recent = []
            if writes and (last or trainer.step % config.checkpoint_every == 0):
                save_checkpoint(path, trainer.state_dict())
            if interrupted.is_set():
                raise KeyboardInterrupt(f"step {trainer.step} is saved in {path}; go on with --resume")


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Turn Ctrl-C into an event that is looked at between steps, so that no step is saved half-done.

    A second Ctrl-C interrupts at once. Outside the main thread, where signals do not arrive, nothing changes.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def global_rng_state(device: torch.device) -> dict[str, Tensor]:
    """State of PyTorch's own generators, which dropout draws from."""
    state = {"global": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_global_rng_state(device: torch.device, state: dict[str, Tensor]) -> None:
    """Put back what `global_rng_state` gave."""
    torch.set_rng_state(state["global"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def append_log(path: Path, step: int, recent: list[dict[str, float]], times: Mapping[str, float]) -> None:
    """Append one line: the step, the means since the line before it, and times of a step. Never fails.

    Clock seconds count other processes' load, CPU seconds those of this process's threads alone.
    """
    append_line(path, {"step": step, **means(recent), **{name: round(value, 5) for name, value in times.items()}})


def means(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """Mean of each scalar over the rows that hold it."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in columns.items()}
