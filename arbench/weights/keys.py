"""What the names and shapes of a state dict say: which family it is, its widths and depths, how names map.

Our modules bear the releases' names, so the map of each family is the identity but for the wrappers' prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from arbench.heads.diffusion import TRAINING_ONLY

T = TypeVar("T")
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

GENERATORS = ("ar", "par", "mar", "dit")
TOKENIZERS = ("kl16", "vq16", "llamagen-vq")

# Wrappers put these in front of every name: DDP and FSDP, torch.compile, a full latent-diffusion checkpoint.
PREFIXES = ("module.", "_orig_mod.", "first_stage_model.")

# Left out on loading: a table of rotary angles that some LlamaGen files carry and that is computed anew.
DROPPED = ("freqs_cis",)

# Names that tell a family: all of the first group are there, none of the second.
SIGNATURES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("par", ("layers.0.attention.wqkv.weight", "spe_tok_embeddings.special_embeddings.weight"), ()),
    ("ar", ("layers.0.attention.wqkv.weight", "cls_embedding.embedding_table.weight"), ()),
    ("mar", ("encoder_pos_embed_learned", "decoder_pos_embed_learned", "class_emb.weight"), ()),
    ("dit", ("y_embedder.weight", "joint.net.x_embedder.weight"), ()),
    ("llamagen-vq", ("encoder.conv_blocks.0.res.0.norm1.weight", "quantize.embedding.weight"), ()),
    ("vq16", ("encoder.down.0.block.0.norm1.weight", "quantize.embedding.weight"), ()),
    ("kl16", ("encoder.down.0.block.0.norm1.weight", "quant_conv.weight"), ("quantize.embedding.weight",)),
)

LISTED = 4  # names spelled out in an error about a state dict

# Tables of vectors: 2-D like a linear layer's weight, but never transposed between torch and Paddle.
EMBEDDINGS = (
    "class_emb.weight",
    "cls_embedding.embedding_table.weight",
    "tok_embeddings.weight",
    "spe_tok_embeddings.special_embeddings.weight",
    "target_embeddings.weight",
    "y_embedder.weight",
    "quantize.embedding.weight",
)


def is_linear_weight(name: str, ndim: int) -> bool:
    """Whether the tensor is a linear layer's weight: 2-D, named `….weight`, and no embedding table."""
    return ndim == 2 and name.endswith(".weight") and not name.endswith(EMBEDDINGS)


def strip_prefixes(names: Iterable[str]) -> dict[str, str]:
    """Map each name of a file to the release's name: prefixes that *every* name bears are taken off."""
    mapped = {name: name for name in names}
    while mapped:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in mapped.values())), None)
        if prefix is None:
            break
        mapped = {name: short.removeprefix(prefix) for name, short in mapped.items()}
    return mapped


def release_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """A state dict under the release's names: prefixes off, and without what is computed anew (`DROPPED`).

    What only training needs (`TRAINING_ONLY`) stands in a training checkpoint and in no released file.
    """
    names = strip_prefixes(tensors)
    return {
        names[name]: value
        for name, value in tensors.items()
        if names[name] not in DROPPED and TRAINING_ONLY not in names[name]
    }


def find_family(names: Iterable[str]) -> str | None:
    """The family whose names these are (one of GENERATORS or TOKENIZERS), or None."""
    present = set(names)
    for family, wanted, unwanted in SIGNATURES:
        if present.issuperset(wanted) and present.isdisjoint(unwanted):
            return family
    return None


def detect_family(names: Iterable[str], where: str) -> str:
    """As `find_family`, but a state dict of no known family is a ValueError that begins with `where`."""
    names = list(names)
    family = find_family(names)
    if family is None:
        first = ", ".join(names[:3]) or "no tensors"
        known = ", ".join((*GENERATORS, *TOKENIZERS))
        raise ValueError(f"{where}: weights of no known family ({first}, …); expected one of: {known}")
    return family


def read_config(family: str, shapes: Shapes) -> dict[str, Any]:
    """The configuration of a generator that its tensors tell, in the names of its config.

    What no tensor tells is absent: the number of heads, the sides of the grid. Beside the config's names stand
    `num_tokens`, which the tensors of AR and PAR in raster order do not tell, and `token_width`, the channels of a
    continuous token (channels times patch_size squared). Raises ValueError where a needed tensor is missing or has
    another number of dimensions.
    """
    return _READERS[family](shapes)


def require_same(found: Shapes, wanted: Shapes, where: str) -> None:
    """Raise ValueError, with the lists, unless names and shapes of a state dict are those that the module has."""
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in wanted.items()
            if name in found and found[name] != shape
        ],
    }
    told = [f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items() if names]
    if told:
        raise ValueError(f"{where}: does not fit; {'; '.join(told)}")


def _some(names: list[str]) -> str:
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _shape(shapes: Shapes, name: str, ndim: int) -> Shape:
    """The shape of a tensor that has to be there with `ndim` dimensions."""
    shape = shapes.get(name)
    if shape is None:
        raise ValueError(f"incomplete weights: {name} is missing")
    if len(shape) != ndim:
        raise ValueError(f"{name} has shape {shape}; expected {ndim} dimensions")
    return shape


def _count(shapes: Shapes, pattern: str) -> int:
    """How many blocks there are: the number of different indices where `pattern` has its group."""
    found = (re.match(pattern, name) for name in shapes)
    return len({match[1] for match in found if match})


def _read_head(shapes: Shapes) -> dict[str, Any]:
    """The head and the tokens that go in: a diffusion head over continuous tokens, or logits over codes."""
    if "diffloss.net.input_proj.weight" not in shapes:
        return {"head": "categorical", "vocab_size": _shape(shapes, "tok_embeddings.weight", 2)[0]}
    head_width, token_width = _shape(shapes, "diffloss.net.input_proj.weight", 2)
    return {
        "head": "diffusion",
        "head_depth": _count(shapes, r"diffloss\.net\.res_blocks\.(\d+)\."),
        "head_width": head_width,
        "token_width": token_width,
    }


def _read_ar(shapes: Shapes) -> dict[str, Any]:
    rows, width = _shape(shapes, "cls_embedding.embedding_table.weight", 2)
    config = {
        "width": width,
        "depth": _count(shapes, r"layers\.(\d+)\."),
        "num_classes": rows - 1,  # the last row is "unconditional"
        "order": "random" if "target_embeddings.weight" in shapes else "raster",
        **_read_head(shapes),
    }
    if config["order"] == "random":
        config["num_tokens"] = _shape(shapes, "target_embeddings.weight", 2)[0]
    return config


def _read_par(shapes: Shapes) -> dict[str, Any]:
    config = _read_ar(shapes)
    if "spe_tok_embeddings.special_embeddings.weight" in shapes:
        config["parallel"] = _shape(shapes, "spe_tok_embeddings.special_embeddings.weight", 2)[0] + 1
    return config


def _read_mar(shapes: Shapes) -> dict[str, Any]:
    num_tokens = _shape(shapes, "diffusion_pos_embed_learned", 3)[1]
    num_classes, encoder_width = _shape(shapes, "class_emb.weight", 2)
    return {
        "encoder_width": encoder_width,
        "encoder_depth": _count(shapes, r"encoder_blocks\.(\d+)\."),
        "decoder_width": _shape(shapes, "decoder_embed.weight", 2)[0],
        "decoder_depth": _count(shapes, r"decoder_blocks\.(\d+)\."),
        "num_classes": num_classes,
        "buffer_size": _shape(shapes, "encoder_pos_embed_learned", 3)[1] - num_tokens,
        "num_tokens": num_tokens,
        **_read_head(shapes),
    }


def _read_dit(shapes: Shapes) -> dict[str, Any]:
    rows, width = _shape(shapes, "y_embedder.weight", 2)
    return {
        "width": width,
        "depth": _count(shapes, r"joint\.net\.blocks\.(\d+)\."),
        "num_classes": rows - 1,  # the last row is "unconditional"
        "token_width": _shape(shapes, "joint.net.x_embedder.weight", 2)[1],
    }


_READERS = {"ar": _read_ar, "par": _read_par, "mar": _read_mar, "dit": _read_dit}


__all__ = [
    "DROPPED",
    "EMBEDDINGS",
    "GENERATORS",
    "PREFIXES",
    "TOKENIZERS",
    "Shape",
    "Shapes",
    "detect_family",
    "find_family",
    "is_linear_weight",
    "read_config",
    "release_names",
    "require_same",
    "strip_prefixes",
]
