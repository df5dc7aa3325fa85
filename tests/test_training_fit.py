"""Training fits the generator to the tokenizer, and what cannot fit is one line before anything is encoded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from arbench.cli import run_command
from arbench.runs.models import load_parts
from arbench.training.fit import fitted_config
from arbench.training.job import read_job
from arbench.weights.load import load_generator
from arbench.weights.provenance import read_provenance

CPU = torch.device("cpu")
QUICK = ("--steps", "2", "--batch-size", "4", "--views", "1", "--device", "cpu")


class Plane:
    """Latents of six channels, 4 pixels a token: grey means, shifted and scaled by channel."""

    name, kind, downsample, channels, vocab_size = "plane", "continuous", 4, 6, None
    shift, scale = torch.linspace(-1, 0, 6), torch.linspace(1, 2, 6)
    encoded = 0

    def encode(self, images, *, rng=None):
        type(self).encoded += len(images)
        means = F.avg_pool2d(images.mean(1, keepdim=True), self.downsample).expand(-1, self.channels, -1, -1)
        return (means - self.shift.view(-1, 1, 1)) * self.scale.view(-1, 1, 1)

    def decode(self, tokens):
        means = (tokens / self.scale.view(-1, 1, 1) + self.shift.view(-1, 1, 1)).mean(1, keepdim=True)
        return F.interpolate(means, scale_factor=float(self.downsample)).expand(-1, 3, -1, -1)


class Greys:
    """Codes of grey, `vocab_size` of them."""

    name, kind, downsample, channels, vocab_size, scale = "greys", "discrete", 8, 1, 11, 1.0

    def encode(self, images, *, rng=None):
        grey = F.avg_pool2d(images.mean(1, keepdim=True), self.downsample)[:, 0]
        return ((grey + 1) / 2 * self.vocab_size).long().clamp(0, self.vocab_size - 1)

    def decode(self, tokens):
        grey = (tokens + 0.5) / self.vocab_size * 2 - 1
        return F.interpolate(grey.unsqueeze(1), scale_factor=float(self.downsample)).expand(-1, 3, -1, -1)


class Fine(Greys):
    name, downsample, vocab_size = "fine", 2, 128


PLANE, GREYS, FINE = (f"{__name__}:{kind.__name__}" for kind in (Plane, Greys, Fine))


@pytest.mark.parametrize(
    ("method", "tokenizer", "fitted"),
    [
        ("mar", PLANE, {"channels": 6, "grid": (8, 8)}),
        ("dit", PLANE, {"channels": 6, "grid": (8, 8)}),
        ("ar", GREYS, {"vocab_size": 11, "grid": (4, 4)}),
        ("par", FINE, {"vocab_size": 128, "grid": (16, 16)}),
    ],
)
def test_a_foreign_tokenizer_from_training_to_images(method, tokenizer, fitted, tmp_path, capsys):
    assert run_command(["train", "--method", method, "--tokenizer", tokenizer, *QUICK, "--out", str(tmp_path)]) == 0
    weights = tmp_path / f"{method}-digits" / f"{method}-digits.safetensors"
    told = read_provenance(weights)
    assert {name: told.config[name] for name in fitted} == fitted
    assert told.tokenizer.name == tokenizer
    parts = load_parts(weights=weights, device=CPU)
    assert (parts.model, parts.tokenizer_name, parts.decoded_size) == (f"{method}-digits", tokenizer, 32)
    few = [
        *(("--num-iter", "2") if method == "mar" else ()),
        *(() if method in ("ar", "par") else ("--head-steps", "2")),
    ]
    sample = ["sample", "--weights", str(weights), "--labels", "3", "--per-class", "2", *few, "--device", "cpu"]
    assert run_command([*sample, "--out", str(tmp_path / "grid.png")]) == 0
    assert run_command(["sample", "--weights", str(weights), "--tokenizer", "digits-vq"]) == 2
    assert "expected" in capsys.readouterr().err


def test_weights_alone_run_and_are_timed(tmp_path, capsys):
    assert run_command(["train", "--method", "ar", "--tokenizer", GREYS, *QUICK, "--out", str(tmp_path)]) == 0
    weights = str(tmp_path / "ar-digits" / "ar-digits.safetensors")
    command = ["run", "--weights", weights, "--num-images", "4", "--no-evaluate", "--device", "cpu"]
    assert run_command([*command, "--out", str(tmp_path / "runs")]) == 0
    assert run_command(["bench", "--weights", weights, "--batch-size", "1", "--repeats", "1", "--device", "cpu"]) == 0
    assert GREYS in capsys.readouterr().out


def test_what_cannot_fit_is_told_before_anything_is_encoded(tmp_path, capsys):
    Plane.encoded = 0
    wrong = {
        ("--method", "mar", "--tokenizer", GREYS): "makes discrete tokens but model 'mar-digits' draws continuous",
        (
            "--method",
            "ar",
            "--tokenizer",
            PLANE,
        ): "makes continuous tokens .* expected a discrete tokenizer, or --method",
        (
            "--method",
            "mar",
            "--tokenizer",
            PLANE,
            "--size",
            "30",
        ): "--size 30: not a multiple of 4 .* expected 28 or 32",
        ("--method", "par", "--tokenizer", GREYS, "--size", "56"): "7x7 tokens of 56 px, which do not suit model 'par",
    }
    for options, line in wrong.items():
        assert run_command(["train", *options, *QUICK, "--out", str(tmp_path)]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        with pytest.raises(ValueError, match=line):
            raise ValueError(said)
    assert Plane.encoded == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_encoded(tmp_path, capsys):
    Plane.encoded, file = 0, tmp_path / "file"
    file.write_text("x")
    words = ["train", "--method", "mar", "--tokenizer", PLANE, *QUICK, "--cache", str(tmp_path / "cache")]
    assert run_command([*words, "--out", str(file)]) == 2
    assert f"{file / 'mar-digits'}: Not a directory" in capsys.readouterr().err
    assert Plane.encoded == 0
    assert list(tmp_path.iterdir()) == [file]


def test_the_folder_of_a_cache_itself_is_told(tmp_path, capsys):
    Plane.encoded, inner = 0, tmp_path / "plane-0123456789ab"
    inner.mkdir()
    (inner / "cache.json").write_text("{}")
    words = ["train", "--method", "mar", "--tokenizer", PLANE, *QUICK, "--cache", str(inner)]
    assert run_command([*words, "--out", str(tmp_path / "out")]) == 2
    assert f"is a token cache itself; expected the folder that holds it, {tmp_path}" in capsys.readouterr().err
    assert Plane.encoded == 0
    assert not (tmp_path / "out").exists()


def test_a_batch_is_cut_as_was_asked_for_or_not_at_all(tmp_path, capsys):
    words = ["train", "--method", "mar", "--tokenizer", PLANE, *QUICK, "--out", str(tmp_path), "--accumulate"]
    for asked, near in (("3", "2 or 4"), ("8", "4")):
        assert run_command([*words, asked]) == 2
        assert f"a batch of 4 cannot be cut into {asked} micro-batches" in (told := capsys.readouterr().err)
        assert f"expected {near} of them" in told
    assert list(tmp_path.iterdir()) == []


def test_patches_have_to_divide_the_tokens():
    assert fitted_config("mar-digits", "plane", Plane(), 64, {"patch_size": 2})["grid"] == 8
    with pytest.raises(ValueError, match=r"--size 36: not a multiple of 8 .*patch of 2.* expected 32 or 40"):
        fitted_config("mar-digits", "plane", Plane(), 36, {"patch_size": 2})
    with pytest.raises(ValueError, match="channels 16 is asked for, but tokenizer 'plane' has 6"):
        fitted_config("mar-digits", "plane", Plane(), 32, {"channels": 16})


def test_a_tables_row_trains_on_another_tokenizer(tmp_path):
    row = ("--experiment", "digits/par-table4", "--row", "a-without", "--tokenizer", FINE)
    assert run_command(["train", *row, *QUICK, "--out", str(tmp_path)]) == 0
    (weights,) = tmp_path.glob("digits/par-table4/a-without/par-digits/par-digits.safetensors")
    generator = load_parts(weights=weights, device=CPU).generator
    assert (generator.vocab_size, generator.grid, generator.config.sequential_start) == (128, (16, 16), False)


def test_the_file_beside_the_weights_repeats_the_training(tmp_path, capsys):
    first, again = tmp_path / "first", tmp_path / "again"
    assert run_command(["train", "--method", "ar", "--tokenizer", GREYS, *QUICK, "--out", str(first)]) == 0
    settings = first / "ar-digits" / "config.yaml"
    assert run_command(["train", "--config", str(settings), "--out", str(again)]) == 0
    weights = "ar-digits/ar-digits.safetensors"
    assert (first / weights).read_bytes() == (again / weights).read_bytes()
    content = yaml.safe_load(settings.read_text())
    assert (content["tokenizer"], content["training"]["steps"]) == (GREYS, 2)
    capsys.readouterr()
    assert run_command(["train", "--config", str(settings), "--method", "mar"]) == 2
    assert "says what is trained" in capsys.readouterr().err
    settings.write_text(settings.read_text().replace("learning_rate", "learning_rat"))
    with pytest.raises(ValueError, match="unknown setting 'learning_rat'; did you mean 'learning_rate'"):
        read_job(settings)


def test_training_starts_from_given_weights(tmp_path, capsys):
    train = ["train", "--method", "par", "--batch-size", "4", "--views", "1", "--device", "cpu"]
    shipped = load_generator("par-digits").state_dict()
    start = tmp_path / "start.pt"
    torch.save({"model": {name: value + 1 for name, value in shipped.items()}, "model_ema": shipped}, start)
    still = ["--steps", "1", "--learning-rate", "1e-12", "--init", str(start)]
    for which, expected in (("ema", 0.0), ("raw", 1.0)):
        assert run_command([*train, *still, "--which", which, "--out", str(tmp_path / which)]) == 0
        trained = load_file(tmp_path / which / "par-digits" / "par-digits.safetensors")
        for name, value in shipped.items():  # one step at a rate of 1e-12 moves nothing that float32 would show
            torch.testing.assert_close(trained[name], value + expected, rtol=0, atol=1e-5)
    capsys.readouterr()
    assert run_command([*train, "--init", str(start), "--tokenizer", GREYS, "--out", str(tmp_path / "x")]) == 2
    assert "its tensors say vocab_size 256, not 11" in capsys.readouterr().err


def test_training_on_fewer_classes_than_the_start_knows(tmp_path, capsys):
    folder = tmp_path / "pictures"
    for name in ("circle", "square"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            grey = np.full((32, 32, 3), 20 * number + len(name), np.uint8)
            Image.fromarray(grey).save(folder / name / f"{number}.png")
    start = tmp_path / "start.safetensors"
    save_file(load_generator("par-digits").state_dict(), start)
    train = ["train", "--method", "par", "--tokenizer", "digits-vq", "--data", str(folder), "--size", "32", *QUICK]
    assert run_command([*train, "--init", str(start), "--out", str(tmp_path / "few")]) == 0
    told = capsys.readouterr()
    assert f"the data's 2 classes take the places of the first 2 of the 10 that {start} knows" in told.out + told.err
    trained = load_file(tmp_path / "few" / "par-digits" / "par-digits.safetensors")
    assert trained["cls_embedding.embedding_table.weight"].shape[0] == 11  # and the unconditional one
    longer = [*train, "--steps", "4", "--init", str(start), "--resume", "--out", str(tmp_path / "few")]
    assert run_command(longer) == 0
    for number in range(11):
        (folder / f"more-{number}").mkdir()
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(folder / f"more-{number}" / "0.png")
    assert run_command([*train, "--init", str(start), "--out", str(tmp_path / "more")]) == 2
    assert "knows 10 classes, the data has 13; expected no more than it knows" in capsys.readouterr().err
