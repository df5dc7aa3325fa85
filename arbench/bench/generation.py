"""Speed of one model: labels to uint8 images, one at a time and in batches, beside what the device could do at best.

Every result says its tier (`arbench.runs.tiers`): E0 bit-identical, E1 same algorithm with floats re-associated, E2
same distribution, A1 training-free approximation, A2 reduced precision, A3 other weights.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from arbench.bench.forecast import describe_launches
from arbench.bench.measure import WARM_UPS, Timing, summary, time_alternately, time_batch
from arbench.bench.rivals import find_rivals
from arbench.generators.methods import presets
from arbench.machine.hardware import describe_hardware, versions
from arbench.machine.peak import device_peak
from arbench.machine.precision import dtype_name
from arbench.machine.timing import PhaseTimer
from arbench.machine.work import Peak
from arbench.protocols import Generator
from arbench.runs.choice import RANDOM, find_tokenizer_weights
from arbench.runs.labels import make_labels
from arbench.runs.memory import LARGEST_BATCH, automatic_batch, estimate_memory
from arbench.runs.models import Parts
from arbench.runs.pipeline import Pipeline
from arbench.runs.roofline import Roofline, roofline
from arbench.runs.tiers import describe_tier, find_tier
from arbench.sampling.algorithm import draw_tokens
from arbench.sampling.engine import GRAPH_BATCHES, engine_name, make_engine
from arbench.sampling.schedules import one_schedule
from arbench.weights.cards import find_weights
from arbench.weights.provenance import Provenance

INCLUDES = "labels to uint8 images in host memory, guidance and decode included"
EXCLUDES = "loading, the warm-up batch (told apart), writing images"
DEFAULT_BATCH = {"cuda": 64, "mps": 16, "cpu": 8}
DEFAULT_SIZE = 256  # pixels a side that a tokenizer without a generator of its own is measured at


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the device could do at most, in the generator's dtype and in the decoder's; None where it is unknown."""

    generator: Peak | None
    decoder: Peak | None

    def beside(self, work: Roofline | None, timing: Timing) -> dict[str, float | None]:
        """The floor in seconds per image, and the shares of peak and of floor that were reached (1 is all of it).

        All None where the work or a peak is unknown.
        """
        if work is None or self.generator is None or self.decoder is None:
            return {"floor_seconds_per_image": None, "share_of_peak": None, "share_of_floor": None}
        peaks = {name: self.decoder if name == "decode" else self.generator for name in work.phases}
        at_peak = sum(work.phase_flops(name) / peak.flops for name, peak in peaks.items())
        floor = sum(work.floor(self.generator, self.decoder).values())
        return {
            "floor_seconds_per_image": floor,
            "share_of_peak": at_peak / timing.median,
            "share_of_floor": floor / timing.median,
        }


def weights_or_random(model: str) -> Path | str:
    """The weights of `model` on this machine, "random" where there are none: speed hardly depends on them."""
    found = find_weights(model)
    return found if found is not None and found.is_file() else RANDOM


def tokenizer_weights_or_random(tokenizer: str | None, model: str, told: Provenance | None = None) -> Path | str | None:
    """The weights of `tokenizer`, or of the one that belongs to the generator's file (`told`) or to `model`; "random"
    where they are not here. None leaves it to what the file says."""
    own = told.tokenizer.name if told is not None and told.tokenizer is not None else None
    preset = presets().get(model)
    name = tokenizer or own or (None if preset is None else preset.tokenizer)
    if name is None or (told is not None and name == own and told.tokenizer_file is not None):
        return None
    return find_tokenizer_weights(name, may_be_random=True)


def native_size(tokenizer: str) -> int:
    """Pixels a side of the smallest images of the presets that use `tokenizer`."""
    return min(
        (preset.image_size for preset in presets().values() if preset.tokenizer == tokenizer), default=DEFAULT_SIZE
    )


def bench_generation(
    parts: Parts,
    *,
    batch_size: int | str | None = None,
    repeats: int = 3,
    seed: int = 0,
    compare: bool = False,
    engine: str = "auto",
    launches: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time `parts` at batch 1 and at `batch_size` ("auto": what fits), as a dict that JSON holds.

    `launches` counts them, which takes seconds of a CPU. `compare` adds the ratio to the plain way of doing the same,
    measured alternately. Raises ValueError for a batch that does not fit and for `compare` where the model has no part
    with a plain counterpart.
    """
    chosen = engine_name(engine, parts.generator, GRAPH_BATCHES)  # "auto" as in a long run
    batch = choose_batch(parts, batch_size, chosen)
    if compare and not find_rivals(parts.generator):
        raise ValueError(f"model {parts.model!r} has neither a diffusion head nor a KV cache; expected no --compare")
    bounds = find_bounds(parts)
    measured = {}
    for size in sorted({1, batch}):
        say(f"batch {size}: {WARM_UPS[chosen]} to warm up, {repeats} repeats")
        measured[size] = bench_batch(
            parts, size, bounds=bounds, repeats=repeats, seed=seed, engine=chosen, launches=launches
        )
    return {
        **describe(parts, batch, bounds, seed),
        "engine": chosen,
        "latency": measured[1],
        "throughput": measured[batch],
        "compare": compare_rivals(parts, batch, repeats, seed, say) if compare else [],
    }


def bench_batch(
    parts: Parts,
    batch_size: int,
    *,
    bounds: Bounds,
    repeats: int,
    seed: int = 0,
    engine: str = "eager",
    launches: bool = True,
) -> dict[str, Any]:
    """The timing of one batch size by `engine` ("eager" or "graph"), its shares of `bounds`, and its launches.

    Raises ValueError where the batch does not fit.
    """
    work = roofline(parts.generator, parts.settings, parts.tokenizer, batch_size=batch_size)
    draw = make_draw(parts, batch_size, seed, engine)
    timing = time_batch(draw, batch_size, parts.device, repeats, WARM_UPS[engine])
    counted = describe_launches(parts, batch_size, work, (bounds.generator, bounds.decoder)) if launches else None
    return {**summary(timing), **bounds.beside(work, timing), "launches": counted}


def choose_batch(parts: Parts, asked: int | str | None, engine: str = "eager") -> int:
    """The batch of the throughput: as asked, "auto" for what fits into free memory, else the device's default."""
    if asked is None:
        return DEFAULT_BATCH[parts.device.type]
    if isinstance(asked, int):
        return asked
    estimate = estimate_memory(parts.generator, parts.tokenizer, parts.decoded_size, engine)
    return automatic_batch(estimate, parts.device, LARGEST_BATCH[parts.device.type])


def find_bounds(parts: Parts) -> Bounds:
    """The peaks of the device of `parts`."""
    generator = device_peak(parts.device, parts.precision.products)
    return Bounds(generator=generator, decoder=device_peak(parts.device, parts.decode_dtype))


def make_draw(parts: Parts, batch_size: int, seed: int, engine: str = "eager") -> Callable[[PhaseTimer], object]:
    """Draw a batch as `arbench run` does."""
    pipeline = Pipeline(
        generator=parts.generator,
        tokenizer=parts.tokenizer,
        labels=make_labels(batch_size, parts.generator.num_classes),
        settings=parts.settings,
        seed=seed,
        device=parts.device,
        image_size=parts.image_size,
        engine=make_engine(engine, parts.generator),
    )
    return lambda timer: pipeline.draw(range(batch_size), timer)


def compare_rivals(
    parts: Parts, batch_size: int, repeats: int, seed: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Our generation beside each plain one, without decoding: medians of alternate runs, and their ratio."""
    results = []
    for rival in find_rivals(parts.generator, parts.sampling.get("head_sampler")):
        say(f"{rival.name}: {repeats} alternate pairs at batch {batch_size}")
        ways = [make_generation(parts, generator, batch_size, seed) for generator in (parts.generator, rival.generator)]
        ours, plain = time_alternately(ways, parts.device, repeats)
        results.append(compare_seconds(rival.name, batch_size, ours, plain))
    return results


def compare_seconds(
    name: str, batch_size: int, ours: Sequence[float], plain: Sequence[float], tier: str = "E1"
) -> dict[str, Any]:
    """Two lists of seconds per batch as medians per image and their ratio, above 1 where ours is faster."""
    fast, slow = statistics.median(ours), statistics.median(plain)
    pairs = [after / before for before, after in zip(ours, plain, strict=True)]
    return {
        "against": name,
        "tier": tier,
        "batch_size": batch_size,
        "pairs": len(pairs),
        "seconds_per_image": fast / batch_size,
        "against_seconds_per_image": slow / batch_size,
        "ratio": slow / fast,
        "ratio_min": min(pairs),
        "ratio_max": max(pairs),
    }


def make_generation(parts: Parts, generator: Generator, batch_size: int, seed: int) -> Callable[[PhaseTimer], object]:
    labels = torch.from_numpy(make_labels(batch_size, parts.generator.num_classes)).to(parts.device)
    return lambda timer: draw_tokens(generator, labels, settings=parts.settings, seed=seed, timer=timer)


def describe(parts: Parts, batch_size: int, bounds: Bounds, seed: int) -> dict[str, Any]:
    """What was measured, on what, and its operations."""
    work = roofline(parts.generator, parts.settings, parts.tokenizer, batch_size=batch_size)
    own = parts.preset.sampling if parts.preset else {}
    tier = find_tier(parts.sampling, parts.generator.sampling_type, own, parts.coarsest)
    peak = bounds.generator
    return {
        "benchmark": "generation",
        "method": parts.generator.method,
        "model": parts.model,
        "params_m": round(parts.params_m, 3),
        "tokenizer": parts.tokenizer_name,
        "weights": parts.weights,
        "sampling": parts.sampling,
        "seed": seed,
        "image_size": parts.image_size,
        "steps": one_schedule(parts.generator, parts.settings).num_passes,
        "tier": tier,
        "tier_meaning": describe_tier(tier),
        "flops_per_image": work and work.flops_per_image,
        "flops_per_image_by_phase": work and {name: work.phase_flops(name) for name in work.phases},
        "peak": peak and {"flops_per_second": peak.flops, "bytes_per_second": peak.bandwidth, "source": peak.source},
        "hardware": {
            **describe_hardware(parts.device),
            "dtype": parts.precision.name,
            "decode_dtype": dtype_name(parts.decode_dtype),
        },
        "versions": versions(),
        "includes": INCLUDES,
        "excludes": EXCLUDES,
    }
