"""The optimiser: which tensors decay, and AdamW as PyTorch has it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from arbench.generators.methods import get_method, get_preset
from arbench.generators.recipe import TrainConfig
from arbench.protocols import Generator

OF = ":"  # between the name of a weight and that of what the optimiser keeps of it


def parameter_groups(generator: Generator, weight_decay: float, *, preset: str | None = None) -> list[dict[str, Any]]:
    """The optimiser's groups of a generator as its recipe decays them: first what decays, then what does not.

    The recipe is that of `preset`, or its method's where none is named. Each group has `params` and `weight_decay`, as
    `torch.optim` takes them. Raises ValueError for a preset of another method.
    """
    known = None if preset is None else get_preset(preset)
    if known is not None and known.method != generator.method:
        raise ValueError(f"preset {preset!r} is of method {known.method!r}; expected one of {generator.method!r}")
    recipe = get_method(generator.method).trained_by(known)
    assert isinstance(generator, nn.Module)
    return decay_groups(generator, weight_decay, recipe.undecayed if recipe else ())


def decay_groups(model: nn.Module, weight_decay: float, undecayed: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Matrices are decayed; biases, norms and what is named as `undecayed` are not, as in MAR and LlamaGen."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            (decayed if weight.ndim >= 2 and not name.startswith(undecayed) else others).append(weight)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def make_optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the model's groups, fused where the weights lie on a CUDA device."""
    groups = decay_groups(model, config.weight_decay, config.undecayed)
    fused = all(weight.is_cuda for weight in model.parameters())
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused or None)


def optimiser_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state by the name of its weight and of what it is, e.g. `norm.weight:exp_avg`."""
    names: dict[torch.Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    return {
        f"{names[weight]}{OF}{key}": value for weight, state in optimizer.state.items() for key, value in state.items()
    }


def prepare_optimiser(model: nn.Module, optimizer: torch.optim.Optimizer, held: set[str]) -> None:
    """Make room for the state of AdamW of those weights that have one in `held`, names as `optimiser_tensors` has."""
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for name, weight in model.named_parameters():
        if f"{name}{OF}step" in held:
            optimizer.state[weight] = {
                "step": torch.zeros((), device=weight.device if fused else "cpu"),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
