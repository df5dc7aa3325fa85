"""Weights cards: what is known of a released file: its source, licence, size, SHA-256, and where it lies here.

A size or hash that no source states is None; the hash is recorded beside the file at its first download.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "ARBENCH_WEIGHTS"
DEFAULT_HOME = Path("~/.cache/arbench/weights")
HUB = "https://huggingface.co"
HUB_MIRRORS = ("https://hf-mirror.com",)  # serves the Hub's paths unchanged

MIT = "MIT"
NO_LICENCE = "none stated (all rights reserved)"


@dataclass(frozen=True, kw_only=True)
class WeightsCard:
    """One released file.

    `file` is where it lies under the weights folder; `source` is the page a person reads; `hub` is the Hugging Face
    repository that serves it under its file name, `url` its only address where that is another; without either it has
    to be fetched by hand. `loads` names the presets, tokenizers or extractors that it is weights of, `size` is in
    bytes.
    """

    name: str
    family: str
    file: str
    source: str
    licence: str
    loads: tuple[str, ...]
    hub: str | None = None
    size: int | None = None
    sha256: str | None = None
    note: str = ""
    url: str | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Where to download from, first choice first; empty for a file to fetch by hand."""
        if self.url is not None:
            return (self.url,)
        if self.hub is None:
            return ()
        endpoints = (hub_endpoint(), *HUB_MIRRORS)
        return tuple(f"{endpoint}/{self.hub}/resolve/main/{self.file}" for endpoint in endpoints)

    @property
    def path(self) -> Path:
        """Where the file lies, or would lie, on this machine."""
        return weights_home() / self.file


def hub_endpoint() -> str:
    """Where the Hub is reached: $HF_ENDPOINT, as its own library reads it, else huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def hub_card(name: str, family: str, hub: str, file: str, licence: str, loads: str = "", note: str = "") -> WeightsCard:
    """A file on the Hugging Face Hub; `loads` names presets, by spaces, where they are not the card's own name."""
    source = f"{HUB}/{hub}"
    names = tuple(loads.split()) or (name,)
    return WeightsCard(
        name=name, family=family, file=file, source=source, licence=licence, loads=names, hub=hub, note=note
    )


def hand_card(name: str, family: str, repository: str, file: str, loads: str = "", note: str = "") -> WeightsCard:
    """A file under MIT that a person has to fetch, linked from a repository on GitHub; `loads` as in `hub_card`."""
    names = tuple(loads.split()) or (name,)
    source = f"https://github.com/{repository}"
    return WeightsCard(name=name, family=family, file=file, source=source, licence=MIT, loads=names, note=note)


def weights_home() -> Path:
    """The folder that holds downloaded weights: $ARBENCH_WEIGHTS, else ~/.cache/arbench/weights."""
    return Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()
