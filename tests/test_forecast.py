"""Launches by both engines in a benchmark's result, and what would bound a batch on a GPU."""

from __future__ import annotations

import json

import pytest
from test_bench import tiny_parts

from arbench.bench.forecast import FORECAST_GPU, describe_count, describe_launches, floor_seconds
from arbench.bench.launches import LAUNCH_SECONDS, LaunchCount, count_launches
from arbench.bench.table import forecast_line, launch_rows
from arbench.machine.peak import gpu_peak
from arbench.runs.roofline import roofline

ROWS = ("launches a batch on a GPU, eager", "launches a batch on a GPU, graph")


NONE = (None, None)


def describe(parts, batch_size=2):
    return describe_launches(parts, batch_size, roofline(parts.generator, parts.settings, batch_size=batch_size), NONE)


@pytest.mark.parametrize("method", ["par", "mar"])
def test_both_engines_are_counted(method):
    parts = tiny_parts(method)
    describe(parts)  # constants are sent once
    found = describe(parts)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for engine in ("eager", "graph"):
        count = count_launches(parts.generator, parts.settings, 2, parts.precision, engine)
        assert (found[engine]["total"], found[engine]["in_graphs"]) == (count.total, count.in_graphs)
        assert found[engine]["launch_seconds"] == count.total * LAUNCH_SECONDS
        assert (found[engine]["copies_in_loop"], found[engine]["waits"]) == (0, 0)
    eager, graph = found["eager"], found["graph"]
    assert (eager["replays"], eager["in_graphs"]) == (0, 0)
    assert 0 < graph["replays"] < graph["total"] < eager["total"]
    assert graph["in_graphs"] > graph["replays"]
    shown = dict(launch_rows([found]))
    assert [shown[row] for row in ROWS] == [[str(eager["total"])], [str(graph["total"])]]
    assert shown["  launched inside the replays"] == [str(graph["in_graphs"])]


def test_off_cuda_the_forecast_is_for_a_named_gpu_by_its_data_sheet():
    parts = tiny_parts("par")
    found = describe(parts)
    peak = gpu_peak(FORECAST_GPU, parts.precision.products)
    work = roofline(parts.generator, parts.settings, batch_size=2)
    floor = floor_seconds(2, work, (peak, peak))
    told = {"dtype": "float32", "source": "data sheet, dense", "floor_seconds": floor, "is_this_device": False}
    assert found["forecast"] == {"gpu": "A100", **told}
    assert floor == 2 * sum(seconds for name, seconds in work.floor(peak).items() if name != "decode")
    assert found["eager"]["forecast"] == "launch-bound"  # a model of one layer
    (_, line) = forecast_line([{"launches": found}])
    assert "A100 in float32" in line
    assert "not measured" in line


@pytest.mark.parametrize(
    ("floor", "expected"), [(99 * LAUNCH_SECONDS, "launch-bound"), (100 * LAUNCH_SECONDS, "device-bound"), (None, None)]
)
def test_what_takes_longer_bounds(floor, expected):
    count = LaunchCount(
        batch_size=1, phases={"head": 100}, copies_in_loop=0, copies_before=0, waits=0, operations={"aten.mm": 100}
    )
    assert describe_count(count, floor)["forecast"] == expected


def test_what_is_unknown_is_a_dash_or_no_line():
    parts = tiny_parts("par")
    unknown = describe_launches(parts, 1, None, NONE)
    assert (unknown["forecast"], unknown["eager"]["forecast"]) == (None, None)
    assert forecast_line([{"launches": unknown}]) == []
    assert dict(launch_rows([{**unknown, "graph": None}]))[ROWS[1]] == ["–"]  # a model without static steps
    assert (launch_rows([None]), forecast_line([{"launches": None}])) == ([], [])
