"""How fast a generator trains here: steps of the real training on random tokens, images a second and MFU."""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arbench.generators.common.tokens import latent_size
from arbench.generators.methods import get_method, get_preset
from arbench.generators.recipe import Augmentation, TrainConfig
from arbench.machine.files import write_whole
from arbench.machine.hardware import describe_hardware, peak_memory_gib, reset_peak_memory, versions
from arbench.machine.peak import device_peak
from arbench.machine.timing import PhaseTimer
from arbench.protocols import Generator
from arbench.training.cache import LABELS_NAME, SPEC_NAME, CacheSpec, TokenCache, shard_name
from arbench.training.engine import Engine
from arbench.training.loop import Trainer
from arbench.training.parts import undisturbed
from arbench.training.plan import image_flops
from arbench.training.tasks import GeneratorTask
from arbench.weights.load import RANDOM, load_generator

IMAGES = 1024  # of the cache, read in a random order as any other is


def train_speed(
    model: str,
    *,
    batch_size: int,
    device: torch.device,
    steps: int = 20,
    warm_up: int = 5,
    engine: Engine | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Time `steps` training steps of a preset with its recipe, after `warm_up` ones that do not count.

    Weights and tokens are random; dtype, compiling and dropout are the recipe's where nothing else is asked for. MFU is
    the share of the device's peak that the counted operations reach, None where no peak is known. Raises ValueError for
    an unknown model or one without a recipe.
    """
    engine, config = engine or Engine(), speed_config(model, batch_size, warm_up + steps, dtype)
    torch.manual_seed(config.seed)
    generator = load_generator(model, weights=RANDOM, device=device)
    reset_peak_memory(device)
    with tempfile.TemporaryDirectory() as folder:
        task = GeneratorTask(generator, random_cache(generator, Path(folder)), config)
        trainer = Trainer(task, config, engine=engine)
        first = step_seconds(trainer, 1)
        step_seconds(trainer, warm_up - 1)
        seconds = step_seconds(trainer, steps)
        loss = float(trainer.one_step()["loss"])
    rate = batch_size * len(seconds) / sum(seconds)
    flops = image_flops(get_preset(model).method, generator.config)
    peak = device_peak(device, getattr(torch, config.dtype))
    return {
        "model": model,
        "images_per_second": rate,
        "mfu": rate * flops / peak.flops if peak else None,
        "median_step_seconds": statistics.median(seconds),
        "slowest_step_seconds": max(seconds),
        "first_step_seconds": first[0],
        "steps": steps,
        "warm_up": warm_up,
        "batch_size": batch_size,
        "dtype": config.dtype,
        "compiled": engine.compiles(config, device),
        "recompute": engine.recompute,
        "flops_per_image": flops,
        "peak": peak and {"flops_per_second": peak.flops, "source": peak.source},
        "peak_memory_gib": peak_memory_gib(device),
        "loss": loss,
        "hardware": describe_hardware(device),
        "versions": versions(),
    }


def speed_config(model: str, batch_size: int, steps: int, dtype: str | None) -> TrainConfig:
    """The recipe of a preset for `steps` steps of one micro-batch each."""
    preset = get_preset(model)
    method = get_method(preset.method)
    recipe = method.trained_by(preset)
    if recipe is None:
        raise ValueError(f"model {model!r}: method {method.name!r} has no training recipe")
    length = dataclasses.replace(recipe, steps=steps, epochs=0.0, warmup_epochs=0.0)
    batch = dataclasses.replace(length, batch_size=batch_size, micro_batches=0, dtype=dtype or recipe.dtype)
    return batch.for_images(IMAGES)


def recipe_step_seconds(
    model: str, config: TrainConfig, given: Mapping[str, Any], device: torch.device, steps: int
) -> float:
    """Median seconds of `steps` steps of `model`, configured as `given`, after one that does not count.

    Weights and tokens are random; the caller's random state is left as it was.
    """
    with undisturbed(device), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(config.seed)
        generator = load_generator(model, weights=RANDOM, device=device, **given)
        task = GeneratorTask(generator, random_cache(generator, Path(folder)), config.for_images(IMAGES))
        trainer = Trainer(task, config.for_images(IMAGES))
        return statistics.median(step_seconds(trainer, 1 + steps)[1:])


def step_seconds(trainer: Trainer, count: int) -> list[float]:
    """Seconds of each of `count` steps on the device's own clock; nothing waits in between."""
    timer = PhaseTimer(trainer.device)
    for number in range(count):
        with timer.phase(str(number)):
            trainer.one_step()
    return list(timer.seconds().values())


def random_cache(generator: Generator, folder: Path) -> TokenCache:
    """A token cache of random codes or moments that fit `generator`, written to `folder` as a built one is."""
    random, sides = np.random.default_rng(0), latent_size(generator)
    shape: tuple[int, ...]
    if generator.kind == "discrete":
        content, shape = "codes", sides
        tokens = random.integers(generator.config.vocab_size, size=(IMAGES, 1, *shape), dtype=np.uint16)
    else:
        content, shape = "moments", (2 * generator.config.channels, *sides)
        tokens = random.random((IMAGES, 1, *shape), dtype=np.float32).astype(np.float16)
    spec = CacheSpec(
        tokenizer=RANDOM,
        tokenizer_hash=RANDOM,
        data=RANDOM,
        num_images=IMAGES,
        views=1,
        augmentation=Augmentation(),
        seed=0,
        content=content,
        dtype=tokens.dtype.name,
        shape=shape,
        scale=1.0,
    )
    np.save(folder / shard_name(0), tokens)
    np.save(folder / LABELS_NAME, random.integers(generator.config.num_classes, size=IMAGES))
    write_whole(folder / SPEC_NAME, json.dumps(dataclasses.asdict(spec)))
    return TokenCache(folder)
