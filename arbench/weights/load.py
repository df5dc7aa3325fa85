"""`load_generator`: a preset or a family, with its weights, ready to sample.

A file's tensors say most of the configuration (`keys.read_config`); preset and caller give the rest, and whatever they
say twice has to agree. The module is built without memory and takes the file's own tensors, which stay mapped on disk
where the format allows: the peak is about the size of the file, and of a copy where another dtype is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from arbench.generators.methods import get_method, method_names, presets
from arbench.generators.spec import Method, Preset, Shapes, same_name
from arbench.protocols import Generator
from arbench.registry import unknown_name
from arbench.weights.cards import shipped_weights
from arbench.weights.configure import build_generator, expand_config, full_config, merge_config, untold_names
from arbench.weights.keys import read_config, release_names, require_same
from arbench.weights.provenance import RANDOM, family_of, read_provenance, require_method
from arbench.weights.read import read_tensors


def load_generator(
    name: str,
    *,
    weights: str | Path | None = None,
    which: str = "ema",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Generator:
    """The generator called `name`, a preset or a family (ar, par, mar), in evaluation mode.

    `weights` is a file; None takes the file that ships with the preset, and random weights (from `torch.manual_seed`)
    where none does; "random" takes random weights. `which` picks "ema" or "raw" inside a checkpoint. `config` gives
    what a preset or the file does not say; a file that says what it was trained as stands in place of the preset that
    it started from. `default_sampling` of the result is what its preset sets, which
    `generate` takes where it is told nothing else. Raises ValueError for unknown names, a broken or foreign file and a
    configuration that contradicts the file, OSError for a file that cannot be read.
    """
    preset = presets().get(name)
    if preset is None and name not in method_names():
        require_method(read_provenance(weights))
        raise unknown_name("model", name, [*presets(), *method_names()])
    method = preset.method if preset else name
    asked = expand_config(method, config)
    given = {**(full_config(preset) if preset else {}), **asked}
    if weights is None and preset is not None and preset.shipped:
        weights = shipped_weights(preset)
    if weights is None or str(weights) == RANDOM:
        # Made where they are wanted: billions of numbers take a CPU minutes. Each kind of device has its own.
        kind = torch.device(device)
        with without_memory() if kind.type == "meta" else kind if kind.type == "cuda" else nullcontext():
            generator = build_generator(method, given)
    else:
        told = read_provenance(weights)
        if told is not None and told.method == method and name in (told.preset, method):
            given = expand_config(method, told.complete(asked))
        generator = _from_file(method, given, Path(weights), which)
    generator.default_sampling = dict(preset.sampling) if preset else {}
    return generator.to(device=device, dtype=dtype).eval()


class _Uninitialised(TorchFunctionMode):
    """Within it nothing is initialised."""

    RANDOM_FILLS = (Tensor.normal_, Tensor.uniform_)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.RANDOM_FILLS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules built within it have names and shapes, no memory and no values.

    Initialisers do nothing: on the meta device alone, `normal_` imports kernels that take 150 MB and a second.
    """
    with torch.device("meta"), _Uninitialised():
        yield


def count_parameters(preset: Preset) -> int:
    """The parameters of a preset, counted on a model without memory."""
    with without_memory():
        generator = build_generator(preset.method, dict(preset.config))
    return sum(parameter.numel() for parameter in generator.parameters())


def _from_file(method: str, given: dict[str, Any], path: Path, which: str) -> Generator:
    """A generator that holds the file's tensors, on the CPU and in the file's own dtype.

    Of a method without a release the file has to hold the very names of its modules.
    """
    tensors = release_names(read_tensors(path).tensors(which))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    spec = get_method(method)
    rename: Callable[[str], str] = same_name
    config = given
    if spec.release is not None:
        family = family_of(shapes, path)
        if family != method and not _borrows(spec, family, given):
            raise ValueError(f"{path}: holds {family} weights, not {method}")
        config, rename = merge_config(method, read_config(family, shapes), given, str(path)), spec.release.rename
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    generator = _empty_generator(method, config, {rename(name): shape for name, shape in shapes.items()}, str(path))
    require_floats(tensors, str(path))
    generator.load_state_dict(renamed, assign=True)
    return generator


def _borrows(spec: Method, family: str, given: dict[str, Any]) -> bool:
    """Whether files of another `family` are weights of this method under the configuration `given`."""
    wanted = spec.borrows.get(family)
    return wanted is not None and all(given.get(name) == value for name, value in wanted.items())


def _empty_generator(method: str, config: dict[str, Any], shapes: Shapes, where: str) -> Generator:
    """A generator without memory whose names and shapes are those of a file, else a ValueError with the lists."""
    with without_memory():
        generator = build_generator(method, config)
    require_same(shapes, {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}, where)
    return generator


def check_complete(method: str, told: dict[str, Any], shapes: Shapes, where: str) -> None:
    """Raise ValueError, with the lists, unless the shapes are exactly those of a generator with the config told.

    Heads and grid, which no tensor tells, are of no matter here.
    """
    given = dict.fromkeys(untold_names(method), 1)
    grid = (1, told["num_tokens"]) if "num_tokens" in told else told.get("parallel", 1)
    release = get_method(method).release
    assert release is not None
    renamed = {release.rename(name): shape for name, shape in shapes.items()}
    _empty_generator(method, merge_config(method, told, {**given, "grid": grid}, where), renamed, where)


def require_floats(tensors: dict[str, Tensor], where: str) -> None:
    """Raise ValueError for a tensor that holds no real numbers: codes, flags, complex ones."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{where}: {name} holds {tensor.dtype}, expected floating-point weights")
