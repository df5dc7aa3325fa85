"""Tables of records: units in heads, best in bold, protocols kept apart, seeds put together."""

from __future__ import annotations

import csv
import io
import re
import sys

import pytest

from arbench.papers.collect import load_records
from arbench.report.record import new_record, write_record
from arbench.report.tables import render_table
from arbench.report.values import group_seeds

PROTOCOL = {"extractor": "digits-cnn", "reference": "digits-heldout", "reference_count": 360}


def record(model="mar-digits", *, fid=4.0, seconds=0.02, protocol=PROTOCOL, seed=0, count=500, **sampling):
    return new_record(
        method=model.split("-")[0],
        model=model,
        seed=seed,
        num_images=count,
        metrics={"fid": fid, "label_accuracy": 0.975},
        metric_protocol=protocol,
        sampling=sampling,
        speed={"seconds_per_image": seconds, "steps": 8, "batch_size": 100},
        hardware={"device": "cpu", "name": "two cores"},
    )


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_heads_have_units_and_direction_and_the_fid_its_count():
    head = rows(render_table([record()]))[0]
    assert head == ["method", "model", "steps", "FID-500 ↓", "label accuracy (%) ↑", "time (s/image) ↓"]


def test_the_best_of_a_column_is_bold():
    text = render_table([record(fid=4.0, seconds=0.03), record("ar-digits", fid=3.0, seconds=0.05)])
    assert "**3.00**" in text
    assert "**4.00**" not in text
    assert "**0.0300**" in text


def test_one_row_alone_is_not_the_best():
    assert "**" not in render_table([record()])


def test_scores_of_different_protocols_are_marked_and_told_below():
    other = {**PROTOCOL, "reference": "digits-train"}
    text = render_table([record(fid=4.0), record("ar-digits", fid=3.0, protocol=other)])
    assert "4.00<sup>a</sup>" in text
    assert "3.00<sup>b</sup>" in text  # and not bold: nothing to compare with
    assert "- <sup>b</sup> 500 images, extractor digits-cnn, reference digits-train of 360 images" in text


def with_kid(model, kid, how, **more):
    protocol = {**PROTOCOL, "kid": f"100 subsets; {how}", **more}
    made = record(model, fid=4.0 + kid, protocol=protocol)
    return {**made, "metrics": {**made["metrics"], "kid": kid}}


def marks_by_column(records):
    head, _, *cells = rows(render_table(records))
    return {name: [re.findall(r"<sup>(\w)</sup>", row[place]) for row in cells] for place, name in enumerate(head)}


def test_what_changes_one_score_marks_its_column_alone():
    """Records from before KID's features were standardised still stand in one column of FID with later ones."""
    records = [with_kid("mar-digits", 0.5, "raw"), with_kid("ar-digits", 0.25, "standardised")]
    marks = marks_by_column(records)
    assert (marks["FID-500 ↓"], marks["KID ↓"]) == ([[], []], [["a"], ["b"]])
    text = render_table(records)
    assert "**4.25**" in text  # FID is compared
    assert "**0.25" not in text
    assert "<sup>a</sup> 500 images" in text
    # Another reference is another protocol of every score; the third is the second's in KID alone.
    marks = marks_by_column([*records, with_kid("par-digits", 0.2, "raw", reference="digits-train")])
    assert (marks["FID-500 ↓"], marks["KID ↓"]) == ([["a"], ["a"], ["c"]], [["a"], ["b"], ["c"]])


def test_what_changes_a_score_that_nobody_has_marks_nothing():
    records = [record("mar-digits", protocol={**PROTOCOL, "kid": "raw"}), record("ar-digits", protocol=PROTOCOL)]
    text = render_table(records)
    assert "<sup>" not in text
    assert text.count("extractor digits-cnn") == 1


def test_a_fid_from_fewer_images_is_another_protocol():
    head, _, *cells = rows(render_table([record(count=500), record("ar-digits", count=1000)]))
    assert head[3] == "FID ↓"
    assert [row[3][-1:] for row in cells] == [">", ">"]  # each carries a mark


def test_three_seeds_are_one_row_with_the_interval_of_their_mean():
    records = [record(fid=fid, seed=seed) for seed, fid in enumerate((3.0, 4.0, 5.0))]
    text = render_table(records)
    assert len(rows(text)) == 3
    assert "4.00 [1.52, 6.48]" in text  # 4 ± 4.3027 / 3**0.5, Student's t of 2 degrees of freedom
    assert "mean over 3 seeds" in text
    assert "interval of the mean over seeds (Student's t" in text
    assert "drawing of images" not in text
    assert "97.5 [97.5, 97.5]" in text
    (row,) = read_csv(render_table(records, "csv"))
    assert [float(row[name]) for name in ("fid_low", "fid_high")] == pytest.approx([1.51586, 6.48414], abs=1e-5)
    assert row["interval_method"] == "95 % of the mean over 3 seeds, Student's t"


def test_an_interval_ends_where_the_score_does():
    records = [record(fid=fid, seed=seed) for seed, fid in enumerate((0.1, 0.2, 4.0))]
    for made, accuracy in zip(records, (0.9, 0.99, 1.0), strict=True):
        made["metrics"]["label_accuracy"] = accuracy
    text = render_table(records)
    assert "1.43 [0.00, 6.96]" in text
    assert ", 100.0]" in text


def test_one_run_has_its_own_interval_and_a_plain_table_none():
    made = [with_interval(record(fid=4.0), 3.1, 5.3)]
    text = render_table(made)
    assert "4.00 [3.10, 5.30]" in text
    assert "over the drawing of images (bootstrap)" in text
    plain = render_table(made, intervals=False)
    assert "[" not in plain
    assert rows(plain)[2][3] == "4.00"
    assert r"4.00 {\scriptsize {[}3.10, 5.30]}" in render_table(made, "latex")
    assert "4.00<br/><small>[3.10, 5.30]</small>" in render_table(made, "html")


def test_no_time_is_below_zero():
    records = [record(seconds=seconds, seed=seed) for seed, seconds in enumerate((0.01, 0.01, 0.09))]
    assert "0.0367 [0.0000, " in render_table(records)


def bold(records):
    return re.findall(r"\*\*(\d+\.\d\d)\*\*", render_table(records))


def test_what_is_not_told_apart_from_the_best_is_bold_with_it():
    near, far = with_interval(record("ar-digits", fid=5.0), 3.9, 6.1), with_interval(record("x-d", fid=9.0), 8.0, 9.9)
    assert bold([with_interval(record(fid=4.0), 3.0, 5.0), near, far]) == ["4.00", "5.00"]
    # 1 apart, where the difference's interval reaches 0.6 * 2**0.5 = 0.85
    sure = with_interval(record("ar-digits", fid=5.0), 4.4, 5.6)
    assert bold([with_interval(record(fid=4.0), 3.4, 4.6), sure, far]) == ["4.00"]
    assert "bold: the best, and what is not told apart" in render_table([near, far])


def test_seeds_in_common_tell_apart_what_intervals_alone_do_not():
    ours = [record(fid=fid, seed=seed) for seed, fid in enumerate((3.0, 5.0, 7.0))]
    theirs = [record("ar-digits", fid=fid, seed=seed) for seed, fid in enumerate((4.0, 6.1, 7.9))]
    assert bold([*ours, *theirs]) == ["5.00"]
    others = [{**made, "seed": made["seed"] + 10} for made in theirs]
    assert bold([*ours, *others]) == ["5.00", "6.00"]
    asked = [{**made, "labels": "random"} for made in theirs]  # other labels: no pairs
    assert bold([*ours, *asked]) == ["5.00", "6.00"]


def test_what_one_evaluation_found_is_no_other_protocol():
    records = [
        record(fid=fid, seed=seed, protocol={**PROTOCOL, "measured": {"images_sha256": str(seed)}, "warnings": [seed]})
        for seed, fid in enumerate((3.0, 5.0))
    ]
    (row,) = rows(render_table(records))[2:]
    assert row[3] == "4.00"


def timed(name, seconds, batch=100, model="mar-digits", seed=0):
    made = record(model, seconds=seconds, seed=seed)
    return {**made, "hardware": {"name": name}, "speed": {**made["speed"], "batch_size": batch}}


def test_times_of_different_devices_or_batches_are_marked_and_never_compared():
    text = render_table([timed("A100", 0.02), timed("H100", 0.01, model="ar-digits")])
    assert "0.0200<sup>a</sup>" in text
    assert "0.0100<sup>b</sup>" in text  # and not bold
    assert "- <sup>b</sup> time on H100, batch 100" in text
    assert "**0.0100**" in render_table([timed("H100", 0.02), timed("H100", 0.01, model="ar-digits")])


def test_the_mean_time_is_of_one_device_while_scores_are_of_all_seeds():
    records = [timed("A100", 0.02), timed("A100", 0.04, seed=1), timed("H100", 0.9, seed=2)]
    row = {"kind": "measured", "experiment": "digits/mar-fig6", "row": "mar-8"}
    (group,) = group_seeds({**made, "source": row} for made in records)
    assert group.mean("seconds_per_image") == pytest.approx(0.03, rel=1e-12)  # one division
    assert group.num_seeds == 3
    assert group.mean("fid") == 4.0


def test_times_are_those_that_most_seeds_share():
    row = {"kind": "measured", "experiment": "digits/mar-fig6", "row": "mar-8"}
    records = [timed("A100", 9.0), timed("H100", 0.02, seed=1), timed("H100", 0.04, seed=2)]
    (group,) = group_seeds({**made, "source": row} for made in records)
    assert group.first["hardware"]["name"] == "H100"
    assert group.mean("seconds_per_image") == pytest.approx(0.03, rel=1e-12)  # one division
    assert group.num_seeds == 3


def test_one_setting_on_two_devices_is_two_rows():
    assert len(group_seeds([timed("A100", 0.02), timed("H100", 0.01)])) == 2


def threaded(threads, seed=0, **told):
    given = timed("EPYC", 0.02, seed=seed, **told)
    return {**given, "hardware": {"device": "cpu", "name": "EPYC", "cores": 2, "threads": threads}}


def test_times_tell_the_threads():
    assert "- time on EPYC, 2 cores, 1 thread, batch 100\n" in render_table([threaded(1)])


def test_rows_that_were_timed_with_other_threads_are_told():
    text = render_table([threaded(1), threaded(2, model="ar-digits")])
    assert "- time on EPYC, 2 cores, 1 or 2 threads, batch 100\n" in text
    assert "- time with 1 thread: MAR mar-digits\n- time with 2 threads: AR ar-digits\n" in text


def test_seeds_with_other_threads_do_not_read_as_those_that_they_are_not_pooled_with():
    text = render_table([threaded(2), threaded(2, seed=1), threaded(1, seed=2)])
    assert "- time on EPYC, 2 cores, 2 threads, batch 100\n" in text
    assert "- time of 2 of 3 seeds; not pooled with it: EPYC, 2 cores, 1 thread, batch 100" in text


def test_seeds_that_were_timed_elsewhere_are_told():
    row = {"kind": "measured", "experiment": "digits/mar-fig6", "row": "mar-8"}
    records = [timed("A100", 0.02), timed("A100", 0.04, seed=1), timed("H100", 0.9, seed=2)]
    text = render_table([{**made, "source": row} for made in records])
    assert rows(text)[2][-1] == "0.0300"  # of the two that were timed on one machine
    assert "- time of 2 of 3 seeds; not pooled with it: H100, batch 100" in text
    assert "not pooled" not in render_table([{**made, "source": row} for made in records[:2]])


def test_processors_of_one_name_with_other_cores_or_threads_are_not_pooled():
    row = {"kind": "measured", "experiment": "digits/mar-fig6", "row": "mar-8"}
    base = {"device": "cpu", "name": "EPYC", "cores": 2, "threads": 2}
    for change in ({"cores": 64}, {"threads": 1}):
        times = [(0.02, base), (0.04, base), (0.9, {**base, **change})]
        records = [
            {**record(seconds=seconds, seed=seed), "hardware": hardware, "source": row}
            for seed, (seconds, hardware) in enumerate(times)
        ]
        (group,) = group_seeds(records)
        assert group.mean("seconds_per_image") == pytest.approx(0.03, rel=1e-12)  # one division
        assert len(group.timed) == 2
    assert "- time on EPYC, 2 cores, 2 threads, batch 100" in render_table(records)


def test_what_was_measured_again_is_a_row_of_its_own():
    row = {"kind": "measured", "experiment": "digits/mar-fig6", "row": "mar-8"}
    first, again = ({**record(fid=fid), "source": {**row, **more}} for fid, more in ((4.0, {}), (3.0, {"again": 1})))
    assert [group.mean("fid") for group in group_seeds([first, again])] == [4.0, 3.0]
    assert rows(render_table([first, again]))[3][:3] == ["mar-8", "MAR", "mar-digits, measured again"]


def named(run, fid=4.0, tokenizer="digits-kl", weights="a", **sampling):
    made = record(fid=fid, **sampling)
    files = {"file": f"{weights}.safetensors", "sha256": weights * 64, "which": "ema"}
    return {**made, "tokenizer": tokenizer, "weights": files, "source": {"kind": "measured", "run": run}}


def test_tokenizer_weights_and_run_are_told_where_rows_differ_in_them():
    assert rows(render_table([named("r-1")]))[0][:3] == ["method", "model", "steps"]
    by_run = rows(render_table([named("r-1", cfg_scale=1.0), named("r-2", cfg_scale=2.0)]))
    assert by_run[0][:4] == ["method", "model", "run", "steps"]
    assert [row[2] for row in by_run[2:]] == ["r-1", "r-2"]
    all_differ = [named("r-1"), named("r-2", tokenizer="my-kl"), named("r-3", weights="b")]
    table = rows(render_table(all_differ))
    assert table[0][2:5] == ["tokenizer", "weights", "run"]
    assert [row[2:5] for row in table[2:]] == [
        ["digits-kl", "a.safetensors (aaaaaaaa)", "r-1"],
        ["my-kl", "a.safetensors (aaaaaaaa)", "r-2"],
        ["digits-kl", "b.safetensors (bbbbbbbb)", "r-3"],
    ]


def test_runs_of_one_seed_whose_folders_are_named_by_other_settings_are_all_shown():
    table = rows(render_table([named("mar-digits-1", fid=4.0), named("mar-digits-2", fid=3.0)]))
    assert [row[2] for row in table[2:]] == ["mar-digits-1", "mar-digits-2"]
    (group,) = group_seeds([named("mar-digits-1", fid=4.0), named("mar-digits-1", fid=3.0)])
    assert group.mean("fid") == 3.0


def test_rows_stand_in_the_order_of_their_setting_and_an_endless_interval_is_always():
    records = [record(seconds=s, cfg_interval=i) for s, i in ((0.01, -1), (0.03, 24), (0.02, 8))]
    table = rows(render_table(records))
    assert table[0][3] == "guidance interval"
    assert [row[3] for row in table[2:]] == ["8", "24", "always"]


def test_letters_of_times_follow_those_of_scores():
    other = {**timed("H100", 0.01), "metric_protocol": {**PROTOCOL, "reference": "digits-train"}}
    text = render_table([timed("A100", 0.02), other])
    assert [f"<sup>{letter}</sup>" in text for letter in "abcde"] == [True, True, True, True, False]


def test_measuring_a_seed_again_replaces_it():
    (group,) = group_seeds([record(fid=9.0), record(fid=4.0)])
    assert group.mean("fid") == 4.0


def test_settings_that_differ_become_columns():
    text = render_table([record(cfg_scale=1.0, temperature=1.0), record(cfg_scale=3.0, temperature=1.0)])
    head = rows(text)[0]
    assert "guidance" in head
    assert "temperature" not in head


def test_what_only_methods_differ_in_is_no_column():
    head = rows(render_table([record(cfg_schedule="linear"), record("ar-digits", cfg_schedule="constant", top_k=0)]))[0]
    assert head == rows(render_table([record()]))[0]


def with_interval(made, low, high):
    protocol = {**made["metric_protocol"], "measured": {"intervals": {"fid": [low, high]}, "interval_method": "test"}}
    return {**made, "metric_protocol": protocol}


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_is_one_head_and_full_precision_under_the_names_of_records():
    records = [record(fid=4.123456789012345, cfg_scale=1.5), record("ar-digits", seconds=1 / 3)]
    text = render_table(records, "csv")
    assert len(text.splitlines()) == 3
    assert "#" not in text
    one, other = read_csv(text)
    assert (float(one["fid"]), one["label_accuracy"], one["cfg_scale"]) == (4.123456789012345, "0.975", "1.5")
    assert float(other["seconds_per_image"]) == 1 / 3
    assert (one["kind"], one["method"], one["model"], one["steps"]) == ("measured", "mar", "mar-digits", "8")


def test_csv_has_protocol_and_machine_in_columns():
    (row,) = read_csv(render_table([record()], "csv"))
    told = {name: row[name] for name in ("extractor", "reference", "reference_count", "hardware", "batch_size")}
    assert told == {
        "extractor": "digits-cnn",
        "reference": "digits-heldout",
        "reference_count": "360",
        "hardware": "two cores",
        "batch_size": "100",
    }


def test_csv_has_the_interval_of_one_record_as_it_stands():
    (row,) = read_csv(render_table([with_interval(record(fid=4.0), 3.1, 5.3)], "csv"))
    assert (row["fid_low"], row["fid_high"], row["fid_seed_std"]) == ("3.1", "5.3", "")
    (row,) = read_csv(render_table([record()], "csv"))
    assert (row["fid_low"], row["label_accuracy_low"]) == ("", "")  # no interval, but the column


def test_the_interval_of_a_mean_over_seeds_shrinks_with_their_root():
    records = [with_interval(record(fid=fid, seed=seed), fid - 3, fid + 4) for seed, fid in enumerate((3.0, 5.0))]
    (row,) = read_csv(render_table(records, "csv"))
    assert (row["seeds"], row["num_seeds"], row["fid"]) == ("0;1", "2", "4.0")
    # one rounding of a root each
    assert float(row["fid_low"]) == pytest.approx(4 - 3 / 2**0.5, rel=1e-15)
    assert float(row["fid_high"]) == pytest.approx(4 + 4 / 2**0.5, rel=1e-15)
    assert float(row["fid_seed_std"]) == pytest.approx(2**0.5, rel=1e-15)


def test_csv_names_the_experiment_and_the_row():
    source = {"kind": "measured", "experiment": "digits/mar-fig6", "row": "mar-8", "run": "r-1"}
    (row,) = read_csv(render_table([{**record(), "source": source}], "csv"))
    assert (row["experiment"], row["row"], row["run"]) == ("digits/mar-fig6", "mar-8", "r-1")


def test_latex_is_booktabs_and_escapes():
    text = render_table([record("mar_x"), record("ar-digits")], "latex", title="50% & more")
    assert r"\toprule" in text
    assert r"mar\_x" in text
    assert r"50\% \& more" in text
    assert r"$\downarrow$" in text


def test_latex_fits_the_page_with_caption_and_label():
    from arbench.report.formats import render
    from arbench.report.tables import records_table

    other = {**PROTOCOL, "reference": "digits-train"}
    table = records_table([record("[x]"), record("ar-digits", protocol=other)], title="mar/table4: Systems [x]")
    text = render(table, "latex")
    begun = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    assert begun == [
        ("begin", "table"),
        ("begin", "tabular"),
        ("end", "tabular"),
        ("begin", "flushleft"),
        ("end", "flushleft"),
        ("end", "table"),
    ]
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    assert r"\caption{mar/table4: Systems {[}x]}" in text
    assert r"\label{tab:mar-table4}" in text
    assert r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body} == {len(table.heads) - 1}
    assert not any(line.startswith(("[", "*")) for line in text.splitlines())  # optional arguments of the line above
    assert r"\label{tab:results}" in render_table([record()], "latex")


def test_html_stands_alone():
    text = render_table([record()], "html", title="a < b")
    assert text.startswith("<!doctype html>")
    assert "<title>a &lt; b</title>" in text
    assert "<style>" in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert text.endswith("</html>\n")


def test_html_escapes_and_bolds():
    text = render_table([record("mar-<b>", fid=4.0), record("ar-digits", fid=3.0)], "html")
    assert "mar-&lt;b&gt;" in text
    assert "<strong>3.00</strong>" in text


def test_html_is_balanced():
    from html.parser import HTMLParser

    opened = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag, attrs):
            opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    other = {**PROTOCOL, "reference": "digits-train"}
    Balanced().feed(render_table([record(), record("ar-digits", protocol=other)], "html", title="a < b"))
    assert opened == []


def test_equal_best_values_are_both_bold_and_bounds_are_never():
    from arbench.report.tables import Cell, mark_best
    from arbench.report.values import quantity

    texts = ("1.55", "1.550", "<0.3", "2.31")
    numbers = (1.55, 1.55, None, 2.31)
    cells = [[Cell(text=text, value=number)] for text, number in zip(texts, numbers, strict=True)]
    assert [row[0].best for row in mark_best(cells, [quantity("fid")])] == [True, True, False, False]
    assert [row[0].best for row in mark_best(cells, [quantity("is_mean")])] == [False, False, False, True]
    assert [row[0].best for row in mark_best(cells, [quantity("params_m")])] == [False] * 4


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'latex'"):
        render_table([record()], "latx")


def test_no_records_is_an_error():
    with pytest.raises(ValueError, match="no records"):
        render_table([])


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two run folders under runs/, seen from the current folder."""
    monkeypatch.chdir(tmp_path)
    for model in ("mar-digits", "ar-digits"):
        folder = tmp_path / "runs" / model
        folder.mkdir(parents=True)
        write_record(record(model), folder)
    return tmp_path / "runs"


def test_records_are_found_in_files_folders_and_folders_of_folders(runs):
    one = runs / "mar-digits"
    assert load_records([one]) == load_records([one / "record.json"])
    assert [found["model"] for found in load_records([runs])] == ["ar-digits", "mar-digits"]


def test_a_folder_without_records_and_a_missing_one_are_told(runs):
    (runs / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no record\.json"):
        load_records([runs / "empty"])
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        load_records([runs / "none"])


def test_the_commands_show_what_is_stored(runs, capsys):
    from arbench.cli import table as cli

    cli.table()
    assert "| MAR " in capsys.readouterr().out
    cli.table(["runs/ar-digits"], format="csv", out=runs / "table.csv")
    assert (runs / "table.csv").read_text().startswith("experiment,row,")
    cli.plot(["runs"], out=runs / "curve.svg")
    assert (runs / "curve.svg").read_text().startswith("<?xml")
    cli.report(["runs"], out=runs / "report.html", title="arbench report")
    assert "<h2>Results</h2>" in (runs / "report.html").read_text()


def test_several_tables_in_one_file_stay_one_document(runs):
    from arbench.cli import table as cli

    names = ["mar/table4", "digits/mar-fig6"]
    for format in ("csv", "html"):
        cli.table(names, format=format, out=runs / f"two.{format}")
    shown = read_csv((runs / "two.csv").read_text())
    assert {row["experiment"] for row in shown} == set(names)
    assert (runs / "two.html").read_text().count("<!doctype") == 1


def test_on_a_narrow_terminal_a_table_is_broken_into_lines_and_nothing_is_cut(runs, capsys, monkeypatch):
    from arbench.cli import table as cli

    cli.table()
    markdown = capsys.readouterr().out
    assert rows(markdown)[0][0] == "method"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    cli.table()
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert "|" not in shown
    assert max(map(len, shown.splitlines())) <= 60
    assert "…" not in shown
    assert shown.count("mar-digits") == 1  # a word of a name is whole
    assert [shown.count(cell) for cell in ("FID-500", "4.00", "97.5", "0.0200")] == [1, 2, 2, 2]
    monkeypatch.setenv("COLUMNS", "400")
    cli.table()
    assert capsys.readouterr().out == markdown


def test_a_misspelt_table_names_the_nearest(runs):
    from arbench.cli import table as cli

    with pytest.raises(ValueError, match="did you mean 'mar/table4'"):
        cli.table(["mar/tabel4"])
    with pytest.raises(ValueError, match="one table or figure at a time"):
        cli.plot(["mar/table4", "mar/table1"])
