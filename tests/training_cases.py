"""Small trainings that run alike on one process and on several."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_generator, make_tokens
from torch.nn import functional

from arbench.generators.recipe import TrainConfig
from arbench.machine.distributed import Processes
from arbench.tokenizer.load import load_tokenizer
from arbench.tokenizer.recipe import TokenizerLosses
from arbench.training.engine import CPU_SHARDS, Engine, whole
from arbench.training.loop import Task, Trainer, Watcher, train
from arbench.training.reading import Examples
from arbench.training.tokenizer_task import TokenizerTask

STEPS = 20
CASES: dict[str, dict[str, Any]] = {
    "ddp": {"name": "ar-raster"},
    "fsdp": {"name": "ar-raster", "engine": Engine(shard=True)},
    "accumulated": {"name": "ar-raster", "parts": 6},
    "mar": {"name": "mar"},
    "mar-fsdp": {"name": "mar", "engine": Engine(shard=True, recompute=True)},
    "tokenizer": {"name": "tokenizer"},
}
RUN_HERE = [name for name, case in CASES.items() if CPU_SHARDS or "engine" not in case]
needs_cpu_shards = pytest.mark.skipif(not CPU_SHARDS, reason="FSDP2 of this PyTorch needs a GPU")
ADVERSARIAL = TokenizerLosses(
    discriminator_weight=0.5, discriminator_start=4, discriminator_layers=1, adaptive_weight=True, unit_codes=True
)


class Case:
    """A tiny generator on twelve examples; AR's loss draws nothing, MAR's draws all that it draws in a training."""

    def __init__(self, name: str) -> None:
        self.model = make_generator(name, "diffusion" if name == "mar" else "categorical", dropout=0.1)
        self.tokens = make_tokens(self.model, batch=12)
        self.labels = torch.arange(12) % 5

    def __len__(self) -> int:
        return len(self.tokens)

    def loss(self, indices: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        tokens, labels = self.tokens[indices], self.labels[indices]
        if self.model.method == "mar":
            return self.model.loss(tokens, labels, rng=rng), {}
        self.model.eval()
        return functional.cross_entropy(self.model.logits(tokens, labels).flatten(0, 1), tokens.flatten()), {}

    def weights(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()

    def after_step(self, step: int, config: TrainConfig, rng: torch.Generator) -> None:
        pass


class Noise:
    """Twelve images of 8 pixels a side."""

    def __init__(self) -> None:
        self.held = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self) -> int:
        return len(self.held)

    def images(self, indices: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        return self.held[indices]

    def read_ahead(self, coming: Iterator[Examples]) -> None:
        pass


def tiny_tokenizer(losses: TokenizerLosses = ADVERSARIAL) -> TokenizerTask:
    """LlamaGen's tokenizer made small, with a discriminator from the fourth step."""
    config = {"base_channels": 8, "channel_multipliers": (1,), "num_res_blocks": 1, "channels": 8}
    tokenizer: Any = load_tokenizer("llamagen-vq", weights="random", vocab_size=16, codebook_dim=4, **config)
    return TokenizerTask(tokenizer, Noise(), losses)


def make_task(name: str) -> Task:
    return tiny_tokenizer() if name == "tokenizer" else Case(name)


def run(
    folder: Path,
    mine: Processes,
    name: str,
    *,
    engine: Engine | None = None,
    parts: int = 0,
    steps: int = STEPS,
    stop_at: int = 0,
    resume: bool = False,
    checkpoint_every: int = 100,
    watch: Watcher | None = None,
) -> Trainer:
    """Train; `stop_at` is the step at which the last process alone is told to stop, twice, as by a scheduler and by
    torchrun, where there is no other `watch`."""
    config = TrainConfig(
        steps=steps, batch_size=12, learning_rate=1e-3, warmup_steps=2, schedule="constant", weight_decay=0.02,
        clip_norm=1.0, ema_rate=0.9, micro_batches=parts, checkpoint_every=checkpoint_every,
    )  # fmt: skip

    def stop(done: int, logged: dict[str, float]) -> None:
        if done == stop_at and mine.rank == mine.count - 1:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)

    return train(lambda: make_task(name), config, folder, mine=mine, engine=engine, watch=watch or stop, resume=resume)


def result(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Weights and their average, whole, and laid out as safetensors takes them: a tokenizer's are channels-last."""
    state = {**trainer.task.model.state_dict(), **{f"ema.{name}": v for name, v in trainer.ema.weights.items()}}
    plain = torch.contiguous_format
    return {name: whole(value).detach().clone(memory_format=plain) for name, value in state.items()}
