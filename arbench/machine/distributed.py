"""Several processes: who am I, telling all of them one value, and the collectives of training.

Beside training, `sharded` and `saving` the only file that imports `torch.distributed`. Sampling uses no collective at
all: processes share a run folder and claim shards there, so a dead process never holds the others up.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed

POLL_SECONDS = 0.5
SHARE_TIMEOUT = timedelta(hours=12)  # the first process may be scoring 50,000 images before it tells the next thing

_TOLD = itertools.count()  # numbers what the processes are told, all of them in the same order


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that `torchrun` (or `srun` with the same variables) started."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # number on this node, which chooses the GPU
    restarts: int = 0  # how often torchrun has restarted the group

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def processes() -> Processes:
    """Read RANK, WORLD_SIZE and LOCAL_RANK; without them this is the only process.

    Raises ValueError where a value is no number.
    """
    names = {
        "rank": "RANK",
        "count": "WORLD_SIZE",
        "local_rank": "LOCAL_RANK",
        "restarts": "TORCHELASTIC_RESTART_COUNT",
    }
    found: dict[str, int] = {}
    for field, name in names.items():
        text = os.environ.get(name, "")
        if text:
            if not (text.isascii() and text.isdigit()):
                raise ValueError(f"environment variable {name}={text!r} is no number; torchrun sets it to one")
            found[field] = int(text[:18])
    if found.get("count", 1) < 1:
        raise ValueError(f"WORLD_SIZE={found['count']}; expected at least 1, the number of processes")
    if found.get("rank", 0) >= found.get("count", 1):
        raise ValueError(f"RANK={found['rank']} but WORLD_SIZE={found.get('count', 1)}; expected RANK below WORLD_SIZE")
    return Processes(**found)


def tell_all(mine: Processes, compute: Callable[[], Any]) -> Any:
    """`compute()` as the first process finds it, on every process; a ValueError or OSError of it is raised on all.

    The value must be plain JSON. Goes through torchrun's key-value store, not through a collective.
    """
    if mine.count == 1:
        return compute()
    store, key = _store(), _next_key(mine)
    if not mine.is_first:
        answer = json.loads(store.get(key))
    else:
        try:
            answer = {"value": compute()}
        except (ValueError, OSError) as error:
            store.set(key, json.dumps({"error": str(error)}))
            raise
        store.set(key, json.dumps(answer))
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["value"]


def by_first(mine: Processes, compute: Callable[[], Any]) -> Any:
    """`compute()` on the first process; None on the others, which do not wait for it, but for one on each further node.

    A node's torchrun leaves five minutes after its last process, perhaps with the store that holds all of them
    together; the others would then stop the first process over its work. So one process a node stays, at no cost.
    """
    if mine.count == 1:
        return compute()
    store, key = _store(), _next_key(mine)
    if mine.is_first:
        try:
            return compute()
        finally:
            store.set(key, "done")
    try:
        while mine.local_rank == 0 and not store.check([key]):  # no blocking call, so that Ctrl-C gets through
            time.sleep(POLL_SECONDS)
    except torch.distributed.DistError:
        pass  # the store has left with the first process, which is done
    return None


def _next_key(mine: Processes) -> str:
    """The next thing that is told, named alike on all processes; a restarted group hears nothing of an earlier one."""
    return f"arbench/{mine.restarts}/{next(_TOLD)}"


@cache
def _store() -> Any:
    """torchrun's key-value store: one connection a process."""
    return next(torch.distributed.rendezvous("env://", timeout=SHARE_TIMEOUT))[0]


@contextmanager
def process_group(mine: Processes, device: torch.device) -> Iterator[None]:
    """The group that training's collectives run in: NCCL on CUDA, gloo elsewhere; nothing for a single process."""
    if mine.count == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = torch.distributed.PrefixStore(f"group/{mine.restarts}", _store())
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=mine.rank, world_size=mine.count)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def meet(mine: Processes) -> None:
    """Wait until every process of the group is here."""
    if mine.count > 1:
        gathered(None, mine)


def gathered(value: object, mine: Processes) -> list[Any]:
    """`value` of every process, in the order of their ranks; plain containers."""
    if mine.count == 1:
        return [value]
    store, key = _store(), _next_key(mine)
    store.set(f"{key}/{mine.rank}", json.dumps(value))
    return [json.loads(store.get(f"{key}/{rank}")) for rank in range(mine.count)]


class SideGroup:
    """All processes on their CPUs once more, for what a thread beside that of the steps tells; one thread uses it.

    torchrun's store will not do there: whoever waits at it holds up all else that its process asks of it.
    """

    def __init__(self, mine: Processes) -> None:
        """All processes make it together, inside `process_group`."""
        self._mine = mine
        self.group: torch.distributed.ProcessGroup | None = None
        if mine.count > 1:
            made = torch.distributed.new_group(backend="gloo", timeout=SHARE_TIMEOUT)
            assert isinstance(made, torch.distributed.ProcessGroup)
            self.group = made

    def gathered(self, value: object) -> list[Any]:
        """`value` of every process, in the order of their ranks; plain containers."""
        if self._mine.count == 1:
            return [value]
        answers: list[Any] = [None] * self._mine.count
        torch.distributed.all_gather_object(answers, value, group=self.group)
        return answers


class Agreement:
    """What any process wants, known to all of them one round later, so that nobody waits for the slowest."""

    def __init__(self, mine: Processes) -> None:
        self._mine = mine
        self._round: tuple[torch.Tensor, Any] | None = None

    def ask(self, wanted: bool) -> bool:
        """Whether anybody wanted it in the round before; all processes ask once a round."""
        if self._mine.count == 1:
            return wanted
        before, flag = self._round, torch.tensor([int(wanted)])
        work = torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, async_op=True)
        self._round = (flag, work)
        return before is not None and _settled(before)

    def close(self) -> None:
        """Take part in the last round to its end."""
        if self._round is not None:
            _settled(self._round)
            self._round = None


def _settled(asked: tuple[torch.Tensor, Any]) -> bool:
    asked[1].wait()
    return bool(asked[0].item())
