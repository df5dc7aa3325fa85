"""`load_tokenizer`: ours and a third party's come in by the same door.

A tokenizer is any class with the members of `arbench.protocols.Tokenizer`, named in the entry-point group
`arbench.tokenizers` or given as `module:Class`. `tokenizers/README.md` writes one from nothing.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from arbench.machine.hardware import resolve_device
from arbench.protocols import KINDS, TOKENIZER_MEMBERS, Tokenizer, missing_members
from arbench.registry import TOKENIZERS, unknown_name

RANDOM = "random"


class Scaled(Protocol):
    """What has a tokenizer's scale, and perhaps its `shift`: one number, or one a channel."""

    @property
    def scale(self) -> float | Sequence[float] | Tensor: ...


def load_tokenizer(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Tokenizer:
    """The tokenizer called `name`: an installed one, `module:Class`, or an adapter's `diffusers:ID`.

    `weights` is a file; None takes the file that ships with the tokenizer, else random weights from
    `torch.manual_seed`; "random" forces random ones. `config` overrides its configuration. Raises ValueError for an
    unknown name or setting, a plug-in that fails or lacks a member, and for weights that are broken or contradict
    `config`; OSError for a file that cannot be read.
    """
    place = resolve_device(device) if isinstance(device, str) else device
    build = find_tokenizer(name)
    path = shipped_weights(build) if weights is None else None if str(weights) == RANDOM else Path(weights)
    tokenizer = _construct(build, name, path, config)
    missing = missing_members(tokenizer, TOKENIZER_MEMBERS)
    if missing:
        raise ValueError(f"tokenizer {name!r} lacks {', '.join(missing)}; see tokenizers/README.md for the protocol")
    if tokenizer.kind not in KINDS:
        raise unknown_name(f"kind of tokenizer {name!r}", tokenizer.kind, KINDS)
    return _place(tokenizer, place, dtype)


def find_tokenizer(name: str) -> Any:
    """The class (or other callable) behind a name; nothing is built.

    `adapter:ID` is an installed entry point with a classmethod `from_id`, bound to the id of a foreign model. Raises
    ValueError for an unknown name and for a plug-in that cannot be imported.
    """
    installed = TOKENIZERS.installed()
    first, _, rest = name.partition(":")
    if name not in installed and rest and first in installed:
        adapter = TOKENIZERS.find(first)
        if hasattr(adapter, "from_id"):
            return functools.partial(adapter.from_id, rest)
    return TOKENIZERS.find(name)


def shipped_weights(build: object) -> Path | None:
    """The weights that travel with a tokenizer: `assets/<name>.safetensors` in its top-level package, or None."""
    package = importlib.import_module(getattr(build, "__module__", "arbench").partition(".")[0])
    for folder in getattr(package, "__path__", ()):
        path = Path(folder) / "assets" / f"{getattr(build, 'name', '')}.safetensors"
        if path.is_file():
            return path
    return None


def encode_images(tokenizer: Tokenizer, images: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
    """`tokenizer.encode`, its result checked. Raises ValueError, naming the tokenizer, for a wrong shape or dtype."""
    tokens = tokenizer.encode(images, rng=rng)
    height, width = (side // tokenizer.downsample for side in images.shape[2:])
    discrete = tokenizer.kind == "discrete"
    expected = (len(images), height, width) if discrete else (len(images), tokenizer.channels, height, width)
    _require_tensor(tokenizer, "encode", tokens, expected)
    if not (tokens.dtype == torch.int64 if discrete else tokens.is_floating_point()):
        wanted = "int64 ids" if discrete else "floating-point latents"
        raise ValueError(f"tokenizer {tokenizer.name!r}: encode returned {tokens.dtype}; expected {wanted}")
    return tokens


def posterior(tokenizer: Tokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    """`tokenizer.moments`, its result checked: mean and deviation (B, C, h, w) before shift and scale.

    Raises ValueError, naming the tokenizer, for a wrong shape.
    """
    moments = tokenizer.moments(images)  # type: ignore[attr-defined]
    height, width = (side // tokenizer.downsample for side in images.shape[2:])
    for part in moments:
        _require_tensor(tokenizer, "moments", part, (len(images), tokenizer.channels, height, width))
    mean, deviation = moments
    return mean, deviation


def decode_tokens(tokenizer: Tokenizer, tokens: Tensor) -> Tensor:
    """`tokenizer.decode`, its result checked. Raises ValueError, naming the tokenizer, for a wrong shape."""
    images = tokenizer.decode(tokens)
    height, width = (side * tokenizer.downsample for side in tokens.shape[-2:])
    _require_tensor(tokenizer, "decode", images, (len(tokens), 3, height, width))
    return images


def shift_and_scale(tokenizer: Scaled) -> tuple[float | Tensor, float | Tensor]:
    """What a continuous tokenizer takes from its latents and multiplies them by: numbers, or tensors (C, 1, 1)."""
    return _by_channel(getattr(tokenizer, "shift", 0.0)), _by_channel(tokenizer.scale)


def _by_channel(value: float | Sequence[float] | Tensor) -> float | Tensor:
    """A number as it is; numbers a channel as a float32 tensor (C, 1, 1)."""
    if isinstance(value, (int, float)):
        return float(value)
    if getattr(value, "ndim", 1) == 0:
        return float(torch.as_tensor(value))
    return torch.as_tensor(value, dtype=torch.float32).view(-1, 1, 1)


def scaled(tokenizer: Scaled, latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) as a generator sees them: less the shift, times the scale."""
    shift, scale = (_beside(value, latents) for value in shift_and_scale(tokenizer))
    return (latents - shift) * scale if isinstance(shift, Tensor) or shift else latents * scale


def unscaled(tokenizer: Scaled, tokens: Tensor) -> Tensor:
    """The inverse of `scaled`."""
    shift, scale = (_beside(value, tokens) for value in shift_and_scale(tokenizer))
    return tokens / scale + shift if isinstance(shift, Tensor) or shift else tokens / scale


def _beside(value: float | Tensor, other: Tensor) -> float | Tensor:
    return value.to(other) if isinstance(value, Tensor) else value


def _require_tensor(tokenizer: Tokenizer, member: str, value: object, shape: tuple[int, ...]) -> None:
    found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if found != shape:
        raise ValueError(f"tokenizer {tokenizer.name!r}: {member} returned {found}; expected a tensor of shape {shape}")


def _construct(build: object, name: str, weights: Path | None, config: dict[str, Any]) -> Any:
    """Build a tokenizer from `config`, with `weights` where given; a failure is one line that names it."""
    make: Any = build
    positional: tuple[Path, ...] = ()
    if weights is not None:
        if not hasattr(build, "from_weights"):
            raise ValueError(f"tokenizer {name!r} cannot load {weights}: it has no from_weights(path)")
        make, positional = build.from_weights, (weights,)
    try:
        inspect.signature(make).bind(*positional, **config)
    except TypeError as error:
        raise ValueError(f"tokenizer {name!r} cannot be built: {error}") from None
    try:
        return make(*positional, **config)
    except (ValueError, OSError):
        raise
    except Exception as error:  # a stranger's constructor may raise anything
        raise ValueError(f"tokenizer {name!r} cannot be built: {type(error).__name__}: {error}") from error


def _place(tokenizer: Tokenizer, device: torch.device, dtype: torch.dtype) -> Tokenizer:
    """Move a tokenizer that is a module to device and dtype, in evaluation mode; any other is left as it is."""
    if isinstance(tokenizer, torch.nn.Module):
        return tokenizer.to(device=device, dtype=dtype).eval()
    return tokenizer
