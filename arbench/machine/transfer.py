"""From the host to a device without waiting for it: constants are sent once, batches from pinned memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def constant(
    make: Callable[..., Tensor], *given: Hashable, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """`make(*given)` on `device`, made and sent once: what asks for it again must not write into it."""
    with torch.inference_mode(False):  # training may ask for it next
        with torch.device("cpu"):
            made = make(*given)
        return made.to(device, dtype or made.dtype)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; from the host to a GPU nobody waits for the copy, nor for what is queued before."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
