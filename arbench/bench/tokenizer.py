"""Speed of a tokenizer alone: encode and decode per image, beside the same convolutions run bare."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arbench.machine.allocator import keep_freed_memory
from arbench.machine.hardware import describe_hardware, peak_memory_gib, resolve_device, synchronize, versions
from arbench.protocols import Tokenizer
from arbench.tokenizer.load import decode_tokens, encode_images, load_tokenizer

DEFAULT_SIZE = 256
REPEATS = 5
SEED = 0


def bench_tokenizer(
    name: str,
    *,
    weights: str | Path | None = None,
    image_size: int = DEFAULT_SIZE,
    batch_size: int = 1,
    device: str | torch.device = "auto",
    dtype: torch.dtype = torch.float32,
    repeats: int = REPEATS,
    **config: Any,
) -> dict[str, Any]:
    """Seconds per image of encode and decode, median of `repeats` after a warm-up, device synchronised.

    `bare` is the time of the same convolutions on inputs of the same shapes and layout, each alone and median of
    `repeats`, summed; `ratio` is how many times longer the whole takes. A tokenizer without convolutions has neither.
    Random weights are as fast as trained ones. Freed memory stays with the process (`keep_freed_memory`). Raises
    ValueError as `load_tokenizer` does, and for an image size that the tokenizer does not take.
    """
    keep_freed_memory()
    place = resolve_device(device) if isinstance(device, str) else device
    tokenizer = load_tokenizer(name, weights=weights, device=place, dtype=dtype, **config)
    rng = torch.Generator().manual_seed(SEED)
    images = torch.rand((batch_size, 3, image_size, image_size), generator=rng).mul(2).sub(1).to(place, dtype)
    tokens = encode_images(tokenizer, images)
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    phases = {
        "encode": _phase(tokenizer, lambda: encode_images(tokenizer, images), place, batch_size, repeats),
        "decode": _phase(tokenizer, lambda: decode_tokens(tokenizer, tokens), place, batch_size, repeats),
    }
    return {
        "tokenizer": name,
        "params_m": round(_num_parameters(tokenizer) / 1e6, 3),
        "image_size": image_size,
        "batch_size": batch_size,
        "dtype": str(dtype).removeprefix("torch."),
        "repeats": repeats,
        **phases,
        "peak_memory_gib": round(peak_memory_gib(place), 3),
        "hardware": describe_hardware(place),
        "versions": versions(),
    }


def _phase(
    tokenizer: Tokenizer, run: Callable[[], Tensor], device: torch.device, batch_size: int, repeats: int
) -> dict[str, float]:
    """Seconds per image of `run` and of its convolutions alone, and their ratio."""
    calls = convolutions(tokenizer, run) if isinstance(tokenizer, nn.Module) else []
    seconds = median_seconds(run, device, repeats) / batch_size
    if not calls:
        return {"seconds_per_image": seconds}
    bare = sum(_bare_seconds(layer, shape, device, repeats) for layer, shape in calls) / batch_size
    return {"seconds_per_image": seconds, "bare": bare, "ratio": seconds / bare}


def convolutions(module: nn.Module, run: Callable[[], Tensor]) -> list[tuple[nn.Conv2d, tuple[int, ...]]]:
    """Every convolution that `run` performs with layers of `module`, in order, with the shape of its input."""
    calls: list[tuple[nn.Conv2d, tuple[int, ...]]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: calls.append((layer, tuple(inputs[0].shape))))
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


@torch.no_grad()
def _bare_seconds(layer: nn.Conv2d, shape: tuple[int, ...], device: torch.device, repeats: int) -> float:
    """Seconds of one convolution by itself, channels last like the weights."""
    values = torch.randn(shape, device=device, dtype=layer.weight.dtype).to(memory_format=torch.channels_last)
    return median_seconds(
        lambda: F.conv2d(values, layer.weight, layer.bias, layer.stride, layer.padding), device, repeats
    )


def median_seconds(run: Callable[[], Tensor], device: torch.device, repeats: int) -> float:
    """The median of `repeats` timed calls after one that is not timed."""
    run()
    found = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def _num_parameters(tokenizer: Tokenizer) -> int:
    if not isinstance(tokenizer, nn.Module):
        return 0
    return sum(parameter.numel() for parameter in tokenizer.parameters())
