"""The two models of a run, as chosen: generator and tokenizer, loaded, checked against each other and identified."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from arbench.generators.common.tokens import latent_size
from arbench.generators.spec import Preset
from arbench.images import imagenet
from arbench.machine.files import file_sha256
from arbench.machine.hardware import resolve_dtype
from arbench.machine.precision import (
    AUTO,
    FLOAT32,
    Precision,
    dtype_name,
    precision_of,
    resolve_precision,
    set_precision,
)
from arbench.protocols import Generator, Tokenizer
from arbench.runs.choice import RANDOM, Chosen, choose_files
from arbench.settings import Guidance, resolve_settings, stored_settings, warn_of_last_timesteps
from arbench.tokenizer.load import load_tokenizer
from arbench.weights.load import load_generator
from arbench.weights.provenance import describe_tokenizer, require_tokenizer

RANDOM_WEIGHTS_SEED = 0  # random weights are the same in every process and at every resume


class FileStamp(NamedTuple):
    """What tells that a file was written: another inode is another file, another time or size a changed one."""

    inode: int
    modified_ns: int
    size: int


def file_stamp(path: Path) -> FileStamp:
    """The stamp of a file that is there."""
    facts = path.stat()
    return FileStamp(inode=facts.st_ino, modified_ns=facts.st_mtime_ns, size=facts.st_size)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Generator and tokenizer of a run, and what a record says about them."""

    model: str
    preset: Preset | None
    generator: Generator
    tokenizer: Tokenizer
    tokenizer_name: str
    tokenizer_config: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any]  # the record's entry: files and SHA-256
    settings: Guidance  # every sampling setting, resolved; made once
    device: torch.device
    image_size: int  # height in pixels of the images that are kept
    decoded_size: int  # and of those that the tokenizer decodes
    stamps: dict[Path, FileStamp] = field(default_factory=dict)  # of the weights files, from before they were read

    def require_unchanged(self) -> None:
        """Raise ValueError where a weights file was written over since it was loaded.

        Weights are mapped into memory, so that such a write changes the running model. A file that was replaced by
        another one (a rename, as programs do) leaves the mapped one as it was.
        """
        for path, stamp in self.stamps.items():
            now = file_stamp(path) if path.exists() else stamp
            if now.inode == stamp.inode and now != stamp:
                raise ValueError(
                    f"{path} was written over while images were drawn with it, so they cannot be trusted; "
                    "delete the run folder and run again"
                )

    @property
    def precision(self) -> Precision:
        """What the generator computes in."""
        return precision_of(self.generator)

    @property
    def decode_dtype(self) -> torch.dtype:
        """What the tokenizer decodes in; float32 for one that is no torch module."""
        tokenizer: object = self.tokenizer
        return precision_of(tokenizer).kept if isinstance(tokenizer, nn.Module) else torch.float32

    @property
    def coarsest(self) -> torch.dtype:
        """The coarser of what generator and tokenizer compute in."""
        return max(self.precision.products, self.decode_dtype, key=lambda dtype: torch.finfo(dtype).eps)

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings by name, as records hold them."""
        return stored_settings(self.settings)

    @property
    def params_m(self) -> float:
        """Millions of generator parameters."""
        return sum(parameter.numel() for parameter in self.generator.parameters()) / 1e6


def load_parts(
    method: str | None = None,
    model: str | None = None,
    *,
    tokenizer: str | None = None,
    weights: str | Path | None = None,
    tokenizer_weights: str | Path | None = None,
    which: str = "ema",
    device: torch.device,
    dtype: str = AUTO,
    decode_dtype: str = FLOAT32,
    config: Mapping[str, Any] | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> Parts:
    """Load both models, resolve the sampling settings (given, else the preset's, else the defaults) and check the fit.

    `dtype` is the generator's precision by name, "auto" that which its release is evaluated in; `decode_dtype` the
    tokenizer's, at least float32 as well where the generator is in float64. Half precision shows in the images.
    Raises ValueError or OSError for unknown names, missing or broken files, settings out of range and a tokenizer that
    does not fit the generator.
    """
    chosen = choose_files(method, model, tokenizer, weights, tokenizer_weights, dict(tokenizer_config or {}))
    precision = resolve_precision(dtype, device, chosen.method.evaluated_in(chosen.preset))
    decoded_in = resolve_dtype(decode_dtype, "decode dtype")
    stamps = {file: file_stamp(file) for file in chosen.files}
    generator, decoder = _load_both(chosen, which, device, precision, config or {})
    decoder = in_dtype(chosen.tokenizer, decoder, decoded_in)
    # The settings of the run become the generator's own, so that they hold, and are warned of once.
    settings = resolve_settings(generator, sampling or {})
    warn_of_last_timesteps(generator, settings)
    generator.default_sampling = dataclasses.asdict(settings)
    size = check_fit(chosen.model, generator, chosen.tokenizer, decoder)
    return Parts(
        model=chosen.model,
        preset=chosen.preset,
        generator=generator,
        tokenizer=decoder,
        tokenizer_name=chosen.tokenizer,
        tokenizer_config=chosen.tokenizer_config,
        weights={
            "which": which,
            **weights_facts("", chosen.weights),
            **weights_facts("tokenizer_", chosen.tokenizer_weights),
        },
        settings=settings,
        device=device,
        image_size=(chosen.preset.evaluated_at if chosen.preset else None) or size,
        decoded_size=size,
        stamps=stamps,
    )


def _load_both(
    chosen: Chosen, which: str, device: torch.device, precision: Precision, config: Mapping[str, Any]
) -> tuple[Generator, Tokenizer]:
    """The two models; ValueError where the generator was trained on the tokens of another tokenizer."""
    name, settings = chosen.tokenizer, chosen.tokenizer_config
    decode_dtype = torch.promote_types(precision.kept, torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        generator = load_generator(
            chosen.model, weights=chosen.weights, which=which, device=device, dtype=precision.kept, **config
        )
        set_precision(generator, precision)
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        decoder = load_tokenizer(name, weights=chosen.tokenizer_weights, device=device, dtype=decode_dtype, **settings)
    generator.eval()
    trained_on_its_own = chosen.told is not None and chosen.told.tokenizer is not None
    if trained_on_its_own and str(chosen.tokenizer_weights) != RANDOM and device.type != "meta":
        file = None if chosen.tokenizer_weights is None else Path(chosen.tokenizer_weights)
        require_tokenizer(chosen.told, describe_tokenizer(name, decoder, file, settings))
    return generator, decoder


def in_dtype(name: str, tokenizer: Tokenizer, dtype: torch.dtype) -> Tokenizer:
    """`tokenizer` in `dtype`, in place; ValueError where that is half precision and it is no torch module.

    What computes in float64 for its generator stays so where float32 is asked for.
    """
    if dtype == torch.float32:
        return tokenizer
    if not isinstance(tokenizer, nn.Module):
        raise ValueError(
            f"tokenizer {name!r} is no torch module and decodes in no {dtype_name(dtype)}; "
            "expected --decode-dtype float32"
        )
    return tokenizer.to(dtype=dtype)


def check_fit(model: str, generator: Generator, tokenizer_name: str, tokenizer: Tokenizer) -> int:
    """The height of the decoded images in pixels. Raises ValueError where the tokenizer cannot decode the tokens."""
    if tokenizer.kind != generator.kind:
        raise ValueError(
            f"tokenizer {tokenizer_name!r} is {tokenizer.kind} but model {model!r} makes {generator.kind} tokens; "
            f"expected a {generator.kind} tokenizer"
        )
    member, what = ("vocab_size", "codes") if generator.kind == "discrete" else ("channels", "latent channels")
    made, known = getattr(generator, member), getattr(tokenizer, member)
    if made != known:
        raise ValueError(
            f"tokenizer {tokenizer_name!r} has {known} {what} but model {model!r} was made for {made}; "
            f"expected a tokenizer with {made}"
        )
    return latent_size(generator)[0] * tokenizer.downsample


def weights_facts(prefix: str, weights: str | Path | None) -> dict[str, Any]:
    """A record's entries for one weights file: its name and SHA-256; no hash for "random" or None."""
    if weights is None or str(weights) == RANDOM:
        return {f"{prefix}file": weights, f"{prefix}sha256": None}
    path = Path(weights)
    return {f"{prefix}file": path.name, f"{prefix}sha256": file_sha256(path)}


def class_names(parts: Parts) -> Sequence[str]:
    """A name for each class: ImageNet's where there are a thousand, else the class numbers."""
    if parts.generator.num_classes == imagenet.NUM_CLASSES:
        return imagenet.class_names()
    return [str(label) for label in range(parts.generator.num_classes)]
