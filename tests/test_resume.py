"""What a resume may believe: one shape for all batches, shards bound to their run, a record bound to its images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_runner import events, stop_after
from tiny_runs import images_of, only_run, tiny

import arbench
import arbench.runs.folder
from arbench.evaluation.sources import open_images
from arbench.evaluation.stored_run import read_shard_line
from arbench.machine.timing import PhaseTimer
from arbench.runs import pipeline as loop
from arbench.runs.execute import execute
from arbench.runs.models import load_parts
from arbench.runs.pipeline import Pipeline
from arbench.runs.request import RunRequest

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(arbench.runs.folder, "SHARD_SIZE", 4)


@pytest.fixture
def run(tmp_path) -> Path:
    """Ten images in three shards, not scored."""
    arbench.run(**tiny(), out=tmp_path, batch_size=3)
    return only_run(tmp_path)


@pytest.fixture
def shapes(monkeypatch):
    """The number of rows of every draw."""
    draw, seen = loop.draw_tokens, []

    def noted(generator, labels, **settings):
        seen.append(len(labels))
        return draw(generator, labels, **settings)

    monkeypatch.setattr(loop, "draw_tokens", noted)
    return seen


def resume(run: Path, **changes):
    """Go on with `run`, and the lines that are told meanwhile."""
    told: list[str] = []
    record = execute(RunRequest.of(**{**tiny(), "out": run.parent, "resume": True, **changes}), say=told.append)[1]
    return record, told


def edit_config(run: Path, change) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    change(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def copy_shard(source: Path, target: Path, renamed: bool = False) -> None:
    """A shard and the line beside it over another one; `renamed` also in that line."""
    shutil.copy(source, target)
    text = Path(f"{source}.sha256").read_text()
    Path(f"{target}.sha256").write_text(text.replace(source.name, target.name) if renamed else text)


def test_an_image_is_the_same_in_a_batch_that_is_not_full():
    """AR digits, seed 3: in batch 2 a rounding crosses the boundary of a draw of image 377, in batch 64 none does."""
    parts = load_parts("ar", device=CPU)
    pipeline = Pipeline(
        generator=parts.generator,
        tokenizer=parts.tokenizer,
        labels=np.arange(384) % 10,
        settings=parts.settings,
        seed=3,
        device=CPU,
    )
    full = pipeline.draw(range(320, 384), PhaseTimer(CPU))
    alone = pipeline.draw([376, 377], PhaseTimer(CPU), 64)
    assert np.array_equal(alone, full[56:58])


@pytest.mark.parametrize("method", ["ar", "par", "mar"])
def test_padding_changes_no_image(tmp_path, monkeypatch, shapes, method):
    """Ten images at batch 3 of shards of 4, undisturbed and stopped in between: every draw has three rows."""
    arbench.run(**tiny(method), out=tmp_path / "whole", batch_size=3)
    with monkeypatch.context() as patch:
        stop_after(patch, batches=3)  # the warm-up draw and six images: one shard is whole
        with pytest.raises(KeyboardInterrupt, match="4 of 10 images"):
            arbench.run(**tiny(method), out=tmp_path / "parts", batch_size=3)
    arbench.run(**tiny(method), out=tmp_path / "parts", resume=True)
    assert set(shapes) == {3}
    whole, parts = only_run(tmp_path / "whole"), only_run(tmp_path / "parts")
    assert np.array_equal(images_of(whole), images_of(parts))
    assert [event["images"] for event in events(whole, "batch")] == [3, 3, 3, 1]
    assert [event["images"] for event in events(parts, "batch")] == [3, 3, 3, 3]


def test_the_batch_is_stored_and_no_resume_changes_it(run, shapes):
    assert yaml.safe_load((run / "config.yaml").read_text())["batch_size"] == 3
    images = images_of(run)
    (run / "shards" / "000001.npy").unlink()
    record, told = resume(run, batch_size=5)
    assert [line for line in told if "batches of 3, as it began, not of 5" in line]
    assert shapes == [3, 3, 3]  # the warm-up draw, and four images
    assert np.array_equal(images_of(run), images)
    assert record["speed"]["batch_size"] == 3
    assert not [line for line in resume(run, batch_size=3)[1] if "as it began" in line]


def test_a_batch_is_never_larger_than_the_run(tmp_path, shapes):
    arbench.run(**tiny(num_images=2), out=tmp_path, batch_size=64)
    assert set(shapes) == {2}
    assert yaml.safe_load((only_run(tmp_path) / "config.yaml").read_text())["batch_size"] == 2


def test_a_batch_that_memory_halves_is_told_in_the_record(tmp_path, monkeypatch):
    """The first batch of four fits, no later one does: the record says that images are of two shapes."""
    draw, drawn = loop.draw_tokens, []

    def less_and_less(generator, labels, **settings):
        drawn.append(len(labels))
        if len(labels) == 4 and drawn.count(4) > 2:  # the warm-up draw and the first batch
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return draw(generator, labels, **settings)

    monkeypatch.setattr(loop, "draw_tokens", less_and_less)
    record = arbench.run(**tiny(), out=tmp_path, batch_size=4)
    assert record["speed"]["batch_sizes"] == [4, 2]
    lines = [read_shard_line(file) for file in sorted((only_run(tmp_path) / "shards").glob("*.npy"))]
    assert [line.batches for line in lines] == [(4,), (2,), (2,)]


def test_an_undisturbed_record_names_one_shape(run):
    assert json.loads((run / "record.json").read_text())["speed"]["batch_sizes"] == [3]


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(shard_size=8),
        lambda config: config.update(batch_size=4),
        lambda config: config["images"].update(seed=1),
        lambda config: config["images"].update(num_images=8),
        lambda config: config["images"]["sampling"].update(cfg_scale=9.0),
        lambda config: config.pop("hash"),
    ],
    ids=["shard_size", "batch_size", "seed", "num_images", "sampling", "hash"],
)
def test_an_edited_configuration_is_one_line(run, change):
    edit_config(run, change)
    for use in (lambda: resume(run), lambda: open_images(run)):
        with pytest.raises(ValueError, match=r"config\.yaml: was edited since the run wrote it") as error:
            use()
        assert "\n" not in str(error.value)


def test_the_evaluation_may_be_edited(run):
    edit_config(run, lambda config: config.update(evaluation={"reference": "other"}))
    assert open_images(run).count == 10
    resume(run)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_shard_copied_over_another_is_neither_scored_nor_kept(run, renamed):
    images = images_of(run)
    shards = [run / "shards" / f"{index:06d}.npy" for index in range(3)]
    copy_shard(shards[0], shards[1], renamed)
    with pytest.raises(ValueError, match=r"000001\.npy: is a shard of another run or place; resume"):
        list(open_images(run).blocks())
    resume(run)
    assert events(run, "resume")[-1]["damaged_shards"] == [1]
    assert np.array_equal(images_of(run), images)


def test_a_shard_with_another_number_of_images_is_not_kept(run):
    images = images_of(run)
    copy_shard(run / "shards" / "000002.npy", run / "shards" / "000000.npy", renamed=True)  # two for four
    with pytest.raises(ValueError, match=r"8 of 10 images are there; resume"):
        open_images(run)
    resume(run)
    assert np.array_equal(images_of(run), images)


def test_a_shard_of_another_run_is_not_kept(run, tmp_path):
    images = images_of(run)
    arbench.run(**tiny(seed=1), out=tmp_path / "other", batch_size=3)
    copy_shard(only_run(tmp_path / "other") / "shards" / "000001.npy", run / "shards" / "000001.npy")
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(ValueError, match="of another run or place"):
        list(open_images(run).blocks())
    resume(run)
    assert np.array_equal(images_of(run), images)


def test_a_shard_too_many_is_one_line(run):
    copy_shard(run / "shards" / "000002.npy", run / "shards" / "000003.npy", renamed=True)
    with pytest.raises(ValueError, match=r"holds 000003\.npy, but the run has 3 shards"):
        resume(run)


def test_shards_of_an_earlier_version_are_read_and_told_of(run):
    """Their line has no place, their configuration neither hash nor batch: what names the file is believed."""
    images = images_of(run)
    for line in (run / "shards").glob("*.sha256"):
        line.write_text(line.read_text().splitlines()[0] + "\n")
    edit_config(run, lambda config: [config.pop("hash"), config.pop("batch_size")])
    assert open_images(run).count == 10
    copy_shard(run / "shards" / "000000.npy", run / "shards" / "000001.npy")
    told = resume(run)[1]
    assert [line for line in told if "2 shards of an earlier version, not bound to the run" in line]
    assert np.array_equal(images_of(run), images)


def test_a_record_is_made_anew_when_its_images_change(tmp_path):
    """A shard is drawn with other floats, as on another machine: the old score is not that of its images."""
    asked = {"num_images": 20, "evaluate": True, "metrics": ["fid"]}
    arbench.run(**{**tiny(), **asked}, out=tmp_path, batch_size=4)
    run = only_run(tmp_path)
    before = json.loads((run / "record.json").read_text())
    (run / "shards" / "000001.npy").unlink()
    assert resume(run, **asked)[0] == before  # drawn again, the very same
    folder = arbench.runs.folder.resume_run(tmp_path, "par-digits", yaml.safe_load((run / "config.yaml").read_text()))
    folder.shards.write(1, 255 - folder.shards.read(1))
    after = resume(run, **asked)[0]
    assert after["metrics"]["fid"] != before["metrics"]["fid"]
    assert after["source"]["shards_sha256"] != before["source"]["shards_sha256"]
    assert json.loads((run / "record.json").read_text()) == after


def test_missing_images_are_told_with_and_without_labels(run):
    (run / "shards" / "000002.npy").unlink()
    for leave_out in ("nothing", "labels.npy", "config.yaml"):
        (run / leave_out).unlink(missing_ok=True)
        with pytest.raises(ValueError, match="8 of 10 images are there; resume the run before scoring it"):
            open_images(run)


def test_missing_labels_are_noted(run):
    (run / "labels.npy").unlink()
    source = open_images(run)
    assert source.labels is None
    assert source.notes == [f"{run.name} has no labels.npy: what needs the classes asked for is left out"]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.arange(9), "10 of 9 images"),
        (np.arange(10) + 0.7, "whole numbers"),
        (np.eye(10, dtype=np.int64), "whole numbers"),
        (np.arange(10) - 1, "label -1: expected class numbers from 0"),
        (np.full(10, 2**63, dtype=np.uint64), "expected class numbers from 0"),
    ],
)
def test_labels_are_whole_numbers_of_the_right_count(run, labels, told):
    np.save(run / "labels.npy", labels)
    with pytest.raises(ValueError, match=told):
        open_images(run)
