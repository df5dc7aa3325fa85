"""Weights cards: every released file by name, with its source, licence, size and SHA-256 where those are known.

A size or hash that no source states is None; the hash is recorded beside the file at its first download.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from arbench.registry import unknown_name

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
    repository that serves it under its file name, or None where it has to be fetched by hand. `loads` names the
    presets or tokenizers that it is weights of, `size` is in bytes.
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

    @property
    def urls(self) -> tuple[str, ...]:
        """Where to download from, first choice first; empty for a file to fetch by hand."""
        if self.hub is None:
            return ()
        endpoints = (os.environ.get("HF_ENDPOINT", HUB).rstrip("/"), *HUB_MIRRORS)
        return tuple(f"{endpoint}/{self.hub}/resolve/main/{self.file}" for endpoint in endpoints)

    @property
    def path(self) -> Path:
        """Where the file lies, or would lie, on this machine."""
        return weights_home() / self.file


def _hub(name: str, family: str, hub: str, file: str, licence: str, loads: str = "", note: str = "") -> WeightsCard:
    source = f"{HUB}/{hub}"
    names = tuple(loads.split()) or (name,)
    return WeightsCard(
        name=name, family=family, file=file, source=source, licence=licence, loads=names, hub=hub, note=note
    )


def _by_hand(name: str, family: str, repository: str, file: str, loads: str = "", note: str = "") -> WeightsCard:
    names = tuple(loads.split()) or (name,)
    source = f"https://github.com/{repository}"
    return WeightsCard(name=name, family=family, file=file, source=source, licence=MIT, loads=names, note=note)


_LLAMAGEN, _PAR, _MAR = "FoundationVision/LlamaGen", "Epiphqny/PAR", "jadechoghari/mar"
_UNLICENSED = "the authors state no licence: ask them before you use, change or share these weights"
_EMA_ONLY = "converted from the release; one set of weights"
_BOTH_SETS = "raw and EMA weights; linked from the repository"
_PADDLE = "PaddlePaddle conversion; save it under this name"

# name, family, repository, file[, licence, what it loads, note]
CARDS: dict[str, WeightsCard] = {
    card.name: card
    for card in (
        _hub("mar-b", "mar", _MAR, "mar-base.safetensors", MIT, note=_EMA_ONLY),
        _hub("mar-l", "mar", _MAR, "mar-large.safetensors", MIT, note=_EMA_ONLY),
        _hub("mar-h", "mar", _MAR, "mar-huge.safetensors", MIT, note=_EMA_ONLY),
        _by_hand("mar-b-pth", "mar", "LTH14/mar", "mar_base/checkpoint-last.pth", "mar-b", _BOTH_SETS),
        _by_hand("mar-l-pth", "mar", "LTH14/mar", "mar_large/checkpoint-last.pth", "mar-l", _BOTH_SETS),
        _by_hand("mar-h-pth", "mar", "LTH14/mar", "mar_huge/checkpoint-last.pth", "mar-h", _BOTH_SETS),
        _by_hand("mar-b-paddle", "mar", "PaddlePaddle/PaddleMIX", "mar_base.pdparams", "mar-b", _PADDLE),
        _by_hand("mar-l-paddle", "mar", "PaddlePaddle/PaddleMIX", "mar_large.pdparams", "mar-l", _PADDLE),
        _by_hand("mar-h-paddle", "mar", "PaddlePaddle/PaddleMIX", "mar_huge.pdparams", "mar-h", _PADDLE),
        _hub("ar-b", "ar", _LLAMAGEN, "c2i_B_256.pt", MIT),
        _hub("ar-l", "ar", _LLAMAGEN, "c2i_L_256.pt", MIT),
        _hub("ar-l-384", "ar", _LLAMAGEN, "c2i_L_384.pt", MIT),
        _hub("ar-xl-384", "ar", _LLAMAGEN, "c2i_XL_384.pt", MIT),
        _hub("ar-xxl-384", "ar", _LLAMAGEN, "c2i_XXL_384.pt", MIT),
        _hub("ar-3b-384", "ar", _LLAMAGEN, "c2i_3B_384.pt", MIT),
        _hub("par-xl-4x", "par", _PAR, "PAR-XL-4x.pt", NO_LICENCE, note=_UNLICENSED),
        _hub("par-xxl-4x", "par", _PAR, "PAR-XXL-4x.pt", NO_LICENCE, note=_UNLICENSED),
        _hub("par-3b-4x", "par", _PAR, "PAR-3B-4x.pt", NO_LICENCE, note=_UNLICENSED),
        _hub("par-3b-16x", "par", _PAR, "PAR-3B-16x.pt", NO_LICENCE, note=_UNLICENSED),
        _hub("llamagen-vq", "llamagen-vq", _LLAMAGEN, "vq_ds16_c2i.pt", MIT),
        _by_hand("kl16", "kl16", "LTH14/mar", "kl16.ckpt", note="MAR's tokenizer; linked from the repository"),
        _by_hand("kl16-ldm", "kl16", "CompVis/latent-diffusion", "kl-f16/model.ckpt", "kl16", "LDM's own kl-f16"),
        _by_hand("vq16", "vq16", "CompVis/taming-transformers", "vqgan_imagenet_f16_16384/last.ckpt"),
        _by_hand("vq16-ldm", "vq16", "CompVis/latent-diffusion", "vq-f16/model.ckpt", "vq16", "LDM's vq-f16"),
    )
}


def weights_home() -> Path:
    """The folder that holds downloaded weights: $ARBENCH_WEIGHTS, else ~/.cache/arbench/weights."""
    return Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()


def get_card(name: str) -> WeightsCard:
    """The card of that name. Raises ValueError with the nearest name where there is none."""
    if name not in CARDS:
        raise unknown_name("weights card", name, CARDS)
    return CARDS[name]


def cards_for(name: str) -> tuple[WeightsCard, ...]:
    """The cards whose file can be loaded as the preset or tokenizer `name`, preferred first; empty where none is."""
    return tuple(card for card in CARDS.values() if name in card.loads)


def find_weights(name: str) -> Path | None:
    """The first file on this machine that holds weights of the preset or tokenizer `name`, or None."""
    return next((card.path for card in cards_for(name) if card.path.is_file()), None)


def how_to_get(card: WeightsCard) -> str:
    """One line that says how this file comes onto this machine."""
    if card.urls:
        return f"arbench weights get {card.name}"
    return by_hand(card, card.path)


def by_hand(card: WeightsCard, target: Path) -> str:
    """One line that says from where a file can be fetched, and under which name it belongs on this machine."""
    return f"download {Path(card.file).name} by hand from {card.source} to {target}"


__all__ = [
    "CARDS",
    "HOME_VARIABLE",
    "WeightsCard",
    "by_hand",
    "cards_for",
    "find_weights",
    "get_card",
    "how_to_get",
    "weights_home",
]
