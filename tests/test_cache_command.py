"""`arbench cache --model`: what is made is what the training of that model then reads."""

from __future__ import annotations

import pytest
from commands import commands_of
from tiny_trainings import pictures

from arbench.cli.train import register
from arbench.generators.methods import get_preset
from arbench.training.asked import method_job
from arbench.training.job import write_job

TOYS = """
from torch.nn import functional as F

class Greys:
    name, kind, downsample, channels, vocab_size, scale = "greys", "discrete", 8, 1, 16, 1.0

    def encode(self, images, *, rng=None):
        grey = F.avg_pool2d(images.mean(1, keepdim=True), 8)[:, 0]
        return ((grey + 1) / 2 * 16).long().clamp(0, 15)

    def decode(self, tokens):
        return F.interpolate(tokens[:, None] / 8.0 - 1, scale_factor=8.0).expand(-1, 3, -1, -1)

class Plane:
    name, kind, downsample, channels, vocab_size, shift, scale = "plane", "continuous", 8, 4, None, 0.0, 0.5

    def encode(self, images, *, rng=None):
        return F.avg_pool2d(images.mean(1, keepdim=True), 8).expand(-1, 4, -1, -1) * 0.5

    def decode(self, tokens):
        return F.interpolate(tokens[:, :1] / 0.5, scale_factor=8.0).expand(-1, 3, -1, -1)
"""
TINY = {
    "ar-b": {"width": 16, "depth": 1, "heads": 2},
    "mar-b": {
        **dict.fromkeys(("encoder_width", "decoder_width", "head_width"), 16),
        **dict.fromkeys(("encoder_depth", "decoder_depth", "head_depth"), 1),
        **dict.fromkeys(("encoder_heads", "decoder_heads"), 2),
        "buffer_size": 4,
    },
}


@pytest.fixture
def cli():
    return commands_of(register)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Options of eight images of two classes; the tokenizers of `TOYS` can be imported."""
    (tmp_path / "cache_toys.py").write_text(TOYS)
    monkeypatch.syspath_prepend(tmp_path)
    data = pictures(tmp_path / "data", classes=("cats", "dogs"), side=16)
    return ("--data", data, "--size", 16, "--device", "cpu")


@pytest.mark.parametrize(("model", "tokenizer", "views"), [("ar-b", "Greys", 20), ("mar-b", "Plane", 2)])
def test_a_training_finds_the_cache_of_its_model(cli, source, tmp_path, model, tokenizer, views):
    asked = ("--model", model, "--tokenizer", f"cache_toys:{tokenizer}", *source, "--cache", tmp_path / "caches")
    planned = cli("cache", "--plan", *asked)
    assert not (tmp_path / "caches").exists()
    said = cli("cache", *asked)
    (cache,) = (tmp_path / "caches").iterdir()
    assert f"token cache {cache}: 8 images x {views} views" in planned
    assert f"8 images in {cache}" in said
    job = method_job(
        get_preset(model).method,
        model,
        tokenizer=f"cache_toys:{tokenizer}",
        data=str(tmp_path / "data"),
        size=16,
        model_config=TINY[model],
    )
    write_job(job, tmp_path / "job")
    quick = ("--steps", 2, "--batch-size", 4, "--accumulate", 1, "--cache", tmp_path / "caches", "--out", tmp_path)
    written = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert f"token cache {cache}: " in cli("train", "--config", tmp_path / "job" / "config.yaml", *quick)
    assert list((tmp_path / "caches").iterdir()) == [cache]
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == written


def test_view_sets_by_themselves(cli, source, tmp_path):
    asked = ("cache", "--tokenizer", "cache_toys:Greys", *source)
    names = {}
    for view_set, views in (("mirror", 2), ("ten-crop", 20), ("random", 1)):
        assert f"x {views} views" in cli(*asked, "--view-set", view_set, "--out", tmp_path / view_set)
        (names[view_set],) = (path.name for path in (tmp_path / view_set).iterdir())
    assert len(set(names.values())) == 3
    assert names["random"] in cli(*asked, "--plan", "--cache", tmp_path / "plain")


def test_what_contradicts_itself_is_told(cli, source, tmp_path):
    asked = ("cache", "--tokenizer", "cache_toys:Greys", *source)
    with pytest.raises(ValueError, match="unknown view set 'tencrop'; did you mean 'ten-crop'"):
        cli(*asked, "--view-set", "tencrop")
    for more in (("--views", 2), ("--flip",)):
        with pytest.raises(ValueError, match="--view-set mirror says which views there are; expected no --views"):
            cli(*asked, "--view-set", "mirror", *more)
    with pytest.raises(ValueError, match="--flip: the recipe of ar-b says how its views are drawn; expected no --flip"):
        cli(*asked, "--model", "ar-b", "--flip")
    with pytest.raises(ValueError, match=r"--out .* and --cache .*: expected one of them"):
        cli(*asked, "--out", tmp_path / "a", "--cache", tmp_path / "b")
    with pytest.raises(ValueError, match="'cache_toys:Greys' makes discrete tokens but model 'mar-b' draws continuous"):
        cli(*asked, "--model", "mar-b", "--out", tmp_path / "a")
    assert not (tmp_path / "a").exists()
