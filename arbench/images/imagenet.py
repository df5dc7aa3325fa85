"""ImageNet class names and indices, from the tables that timm carries (1,000 classes in WordNet order)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from arbench.registry import nearest

if TYPE_CHECKING:
    from timm.data import ImageNetInfo

NUM_CLASSES = 1000
TRAINING_IMAGES = 1_281_167  # of ILSVRC 2012


def _table() -> ImageNetInfo:
    from timm.data import ImageNetInfo  # takes seconds, and few want a name

    return ImageNetInfo("imagenet-1k")


@cache
def class_names() -> tuple[str, ...]:
    """The 1,000 descriptions in index order, e.g. 'monarch, monarch butterfly, milkweed butterfly, ...'."""
    return tuple(_table().index_to_description(index) for index in range(NUM_CLASSES))


@cache
def synsets() -> tuple[str, ...]:
    """The 1,000 WordNet ids in index order, e.g. 'n02099601' for the golden retriever."""
    return tuple(_table().label_names())


@cache
def _indices() -> dict[str, tuple[int, ...]]:
    """Every accepted spelling in lower case, with the classes that bear it (some names are shared, e.g. 'crane')."""
    found: dict[str, set[int]] = {}
    for index, (description, synset) in enumerate(zip(class_names(), synsets(), strict=True)):
        for spelling in (synset, description, *description.split(", ")):
            found.setdefault(spelling.lower(), set()).add(index)
    return {spelling: tuple(sorted(indices)) for spelling, indices in found.items()}


def class_index(label: str) -> int:
    """The class that `label` means: a number, a WordNet id, a description or one of its names.

    Underscores and case do not matter. Raises ValueError for a number outside 0..999, for a name that several
    classes bear, and for an unknown name (with the nearest one).
    """
    text = label.strip()
    if text.isascii() and text.removeprefix("-").isdigit():
        index = int(text[:18])
        if not 0 <= index < NUM_CLASSES:
            raise ValueError(f"class {index} is outside ImageNet's 0..{NUM_CLASSES - 1}")
        return index
    indices = _indices().get(text.replace("_", " ").lower())
    if indices is None:
        raise _unknown_class(text)
    if len(indices) > 1:
        choices = ", ".join(f"{index} ({synsets()[index]})" for index in indices)
        raise ValueError(f"ImageNet class {text!r} means several classes; give a number: {choices}")
    return indices[0]


def _unknown_class(text: str) -> ValueError:
    """The one-line error for a name that no class bears; the thousand names are not listed."""
    close = nearest(text, _indices())
    hint = f"did you mean {close!r}? " if close else ""
    return ValueError(
        f"unknown ImageNet class {text!r}; {hint}expected 0..{NUM_CLASSES - 1}, a WordNet id or a class name"
    )


__all__ = ["NUM_CLASSES", "class_index", "class_names", "synsets"]
