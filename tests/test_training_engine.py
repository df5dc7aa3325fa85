"""What FSDP2, bfloat16 and torch.compile do to a step on a GPU, seen on a CPU: one process that shares weights with
nobody, arguments that are moved as a GPU's would be, compilers that only count."""

from __future__ import annotations

import pytest
import torch
from conftest import make_generator
from torch.distributed.utils import _to_kwargs

from arbench.generators.recipe import TrainConfig
from arbench.training.loop import Trainer
from arbench.training.speed import random_cache
from arbench.training.tasks import GeneratorTask

KINDS = [("ar-raster", "categorical"), ("mar", "diffusion")]


def task_of(folder, name, head, **changes):
    """A generator on random tokens, and its recipe."""
    config = TrainConfig(**{"steps": 9, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 0, **changes})
    generator = make_generator(name, head)
    return GeneratorTask(generator, random_cache(generator, folder), config), config


@pytest.mark.parametrize(("name", "head"), KINDS)
def test_what_fsdp_moves_to_its_gpu_holds_nothing_of_the_host(tmp_path, name, head):
    """FSDP2 moves the tensors that its root is called with where that is on a GPU, by this function."""
    losses = []
    for moves in (False, True):
        trainer = Trainer(*task_of(tmp_path, name, head))
        if moves:
            trainer.module.register_forward_pre_hook(
                lambda module, *given: tuple(part[0] for part in _to_kwargs(*given, torch.device("meta"), False)),
                with_kwargs=True,
            )
        losses.append([float(trainer.one_step()["loss"]) for _ in range(2)])
    assert losses[0] == losses[1]
