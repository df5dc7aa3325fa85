"""What this machine has for arbench, what is missing and how to get it: the facts that `arbench doctor` prints."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from arbench.evaluation.reference_cards import REFERENCES
from arbench.generators.cards import WeightsCard, weights_home
from arbench.generators.methods import presets, unusable
from arbench.machine.hardware import GIB, available_devices, cpu_name, free_memory, num_cores, versions
from arbench.registry import SCAN_SECONDS, time_limit, tokenizer_entry_points
from arbench.weights.cards import cards_for, find_weights, how_to_get, shipped_file
from arbench.weights.download import partial_path

PRESENT, MISSING, PROBLEM = "ok", "missing", "problem"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of the inventory: `state` says whether it is there, `remedy` what to do where it is not."""

    section: str
    name: str
    value: str
    state: str = PRESENT
    remedy: str = ""


def inventory() -> Iterator[Fact]:
    """Every fact, section by section. Nothing is downloaded, loaded or changed."""
    yield from machine()
    yield from disk()
    yield from generators()
    yield from tokenizers()
    yield from references()


def machine() -> Iterator[Fact]:
    """Versions, devices, memory and threads."""
    for name, version in versions().items():
        yield Fact(section="versions", name=name, value=version)
    for kind in available_devices():
        for name, value in describe_device(kind):
            yield Fact(section="devices", name=name, value=value)
    if torch.version.cuda and not torch.cuda.is_available():
        yield Fact(
            section="devices",
            name="cuda",
            value=f"this PyTorch is built for CUDA {torch.version.cuda} but finds no usable GPU",
            state=MISSING,
            remedy="nvidia-smi shows whether there is one and whether its driver is loaded",
        )
    threads, cores = torch.get_num_threads(), num_cores()
    slow = threads > cores
    yield Fact(
        section="devices",
        name="threads",
        value=f"{threads} of {cores} cores",
        state=PROBLEM if slow else PRESENT,
        remedy=f"more threads than cores are slow: export OMP_NUM_THREADS={cores}" if slow else "",
    )


def describe_device(kind: str) -> Iterator[tuple[str, str]]:
    """(name, what it is) of every device of a kind."""
    if kind == "cuda":
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            free = free_memory(torch.device(kind, index)) / GIB
            yield f"cuda:{index}", f"{facts.name}, {free:.1f} of {facts.total_memory / GIB:.1f} GiB free"
    else:
        name = cpu_name() if kind == "cpu" else "Apple GPU"
        yield kind, f"{name}, {free_memory(torch.device(kind)) / GIB:.1f} GiB free"


def disk() -> Iterator[Fact]:
    """Where runs and weights go, and how much room there is."""
    for name, folder in (("runs", Path.cwd()), ("weights", weights_home())):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        writable = os.access(there, os.W_OK)
        yield Fact(
            section="folders",
            name=name,
            value=f"{folder}, {shutil.disk_usage(there).free / GIB:.1f} GiB free",
            state=PRESENT if writable else PROBLEM,
            remedy="" if writable else f"{there} cannot be written; choose another with --out or $ARBENCH_WEIGHTS",
        )


def generators() -> Iterator[Fact]:
    """What every preset needs: its own weights and those of its tokenizer; and plug-ins that cannot be used."""
    for preset in presets().values():
        weights = weights_fact("generators", preset.name)
        if not preset.shipped and not cards_for(preset.name):
            weights = dataclasses.replace(weights, value="never released", remedy="arbench train, or --weights FILE")
        yield with_tokenizer(weights, tokenizer_fact(preset.tokenizer))
    for line in unusable():
        remedy = "reinstall or remove its package"
        yield Fact(section="generators", name="plug-in", value=line, state=PROBLEM, remedy=remedy)


def with_tokenizer(weights: Fact, tokenizer: Fact) -> Fact:
    """One fact for a generator's weights and its tokenizer's: there only where both are.

    The remedy is the weights' own; the tokenizer's stands in its section, and here where nothing else is lacking.
    """
    lacking = [fact for fact in (weights, tokenizer) if fact.state != PRESENT]
    states = {fact.state for fact in lacking}
    there = "not here" if tokenizer in lacking else "here"
    return dataclasses.replace(
        weights,
        value=f"weights {weights.value}, tokenizer {tokenizer.name} {there}",
        state=PROBLEM if PROBLEM in states else MISSING if lacking else PRESENT,
        remedy=weights.remedy or tokenizer.remedy,
    )


def tokenizers() -> Iterator[Fact]:
    """Weights of every installed tokenizer."""
    for name in sorted(tokenizer_entry_points()):
        yield tokenizer_fact(name)


def tokenizer_fact(name: str) -> Fact:
    """Weights of one tokenizer; one that is not installed or cannot be imported is a problem of that one alone."""
    try:
        with time_limit(SCAN_SECONDS):
            return weights_fact("tokenizers", name)
    except ValueError as error:
        entry = tokenizer_entry_points().get(name)
        remedy = f"reinstall or remove the package of {entry.value}" if entry else "install arbench anew"
        return Fact(section="tokenizers", name=name, value=str(error), state=PROBLEM, remedy=remedy)


def weights_fact(section: str, name: str) -> Fact:
    """Whether weights of `name` are here: shipped or downloaded; else how to get them."""
    path, shipped, cards = find_weights(name), shipped_file(name), cards_for(name)
    if path is not None and path.is_file():
        where = "shipped with arbench" if shipped else str(path)
        return Fact(section=section, name=name, value=f"{where} ({path.stat().st_size / 1e6:.1f} MB)")
    if shipped is not None:
        return Fact(
            section=section, name=name, value=f"{shipped} is gone", state=PROBLEM, remedy="install arbench anew"
        )
    if not cards:
        return Fact(section=section, name=name, value="no released weights are known", state=MISSING)
    return Fact(section=section, name=name, value=_how_much_came(cards), state=MISSING, remedy=how_to_get(cards[0]))


def _how_much_came(cards: Sequence[WeightsCard]) -> str:
    """That a file is not here, or how much of it an interrupted download has left."""
    parts = [partial_path(card.path) for card in cards]
    sizes = [part.stat().st_size for part in parts if part.is_file()]
    return f"not here but for {max(sizes) / 1e6:.1f} MB of an interrupted download" if sizes else "not here"


def references() -> Iterator[Fact]:
    """Files of reference statistics; the digits' own are always there."""
    yield Fact(section="references", name="digits-heldout, digits-train", value="ship with scikit-learn")
    for card in REFERENCES.values():
        if card.path.is_file():
            yield Fact(section="references", name=card.name, value=str(card.path))
        else:
            yield Fact(section="references", name=card.name, value="not here", state=MISSING, remedy=card.how_to_get)
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    found = sorted(hub.glob("*inception*")) if hub.is_dir() else []
    yield Fact(
        section="references",
        name="Inception network",
        value=str(found[0]) if found else "not here",
        state=PRESENT if found else MISSING,
        remedy="" if found else "downloaded by torch-fidelity at its first use, or --inception-weights FILE",
    )
