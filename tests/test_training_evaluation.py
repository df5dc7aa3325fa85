"""Evaluation while training: ordinary records, the best kept, nothing of the training changed, failures told."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import TINY_GPT
from training_cases import needs_cpu_shards

import arbench
from arbench.cli import run_command
from arbench.generators.methods import get_preset
from arbench.machine.log import read_lines
from arbench.machine.peak import gpu_peak
from arbench.papers.collect import load_records
from arbench.report import logs
from arbench.report.curves import record_curves
from arbench.report.protocols import Marks
from arbench.report.record import load_record
from arbench.report.values import group_seeds
from arbench.training import evaluation
from arbench.training.asked import digits_job, with_settings
from arbench.training.evaluated import BEST_NAME, best_step, evaluation_name, stored_evaluations
from arbench.training.evaluation import Evaluating
from arbench.training.job import Job, write_job
from arbench.training.jobs import run_job
from arbench.training.log import LOG_NAME
from arbench.training.parts import undisturbed
from arbench.weights.read import read_tensors

STEPS, EVERY, IMAGES = 6, 3, 20
SCALES = (get_preset("ar-digits").sampling["cfg_scale"], 1.0)


def tiny_job(cache: Path, **changes: object) -> Job:
    job = digits_job("ar-digits", model_config=TINY_GPT, cache=str(cache))
    return dataclasses.replace(job, config=with_settings(job.config, steps=STEPS, batch_size=8, views=1), **changes)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokens that every training of this file is on."""
    return tmp_path_factory.mktemp("cache")


def trained(job: Job, out: Path, **options: object) -> dict[str, torch.Tensor]:
    """Raw and averaged weights of a finished training."""
    run_job(job, out, **options)  # type: ignore[arg-type]
    raw, averaged = load_file(job.raw_weights_path(out)), load_file(job.weights_path(out))
    return {**{f"raw.{name}": value for name, value in raw.items()}, **averaged}


class Recorder:
    """A log that keeps what it is told."""

    told: ClassVar[list] = []

    def __init__(self, folder: Path, title: str, facts: dict, step: int) -> None:
        self.told.append(("open", {"folder": folder, "title": title}, step))

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.told.append(("scalars", values, step))

    def picture(self, name: str, file: Path, step: int) -> None:
        self.told.append((name, file.is_file(), step))

    def close(self) -> None:
        self.told.append(("close", {}, 0))


@pytest.fixture(scope="module")
def plain(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of a training that nobody evaluates."""
    return trained(tiny_job(cache), tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def evaluated(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor], list[str]]:
    """The folder of one that is evaluated and logged, its weights, and what was said."""
    out, said = tmp_path_factory.mktemp("runs") / "train", []
    job, asked = tiny_job(cache), Evaluating(steps=EVERY, num_images=IMAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(logs.LOGS, "wandb", Recorder)  # type: ignore[arg-type]
        patch.setattr(logs, "is_installed", lambda name: True)
        weights = trained(job, out, evaluating=asked, say=said.append, logs=("wandb",))
    return job.folder(out), weights, said


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_training_that_is_evaluated_is_the_same_to_the_bit(evaluated, plain):
    assert_equal(evaluated[1], plain)


def test_each_evaluation_is_a_record_with_epoch_and_step(evaluated):
    folder, _, said = evaluated
    records = {step: load_record(file) for step, file in stored_evaluations(folder).items()}
    assert list(records) == [EVERY, STEPS]
    for step, record in records.items():
        assert record["source"]["step"] == step
        assert record["source"]["epoch"] == pytest.approx(step * 8 / 1438, abs=1e-4)
        assert record["source"]["trained_in"] == "train/ar-digits"
        assert record["metrics"]["fid"] > 0
        assert f"FID-{IMAGES} {record['metrics']['fid']:.2f}" in "".join(said)
    assert len({record["weights"]["sha256"] for record in records.values()}) == 2


def test_the_weights_of_the_best_are_kept_and_are_those_that_were_drawn_with(evaluated, tmp_path):
    folder = evaluated[0]
    best = min(load_records([folder]), key=lambda record: record["metrics"]["fid"])
    found = read_tensors(folder / BEST_NAME).metadata
    assert (int(found["step"]), float(found["epoch"])) == (best["source"]["step"], best["source"]["epoch"])
    assert not list(folder.glob("step-*.safetensors"))
    again = arbench.run(weights=folder / BEST_NAME, num_images=IMAGES, out=tmp_path, device="cpu")
    assert again["metrics"] == best["metrics"]
    assert again["weights"]["sha256"] == best["weights"]["sha256"]


def test_a_log_hears_of_the_training_and_of_its_evaluations(evaluated):
    first, *told, last = Recorder.told
    assert (first[1], last[0]) == ({"folder": evaluated[0], "title": "ar-digits"}, "close")
    assert [(kind, step) for kind, _, step in told] == [
        *(("scalars", EVERY), ("evaluation/images", EVERY)),
        *(("scalars", STEPS), ("scalars", STEPS), ("evaluation/images", STEPS)),
    ]
    (training, scores) = [values for kind, values, step in told if (kind, step) == ("scalars", STEPS)]
    assert {"training/loss", "training/gradient_norm", "training/memory_gib", "training/epoch"} <= set(training)
    record = load_record(stored_evaluations(evaluated[0])[STEPS])
    assert scores["evaluation/fid"] == record["metrics"]["fid"]


def test_the_last_average_is_what_training_hands_over(evaluated):
    folder, weights, _ = evaluated
    last = load_record(stored_evaluations(folder)[STEPS])
    metadata = read_tensors(folder / BEST_NAME).metadata
    if int(metadata["step"]) == STEPS:
        assert_equal(load_file(folder / BEST_NAME), {k: v for k, v in weights.items() if not k.startswith("raw.")})
    assert last["model"] == "ar-digits"


def test_curves_over_epochs_one_a_training(evaluated, tmp_path):
    folder, _, _ = evaluated
    assert run_command(["plot", str(folder), "--x", "epoch", "--y", "fid", "-o", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").stat().st_size > 1000
    records = load_records([folder])
    others = [
        {**record, "source": {**record["source"], "trained_in": "other/ar-digits"}, "weights": {"sha256": str(number)}}
        for number, record in enumerate(records)
    ]
    curves = record_curves(group_seeds([*records, *others]), "epoch", "fid", Marks())
    assert [curve.name for curve in curves] == ["AR train/ar-digits", "AR other/ar-digits"]
    for curve in curves:
        assert [point.x for point in curve.points] == [record["source"]["epoch"] for record in records]
        assert [point.y for point in curve.points] == [record["metrics"]["fid"] for record in records]
        assert curve.joined
        assert all(point.label == "" and point.y_interval is not None for point in curve.points)
    assert [p.x for p in record_curves(group_seeds(records), "step", "fid", Marks())[0].points] == [EVERY, STEPS]


def test_a_failed_evaluation_costs_one_line(cache, tmp_path, plain, monkeypatch):
    calls: list[int] = []

    def broken(*given: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("CUDA error: an\nillegal memory access")
        real(*given)  # type: ignore[arg-type]

    real, said = evaluation.sample, []
    monkeypatch.setattr(evaluation, "sample", broken)
    job = tiny_job(cache)
    damaged = job.folder(tmp_path) / "evaluations/step-0000001/run/record.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    weights = trained(job, tmp_path, evaluating=Evaluating(steps=EVERY, num_images=IMAGES), say=said.append)
    assert_equal(weights, plain)
    (line,) = [line for line in said if line.startswith("evaluation at step")]
    assert line.startswith("evaluation at step 3 failed, training goes on: CUDA error: an")
    assert "\n" not in line
    assert list(stored_evaluations(job.folder(tmp_path))) == [1, STEPS]
    assert not (job.folder(tmp_path) / "evaluations/step-0000003").exists()
    assert [line for line in said if line.startswith(f"not compared with others: {damaged}: not valid JSON")]
    assert (job.folder(tmp_path) / BEST_NAME).is_file()


def test_a_signal_ends_an_evaluation_which_the_resumed_training_does_again(cache, tmp_path, plain, monkeypatch):
    real = evaluation.sample

    def pressed(*given: object) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        real(*given)  # type: ignore[arg-type]

    job, asked = tiny_job(cache), Evaluating(steps=EVERY, num_images=IMAGES)
    monkeypatch.setattr(evaluation, "sample", pressed)
    with pytest.raises(KeyboardInterrupt, match="step 3 is saved"):
        run_job(job, tmp_path, evaluating=asked)
    monkeypatch.setattr(evaluation, "sample", real)
    assert not stored_evaluations(job.folder(tmp_path))
    assert_equal(trained(job, tmp_path, evaluating=asked, resume=True), plain)
    assert list(stored_evaluations(job.folder(tmp_path))) == [EVERY, STEPS]


def test_what_was_killed_after_its_record_is_settled(evaluated):
    folder = evaluated[0]
    best = min(load_records([folder]), key=lambda record: record["metrics"]["fid"])["source"]["step"]
    (folder / BEST_NAME).rename(folder / f"step-{best:07d}.safetensors")
    job = tiny_job(folder.parent)
    job = dataclasses.replace(job, config=job.config.for_images(1438))
    between = evaluation.Evaluation(Evaluating(steps=EVERY), job, folder, evaluation.Processes())
    assert between._missing(best) == []
    assert (folder / BEST_NAME).is_file()
    assert not list(folder.glob("step-*.safetensors"))
    assert between._missing(5) == [""]


@pytest.fixture(scope="module")
def guided(cache: Path, plain, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple]]:
    """The folder of one that is evaluated with its own guidance and without, ended by a signal between two records and
    resumed, and what its log was told after that; its records of before are those of after."""
    real, drawn, job = evaluation.sample, [], tiny_job(cache)
    out, asked = (
        tmp_path_factory.mktemp("runs") / "train",
        Evaluating(steps=EVERY, num_images=IMAGES, cfg_scales=SCALES),
    )

    def counted(*given: object) -> None:
        drawn.append(given)
        if len(drawn) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        real(*given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "sample", counted)
        patch.setattr(Recorder, "told", [])
        patch.setitem(logs.LOGS, "wandb", Recorder)  # type: ignore[arg-type]
        patch.setattr(logs, "is_installed", lambda name: True)
        with pytest.raises(KeyboardInterrupt, match="step 3 is saved"):
            run_job(job, out, evaluating=asked)
        folder = job.folder(out)
        (first,) = stored_evaluations(folder).values()
        assert not stored_evaluations(folder, "no-cfg")
        before = first.read_bytes()
        assert_equal(trained(job, out, evaluating=asked, resume=True, logs=("wandb",)), plain)
        assert (first.read_bytes(), len(drawn)) == (before, 5)  # of four records, the one that was broken off twice
        return folder, Recorder.told


def test_each_setting_has_its_own_record_and_only_what_is_missing_is_drawn_again(guided):
    folder, _ = guided
    names = sorted(path.name for path in (folder / "evaluations").iterdir())
    assert names == ["step-0000003", "step-0000003-no-cfg", "step-0000006", "step-0000006-no-cfg"]
    for name, scale in (("", SCALES[0]), ("no-cfg", 1.0)):
        records = {step: load_record(file) for step, file in stored_evaluations(folder, name).items()}
        assert {step: record["sampling"]["cfg_scale"] for step, record in records.items()} == {3: scale, 6: scale}
    own = {load_record(file)["metrics"]["fid"]: step for step, file in stored_evaluations(folder).items()}
    assert int(read_tensors(folder / BEST_NAME).metadata["step"]) == own[min(own)]
    assert not list(folder.glob("step-*.safetensors"))


def test_each_setting_is_a_name_in_logs_and_a_line_of_a_plot(guided, tmp_path):
    folder, told = guided
    pictures = [(kind, step) for kind, _, step in told if kind.endswith("images")]
    own, plain = "evaluation/images", "evaluation/no-cfg/images"
    assert pictures == [(plain, EVERY), (own, STEPS), (plain, STEPS)]
    scores = [{name for name in values if name.endswith("/fid")} for kind, values, _ in told if kind == "scalars"]
    assert [names for names in scores if names] == [{kind.replace("images", "fid")} for kind, _ in pictures]
    records = load_records([folder])
    other = [{**record, "source": {**record["source"], "trained_in": "b"}, "seed": 1} for record in records[:1]]
    curves = record_curves(group_seeds(records), "epoch", "fid", Marks())
    assert [curve.name for curve in curves] == [f"AR, guidance {SCALES[0]:g}", "AR, guidance 1"]
    assert all(curve.joined and len(curve.points) == 2 for curve in curves)
    both = record_curves([*group_seeds(records), *group_seeds(other)], "epoch", "fid", Marks())
    assert both[-1].name == "AR b"  # one that was evaluated in one way alone
    assert run_command(["plot", str(folder), "--x", "epoch", "--y", "fid", "-o", str(tmp_path / "two.svg")]) == 0
    assert all(curve.name in (tmp_path / "two.svg").read_text() for curve in curves)


def test_the_first_setting_decides_which_weights_are_the_best(guided, tmp_path):
    (file, *_) = stored_evaluations(guided[0]).values()
    record = load_record(file)
    for name, fids in (("", (5.0, 4.0)), ("no-cfg", (1.0, 2.0))):
        for step, fid in zip((EVERY, STEPS), fids, strict=True):
            copy = tmp_path / "evaluations" / evaluation_name(step, name) / "run/record.json"
            copy.parent.mkdir(parents=True)
            copy.write_text(json.dumps({**record, "metrics": {**record["metrics"], "fid": fid}}))
    assert (best_step(tmp_path, ""), best_step(tmp_path, "no-cfg")) == (STEPS, EVERY)
    job = tiny_job(tmp_path)
    job = dataclasses.replace(job, config=job.config.for_images(1438))
    for scales, best in ((SCALES, STEPS), (SCALES[::-1], EVERY)):
        for step in (EVERY, STEPS):
            (tmp_path / f"step-{step:07d}.safetensors").write_text(str(step))
        asked = Evaluating(steps=EVERY, cfg_scales=scales)
        evaluation.Evaluation(asked, job, tmp_path, evaluation.Processes())._keep_best()
        assert (tmp_path / BEST_NAME).read_text() == str(best)


def test_mistakes_are_told_before_anything_is_encoded(tmp_path, capsys):
    with pytest.raises(ValueError, match="expected one of them"):
        Evaluating(epochs=1, steps=2)
    with pytest.raises(ValueError, match="above 0"):
        Evaluating(epochs=0)
    job = tiny_job(tmp_path / "cache")
    job = dataclasses.replace(job, config=job.config.for_images(1438))
    for changes, asked, told in (
        ({"data": str(tmp_path)}, {}, "expected --eval-reference"),
        ({}, {"reference": "digits-heldot"}, "digits-heldout"),
        ({}, {"num_images": 0}, "num_images"),
        ({}, {"extractor": "digits-cn"}, "digits-cnn"),
    ):
        with pytest.raises((ValueError, OSError), match=told):
            evaluation.Evaluation(
                Evaluating(steps=1, **asked), dataclasses.replace(job, **changes), tmp_path, evaluation.Processes()
            )
    command = ["train", "--target", "ar-digits", "--steps", "2", "--out", str(tmp_path), "--device", "cpu"]
    for scales, told in (("1,x", "cfg_scale 'x': expected float"), ("3,-1", "cfg_scale -1.0: expected 0 or more")):
        capsys.readouterr()
        assert run_command([*command, "--eval-steps", "1", "--eval-cfg", scales]) == 2
        assert told in capsys.readouterr().err
    assert run_command([*command, "--eval-cfg", "1"]) == 2  # how often is not said
    assert run_command([*command, "--eval-steps", "1", "--eval-reference", "digits-heldot"]) == 2
    assert run_command(["train", "--target", "digits-kl", "--out", str(tmp_path), "--eval-steps", "1"]) == 2
    assert not list(tmp_path.glob("**/*.npy"))


def sharded_by_two(job: Job, folder: Path, name: str, *options: str) -> str:
    """Train `job` on two processes below `folder`/`name`, by the command line; returns what was printed."""
    write_job(job, folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "arbench"]
    command += ["train", "--config", str(folder / "config.yaml"), "--shard", "--out", str(folder / name), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@needs_cpu_shards
def test_two_processes_with_sharded_weights_evaluate_the_weights_of_all(cache, tmp_path):
    job = tiny_job(cache)
    asked = ["--eval-steps", str(STEPS), "--eval-images", str(IMAGES), "--eval-cfg", ",".join(map(str, SCALES))]
    said = sharded_by_two(job, tmp_path, "two", *asked)
    ((step, file),) = stored_evaluations(job.folder(tmp_path / "two")).items()
    record = load_record(file)
    assert (step, record["hardware"]["processes"]) == (STEPS, 2)
    assert (said.count("step 6, epoch"), len(stored_evaluations(job.folder(tmp_path / "two"), "no-cfg"))) == (2, 1)
    weights = job.weights_path(tmp_path / "two")
    last = arbench.run(weights=weights, num_images=IMAGES, out=tmp_path / "run", device="cpu")
    assert last["metrics"]["fid"] == pytest.approx(record["metrics"]["fid"], rel=1e-6)  # sums of shards round otherwise
    assert last["metrics"]["label_accuracy"] == record["metrics"]["label_accuracy"]


@needs_cpu_shards
@pytest.mark.slow
def test_sharded_weights_are_the_same_with_and_without_evaluation(cache, tmp_path):
    job = tiny_job(cache)
    sharded_by_two(job, tmp_path, "plain")
    sharded_by_two(job, tmp_path, "evaluated", "--eval-steps", "2", "--eval-images", str(IMAGES))
    assert list(stored_evaluations(job.folder(tmp_path / "evaluated"))) == [2, 4, 6]
    assert_equal(*(load_file(job.raw_weights_path(tmp_path / name)) for name in ("plain", "evaluated")))
    assert_equal(*(load_file(job.weights_path(tmp_path / name)) for name in ("plain", "evaluated")))


@pytest.mark.gpu
def test_a_training_on_a_gpu_is_evaluated_there(cache, tmp_path):
    job, device = tiny_job(cache, device="cuda"), torch.device("cuda")
    run_job(job, tmp_path, evaluating=Evaluating(steps=EVERY, num_images=IMAGES))
    records = [load_record(file) for file in stored_evaluations(job.folder(tmp_path)).values()]
    assert [record["source"]["step"] for record in records] == [EVERY, STEPS]
    assert {record["hardware"]["device"] for record in records} == {"cuda"}
    told = read_lines(job.folder(tmp_path) / LOG_NAME)[-1]
    assert told["memory_gib"] > 0
    peak = gpu_peak(torch.cuda.get_device_properties(device).name, torch.float32)
    assert ("mfu" in told) == (peak is not None)
    before = torch.cuda.get_rng_state(device)
    with undisturbed(torch.device("cuda", 0)):
        torch.randn(3, device=device)
    assert torch.equal(torch.cuda.get_rng_state(device), before)
