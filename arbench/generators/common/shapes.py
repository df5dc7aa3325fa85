"""Reading a configuration off the shapes of a state dict: what the releases of several methods share."""

from __future__ import annotations

import re
from typing import Any

from arbench.generators.spec import Shapes


def shape_of(shapes: Shapes, name: str, ndim: int) -> tuple[int, ...]:
    """The shape of a tensor that has to be there with `ndim` dimensions. Raises ValueError where it is not."""
    shape = shapes.get(name)
    if shape is None:
        raise ValueError(f"incomplete weights: {name} is missing")
    if len(shape) != ndim:
        raise ValueError(f"{name} has shape {shape}; expected {ndim} dimensions")
    return shape


def count_blocks(shapes: Shapes, pattern: str) -> int:
    """How many blocks there are: the number of different indices where `pattern` has its group."""
    found = (re.match(pattern, name) for name in shapes)
    return len({match[1] for match in found if match})


def read_head(shapes: Shapes) -> dict[str, Any]:
    """The head and the tokens that go in: a diffusion head over continuous tokens, or logits over codes."""
    if "diffloss.net.input_proj.weight" not in shapes:
        return {"head": "categorical", "vocab_size": shape_of(shapes, "tok_embeddings.weight", 2)[0]}
    head_width, token_width = shape_of(shapes, "diffloss.net.input_proj.weight", 2)
    return {
        "head": "diffusion",
        "head_depth": count_blocks(shapes, r"diffloss\.net\.res_blocks\.(\d+)\."),
        "head_width": head_width,
        "token_width": token_width,
    }
