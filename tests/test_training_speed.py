"""The speed of training is measured on the real step; nothing of a step waits for the device or copies constants to it;
compiled blocks compute the same."""

import json
import runpy
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from conftest import make_generator, make_tokens
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from arbench.bench.launches import Launches
from arbench.generators.methods import get_method
from arbench.generators.recipe import TrainConfig
from arbench.machine.randomness import on_host
from arbench.machine.work import Peak
from arbench.training.engine import Engine, blocks_of, head_blocks
from arbench.training.loop import Trainer
from arbench.training.speed import random_cache, speed_config
from arbench.training.tasks import GeneratorTask

SCRIPT = Path(__file__).parents[1] / "scripts" / "train_speed.py"
KINDS = [("ar-raster", "categorical"), ("ar-random", "diffusion"), ("par", "categorical"), ("mar", "diffusion")]
STATE_SEED = 0x36BF0526CB45BE  # of SHA-256 of the bytes 0 to 15: no `hash`, which is salted by process
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")


def trainer_of(folder, name, head, engine=None, **changes):
    generator = make_generator(name, head)
    config = TrainConfig(**{"steps": 9, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 0, **changes})
    return Trainer(GeneratorTask(generator, random_cache(generator, folder), config), config, engine=engine)


def test_a_line_a_model(capsys, monkeypatch):
    known = Peak(device="this", flops=1e9, bandwidth=1e9, source="told")
    monkeypatch.setattr("arbench.training.speed.device_peak", lambda device, dtype: known)
    main = runpy.run_path(str(SCRIPT))["main"]
    few = ("--batch-size", "2", "--steps", "2", "--warm-up", "2", "--device", "cpu")
    main(["--model", "mar-digits", "ar-digits", *few])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["model"] for row in told] == ["mar-digits", "ar-digits"]
    for row in told:
        assert row["mfu"] == pytest.approx(row["images_per_second"] * row["flops_per_image"] / 1e9)
        assert (row["steps"], row["batch_size"], row["compiled"], row["hardware"]["device"]) == (2, 2, False, "cpu")
        assert 0 < row["loss"] < 20


def test_it_is_the_recipe_s_step():
    config = speed_config("mar-l", 64, 25, None)
    recipe = get_method("mar").recipe
    assert (config.steps, config.batch_size, config.micro_batches) == (25, 64, 0)
    assert (config.dtype, config.dropout, config.clip_norm) == ("bfloat16", recipe.dropout, recipe.clip_norm)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert Engine().compiles(config, cuda)
    assert not Engine().compiles(config, cpu)
    assert Engine(compile=True).compiles(config, cpu)
    assert not Engine(compile=False).compiles(config, cuda)


class Waits(TorchDispatchMode):
    """Counts the operations whose result the host has to wait for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().partition("::")[2].partition(".")[0]
        self.seen += [name] if name in WAITS else []
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "head"), KINDS)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_waits_for_nothing(tmp_path, name, head, parts):
    """Clipping, optimiser, average and log; on a CPU the norm is looked at, so that a broken step is told at once."""
    trainer = trainer_of(tmp_path, name, head, micro_batches=parts, ema_rate=0.9)
    weights = list(trainer.task.model.parameters())
    for group in trainer.optimizer.param_groups:
        group["fused"] = True  # as on CUDA

    def backward(part, last):  # the loss and its gradients are the next test's
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        return {"loss": torch.zeros(())}

    trainer._backward = backward
    with Waits() as waits:
        trainer.one_step()
    assert waits.seen == ["_local_scalar_dense"]
    trainer.device = torch.device("cuda")  # as far as `one_step` asks
    before = [weight.clone() for weight in weights]
    with Waits() as waits:
        trainer.one_step()
    assert waits.seen == []
    assert not any(torch.equal(weight, was) for weight, was in zip(weights, before, strict=True))


@pytest.mark.parametrize(("name", "head"), KINDS)
def test_a_loss_copies_nothing_from_the_host_and_waits_for_nothing(name, head):
    """Tensors without values stand for a GPU's: whatever asked for a value would raise."""
    generator = make_generator(name, head).train().to("meta")
    tokens = make_tokens(make_generator(name, head)).to("meta")
    labels = torch.zeros(len(tokens), dtype=torch.int64, device="meta")
    generator.loss(tokens, labels)  # its constants are sent
    with Launches() as count:
        generator.loss(tokens, labels).backward()
    assert not count.copies
    assert count.ops


def test_the_host_s_draw_is_the_same_in_every_process():
    """A generator of a device, told by its state."""

    class Elsewhere:
        device = torch.device("cuda")

        def get_state(self):
            return torch.arange(16, dtype=torch.uint8)

    again = torch.Generator().manual_seed(STATE_SEED)
    assert torch.rand((), generator=on_host(Elsewhere())).item() == torch.rand((), generator=again).item()


def losses(folder, name, head, engine):
    trainer = trainer_of(folder, name, head, engine)
    before = list(trainer.task.model.state_dict())
    found = [float(trainer.one_step()["loss"]) for _ in range(4)]
    assert list(trainer.task.model.state_dict()) == before
    return found


@pytest.mark.parametrize(("name", "head"), KINDS[2:])
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch.compile's own looking
def test_compiled_blocks_lose_as_much(tmp_path, monkeypatch, name, head):
    """What is traced of a block is the block, whatever its length; kernels made of it are the slow test's."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    eager = losses(tmp_path, name, head, Engine())
    assert losses(tmp_path, name, head, Engine(compile=True)) == pytest.approx(eager, abs=1e-5)
    model = trainer_of(tmp_path, name, head, Engine(compile=True)).task.model
    compiled = [block for block in model.modules() if block._compiled_call_impl is not None]
    assert set(compiled) == {*blocks_of(model), *head_blocks(model)}
    assert compiled


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("name", "head"), KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_kernels_lose_as_much(tmp_path, name, head, recompute):
    eager = losses(tmp_path, name, head, Engine())
    found = losses(tmp_path, name, head, Engine(compile=True, recompute=recompute))
    assert found == pytest.approx(eager, abs=1e-5)
