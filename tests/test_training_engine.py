"""What FSDP2, bfloat16 and torch.compile do to a step on a GPU, seen on a CPU: one process that shares weights with
nobody, arguments that are moved as a GPU's would be, compilers that only count."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from conftest import make_generator
from torch import distributed, nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.utils import _to_kwargs
from training_cases import needs_cpu_shards

from arbench.generators.arpg import layers as arpg_layers
from arbench.generators.common import layers
from arbench.generators.recipe import TrainConfig
from arbench.machine.distributed import Processes
from arbench.training import engine as engine_room
from arbench.training import jobs
from arbench.training.engine import Engine, LossModule, blocks_of, shard, whole
from arbench.training.loop import Trainer, train
from arbench.training.parts import undisturbed
from arbench.training.speed import random_cache, recipe_step_seconds, speed_config
from arbench.training.tasks import GeneratorTask
from arbench.weights.load import load_generator

KINDS = ["ar-raster", "par", "mar", "arpg-digits", "dit-digits"]


@pytest.fixture
def group():
    """A process group of one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def task_of(folder, name, **changes):
    """A generator on random tokens, and its recipe. The norms' weights are such as bfloat16 has."""
    config = TrainConfig(**{"steps": 9, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 0, **changes})
    if name.endswith("digits"):
        torch.manual_seed(0)
        generator = load_generator(name, weights="random")
        for weight in generator.parameters():
            nn.init.normal_(weight, std=0.05)
    else:
        generator = make_generator(name, "diffusion" if name == "mar" else "categorical")
    for weight in weights_of_norms(generator):
        weight.data.copy_(weight.bfloat16())
    return GeneratorTask(generator, random_cache(generator, folder), config), config


def weights_of_norms(generator):
    norms = (part for part in generator.modules() if isinstance(part, (nn.LayerNorm, layers.RMSNorm)))
    return [weight for norm in norms for weight in norm.parameters()]


@pytest.mark.parametrize("name", ["ar-raster", "mar"])
def test_what_fsdp_moves_to_its_gpu_holds_nothing_of_the_host(tmp_path, name):
    """FSDP2 moves the tensors that its root is called with where that is on a GPU, by this function."""
    losses = []
    for moves in (False, True):
        trainer = Trainer(*task_of(tmp_path, name))
        if moves:
            trainer.module.register_forward_pre_hook(
                lambda module, *given: tuple(part[0] for part in _to_kwargs(*given, torch.device("meta"), False)),
                with_kwargs=True,
            )
        losses.append([float(trainer.one_step()["loss"]) for _ in range(2)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "mar")) for name in KINDS])
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch.compile's own looking
def test_recomputed_blocks_are_compiled_as_others_are(tmp_path, monkeypatch, name):
    """As many graphs of as many operations, equal losses, gradients and weights, the same names; with dropout."""
    found, plain = [], torch.compile
    for recompute in (False, True):
        torch._dynamo.reset()
        counter = CompileCounter()
        monkeypatch.setattr(torch, "compile", partial(plain, backend=counter))
        dropout = {} if name == "dit-digits" else {"dropout": 0.1}
        trainer = Trainer(*task_of(tmp_path, name, **dropout), engine=Engine(compile=True, recompute=recompute))
        torch.manual_seed(0)
        losses = [float(trainer.one_step()["loss"]) for _ in range(2)]
        found.append((losses, counter.frame_count, counter.op_count, trainer.task.model))
    (losses, graphs, operations, model), (again, *counted, recomputed) = found
    assert losses == again
    assert graphs > 0
    assert counted == [graphs, operations]
    assert list(model.state_dict()) == list(recomputed.state_dict())
    for one, other in zip(model.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one.grad, other.grad)


def test_at_the_end_only_the_first_process_holds_whole_weights(monkeypatch, tmp_path):
    """On the host, apart from the model's; all processes take part in putting each together."""
    asked, written = [], []
    monkeypatch.setattr(engine_room, "whole", lambda value: asked.append(value) or value)
    monkeypatch.setattr(jobs, "by_first", lambda mine, compute: compute())
    monkeypatch.setattr(jobs, "_export", lambda job, task, states, *of: written.append(states))
    trainer = Trainer(*task_of(tmp_path, "ar-raster", ema_rate=0.9))
    number = len(trainer.task.model.state_dict())
    for rank in (0, 1):
        trainer.mine = Processes(rank=rank, count=2)
        jobs._hand_over(None, trainer, tmp_path, None, trainer.device)
    assert len(asked) == 2 * 2 * number
    assert written[1] == {"raw": {}, "ema": {}}
    for name, value in trainer.task.model.state_dict().items():
        held = written[0]["raw"][name]
        assert torch.equal(held, value)
        assert held.device.type == "cpu"
        assert held.data_ptr() != value.data_ptr()


def test_beside_several_gpus_a_training_on_the_host_leaves_them_alone(monkeypatch, tmp_path):
    """PyTorch warns where the random numbers of several are put back, and this one cannot read them."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    task, config = task_of(tmp_path, "ar-raster", steps=1, batch_size=2, micro_batches=2)
    trainer = train(lambda: task, config, tmp_path / "run")
    assert len(trainer.parts) == 2
    recipe = speed_config("ar-digits", 2, 1, None)
    assert recipe_step_seconds("ar-digits", recipe, {}, torch.device("cpu"), 1) > 0


def test_on_a_gpu_its_random_numbers_alone_are_put_back(monkeypatch):
    given = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: given.append(devices) or nullcontext())
    for name in ("cuda:1", "cpu"):
        with undisturbed(torch.device(name)):
            pass
    assert given == [[torch.device("cuda:1")], []]


def loss_and_gradients(task, config, dtypes, *, sharded):
    """Of a forward and a backward pass under autocast, whole; `dtypes` takes in and out of what a block is made of."""
    task.model.train()
    for block in blocks_of(task.model):
        for part in block.modules():
            part.register_forward_hook(lambda part, given, made: dtypes.append((given[0].dtype, made.dtype)))
    module = LossModule(task)
    if sharded:
        shard(module, config, Processes())
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = module(np.arange(4), torch.Generator().manual_seed(0))
    loss.backward()
    return loss.detach(), {name: whole(weight.grad) for name, weight in task.model.named_parameters()}


@needs_cpu_shards
@pytest.mark.parametrize("name", KINDS)
def test_sharded_blocks_compute_in_the_dtypes_of_autocast(tmp_path, monkeypatch, group, name):
    """Equal losses and gradients, but the norms' own, which come in bfloat16; rotary tables, which CUDA refuses in
    bfloat16, are in float32, as are the sums."""
    tables, found, rotate = [], [], layers.rotate

    def watched(x, rotary):
        tables.append(rotary.dtype)
        return rotate(x, rotary)

    for room in (layers, arpg_layers):
        monkeypatch.setattr(room, "rotate", watched)
    for sharded in (False, True):
        task, config = task_of(tmp_path, name, dtype="bfloat16")
        of_norms = {id(weight) for weight in weights_of_norms(task.model)}
        names = {name for name, weight in task.model.named_parameters() if id(weight) in of_norms}
        dtypes = []
        found.append((*loss_and_gradients(task, config, dtypes, sharded=sharded), dtypes, names))
    (loss, gradients, dtypes, norms), (again, others, dtypes_again, _) = found
    assert torch.equal(loss, again)
    assert dtypes == dtypes_again
    assert dtypes[-1] == (torch.float32, torch.float32)  # a block's own
    assert set(tables) <= {torch.float32}
    assert bool(tables) == (name in {"ar-raster", "par", "arpg-digits"})
    for name, gradient in gradients.items():
        assert others[name].dtype == torch.float32
        if name in norms:
            torch.testing.assert_close(others[name], gradient, rtol=2**-8, atol=0)
        else:
            assert torch.equal(others[name], gradient), name
