"""Paddle's `.pdparams`: a pickled dict of NumPy arrays, read without running anything that the pickle asks for.

Paddle stores a linear layer's weight as (in, out), torch as (out, in): 2-D weights are transposed both ways, except
embedding tables (`keys.embeddings`); norms are 1-D. bfloat16 comes as uint16 arrays.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arbench.machine.files import whole_file
from arbench.weights.keys import is_linear_weight

NAME_TABLE = "StructuredToParameterName@@"  # paddle.save adds it: structured name -> parameter name
SLICED = "UnpackBigParamInfor@@"  # paddle.save, protocols 2 and 3: arrays over 1 GiB come in slices
PROTOCOL = 4  # paddle.save's default

DEEPEST = 20  # dicts within dicts; training states nest three or four deep

_BROKEN = (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError, MemoryError)


def _empty_array(*_: object) -> np.ndarray:
    """What NumPy's `_reconstruct` does for every array, whatever it is asked: the state that follows fills it."""
    return np.ndarray((0,), np.int8)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """`_codecs.encode` as Python 2 protocols use it for bytes; no other codec."""
    return text.encode("latin1")


class _Ndarray:
    """Stands for the class `numpy.ndarray`, which the pickle only names; it cannot be called."""


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
}


class RefusedError(ValueError):
    """A pickle asks for something that is not a tensor; the message names it."""


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dicts, numbers, strings and NumPy arrays; everything else is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[(module, name)]
        except KeyError:
            raise RefusedError(f"{module}.{name}") from None


def read_pdparams(path: str | Path) -> dict[str, Any]:
    """The content of a `.pdparams` file with every array a torch tensor in torch's layout; nested dicts stay nested.

    Raises ValueError in one line where the file is broken or asks for anything but arrays, OSError where it cannot
    be read. Nothing in the file is executed.
    """
    with open(path, "rb") as file:
        try:
            content = _ArraysOnly(file).load()
        except RefusedError as error:
            raise ValueError(f"{path}: refused: its pickle asks for {error}; nothing was executed") from None
        except _BROKEN as error:
            raise ValueError(f"{path}: broken or truncated .pdparams file ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict of arrays, found {type(content).__name__}")
    return _tensors(content, path)


def _tensors(content: dict[Any, Any], path: str | Path, depth: int = 0) -> dict[str, Any]:
    """Arrays to tensors, emptying `content` on the way so that no weight is held twice."""
    if depth > DEEPEST:
        raise ValueError(f"{path}: refused: its dicts are nested more than {DEEPEST} deep")
    _join_slices(content, path)
    content.pop(NAME_TABLE, None)
    result: dict[str, Any] = {}
    for key in list(content):
        name, value = str(key), content.pop(key)
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
            value = value[1]  # (parameter name, array): how paddle pickles a tensor in a nested dict
        if isinstance(value, np.ndarray):
            value = _to_tensor(name, value, path)
        result[name] = _tensors(value, path, depth + 1) if isinstance(value, dict) else value
    return result


def _join_slices(content: dict[Any, Any], path: str | Path) -> None:
    try:
        for name, parts in content.pop(SLICED, {}).items():
            pieces = [content.pop(piece) for piece in parts["slices"]]
            content[name] = np.concatenate(pieces).reshape(parts["OriginShape"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: broken .pdparams file: its slices do not fit together ({error})") from None


def _to_tensor(name: str, array: np.ndarray, path: str | Path) -> Tensor:
    """One array as a tensor; the memory is shared where its order and byte order allow."""
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: {name} holds {array.dtype}, not numbers")
    array = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")  # native, contiguous; 0-d stays 0-d
    if array.dtype == np.uint16:
        tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(array)
    return tensor.t().contiguous() if is_linear_weight(name, tensor.ndim) else tensor


def write_pdparams(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors as `paddle.save` writes a state dict; whole or not at all."""
    arrays: dict[str, Any] = {name: _to_array(name, tensor) for name, tensor in tensors.items()}
    arrays[NAME_TABLE] = {name: name for name in tensors}
    with whole_file(Path(path)) as partial, partial.open("wb") as file:
        pickle.dump(arrays, file, protocol=PROTOCOL)


def _to_array(name: str, tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if is_linear_weight(name, tensor.ndim):
        tensor = tensor.t()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
    return tensor.contiguous().numpy()


__all__ = ["read_pdparams", "write_pdparams"]
