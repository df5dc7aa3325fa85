"""A generator made to fit a tokenizer: channels, codes and grid are the tokenizer's, all else is the preset's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arbench.generators.common.tokens import patch_side
from arbench.protocols import Tokenizer
from arbench.weights.load import RANDOM, load_generator


def fitted_config(
    model: str, tokenizer_name: str, tokenizer: Tokenizer, size: int, given: Mapping[str, Any]
) -> dict[str, Any]:
    """`given` settings of `model` and those that follow from a loaded tokenizer and images of `size` pixels a side.

    Raises ValueError, before anything is encoded, where the tokens are of the kind that the model does not make, an
    image is no whole number of tokens or a side of them no whole number of patches, `given` says otherwise, or the
    model cannot have that grid.
    """
    shape = load_generator(model, weights=RANDOM, device="meta", **given)
    if tokenizer.kind != shape.kind:
        methods = "ar or par" if tokenizer.kind == "discrete" else "mar or dit"
        raise ValueError(
            f"tokenizer {tokenizer_name!r} makes {tokenizer.kind} tokens but model {model!r} draws {shape.kind} ones; "
            f"expected a {shape.kind} tokenizer, or --method {methods}"
        )
    patch = patch_side(shape)
    tokens = {"channels": tokenizer.channels} if shape.kind == "continuous" else {"vocab_size": tokenizer.vocab_size}
    fitted = {"grid": _grid(tokenizer_name, tokenizer.downsample, size, patch), **tokens}
    for name, value in fitted.items():
        if given.get(name, value) != value:
            raise ValueError(f"{name} {given[name]} is asked for, but tokenizer {tokenizer_name!r} has {value}")
    try:
        load_generator(model, weights=RANDOM, device="meta", **{**given, **fitted})
    except ValueError as error:
        side = size // tokenizer.downsample
        where = f"tokenizer {tokenizer_name!r} makes {side}x{side} tokens of {size} px"
        raise ValueError(f"{where}, which do not suit model {model!r}: {error}; expected another --size") from None
    return {**given, **fitted}


def _grid(name: str, downsample: int, size: int, patch: int) -> int:
    """Tokens a side as the generator sees them, in patches of `patch` a side."""
    unit = downsample * patch
    if size % unit == 0:
        return size // unit
    least = f"{downsample} pixels" + (f" times the model's patch of {patch}" if patch > 1 else "")
    near = " or ".join(str(side * unit) for side in (size // unit, size // unit + 1) if side)
    raise ValueError(f"--size {size}: not a multiple of {unit} ({least}, a token of {name!r}); expected {near}")
