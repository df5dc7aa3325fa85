"""Experiments: inheritance, unknown keys, and files that are all readable."""

from __future__ import annotations

import dataclasses

import pytest

from arbench.papers import experiment as module
from arbench.papers.experiment import Row, build_experiment, experiment_names, load_experiment

NAMED = {
    *(f"mar/table{n}" for n in range(1, 7)),
    *(f"mar/fig{n}" for n in (4, 5, 6)),
    *("par/table2", "par/table4", "par/table7", "par/fig2"),
    *(f"llamagen/table{n}" for n in range(3, 8)),
}


def experiment(rows, **content):
    return build_experiment("test/table", {"title": "t", "source": "s", "columns": ["fid"], "rows": rows, **content})


ROW = {"method": "mar", "model": "mar-b", "published": None}


def test_every_table_and_figure_of_the_contract_is_there():
    assert set(experiment_names()) >= NAMED


@pytest.mark.parametrize("name", experiment_names())
def test_every_file_loads_and_its_rows_are_complete(name):
    loaded = load_experiment(name)
    assert loaded.title
    assert loaded.source
    for row in loaded.rows:
        if row.task == "generate":
            assert row.tokenizer
            assert row.weights


@pytest.mark.parametrize("name", experiment_names())
def test_columns_and_tolerances_are_quantities(name):
    from arbench.report.values import quantity

    loaded = load_experiment(name)
    for told in (*loaded.columns, *loaded.tolerance, *loaded.plot.values()):
        assert quantity(told).name == told


def test_defaults_hold_for_rows_that_run_and_not_for_quoted_ones():
    rows = {"ours": ROW, "theirs": {"task": "quoted", "published": None}}
    ours, theirs = experiment(rows, defaults={"sampling": {"cfg_scale": 3.0}, "weights": "mar-b"}).rows
    assert (ours.sampling, ours.weights) == ({"cfg_scale": 3.0}, "mar-b")
    assert (theirs.sampling, theirs.weights) == ({}, None)


def test_a_row_starts_from_its_base_and_null_takes_back():
    rows = {
        "one": {**ROW, "sampling": {"cfg_scale": 3.0, "num_iter": 64}, "notes": ["a"]},
        "two": {"base": "one", "sampling": {"cfg_scale": None, "num_iter": 8}, "notes": ["b"]},
    }
    two = experiment(rows).row("two")
    assert (two.model, two.sampling, two.notes) == ("mar-b", {"num_iter": 8}, ("a", "b"))


def test_released_settings_of_mar_table_4():
    row = load_experiment("mar/table4").row("mar-b-no-cfg")
    assert (row.sampling["cfg_scale"], row.sampling["temperature"], row.sampling["num_iter"]) == (1.0, 0.95, 256)
    assert row.weights == "mar-b"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"a": {**ROW, "samplin": {}}}, "row 'a': unknown key 'samplin'; did you mean 'sampling'"),
        ({"a": {**ROW, "sampling": {"cfgscale": 1}}}, "did you mean 'cfg_scale'"),
        ({"a": {**ROW, "task": "generat"}}, "did you mean 'generate'"),
        ({"a": {**ROW, "labels": "balance"}}, "did you mean 'balanced'"),
        ({"a": {**ROW, "num_images": 0}}, "at least 1"),
        ({"a": {**ROW, "num_images": "5"}}, "row 'a': num_images is '5'; expected a whole number"),
        ({"a": {**ROW, "which": "emma"}}, "did you mean 'ema'"),
        ({"a": {**ROW, "unprinted": ["cfgscale"]}}, "did you mean 'cfg_scale'"),
        ({"a": {**ROW, "notes": "one"}}, "row 'a': notes is 'one'; expected a list"),
        ({"a": {**ROW, "sampling": 3}}, "row 'a': sampling is 3; expected keys with values"),
        ({"a": "mar-b"}, "row 'a' is 'mar-b'; expected keys with values"),
        ([ROW], "expected keys with values"),
        ({"a": {**ROW, "protocol": {"extracter": "x"}}}, "protocol: unknown key 'extracter'; did you mean 'extractor'"),
        ({"aa": ROW, "b": {"base": "aaa"}}, "unknown base row 'aaa'; did you mean 'aa'"),
        ({"a": {"base": "b"}, "b": {"base": "a"}}, "circle"),
        ({"aa": ROW, "b": {"base": []}}, "base is []; expected a text"),
        ({"a": {**ROW, "seeds": []}}, "row 'a': seeds is empty; expected at least one"),
        ({"a": {"published": None}}, "needs `method` and `model`"),
        ({}, "at least one row"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(rows, told):
    with pytest.raises(ValueError, match="test/table") as error:
        experiment(rows)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_names_give_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mar/table4'"):
        load_experiment("mar/tabel4")
    with pytest.raises(ValueError, match="did you mean 'mar-b'"):
        load_experiment("mar/table4").row("marb")


def test_files_inherit_and_a_broken_base_is_named(tmp_path, monkeypatch):
    (tmp_path / "experiments" / "x").mkdir(parents=True)
    monkeypatch.setattr(module, "package_folder", lambda name: tmp_path / name)
    base, leaf = tmp_path / "experiments" / "base.yaml", tmp_path / "experiments" / "x" / "table.yaml"
    base.write_text(
        "title: t\nsource: s\ncolumns: [fid]\ndefaults: {method: mar, model: mar-b, published: null}\nnotes: [one]\n"
    )
    leaf.write_text("base: base\nnotes: [two]\nrows:\n  a: {model: mar-l}\n")
    built = build_experiment("x/table", module._with_base("x/table"))
    assert (built.title, built.notes, built.row("a").method, built.row("a").model) == (
        "t",
        ("one", "two"),
        "mar",
        "mar-l",
    )
    leaf.write_text("base: nowhere\n")
    with pytest.raises(ValueError, match=r"experiments/nowhere.yaml does not exist; it is the base of x/table.yaml"):
        module._with_base("x/table")
    base.write_text("base: x/table\n")
    leaf.write_text("base: base\n")
    with pytest.raises(ValueError, match="circle"):
        module._with_base("x/table")


def test_a_row_is_frozen_and_its_digest_follows_what_is_measured():
    row = load_experiment("mar/table4").row("mar-b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.model = "mar-l"
    assert row.digest == dataclasses.replace(row, label="x", notes=("y",)).digest
    assert row.digest != dataclasses.replace(row, sampling={**row.sampling, "cfg_scale": 1.0}).digest


def test_a_row_needs_a_known_task():
    with pytest.raises(ValueError, match="task"):
        Row(name="a", label="a", task="make")


@pytest.mark.parametrize("name", experiment_names())
def test_rows_fit_the_generators_they_name(name):
    """Presets exist, configurations are of their method, and every sampling setting is one of the head's."""
    from arbench.generators.methods import get_preset
    from arbench.settings import make_settings
    from arbench.weights.load import load_generator

    for row in load_experiment(name).rows:
        if row.model is None:
            continue
        preset = get_preset(row.model)
        assert preset.method == row.method
        generator = load_generator(row.model, weights="random", device="meta", **row.config)
        make_settings(generator.sampling_type, dict(row.sampling))


@pytest.mark.parametrize("name", ["par/table2", "par/table4", "par/table7", "par/fig2"])
def test_rows_take_the_number_of_steps_that_is_printed(name):
    """The schedule that a row's configuration gives, as long as the paper says; small weights, the paper's grid."""
    from arbench.generators.methods import get_method, get_preset
    from arbench.papers.published import published_row
    from arbench.sampling.schedules import sequential_sizes

    small = {"width": 32, "depth": 1, "heads": 2, "num_classes": 2, "vocab_size": 3}
    checked = 0
    for row in load_experiment(name).rows:
        printed = published_row(row.published)
        if row.model is None or "steps" not in printed:
            continue
        preset = get_preset(row.model)
        method = get_method(preset.method)
        generator = method.model(method.config(**{**preset.config, **row.config, **small}))
        sizes = sequential_sizes(generator.num_tokens, generator.singles, generator.parallel)
        assert sum(sizes) == generator.num_tokens
        assert len(sizes) == int(printed["steps"].value), row.name
        checked += 1
    assert checked >= 2


@pytest.mark.parametrize("name", sorted(NAMED))
def test_settings_of_rows_are_those_that_are_printed(name):
    from arbench.generators.methods import presets
    from arbench.papers.published import published_row

    for row in load_experiment(name).rows:
        printed = {metric: value.number for metric, value in published_row(row.published).items()}
        preset = presets()[row.model].config if row.model in presets() else {}
        config = {**preset, **row.config}
        grid = config.get("grid")
        ours = {
            **{key: config.get(key) for key in ("parallel", "head_width", "head_depth", "vocab_size")},
            **{key: row.sampling.get(key) for key in ("cfg_scale", "head_steps", "temperature")},
            "steps": row.sampling.get("num_iter"),
            "epochs": row.training.get("epochs"),
            "tokens": grid * grid if grid else None,
        }
        for key in ours:
            if ours[key] is not None and printed.get(key) is not None:
                assert ours[key] == printed[key], (row.name, key)
