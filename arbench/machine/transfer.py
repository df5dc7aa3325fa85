"""From the host to a device without waiting for it: constants are sent once, batches from pinned memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

_kept: list[Tensor] | None = None  # the constants that were asked for inside `kept_constants`


def constant(
    make: Callable[..., Tensor], *given: Hashable, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """`make(*given)` on `device`, made and sent once: what asks for it again must not write into it."""
    found = _made(make, *given, device=device, dtype=dtype)
    if _kept is not None:
        _kept.append(found)
    return found


@contextmanager
def kept_constants() -> Iterator[list[Tensor]]:
    """The constants that are asked for inside: for what knows their addresses and must not lose them to later ones."""
    global _kept
    before, _kept = _kept, []
    try:
        yield _kept
    finally:
        _kept = before


@lru_cache(maxsize=256)
def _made(make: Callable[..., Tensor], *given: Hashable, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    with torch.inference_mode(False):  # training may ask for it next
        with torch.device("cpu"):
            made = make(*given)
        return made.to(device, dtype or made.dtype)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; from the host to a GPU nobody waits for the copy, nor for what is queued before."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
