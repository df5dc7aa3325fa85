"""Approximate ways of drawing beside the exact one: how much faster each is, and what it does to FID.

All draw the same images (class, number and seed alike), so that the difference of two FIDs has an interval of its own,
much narrower than either's. Speed is measured in turn in the same process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from arbench.bench.generation import EXCLUDES, INCLUDES, choose_batch, compare_seconds, make_draw
from arbench.bench.measure import WARM_UPS, time_alternately
from arbench.evaluation.paired import FidScore, FidScorer
from arbench.generators.methods import get_method
from arbench.machine.hardware import describe_hardware, versions
from arbench.protocols import Generator
from arbench.runs.execute import execute
from arbench.runs.models import Parts
from arbench.runs.request import IF_STARTED, RunRequest, check_evaluation, evaluation_settings, prepare
from arbench.runs.tiers import find_tier
from arbench.sampling.engine import GRAPH_BATCHES, engine_name
from arbench.settings import make_settings, settings_of

EXACT = "exact"
MOST_DIFFERENCE = 0.02  # of the exact way's FID: an approximation that passes differs by no more
GATE = (
    f"|ΔFID| at most {100 * MOST_DIFFERENCE:g} % of the exact way's, and each FID inside the other's 95 % interval; "
    "ΔFID has a 95 % interval of its own, images drawn anew in pairs"
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of drawing: its name, what it changes in the settings, and its share of the work."""

    name: str
    changes: Mapping[str, Any]
    parts: Parts
    request: RunRequest


def approximate_settings(generator: Generator, settings: Any) -> dict[str, Mapping[str, Any]]:
    """Faster settings by name: those that the method brings, else half of each setting that shortens.

    Raises ValueError where there are none.
    """
    method = get_method(generator.method)
    if method.approximations is not None:
        return dict(method.approximations(settings))
    shortening = [s for name, s in settings_of(type(settings)).items() if s.shortens and getattr(settings, name) > 1]
    if not shortening:
        raise ValueError(f"method {method.name!r} has no faster settings to approximate by; expected no --tiers")
    return {f"half the {s.title}": {s.name: getattr(settings, s.name) // 2} for s in shortening}


def bench_tiers(
    request: RunRequest,
    *,
    batch_size: int | str | None = None,
    repeats: int = 3,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Speed and FID of the way that `request` asks for and of each approximation of it, as a dict that JSON holds.

    The images of each way are a run of its own below `request.out`, which is taken as it is where it is there and gone
    on with where it was interrupted. Speed is that of batches of `batch_size`, decoding included, all ways in turn
    `repeats` times. Raises ValueError where a model has no approximation, no reference to score against, or no weights.
    """
    ways = find_ways(request)
    exact = ways[0].parts
    evaluation = evaluation_settings(request, exact.preset)
    if evaluation is None:
        raise ValueError(f"reference: none is known for model {exact.model!r}; expected --reference with --tiers")
    check_evaluation(evaluation, request.num_images)
    batch = choose_batch(exact, batch_size)
    engine = engine_name(request.engine, exact.generator, GRAPH_BATCHES)
    say(f"{len(ways)} ways in turn, {repeats} rounds at batch {batch}")
    draws = [make_draw(way.parts, batch, request.seed, engine) for way in ways]
    seconds = time_alternately(draws, exact.device, repeats, WARM_UPS[engine])
    scorer = FidScorer(
        evaluation["reference"],
        evaluation["extractor"],
        inception_weights=evaluation["inception_weights"],
        device=exact.device,
    )
    results: list[dict[str, Any]] = []
    first: FidScore | None = None
    for way, taken in zip(ways, seconds, strict=True):
        say(f"{way.name}: {request.num_images} images")
        folder = execute(way.request, say=say)[0]
        score = scorer.score(folder)
        first = score if first is None else first
        speed = compare_seconds(EXACT, batch, taken, seconds[0], tier=tier_of(way, exact))
        results.append({**described(way), "folder": str(folder), **speed, **quality(score, first)})
    return {**describe(request, exact, evaluation, batch, engine), "ways": results}


def find_ways(request: RunRequest) -> list[Way]:
    """The way that is asked for, which counts as exact, and then its approximations; models are loaded once."""
    parts = prepare(request).parts
    ways = []
    for name, changes in {EXACT: {}, **approximate_settings(parts.generator, parts.settings)}.items():
        asked = {**request.sampling, **changes}
        settings = make_settings(type(parts.settings), {**parts.sampling, **changes})
        ways.append(
            Way(
                name=name,
                changes=changes,
                parts=dataclasses.replace(parts, settings=settings),
                request=dataclasses.replace(request, sampling=asked, resume=IF_STARTED),
            )
        )
    return ways


def tier_of(way: Way, exact: Parts) -> str:
    """How far a way may change the result of the exact one; of that itself, how far the preset's own settings'."""
    own: Mapping[str, Any] = exact.sampling
    if not way.changes:
        own = exact.preset.sampling if exact.preset else {}
    return find_tier(way.parts.sampling, exact.generator.sampling_type, own, exact.precision.products)


def quality(score: FidScore, exact: FidScore) -> dict[str, Any]:
    """FID with its 95 % interval, its difference from the exact way's with one, in shares of that, and whether it
    passes."""
    difference, span = score.minus(exact)
    low, high = score.interval
    return {
        "fid": score.value,
        "fid_low": low,
        "fid_high": high,
        "delta_fid": difference / exact.value,
        "delta_fid_low": span[0] / exact.value,
        "delta_fid_high": span[1] / exact.value,
        "passes": passes(score, exact),
    }


def passes(score: FidScore, exact: FidScore) -> bool:
    """The gate of an approximation: `GATE`."""
    inside = all(one.interval[0] <= other.value <= one.interval[1] for one, other in ((score, exact), (exact, score)))
    return inside and abs(score.value - exact.value) <= MOST_DIFFERENCE * exact.value


def described(way: Way) -> dict[str, Any]:
    return {"name": way.name, "changes": dict(way.changes), "sampling": way.parts.sampling}


def describe(
    request: RunRequest, parts: Parts, evaluation: Mapping[str, Any], batch: int, engine: str
) -> dict[str, Any]:
    """What was measured, on what and how."""
    return {
        "benchmark": "tiers",
        "method": parts.generator.method,
        "model": parts.model,
        "params_m": round(parts.params_m, 3),
        "tokenizer": parts.tokenizer_name,
        "weights": parts.weights,
        "sampling": parts.sampling,
        "seed": request.seed,
        "num_images": request.num_images,
        "labels": request.label_mode,
        "reference": evaluation["reference"],
        "extractor": evaluation["extractor"],
        "gate": GATE,
        "batch_size": batch,
        "engine": engine,
        "hardware": {**describe_hardware(parts.device), "dtype": parts.precision.name},
        "versions": versions(),
        "includes": INCLUDES,
        "excludes": EXCLUDES,
    }
