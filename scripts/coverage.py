#!/usr/bin/env python3
"""How many 95 % intervals of one comparison hold what another one, with seeds of its own, measured.

    arbench run --method all --out one
    arbench run --method all --out other --seed 4
    python scripts/coverage.py one other [--score fid]

A line a point that both have, with as many sets of images each, and the count. Two runs differ by more than one of them
varies: if every interval were right, about five of six would hold the other run's number.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from arbench.papers.collect import load_records
from arbench.report.record import Record
from arbench.report.values import SeedGroup, group_seeds, quantity

DECIDING = ("method", "model", "sampling", "num_images", "labels")


def points(folder: str) -> dict[str, SeedGroup]:
    """The points of a comparison by all that decides them but the seed."""
    groups = group_seeds(load_records([folder]))
    return {json.dumps([group.first[name] for name in DECIDING], sort_keys=True): group for group in groups}


def compared(one: str, other: str, score: str) -> list[tuple[Record, float, tuple[float, float], float]]:
    """(a record, its point's mean, its interval, the other comparison's mean) of every point that both have."""
    first, second = points(one), points(other)
    found = []
    for key in first.keys() & second.keys():
        interval, mean, again = first[key].interval(score), first[key].mean(score), second[key].mean(score)
        if interval is not None and again is not None and first[key].num_seeds == second[key].num_seeds:
            found.append((first[key].first, mean, interval, again))
    return sorted(found, key=lambda point: (point[0]["model"], point[0]["speed"].get("steps") or 0))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the points and how many are covered. Raises ValueError where the two have none in common."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one")
    parser.add_argument("other")
    parser.add_argument("--score", default="fid")
    asked = parser.parse_args(arguments)
    shown, found = quantity(asked.score), compared(asked.one, asked.other, asked.score)
    if not found:
        raise ValueError(f"{asked.one} and {asked.other} have no point in common with an interval of {asked.score}")
    held = 0
    for record, mean, (low, high), again in found:
        held += low <= again <= high
        told = f"{shown.text(mean)} {shown.span(mean, (low, high))}, again {shown.text(again)}"
        print(f"{record['model']}, {record['speed'].get('steps')} steps: {told}{'' if low <= again <= high else ' ✗'}")
    print(f"{held} of {len(found)} intervals hold the other run's {asked.score}")


if __name__ == "__main__":
    main()
