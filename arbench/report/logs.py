"""Logs beside the files of arbench: TensorBoard events and Weights & Biases, behind one small interface.

Nothing depends on one: it is asked for by name (`--log tensorboard,wandb`), and whatever goes wrong in it later is told
in one line and ends it alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from arbench.machine.files import one_line, write_whole
from arbench.registry import unknown_name
from arbench.report.record import Record
from arbench.report.values import TIMED

EVALUATION = "evaluation/"  # how the names of scores begin, beside those of the training
PROJECT = "arbench"  # of Weights & Biases, unless WANDB_PROJECT says another
STEP = "step"


class Log(Protocol):
    """Where numbers and pictures of a training or a run go, by the step at which they were taken."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by name."""

    def picture(self, name: str, file: Path, step: int) -> None:
        """Add the picture in a PNG file."""

    def close(self) -> None:
        """Write out what is still held back."""


class TensorBoard:
    """Event files below `folder`/tensorboard, which `tensorboard --logdir` shows."""

    def __init__(self, folder: Path, title: str, facts: Mapping[str, Any], step: int) -> None:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        # What a killed process logged after its last checkpoint is taken back.
        self._writer = writer(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        self._writer.add_text(title, "\n".join(f"    {name}: {value}" for name, value in facts.items()), step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, name: str, file: Path, step: int) -> None:
        with Image.open(file) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, kept below `folder`; a training that is resumed goes on with the run it had.

    WANDB_MODE, WANDB_PROJECT and whatever else `wandb` reads from the environment hold.
    """

    def __init__(self, folder: Path, title: str, facts: Mapping[str, Any], step: int) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        identity = folder / "wandb-id"
        if not identity.is_file():
            write_whole(identity, secrets.token_hex(4))
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=title,
            id=identity.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(folder),
            config=dict(facts),
        )
        self._run.define_metric("*", step_metric=STEP)  # a resumed training takes some steps a second time

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, STEP: step})

    def picture(self, name: str, file: Path, step: int) -> None:
        self._run.log({name: self._wandb.Image(str(file)), STEP: step})

    def close(self) -> None:
        self._run.finish()


LOGS: Mapping[str, Callable[[Path, str, Mapping[str, Any], int], Log]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


class Logs:
    """Several logs as one; one that fails is told of once and left out from then on."""

    def __init__(self, logs: Mapping[str, Log] | None = None) -> None:
        self._logs = dict(logs or {})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._each(lambda log: log.scalars(values, step))

    def picture(self, name: str, file: Path, step: int) -> None:
        self._each(lambda log: log.picture(name, file, step))

    def close(self) -> None:
        self._each(lambda log: log.close())
        self._logs.clear()

    def _each(self, tell: Callable[[Log], None]) -> None:
        for name, log in list(self._logs.items()):
            try:
                tell(log)
            except Exception as error:  # noqa: BLE001 - whatever a log raises ends that log alone
                del self._logs[name]
                print(f"--log {name} ends here ({one_line(error)}); nothing depends on it", file=sys.stderr)


def log_names(text: str | Sequence[str]) -> tuple[str, ...]:
    """The logs that are asked for by name, each once. Raises ValueError for one that is none or not installed."""
    names = [name.strip() for name in text.split(",")] if isinstance(text, str) else list(text)
    for name in names:
        if name not in LOGS:
            raise unknown_name("log", name, LOGS)
        if not is_installed(name):
            raise ValueError(f"--log {name}: {name} is not installed; expected: pip install 'arbench[{name}]'")
    return tuple(dict.fromkeys(names))


def is_installed(name: str) -> bool:
    """Whether there is such a package; a folder of that name, as `wandb` makes one, is none."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None


def open_logs(
    names: Sequence[str], folder: Path, *, title: str, facts: Mapping[str, Any] | None = None, step: int = 0
) -> Logs:
    """The named logs of what is in `folder`, called `title`, made with the settings `facts`, from `step` on.

    Raises ValueError where one cannot be opened.
    """
    opened: dict[str, Log] = {}
    for name in names:
        try:
            opened[name] = LOGS[name](folder, title, facts or {}, step)
        except Exception as error:
            raise ValueError(f"--log {name} cannot be opened: {one_line(error)}") from error
    return Logs(opened)


def record_scalars(record: Record, under: str = EVALUATION) -> dict[str, float]:
    """The numbers of a record by the names that a log has for them: scores, those of further extractors, speed; all
    names begin with `under`."""
    found = dict(record["metrics"])
    for extractor, scored in record["other_extractors"].items():
        found |= {f"{name}@{extractor}": value for name, value in scored["metrics"].items()}
    found |= {name: record["speed"].get(name) for name in TIMED}
    return {f"{under}{name}": value for name, value in found.items() if isinstance(value, (int, float))}
