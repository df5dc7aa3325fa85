"""Files of arrays and weights: read without running anything stored in them, written whole or not at all."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from arbench.machine.archives import check_arrays, check_torch_archive, explain_refusal, reading_npz
from arbench.machine.files import one_line, whole_file

EXPECTED = "expected a dict of tensors or arrays, as torch.save writes it"
# What unpickling a cut or foreign file raises, beside torch's refusal of anything but tensors.
BROKEN_PICKLE = (
    *(RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    pickle.UnpicklingError,
)


def load_npz(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an npz, all or those `names`; pickled objects are refused.

    OSError where there is no file, ValueError where it is broken or an array would fill the memory.
    """
    with reading_npz(path), path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array, not an npz")
        assert file.zip is not None
        chosen = list(file.files if names is None else names)
        check_arrays(file.zip, chosen)
        return {name: file[name] for name in chosen}


def npz_names(path: Path) -> list[str]:
    """The names in an npz, nothing of it read. Raises as `load_npz`."""
    with reading_npz(path), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def save_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write `arrays` as an uncompressed npz, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)


def read_torch(file: Path, allowed: Iterable[Any] = ()) -> Any:
    """What a torch file holds, tensors on the CPU; classes other than torch's own and `allowed` are refused.

    Raises FileNotFoundError, and ValueError where the file is broken or wants something else.
    """
    _require_file(file)
    if zipfile.is_zipfile(file):
        check_torch_archive(file, EXPECTED)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(file, map_location="cpu", weights_only=True)
    except BROKEN_PICKLE as error:
        raise ValueError(f"{file}: not a torch file that is safe to read: {explain_refusal(error)}") from error


def read_state(file: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors or a torch file. Raises as `read_torch`, and ValueError for another content."""
    if file.suffix == ".safetensors":
        _require_file(file)
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file}: not a readable safetensors file ({one_line(error)})") from error
    state = read_torch(file)
    if not isinstance(state, Mapping) or not all(torch.is_tensor(value) for value in state.values()):
        raise ValueError(f"{file}: expected a state dict, tensors by name")
    return dict(state)


def _require_file(file: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
