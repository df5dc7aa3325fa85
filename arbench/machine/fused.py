"""A function of tensors as one kernel or a few: compiled on a GPU, called as it is written everywhere else."""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

MOST_COMPILATIONS = 64  # of one function: sizes of rows and tokens that were met as constants before they may change


class EngineWarning(UserWarning):
    """A fast way that cannot be gone here; the plain one, which gives the same, is gone instead."""


def _too_many_compilations() -> type[Exception]:
    """What a function that must compile whole raises past the limit of compilations, which is no RuntimeError."""
    return getattr(torch._dynamo.exc, "FailOnRecompileLimitHit", RuntimeError)


def limited_compilations(of_one: int, of_all: int | None = None) -> AbstractContextManager[None]:
    """Inside, a function is compiled `of_one` times at most, all that share its code `of_all` times (None: as before).

    torch 2.6 knows these limits by their older names alone.
    """
    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    limits: dict[str, Any] = {name: of_one} if of_all is None else {name: of_one, f"accumulated_{name}": of_all}
    return config.patch(limits)


_all_fused: weakref.WeakSet[Fused] = weakref.WeakSet()


class Fused:
    """`function` through `torch.compile`; as it is, with one warning, where that fails."""

    def __init__(
        self,
        function: Callable[..., Any],
        what: str,
        *,
        backend: str = "inductor",
        dynamic: bool | None = True,
        most: int = MOST_COMPILATIONS,
    ) -> None:
        """`what` is made, in words; `backend` is the compiler's; `dynamic` shapes may change (None: once they do).

        It is compiled `most` times at most; inside `compiled_regions` these decide that.
        """
        self._function, self._what, self._backend, self._dynamic = function, what, backend, dynamic
        self._most = most
        self._compiled: Callable[..., Any] | None = None
        self._is_broken = False
        _all_fused.add(self)

    def pays(self, like: Tensor) -> bool:
        """Whether it is worth compiling for tensors such as `like`: real ones on a CUDA device."""
        return type(like) is Tensor and like.is_cuda and not self._is_broken

    def __call__(self, *given: Any) -> Any:
        """As `function`."""
        if self._is_broken:
            return self._function(*given)
        if self._compiled is None:
            self._compiled = torch.compile(self._function, dynamic=self._dynamic, fullgraph=True, backend=self._backend)
        try:
            with limited_compilations(self._most) if _backend is None else nullcontext():
                return self._compiled(*given)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ImportError, OSError, AssertionError, _too_many_compilations()) as error:
            self._is_broken = True
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"{self._what} in many kernels, for one could not be compiled: {reason}", EngineWarning, 2)
        return self._function(*given)


def forget_compiled() -> None:
    """Let all be compiled anew, also what could not be: compilations are counted over all models of a process."""
    torch._dynamo.reset()
    for fused in _all_fused:
        fused._compiled, fused._is_broken = None, False


_backend: str | None = None  # that of the regions; None: they are called as they are written


class Region:
    """A piece of a network between two products that a compiler makes few kernels of, inside `compiled_regions`.

    A function or a method; layers of one kind share what is compiled.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._fused: dict[str, Fused] = {}

    def __get__(self, owner: object, owner_type: type | None = None) -> Any:
        return self if owner is None else functools.partial(self.__call__, owner)

    def __call__(self, *given: Any) -> Any:
        if _backend is None:
            return self._function(*given)
        if _backend not in self._fused:
            what = getattr(self._function, "__qualname__", "a region")
            self._fused[_backend] = Fused(self._function, what, backend=_backend, dynamic=None)
        return self._fused[_backend](*given)


@contextmanager
def compiled_regions(backend: str | None) -> Iterator[None]:
    """Regions are compiled by `backend` inside; None leaves them as they are written."""
    global _backend
    before, _backend = _backend, backend
    many = nullcontext() if backend is None else limited_compilations(MOST_COMPILATIONS)
    try:
        with many:
            yield
    finally:
        _backend = before
