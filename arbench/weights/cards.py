"""All weights cards by name: of the methods, the tokenizers and the extractors; and which files are here."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from arbench.evaluation.network_cards import NETWORK_CARDS
from arbench.generators.cards import MIT, WeightsCard, hand_card, hub_card
from arbench.generators.methods import get_method, known_methods, known_presets, method_names, methods, presets
from arbench.generators.spec import Method, Preset
from arbench.registry import TOKENIZERS, unknown_name
from arbench.tokenizer import load as tokenizer

TOKENIZER_CARDS = (
    hub_card("llamagen-vq", "llamagen-vq", "FoundationVision/LlamaGen", "vq_ds16_c2i.pt", MIT),
    hand_card("kl16", "kl16", "LTH14/mar", "kl16.ckpt", note="MAR's tokenizer; linked from the repository"),
    hand_card("kl16-ldm", "kl16", "CompVis/latent-diffusion", "kl-f16/model.ckpt", "kl16", "LDM's own kl-f16"),
    hand_card("vq16", "vq16", "CompVis/taming-transformers", "vqgan_imagenet_f16_16384/last.ckpt"),
    hand_card("vq16-ldm", "vq16", "CompVis/latent-diffusion", "vq-f16/model.ckpt", "vq16", "LDM's vq-f16"),
)


def all_cards() -> dict[str, WeightsCard]:
    """Every card by its name; that of an earlier method stands where two have one name."""
    return _cards(methods().values())


def _cards(of: Iterable[Method]) -> dict[str, WeightsCard]:
    cards: dict[str, WeightsCard] = {}
    for card in (*(card for method in of for card in method.cards), *TOKENIZER_CARDS, *NETWORK_CARDS):
        cards.setdefault(card.name, card)
    return cards


def get_card(name: str) -> WeightsCard:
    """The card of that name. Raises ValueError with the nearest name where there is none."""
    cards = all_cards()
    if name not in cards:
        raise unknown_name("weights card", name, cards)
    return cards[name]


def cards_for(name: str) -> tuple[WeightsCard, ...]:
    """The cards whose file can be loaded as the preset or tokenizer `name`, preferred first; empty where none is.

    A stranger's are looked at where the name is none of ours.
    """
    known = tuple(card for card in _cards(known_methods()).values() if name in card.loads)
    is_own = name in known_presets() or (name in TOKENIZERS.installed() and TOKENIZERS.is_own(name))
    return known if known or is_own else tuple(card for card in all_cards().values() if name in card.loads)


def find_weights(name: str) -> Path | None:
    """Where the weights of a model or tokenizer are on this machine: those that ship, else a card's file, else None.

    Raises ValueError for a name that is neither a model nor a tokenizer.
    """
    return shipped_file(name) or next((card.path for card in cards_for(name) if card.path.is_file()), None)


def shipped_file(name: str) -> Path | None:
    """Where weights of a model or tokenizer lie that ship with its package; None where none do. ValueError as above."""
    own = known_presets().get(name)
    if own is None and name in TOKENIZERS.installed():
        return tokenizer.shipped_weights(tokenizer.find_tokenizer(name))
    preset = own or presets().get(name)
    if preset is not None:
        return shipped_weights(preset) if preset.shipped else None
    return None if name in method_names() else tokenizer.shipped_weights(tokenizer.find_tokenizer(name))


def shipped_weights(preset: Preset) -> Path:
    """The file that travels with the package of its method for `preset`."""
    package = get_method(preset.method).package
    assert package is not None
    return Path(str(resources.files(package) / "assets" / f"{preset.name}.safetensors"))


def how_to_get(card: WeightsCard) -> str:
    """One line that says how this file comes onto this machine."""
    if card.urls:
        return f"arbench weights get {card.name}"
    return by_hand(card, card.path)


def by_hand(card: WeightsCard, target: Path) -> str:
    """One line that says from where a file can be fetched, and under which name it belongs on this machine."""
    return f"download {Path(card.file).name} by hand from {card.source} to {target}"
