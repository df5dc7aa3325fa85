"""The numbers a model computes in: a precision by name, and what "auto" is on a device.

"mixed-float16" and "mixed-bfloat16" do what autocast does, decided once beforehand: matrix products and their weights
are in half precision; norms, embeddings, the residual stream and the sampler in float32. No step converts weights, and
they are read in half.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from arbench.machine.hardware import DTYPES
from arbench.registry import unknown_name

AUTO, FLOAT32 = "auto", "float32"
MIXED = "mixed-"
HALF = ("float16", "bfloat16")
NAMES = (AUTO, *DTYPES, *(MIXED + name for name in HALF))


@dataclass(frozen=True)
class Precision:
    """The dtype of what is kept (norms, embeddings, residual stream) and that of the weights of matrix products."""

    kept: torch.dtype = torch.float32
    products: torch.dtype = torch.float32

    @classmethod
    def of(cls, name: str) -> Precision:
        """The precision called `name`, which is not "auto". Raises ValueError with the nearest name."""
        if name == AUTO or name not in NAMES:
            raise unknown_name("dtype", str(name), NAMES[1:])
        products = getattr(torch, name.removeprefix(MIXED))
        return cls(torch.float32 if name.startswith(MIXED) else products, products)

    @property
    def name(self) -> str:
        """As the command line and records say it."""
        name = dtype_name(self.products)
        return name if self.kept == self.products else MIXED + name

    @property
    def is_exact(self) -> bool:
        """Whether products round as float32 does, or finer: then they are kept from TF32 as well."""
        return self.products in (torch.float32, torch.float64)


def dtype_name(dtype: torch.dtype) -> str:
    """As records say it."""
    return str(dtype).removeprefix("torch.")


def resolve_precision(name: str, device: torch.device, evaluated_in: str = FLOAT32) -> Precision:
    """The precision called `name`; "auto" is `evaluated_in` on CUDA and float32 anywhere else.

    Raises ValueError with the nearest name.
    """
    if name not in NAMES:
        raise unknown_name("dtype", str(name), NAMES)
    if name == AUTO:
        name = evaluated_in if device.type == "cuda" else FLOAT32
    return Precision.of(name)


class Model(Protocol):
    """A torch module, as a plug-in is one too."""

    def parameters(self) -> Iterable[Tensor]: ...

    def to(self, *, dtype: torch.dtype | None = None) -> Any: ...


def set_precision(model: Model, precision: Precision) -> None:
    """Bring `model` to `precision`, in place: it is no longer for training then."""
    model.to(dtype=precision.kept)
    if precision.kept == precision.products:
        return
    for layer in _linear_layers(model):
        layer.to(dtype=precision.products)
        layer.register_forward_pre_hook(_like_weight)


def precision_of(model: Model) -> Precision:
    """The precision that `model` is in, told by its first parameter and its first linear layer's weight."""
    kept = next(iter(model.parameters())).dtype
    return Precision(kept, next((layer.weight.dtype for layer in _linear_layers(model)), kept))


def _linear_layers(model: Model) -> Iterator[nn.Linear]:
    layers = model.modules() if isinstance(model, nn.Module) else ()
    return (layer for layer in layers if isinstance(layer, nn.Linear))


def _like_weight(layer: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    """What goes into a linear layer in the dtype of its weight."""
    assert isinstance(layer, nn.Linear)
    return (given[0].to(layer.weight.dtype),)


def into_stream(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)`, of which a residual stream begins: in the dtype of `x` where only products are in half precision."""
    made = layer(x)
    return made if layer.weight.dtype == x.dtype else made.to(x.dtype)
