"""Exponential moving average of weights, with a rate that warms up so that short runs have a usable average."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

WARMUP_OFFSET = 10  # (1 + k) / (10 + k): TensorFlow's ExponentialMovingAverage(num_updates=k)


class EMA:
    """Average of a module's parameters and buffers; integer buffers are copied. At rate 0 there is none.

    After update k the rate was min(rate, (1 + k) / (10 + k)): the average spans about the last tenth of the run
    until the asked-for rate is reached, instead of holding the random start for 1 / (1 - rate) steps.
    """

    def __init__(self, model: nn.Module, rate: float, *, warmup: bool = True) -> None:
        """Without `warmup` the rate is the same at every update, as MAR's is."""
        self.rate, self.warmup = rate, warmup
        self.num_updates = 0
        state = model.state_dict()
        # Without an average these are the model's own tensors.
        self.weights = {name: value.detach().clone() if rate else value.detach() for name, value in state.items()}

    def rate_at(self, num_updates: int) -> float:
        """The rate of update `num_updates` = 0, 1, …"""
        if not self.warmup:
            return self.rate
        return min(self.rate, (1 + num_updates) / (WARMUP_OFFSET + num_updates))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move every averaged tensor towards the module's present one."""
        rate = self.rate_at(self.num_updates)
        self.num_updates += 1
        if not self.rate:
            return
        averaged: list[Tensor] = []
        present: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averaged.append(local(self.weights[name]))
                present.append(local(value.detach()))
            else:
                self.weights[name].copy_(value)
        torch._foreach_lerp_(averaged, present, 1 - rate)


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that lies on this process; another one is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
