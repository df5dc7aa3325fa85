"""PAR's released files: LlamaGen's names, and a table of learnable tokens; and where they are."""

from __future__ import annotations

from typing import Any

from arbench.generators.ar import release as ar
from arbench.generators.cards import NO_LICENCE, hub_card
from arbench.generators.common.shapes import shape_of
from arbench.generators.spec import Release, Shapes

HUB = "Epiphqny/PAR"
UNLICENSED = "the authors state no licence: ask them before you use, change or share these weights"
GROUP = "spe_tok_embeddings.special_embeddings.weight"


def read_config(shapes: Shapes) -> dict[str, Any]:
    """What AR's tensors tell, and n: there are n - 1 learnable tokens."""
    return {**ar.read_config(shapes), "parallel": shape_of(shapes, GROUP, 2)[0] + 1}


RELEASE = Release(
    wanted=("layers.0.attention.wqkv.weight", GROUP),
    read_config=read_config,
    untold=("heads",),
    dropped=ar.RELEASE.dropped,
    embeddings=(*ar.EMBEDDINGS, GROUP),
)
CARDS = (
    hub_card("par-xl-4x", "par", HUB, "PAR-XL-4x.pt", NO_LICENCE, note=UNLICENSED),
    hub_card("par-xxl-4x", "par", HUB, "PAR-XXL-4x.pt", NO_LICENCE, note=UNLICENSED),
    hub_card("par-3b-4x", "par", HUB, "PAR-3B-4x.pt", NO_LICENCE, note=UNLICENSED),
    hub_card("par-3b-16x", "par", HUB, "PAR-3B-16x.pt", NO_LICENCE, note=UNLICENSED),
)
