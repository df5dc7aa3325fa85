"""Products of a few rows with a large weight on a CPU, turned round: its library is faster at W xᵀ than at x Wᵀ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# float32, MKL, one thread: 2 rows are 1.4 times as fast, 4 rows 1.8, 8 rows 1.3; then multiples of 8 gain a tenth, to
# the same bits, and what lies between loses.
MOST_ROWS, MOST_EIGHTS = 8, 32
# A MiB of them: what is smaller stays in a cache, is fast either way, and keeps its sums to the last bit.
LEAST_WEIGHTS = 2**18

_are_turned = True


@contextmanager
def plain_products() -> Iterator[None]:
    """Inside, every product is x Wᵀ, as the releases have it."""
    global _are_turned
    before, _are_turned = _are_turned, False
    try:
        yield
    finally:
        _are_turned = before


def is_read_anew(weight: Tensor) -> bool:
    """Whether every product with `weight` reads it from memory: a large one, or any on another device than a CPU."""
    return weight.device.type != "cpu" or weight.numel() >= LEAST_WEIGHTS


def is_turned(weight: Tensor) -> bool:
    """Whether products of a few rows with `weight` (out, in) pay turned round: a large one that does not narrow."""
    return (
        _are_turned
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and is_read_anew(weight)
        and len(weight) >= weight.shape[1]
        and weight.is_contiguous()
    )


class FewRowsLinear(nn.Linear):
    """A linear layer whose products of a few rows are taken in the faster order (tier E1) where nothing is trained."""

    def forward(self, x: Tensor) -> Tensor:
        """(.., in) -> (.., out)."""
        if not is_turned(self.weight) or torch.is_grad_enabled():
            return super().forward(x)
        rows = x.numel() // x.shape[-1]
        if not (1 < rows <= MOST_ROWS or (rows <= MOST_EIGHTS and rows % 8 == 0)):
            return super().forward(x)
        product = (self.weight @ x.reshape(rows, -1).t()).t().contiguous()
        return (product if self.bias is None else product + self.bias).view(*x.shape[:-1], -1)
