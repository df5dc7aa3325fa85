"""Safetensors files whose bytes follow from their content: safetensors itself writes the entries of a header in an
order that differs from process to process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

LENGTH_BYTES = 8  # a header begins with its own length, little-endian
FILE_MODE = 0o644  # safetensors makes its files readable by the owner alone
METADATA = "__metadata__"


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `tensors` and text entries to `path`; equal content gives equal bytes. Callers see to whole files.

    Tied weights are written twice: the format knows no sharing. Raises OSError where the file cannot be written.
    """
    alone, seen = {}, set()
    for name, tensor in tensors.items():
        alone[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    try:
        save_file(alone, path, metadata={"format": "pt", **metadata})
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from None
    path.chmod(FILE_MODE)
    sort_header(path)


def sort_header(path: Path) -> None:
    """Put the text entries of a safetensors header into the order of their names, in place."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header: dict[str, Any] = json.loads(file.read(length))
        entries = {METADATA: dict(sorted(header.pop(METADATA).items())), **header}
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length, "the same entries need the same room"
        file.seek(LENGTH_BYTES)
        file.write(text.ljust(length))
