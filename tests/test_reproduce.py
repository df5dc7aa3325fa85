"""`arbench reproduce`: the plan with nothing there, with everything there, and rows run one by one."""

from __future__ import annotations

import dataclasses
import re

import pytest

from arbench.cli import reproduce as cli
from arbench.cost import A100_PEAK, SHARE_OF_PEAK, Cost, image_flops, weight_count
from arbench.evaluation import reference_cards
from arbench.experiment import experiment_names, load_experiment
from arbench.generators import presets
from arbench.generators.presets import Preset
from arbench.report.plan_tables import render_plan
from arbench.report.record import load_record, new_record
from arbench.reproduce import differences, plan, plan_row, row_needs, weights_file
from arbench.weights import cards

MAR_B = Preset(
    name="mar-b",
    method="mar",
    config={
        f"{part}_{key}": n
        for part in ("encoder", "decoder")
        for key, n in (("width", 768), ("depth", 12), ("heads", 12))
    },
    tokenizer="kl16",
    image_size=256,
)
PRINTED = {"fid": 2.31, "is_mean": 281.7, "precision": 0.82, "recall": 0.57}


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    monkeypatch.setenv(cards.HOME_VARIABLE, str(tmp_path / "weights"))
    monkeypatch.setenv(reference_cards.HOME_VARIABLE, str(tmp_path / "references"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def full_machine(tmp_path, monkeypatch):
    """Everything that mar/table4's MAR-B needs, as empty files."""
    monkeypatch.setitem(presets.PRESETS, "mar-b", MAR_B)
    for name in ("mar-b", "kl16"):
        cards.get_card(name).path.parent.mkdir(parents=True, exist_ok=True)
        cards.get_card(name).path.touch()
    reference = reference_cards.REFERENCES["adm-train-256"].path
    reference.parent.mkdir(parents=True)
    reference.touch()


def record(seed=0, num_images=50_000, **metrics):
    return new_record(
        method="mar",
        model="mar-b",
        seed=seed,
        num_images=num_images,
        metrics={**PRINTED, **metrics},
        metric_protocol={"extractor": "inception", "reference": "adm-train-256"},
        source={"kind": "measured", "experiment": "mar/table4", "row": "mar-b"},
    )


@pytest.mark.parametrize("name", [name for name in experiment_names() if not name.startswith("digits/")])
def test_a_plan_with_nothing_there_has_every_row_and_tells_what_is_missing(name):
    experiment = load_experiment(name)
    plans = plan(experiment, [], {})
    text = render_plan(experiment, plans)
    assert [p.row.name for p in plans] == [row.name for row in experiment.rows]
    for row_plan in plans:
        assert f"| {row_plan.row.label} " in text
        assert row_plan.state != "missing" or row_plan.needs
        for need in row_plan.needs if row_plan.state == "missing" else ():
            assert need.what in text
            assert need.how in text


def test_mar_table_4_names_each_file_with_its_get_line(capsys):
    cli.reproduce("mar/table4")
    text = capsys.readouterr().out
    for name in ("mar-b", "mar-l", "mar-h", "kl16"):
        assert re.search(rf"arbench weights get {name}\b", text)
    assert "adm-train-256" in text
    assert re.search(r"\| MAR-H +\| +943 \| +1\.55 \| +303\.7 \| +0\.81 \| +0\.62 \| missing", text)


def test_a_row_that_lacks_nothing_can_run_and_has_its_cost(full_machine):
    row_plan = plan_row(load_experiment("mar/table4"), load_experiment("mar/table4").row("mar-b"))
    assert (row_plan.state, row_plan.needs) == ("can run", ())
    assert row_plan.cost is not None
    assert row_plan.cost.flops_per_image == pytest.approx(51.3e12, rel=0.01)  # floors: 51.06 TFLOP and the decoder
    assert weights_file("mar-b") == cards.get_card("mar-b").path


def test_another_release_of_the_same_weights_will_do(full_machine):
    cards.get_card("mar-b").path.unlink()
    other = cards.get_card("mar-b-pth").path
    other.parent.mkdir(parents=True)
    other.touch()
    assert weights_file("mar-b") == other


def test_unreleased_weights_name_the_training_command():
    needs = list(row_needs(load_experiment("mar/table3").row("width-256")))
    assert any("none released; train them: arbench train --method mar --model mar-l-w256" in need.how for need in needs)
    assert any(need.what == "weights of mar-l-w256" for need in needs)


def test_a_measured_row_shows_difference_and_tolerance():
    experiment = load_experiment("mar/table4")
    (row_plan,) = plan(experiment, ["mar-b"], {"mar-b": [record(fid=2.33, is_mean=250.0)]})
    text = render_plan(experiment, [row_plan])
    assert row_plan.state == "measured"
    assert "2.31 → 2.33 (+0.02) ✓" in text
    assert "281.7 → 250.00 (-32) ✗" in text


def test_a_trial_with_fewer_images_leaves_the_row_to_be_run(full_machine):
    experiment = load_experiment("mar/table4")
    assert plan_row(experiment, experiment.row("mar-b"), (record(num_images=1000),)).state == "can run"


def test_scores_of_fewer_images_are_not_judged():
    experiment = load_experiment("mar/table4")
    found = differences(experiment, experiment.row("mar-b"), [record(num_images=1000, fid=9.0)])
    assert found["fid"].within is None


def test_tolerance_holds_the_last_printed_digit():
    experiment = load_experiment("mar/table4")
    row = experiment.row("mar-b")
    edge = 2.31 * 1.02 + 0.01
    assert differences(experiment, row, [record(fid=edge - 1e-6)])["fid"].within
    assert not differences(experiment, row, [record(fid=edge + 1e-6)])["fid"].within


def test_yes_runs_each_seed_once_and_goes_on_where_it_stopped(full_machine, tmp_path, monkeypatch, capsys):
    from arbench import runner
    from arbench.experiment import Experiment

    experiment = load_experiment("mar/table4")
    row = dataclasses.replace(experiment.row("mar-b"), seeds=(0, 1), num_images=1000)
    monkeypatch.setattr(Experiment, "row", lambda self, name: row)
    requests = []

    def execute(request, say):
        requests.append(request)
        path = tmp_path / request.out / "mar-b-0123456789"
        path.mkdir(parents=True, exist_ok=True)
        if request.seed == 1 and not request.resume:
            raise ValueError("interrupted")
        return path, record(seed=request.seed, num_images=request.num_images)

    monkeypatch.setattr(runner, "execute", execute)
    with pytest.raises(ValueError, match="interrupted"):
        cli.reproduce("mar/table4", rows="mar-b", yes=True)
    cli.reproduce("mar/table4", rows="mar-b", yes=True)
    assert [(request.seed, request.resume) for request in requests] == [(0, False), (1, False), (1, True)]
    assert requests[0].weights == cards.get_card("mar-b").path
    assert requests[0].num_images == 1000
    assert requests[0].sampling["cfg_scale"] == 2.9
    assert "2.31 → 2.31 (+0)" in capsys.readouterr().out
    written = load_record(tmp_path / "runs/reproduce/mar/table4/mar-b/seed-1/mar-b-0123456789")
    assert (written["source"]["experiment"], written["source"]["row"]) == ("mar/table4", "mar-b")


def test_yes_with_nothing_to_run_says_so(capsys):
    cli.reproduce("mar/table4", yes=True)
    assert "nothing to run" in capsys.readouterr().err


def test_mistakes_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mar/table4'"):
        cli.reproduce("mar/tabel4")
    with pytest.raises(ValueError, match="did you mean 'mar-b'"):
        cli.reproduce("mar/table4", rows="marb")


def test_without_a_table_they_are_listed(capsys):
    cli.reproduce()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(experiment_names())


def test_hours_are_operations_over_the_sustained_rate():
    assert Cost(flops_per_image=A100_PEAK * SHARE_OF_PEAK, memory_gib=1).a100_hours(3600) == 1


def test_weights_of_mar_b_are_those_of_the_paper():
    from arbench.generators.mar import MARConfig

    assert weight_count("mar", MARConfig(**MAR_B.config)) == pytest.approx(208e6, rel=0.01)


@pytest.mark.parametrize(("num_iter", "teraflops"), [(64, 14.93), (256, 51.31)])
def test_operations_of_mar_b_agree_with_the_counted_floor(num_iter, teraflops):
    """Within half a percent of a count of every matrix product (norm-free, so without buffers' small layers)."""
    from arbench.generators.mar import MARConfig

    config = MARConfig(**MAR_B.config)
    sampling = {"num_iter": num_iter, "cfg_scale": 2.9, "head_steps": 100}
    assert image_flops("mar", config, sampling, 256) == pytest.approx(teraflops * 1e12, rel=5e-3)


def test_operations_of_llamagen_l_agree_with_the_counted_floor():
    """1.3 % below: its feed-forward width is rounded up to a multiple of 256."""
    from arbench.generators.ar import ARConfig

    config = ARConfig(width=1024, depth=24, heads=16, grid=24)
    assert image_flops("ar", config, {"cfg_scale": 2.0}, 384) == pytest.approx(1.352e12, rel=0.02)


def test_rows_that_differ_in_sampling_share_one_training():
    from arbench.retrain import training_digest

    table = load_experiment("digits/mar-table1")
    one, guided = table.row("random-bidirect-one-diff"), table.row("random-bidirect-many-diff-no-cfg")
    assert training_digest(one) == training_digest(guided)
    assert training_digest(one) != training_digest(table.row("random-bidirect-one-ce"))


@pytest.mark.slow
def test_a_row_is_trained_once_with_its_own_settings(tmp_path):
    from arbench.retrain import trained_weights, training_job
    from arbench.weights.load import load_generator

    row = dataclasses.replace(
        load_experiment("digits/par-table4").row("c-causal"),
        training={"steps": 2, "batch_size": 4, "views": 1},
        config={"group_attention": False, "width": 32, "depth": 1, "heads": 2},
    )
    assert (training_job(row, 3).config.steps, training_job(row, 3).config.seed) == (2, 3)
    path = trained_weights(row, 3, tmp_path)
    written = path.stat().st_mtime_ns
    assert trained_weights(row, 3, tmp_path).stat().st_mtime_ns == written
    assert (
        load_generator("par-digits", weights=path, group_attention=False, width=32, depth=1, heads=2).config.depth == 1
    )


def test_an_interrupted_training_goes_on_and_a_finished_one_stays(tmp_path, monkeypatch):
    from arbench import retrain

    row = load_experiment("digits/par-table4").row("c-causal")
    resumed = []

    def run_job(job, folder, *, resume, watch):
        resumed.append(resume)
        path = job.checkpoint_path(folder) if not resume else job.weights_path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    monkeypatch.setattr(retrain, "run_job", run_job)
    paths = [retrain.trained_weights(row, 0, tmp_path) for _ in range(3)]
    assert resumed == [False, True]
    assert paths[1] == paths[2]


def test_an_unknown_training_setting_is_an_error():
    from arbench.retrain import training_job

    row = dataclasses.replace(load_experiment("digits/par-table4").row("c-causal"), training={"stepps": 2})
    with pytest.raises(ValueError, match="'stepps' is no setting of training"):
        training_job(row, 0)
