"""The memory that a plan claims: what processes of FSDP2 hold, counted without memory and without other processes."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from torch.testing._internal.distributed.fake_pg import FakeStore
from training_cases import needs_cpu_shards

from arbench.generators.methods import get_method, get_preset
from arbench.generators.recipe import TrainConfig
from arbench.machine import transfer
from arbench.machine.distributed import Processes
from arbench.training import engine
from arbench.training.ema import EMA, local
from arbench.training.engine import Engine, distribute, recompute_blocks, reducing
from arbench.training.optimiser import OF, make_optimiser, optimiser_tensors, prepare_optimiser
from arbench.training.plan import empty_generator, plan_training
from arbench.training.start import set_dropout
from arbench.weights.configure import build_generator
from arbench.weights.load import _Uninitialised

IMAGENET_IMAGES = 1_281_167
MIB = 2**20
MODELS = ["ar-3b", "mar-h"]


class Task:
    """What is distributed; nothing is computed."""

    def __init__(self, model):
        self.model = model

    def loss(self, indices, rng):
        raise NotImplementedError


def recipe_of(name) -> TrainConfig:
    return get_method(get_preset(name).method).recipe.for_images(IMAGENET_IMAGES)


def held(tensors):
    """Bytes on this process."""
    return sum(local(value).numel() * value.element_size() for value in tensors)


def bytes_held(model, config):
    """Of weights, moments and average, as a trainer makes them."""
    optimizer = make_optimiser(model, config)
    prepare_optimiser(model, optimizer, {f"{name}{OF}step" for name, _ in model.named_parameters()})
    moments = [value for name, value in optimiser_tensors(model, optimizer).items() if not name.endswith("step")]
    average = EMA(model, config.ema_rate).weights.values() if config.ema_rate else []
    return held(model.parameters()), held(moments), held(average)


@pytest.mark.parametrize("name", MODELS)
def test_one_process_holds_what_the_plan_says(name):
    preset, config = get_preset(name), recipe_of(name)
    plan = plan_training(name, config, 1, Engine(), {})
    weights, moments, average = bytes_held(empty_generator(preset.method, dict(preset.config)), config)
    assert (weights, moments, average) == (plan.weights, 2 * plan.weights, plan.average)
    assert plan.num_bytes == 2 * weights + moments + average + plan.activations  # the gradients are as large


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("count", "ranks"),
    [(64, [0, 63]), *(pytest.param(count, range(count), marks=pytest.mark.slow) for count in (8, 64))],
)
def test_every_process_holds_no_more_than_the_plan_says(name, count, ranks, monkeypatch):
    """The first process, to the byte; the others as much or less, at most a tenth: what few rows go round badly."""
    on_cpu = partial(init_device_mesh, "cpu")  # FSDP2 knows no mesh without memory
    monkeypatch.setattr(engine, "init_device_mesh", lambda device, shape: on_cpu(shape))
    preset, config = get_preset(name), recipe_of(name)
    plan = plan_training(name, config, count, Engine(shard=True), {})
    shares = []
    for rank in ranks:
        distributed.init_process_group("fake", rank=rank, world_size=count, store=FakeStore())
        try:
            model = empty_generator(preset.method, dict(preset.config))
            distribute(Task(model), config, Processes(rank=rank, count=count), Engine(shard=True))
            weights, moments, average = bytes_held(model, config)
        finally:
            distributed.destroy_process_group()
        assert moments == 2 * weights
        assert average == (weights if config.ema_rate else 0)
        shares.append(weights)
    assert shares[0] == plan.weights
    assert all(0.9 * plan.weights <= share <= plan.weights for share in shares)
    if len(shares) == count:
        assert sum(shares) == 4 * plan.parameters


@needs_cpu_shards
def test_between_micro_batches_sharded_gradients_are_whole_as_the_plan_says():
    """Of a process of two that are not there: in float32 under bfloat16, after the first backward pass of two."""
    tiny = {"width": 32, "depth": 2, "heads": 2, "grid": 4, "vocab_size": 32, "num_classes": 5}
    config, how = replace(recipe_of("ar-b"), batch_size=8, micro_batches=4), Engine(shard=True)
    plan = plan_training("ar-b", config, 2, how, tiny)
    distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        task = Task(build_generator("ar", {**get_preset("ar-b").config, **tiny}))
        tokens, labels = torch.zeros(2, 4, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
        task.loss = lambda indices, rng: (task.model.loss(tokens, labels, rng=rng), {})
        module = distribute(task, config, Processes(rank=0, count=2), how)
        with reducing(module, False), torch.autocast("cpu", torch.bfloat16):
            module(labels.numpy(), torch.Generator())[0].backward()
        sharded = [part for part in module.modules() if isinstance(part, FSDPModule)]
        weights = [weight for part in sharded for weight in part._get_fsdp_state()._fsdp_param_group.fsdp_params]
        apart = [weight.unsharded_accumulated_grad for weight in weights]  # None where they are in float32 as it is
        kept = [weight.unsharded_param.grad if it is None else it for weight, it in zip(weights, apart, strict=True)]
        assert {gradient.dtype for gradient in kept} == {torch.float32}
        assert plan.gradients == held(kept) == 4 * plan.parameters > 1.9 * plan.weights
    finally:
        distributed.destroy_process_group()
    assert plan_training("ar-b", replace(config, micro_batches=2), 2, how, tiny).gradients == plan.weights
    assert plan_training("ar-b", config, 2, Engine(shard=False), tiny).gradients == plan.gradients


def bytes_kept(name, images, recompute):
    """What a loss under bfloat16 keeps for its backward pass beside the weights, counted on tensors without memory."""
    preset, seen = get_preset(name), {}
    transfer._made.cache_clear()  # a constant of before would be a real tensor
    with FakeTensorMode(), _Uninitialised(), pytest.MonkeyPatch.context() as patch:
        generator = build_generator(preset.method, dict(preset.config)).train()
        set_dropout(generator, 0.1)
        if recompute:
            recompute_blocks(generator)
        weights = {weight.untyped_storage()._cdata for weight in generator.parameters()}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                seen[storage._cdata] = storage.nbytes(), tensor
            return tensor

        def without_matrices(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False):
            return attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)  # as a GPU's kernels keep them

        attention = functional.scaled_dot_product_attention
        patch.setattr(functional, "scaled_dot_product_attention", without_matrices)
        labels = torch.zeros(images, dtype=torch.int64)
        if generator.kind == "discrete":
            tokens = torch.zeros(images, *generator.grid, dtype=torch.int64)
        else:
            generator._num_hidden = lambda rng: round(0.867 * generator.num_tokens)  # the mean
            tokens = torch.zeros(images, generator.config.channels, *generator.grid)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu"):
            generator.loss(tokens, labels)
    transfer._made.cache_clear()  # a constant of before would be a real tensor
    return sum(size for size, _ in seen.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks", "apart"), [("ar-3b", 24, 0.4), ("ar-l-diff", 32, 0.4), ("mar-h", 20 + 20, 0.1)]
)
def test_activations_of_large_models_by_counting(name, blocks, apart):
    """An image more keeps so much more, as far `apart` from the formula as a CPU's norms and dropout, which keep more
    than a GPU's fused ones; recomputed blocks keep their input alone, and one of them at a time is whole."""
    generator = empty_generator(get_preset(name).method, dict(get_preset(name).config))
    told = get_method(generator.method).training_memory
    whole, inputs = (bytes_kept(name, 2, again) - bytes_kept(name, 1, again) for again in (False, True))
    assert whole / MIB == pytest.approx(told(generator, True, False) / MIB, rel=apart)
    assert (inputs + whole / blocks) / MIB == pytest.approx(told(generator, True, True) / MIB, rel=0.3)


def test_on_cuda_the_optimiser_is_one_kernel():
    """Tensors without memory say that they lie on a GPU."""
    config = recipe_of("ar-l")
    with FakeTensorMode():
        for device, fused in (("cuda", True), ("cpu", None)):
            assert make_optimiser(torch.nn.Linear(2, 2, device=device), config).defaults["fused"] is fused
