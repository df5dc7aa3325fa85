"""The names and shapes of a DiT's file; none was released in arbench's names, only trained ones have them."""

from __future__ import annotations

from typing import Any

from arbench.generators.common.shapes import count_blocks, shape_of
from arbench.generators.spec import Release, Shapes


def read_config(shapes: Shapes) -> dict[str, Any]:
    """Width, depth, classes and the channels of a token."""
    rows, width = shape_of(shapes, "y_embedder.weight", 2)
    return {
        "width": width,
        "depth": count_blocks(shapes, r"joint\.net\.blocks\.(\d+)\."),
        "num_classes": rows - 1,  # the last row is "unconditional"
        "token_width": shape_of(shapes, "joint.net.x_embedder.weight", 2)[1],
    }


RELEASE = Release(
    wanted=("y_embedder.weight", "joint.net.x_embedder.weight"),
    read_config=read_config,
    untold=("heads",),
    embeddings=("y_embedder.weight",),
)
