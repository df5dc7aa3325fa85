"""Weights of the networks that give features for metrics: which file, from where."""

from __future__ import annotations

from pathlib import Path

from arbench.generators.cards import HUB, WeightsCard

APACHE = "Apache-2.0"
DINO_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
CLIP_URL = f"{HUB}/timm/vit_large_patch14_clip_336.openai/resolve/main/model.safetensors"

DINOV2 = WeightsCard(
    name="dinov2-vitl14",
    family="extractor",
    file="dinov2_vitl14_pretrain.pth",
    source="https://github.com/facebookresearch/dinov2",
    licence=APACHE,
    loads=("dinov2-edm2", "dinov2-dgm"),
    url=DINO_URL,
    note="network of FD-DINOv2",
)
CLIP = WeightsCard(
    name="clip-vitl14-336",
    family="extractor",
    file="clip_vitl14_336.safetensors",
    source=f"{HUB}/timm/vit_large_patch14_clip_336.openai",
    licence=APACHE,
    loads=("clip-336",),
    url=CLIP_URL,
    note="network of CMMD",
)
NETWORK_CARDS = (DINOV2, CLIP)


def card_file(card: WeightsCard, extractor: str) -> Path:
    """Where the card's file lies. FileNotFoundError with how to get it where it does not."""
    if not card.path.is_file():
        told = f"weights of extractor {extractor} are not on this machine; arbench weights get {card.name}"
        raise FileNotFoundError(told)
    return card.path
