"""Shared by all tests: tiny models of every combination, and the recorded outputs of the original implementations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from arbench.generators.ar.config import ARConfig
from arbench.generators.ar.model import AR
from arbench.generators.mar.config import MARConfig
from arbench.generators.mar.model import MAR
from arbench.generators.par.config import PARConfig
from arbench.generators.par.model import PAR

# One thread: float32 sums keep their order, and threads of a busy machine do not wait for each other.
torch.set_num_threads(1)

PARITY = Path(__file__).parent / "parity"
GRID = 4
GPT = {"width": 32, "depth": 2, "heads": 2, "num_classes": 5, "grid": GRID}
MASKED = {
    f"{part}_{name}": value
    for part in ("encoder", "decoder")
    for name, value in {"width": 32, "depth": 2, "heads": 2}.items()
} | {"num_classes": 5, "grid": GRID, "buffer_size": 3}
CODES = {"head": "categorical", "vocab_size": 17}
LATENTS = {"head": "diffusion", "channels": 3, "head_depth": 2, "head_width": 24}

# The four orders of MAR's Table 1, each with both heads; the fifth row is PAR.
COMBINATIONS = {
    "ar-raster": (AR, ARConfig, GPT | {"order": "raster"}),
    "ar-random": (AR, ARConfig, GPT | {"order": "random"}),
    "mar": (MAR, MARConfig, MASKED),
    "par": (PAR, PARConfig, GPT | {"parallel": 4}),
}


def make_generator(name: str, head: str = "categorical", seed: int = 0, **changes: Any) -> Any:
    """A tiny generator whose weights are all random: zero-initialised layers would hide what they do."""
    generator_type, config_type, config = COMBINATIONS[name]
    heads = CODES if head == "categorical" else LATENTS
    torch.manual_seed(seed)
    generator = generator_type(config_type(**(config | heads | changes)))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return generator.eval()


def make_tokens(generator: Any, batch: int = 3, seed: int = 0) -> torch.Tensor:
    """Random tokens that fit `generator`."""
    rng = torch.Generator().manual_seed(seed)
    if generator.kind == "discrete":
        return torch.randint(generator.vocab_size, (batch, *generator.grid), generator=rng)
    return torch.randn(batch, generator.config.channels, *generator.grid, generator=rng)


class Parity:
    """One folder of recorded outputs: `meta` and `expected`."""

    def __init__(self, name: str) -> None:
        self.folder = PARITY / name
        self.meta = json.loads((self.folder / "meta.json").read_text())
        expected = self.folder / "expected.safetensors"
        self.expected = load_file(expected) if expected.exists() else {}


@pytest.fixture
def parity() -> type[Parity]:
    return Parity


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """max |a - b| / max |b|, the measure in which parity is stated."""
    assert found.shape == expected.shape
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max())


# The counts of the cases that the chaos tests tried, by kind; from each worker where pytest runs in several processes.
COUNTED: dict[str, list[int]] = {}


def add_counts(counts: dict[str, list[int]]) -> None:
    """Add one process' cases and failures, by kind, to those told at the end."""
    for kind, pair in counts.items():
        COUNTED[kind] = [total + more for total, more in zip(COUNTED.get(kind, [0, 0]), pair, strict=True)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker sends its counts; the only process keeps them."""
    counts = getattr(sys.modules.get("laws"), "CASES", {})
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["chaos"] = counts
    else:
        add_counts(counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended; one that crashed has sent nothing."""
    add_counts(getattr(node, "workeroutput", {}).get("chaos", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The counts of the cases that the chaos tests tried, where they ran."""
    for kind, (cases, failures) in sorted(COUNTED.items()):
        terminalreporter.write_line(f"chaos: {kind}: {cases} cases, {failures} failures")
    if COUNTED:
        cases, failures = (sum(pair[place] for pair in COUNTED.values()) for place in (0, 1))
        terminalreporter.write_line(f"chaos: all kinds: {cases} cases, {failures} failures")
