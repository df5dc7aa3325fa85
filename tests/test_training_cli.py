"""`arbench train` and `arbench cache` from the command line: small runs end to end, and one line for each mistake."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from commands import commands_of
from safetensors.torch import load_file
from tiny_trainings import pictures

from arbench.cli.train import register
from arbench.evaluation.digits_cnn import DigitsCNN
from arbench.generators.recipe import TrainConfig
from arbench.machine import sharded
from arbench.machine.sharded import read_all
from arbench.papers.experiment import load_experiment
from arbench.papers.training import training_job
from arbench.training.asked import digits_job, method_job, plain_recipe, with_settings
from arbench.training.checkpoint import find_checkpoint, read_checkpoint_facts
from arbench.training.engine import CPU_SHARDS
from arbench.training.job import Job
from arbench.training.jobs import run_job
from arbench.training.recipes import digits_recipes
from arbench.weights.load import load_generator

QUICK = ["--steps", "2", "--batch-size", "4", "--device", "cpu"]


@pytest.fixture
def cli():
    return commands_of(register)


@pytest.fixture
def folder(tmp_path):
    """An ImageFolder of two classes with four 40x36 images each."""
    return pictures(tmp_path / "data", classes=("cats", "dogs"), side=36, width=40)


def test_classifier_trains_writes_weights_and_resumes_only_what_is_there(cli, tmp_path):
    output = cli("train", "--config", "digits", "--target", "digits-cnn", *QUICK, "--out", tmp_path)
    path = tmp_path / "digits-cnn" / "digits-cnn.safetensors"
    assert f"weights in {path}" in output
    DigitsCNN().load_state_dict(load_file(path))
    with pytest.raises(ValueError, match="go on with --resume"):
        cli("train", "--target", "digits-cnn", *QUICK, "--out", tmp_path)
    with pytest.raises(ValueError, match="no checkpoint at"):
        cli("train", "--target", "digits-cnn", *QUICK, "--out", tmp_path / "other", "--resume")
    cli("train", "--target", "digits-cnn", *QUICK, "--out", tmp_path, "--resume")


@pytest.mark.parametrize("name", ["digits-kl", "digits-vq"])
def test_tokenizer_trains_and_its_weights_load(cli, tmp_path, name):
    import arbench

    cli("train", "--target", name, *QUICK, "--out", tmp_path)
    tokenizer = arbench.load_tokenizer(name, weights=tmp_path / name / f"{name}.safetensors")
    assert tokenizer.decode(tokenizer.encode(torch.zeros(1, 3, 32, 32))).shape == (1, 3, 32, 32)
    if name == "digits-kl":
        assert tokenizer.scale != 1.0


@pytest.mark.parametrize("method", ["ar", "par", "mar"])
def test_generator_trains_on_cached_tokens_of_a_folder(cli, tmp_path, folder, method):
    import arbench

    out = tmp_path / "out"
    output = cli("train", "--method", method, "--data", folder, "--size", 32, "--views", 2, *QUICK, "--out", out)
    assert "8 images x 2 views" in output
    name = f"{method}-digits"
    generator = arbench.load_generator(name, weights=out / name / f"{name}.safetensors", num_classes=2)
    assert generator.num_classes == 2
    assert len(list((out / "cache").iterdir())) == 1


def test_the_generator_of_a_tables_row_trains_with_the_rows_configuration(cli, tmp_path):
    row = ("--experiment", "digits/par-table4", "--row", "a-without")
    cli("train", *row, *QUICK, "--views", 1, "--out", tmp_path)
    (cell,) = tmp_path.glob("digits/par-table4/a-without/par-digits/par-digits.safetensors")
    generator = load_generator("par-digits", weights=cell, sequential_start=False)
    assert generator.singles == 0
    row = load_experiment("mar/table1").row("raster-causal-one-diff")
    job = training_job(row, 0, data="DIR", tokenizer_weights="kl16.ckpt")
    assert (job.target, job.kind, job.tokenizer, job.data) == ("ar-l-diff", "generator", "kl16", "DIR")
    assert (job.config.epochs, job.config.steps) == (400, 0)  # steps are known with the images


def test_a_checkpoint_of_another_model_is_not_gone_on_with(tmp_path):
    data, rows = tmp_path / "runs", load_experiment("digits/par-table4")
    jobs = [training_job(rows.row(name), 0) for name in ("a-without", "c-causal")]
    quick = [Job(**{**vars(job), "config": with_settings(job.config, steps=2, batch_size=4, views=1)}) for job in jobs]
    run_job(quick[0], data)
    with pytest.raises(ValueError, match=r"cannot resume with model_config .*: the checkpoint has .*sequential_start"):
        run_job(quick[1], data, resume=True)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--model", "mar-digits", "--which", "emma"), "unknown choice of weights 'emma'; did you mean 'ema'"),
        (("--target", "digits-cnn", "--steps", 2, "--epochs", 5), "--steps 2 and --epochs 5: expected one"),
        (("--model", "mar-b", "--steps", 2, "--epochs", 5, "--plan", 8), "--steps 2 and --epochs 5: expected one"),
    ],
)
def test_what_is_unknown_or_told_twice_trains_nothing(cli, tmp_path, words, line):
    with pytest.raises(ValueError, match=line):
        cli("train", *words, "--batch-size", 4, "--device", "cpu", "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_method_without_a_recipe_may_be_as_long_in_epochs():
    told = {"batch_size": 4, "learning_rate": 1e-3}
    assert with_settings(plain_recipe("some", {**told, "epochs": 5.0}), epochs=5.0).for_images(8).steps == 10
    assert plain_recipe("some", {**told, "steps": 3}).steps == 3
    with pytest.raises(ValueError, match="expected --steps, --learning-rate with it"):
        plain_recipe("some", {"batch_size": 4})


def test_a_row_to_train_is_named_by_table_and_row_alone(cli):
    with pytest.raises(ValueError, match="--experiment TABLE --row NAME"):
        cli("train", "--experiment", "digits/par-table4")
    with pytest.raises(ValueError, match="expected no --config"):
        cli("train", "--experiment", "digits/par-table4", "--row", "a-without", "--method", "par")
    with pytest.raises(ValueError, match="did you mean 'a-without'"):
        cli("train", "--experiment", "digits/par-table4", "--row", "a-witout")
    with pytest.raises(ValueError, match="has no generator to train"):
        cli("train", "--experiment", "mar/table4", "--row", "adm")
    with pytest.raises(ValueError, match="its tokenizer's weights are not here"):
        cli("train", "--experiment", "mar/table1", "--row", "raster-causal-one-diff", "--data", "DIR")
    row = ("--experiment", "mar/table1", "--row", "raster-causal-one-diff")
    with pytest.raises(ValueError, match="expected --data DIR"):
        cli("train", *row, "--tokenizer-weights", "random")


def test_cache_tells_its_size_first_and_is_found_again(cli, tmp_path, folder):
    arguments = ("cache", "--tokenizer", "digits-kl", "--data", folder, "--size", 32, "--views", 3, "--out", tmp_path)
    first, second = cli(*arguments), cli(*arguments)
    assert first == second
    assert first.index("MiB") < first.index("8 images in")
    assert "moments 8x8x8 as float16" in first


def test_mistakes_name_the_nearest_choice(cli, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        cli("train", "--config", "digit", "--target", "all")
    with pytest.raises(ValueError, match="did you mean 'digits-kl'"):
        cli("train", "--target", "digits-kk")
    with pytest.raises(ValueError, match="nothing to train"):
        cli("train", "--config", "digits")
    with pytest.raises(ValueError, match=r"unknown device 'gpu'; .* expected one of: auto, cpu, cuda, mps"):
        cli("train", "--target", "digits-cnn", "--device", "gpu", "--out", tmp_path)
    with pytest.raises(ValueError, match="steps=0"):
        cli("train", "--target", "digits-cnn", "--steps", 0, "--out", tmp_path)
    for command in (
        ("train", "--target", "digits-kl"),
        ("train", "--method", "ar"),
        ("cache", "--tokenizer", "digits-kl"),
    ):
        with pytest.raises(ValueError, match="image size is 0; expected at least 1 pixel"):
            cli(*command, "--size", 0, "--out", tmp_path)
        with pytest.raises(ValueError, match=r"seed.*: expected 0 to|seed is \d+; expected a whole number from 0 to"):
            cli(*command, "--seed", 2**64, "--out", tmp_path)
    with pytest.raises(ValueError, match="is of method 'mar', not 'ar'"):
        method_job("ar", "mar-digits")
    assert not list(tmp_path.iterdir())


def test_the_grid_follows_the_images_and_the_kind_has_to_fit(cli, tmp_path, folder):
    with pytest.raises(ValueError, match=r"'digits-vq' makes discrete tokens .* expected a continuous"):
        cli("train", "--method", "mar", "--tokenizer", "digits-vq", "--views", 1, *QUICK, "--out", tmp_path)
    cli("train", "--method", "ar", "--data", folder, "--size", 16, "--views", 1, *QUICK, "--out", tmp_path)
    assert load_generator("ar-digits", weights=tmp_path / "ar-digits" / "ar-digits.safetensors").grid == (4, 4)


def test_all_trains_generators_on_the_tokenizers_before_them():
    from pathlib import Path

    from arbench.cli.jobs import plan_jobs

    shared = {"data": "digits", "tokenizer": None, "tokenizer_weights": None, "device": "cpu"}
    jobs = plan_jobs("digits", "all", None, None, shared, Path("out"))
    assert [job.target for job in jobs] == list(digits_recipes())
    trained = {job.target: job.tokenizer_weights for job in jobs}
    assert trained["mar-digits"] == str(Path("out/digits-kl/digits-kl.safetensors"))
    assert jobs[0].tokenizer_weights is None


def test_learning_rate_follows_the_batch_where_the_paper_says_so():
    config = TrainConfig(steps=10, batch_size=256, learning_rate=1e-4)
    assert with_settings(config, scale_rate=True, batch_size=64).learning_rate == pytest.approx(2.5e-5)
    assert with_settings(config, scale_rate=True, batch_size=64, learning_rate=1e-3).learning_rate == 1e-3
    assert with_settings(config, batch_size=64).learning_rate == 1e-4


def test_given_settings_change_the_recipe_and_keep_the_warm_up_short():
    said = []
    changed = with_settings(digits_job("mar-digits").config, steps=100, learning_rate=None, seed=3)
    config = changed.for_images(1438, said.append)
    assert (config.steps, config.seed) == (100, 3)
    assert config.warmup_steps == 10
    assert said == ["warm-up 100 -> 10 steps: it would be over half of the run's 100, so it is a tenth of them"]
    assert config.learning_rate == digits_recipes()["mar-digits"].config.learning_rate


@pytest.mark.parametrize("name", ["mar-digits", "ar-digits"])
def test_the_checkpoint_of_an_interrupted_run_gives_the_average(name, tmp_path):
    """MAR's digits recipe trains a layer beside the model, which no weights file holds."""
    job = digits_job(name)
    job = replace(job, config=with_settings(job.config, steps=9, batch_size=4, views=1))

    def press(done, logged):
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="step 3 is saved"):
        run_job(job, tmp_path, watch=press)
    path = find_checkpoint(tmp_path / name)
    assert not list(tmp_path.rglob("*.safetensors"))
    loaded = {which: load_generator(name, weights=path, which=which).state_dict() for which in ("ema", "raw")}
    saved = {"ema": read_all(path, "ema."), "raw": read_all(path, "model.")}
    for which, state in loaded.items():
        for key, value in state.items():
            assert torch.equal(value, saved[which][key])
    assert any(not torch.equal(value, loaded["raw"][key]) for key, value in loaded["ema"].items())


def test_another_seed_is_refused_before_its_cache_is_built(tmp_path):
    job = digits_job("ar-digits")
    job = replace(job, config=with_settings(job.config, steps=2, batch_size=4, views=1))
    run_job(job, tmp_path)
    (cache,) = (tmp_path / "cache").iterdir()
    other = replace(job, config=with_settings(job.config, seed=1))
    with pytest.raises(ValueError, match="cannot resume with seed=1: the checkpoint was trained with 0"):
        run_job(other, tmp_path, resume=True)
    assert list((tmp_path / "cache").iterdir()) == [cache]
    whole = sorted(path.name for path in cache.iterdir())
    assert {"cache.json", "labels.npy", "tokens-00000.npy"} < set(whole)
    left = cache / ".tokens-00000.npy.0badcafe.partial"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    (cache / "cache.json").unlink()
    run_job(job, tmp_path, resume=True)
    assert sorted(path.name for path in cache.iterdir()) == whole


def test_the_cost_of_a_cache_is_told_beforehand(cli, tmp_path, folder):
    told = cli(
        *("cache", "--plan", "--tokenizer", "digits-kl", "--data", folder, "--size", 32, "--views", 3),
        *("--out", tmp_path / "out", "--device", "cpu"),
    )
    assert "8 images x 3 views, moments 8x8x8 as float16, 0.0 MiB" in told
    assert "24 views to encode, " in told
    assert "GPU-hours at 100 TFLOP/s" in told
    assert not (tmp_path / "out").exists()


def test_a_requeued_job_goes_on_by_itself(cli, tmp_path):
    """The same command line begins, and goes on with what is there; runs of two seeds share a cache."""
    shared = ("--method", "ar", *QUICK, "--views", 1, "--cache", tmp_path / "cache")
    cli("train", *shared, "--accumulate", 2, "--keep-last", 3, "--out", tmp_path / "out", "--resume", "auto")
    run = tmp_path / "out" / "ar-digits"
    first = {path.name: path.stat().st_mtime_ns for path in (run / "checkpoints").iterdir()}
    assert list(first) == ["step-0000002"]
    assert read_checkpoint_facts(run / "checkpoints" / "step-0000002")["parts"] == 2
    for spelling in (("--resume", "auto"), ("--resume=auto",), ("--resume-auto",)):
        cli("train", *shared, "--accumulate", 2, "--out", tmp_path / "out", *spelling)
        assert {path.name: path.stat().st_mtime_ns for path in (run / "checkpoints").iterdir()} == first
    with pytest.raises(ValueError, match="did you mean 'auto'"):
        cli("train", *shared, "--out", tmp_path / "out", "--resume=aut")
    assert {path.name for path in run.iterdir()} == {
        *("checkpoints", "config.yaml", "log.jsonl", "ar-digits.safetensors", "ar-digits-raw.safetensors"),
    }
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "cache").iterdir()] == ["digits-vq"]
    assert not (tmp_path / "out" / "cache").exists()


def test_what_torchrun_restarts_goes_on_by_itself(cli, tmp_path, monkeypatch):
    """Also where nothing was saved before; without a restart nobody asked for it."""
    command = ("train", "--config", "digits", "--target", "digits-cnn", *QUICK, "--out", tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert cli(*command).count("as with --resume auto") == 1
    path = find_checkpoint(tmp_path / "digits-cnn")
    saved, read, of_file = path.stat().st_mtime_ns, [], sharded.file_sha256
    monkeypatch.setattr(sharded, "file_sha256", lambda file: read.append(file.name) or of_file(file))
    assert "2 steps done" in cli(*command)
    assert path.stat().st_mtime_ns == saved
    assert sorted(read) == sorted(read_checkpoint_facts(path)["files"])  # each file once
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with pytest.raises(ValueError, match="go on with --resume"):
        cli(*command)


def test_epochs_of_the_data_are_the_length(cli, tmp_path):
    few = ("--method", "ar", "--batch-size", 600, "--views", 1, "--device", "cpu", "--out", tmp_path)
    assert "0.5 epochs done" in cli("train", *few, "--epochs", 0.5)
    assert read_checkpoint_facts(find_checkpoint(tmp_path / "ar-digits"))["step"] == 1  # half of 1,437 images


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "arbench"]
    command += ["train", "--method", "ar", *QUICK, "--views", "1", "--out", str(tmp_path)]
    for more in ([], ["--resume", "--steps", "3", *(["--shard"] if CPU_SHARDS else [])]):
        subprocess.run([*command, *more], check=True, capture_output=True, timeout=300)
    run = tmp_path / "ar-digits"
    assert {path.name for path in run.iterdir()} == {
        *("checkpoints", "config.yaml", "log.jsonl", "ar-digits.safetensors", "ar-digits-raw.safetensors"),
    }
    assert read_checkpoint_facts(find_checkpoint(run))["step"] == 3
    assert all(value.isfinite().all() for value in load_file(run / "ar-digits.safetensors").values())
    assert load_generator("ar-digits", weights=run / "ar-digits.safetensors").kind == "discrete"
