"""Conversion between the releases' file formats; there and back is the identity, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arbench.machine.files import whole_file
from arbench.registry import nearest, unknown_name
from arbench.weights.keys import find_layout, release_names
from arbench.weights.paddle import write_pdparams
from arbench.weights.provenance import ORIGIN, family_of, own_entries
from arbench.weights.read import Checkpoint, read_tensors
from arbench.weights.write import write_safetensors

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt")
SUFFIXES = (".safetensors", ".pdparams", *TORCH_SUFFIXES)

Tensors = dict[str, Tensor]

# How a torch checkpoint wraps raw and averaged weights.
LAYOUTS: dict[str, Callable[[Tensors, Tensors], dict[str, Any]]] = {
    "ddp": lambda raw, ema: {"model": ema},
    "fsdp": lambda raw, ema: dict(ema),
    "deepspeed": lambda raw, ema: {"module": ema},
    "lightning": lambda raw, ema: {"state_dict": ema},
    "mar": lambda raw, ema: {"model": raw, "model_ema": ema},  # MAR's own script needs both to evaluate
}

BARE = "fsdp"  # the layout that is nothing but a state dict


def convert(
    source: str | Path,
    target: str | Path,
    *,
    which: str | None = None,
    layout: str | None = None,
    overwrite: bool = False,
) -> str:
    """Write the weights of `source` to `target` in the format of its suffix; returns their family.

    `which` takes "ema" or "raw" alone. Left out, it is EMA where the format holds one set, and each under its own
    name in MAR's checkpoint, which holds both (a single set stands for both). `layout` is one of LAYOUTS, for torch
    checkpoints only; left out, it is the release's. What the source says of its origin goes along, except into a bare
    state dict ("fsdp") and a .pdparams file, which hold tensors alone. The target is written whole or not at all.
    Raises ValueError for an unknown suffix, layout or family, for a broken source and for a target that is there
    already, OSError where nothing can be written.
    """
    target = Path(target)
    _check_target(target, layout, overwrite)
    checkpoint = read_tensors(source)
    ema = _released(checkpoint, which or "ema")
    family, origin = family_of(ema, Path(source)), own_entries(checkpoint.metadata)
    chosen = layout or find_layout(family)
    if target.suffix == ".pdparams":
        write_pdparams(ema, target)
        return family
    with whole_file(target) as part:
        if target.suffix == ".safetensors":
            write_safetensors(part, ema, {**origin, "family": family, "which": which or "ema"})
        else:
            raw_name, ema_name = (checkpoint.group_name(which or default) for default in ("raw", "ema"))
            raw = ema if raw_name == ema_name else _released(checkpoint, which or "raw")
            with part.open("wb") as file:
                torch.save(_with_origin(LAYOUTS[chosen](raw, ema), chosen, origin), file)
    return family


def _check_target(target: Path, layout: str | None, overwrite: bool) -> None:
    if target.suffix not in SUFFIXES:
        close = nearest(target.suffix, SUFFIXES)
        hint = f"; did you mean {close!r}?" if close else ""
        raise ValueError(f"{target}: unknown suffix {target.suffix!r}{hint} expected one of: {', '.join(SUFFIXES)}")
    if layout is not None and layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    if layout is not None and target.suffix not in TORCH_SUFFIXES:
        raise ValueError(f"layout {layout!r}: {target.suffix} files have none; expected one of {TORCH_SUFFIXES}")
    if not target.parent.is_dir():
        raise ValueError(f"{target}: there is no folder {target.parent}")
    if target.exists() and not overwrite:
        raise ValueError(f"{target}: is there already; give --force to replace it")


def _released(checkpoint: Checkpoint, which: str) -> Tensors:
    """A set of weights under the release's names, each tensor whole and alone in its memory."""
    tensors = release_names(checkpoint.tensors(which))
    return {name: _alone(tensor) for name, tensor in tensors.items()}


def _alone(tensor: Tensor) -> Tensor:
    """The tensor, copied where it is a view: torch writes the whole storage behind a view into the file."""
    alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if alone else tensor.clone(memory_format=torch.contiguous_format)


def _with_origin(content: dict[str, Any], layout: str, origin: dict[str, str]) -> dict[str, Any]:
    """A torch checkpoint that also says where its weights come from; a bare state dict has no room for that."""
    return {**content, ORIGIN: origin} if origin and layout != BARE else content


__all__ = ["LAYOUTS", "SUFFIXES", "convert"]
