"""ARPG's released files: their names and shapes, and where they are."""

from __future__ import annotations

from typing import Any

from arbench.generators.cards import MIT, hub_card
from arbench.generators.common.shapes import count_blocks, shape_of
from arbench.generators.spec import Release, Shapes

HUB = "hp-l33/ARPG"
TABLE = "embeddings.weight"
# Rows of the table that are neither codes nor classes: the mask token, the dropped class, one that nothing uses.
OTHER_ROWS = 3


def read_config(shapes: Shapes) -> dict[str, Any]:
    """Width, depth, codes and classes."""
    rows, width = shape_of(shapes, TABLE, 2)
    codes = shape_of(shapes, "head.weight", 2)[0]
    return {
        "width": width,
        "depth": 2 * count_blocks(shapes, r"layers\.self_dec\.(\d+)\."),
        "num_classes": rows - codes - OTHER_ROWS,
        "vocab_size": codes,
    }


RELEASE = Release(
    wanted=(TABLE, "layers.self_dec.0.attn.to_q.weight", "layers.cross_dec.0.attn.to_q.weight"),
    read_config=read_config,
    untold=("heads",),
    embeddings=(TABLE,),
)
CARDS = (
    hub_card("arpg-l", "arpg", HUB, "arpg_300m.pt", MIT),
    hub_card("arpg-xl", "arpg", HUB, "arpg_700m.pt", MIT),
    hub_card("arpg-xxl", "arpg", HUB, "arpg_1b.pt", MIT),
)
