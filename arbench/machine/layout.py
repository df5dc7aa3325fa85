"""How weights lie in memory, for products of one or two rows on a CPU."""

from __future__ import annotations

import torch
from torch import nn

# Layers whose output is so much wider than their input gain by it: 1.2 to 1.6 times as fast with one or two rows (one
# thread, widths of 768 and 1024). Narrowing ones lose, and with four rows or more nothing changes.
WIDENS = 1.2


def store_for_few_rows(model: nn.Module) -> int:
    """Lay the weights of the float32 layers that widen out transposed, in place; how many these are.

    The values stay and so do their shapes; the sums of a product are taken in another order (tier E1).
    """
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    exact = [layer for layer in layers if layer.weight.dtype == torch.float32]
    wide = [layer for layer in exact if layer.out_features >= WIDENS * layer.in_features]
    for layer in wide:
        layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t(), layer.weight.requires_grad)
    return len(wide)
