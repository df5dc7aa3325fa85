"""A function of tensors as one kernel: compiled on a GPU, called as it is written everywhere else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class EngineWarning(UserWarning):
    """A fast way that cannot be gone here; the plain one, which gives the same, is gone instead."""


class Fused:
    """`function` through `torch.compile`, with shapes that may change; as it is, with one warning, where that fails."""

    def __init__(self, function: Callable[..., Any], what: str, backend: str = "inductor") -> None:
        """`what` is made, in words; `backend` is the compiler's."""
        self._function, self._what, self._backend = function, what, backend
        self._compiled: Callable[..., Any] | None = None
        self._is_broken = False

    def pays(self, like: Tensor) -> bool:
        """Whether it is worth compiling for tensors such as `like`: real ones on a CUDA device."""
        return type(like) is Tensor and like.is_cuda and not self._is_broken

    def __call__(self, *given: Any) -> Any:
        """As `function`."""
        if self._is_broken:
            return self._function(*given)
        if self._compiled is None:
            self._compiled = torch.compile(self._function, dynamic=True, fullgraph=True, backend=self._backend)
        try:
            return self._compiled(*given)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ImportError, OSError, AssertionError) as error:
            self._is_broken = True
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"{self._what} in many kernels, for one could not be compiled: {reason}", EngineWarning, 2)
        return self._function(*given)
