"""How a training starts: from given weights, with an output of zeros, dropout at its places, positions as sinusoids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from arbench.generators.common.layers import grid_sinusoids
from arbench.heads.categorical import CategoricalHead
from arbench.protocols import Generator
from arbench.weights.keys import find_family, read_config, release_names, releases, require_same
from arbench.weights.load import load_generator
from arbench.weights.read import read_tensors

Model = TypeVar("Model", bound=nn.Module)
CLASSES = "num_classes"  # as every method's configuration calls it
TABLE_DEVIATION = 0.5  # beside embedded tokens of about unit deviation


@torch.no_grad()
def start_positions(model: Generator) -> None:
    """Fill a masked generator's learned positions with 2-D sinusoids of its grid, the buffer's rows left as they are.

    MAR starts them as noise of deviation 0.02, fifty times below the tokens they are added to: which token is a
    neighbour is then found out late, which a training of hours does not mind and one of minutes does. Raises ValueError
    for a generator without such tables.
    """
    names = ("encoder_pos_embed_learned", "decoder_pos_embed_learned")
    if not all(hasattr(model, name) for name in names):
        raise ValueError(f"{type(model).__name__} has no learned positions to start as sinusoids")
    for name in names:
        table = getattr(model, name)  # (1, buffer + N, D)
        sinusoids = grid_sinusoids(model.grid, table.shape[-1])
        table[0, -len(sinusoids) :] = sinusoids.to(table) * (TABLE_DEVIATION / sinusoids.std())


@torch.no_grad()
def zero_output(model: Generator) -> None:
    """Let every code be equally likely at first (LlamaGen release); a diffusion head's output starts at zero anyway."""
    head = model.draw_head()
    if isinstance(head, CategoricalHead):
        head.weight.zero_()


def set_dropout(model: nn.Module, chance: float) -> None:
    """Drop with `chance` at every place that the model has for it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = chance


def load_start(
    target: str, file: str, which: str, settings: Mapping[str, Any], classes: int, say: Callable[[str], None]
) -> tuple[dict[str, Tensor], int]:
    """The tensors of `file` to go on from, on data of so many `classes`, and how many classes they know.

    Their number is what the file says, whatever the preset has. Raises ValueError where they know fewer, and for
    tensors of other shapes than those of the model that is trained, OSError and ValueError as `load_generator` does.
    """
    model = load_generator(target, weights=file, which=which, **{**told_classes(file, which), **settings})
    known = model.num_classes
    if known < classes:
        raise ValueError(f"{file} knows {known} classes, the data has {classes}; expected no more than it knows")
    if known > classes:
        say(f"the data's {classes} classes take the places of the first {classes} of the {known} that {file} knows")
    trained = load_generator(target, weights="random", device="meta", **{CLASSES: known, **settings})
    require_same(_shapes(model.state_dict()), _shapes(trained.state_dict()), file)
    return model.state_dict(), known


def told_classes(file: str, which: str) -> dict[str, int]:
    """The number of classes that the tensors of `file` tell, by its name in a configuration; nothing where none does.

    Raises OSError and ValueError as `read_tensors` does.
    """
    shapes = {name: tuple(value.shape) for name, value in release_names(read_tensors(file).tensors(which)).items()}
    family = find_family(shapes)
    if family is None or family not in releases():
        return {}
    return {name: value for name, value in read_config(family, shapes).items() if name == CLASSES}


def started(model: Model, start: Mapping[str, Tensor] | None, where: str | None) -> Model:
    """`model` with the tensors of `start`, where there are any. Raises ValueError where they are of another model."""
    if start is not None:
        require_same(_shapes(start), _shapes(model.state_dict()), str(where))
        model.load_state_dict(start)
    return model


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
