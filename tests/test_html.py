"""The report is one page that needs nothing else."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from arbench.report.html import Entry, write_report
from arbench.report.record import new_record


def entry(tmp_path, model, fid, grid=True):
    record = new_record(
        method=model.split("-")[0],
        model=model,
        seed=0,
        num_images=500,
        sampling={"cfg_scale": 2.0},
        metrics={"fid": fid, "is_mean": 9.0},
        metric_protocol={"extractor": "digits-cnn", "reference": "digits-heldout"},
        speed={
            "seconds_per_image": fid / 100,
            "steps": 8,
            "phases": {"generator": 0.01, "head": 0.02, "decode": 0.001},
        },
        weights={"file": "shipped", "sha256": "ab" * 32},
    )
    file = tmp_path / f"{model}.png"
    if grid:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    return Entry(record=record, grid=file if grid else None)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("page")
    entries = [entry(tmp_path, "mar-digits", 4.0), entry(tmp_path, "ar-<digits>", 5.0)]
    return write_report(entries, tmp_path / "report.html", title="A & B").read_text(encoding="utf-8")


def test_nothing_is_fetched(page):
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "@import" not in page


def test_tables_curves_grids_and_protocol_are_there(page):
    for heading in ("Results", "Speed and accuracy", "Samples", "Where the time goes", "How the scores were made"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/png") == 2
    assert page.count("data:image/svg+xml") == 2  # FID and IS over time
    assert "reference digits-heldout" in page


def test_every_picture_is_told_in_words(page):
    alts = re.findall(r'<img alt="([^"]*)"', page)
    assert len(alts) == page.count("<img")
    assert "FID over time: curves of MAR, AR; the numbers stand in the table of results" in alts
    assert any(alt.startswith("sample grid of mar-digits, seed 0; guidance 2, 500 images") for alt in alts)


def test_time_and_memory_stand_before_the_scores_and_numbers_sort_by_value(page):
    results = page.split("<tbody>")[0]
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", results)
    assert heads[:3] == ["method", "model", "steps"]
    assert heads.index("time (s/image) ↓") < heads.index("FID-500 ↓")
    assert '<td class="number" data-value="4.0">' in page
    assert "aria-sort" in page.split("<script>")[1]


def test_rows_that_are_alike_but_for_their_folder_keep_it(tmp_path):
    entries = [entry(tmp_path, "mar-digits", fid, grid=False) for fid in (4.0, 5.0)]
    for number, made in enumerate(entries):
        made.record["source"]["run"] = f"mar-digits-{number}"
    page = write_report(entries, tmp_path / "r.html").read_text("utf-8")
    assert '<th scope="col">run</th>' in page.split("<tbody>")[0]


def test_each_record_is_a_file_within_the_page(page):
    found = re.findall(r'download="([^"]*)" href="data:application/json;base64,([^"]*)"', page)
    assert [name for name, _ in found] == ["mar-digits.json", "ar-&lt;digits&gt;.json"]
    assert json.loads(base64.b64decode(found[0][1]))["metrics"]["fid"] == 4.0


def test_one_grid_stands_for_the_seeds_of_a_row(tmp_path):
    entries = [entry(tmp_path, "mar-digits", fid) for fid in (4.0, 5.0)]
    entries[1].record["seed"] = 1
    page = write_report(entries, tmp_path / "r.html").read_text("utf-8")
    assert page.count("data:image/png") == 1


def test_grids_stand_in_the_order_of_the_table_and_of_the_lowest_seed(tmp_path):
    entries = [entry(tmp_path, "mar-digits", fid) for fid in (4.0, 5.0, 6.0)]
    for made, (steps, seed) in zip(entries, ((8, 0), (4, 3), (4, 1)), strict=True):
        made.record["seed"], made.record["speed"]["steps"] = seed, steps
        made.record["sampling"]["num_iter"] = steps
    page = write_report(entries, tmp_path / "r.html").read_text("utf-8")
    told = re.findall(r'alt="sample grid of mar-digits, (seed \d)[^"]*(iterations \d)', page)
    assert told == [("seed 1", "iterations 4"), ("seed 0", "iterations 8")]


def test_a_head_sorts_by_the_keys_of_a_button(page):
    script = page.split("<script>")[1]
    assert 'event.key !== "Enter" && event.key !== " "' in script
    assert "event.preventDefault()" in script


def test_text_is_escaped(page):
    assert "<title>A &amp; B</title>" in page
    assert "ar-&lt;digits&gt;" in page
    assert "<digits>" not in page


def test_runs_of_one_name_are_told_apart_by_their_folder(tmp_path):
    entries = [entry(tmp_path, "mar-digits", fid, grid=False) for fid in (4.0, 5.0)]
    for number, made in enumerate(entries):
        made.record["source"]["run"] = f"mar-digits-{number}"
        made.record["sampling"]["cfg_interval"] = -1
    page = write_report(entries, tmp_path / "r.html").read_text("utf-8")
    assert "<td>mar-digits, seed 0, mar-digits-1</td><td>mar-digits-1</td>" in page
    assert "guidance 2, guidance interval always" in page


def test_settings_are_called_as_heads_of_tables_are_and_unknown_ones_by_their_name(tmp_path):
    made = entry(tmp_path, "mar-digits", 4.0)
    made.record["sampling"].update(num_iter=8, head_steps=15, cfg_schedule="linear", of_a_plugin=3, top_k=None)
    page = write_report([made], tmp_path / "r.html").read_text("utf-8")
    told = "guidance 2, iterations 8, head steps 15, guidance schedule linear, of_a_plugin 3, 500 images"
    assert f"<figcaption>mar-digits, seed 0; {told}</figcaption>" in page
    assert f">{told}</td>" in page


def test_a_single_record_without_grid_has_no_empty_sections(tmp_path):
    page = write_report([entry(tmp_path, "mar-digits", 4.0, grid=False)], tmp_path / "r.html").read_text("utf-8")
    assert "<h2>Samples</h2>" not in page
    assert "<h2>Speed and accuracy</h2>" not in page


def test_the_same_records_give_the_same_page(tmp_path):
    entries = [entry(tmp_path, "mar-digits", 4.0), entry(tmp_path, "ar-digits", 5.0)]
    first, second = (write_report(entries, tmp_path / f"{n}.html").read_bytes() for n in range(2))
    assert first == second


def test_films_are_within_the_page_and_large_ones_told(tmp_path, monkeypatch):
    made = entry(tmp_path, "mar-digits", 4.0)
    own, large, broken = (tmp_path / name for name in ("own.gif", "large.gif", "broken.gif"))
    for file, frames in ((own, 2), (large, 40)):
        pictures = [
            Image.fromarray(np.random.default_rng(shade).integers(0, 255, (8, 8), np.uint8)) for shade in range(frames)
        ]
        pictures[0].save(file, save_all=True, append_images=pictures[1:])
    monkeypatch.setattr("arbench.report.films.MOST_BYTES", large.stat().st_size - 1)
    page = write_report([replace(made, film=own)], tmp_path / "r.html", films=[large]).read_text("utf-8")
    assert "<h2>Images as they form</h2>" in page
    (data,) = re.findall(r'src="data:image/gif;base64,([^"]*)"', page)
    assert base64.b64decode(data) == own.read_bytes()
    assert '<img alt="film of mar-digits, seed 0"' in page
    assert "large.gif: left out" in page
    broken.write_bytes(b"<script>")
    with pytest.raises(ValueError, match="no GIF; expected a film"):
        write_report([made], tmp_path / "r.html", films=[broken])
    assert "Images as they form" not in write_report([made], tmp_path / "r.html").read_text("utf-8")
