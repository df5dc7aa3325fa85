"""What a row of a table will cost before it runs: hours from the roofline, memory from the sampler's own estimate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from arbench.generators.common.tokens import latent_size
from arbench.generators.methods import get_method, get_preset
from arbench.machine.peak import gpu_peak
from arbench.machine.precision import precision_of, resolve_precision, set_precision
from arbench.registry import tokenizer_entry_points
from arbench.runs.memory import estimate_memory
from arbench.runs.roofline import roofline
from arbench.settings import resolve_settings
from arbench.tokenizer.load import find_tokenizer
from arbench.weights.load import load_generator

DEVICE = "A100"
# Of the bound that the roofline sets. Published systems reach 2 to 40 % of it; ours are to lie at the upper end.
SHARE_OF_BOUND = 0.25


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations and estimated seconds of one image on one A100, and GiB that a batch needs.

    None is what the method does not tell.
    """

    flops_per_image: float | None
    seconds_per_image: float | None
    memory_gib: float | None

    def hours(self, num_images: int) -> float | None:
        """Hours for so many images."""
        if self.seconds_per_image is None:
            return None
        return num_images * self.seconds_per_image / 3600


def estimate_cost(
    model: str,
    config: dict[str, Any],
    sampling: dict[str, Any],
    tokenizer: str | None,
    dtype: str,
    batch_size: int,
) -> Cost:
    """The cost of sampling a preset with `config` and `sampling` on top of its own, decoder included.

    Models are built without values, so that a generator of any size takes no memory. Raises ValueError for a
    configuration or setting that the preset cannot have.
    """
    generator = _generator(model, json.dumps(config), dtype)
    settings = resolve_settings(generator, sampling)
    decoder = _decoder(tokenizer) if tokenizer else None
    bound = roofline(generator, settings, decoder, batch_size=batch_size)
    peak = gpu_peak(DEVICE, precision_of(generator).products)
    assert peak is not None
    side = get_preset(model).image_size if decoder is None else latent_size(generator)[0] * decoder.downsample
    # The engine is that of `--engine auto` in long runs on a GPU.
    memory = estimate_memory(generator, decoder, side, "graph", settings=settings)
    return Cost(
        flops_per_image=None if bound is None else bound.flops_per_image,
        seconds_per_image=None if bound is None else sum(bound.floor(peak).values()) / SHARE_OF_BOUND,
        memory_gib=None if memory is None else memory.gib(batch_size),
    )


@cache
def _generator(model: str, config: str, dtype: str) -> Any:
    """The generator without values; `config` is JSON, so that rows of one shape share it."""
    preset = get_preset(model)
    generator = load_generator(model, weights="random", device="meta", **json.loads(config))
    own = get_method(preset.method).evaluated_in(preset)
    set_precision(generator, resolve_precision(dtype, torch.device("cuda"), own))
    return generator


@cache
def _decoder(name: str) -> Any:
    """The tokenizer called `name` without values, None where it is no installed plug-in."""
    if name not in tokenizer_entry_points():
        return None
    with torch.device("meta"):
        return find_tokenizer(name)()
