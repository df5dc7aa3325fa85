"""Tensors by name in a folder: PyTorch's distributed checkpoints, where each process writes what it holds.

A folder appears whole or not at all (`saving`), with facts as JSON and the SHA-256 of every file. It is read by any
number of processes, and nothing in it is executed: PyTorch's own reader unpickles the table of contents, ours takes
plain tables.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from arbench.machine.distributed import Processes, gathered
from arbench.machine.files import PARTIAL, file_sha256, one_line

FACTS = "facts.json"
SEAL = "sha256"  # of all else in that file
CONTENTS = ".metadata"  # as PyTorch names its table
TABLE_MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
TABLE_NAMES = {
    *(("collections", "OrderedDict"), ("torch", "Size"), ("torch.serialization", "_get_layout")),
    *(("pathlib", "PosixPath"), ("pathlib", "WindowsPath"), ("pathlib", "PurePosixPath")),
}
BROKEN = (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, pickle.UnpicklingError)


def sealed(facts: Mapping[str, Any]) -> str:
    """`facts` as JSON with the SHA-256 of themselves."""
    return json.dumps({**facts, SEAL: _digest(facts)}, indent=1)


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def remove_partial_folders(folder: Path) -> None:
    """Take away what killed processes left half-written in `folder`."""
    for left in folder.glob(f".*{PARTIAL}"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def remove_folder(folder: Path) -> None:
    """Take `folder` away. Nobody is stopped where its files cannot go, or a kill leaves some of them: what is left is
    named as half-written, for `remove_partial_folders`."""
    gone = folder.with_name(f".{folder.name}{PARTIAL}")
    with suppress(OSError):
        os.replace(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


def is_tensor_folder(path: Path) -> bool:
    return (path / FACTS).is_file()


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of a folder. Raises ValueError where there are none, or they are damaged."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder}: no intact checkpoint ({one_line(error)}); expected {FACTS} in it") from None
    files = facts.get("files") if isinstance(facts, dict) else None
    if not isinstance(files, dict) or CONTENTS not in files or not all(Path(name).name == name for name in files):
        raise ValueError(f"{folder / FACTS}: not the facts of a checkpoint; expected the files and their SHA-256")
    seal = facts.pop(SEAL, None)
    if seal != _digest(facts):
        raise ValueError(f"{folder / FACTS}: damaged: not what was written; expected an intact checkpoint")
    return facts


def check_files(folder: Path, mine: Processes) -> None:
    """Raise ValueError on every process where a file is not what was written; each looks at its share of them."""
    files = sorted(read_facts(folder)["files"].items())
    damaged = []
    for name, sha256 in files[mine.rank :: mine.count]:
        file = folder / name
        if not file.is_file() or file_sha256(file) != sha256:
            damaged.append(name)
    found = sorted(name for part in gathered(damaged, mine) for name in part)
    if found:
        raise ValueError(
            f"{folder}: damaged: {', '.join(found)} is not what was written; expected an intact checkpoint"
        )


def stored_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of every tensor in `folder`, by name. Raises ValueError where its table is damaged."""
    table = _PlainReader(folder).read_metadata().state_dict_metadata
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in table.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def load_into(folder: Path, tensors: Mapping[str, Tensor], mine: Processes) -> None:
    """Fill `tensors`, whole or sharded over these processes, in place; all of them have to be in `folder`."""
    reader = _PlainReader(folder)
    with _without_warnings():
        if mine.count == 1:
            _load_alone(reader, dict(tensors))
        else:
            dcp.load(dict(tensors), storage_reader=reader)


def _load_alone(reader: dcp.StorageReader, tensors: dict[str, Tensor]) -> None:
    """As `dcp.load`, without a word to other processes, which that of PyTorch 2.6 always has where there are any."""
    planner, table = dcp.DefaultLoadPlanner(), reader.read_metadata()
    planner.set_up_planner(tensors, table, is_coordinator=True)
    reader.set_up_storage_reader(table, is_coordinator=True)
    plans = planner.create_global_plan([reader.prepare_local_plan(planner.create_local_plan())])
    reader.read_data(planner.finish_plan(reader.prepare_global_plan(plans)[0]), planner).wait()


def read_all(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, whole, on the CPU, by the rest of their names.

    Raises ValueError where the folder is damaged.
    """
    alone = Processes()
    check_files(folder, alone)
    stored = {name: told for name, told in stored_tensors(folder).items() if name.startswith(prefix)}
    tensors = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in stored.items()}
    load_into(folder, tensors, alone)
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items()}


class _PlainReader(dcp.FileSystemReader):
    """PyTorch's reader whose table of contents is read without executing anything."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def read_metadata(self, *given: Any, **named: Any) -> Metadata:
        try:
            with (self.folder / CONTENTS).open("rb") as file:
                table = _TableUnpickler(file).load()
        except BROKEN as error:
            raise ValueError(f"{self.folder / CONTENTS}: no table of tensors ({one_line(error)})") from None
        if not isinstance(table, Metadata):
            raise ValueError(f"{self.folder / CONTENTS}: no table of tensors; found {type(table).__name__}")
        if getattr(table, "storage_meta", None) is None:
            table.storage_meta = StorageMeta()
        assert table.storage_meta is not None
        table.storage_meta.load_id = self.load_id
        return table


class _TableUnpickler(pickle.Unpickler):
    """Knows the classes of PyTorch's tables and no others."""

    def find_class(self, module: str, name: str) -> Any:
        found = getattr(importlib.import_module(module), name, None) if module.partition(".")[0] == "torch" else None
        own = isinstance(found, type) and module in TABLE_MODULES and found.__module__ == module
        if own or (module, name) in TABLE_NAMES or (module == "torch" and isinstance(found, torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"wants {module}.{name}, which no table of tensors needs")


@contextmanager
def _without_warnings() -> Iterator[None]:
    """PyTorch warns where there is one process, and of what it does inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
