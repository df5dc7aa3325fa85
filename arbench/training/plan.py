"""What a training will take, told before anything is encoded: steps, images, hours, and memory a process."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from arbench.generators.methods import get_method, get_preset, methods
from arbench.generators.recipe import TrainConfig
from arbench.generators.spec import TrainingSpeed
from arbench.machine.peak import GPU_MEMORY, gpu_peak
from arbench.protocols import Generator
from arbench.training.encoding import Encoding, count_encoding
from arbench.training.engine import Engine, to_be_sharded
from arbench.training.parts import number_of_parts
from arbench.weights.configure import build_generator
from arbench.weights.load import without_memory

GIB = 2**30
WIDTH = 80  # of the plan's lines
FLOAT = 4  # bytes of a weight, a gradient, an average, and each of Adam's two moments
BACKWARD = 2  # operations of the backward pass for one of the forward pass


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The figures of one training; bytes are those of the process that holds most, `activations` None where
    the method tells none."""

    model: str
    parameters: int
    config: TrainConfig
    processes: int
    parts: int
    sharded: bool
    weights: int
    gradients: int
    average: int
    activations: int | None
    tokenizer: int = 0  # a frozen one, that encodes on the way
    remedies: tuple[str, ...]  # against too little memory: those that help
    hours: float | None
    hours_of: str = ""

    @property
    def num_bytes(self) -> int | None:
        """Weights, gradients, two moments, average, tokenizer and activations; None where the last are not known."""
        if self.activations is None:
            return None
        return 3 * self.weights + self.gradients + self.average + self.tokenizer + self.activations

    def lines(self, device: torch.device | None) -> Iterator[str]:
        """The plan in lines of a terminal; what fits is said of `device`'s memory, of usual GPUs' where it is None."""
        for sentence in self.sentences(device):
            yield from textwrap.wrap(
                sentence, WIDTH, initial_indent="plan: ", subsequent_indent="      ", break_on_hyphens=False
            )

    def sentences(self, device: torch.device | None) -> Iterator[str]:
        """What is to be said, in words."""
        config, each = self.config, self.config.batch_size // self.parts
        images = config.steps * config.batch_size
        yield (
            f"{self.model}, {self.parameters / 1e6:.0f} M parameters, {config.steps:,} steps of "
            f"{config.batch_size} = {images:,} images ({images / max(1, config.images):.4g} epochs), {rate(config)}"
        )
        how = ("FSDP2" if self.sharded else "DDP") if self.processes > 1 else "one process"
        turns = self.parts // self.processes
        yield (
            f"{self.processes} x {turns} micro-batches of {each} images a step ({how}), {config.dtype}; "
            + (f"about {self.hours:,.0f} hours at {self.hours_of}" if self.hours else "hours not known")
        )
        yield f"memory a process: {self._memory()}{self._fits(device)}"
        if device is None:
            yield self.cards()

    def _memory(self) -> str:
        told = {
            "weights": self.weights,
            "gradients": self.gradients,
            "moments": 2 * self.weights,
            "average": self.average,
            **({"tokenizer": self.tokenizer} if self.tokenizer else {}),
            "activations": self.activations,
        }
        return " + ".join(f"{name} {'-' if size is None else f'{size / GIB:.1f}'}" for name, size in told.items())

    def _fits(self, device: torch.device | None) -> str:
        if self.num_bytes is None:
            return " GiB; activations not known"
        there = None if device is None else memory_of(device)
        said = f" = {self.num_bytes / GIB:.1f} GiB"
        if there is None:
            return said
        if self.num_bytes <= there:
            return f"{said}: fits into {there / GIB:.0f} GiB"
        return f"{said}: does not fit into {there / GIB:.0f} GiB{self._helping()}"

    def _helping(self) -> str:
        return f"; {', '.join(self.remedies)}" if self.remedies else ""

    def cards(self) -> str:
        """Which usual GPUs hold it, in one line."""
        size, cards = self.num_bytes, {f"{card} {gigabytes} GB": gigabytes for card, gigabytes in GPU_MEMORY}
        if size is None:
            return "fits: not known"
        fitting = [card for card, gigabytes in cards.items() if size <= gigabytes * 10**9]
        if not fitting:
            return f"fits none of {', '.join(cards)}{self._helping()}"
        return f"fits {', '.join(fitting)}"


def rate(config: TrainConfig) -> str:
    """The learning rate over a training, in words."""
    warm_up = f" after {config.warmup:,.0f} steps of warm-up" if config.warmup else ""
    last = config.learning_rate * config.final_rate
    law = "constant" if config.schedule == "constant" else f"a cosine to {last:.4g}"
    return f"learning rate {config.learning_rate:.4g}{warm_up}, {'then ' if warm_up else ''}{law}"


def plan_training(
    model: str,
    config: TrainConfig,
    processes: int,
    engine: Engine,
    given: Mapping[str, Any],
    encoding: Encoding | None = None,
) -> TrainingPlan:
    """The plan of training `model`, configured as `given`, with a recipe whose steps are known (`for_images`).

    `encoding` of images on the way is over before a micro-batch has activations; None where tokens are cached.
    """
    preset = get_preset(model)
    generator = empty_generator(preset.method, {**preset.config, **given})
    assert isinstance(generator, nn.Module)
    parameters = sum(weight.numel() for weight in generator.parameters())
    sharded = processes > 1 and to_be_sharded(generator, engine)
    weights, whole = FLOAT * fullest_share(generator, processes if sharded else 1), FLOAT * parameters
    parts = number_of_parts(config, processes)
    turns, each = parts // processes, config.batch_size // parts
    gradients = whole if sharded and turns > 1 else weights  # `engine.reducing`
    kept, fewer = (activation_bytes(generator, config, how, each) for how in (engine, replace(engine, recompute=True)))
    remedies = list(fewer_activations(kept, fewer, each, whole - weights if sharded and turns == 1 else 0))
    if kept and gradients > weights and gradients - weights > (turns - 1) * kept:
        remedies.append("--accumulate 1 keeps a share of the gradients rather than all")
    if processes > 1 and not sharded:
        remedies.append("--shard shares weights among processes")
    hours, hours_of = published_hours(generator, config, processes, encoding)
    if kept is not None and encoding is not None:
        kept = max(kept, each * encoding.image_bytes)
    return TrainingPlan(
        model=model,
        parameters=parameters,
        config=config,
        processes=processes,
        parts=parts,
        sharded=sharded,
        weights=weights,
        gradients=gradients,
        average=weights if config.ema_rate else 0,
        tokenizer=0 if encoding is None else encoding.weights,
        activations=kept,
        remedies=tuple(remedies),
        hours=hours,
        hours_of=hours_of,
    )


def fewer_activations(kept: int | None, recomputed: int | None, each: int, cost: int = 0) -> Iterator[str]:
    """Remedies for activations of so many bytes, of a micro-batch of `each` images: those that make them fewer.

    `cost` is what accumulation takes where there was none.
    """
    if kept and recomputed and recomputed < kept:
        yield "--recompute keeps fewer activations"
    if kept and each > 1 and kept - kept // each > cost:
        yield "--accumulate makes smaller micro-batches"


def fullest_share(model: nn.Module, processes: int) -> int:
    """Weights of the first process, which has most: FSDP2 deals the rows of every tensor, of which some have few."""
    sizes = (weight.shape for weight in model.parameters())
    return sum(math.ceil(rows / processes) * math.prod(rest) for rows, *rest in sizes)


def activation_bytes(generator: Generator, config: TrainConfig, engine: Engine, images: int) -> int | None:
    """What a micro-batch keeps for the backward pass, about; None where its method does not tell."""
    told = get_method(generator.method).training_memory
    return None if told is None else images * told(generator, config.dtype == "bfloat16", engine.recompute)


def published_hours(
    generator: Generator, config: TrainConfig, processes: int, encoding: Encoding | None = None
) -> tuple[float | None, str]:
    """Hours at the speed that was published for a model of the same method, by counted operations where it is another.

    `encoding` on the way is told by its operations too. None where nobody has published any.
    """
    spec = get_method(generator.method)
    told_by = (spec, *methods().values())
    known = next((method.training_speed for method in told_by if method.training_speed), None)
    if known is None:
        return None, ""
    peer = get_preset(known.preset)
    slower, of = 1.0, f"as published for {known.preset}"
    if (spec.name, generator.config) != (peer.method, get_method(peer.method).config(**peer.config)):
        reference = get_method(peer.method).config(**peer.config)
        slower = image_flops(spec.name, generator.config) / image_flops(peer.method, reference)
        of = f"by operations, from {known.preset}'s"
    seconds, source = slower / known.images_per_second, known.source
    if encoding is not None:
        further = encoding_seconds(known, encoding)
        if further is None:
            return None, ""
        seconds, source = seconds + further, known.encoding_source
    speed = processes / seconds
    told = f"{speed:,.0f} images/s on {processes} {known.device} ({of}: {source})"
    return config.steps * config.batch_size / speed / 3600, told


def encoding_seconds(known: TrainingSpeed, encoding: Encoding) -> float | None:
    """What encoding on the way adds to an image's time, by operations; None where nobody has published any."""
    peer = get_preset(known.preset)
    usual = count_encoding(str(peer.tokenizer), peer.image_size)
    if known.encoding is None or not usual.flops or encoding.flops is None:
        return None
    return (1 / known.encoding - 1 / known.images_per_second) * encoding.flops / usual.flops


def empty_generator(method: str, config: dict[str, Any]) -> Generator:
    """A generator without memory and values. Raises ValueError where the configuration is none of the method's."""
    with without_memory():
        return build_generator(method, config)


@lru_cache
@torch.no_grad()
def image_flops(method: str, config: Hashable) -> float:
    """Operations of a training step an image, two a multiply-add, counted on a model without memory."""
    with without_memory():
        generator = get_method(method).model(config)
    labels = torch.zeros(1, dtype=torch.int64, device="meta")
    rows, columns = generator.grid
    if generator.kind == "discrete":
        tokens = torch.zeros(1, rows, columns, dtype=torch.int64, device="meta")
    else:
        patch = getattr(generator.config, "patch_size", 1)
        tokens = torch.zeros(1, generator.config.channels, rows * patch, columns * patch, device="meta")
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        torch.manual_seed(0)  # of MAR's mask ratio: 0.87, which is its mean
        generator.loss(tokens, labels)
    return (1 + BACKWARD) * counter.get_total_flops()


def memory_of(device: torch.device) -> int | None:
    """Bytes of a device, or of this machine; None where they are not told."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def share_of_peak(model: nn.Module, dtype: str, processes: int, device: torch.device) -> float | None:
    """What training on one image a second is of all devices' peak (MFU): counted operations over the data sheet's.

    None for what is no generator, cannot be counted without memory, or runs on a device that has no data sheet here.
    """
    if device.type != "cuda" or not hasattr(model, "method"):
        return None
    peak = gpu_peak(torch.cuda.get_device_properties(device).name, getattr(torch, dtype))
    if peak is None:
        return None
    try:
        return image_flops(str(model.method), model.config) / (peak.flops * processes)
    except RuntimeError:
        return None
