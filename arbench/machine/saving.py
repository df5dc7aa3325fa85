"""Checkpoints in the background: the state is copied, training goes on, and a folder appears whole or not at all.

PyTorch writes the tensors (`torch.distributed.checkpoint.async_save`); once all processes have, each sums up its files
and the first one seals the folder. What the processes tell each other meanwhile goes through a group of its own, so
that it never mixes with the collectives of a step.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from arbench.machine.distributed import Processes, SideGroup
from arbench.machine.files import FULL, PARTIAL, NoSpaceError, file_sha256, one_line, write_whole
from arbench.machine.sharded import CONTENTS, FACTS, sealed

Value = TypeVar("Value")
# What PyTorch says to itself: that one process saves (2.14 and 2.6 in other words), and of its own storages (2.6).
OWN_WARNINGS = r"torch\.distributed is (disabled|unavailable)|TypedStorage is deprecated"


class Saver:
    """Writes one checkpoint at a time, in the background; all processes call it for the same ones in the same order."""

    def __init__(self, mine: Processes) -> None:
        self._mine, self._beside = mine, SideGroup(mine)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def begin(
        self, folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], then: Callable[[], None]
    ) -> None:
        """Copy `tensors`, of which each process holds all or its share, and begin to write them with plain `facts`.

        Waits for the save before, whose error it raises. The first process calls `then` once the folder is there. A
        crash leaves what was there before, and a folder that `remove_partial_folders` takes away.
        """
        self.finish()
        partial = folder.with_name(f".{folder.name}{PARTIAL}")
        if self._mine.is_first:
            shutil.rmtree(partial, ignore_errors=True)
        writer = dcp.FileSystemWriter(partial)
        own = {name: not_moving(value) for name, value in tensors.items()}
        written = dcp.async_save(own, storage_writer=writer, process_group=self._beside.group)
        assert isinstance(written, Future)
        self._running = self._thread.submit(self._complete, written, partial, folder, facts, then)

    def has_failed(self) -> bool:
        """Whether what was begun has come to an end that `finish` raises, as far as this process knows by now."""
        running = self._running
        return running is not None and running.done() and running.exception() is not None

    def finish(self) -> None:
        """Wait until what was begun is there. Raises OSError where it could not be written."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Let what was begun come to its end, whichever that is."""
        with suppress(OSError):
            self.finish()
        self._thread.shutdown()

    def _complete(
        self, written: Future[Any], partial: Path, folder: Path, facts: Mapping[str, Any], then: Callable[[], None]
    ) -> None:
        """Seal a folder once its tensors are written, or take it away; on a thread of its own."""
        try:
            self._seal(written, partial, folder, facts)
        except OSError as error:
            if self._mine.is_first:
                shutil.rmtree(partial, ignore_errors=True)
            raise naming(error, folder) from error
        if self._mine.is_first:
            then()

    def _seal(self, written: Future[Any], partial: Path, folder: Path, facts: Mapping[str, Any]) -> None:
        try:
            written.result()
        except CheckpointException as error:
            raise cause_of(error, folder) from None
        own = f"__{self._mine.rank}_*"
        sums = self._agreed(lambda: {file.name: file_sha256(file) for file in partial.glob(own)})

        def appear() -> None:
            files = {name: value for part in sums for name, value in part.items()}
            files[CONTENTS] = file_sha256(partial / CONTENTS)
            write_whole(partial / FACTS, sealed({**facts, "files": dict(sorted(files.items()))}))
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(partial, folder)

        self._agreed(lambda: appear() if self._mine.is_first else None)

    def _agreed(self, compute: Callable[[], Value]) -> list[Value]:
        """What every process finds, or an OSError on all of them where one found one."""
        if self._mine.count == 1:
            return [compute()]
        failed: OSError | None = None
        try:
            told: dict[str, Any] = {"value": compute()}
        except OSError as error:
            failed, told = error, {"errno": error.errno or 0, "error": error.strerror or one_line(error)}
        answers = self._beside.gathered(told)
        if failed is not None:
            raise failed
        for answer in answers:
            if "error" in answer:
                raise OSError(answer["errno"], answer["error"])
        return [answer["value"] for answer in answers]


def not_moving(tensor: Tensor) -> Tensor:
    """A copy of what lies in the host's memory, which not every version of PyTorch copies before training goes on; what
    lies elsewhere is brought here by all of them."""
    return tensor.detach().clone() if tensor.device.type == "cpu" else tensor


def cause_of(error: CheckpointException, folder: Path) -> OSError:
    """Why PyTorch could not write a checkpoint, on whichever process."""
    causes = [cause for cause, _ in error.failures.values()]
    known = next((cause for cause in causes if isinstance(cause, OSError)), None)
    return known or OSError(f"{folder}: could not be written ({one_line(causes[0])}); is there room on the disk?")


def naming(error: OSError, folder: Path) -> OSError:
    """`error` as one of the checkpoint `folder`, whichever of its files it was about."""
    if error.errno in FULL:
        return NoSpaceError(f"no space left in {folder.parent}: {folder.name} was not written, those before are whole")
    if error.errno and error.strerror:
        return OSError(error.errno, f"could not be written: {error.strerror}", str(folder))
    told = one_line(error)
    return error if str(folder) in told else OSError(f"{folder}: could not be written ({told})")


@contextmanager
def saving(mine: Processes) -> Iterator[Saver]:
    """A saver that has written all that it was given when the block is left, by an error too."""
    with warnings.catch_warnings():  # of this thread's choosing: the saver's own cannot have filters of its own
        warnings.filterwarnings("ignore", message=OWN_WARNINGS)
        saver = Saver(mine)
        try:
            yield saver
            saver.finish()
        finally:
            saver.close()
