"""Training goes on from the token cache alone where the images are not there any more."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace

import pytest
from safetensors.torch import load_file
from tiny_trainings import pictures

from arbench.images.data import is_absent, open_data
from arbench.training.absent import NOTE_NAME
from arbench.training.asked import method_job, with_settings
from arbench.training.checkpoint import find_checkpoint, read_checkpoint_facts
from arbench.training.jobs import run_job


@pytest.fixture
def tree(tmp_path):
    return pictures(tmp_path / "data", classes=("cats", "dogs"), side=16)


@pytest.fixture
def job(tree, tmp_path):
    """Two steps of a tiny generator on a shared cache."""
    asked = method_job(
        "ar",
        "ar-digits",
        data=str(tree),
        size=16,
        cache=str(tmp_path / "cache"),
        model_config={"width": 16, "depth": 1, "heads": 2},
    )
    return replace(asked, config=with_settings(asked.config, steps=2, batch_size=4, view_set="mirror"))


def lose(tree):
    tree.rename(tree.with_name("moved"))


def checkpoint_of(out):
    """What a training's checkpoint says it is made of."""
    return read_checkpoint_facts(find_checkpoint(out / "ar-digits"))["made_of"]


def weights(path):
    return {name: value.numpy().tobytes() for name, value in load_file(path).items()}


def test_the_cache_alone_trains_the_same_weights_and_resumes(job, tree, tmp_path):
    longer, said = replace(job, config=with_settings(job.config, steps=4)), []
    whole = weights(run_job(job, tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "begun")
    made_of = checkpoint_of(tmp_path / "whole")
    assert "SHA-256" in made_of["data"]
    resumed = weights(run_job(longer, tmp_path / "whole", resume=True))
    lose(tree)
    assert weights(run_job(job, tmp_path / "again", say=said.append)) == whole
    assert checkpoint_of(tmp_path / "again") == made_of
    (cache,) = (tmp_path / "cache").iterdir()
    assert f"images: {tree} is not there; training needs none, its tokens are in {cache}" in said
    tree.mkdir()  # as where a disk is not mounted
    assert weights(run_job(longer, tmp_path / "begun", resume=True)) == resumed != whole


def test_shards_may_be_gone_too(job, tree, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        shard.add(tree, ".")
    packed = replace(job, data=f"shards:{tmp_path}/*.tar")
    whole = weights(run_job(packed, tmp_path / "whole"))
    (tmp_path / "0.tar").unlink()
    monkeypatch.chdir(tmp_path)
    assert weights(run_job(replace(packed, data="shards:./*.tar"), tmp_path / "again")) == whole


def test_a_cache_that_does_not_fit_is_no_cache(job, tree, tmp_path):
    run_job(job, tmp_path / "whole")
    lose(tree)
    others = {
        "other views": replace(job, config=replace(job.config, view_set="ten-crop")),
        "another size": replace(job, size=32),
        "another tokenizer": replace(job, tokenizer_weights="random"),
        "other images": replace(job, data=str(tmp_path / "others")),
    }
    for told, other in others.items():
        with pytest.raises(ValueError, match=r"no images there, and none of the 1 token caches in .* expected the im"):
            run_job(other, tmp_path / told)
        assert not (tmp_path / told).exists()
    with pytest.raises(NotADirectoryError, match="no such folder"):
        run_job(replace(job, cache=str(tmp_path / "none")), tmp_path / "none there")
    with pytest.raises(NotADirectoryError, match="no such folder"):
        run_job(replace(job, config=replace(job.config, cached=False)), tmp_path / "uncached")


def test_of_two_caches_that_fit_a_training_goes_on_with_its_own(job, tree, tmp_path):
    longer = replace(job, config=with_settings(job.config, steps=4))
    run_job(job, tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    (tree / "cats" / "0.png").rename(tmp_path / "0.png")
    run_job(job, tmp_path / "second")
    lose(tree)
    with pytest.raises(ValueError, match=r"no images there, and 2 of the 2 token caches in .* fit \(digits-vq, 2 v"):
        run_job(job, tmp_path / "third")
    without = weights(run_job(longer, tmp_path / "first", resume=True))
    tree.with_name("moved").rename(tree)
    (tmp_path / "0.png").rename(tree / "cats" / "0.png")
    assert weights(run_job(longer, tmp_path / "copy", resume=True)) == without


def test_a_cache_of_an_earlier_version_is_known_by_its_name_and_numbers_its_classes(job, tree, tmp_path, monkeypatch):
    hashed = f"{tree}-{len(open_data(tree))}-0123456789abcdef"
    monkeypatch.setattr("arbench.training.cache_build.data_hash", lambda data: hashed)
    monkeypatch.setattr("arbench.training.tokens.note_images", lambda folder, data: None)
    whole = weights(run_job(job, tmp_path / "whole"))
    assert not list((tmp_path / "cache").rglob(NOTE_NAME))
    lose(tree)
    assert weights(run_job(job, tmp_path / "again")) == whole


def test_a_note_gathers_the_places_of_the_images(job, tree, tmp_path):
    run_job(job, tmp_path / "first")
    copy = shutil.copytree(tree, tmp_path / "copy")
    for number, source in enumerate((f"{tree}/", str(copy))):
        run_job(replace(job, data=source), tmp_path / str(number))
    (note,) = (tmp_path / "cache").rglob(NOTE_NAME)
    told = json.loads(note.read_text())
    known = {"class_names": ["cats", "dogs"], "side": 16, "digest": open_data(tree).digest()}
    assert told == {"places": [str(tree), str(copy)], **known}


def test_what_is_not_there(tree, tmp_path):
    assert [is_absent(source) for source in ("digits", str(tree), "hf:name")] == [False] * 3
    (tmp_path / "empty").mkdir()
    assert all(is_absent(str(tmp_path / name)) for name in ("empty", "none"))
    assert is_absent(f"shards:{tmp_path}/*.tar")
    (tmp_path / "0.tar").write_bytes(b"")
    assert not is_absent(f"shards:{tmp_path}/*.tar")
    assert open_data(str(tree)).side == 16
