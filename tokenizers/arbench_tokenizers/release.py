"""The key maps of the releases: any tokenizer's file as tensors under LDM's names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from arbench.weights.keys import detect_family, strip_prefixes
from arbench.weights.read import read_tensors

FIRST_STAGE = "first_stage_model."  # where a whole latent diffusion checkpoint keeps its autoencoder
# What training leaves in the files and nobody needs: taming's and LDM's discriminator, LlamaGen's usage queue.
SKIPPED = ("loss.", "quantize.codebook_used")
LLAMAGEN_MIDDLE = {"0": "block_1", "1": "attn_1", "2": "block_2"}


def read_release(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The family of the autoencoder in `path`, and its tensors under LDM's names without what only training needs.

    Raises ValueError for a broken, refused or foreign file, OSError where it cannot be read.
    """
    tensors = read_tensors(path).tensors("raw")
    stage = {name: tensor for name, tensor in tensors.items() if name.startswith(FIRST_STAGE)}
    tensors = stage or tensors
    short = strip_prefixes(tensors)
    kept = {short[name]: tensor for name, tensor in tensors.items() if not short[name].startswith(SKIPPED)}
    family = detect_family(kept, str(path))
    for name, tensor in kept.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{path}: {name} holds {tensor.dtype}; expected floating-point weights")
    names = ldm_names(kept)
    return family, {names[name]: tensor for name, tensor in kept.items()}


def ldm_names(names: Iterable[str]) -> dict[str, str]:
    """Map each name of a release to LDM's; those of LDM and taming are the identity.

    LlamaGen counts the decoder's levels from the coarsest, LDM from the finest, and keeps the middle as a list.
    """
    names = list(names)
    indices = [int(match[1]) for name in names if (match := re.match(r"decoder\.conv_blocks\.(\d+)\.", name))]
    last = max(indices, default=0)
    return {name: _ldm_name(name, last) for name in names}


def _ldm_name(name: str, last: int) -> str:
    if match := re.fullmatch(r"(encoder|decoder)\.conv_blocks\.(\d+)\.(.+)", name):
        part, index, rest = match[1], int(match[2]), re.sub(r"^res\.", "block.", match[3])
        return f"encoder.down.{index}.{rest}" if part == "encoder" else f"decoder.up.{last - index}.{rest}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.([012])\.(.+)", name):
        return f"{match[1]}.mid.{LLAMAGEN_MIDDLE[match[2]]}.{match[3]}"
    return name


def llamagen_names(names: Iterable[str]) -> dict[str, str]:
    """Map LDM's names to LlamaGen's, the inverse of `ldm_names`."""
    names = list(names)
    levels = [int(match[1]) for name in names if (match := re.match(r"decoder\.up\.(\d+)\.", name))]
    last = max(levels, default=0)
    return {name: _llamagen_name(name, last) for name in names}


def _llamagen_name(name: str, last: int) -> str:
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.(.+)", name):
        part, index, rest = match[1], int(match[2]), re.sub(r"^block\.", "res.", match[3])
        level = index if part == "encoder.down" else last - index
        return f"{part.partition('.')[0]}.conv_blocks.{level}.{rest}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.(block_1|attn_1|block_2)\.(.+)", name):
        place = next(place for place, own in LLAMAGEN_MIDDLE.items() if own == match[2])
        return f"{match[1]}.mid.{place}.{match[3]}"
    return name
