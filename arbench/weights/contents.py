"""What a weights file holds: format, sets, family, configuration, parameters, and whether it is complete."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arbench.machine.files import file_sha256
from arbench.registry import tokenizer_entry_points
from arbench.tokenizer.load import load_tokenizer
from arbench.weights.configure import fitting_presets
from arbench.weights.keys import read_config, release_names, releases
from arbench.weights.load import check_complete, require_floats
from arbench.weights.provenance import family_of
from arbench.weights.read import Checkpoint, read_tensors


@dataclass(frozen=True, kw_only=True)
class TensorSet:
    """One state dict of a file: the key it lies under ("" for a bare one), its tensors, their elements and dtypes."""

    name: str
    num_tensors: int
    num_elements: int
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, name: str, tensors: dict[str, Tensor]) -> TensorSet:
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
        num_elements = sum(tensor.numel() for tensor in tensors.values())
        return cls(name=name, num_tensors=len(tensors), num_elements=num_elements, dtypes=tuple(dtypes))

    def __str__(self) -> str:
        key = f"{self.name!r}: " if self.name else ""
        return f"{key}{self.num_tensors} tensors, {self.num_elements:,} values, {', '.join(self.dtypes)}"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What `describe` found.

    `config` is what the tensors tell, `presets` the generator presets (or the tokenizer) that it fits, `chosen` the key
    of the set that was looked into, `num_bad` how many of its values are not finite.
    """

    path: Path
    format: str
    size: int
    sha256: str
    sets: tuple[TensorSet, ...]
    chosen: str
    family: str
    config: dict[str, Any]
    presets: tuple[str, ...]
    num_bad: int


def describe(path: str | Path, *, which: str = "ema") -> Contents:
    """Read a weights file whole and say what it is.

    Raises ValueError in one line for a broken, refused or foreign file and where names or shapes are not those of
    its family; OSError where it cannot be read.
    """
    path = Path(path)
    checkpoint = read_tensors(path)
    tensors = release_names(checkpoint.tensors(which))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    family = family_of(shapes, path)
    if family in releases():
        told = read_config(family, shapes)
        check_complete(family, told, shapes, str(path))
        require_floats(tensors, str(path))
        presets = tuple(fitting_presets(family, told))
    else:
        name = _tokenizer_name(family, checkpoint)
        tokenizer: Any = load_tokenizer(name, weights=path)  # one of ours: it has a `config`
        told, presets = vars(tokenizer.config), (name,)
    return Contents(
        path=path,
        format=checkpoint.format,
        size=path.stat().st_size,
        sha256=file_sha256(path),
        sets=tuple(TensorSet.of(name, dict(group)) for name, group in checkpoint.groups.items()),
        chosen=checkpoint.group_name(which),
        family=family,
        config=told,
        presets=presets,
        num_bad=sum(_num_bad(tensor) for tensor in tensors.values()),
    )


def _tokenizer_name(family: str, checkpoint: Checkpoint) -> str:
    """The tokenizer that loads a file: the one it was trained as (our own exports say so), else its family's."""
    target = checkpoint.metadata.get("target")
    return target if isinstance(target, str) and target in tokenizer_entry_points() else family


def _num_bad(tensor: Tensor) -> int:
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.float()  # torch cannot ask eight-bit floats
    return int((~torch.isfinite(tensor)).sum())


__all__ = ["Contents", "TensorSet", "describe"]
