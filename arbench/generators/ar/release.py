"""LlamaGen's released files: their names and shapes, and where they are."""

from __future__ import annotations

from typing import Any

from arbench.generators.cards import MIT, hub_card
from arbench.generators.common.shapes import count_blocks, read_head, shape_of
from arbench.generators.spec import Release, Shapes

HUB = "FoundationVision/LlamaGen"
CLASSES = "cls_embedding.embedding_table.weight"
ORDERED = "target_embeddings.weight"  # there where the order is random
EMBEDDINGS = (CLASSES, "tok_embeddings.weight", ORDERED)


def read_config(shapes: Shapes) -> dict[str, Any]:
    """Widths, depth, classes, order and head."""
    rows, width = shape_of(shapes, CLASSES, 2)
    config = {
        "width": width,
        "depth": count_blocks(shapes, r"layers\.(\d+)\."),
        "num_classes": rows - 1,  # the last row is "unconditional"
        "order": "random" if ORDERED in shapes else "raster",
        **read_head(shapes),
    }
    if config["order"] == "random":
        config["num_tokens"] = shape_of(shapes, ORDERED, 2)[0]
    return config


RELEASE = Release(
    wanted=("layers.0.attention.wqkv.weight", CLASSES),
    unwanted=("spe_tok_embeddings.special_embeddings.weight",),
    read_config=read_config,
    untold=("heads",),
    dropped=("freqs_cis",),  # a table of rotary angles that some files carry
    embeddings=EMBEDDINGS,
)
CARDS = (
    hub_card("ar-b", "ar", HUB, "c2i_B_256.pt", MIT),
    hub_card("ar-l", "ar", HUB, "c2i_L_256.pt", MIT),
    hub_card("ar-l-384", "ar", HUB, "c2i_L_384.pt", MIT),
    hub_card("ar-xl-384", "ar", HUB, "c2i_XL_384.pt", MIT),
    hub_card("ar-xxl-384", "ar", HUB, "c2i_XXL_384.pt", MIT),
    hub_card("ar-3b-384", "ar", HUB, "c2i_3B_384.pt", MIT),
)
