#!/usr/bin/env python3
"""What the checks of a run cost: pairs of runs with and without them, alternately, in one process.

    python scripts/check_cost.py [--model par-digits] [--num-images 256] [--pairs 5]

Two shares of the CPU time of a run (all threads; wall time means little on a busy machine): the time spent inside the
checks, each timed by its own thread's clock, and what a run saves that has none. The second is as exact as two runs are
alike, which the range of the pairs shows.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

import arbench
from arbench.evaluation import sources
from arbench.images.pixels import FiniteChecks
from arbench.report import record
from arbench.runs import decoding, execute, models, shards
from arbench.runs import record as run_record

# Every check on the way of a run that succeeds: where it stands, and what stands in for it.
CHECKS: list[tuple[Any, str, Callable[..., Any]]] = [
    (FiniteChecks, "add", lambda checks, values, what: None),  # latents, and what codes are drawn from
    (FiniteChecks, "settle", lambda checks: None),
    (decoding, "count_bad", lambda images: torch.zeros(())),  # decoded images
    (shards, "shard_line", lambda path, data, place, batches: f"{'0' * 64}  {path.name}\n{place.note()}"),  # SHA-256
    (sources, "is_intact", lambda shard: True),  # before a shard is scored
    (sources, "is_bound", lambda shard, place: True),
    (sources, "read_config", lambda run: None),
    (execute, "what_differs", lambda job, folder: []),
    (models.Parts, "require_unchanged", lambda parts: None),
    (run_record, "plug_in_versions", lambda job, folder: {}),
    (record, "validate", lambda record: None),
]


@contextlib.contextmanager
def replaced(by: Callable[[str, Callable[..., Any], Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Inside, every check is what `by` makes of its name, itself and what can stand in for it."""
    with contextlib.ExitStack() as stack:
        for place, name, stand_in in CHECKS:
            stack.enter_context(mock.patch.object(place, name, by(name, getattr(place, name), stand_in)))
        yield


def timed(seconds: dict[str, float]) -> contextlib.AbstractContextManager[None]:
    """Inside, the time of every check is added to `seconds`."""

    def by(name: str, check: Callable[..., Any], _: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(check)
        def run(*positional: Any, **named: Any) -> Any:
            start = time.thread_time()
            try:
                return check(*positional, **named)
            finally:
                seconds[name] += time.thread_time() - start

        return run

    return replaced(by)


def cpu_seconds(asked: dict[str, Any]) -> float:
    """CPU time of one run, all threads."""
    with tempfile.TemporaryDirectory() as out:
        start = time.process_time()
        arbench.run(**asked, out=out)
        return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="par-digits")
    parser.add_argument("--num-images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    asked = {"model": given.model, "num_images": given.num_images, "batch_size": given.batch_size, "device": "cpu"}
    cpu_seconds(asked)  # warms up
    inside: dict[str, float] = defaultdict(float)
    totals, saved = [], []
    for pair in range(given.pairs):
        found: dict[bool, float] = {}
        for checked in (True, False) if pair % 2 else (False, True):
            with timed(inside) if checked else replaced(lambda name, check, stand_in: stand_in):
                found[checked] = cpu_seconds(asked)
        totals.append(found[True])
        saved.append(1 - found[False] / found[True])
    for name, seconds in sorted(inside.items(), key=lambda item: -item[1]):
        print(f"{name:20} {seconds / sum(totals):8.3%}")
    print(
        f"inside all checks    {sum(inside.values()) / sum(totals):8.3%} of {statistics.median(totals):.2f} CPU seconds"
    )
    print(
        f"saved without them   {statistics.median(saved):8.3%}, from {min(saved):.3%} to {max(saved):.3%} "
        f"in {given.pairs} pairs"
    )


if __name__ == "__main__":
    main()
