"""The distributed engine: PyTorch's DDP, or FSDP2 for what is too large for one GPU; accumulation; recomputation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from arbench.generators.common.masked import MaskedBackbone
from arbench.generators.recipe import TrainConfig
from arbench.heads.diffusion import DiffusionHead
from arbench.machine.distributed import Processes

if TYPE_CHECKING:
    from arbench.training.loop import Task

CPU_SHARDS = hasattr(torch.cpu.Stream, "record_event")  # FSDP2 of PyTorch 2.6 calls it, and it is not there
SHARDED_FROM = 1_000_000_000  # parameters: 20 bytes each with moments and an average are beyond a small GPU


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How a training is computed, which changes nothing of what it computes but rounding.

    `shard`: FSDP2 rather than DDP, None where the model is large. `recompute`: a block's activations are computed anew
    in the backward pass rather than kept. `compile`: torch.compile makes the blocks' kernels, None as the recipe says
    where the device is CUDA; compiled dropout draws other random numbers.
    """

    shard: bool | None = None
    recompute: bool = False
    compile: bool | None = None

    def compiles(self, config: TrainConfig, device: torch.device) -> bool:
        """Whether the blocks of a model on `device` are compiled."""
        return (config.compiled and device.type == "cuda") if self.compile is None else self.compile


class LossModule(nn.Module):
    """The loss of a batch as a module's forward, which is what DDP and FSDP2 know.

    The examples `indices` (B,) int64 are an array: FSDP2 moves tensors to its GPU, and they belong on the host.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model: nn.Module = task.model
        self._loss = task.loss

    def forward(self, indices: np.ndarray, rng: torch.Generator) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        return self._loss(torch.from_numpy(indices), rng)


def distribute(task: Task, config: TrainConfig, mine: Processes, engine: Engine) -> nn.Module:
    """The module that computes a task's loss and averages gradients over all processes.

    Shards the task's model in place where that is asked for, so the optimiser has to be made afterwards.
    """
    if engine.compiles(config, next(task.model.parameters()).device):
        compile_blocks(task.model, recomputed=engine.recompute)
    if engine.recompute:
        recompute_blocks(task.model)
    module = LossModule(task)
    if mine.count == 1:
        return module
    if to_be_sharded(task.model, engine):
        return shard(module, config, mine)
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def to_be_sharded(model: nn.Module, engine: Engine) -> bool:
    """Whether several processes share the weights of `model`, as is asked for or because it is large."""
    large = sum(weight.numel() for weight in model.parameters()) >= SHARDED_FROM
    return large if engine.shard is None else engine.shard


def shard(module: LossModule, config: TrainConfig, mine: Processes) -> LossModule:
    """FSDP2: every block for itself, the rest last.

    With bfloat16 a block's weights are put together in it; what goes into a block, its sums, its norms and what stands
    outside of blocks are computed as autocast does without sharding, and gradients reduced in float32. Raises
    ValueError where this PyTorch has no FSDP2 for the module's device.
    """
    device = next(module.parameters()).device.type
    if device == "cpu" and not CPU_SHARDS:
        raise ValueError(f"FSDP2 of PyTorch {torch.__version__} needs a GPU; expected a later one, or --no-shard")
    mesh, policy = init_device_mesh(device, (mine.count,)), MixedPrecisionPolicy()
    if config.dtype == "bfloat16":
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in blocks_of(module.model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh)
    return module


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks; those of a diffusion head are small and share what stands outside them."""
    of_heads = head_blocks(model)
    return [block for block in listed(model) if block not in of_heads]


def head_blocks(model: nn.Module) -> list[nn.Module]:
    """The residual blocks of diffusion heads."""
    return [block for module in model.modules() if isinstance(module, DiffusionHead) for block in listed(module)]


def listed(model: nn.Module) -> list[nn.Module]:
    """The members of all lists of modules."""
    return [block for module in model.modules() if isinstance(module, nn.ModuleList) for block in module]


def compile_blocks(model: nn.Module, *, recomputed: bool = False) -> None:
    """Let torch.compile make one kernel of many, block by block and in place, so that no name of a tensor changes.

    Blocks of one kind share what was compiled. A masked generator hides another number of tokens at every step, so its
    blocks are compiled for any length at once. Blocks that are to be `recomputed` are compiled within that, for nothing
    would be made of them from outside.
    """
    any_length = True if isinstance(model, MaskedBackbone) else None
    inside = blocks_of(model) if recomputed else []
    compiled = torch.compile(own_forward, dynamic=any_length) if inside else own_forward
    for block in inside:
        block.forward = partial(compiled, block)
    for block in head_blocks(model) if recomputed else (*blocks_of(model), *head_blocks(model)):
        block.compile(dynamic=any_length)


def own_forward(block: nn.Module, *given: Any, **named: Any) -> Any:
    """The forward of `block` as its class has it."""
    return type(block).forward(block, *given, **named)


def recompute_blocks(model: nn.Module) -> None:
    """Keep of every block its input alone; its random numbers are the same when it is computed again."""
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


@contextmanager
def reducing(module: nn.Module, last: bool) -> Iterator[None]:
    """Gradients of the micro-batch within are averaged over the processes where it is the `last` of a step.

    That is one reduction a step rather than one a micro-batch. Between micro-batches FSDP2 keeps whole gradients too,
    in float32, which `plan_training` counts.
    """
    if isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    yield


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is sharded, put together; all processes call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_on_first(tensors: Mapping[str, Tensor], mine: Processes) -> dict[str, Tensor]:
    """Copies of tensors, sharded ones put together, on the first process's host; {} on others. All of them call it."""
    found = {}
    for name, value in tensors.items():
        together = whole(value)
        if mine.is_first:
            found[name] = together.detach().to("cpu", copy=True)
    return found
