"""Exponential moving average of weights, with a rate that warms up so that short runs have a usable average."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WARMUP_OFFSET = 10  # (1 + k) / (10 + k): TensorFlow's ExponentialMovingAverage(num_updates=k)


class EMA:
    """Average of a module's parameters and buffers; integer buffers are copied.

    After update k the rate was min(rate, (1 + k) / (10 + k)): the average spans about the last tenth of the run
    until the asked-for rate is reached, instead of holding the random start for 1 / (1 - rate) steps.
    """

    def __init__(self, model: nn.Module, rate: float, *, warmup: bool = True) -> None:
        """Without `warmup` the rate is the same at every update, as MAR's is."""
        self.rate, self.warmup = rate, warmup
        self.num_updates = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

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
        averaged: list[Tensor] = []
        present: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averaged.append(self.weights[name])
                present.append(value.detach())
            else:
                self.weights[name].copy_(value)
        torch._foreach_lerp_(averaged, present, 1 - rate)

    def state_dict(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved average; raises KeyError where a tensor is missing."""
        self.num_updates = int(state["num_updates"])
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])
