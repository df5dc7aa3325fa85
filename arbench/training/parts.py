"""The parts in which a step's batch is computed: over the processes, and one after another on each.

Each part has random numbers of its own, so that any number of processes computes the same step; MAR draws one mask
ratio a part, which makes their number part of its recipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arbench.generators.recipe import TrainConfig

PART_SEEDS = 1_000_003  # between the seeds of two parts, so that no two draw the same noise


def fit_micro_batches(
    config: TrainConfig, count: int, say: Callable[[str], None], *, begun: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The recipe's number of micro-batches as `count` processes can share it; `say` is told where it changes.

    A run that goes on from a checkpoint, whose facts are `begun`, keeps its own number where they can share that: fewer
    processes replay what more have begun. Raises ValueError where the batch cannot be shared by that many processes
    evenly.
    """
    if config.batch_size % count:
        raise ValueError(f"batch_size={config.batch_size} cannot be shared by {count} processes evenly")
    wanted = config.micro_batches
    if not wanted:
        return config
    before = begun["config"].get("micro_batches", 0) if begun else 0
    if before and before != wanted and before % count == 0 and config.batch_size % before == 0:
        say(f"micro_batches {wanted} -> {before}: as the run was begun")
        wanted = before
    fitting = [number for number in range(count, max(wanted, count) + 1, count) if config.batch_size % number == 0]
    if fitting[-1] != wanted:
        say(
            f"micro_batches {wanted} -> {fitting[-1]}: a batch of {config.batch_size} on {count} processes; MAR draws "
            "one mask ratio a micro-batch, so fewer or more ratios a step than the recipe's"
        )
    return dataclasses.replace(config, micro_batches=fitting[-1])


def check_micro_batches(batch: int, wanted: int | None) -> None:
    """Raise ValueError where a batch of so many images cannot be cut into as many micro-batches as are asked for."""
    if wanted and batch % wanted:
        whole = [number for number in range(1, batch + 1) if batch % number == 0]
        near = [max(number for number in whole if number < wanted), *(n for n in whole if n > wanted)][:2]
        raise ValueError(
            f"a batch of {batch} cannot be cut into {wanted} micro-batches (--accumulate of each process); expected "
            f"{' or '.join(map(str, near))} of them, or another --batch-size"
        )


def number_of_parts(config: TrainConfig, count: int, before: int = 0) -> int:
    """Parts of a step: the recipe's; where it has none those of the run `before`, if they can be shared, else one a
    process."""
    if config.micro_batches:
        return config.micro_batches
    shareable = before and before % count == 0 and config.batch_size % before == 0
    return before if shareable else count


class Part:
    """One part: its number and its random numbers, those of the loss and PyTorch's own, which dropout draws from."""

    def __init__(self, number: int, seed: int, device: torch.device) -> None:
        self.number, self.device = number, device
        self.rng = torch.Generator(device=device).manual_seed(seed + PART_SEEDS * number)
        self.states: dict[str, Tensor] = self._seeded(seed + PART_SEEDS * number) if number else {}

    def _seeded(self, seed: int) -> dict[str, Tensor]:
        with undisturbed(self.device):
            torch.manual_seed(seed)
            return global_rng_state(self.device)

    def seed_afresh(self, seed: int, step: int) -> None:
        """Go on at `step` with numbers that no part has drawn, where those of the run before are not known."""
        own = np.random.SeedSequence((seed, step, self.number)).generate_state(2, np.uint64).tolist()
        self.rng.manual_seed(own[0])
        self.states = self._seeded(own[1])

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within it PyTorch's own generators are this part's."""
        if self.states:
            set_global_rng_state(self.device, self.states)
        yield
        self.states = global_rng_state(self.device)

    def state(self) -> dict[str, Tensor]:
        return {"loss": self.rng.get_state(), **(self.states or global_rng_state(self.device))}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.rng.set_state(state["loss"])
        self.states = {name: value for name, value in state.items() if name != "loss"}


def global_rng_state(device: torch.device) -> dict[str, Tensor]:
    """State of PyTorch's own generators."""
    state = {"global": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_global_rng_state(device: torch.device, state: Mapping[str, Tensor]) -> None:
    """Put back what `global_rng_state` gave."""
    torch.set_rng_state(state["global"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Within it random numbers of PyTorch's own generators, the host's and that of `device`, are not used up."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
