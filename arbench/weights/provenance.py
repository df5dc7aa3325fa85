"""Where weights come from: the model and the tokenizer that they were trained as, written into their file.

A file of arbench's own training says so in two entries of its header. Released checkpoints say nothing, and pass.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from arbench import __version__
from arbench.generators.common.config import as_grid
from arbench.generators.methods import method_names
from arbench.machine.files import file_sha256
from arbench.protocols import Generator, Tokenizer
from arbench.registry import nearest, tokenizer_entry_points
from arbench.validation import check, check_fields
from arbench.weights.keys import detect_family, find_family
from arbench.weights.read import read_tensors

MODEL, TOKENIZER, WRITER = "model", "tokenizer", "arbench"  # the entries of a file
ORIGIN = "origin"  # a torch checkpoint holds them together under this name
RANDOM = "random"
# Settings that change how weights are trained or run, not what they are weights of.
FREE = ("kv_cache", "dropout", "diffusion_batch_mul", "mask_ratio_deviation", "min_mask_ratio")
MEMBERS = ("kind", "downsample", "channels", "vocab_size", "scale", "shift", "version")
SHOWN_DIGITS = 12  # of a SHA-256 in a message


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """The tokenizer that a generator was trained on.

    `name` is what it was asked for by, `version` that of its package, `sha256` that of its weights file (of `content`
    where it has none). `content` is the SHA-256 of what it computes with: its tensors and its plain members; the same
    weights in a file of another format have the same. `file` is the weights file where one was given by hand, relative
    to the folder of the generator's weights; `config` what it was configured with.
    """

    name: str
    version: str | None
    sha256: str
    content: str
    file: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        told = f"version {self.version}, " if self.version else ""
        return f"{self.name!r} ({told}SHA-256 {self.sha256[:SHOWN_DIGITS]})"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a weights file says of itself: its method, the preset it started from (None for a family), the whole
    configuration of its generator, and its tokenizer."""

    path: Path
    method: str
    preset: str | None
    config: Mapping[str, Any]
    tokenizer: TokenizerFacts | None

    @property
    def name(self) -> str:
        """What `load_generator` calls these weights: their preset, else their family."""
        return self.preset or self.method

    @property
    def tokenizer_file(self) -> Path | None:
        """The tokenizer's own weights file where one was given by hand; None leaves it to the tokenizer's name."""
        file = self.tokenizer.file if self.tokenizer else None
        return None if file is None else Path(os.path.normpath(self.path.parent / file))

    def complete(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of the file with what is `asked` on top. Raises ValueError where the two contradict."""
        for name, value in asked.items():
            known = self.config.get(name, value)
            same = as_grid(known) == as_grid(value) if name == "grid" else known == value
            if not same and name not in FREE:
                raise ValueError(f"{self.path}: was trained with {name} {known}, not {value}")
        return {**self.config, **asked}


def describe_tokenizer(
    name: str, tokenizer: Tokenizer, file: Path | None, config: Mapping[str, Any], *, given: Path | None = None
) -> TokenizerFacts:
    """The facts of a loaded tokenizer; `file` are its weights, `given` how they are to be found again."""
    content = content_hash(tokenizer)
    return TokenizerFacts(
        name=name,
        version=tokenizer_version(name, tokenizer),
        sha256=content if file is None else file_sha256(file),
        content=content,
        file=None if given is None else given.as_posix(),
        config=dict(config),
    )


def tokenizer_version(name: str, tokenizer: Tokenizer) -> str | None:
    """The version a tokenizer states, else that of the package that installed it, else None."""
    own = getattr(tokenizer, "version", None)
    if own is not None:
        return str(own)
    entry = tokenizer_entry_points().get(name.partition(":")[0])
    return entry.dist.version if entry is not None and entry.dist is not None else None


def content_hash(tokenizer: Tokenizer) -> str:
    """SHA-256 of a tokenizer's plain members and of its tensors as float32; of its name too where it has no tensors."""
    members = {member: _plain(getattr(tokenizer, member, None)) for member in MEMBERS}
    state = tokenizer.state_dict() if isinstance(tokenizer, nn.Module) else {}
    if not state:
        members["name"] = tokenizer.name
    digest = hashlib.sha256(json.dumps(members, sort_keys=True, default=str).encode())
    for name, tensor in sorted(state.items()):
        values = tensor.detach().to("cpu", torch.float32) if tensor.is_floating_point() else tensor.detach().cpu()
        digest.update(name.encode())
        digest.update(values.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(value: object) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def entries(preset: str | None, generator: Generator, tokenizer: TokenizerFacts | None) -> dict[str, str]:
    """What a generator's file says of itself, as text entries of its header."""
    model = {"method": generator.method, "preset": preset, "config": dataclasses.asdict(generator.config)}
    told = {MODEL: model} if tokenizer is None else {MODEL: model, TOKENIZER: dataclasses.asdict(tokenizer)}
    return {**writer_entries(), **{name: json.dumps(value, sort_keys=True) for name, value in told.items()}}


def tokenizer_entries(tokenizer: TokenizerFacts) -> dict[str, str]:
    """What a tokenizer's own file says of itself."""
    return {**writer_entries(), TOKENIZER: json.dumps(dataclasses.asdict(tokenizer), sort_keys=True)}


def writer_entries() -> dict[str, str]:
    """The version of arbench that writes a file."""
    return {WRITER: __version__}


def own_entries(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Those entries of a file's metadata that say where its weights come from."""
    names = (WRITER, MODEL, TOKENIZER, "target", "training")
    held = metadata[ORIGIN] if isinstance(metadata.get(ORIGIN), dict) else metadata
    return {name: held[name] for name in names if isinstance(held.get(name), str)}


def read_provenance(weights: str | Path | None) -> Provenance | None:
    """What a weights file says of its origin; None for one that says nothing, for "random" and for None.

    Raises ValueError where the entries are damaged.
    """
    if weights is None or str(weights) == RANDOM or not Path(weights).is_file():
        return None
    path = Path(weights)
    told = own_entries(_read_metadata(path))
    if MODEL not in told:
        return None
    try:
        model, tokenizer = json.loads(told[MODEL]), json.loads(told.get(TOKENIZER, "null"))
        for name, hint in (("method", str), ("preset", str | None), ("config", Mapping)):
            check(name, model[name], hint)
        if tokenizer is not None:
            check_fields(TokenizerFacts, tokenizer, name=TOKENIZER)
        return Provenance(
            path=path,
            method=model["method"],
            preset=model["preset"],
            config={**model["config"], "grid": as_grid(model["config"]["grid"])},
            tokenizer=None if tokenizer is None else TokenizerFacts(**tokenizer),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: its entries of origin are damaged ({type(error).__name__}: {error})") from None


def _read_metadata(path: Path) -> Mapping[str, Any]:
    """Text entries of a file; none where its format has none, or where it is broken, which its loading tells."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return read_tensors(path).metadata if zipfile.is_zipfile(path) else {}


def require_method(told: Provenance | None) -> None:
    """Raise ValueError, with the ways out, where weights are of a method that is not installed here."""
    if told is None or told.method in method_names():
        return
    known = sorted(method_names())
    close = nearest(told.method, known)
    here = f"installed: {', '.join(known)}{f'; nearest: {close}' if close else ''}"
    raise ValueError(
        f"{told.path}: holds weights of method {told.method!r}, which is not installed; expected the package that "
        f"brings it, or --model module:Name of it ({here})"
    )


def family_of(names: Collection[str], path: Path) -> str:
    """The family of a file's tensors. Raises ValueError for none that is known, with the method that the file names
    where that is not installed."""
    if find_family(names) is None:
        require_method(read_provenance(path))
    return detect_family(names, str(path))


def require_tokenizer(told: Provenance | None, found: TokenizerFacts | None) -> None:
    """Raise ValueError, with the ways out, where weights are to be decoded by another tokenizer than their own."""
    if told is None or told.tokenizer is None or found is None or told.tokenizer.content == found.content:
        return
    own = told.tokenizer
    if own.name == found.name:
        way = f"--tokenizer-weights with the file of that SHA-256{f' ({own.file})' if own.file else ''}"
    else:
        way = f"--tokenizer {own.name}"
    raise ValueError(
        f"{told.path}: was trained on the tokens of {own}, which {found} cannot decode; "
        f"expected {way}, or weights trained on {found.name!r} (arbench train --tokenizer {found.name})"
    )


__all__ = [
    "ORIGIN",
    "Provenance",
    "TokenizerFacts",
    "content_hash",
    "describe_tokenizer",
    "entries",
    "family_of",
    "own_entries",
    "read_provenance",
    "require_method",
    "require_tokenizer",
    "tokenizer_entries",
    "writer_entries",
]
