"""The checkpoints of a run: a folder a step, the last few of them and milestones, the newest first to go on with."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from arbench.machine.distributed import Processes, gathered, tell_all
from arbench.machine.saving import Saver
from arbench.machine.sharded import check_files, is_tensor_folder, read_facts, remove_folder, remove_partial_folders
from arbench.runs.request import IF_STARTED

FOLDER_NAME = "checkpoints"
EARLIER_NAME = "checkpoint.pt"  # of versions before the folder
DAMAGED = "damaged-"  # how the name of a checkpoint begins that is not gone on from
STEP_NAME = re.compile(r"step-(\d+)")
FACTS: dict[str, type] = {"step": int, "config": dict, "made_of": dict, "parts": int, "num_updates": int}


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Which checkpoints stay: the newest `last`, and one every `every` steps (0: none)."""

    last: int = 1
    every: int = 0

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ValueError(f"keep_last={self.last}: expected 1 or more checkpoints")
        if self.every < 0:
            raise ValueError(f"keep_every={self.every}: expected a number of steps, 0 for no milestones")

    def is_milestone(self, step: int) -> bool:
        """Whether the checkpoint of `step` stays for good; there has to be one."""
        return bool(self.every) and step % self.every == 0

    def outdated(self, steps: list[int]) -> list[int]:
        """Those of the saved `steps`, ascending, that nobody keeps."""
        return [step for step in steps[: -self.last] if not self.is_milestone(step)]


def saved_steps(folder: Path) -> dict[int, Path]:
    """The complete checkpoints under a run's `folder`, by ascending step."""
    found = {}
    for path in (folder / FOLDER_NAME).glob("step-*"):
        match = STEP_NAME.fullmatch(path.name)
        if match and is_tensor_folder(path):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def has_checkpoint(folder: Path) -> bool:
    return bool(saved_steps(folder))


def begin_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keeping: Keeping, saver: Saver
) -> Path:
    """Begin to write the state after `step` steps below a run's `folder`; once it is there, let go of what `keeping`
    does not keep.

    All processes call it. A crash at any moment leaves a complete checkpoint, the one before or this one.
    """

    def let_go() -> None:
        saved = saved_steps(folder)
        for outdated in keeping.outdated(list(saved)):
            remove_folder(saved[outdated])

    path = folder / FOLDER_NAME / f"step-{step:07d}"
    saver.begin(path, tensors, facts, let_go)
    return path


def find_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of a run. Raises ValueError where there is none: a run is never started afresh instead."""
    saved = saved_steps(folder)
    if saved:
        return saved[max(saved)]
    if (folder / EARLIER_NAME).exists():
        raise ValueError(f"{folder / EARLIER_NAME}: an earlier version's checkpoint, which this one cannot go on with")
    raise ValueError(f"--resume: no checkpoint at {folder / FOLDER_NAME}; train without --resume to start one")


def read_checkpoint_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: step, recipe, what it is of. Raises ValueError where it is none of training."""
    facts = read_facts(path)
    wrong = [name for name, kind in FACTS.items() if not isinstance(facts.get(name), kind)]
    if not wrong:
        wrong = [name for name in ("steps", "warmup_steps") if not isinstance(facts["config"].get(name), int)]
    if wrong:
        raise ValueError(f"{path}: not a training checkpoint; expected one with the entries {', '.join(wrong)}")
    return facts


def damage_of(path: Path, mine: Processes) -> str:
    """What is wrong with a checkpoint, alike on all processes, each of which reads its share of it; nothing where every
    bit is what was written."""
    told = ""
    try:
        read_checkpoint_facts(path)
    except ValueError as error:
        told = str(error)
    found = [wrong for wrong in gathered(told, mine) if wrong]
    if found:
        return str(found[0])
    try:
        check_files(path, mine)
    except ValueError as error:
        return str(error)
    return ""


def chosen_checkpoint(
    folder: Path, resume: bool | str, mine: Processes, say: Callable[[str], None] = lambda line: None
) -> Path | None:
    """The checkpoint that the training in `folder` goes on from, an intact one, alike on all processes; None where it
    begins.

    With `resume` true the newest; IF_STARTED: the newest intact one, where there is any. Damaged ones that are newer
    are put aside, which `say` is told. What is looked at is read once, each process its share. Raises ValueError where
    checkpoints are there that nobody asked to go on with, where there is none, and where none is intact.
    """
    refuse_overwriting(folder, bool(resume))
    if not resume:
        return None
    saved = [Path(path) for path in tell_all(mine, lambda: [str(path) for path in saved_steps(folder).values()])]
    if resume == IF_STARTED and not saved:
        return None
    newest = saved[-1] if saved else find_checkpoint(folder)
    told = damage_of(newest, mine)
    if not told:
        return newest
    older = saved[-2::-1]
    if not older:
        raise ValueError(f"{told}; no older one is kept: choose another --out to begin anew")
    if resume != IF_STARTED:
        raise ValueError(f"{told}; {older[0].name} is kept: --resume auto goes on from the newest intact one")
    intact = next((path for path in older if not damage_of(path, mine)), None)
    if intact is None:
        raise ValueError(f"{told}; none of the {len(older)} older ones is intact: choose another --out to begin anew")
    tell_all(mine, lambda: _put_aside(saved[saved.index(intact) + 1 :]))
    say(f"{told}; going on from {intact.name}, what is damaged is put aside as {DAMAGED}{newest.name}")
    return intact


def _put_aside(damaged: list[Path]) -> None:
    """Let nothing that looks for checkpoints find these any more; they are left for whoever wants to look at them."""
    for path in damaged:
        aside = path.with_name(f"{DAMAGED}{path.name}")
        if aside.exists():
            remove_folder(aside)
        os.replace(path, aside)


def begin_folder(folder: Path) -> None:
    """Make the folder of a run, or clear it of what a killed process left half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, folder / FOLDER_NAME):
        remove_partial_folders(place)


def refuse_overwriting(folder: Path, resume: bool) -> None:
    """Raise ValueError where checkpoints are there that nobody asked to go on with."""
    if has_checkpoint(folder) and not resume:
        raise ValueError(f"{folder / FOLDER_NAME} exists: go on with --resume, or choose another --out")
