"""A user's own experiment by its path: everything that a shipped one can do, and nothing that a file should not."""

from __future__ import annotations

import re

import pytest

from arbench.cli import run_command
from arbench.machine import yaml_file
from arbench.papers.experiment import load_experiment
from arbench.report.record import new_record, write_record

MINE = """\
base: digits
columns: [fid, label_accuracy]
defaults: {method: mar, model: mar-digits, tokenizer: digits-kl, weights: shipped, num_images: 8}
rows:
  few: {sampling: {num_iter: 2}}
  many: {base: few, label: "many iterations", sampling: {num_iter: 16}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(MINE)
    return tmp_path


def test_a_file_starts_from_a_shipped_base_and_is_called_by_its_stem():
    experiment = load_experiment("my.yaml")
    assert (experiment.name, experiment.told, experiment.title) == ("my", "my.yaml", "my")
    few, many = experiment.rows
    assert (few.sampling, many.sampling, many.label) == ({"num_iter": 2}, {"num_iter": 16}, "many iterations")
    assert (few.protocol.reference, few.published) == ("digits-heldout", None)


def test_a_table_that_no_paper_prints_says_nothing_of_print(capsys):
    assert run_command(["table", "my.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "many iterations" in shown
    assert "as printed in" not in shown
    assert run_command(["table", "mar/table4"]) == 0
    assert "- as printed in arXiv:2406.11838" in capsys.readouterr().out


def test_a_file_is_read_anew_each_time(folder):
    assert len(load_experiment("my.yaml").rows) == 2
    (folder / "my.yaml").write_text(MINE + "  more: {base: few}\n")
    assert len(load_experiment("my.yaml").rows) == 3


def test_a_file_starts_from_one_beside_it_wherever_one_calls_from(folder, monkeypatch):
    (folder / "other.yml").write_text("base: ./my.yaml\ntitle: Other\nrows: {few: {sampling: {num_iter: 4}}}\n")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    other = load_experiment("../other.yml")
    assert [(row.name, row.sampling["num_iter"]) for row in other.rows] == [("few", 4), ("many", 16)]
    assert other.told == "../other.yml"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("base: digit\n", "my.yaml: unknown base 'digit'; did you mean 'digits'"),
        ("base: [digits]\n", "base is ['digits']; expected a text"),
        ("base: ../../etc/passwd\n", "unknown base '../../etc/passwd'"),
        ("base: ../secret.yaml\n", "base '../secret.yaml' lies elsewhere; expected a file in the same folder"),
        ("base: /etc/secret.yaml\n", "base '/etc/secret.yaml' lies elsewhere"),
        ("base: link.yaml\n", "base 'link.yaml' lies elsewhere"),
        ("base: othe.yaml\n", "unknown base file 'othe.yaml'; did you mean 'other.yaml'"),
        ("base: other.yaml\n", "the bases form a circle"),
        (MINE.replace("columns", "colums"), "my.yaml: unknown key 'colums'; did you mean 'columns'"),
        (MINE.replace("num_iter: 2", "num_itr: 2"), "my.yaml: row 'few': unknown sampling setting 'num_itr'"),
        (MINE + "name: mine\n", "unknown key 'name'"),
        (MINE.replace("few: {s", "../few: {s"), "'../few' cannot be a row"),
        (MINE.replace("few: {s", "3: {s"), "key 3 is no text; expected it in quotes"),
        ("rows: !!python/object/apply:os.system [touch made]\n", "no YAML of plain values"),
        ("rows: [\n", "no YAML of plain values"),
        ("- one\n", "holds no keys"),
        ("", "holds no keys"),
        ("rows: " + "[" * 1200, "deep"),
        ("rows: " + "[" * 20 + "]" * 20, "nested more than 12 deep"),
        ("rows: &rows {a: *rows}\n", "nested more than 12 deep"),
        ("#" * (yaml_file.MOST_BYTES + 1), "is larger than"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_done(folder, content, told, capsys):
    (folder / "other.yaml").write_text("base: my.yaml\n")
    outside = folder.parent / "secret.yaml"
    outside.write_text(MINE)
    (folder / "link.yaml").symlink_to(outside)
    (folder / "my.yaml").write_text(content)
    assert run_command(["reproduce", "my.yaml"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (folder / "made").exists()


def test_anchors_do_not_multiply(folder):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]  # 10 ** 9 values when written out
    (folder / "my.yaml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="anchors counted where they are used"):
        load_experiment("my.yaml")


def test_a_missing_file_is_one_line(capsys):
    assert run_command(["table", "none.yaml"]) == 2
    assert "none.yaml: No such file" in capsys.readouterr().err


def test_run_takes_a_row_of_it():
    from arbench.cli.run import build_request

    request = build_request({"experiment": "my.yaml", "row": "many"})
    assert (request.sampling["num_iter"], request.num_images) == (16, 8)
    assert (request.source["experiment"], request.source["row"]) == ("my", "many")


def test_reproduce_table_and_plot_take_it(folder, capsys, monkeypatch):
    from arbench.papers import run

    def execute(request, *, say):
        path = folder / request.out / "mar-digits-0123456789"
        path.mkdir(parents=True)
        made = new_record(
            method="mar",
            model="mar-digits",
            seed=request.seed,
            num_images=request.num_images,
            sampling=request.sampling,
            metrics={"fid": 4.0, "label_accuracy": 0.1 + request.sampling["num_iter"] / 20},
            metric_protocol={"extractor": "digits-cnn", "reference": "digits-heldout"},
            source={"kind": "measured", **request.source},
        )
        write_record(made, path)
        return path, made

    monkeypatch.setattr(run, "execute", execute)
    assert run_command(["reproduce", "my.yaml"]) == 0
    assert "arbench reproduce my.yaml --yes" in capsys.readouterr().out
    assert run_command(["reproduce", "my.yaml", "--seeds", "0", "--yes"]) == 0
    assert re.search(r"\| many +\| many iterations \| +4.00 \| +90.0 \| measured \|", capsys.readouterr().out)
    assert len(list((folder / "runs").glob("reproduce/my/few/seed-0/*/record.json"))) == 1
    assert run_command(["table", "my.yaml", "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["my", "few"], ["my", "many"]]
    assert run_command(["plot", "my.yaml", "--x", "num_iter", "--y", "label_accuracy", "-o", "mine.svg"]) == 0
    assert (folder / "mine.svg").is_file()


def test_train_takes_its_rows(folder, monkeypatch):
    from arbench.training import jobs

    folders = []

    def run_job(job, out, **_):
        folders.append((job.target, str(out)))
        return out

    monkeypatch.setattr(jobs, "run_job", run_job)
    assert run_command(["train", "--experiment", str(folder / "my.yaml"), "--row", "few"]) == 0
    assert folders == [("mar-digits", "runs/train/my/few")]
