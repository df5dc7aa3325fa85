"""A benchmark's result as a small table of text: one column a batch size, or one a direction of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

UNKNOWN = "–"
PEAKS = {"flops_per_second": "FLOP/s", "bytes_per_second": "B/s"}


def render(result: Mapping[str, Any]) -> str:
    """The lines that a person reads: what was measured, the table, and the comparisons."""
    columns = [result["latency"]]
    if result["throughput"]["batch_size"] != 1:
        columns.append(result["throughput"])
    table = align([(name, *cells) for name, cells in rows(columns)])
    return "\n".join([*heading(result), "", *table, *forecast_line(columns), *comparisons(result["compare"])])


def render_tokenizer(result: Mapping[str, Any]) -> str:
    """The lines that a person reads about a tokenizer."""
    hardware, columns = result["hardware"], [result["encode"], result["decode"]]
    table = [
        ("", "encode", "decode"),
        ("seconds an image, best", *(number(column["seconds_per_image"]) for column in columns)),
        ("  its convolutions run bare", *(number(column.get("bare")) for column in columns)),
        ("  how many times longer", *(number(column.get("ratio")) for column in columns)),
    ]
    facts = (
        f"{result['tokenizer']} ({result['params_m']:.1f} M parameters), {result['image_size']} px, batch "
        f"{result['batch_size']}; {hardware['name']}, {result['dtype']}, {hardware['threads']} threads; best of "
        f"{result['repeats']}, peak memory {number(result['peak_memory_gib'])} GiB"
    )
    return "\n".join([facts, "", *align(table)])


def render_tiers(result: Mapping[str, Any]) -> str:
    """The lines that a person reads about approximate ways: speed and FID of each beside the exact one."""
    hardware = result["hardware"]
    facts = (
        f"{result['model']} with {result['tokenizer']}: {result['num_images']} images a way, seed {result['seed']}, "
        f"FID against {result['reference']} by {result['extractor']}; speed at batch {result['batch_size']} on "
        f"{hardware['name']}, {hardware['dtype']}, {hardware['threads']} threads, "
        f"{result['ways'][0]['pairs']} rounds in turn"
    )
    head = ("", "tier", "s an image", "times as fast", "FID", "95 %", "ΔFID", "95 %", "passes")
    table = align([head, *(tier_row(way) for way in result["ways"])])
    changes = [
        f"{way['name']}: {', '.join(f'{name} {value}' for name, value in way['changes'].items())}"
        for way in result["ways"]
        if way["changes"]
    ]
    return "\n".join([facts, "", *table, "", *changes, f"passes: {result['gate']}"])


def tier_row(way: Mapping[str, Any]) -> tuple[str, ...]:
    """A way's cells; those that compare it are dashes where it is compared with itself."""
    speed = (way["name"], way["tier"], number(way["seconds_per_image"]))
    fid = (f"{way['fid']:.3f}", f"{way['fid_low']:.3f} to {way['fid_high']:.3f}")
    if not way["changes"]:
        return (*speed, UNKNOWN, *fid, *(UNKNOWN,) * 3)
    ratio = f"{way['ratio']:.2f} ({way['ratio_min']:.2f} to {way['ratio_max']:.2f})"
    span = f"{100 * way['delta_fid_low']:+.1f} to {100 * way['delta_fid_high']:+.1f} %"
    return (*speed, ratio, *fid, f"{100 * way['delta_fid']:+.1f} %", span, "yes" if way["passes"] else "no")


def heading(result: Mapping[str, Any]) -> list[str]:
    """Two lines: model and settings, machine and operations."""
    hardware, settings = result["hardware"], result["sampling"]
    chosen = ", ".join(f"{name} {value}" for name, value in settings.items())
    weights = result["weights"]["file"]
    peak = result["peak"]
    work = "no roofline for this method"
    if result["flops_per_image"] is not None:
        work = f"{quantity(result['flops_per_image'])}FLOP an image"
    bound = "peak unknown"
    if peak:
        rates = (f"{quantity(peak[name])}{unit}" for name, unit in PEAKS.items())
        bound = f"peak {' and '.join(rates)} ({peak['source']})"
    return [
        f"{result['model']} ({result['params_m']:.1f} M parameters, weights: {weights}) with {result['tokenizer']}, "
        f"{result['image_size']} px; {chosen}",
        f"{hardware['name']}, {hardware['dtype']}, {hardware['threads']} threads; {bound}; "
        f"{work} in {result['steps']} steps",
        f"tier {result['tier']}: {result['tier_meaning']}",
    ]


def rows(columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Names of quantities with a cell for each column."""
    phases = list(dict.fromkeys(name for column in columns for name in column["phases"]))
    return [
        ("", [f"batch {column['batch_size']}" for column in columns]),
        ("seconds an image, median", [number(column["seconds_per_image"]) for column in columns]),
        *((f"  {name}", [number(column["phases"].get(name)) for column in columns]) for name in phases),
        ("  fastest repeat", [number(column["seconds_per_image_min"]) for column in columns]),
        (f"  slowest of {columns[0]['repeats']}", [number(column["seconds_per_image_max"]) for column in columns]),
        ("images a second", [number(column["images_per_second"]) for column in columns]),
        ("warm-up batch, seconds", [number(column["warm_up_seconds"]) for column in columns]),
        ("peak memory so far, GiB", [number(column["peak_memory_gib"]) for column in columns]),
        ("CPU time got, of its threads'", [percent(column["cpu_share"]) for column in columns]),
        ("roofline floor, seconds", [number(column["floor_seconds_per_image"]) for column in columns]),
        ("share of the floor", [percent(column["share_of_floor"]) for column in columns]),
        ("share of the peak", [percent(column["share_of_peak"]) for column in columns]),
        *launch_rows([column["launches"] for column in columns]),
    ]


def launch_rows(counts: Sequence[Mapping[str, Any] | None]) -> list[tuple[str, list[str]]]:
    """What the host issues by each engine, and what the replays of graphs launch by themselves."""
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return []

    def cells(engine: str, name: str, show: Callable[[Any], str] = str) -> list[str]:
        told = [count[engine] for count in known]
        return [UNKNOWN if one is None or one[name] is None else show(one[name]) for one in told]

    graphs = [("  of them replays", "replays"), ("  launched inside the replays", "in_graphs")]
    found = []
    for engine, more in (("eager", []), ("graph", graphs)):
        found += [
            (f"launches a batch on a GPU, {engine}", cells(engine, "total")),
            *((title, cells(engine, name)) for title, name in more),
            ("  copies from the host in the loop", cells(engine, "copies_in_loop")),
            ("  waits for the device", cells(engine, "waits")),
            ("  issuing them at 5 µs, seconds", cells(engine, "launch_seconds", number)),
            ("  forecast", cells(engine, "forecast")),
        ]
    return found


def forecast_line(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the forecasts of a table are of; nothing where there are none."""
    told = [column["launches"]["forecast"] for column in columns if column["launches"] is not None]
    if not told or told[0] is None:
        return []
    floors = " and ".join(number(one["floor_seconds"]) for one in told)
    return [
        "",
        f"forecast: seconds of launching against the roofline's floor of a batch on {told[0]['gpu']} in "
        f"{told[0]['dtype']}, {floors} s ({told[0]['source']}), decoding left out; counted and computed, not measured",
    ]


def comparisons(compared: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each plain way that ours was measured against."""
    return [
        f"against {entry['against']}: {entry['ratio']:.2f}× as fast ({number(entry['seconds_per_image'])} for "
        f"{number(entry['against_seconds_per_image'])} s an image at batch {entry['batch_size']}, decoding left out; "
        f"{entry['pairs']} alternate pairs, {entry['ratio_min']:.2f} to {entry['ratio_max']:.2f}; tier {entry['tier']})"
        for entry in compared
    ]


def align(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column left and the others right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4g}"


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.3g} %"


def quantity(value: float) -> str:
    """A large number with its SI prefix, to which a unit is appended: 1.4e12 is "1.4 T"."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "
