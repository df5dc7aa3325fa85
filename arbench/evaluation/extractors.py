"""Networks that turn images into features: what one has to be, and how ours and a third party's are found.

An extractor is any class with the members of `arbench.protocols.Extractor`, named in the entry-point group
`arbench.extractors` or given as `module:Class`. The README beside this file writes one from nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from arbench.evaluation.files import one_line
from arbench.protocols import EXTRACTOR_MEMBERS, Extractor
from arbench.registry import EXTRACTORS

HOW_TO = "arbench/evaluation/README.md"


class Extracted(NamedTuple):
    """What is read off a batch, float32: features (B, D), logits (B, K) and spatial (B, S) where there are any."""

    features: np.ndarray
    logits: np.ndarray | None = None
    spatial: np.ndarray | None = None


class Network(Protocol):
    """An extractor as the evaluation runs it: everything in one pass over a batch (`as_network` makes one of any).

    `num_classes` is how many classes its logits name (None: not those of the labels), `has_logits` and `has_spatial`
    whether it gives the logits of the Inception Score and the features of sFID.
    """

    name: str
    sha256: str
    resize: str
    width: int
    num_classes: int | None
    has_logits: bool
    has_spatial: bool

    def extract(self, images: np.ndarray, spatial: bool = False) -> Extracted:
        """uint8 (B, H, W, 3) to features and logits. ValueError for a size that the network does not read."""
        ...


def load_extractor(name: str, *, weights: str | Path | None = None, device: torch.device | str = "cpu") -> Network:
    """The installed extractor `name`, or `module:Class`, with its own weights or those of the file `weights`.

    Inception's are downloaded at first use (torch-fidelity's conversion of TensorFlow's). Raises ValueError for an
    unknown name, a plug-in that fails or lacks a member, and weights that do not fit, OSError where a file or the
    download cannot be reached.
    """
    build = EXTRACTORS.find(name)
    file = None if weights is None else Path(weights)
    make: Callable[[], Any] = build
    if hasattr(build, "load"):
        make = lambda: build.load(file, torch.device(device))  # noqa: E731
    elif file is not None:
        raise ValueError(f"extractor {name!r} cannot load {file}: it has no load(weights, device)")
    return as_network(_guarded(name, "cannot be made", make), name)


def is_standardised(network: Network) -> bool:
    """Whether its features are brought to mean 0 and deviation 1 before kernels; Inception's are as published."""
    return bool(getattr(network, "standardised", False))


def as_network(extractor: Extractor | Network, name: str = "") -> Network:
    """`extractor` as the evaluation runs it. Raises ValueError where it lacks a member, naming it."""
    known = name or getattr(extractor, "name", type(extractor).__name__)
    missing = [member for member in EXTRACTOR_MEMBERS[:-1] if not hasattr(extractor, member)]
    if not hasattr(extractor, "extract") and not callable(getattr(extractor, "features", None)):
        missing.append(EXTRACTOR_MEMBERS[-1])
    if missing:
        raise ValueError(f"extractor {known!r} lacks {', '.join(missing)}; see {HOW_TO}")
    return cast(Network, extractor) if hasattr(extractor, "extract") else PlainNetwork(cast(Extractor, extractor))


class PlainNetwork:
    """A third party's extractor as a network; what it returns is checked, what it raises becomes one line."""

    has_spatial = False

    def __init__(self, extractor: Extractor) -> None:
        self.name, self.sha256, self.resize = extractor.name, extractor.sha256, extractor.resize
        self.width, self.num_classes = extractor.width, getattr(extractor, "num_classes", None)
        self.has_logits = hasattr(extractor, "logits")
        self.standardised = bool(getattr(extractor, "standardised", False))
        self._extractor: Any = extractor  # with the members that it may have beside those that it must

    @torch.inference_mode()
    def extract(self, images: np.ndarray, spatial: bool = False) -> Extracted:
        assert not spatial, f"{self.name} has no spatial features"
        given = _guarded(self.name, "cannot read these images", lambda: self._extractor.features(images))
        features = self._checked("features", given, (len(images), self.width))
        if not self.has_logits:
            return Extracted(features)
        given = _guarded(self.name, "gives no logits", lambda: self._extractor.logits(given))
        return Extracted(features, self._checked("logits", given, (len(images), self.num_classes)))

    def _checked(self, member: str, values: object, shape: tuple[int, int | None]) -> np.ndarray:
        """(B, D) float32; the number of logits is known only where they name classes."""
        array = values.float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float32)
        if array.shape[:1] != shape[:1] or array.ndim != 2 or shape[1] not in (None, array.shape[1]):
            wanted = f"({shape[0]}, {shape[1] or 'K'})"
            raise ValueError(f"extractor {self.name!r}: {member} returned shape {array.shape}; expected {wanted}")
        return array


def names_of(extractors: str | Extractor | Sequence[str | Extractor]) -> list[str | Extractor]:
    """One or several extractors as a list, names as `a,b` among them. ValueError for none."""
    several: Iterable[Any] = extractors if isinstance(extractors, (list, tuple)) else [extractors]
    found: list[str | Extractor] = []
    for one in several:
        found += [name.strip() for name in one.split(",") if name.strip()] if isinstance(one, str) else [one]
    if not found:
        raise ValueError(f"no extractor in {extractors!r}; expected one of: {', '.join(EXTRACTORS.installed())}")
    return found


def _guarded(name: str, what: str, do: Callable[[], Any]) -> Any:
    """What a stranger's code returns; whatever it raises becomes one line that names it, a missing file aside."""
    try:
        return do()
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(f"extractor {name!r} {what}: {one_line(error)}") from error
    except Exception as error:  # a stranger's code may raise anything
        raise ValueError(f"extractor {name!r} {what}: {type(error).__name__}: {one_line(error)}") from error
