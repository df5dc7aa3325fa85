"""The evaluations of a training: with which settings weights are drawn, where their records stand, which are best."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from arbench.generators.methods import get_method, get_preset
from arbench.generators.spec import NO_GUIDANCE, OWN_SETTINGS, Evaluated
from arbench.machine.files import one_line
from arbench.report.record import RECORD_FILE, Record, load_record
from arbench.report.values import protocol_key
from arbench.settings import CFG_SCALE, resolve_settings
from arbench.training.job import Job
from arbench.weights.load import RANDOM, load_generator

FOLDER_NAME, BEST_NAME = "evaluations", "best.safetensors"
STEP_NAME = re.compile(r"step-(\d+)(?:-(.+))?")


def evaluated_with(job: Job, cfg_scales: Sequence[float] = ()) -> tuple[Evaluated, ...]:
    """The settings that weights of `job` are evaluated with: those of its recipe, or one a guidance of `cfg_scales`.

    Each is there once; one that is the model's own is called so, whichever way it is asked for. Raises ValueError for a
    setting that the model does not have.
    """
    preset = get_preset(job.target)
    usual = get_method(preset.method).evaluations_of(preset)
    asked = tuple(guided_by(scale) for scale in cfg_scales) or usual
    if asked == (OWN_SETTINGS,):
        return asked
    shape = load_generator(job.target, weights=RANDOM, device="meta", **job.model_config)
    own = resolve_settings(shape, {})
    named = (OWN_SETTINGS if resolve_settings(shape, one.sampling) == own else one for one in asked)
    found: dict[str, Evaluated] = {}
    for one in named:
        found.setdefault(one.name, one)
    return tuple(found.values())


def guided_by(scale: float) -> Evaluated:
    """The model's own settings but for the guidance, by whose value they are named."""
    if scale == NO_GUIDANCE.sampling[CFG_SCALE.name]:
        return NO_GUIDANCE
    told = repr(float(scale)).removesuffix(".0")
    return Evaluated(name=f"cfg-{told}", sampling={CFG_SCALE.name: scale})


def evaluation_name(step: int, name: str = "") -> str:
    """The folder of an evaluation: its step, then its settings where they are not the model's own."""
    return f"{step_name(step)}-{name}" if name else step_name(step)


def step_name(step: int) -> str:
    return f"step-{step:07d}"


def training_name(folder: Path) -> str:
    """What a training is called in curves of several: the last two parts of its folder."""
    return "/".join(folder.parts[-2:])


def stored_evaluations(folder: Path, name: str = "") -> dict[int, Path]:
    """The record files of a training's evaluations by ascending step, of those settings that are called `name`."""
    found = {}
    for file in (folder / FOLDER_NAME).glob(f"step-*/*/{RECORD_FILE}"):
        match = STEP_NAME.fullmatch(file.parent.parent.name)
        if match and (match[2] or "") == name:
            found[int(match[1])] = file
    return dict(sorted(found.items()))


def best_step(folder: Path, name: str, say: Callable[[str], None] = lambda line: None) -> int | None:
    """The step of the lowest FID among the evaluations called `name`; `say` is told of a record that is damaged."""
    records: dict[int, Record] = {}
    for step, file in stored_evaluations(folder, name).items():
        try:
            records[step] = load_record(file)
        except (ValueError, OSError) as error:
            say(f"not compared with others: {one_line(error)}")
    if not records:
        return None
    protocol = protocol_key(records[max(records)])  # an earlier protocol's scores are not compared
    fids = {
        step: record["metrics"]["fid"]
        for step, record in records.items()
        if record["metrics"].get("fid") is not None and protocol_key(record) == protocol
    }
    return min(fids, key=lambda step: (fids[step], step), default=None)
