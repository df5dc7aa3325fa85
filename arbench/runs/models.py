"""From names to the two models of a run: generator and tokenizer, loaded, checked against each other and identified."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from arbench.generators.common.tokens import patch_side
from arbench.generators.methods import get_method, get_preset, method_by_module, method_names, presets
from arbench.generators.spec import Method, Preset
from arbench.images import imagenet
from arbench.machine.files import file_sha256
from arbench.machine.hardware import resolve_dtype
from arbench.machine.layout import store_for_few_rows
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
from arbench.registry import unknown_name
from arbench.settings import Guidance, resolve_settings, warn_of_last_timesteps
from arbench.tokenizer.load import load_tokenizer
from arbench.weights.cards import cards_for, find_weights, how_to_get
from arbench.weights.load import load_generator
from arbench.weights.provenance import Provenance, describe_tokenizer, read_provenance, require_tokenizer

DEFAULT_METHOD = "mar"
RANDOM = "random"
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
    image_size: int  # pixels a side of the images that are kept
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
        return dataclasses.asdict(self.settings)

    @property
    def params_m(self) -> float:
        """Millions of generator parameters."""
        return sum(parameter.numel() for parameter in self.generator.parameters()) / 1e6


def choose_model(method: str | None, model: str | None, told: Provenance | None = None) -> str:
    """The generator that `method` and `model` name together; where no model is given, what the weights say that they
    are (`told`), else the embedded digits model.

    `model` is a preset, a method, or `module:Name` of a method that is not installed.

    Raises ValueError for an unknown method or model, and where they disagree.
    """
    spec = get_method(method or DEFAULT_METHOD)  # tells the nearest, or what is wrong with a plug-in
    if model is None and told is not None and method in (None, told.method):
        return told.name if told.name in presets() else told.method
    if model is None and told is not None and told.method not in spec.borrows:
        raise ValueError(f"{told.path}: holds {told.method} weights; expected --method {told.method}, not {method}")
    if model is None:
        return _stands_for(spec)
    if ":" in model:
        named = method_by_module(model)
        found, model = named.name, _stands_for(named)
    elif model in presets():
        found = get_preset(model).method
    elif model in method_names():
        found = model
    else:
        raise unknown_name("model", model, (*presets(), *method_names()))
    if method is not None and found != method:
        raise ValueError(f"model {model!r} is of method {found!r}, not {method!r}; expected --method {found}")
    return model


def _stands_for(method: Method) -> str:
    """What a method alone means: its preset of the digits, or its first, or where it has none itself."""
    return method.name if method.default_preset is None else method.default_preset.name


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
    few_rows: bool = False,
    config: Mapping[str, Any] | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> Parts:
    """Load both models, resolve the sampling settings (given, else the preset's, else the defaults) and check the fit.

    `dtype` is the generator's precision by name, "auto" that which its release is evaluated in; `decode_dtype` the
    tokenizer's, at least float32 as well where the generator is in float64. Half precision shows in the images.
    `few_rows` lays weights on a CPU out for products of one or two rows (`arbench.machine.layout`).
    Raises ValueError or OSError for unknown names, missing or broken files, settings out of range and a tokenizer that
    does not fit the generator.
    """
    chosen = choose_files(method, model, tokenizer, weights, tokenizer_weights, dict(tokenizer_config or {}))
    precision = resolve_precision(dtype, device, chosen.method.evaluated_in(chosen.preset))
    decoded_in = resolve_dtype(decode_dtype, "decode dtype")
    stamps = {file: file_stamp(file) for file in chosen.files}
    generator, decoder = _load_both(chosen, which, device, precision, config or {})
    decoder = in_dtype(chosen.tokenizer, decoder, decoded_in)
    if few_rows:
        lay_out_for_few_rows(generator, device)
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


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which generator and tokenizer, from which weights: files, "random", or None for a tokenizer that has its own."""

    model: str
    preset: Preset | None
    weights: str | Path
    told: Provenance | None  # what the generator's file says of itself
    tokenizer: str
    tokenizer_weights: str | Path | None
    tokenizer_config: dict[str, Any]

    @property
    def method(self) -> Method:
        """Of the model."""
        return get_method(self.preset.method if self.preset else self.model)

    @property
    def files(self) -> list[Path]:
        """The weights that are files."""
        both = (self.weights, self.tokenizer_weights)
        return [Path(file) for file in both if file is not None and str(file) != RANDOM]


def choose_files(
    method: str | None,
    model: str | None,
    tokenizer: str | None,
    weights: str | Path | None,
    tokenizer_weights: str | Path | None,
    tokenizer_config: dict[str, Any],
) -> Chosen:
    """What is to be loaded: what was given, else what the generator's file says it was trained with, else the preset's.

    Raises ValueError or OSError as `load_parts` does, before a model is made.
    """
    told = read_provenance(weights)
    name = choose_model(method, model, told)
    preset = presets().get(name)
    if weights is None:
        weights = find_generator_weights(name)
        told = read_provenance(weights)
    own = told.tokenizer if told else None
    chosen = tokenizer or (own.name if own else None) or (preset.tokenizer if preset else None)
    if chosen is None:
        raise ValueError(f"model {name!r} is a family without a tokenizer of its own; expected --tokenizer NAME")
    require_released_tokenizer(name, preset, weights, chosen, told)
    if own is not None and chosen == own.name and not tokenizer_config:
        tokenizer_config = dict(own.config)
    if tokenizer_weights is None:
        tokenizer_weights = given_by_hand(told, chosen)
    if tokenizer_weights is None:
        tokenizer_weights = find_tokenizer_weights(chosen, may_be_random=str(weights) == RANDOM)
    return Chosen(
        model=name,
        preset=preset,
        weights=weights,
        told=told,
        tokenizer=chosen,
        tokenizer_weights=tokenizer_weights,
        tokenizer_config=tokenizer_config,
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


def lay_out_for_few_rows(generator: Generator, device: torch.device) -> None:
    """Weights for products of one or two rows, in place. Raises ValueError on another device than a CPU."""
    if device.type != "cpu":
        raise ValueError(f"few_rows lays weights out for a CPU, not for {device.type}; expected --device cpu with it")
    model: object = generator
    assert isinstance(model, nn.Module)
    store_for_few_rows(model)


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
    """The side of the decoded images in pixels. Raises ValueError where the tokenizer cannot decode the tokens."""
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
    return generator.grid[0] * patch_side(generator) * tokenizer.downsample


def given_by_hand(told: Provenance | None, tokenizer: str) -> Path | None:
    """The tokenizer's file that was given when the weights were trained, None where it goes by its name.

    Raises ValueError where that file is no longer there.
    """
    if told is None or told.tokenizer is None or told.tokenizer_file is None or told.tokenizer.name != tokenizer:
        return None
    if not told.tokenizer_file.is_file():
        raise ValueError(
            f"{told.path}: was trained with the tokenizer file {told.tokenizer_file}, which is not there; "
            f"expected --tokenizer-weights FILE with SHA-256 {told.tokenizer.sha256}"
        )
    return told.tokenizer_file


def require_released_tokenizer(
    model: str, preset: Preset | None, weights: str | Path, tokenizer: str, told: Provenance | None
) -> None:
    """Raise ValueError where a release's own file, which says nothing of its tokenizer, is given another one."""
    if told is not None or preset is None or tokenizer == preset.tokenizer:
        return
    released = [card for card in cards_for(model) if Path(weights).as_posix().endswith(card.file)]
    if released:
        raise ValueError(
            f"{weights}: the released weights of {model!r} were trained on the tokens of {preset.tokenizer!r}, which "
            f"{tokenizer!r} cannot decode; expected --tokenizer {preset.tokenizer}, or other --weights"
        )


def find_generator_weights(name: str) -> Path:
    """The weights of `name` on this machine: shipped or downloaded. Raises ValueError where there are none."""
    found = find_weights(name)
    if found is None:
        raise ValueError(f"model {name!r}: {lacking_weights('--weights', name)}")
    return found


def find_tokenizer_weights(name: str, *, may_be_random: bool) -> Path | str | None:
    """The weights of tokenizer `name` on this machine, None for a stranger's that sees to its own.

    Raises ValueError for an unknown tokenizer, and for a released one whose file is not here, unless it may be random.
    """
    found = find_weights(name)
    if found is not None or not cards_for(name):
        return found
    if may_be_random:
        return RANDOM
    raise ValueError(f"tokenizer {name!r}: {lacking_weights('--tokenizer-weights', name)}")


def lacking_weights(option: str, name: str) -> str:
    """What to do about weights that are not here."""
    cards = cards_for(name)
    hint = f" ({how_to_get(cards[0])})" if cards else ""
    return f"no weights on this machine; expected {option} FILE{hint}, or {option} random to try the code"


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
