"""Reading weights files safely: what kind a file is, its tensors, and a pickle's wishes refused by name.

Nothing in a file is ever executed. Tensors of safetensors and of torch's zip format stay on disk until they are used.
"""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from arbench.machine.archives import check_torch_archive, explain_refusal
from arbench.machine.sharded import is_tensor_folder, read_all, read_facts
from arbench.registry import unknown_name
from arbench.weights.paddle import read_pdparams

WHICH = ("ema", "raw")
RAW_GROUPS = ("model", "module", "state_dict", "")  # DDP, DeepSpeed, Lightning, a bare state dict
EMA_GROUPS = ("model_ema", "ema")
AVERAGE = {"num_updates", "weights"}  # the state of an average in a training checkpoint of arbench, `EMA.state_dict`

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled: files of torch < 1.6
PICKLE_MAGIC = b"\x80"
SAFETENSORS_BRACE = 8  # a length of eight bytes, then a JSON header
# First bytes of what people have taken for weights.
FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, the weights themselves were not fetched"),
    (b"<", "a web page, perhaps the answer to a failed download"),
    (b"\x89PNG", "a PNG picture"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
    (b"{", "a JSON file"),
)
EXPECTED = "expected .safetensors, a torch checkpoint (.pt, .pth, .ckpt) or .pdparams"
LARGEST_SPREAD = 2**30  # bytes of a tensor that may be more than its file; the largest released one has 2**28
_BROKEN = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError)


class _OnlyNamed:
    """Stands for a class that a checkpoint merely names, as Lightning's files name their callbacks."""


# Besides tensors and plain containers a file may hold these; everything else is refused.
ALLOWED: list[Any] = [
    argparse.Namespace,
    (_OnlyNamed, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a weights file holds.

    `groups` are its state dicts by the key they lie under, "" for a bare one; `metadata` is whatever else it says:
    numbers, strings, a Namespace, or the text entries of a safetensors header. `format` is safetensors, torch,
    pdparams, or sharded for a training checkpoint.
    """

    path: Path
    format: str
    groups: Mapping[str, Mapping[str, Tensor]]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def group_name(self, which: str = "raw") -> str:
        """The key of the state dict that `which` ("ema" or "raw") means; EMA is a single set where there is no other.

        Raises ValueError where the name is unknown or the file holds no such set.
        """
        if which not in WHICH:
            raise unknown_name("choice of weights", which, WHICH)
        raw = [name for name in RAW_GROUPS if name in self.groups]
        ema = [name for name in EMA_GROUPS if name in self.groups]
        found = (ema or raw) if which == "ema" else raw
        if ema and not found:
            raise ValueError(f"{self.path}: holds no raw weights, only {', '.join(ema)}; expected --which ema")
        if not found:
            held = ", ".join(self.groups) or "no tensors"
            raise ValueError(f"{self.path}: no model weights; found {held}, expected one of model, module, state_dict")
        return found[0]

    def tensors(self, which: str = "raw") -> dict[str, Tensor]:
        """The state dict that `which` means, as `group_name` chooses it."""
        return dict(self.groups[self.group_name(which)])


def read_tensors(path: str | Path) -> Checkpoint:
    """Read a .safetensors, .pt, .pth, .ckpt or .pdparams file, or a checkpoint folder of `arbench train`; its kind is
    told by its content.

    Raises ValueError in one line for a truncated, foreign or refused file, OSError where it cannot be opened.
    """
    path = Path(path)
    if is_tensor_folder(path):
        return _read_training(path)
    with path.open("rb") as stream:
        head = stream.read(32)
    if not head:
        raise ValueError(f"{path}: the file is empty; {EXPECTED}")
    if head[SAFETENSORS_BRACE : SAFETENSORS_BRACE + 1] == b"{":
        return _read_safetensors(path)
    if path.suffix == ".safetensors":
        raise ValueError(f"{path}: broken safetensors file, or a file of another kind under its name; {EXPECTED}")
    if head.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
        return _read_torch(path, is_zip=head.startswith(ZIP_MAGIC))
    if head.startswith(PICKLE_MAGIC):
        return _read_paddle(path)
    found = next((what for start, what in FOREIGN if head.lstrip().startswith(start)), f"bytes {head[:8]!r}")
    raise ValueError(f"{path}: not a weights file: found {found}; {EXPECTED}")


def _read_training(path: Path) -> Checkpoint:
    """Raw and averaged weights of a training checkpoint; where it has no average, the raw ones alone."""
    groups = {name: read_all(path, prefix) for name, prefix in (("model", "model."), ("model_ema", "ema."))}
    if not groups["model"]:
        raise ValueError(f"{path}: no model weights in this checkpoint; expected one that `arbench train` wrote")
    held = {name: tensors for name, tensors in groups.items() if tensors}
    return Checkpoint(path=path, format="sharded", groups=held, metadata=read_facts(path))


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path}: broken or truncated safetensors file ({error})") from None
    return Checkpoint(path=path, format="safetensors", groups={"": tensors}, metadata=metadata)


def _read_paddle(path: Path) -> Checkpoint:
    return _sort_content(path, "pdparams", read_pdparams(path))


def _read_torch(path: Path, *, is_zip: bool) -> Checkpoint:
    if is_zip:
        check_torch_archive(path, EXPECTED)
    try:
        with _allowing(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of sparse tensors, which `_require_plain` refuses
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except _BROKEN as error:
        raise ValueError(f"{path}: {explain_refusal(error)}") from None
    if isinstance(content, dict):
        return _sort_content(path, "torch", content)
    raise ValueError(f"{path}: expected a dict of tensors, found {type(content).__name__}")


def _allowing() -> AbstractContextManager[None]:
    """For its duration torch's restricted unpickler accepts `ALLOWED` as well."""
    return torch.serialization.safe_globals(ALLOWED)


def _sort_content(path: Path, form: str, content: dict[Any, Any]) -> Checkpoint:
    """Tell state dicts from the rest of a checkpoint."""
    groups: dict[str, dict[str, Tensor]] = {}
    metadata: dict[str, Any] = {}
    bare = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for name, value in content.items():
        tensors = value["weights"] if isinstance(value, dict) and set(value) == AVERAGE else value
        if isinstance(tensors, dict) and tensors and all(isinstance(entry, Tensor) for entry in tensors.values()):
            groups[str(name)] = {str(key): entry for key, entry in tensors.items()}
        elif not isinstance(value, Tensor):
            metadata[str(name)] = value
    if bare and not any(name in groups for name in (*RAW_GROUPS, *EMA_GROUPS)):
        groups[""] = bare
    if not groups:
        held = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise ValueError(f"{path}: no tensors inside; found {held}, expected a state dict")
    for group in groups.values():
        _require_plain(group, path)
    return Checkpoint(path=path, format=form, groups=groups, metadata=metadata)


def _require_plain(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError for a tensor that is not numbers in rows: sparse, quantised, without values, or one that
    spreads a few stored values over gigabytes that the file does not have."""
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            kind = f"{tensor.device.type}, {tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise ValueError(f"{path}: {name} is no plain tensor ({kind}); expected dense weights with their values")
        if tensor.nbytes > max(size, LARGEST_SPREAD):
            raise ValueError(f"{path}: refused: {name} claims {tensor.nbytes:,} bytes, the whole file has {size:,}")


__all__ = ["ALLOWED", "Checkpoint", "read_tensors"]
