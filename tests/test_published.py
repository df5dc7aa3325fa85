"""Published values: every experiment's table shows the CSV's numbers digit for digit."""

from __future__ import annotations

import csv
import html
import importlib.util
import io
import re

import pytest

from arbench.papers.experiment import experiment_names, load_experiment, package_folder
from arbench.papers.published import COLUMNS, published_row, published_values
from arbench.papers.table import experiment_table, printed_values, published_curves
from arbench.report.formats import LATEX, render
from arbench.report.record import new_record

PAPER_TABLES = [name for name in experiment_names() if not name.startswith("digits/")]
PRINTED_NOTHING = {"mar/fig5"}  # the figure has axes and a legend, no values


def files():
    return sorted((package_folder("results") / "published").glob("*.csv"))


def lines(file):
    with file.open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


@pytest.mark.parametrize("file", files(), ids=lambda file: file.stem)
def test_files_are_tidy(file):
    seen = set()
    for line in lines(file):
        assert tuple(line) == COLUMNS
        key = (line["paper"], line["table"], line["row"], line["metric"])
        if line["table"] != "settings":  # settings are sentences; one row may be told in several
            assert key not in seen
        seen.add(key)
        assert line["value"]
        assert line["source"]
        assert line["confidence"]


def test_every_time_says_its_hardware_and_batch():
    times = [v for row in published_values().values() for v in row.values() if v.metric.startswith("seconds")]
    assert times
    assert all(value.hardware and value.batch for value in times)


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_every_row_of_an_experiment_has_its_published_values(name):
    experiment = load_experiment(name)
    for row in experiment.rows:
        assert row.published is None or published_row(row.published)
    assert bool(printed_values(experiment)) == (name not in PRINTED_NOTHING)


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_an_experiment_leaves_out_no_published_row(name):
    published = {key.rpartition("/")[2] for key in published_values() if key.rpartition("/")[0] == name}
    shown = {row.published.rpartition("/")[2] for row in load_experiment(name).rows if row.published}
    assert published - shown <= {"headline", "released", "released-no-cfg"}  # sentences beside the figures


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_the_table_equals_the_csv_digit_for_digit(name):
    experiment = load_experiment(name)
    shown = list(csv.DictReader(io.StringIO(render(experiment_table(experiment, {}), "csv"))))
    stored = {}
    for file in files():
        for line in lines(file):
            stored[f"{line['paper']}/{line['table']}/{line['row']}", line["metric"]] = line["value"]
    assert [line["row"] for line in shown] == [row.name for row in experiment.rows]
    for line, row in zip(shown, experiment.rows, strict=True):
        assert line["kind"] == "published"
        bounds = line["bounds"].split(";")
        for column in experiment.columns:
            printed = stored.get((row.published, column))
            if printed is None:
                assert not line.get(column) or column in row.sampling
            else:
                assert line[column] == printed or f"{column}{printed}" in bounds


def markdown_cells(text):
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    plain = [re.sub(r"<sup>.*?</sup>|\*\*", "", row).replace("\\|", "|") for row in (rows[0], *rows[2:])]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in plain]


def html_cells(text):
    rows = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", line) for line in text.splitlines() if line.startswith("<tr>")]
    return [[html.unescape(re.sub(r"<sup>.*?</sup>|</?strong>", "", cell)) for cell in row] for row in rows]


def latex_cells(text):
    rows = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")]
    plain = [re.sub(r"\$\^\{\w+\}\$|\\textbf\{(.*?)\}(?= |\$|$)", r"\1", row) for row in rows]
    for sign, command in sorted(LATEX.items(), key=lambda known: -len(known[1])):
        plain = [row.replace(command, sign) for row in plain]
    return [row.split(" & ") for row in plain]


@pytest.mark.parametrize("name", PAPER_TABLES)
@pytest.mark.parametrize(("format", "cells"), [("md", markdown_cells), ("html", html_cells), ("latex", latex_cells)])
def test_every_format_shows_the_same_cells(name, format, cells):
    table = experiment_table(load_experiment(name), {})
    shown = cells(render(table, format))
    assert shown == [list(table.heads), *([cell.text for cell in row] for row in table.rows)]


@pytest.mark.parametrize(
    ("key", "metric", "value"),
    [
        ("mar/table4/mar-h", "fid", "1.55"),
        ("mar/table4/mar-b-no-cfg", "is_mean", "192.4"),
        ("mar/table1/random-bidirect-many-diff", "fid", "1.98"),
        ("llamagen/table6/llamagen-3b", "fid", "2.18"),
        ("llamagen/table10/llamagen-3b-384-300ep-cfg-1.65", "fid", "2.189"),
        ("par/table2/par-3b-4x", "seconds_per_image", "3.46"),
        ("par/table4/d-raster-many", "fid", "5.64"),
    ],
)
def test_known_values(key, metric, value):
    assert published_row(key)[metric].value == value


def test_values_that_stand_in_two_tables_are_equal():
    """The papers print some rows twice: the same model in another table has the same digits."""
    same = (
        ("mar/table1/random-bidirect-many-ce-no-cfg", "mar/table5/random-ce"),
        ("mar/table1/random-bidirect-many-diff-no-cfg", "mar/table5/random-diff"),
        ("mar/table2/kl16-imagenet", "mar/table3/width-1024"),
        ("mar/table2/kl16-imagenet-no-cfg", "mar/table3/width-1024-no-cfg"),
        ("mar/table3/width-1024", "mar/fig4/steps-100"),
        ("mar/table3/width-1024-no-cfg", "mar/fig4/steps-100-no-cfg"),
        ("par/table4/a-with", "par/table4/d-distant-many"),
        ("par/table4/b-4", "par/table4/e-xxl"),
        ("par/table2/par-3b-4x", "par/fig2/par-3b-4x"),
        ("par/table2/llamagen-3b", "par/table7/llamagen-3b"),
    )
    for one, other in same:
        first, second = published_row(one), published_row(other)
        shared = {"fid", "is_mean", "seconds_per_image"} & set(first) & set(second)
        assert shared
        assert [first[name].value for name in sorted(shared)] == [second[name].value for name in sorted(shared)]


SHORT_AND_LONG = [
    *(
        (f"llamagen/table5/llamagen-{size}-{pixels}", f"llamagen/table{table}/llamagen-{size}-{pixels}-50ep-cfg-1.75")
        for table, pixels, sizes in ((8, 256, "b l xl xxl 3b"), (9, 384, "b l"), (10, 384, "xl xxl 3b"))
        for size in sizes.split()
    ),
    ("llamagen/table6/llamagen-b", "llamagen/table8/llamagen-b-256-300ep-cfg-2.00"),
    ("llamagen/table6/llamagen-l", "llamagen/table9/llamagen-l-384-300ep-cfg-2.00"),
    ("llamagen/table6/llamagen-xl", "llamagen/table10/llamagen-xl-384-300ep-cfg-1.75"),
    ("llamagen/table6/llamagen-xxl", "llamagen/table10/llamagen-xxl-384-300ep-cfg-1.75"),
    ("llamagen/table6/llamagen-3b", "llamagen/table10/llamagen-3b-384-300ep-cfg-1.65"),
]


@pytest.mark.parametrize(("short", "long"), SHORT_AND_LONG)
def test_llamagen_cuts_digits_off(short, long):
    """Every score of its Tables 5 and 6 is the beginning of the three-decimal one of Tables 8 to 10."""
    for name in ("fid", "is_mean", "precision", "recall"):
        printed = published_row(short)[name].value
        assert published_row(long)[name].value.startswith(printed)


def test_an_unknown_row_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mar/table4/mar-b'"):
        published_row("mar/table4/marb")


def test_measured_values_stand_below_the_printed_ones_with_another_mark():
    record = new_record(
        method="mar",
        model="mar-b",
        seed=0,
        num_images=1000,
        metrics={"fid": 7.25},
        metric_protocol={"extractor": "inception", "reference": "adm-train-256"},
        source={"kind": "measured", **load_experiment("mar/table4").row_source("mar-b")},
    )
    text = render(experiment_table(load_experiment("mar/table4"), {"mar-b": [record]}), "md")
    printed, measured = (
        line for line in text.splitlines() if line.split("|")[2:3] and "MAR-B" in line and "w/o" not in line
    )
    assert "2.31<sup>a</sup>" in printed
    assert "7.25<sup>b</sup>" in measured
    assert "- <sup>b</sup> measured: 1000 images" in text


def test_committed_tables_are_what_the_records_give(tmp_path, monkeypatch):
    script = package_folder("results").parent / "scripts" / "rebuild_results.py"
    if not script.is_file():
        pytest.skip("installed without the checkout")
    spec = importlib.util.spec_from_file_location("rebuild_results", script)
    rebuild = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rebuild)
    monkeypatch.setattr(rebuild, "draw", lambda *_: None)  # pictures are the same bytes with one matplotlib only
    rebuild.build(tmp_path)
    assert [name for name in rebuild.differing(tmp_path) if name.startswith("tables/")] == []


def test_published_curves_hold_the_printed_points():
    (ar, par) = (curve for curve in published_curves(load_experiment("par/fig2"), "steps", "seconds_per_image"))
    assert [(point.x, point.y) for point in ar.points] == [(576, 12.41)]
    assert [(point.x, point.y) for point in par.points] == [(51, 1.31), (147, 3.46)]
