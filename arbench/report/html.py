"""One self-contained page: tables, curves, sample grids and protocols, with nothing to fetch."""

from __future__ import annotations

import base64
import html
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arbench.generators.methods import methods
from arbench.machine.files import write_whole
from arbench.report.comparison import draw_comparison
from arbench.report.films import film_figures
from arbench.report.formats import table_element
from arbench.report.page import page
from arbench.report.plots import plot_records
from arbench.report.protocols import protocol_text
from arbench.report.record import Record
from arbench.report.tables import Cell, Table, in_order, records_table
from arbench.report.values import (
    group_seeds,
    method_name,
    protocol_key,
    quantity,
    scores_of,
    setting_text,
    timing_key,
)

# Curves that are drawn where at least two records have both quantities.
CURVES = (("seconds_per_image", "fid"), ("seconds_per_image", "is_mean"), ("seconds_per_image", "label_accuracy"))
LEFT_OUT = ("tokenizer", "weights", "run", "parameters (M)")
COSTS = ("time (", "peak memory (")
AT_A_GLANCE = CURVES[0]
NOTHING = (None, "")  # what is not told


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One record and, where they are in its run folder, the files of its sample grid and its film."""

    record: Record
    grid: Path | None = None
    film: Path | None = None


def write_report(
    entries: Sequence[Entry],
    path: str | Path,
    title: str = "arbench report",
    *,
    intervals: bool = True,
    floor: tuple[float, float] | None = None,
    films: Sequence[Path] = (),
) -> Path:
    """Write the page on `entries`; returns its path. Raises ValueError where there are none, or a film is no GIF.

    `floor` is the band of FIDs that real images have; `films` stand before those of the entries.
    """
    records = [entry.record for entry in entries]
    sections = [
        _section("Results", _wide(_to_read(records_table(records, intervals=intervals)))),
        _section("Speed and accuracy", "\n".join(_curves(records, intervals, floor))),
        _section("Samples", _grids(entries)),
        _section("Images as they form", film_figures(_films(entries, films))),
        _section("Where the time goes", _wide(_phase_table(records))),
        _section("How the scores were made", _wide(_protocol_table(records))),
        _section("What was run", _wide(_settings_table(records)) + _links(records)),
    ]
    head = f'<h1>{html.escape(title)}</h1><p class="lead">{_lead(records)}</p>'
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, page(title, "\n".join([head, *(section for section in sections if section)])))
    return target


def _lead(records: Sequence[Record]) -> str:
    """What the page holds, on what it was measured and with which versions, in one line."""
    models = list(dict.fromkeys(record["model"] for record in records))
    versions = sorted({record["versions"]["arbench"] for record in records if "arbench" in record["versions"]})
    made = f", arbench {', '.join(versions)}" if versions else ""
    machines = dict.fromkeys(str(r["hardware"].get("name") or "") for r in records)
    on = "; ".join(name for name in machines if name)
    told = f"{len(records)} {'record' if len(records) == 1 else 'records'} of {', '.join(models)}{made}"
    return html.escape(told + (f", measured on {on}" if on else ""))


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}</section>" if body else ""


def _to_read(table: Table) -> Table:
    """The table as a page has room for it: time and memory before the scores, folders only where rows are alike else.

    What is left out stands under "What was run".
    """
    heads = table.heads
    first = next((place for place, head in enumerate(heads) if head.endswith(("↓", "↑"))), len(heads))
    told = [place for place in range(first) if heads[place] not in LEFT_OUT]
    names = [tuple(row[place].text for place in told) for row in table.rows]
    if len(set(names)) < len(names):
        told = list(range(first))
    costs = [place for place in range(first, len(heads)) if heads[place].startswith(COSTS)]
    order = [*told, *costs, *(place for place in range(first, len(heads)) if place not in costs)]
    rows = tuple(tuple(row[place] for place in order) for row in table.rows)
    return replace(table, heads=tuple(heads[place] for place in order), rows=rows)


def _wide(table: Table | None) -> str:
    return "" if table is None else f'<div class="wide">{table_element(table)}</div>'


def _curves(records: Sequence[Record], intervals: bool, floor: tuple[float, float] | None) -> list[str]:
    """Figures as SVG inside the page."""
    figures = []
    for x, y in CURVES:
        drawable = [record for record in records if _has(record, x) and _has(record, y)]
        if len(drawable) < 2:
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "curve.svg"
            if intervals and (x, y) == AT_A_GLANCE and _are_comparable(drawable):
                draw_comparison(drawable, file, floor)
            else:
                plot_records(drawable, file, x=x, y=y, intervals=intervals)
            svg = file.read_text(encoding="utf-8")
        caption = f"{quantity(y).title} over {quantity(x).title}"
        methods = ", ".join(dict.fromkeys(method_name(record["method"]) for record in drawable))
        picture = _embedded(svg, f"{caption}: curves of {methods}; the numbers stand in the table of results")
        figures.append(f'<figure class="curve">{picture}<figcaption>{html.escape(caption)}</figcaption></figure>')
    return figures


def _are_comparable(records: Sequence[Record]) -> bool:
    """Whether these are several methods, scored and timed in one way, each faster by something of its own."""
    known, told = methods(), {record["method"] for record in records}
    if len(told) < 2 or any(name not in known or known[name].traded is None for name in told):
        return False
    return len({(protocol_key(record, score=AT_A_GLANCE[1]), timing_key(record)) for record in records}) == 1


def _links(records: Sequence[Record]) -> str:
    """Each record as a file within the page."""
    links = []
    for record, name in zip(records, _names(records), strict=True):
        data = base64.b64encode(json.dumps(record, indent=2).encode()).decode()
        file = f"{record['source'].get('run') or record['model']}.json"
        links.append(
            f'<a download="{html.escape(file)}" href="data:application/json;base64,{data}">{html.escape(name)}</a>'
        )
    return f'<p class="lead">Records: {", ".join(links)}</p>'


def _embedded(svg: str, alt: str) -> str:
    """An SVG file as an image in the page: its element ids stay its own."""
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}">'


def _has(record: Record, name: str) -> bool:
    part = record["speed"] if name == "seconds_per_image" else record["metrics"]
    return part.get(name) is not None


def _grids(entries: Sequence[Entry]) -> str:
    """The grid of each row of the table, of its lowest seed that has one: rows then show the same draws."""
    figures, names = [], dict(zip(map(id, entries), _names([entry.record for entry in entries]), strict=True))
    for group in in_order(group_seeds(entry.record for entry in entries)):
        members = {id(record) for record in group.records}
        shown = [entry for entry in entries if entry.grid is not None and id(entry.record) in members]
        if not shown:
            continue
        entry = min(shown, key=lambda entry: (entry.record["seed"] is None, entry.record["seed"] or 0))
        assert entry.grid is not None
        data = base64.b64encode(entry.grid.read_bytes()).decode()
        caption = html.escape(f"{names[id(entry)]}; {_settings(entry.record)}")
        picture = f'<img alt="sample grid of {caption}" src="data:image/png;base64,{data}">'
        figures.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="grids">{"".join(figures)}</div>' if figures else ""


def _films(entries: Sequence[Entry], named: Sequence[Path]) -> list[tuple[Path, str]]:
    names = _names([entry.record for entry in entries])
    found = [(entry.film, name) for entry, name in zip(entries, names, strict=True) if entry.film is not None]
    return [*((file, file.name) for file in named), *found]


def _phase_table(records: Sequence[Record]) -> Table | None:
    """Milliseconds an image in each phase, with what the time leaves out."""
    rows = []
    for record, name in zip(records, _names(records), strict=True):
        phases = record["speed"].get("phases")
        if phases:
            values = [phases.get(name) for name in ("generator", "head", "decode")]
            cells = [Cell(text="–" if v is None else f"{1e3 * v:.3g}", value=None if v is None else v) for v in values]
            rows.append((Cell(text=name), *cells, Cell(text=str(record["speed"].get("excludes") or "–"))))
    heads = ("run", "generator (ms/image)", "head (ms/image)", "decode (ms/image)", "left out of the time")
    return Table(heads=heads, rows=tuple(rows)) if rows else None


def _protocol_table(records: Sequence[Record]) -> Table | None:
    seen: dict[str, list[str]] = {}
    for record, name in zip(records, _names(records), strict=True):
        for extractor in (None, *record["other_extractors"]):
            if scores_of(record, extractor)["metrics"]:
                seen.setdefault(protocol_text(record, extractor), []).append(name)
    rows = tuple((Cell(text=", ".join(dict.fromkeys(names))), Cell(text=text)) for text, names in seen.items())
    return Table(heads=("runs", "protocol"), rows=rows) if rows else None


def _settings_table(records: Sequence[Record]) -> Table:
    rows = tuple(
        (
            Cell(text=name),
            Cell(text=str(record["source"].get("run") or "–")),
            Cell(text=str(record["tokenizer"] or "–")),
            Cell(text=_settings(record)),
            Cell(text=_mapping(record["weights"])),
            Cell(text=_mapping(record["hardware"])),
            Cell(text=_mapping(record["versions"])),
        )
        for record, name in zip(records, _names(records), strict=True)
    )
    return Table(heads=("run", "folder", "tokenizer", "sampling", "weights", "hardware", "versions"), rows=rows)


def _names(records: Sequence[Record]) -> list[str]:
    """What each record is called: label or model and seed, and where several are called so, the run's folder too."""
    plain = [_name(record) for record in records]
    runs = [record["source"].get("run") for record in records]
    return [f"{name}, {run}" if run and plain.count(name) > 1 else name for name, run in zip(plain, runs, strict=True)]


def _name(record: Record) -> str:
    source = record["source"]
    again = ", measured again" if source.get("again") else ""
    seed = "" if record["seed"] is None else f", seed {record['seed']}"
    return f"{source.get('label') or record['model']}{again}{seed}"


def _settings(record: Record) -> str:
    """All sampling settings with their titles, and how many images were drawn."""
    told = [setting_text(name, value) for name, value in record["sampling"].items() if value not in NOTHING]
    return (", ".join(told) or "–") + (f", {record['num_images']} images" if record["num_images"] else "")


def _mapping(values: Mapping[str, object]) -> str:
    shown = (f"{name} {_short(value)}" for name, value in values.items() if value not in NOTHING)
    return ", ".join(shown) or "–"


def _short(value: object) -> str:
    """Hashes by their first digits; everything else as it is."""
    text = str(value)
    return f"{text[:10]}…" if len(text) == 64 and text.isalnum() else text
