"""What the names and shapes of a state dict say: which family it is, its widths and depths, how names map.

What tells them stands in each method's release; the wrappers' prefixes are taken off here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from arbench.generators.methods import OursFirst, known_methods
from arbench.generators.spec import Release, Shapes
from arbench.heads.diffusion import TRAINING_ONLY

T = TypeVar("T")

# Wrappers put these in front of every name: DDP and FSDP, torch.compile, a full latent-diffusion checkpoint.
PREFIXES = ("module.", "_orig_mod.", "first_stage_model.")


@dataclass(frozen=True, kw_only=True)
class TokenizerFile:
    """How a tokenizer's released file is told, and how a torch checkpoint wraps it: see `arbench.generators.spec`."""

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    layout: str = "ddp"


TOKENIZER_FILES = {
    "llamagen-vq": TokenizerFile(wanted=("encoder.conv_blocks.0.res.0.norm1.weight", "quantize.embedding.weight")),
    "vq16": TokenizerFile(
        wanted=("encoder.down.0.block.0.norm1.weight", "quantize.embedding.weight"), layout="lightning"
    ),
    "kl16": TokenizerFile(
        wanted=("encoder.down.0.block.0.norm1.weight", "quant_conv.weight"), unwanted=("quantize.embedding.weight",)
    ),
}
TOKENIZER_EMBEDDINGS = ("quantize.embedding.weight",)

LISTED = 4  # names spelled out in an error about a state dict


def releases() -> Mapping[str, Release]:
    """The release of every method that has one."""
    return OursFirst(lambda of: {method.name: method.release for method in of if method.release is not None})


def families() -> dict[str, Release | TokenizerFile]:
    """What the files of each method and each tokenizer look like."""
    return {**releases(), **TOKENIZER_FILES}


def _known_families() -> dict[str, Release | TokenizerFile]:
    """The same without the methods of strangers that nobody named: most files are none of theirs."""
    known = {method.name: method.release for method in known_methods() if method.release is not None}
    return {**known, **TOKENIZER_FILES}


def is_linear_weight(name: str, ndim: int) -> bool:
    """Whether the tensor is a linear layer's weight: 2-D, named `….weight`, and no embedding table."""
    return ndim == 2 and name.endswith(".weight") and not name.endswith(embeddings())


def embeddings() -> tuple[str, ...]:
    """Tables of vectors: 2-D like a linear layer's weight, but never transposed between torch and Paddle."""
    return (*(name for release in releases().values() for name in release.embeddings), *TOKENIZER_EMBEDDINGS)


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
    """A state dict under the release's names: prefixes off, and without what is computed anew.

    What only training needs (`TRAINING_ONLY`) stands in a training checkpoint and in no released file.
    """
    names = strip_prefixes(tensors)
    known = _known_families()
    asked = known if _family_among(known, names.values()) is not None else families()
    dropped = {name for release in asked.values() if isinstance(release, Release) for name in release.dropped}
    return {
        names[name]: value
        for name, value in tensors.items()
        if names[name] not in dropped and TRAINING_ONLY not in names[name]
    }


def find_family(names: Iterable[str]) -> str | None:
    """The family whose names these are, a method or a tokenizer, or None."""
    present = set(names)
    return _family_among(_known_families(), present) or _family_among(families(), present)


def _family_among(known: Mapping[str, Release | TokenizerFile], names: Iterable[str]) -> str | None:
    present = set(names)
    for family, release in known.items():
        if present.issuperset(release.wanted) and present.isdisjoint(release.unwanted):
            return family
    return None


def detect_family(names: Iterable[str], where: str) -> str:
    """As `find_family`, but a state dict of no known family is a ValueError that begins with `where`."""
    names = list(names)
    family = find_family(names)
    if family is None:
        first = ", ".join(names[:3]) or "no tensors"
        known = ", ".join(sorted(families()))
        raise ValueError(f"{where}: weights of no known family ({first}, …); expected one of: {known}")
    return family


def find_layout(family: str) -> str:
    """The layout in which a torch checkpoint of this family was released."""
    return families()[family].layout


def read_config(family: str, shapes: Shapes) -> dict[str, Any]:
    """The configuration of a generator that its tensors tell, in the names of its config.

    What no tensor tells is absent: the number of heads, the sides of the grid. Beside the config's names stand
    `num_tokens`, which the tensors of AR and PAR in raster order do not tell, and `token_width`, the channels of a
    continuous token (channels times patch_size squared). Raises ValueError where a needed tensor is missing or has
    another number of dimensions.
    """
    return releases()[family].read_config(shapes)


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
