"""A run: its folder, its record, resuming it, and images that depend on nothing but their seed and number."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tiny_runs import images_of, only_run, tiny

import arbench
import arbench.runs.folder
from arbench.evaluation.networks import Digits
from arbench.report.record import load_record
from arbench.runs import pipeline as loop
from arbench.runs import pipeline as produce
from arbench.runs.execute import execute
from arbench.runs.memory import MemoryEstimate, automatic_batch, estimate_memory, is_out_of_memory
from arbench.runs.models import load_parts
from arbench.runs.request import RunRequest
from arbench.weights.load import load_generator


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(arbench.runs.folder, "SHARD_SIZE", 4)


def events(run, name):
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


def stop_after(monkeypatch, batches, error=KeyboardInterrupt):
    """Let `generate` draw so many batches and raise `error` in the next one."""
    draw, drawn = loop.draw_tokens, []

    def draws(*positional, **named):
        if len(drawn) == batches:
            raise error
        drawn.append(1)
        return draw(*positional, **named)

    monkeypatch.setattr(loop, "draw_tokens", draws)


@pytest.mark.parametrize("method", ["ar", "par", "mar"])
def test_the_run_folder_is_the_contract_s(tmp_path, method):
    record = arbench.run(**tiny(method), out=tmp_path, batch_size=8, seed=3)
    run = only_run(tmp_path)
    assert sorted(path.name for path in run.iterdir()) == [
        *("config.yaml", "events.jsonl", "grid.png", "labels.npy", "record.json", "shards")
    ]
    assert load_record(run) == record
    assert (record["method"], record["model"], record["num_images"]) == (method, f"{method}-digits", 10)
    assert record["seed"] == 3
    labels = np.load(run / "labels.npy")
    assert labels.dtype == np.int64
    assert labels.tolist() == list(range(10))
    images = images_of(run)
    assert images.dtype == np.uint8
    assert images.shape == (10, 32, 32, 3)
    speed = record["speed"]
    assert speed["batch_size"] == 8
    assert speed["steps"] == {"ar": 64, "par": 19, "mar": 3}[method]
    # Phases leave out only the moving of data between them.
    assert 0 < sum(speed["phases"].values()) <= speed["seconds_per_image"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["images"]["sampling"] == record["sampling"]
    assert len(events(run, "batch")) == 2


@pytest.mark.parametrize("method", ["ar", "par", "mar"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_changes_no_image(tmp_path, method, batch_size):
    arbench.run(**tiny(method), out=tmp_path / "one", batch_size=batch_size)
    arbench.run(**tiny(method), out=tmp_path / "two", batch_size=10)
    one, two = images_of(only_run(tmp_path / "one")), images_of(only_run(tmp_path / "two"))
    # Float sums may be ordered differently in another batch: one level, in at most 1 of 10,000 pixels.
    assert (np.abs(one.astype(int) - two) > 1).mean() <= 1e-4


def test_a_record_of_another_head_than_the_presets(tmp_path):
    asked = tiny("mar", num_images=2, tokenizer="digits-vq")
    del asked["head_steps"]
    asked["config"] = {**asked["config"], "head": "categorical", "vocab_size": 256}
    record = arbench.run(**asked, out=tmp_path)
    assert record["speed"]["tier"] == "A1"  # fewer iterations than the preset's
    assert "head_steps" not in record["sampling"]


def test_an_interrupted_run_resumes_to_the_same_images(tmp_path, monkeypatch):
    undisturbed = arbench.run(**tiny(), out=tmp_path / "whole", batch_size=4)
    with monkeypatch.context() as patch:
        stop_after(patch, batches=2)  # the warm-up draw and the first shard
        with pytest.raises(KeyboardInterrupt, match=r"4 of 10 images .* --resume"):
            arbench.run(**tiny(), out=tmp_path / "parts", batch_size=4)
    run = only_run(tmp_path / "parts")
    assert [file.name for file in sorted((run / "shards").iterdir())] == ["000000.npy", "000000.npy.sha256"]
    record = arbench.run(**tiny(), out=tmp_path / "parts", batch_size=4, resume=True)
    assert np.array_equal(images_of(run), images_of(only_run(tmp_path / "whole")))
    assert {**record, "speed": 0, "source": 0} == {**undisturbed, "speed": 0, "source": 0}
    assert events(run, "resume")[0]["images_present"] == 4


def test_resume_replaces_damaged_and_truncated_shards(tmp_path):
    arbench.run(**tiny(), out=tmp_path, batch_size=4)
    run = only_run(tmp_path)
    images = images_of(run)
    first, second = run / "shards" / "000000.npy", run / "shards" / "000001.npy"
    first.write_bytes(first.read_bytes()[:-1] + b"\x00\x01"[first.read_bytes()[-1] == 0 :][:1])
    os.truncate(second, 100)
    (run / "record.json").unlink()
    arbench.run(**tiny(), out=tmp_path, batch_size=4, resume=True)
    assert np.array_equal(images_of(run), images)
    assert events(run, "resume")[0]["damaged_shards"] == [0, 1]


def test_a_finished_run_is_kept_and_the_next_is_numbered(tmp_path):
    for _ in range(3):
        arbench.run(**tiny(), out=tmp_path)
    first, *others = sorted(path.name for path in tmp_path.iterdir())
    assert others == [f"{first}-2", f"{first}-3"]
    arbench.run(**tiny(seed=1), out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_resuming_a_finished_run_returns_its_record(tmp_path):
    record = arbench.run(**tiny(), out=tmp_path)
    assert arbench.run(**tiny(), out=tmp_path, resume=True) == record
    assert len(events(only_run(tmp_path), "batch")) == 1


def test_other_scores_of_finished_images_need_no_new_ones(tmp_path):
    arbench.run(**tiny(num_images=20), out=tmp_path)
    asked = {**tiny(num_images=20), "evaluate": True, "metrics": ["fid", "label_accuracy"]}
    record = arbench.run(**asked, out=tmp_path, resume=True)
    assert {"fid", "label_accuracy", "duplicates"} <= set(record["metrics"])
    assert record["metric_protocol"]["extractor"] == "digits-cnn"
    assert record["metric_protocol"]["label_mode"] == "balanced"
    assert load_record(only_run(tmp_path)) == record
    assert len(events(only_run(tmp_path), "batch")) == 1


def test_features_extracted_on_the_fly_give_the_same_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(arbench.runs.folder, "SHARD_SIZE", 64)
    scored = {**tiny(num_images=150), "evaluate": True}
    afterwards = arbench.run(**scored, out=tmp_path / "afterwards")
    seen = []
    extract = Digits.extract

    def counted(self, images, spatial=False):
        seen.append(len(images))
        return extract(self, images, spatial)

    monkeypatch.setattr(Digits, "extract", counted)
    on_the_fly = arbench.run(**scored, out=tmp_path / "on-the-fly", on_the_fly=True)
    assert on_the_fly["metrics"] == afterwards["metrics"]
    assert on_the_fly["metric_protocol"] == afterwards["metric_protocol"]
    run = only_run(tmp_path / "on-the-fly")
    names = [line["event"] for line in map(json.loads, (run / "events.jsonl").read_text().splitlines())]
    assert names.index("features") < names.index("sampled") < names.index("evaluated")
    assert [event["images"] for event in events(run, "features")] == [64, 64, 22]
    assert sum(seen) == 150 + on_the_fly["metric_protocol"]["reference_images"]  # no image twice
    assert not (run / "features").exists()


def test_an_unfinished_run_must_be_resumed_and_a_missing_one_cannot_be(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="nothing to resume"):
        arbench.run(**tiny(), out=tmp_path, resume=True)
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        stop_after(patch, batches=1)
        with pytest.raises(KeyboardInterrupt):
            arbench.run(**tiny(), out=tmp_path)
    with pytest.raises(ValueError, match="add --resume"):
        arbench.run(**tiny(), out=tmp_path)


def test_the_npz_holds_the_images(tmp_path):
    arbench.run(**tiny(), out=tmp_path, export_npz=True)
    with np.load(only_run(tmp_path) / "samples.npz") as archive:
        assert archive.files == ["arr_0"]
        assert np.array_equal(archive["arr_0"], images_of(only_run(tmp_path)))


def test_the_batch_is_halved_when_memory_runs_out(tmp_path, monkeypatch):
    arbench.run(**tiny(), out=tmp_path / "whole")
    draw = loop.draw_tokens

    def little_memory(generator, labels, **settings):
        if len(labels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return draw(generator, labels, **settings)

    monkeypatch.setattr(loop, "draw_tokens", little_memory)
    path, record = execute(RunRequest.of(**tiny(), out=tmp_path / "halved"))
    assert record["speed"]["batch_size"] == 2
    assert [(e["failed_batch_size"], e["batch_size"]) for e in events(path, "out_of_memory")] == [(10, 2)]
    # The same images, but for sums that another batch orders differently.
    difference = np.abs(images_of(path).astype(int) - images_of(only_run(tmp_path / "whole")))
    assert (difference > 1).mean() <= 1e-4


def test_one_image_that_does_not_fit_is_told(tmp_path, monkeypatch):
    stop_after(
        monkeypatch, 0, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    )
    with pytest.raises(ValueError, match="one image does not fit"):
        arbench.run(**tiny(), out=tmp_path)


def test_images_that_are_not_finite_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        loop, "draw_tokens", lambda generator, labels, **_: torch.full((len(labels), 4, 8, 8), torch.nan)
    )
    with pytest.raises(ValueError, match="not finite; likely causes"):
        arbench.run(**tiny("mar"), out=tmp_path)


@pytest.mark.parametrize("in_place", [True, False])
def test_weights_written_over_during_a_run_stop_it(tmp_path, monkeypatch, in_place):
    torch.manual_seed(0)
    asked = tiny()
    file, other = tmp_path / "weights.safetensors", tmp_path / "other.safetensors"
    generator = arbench.load_generator("par-digits", weights="random", **asked["config"])
    for path in (file, other):
        save_file(generator.state_dict(), path)
    draw = loop.draw_tokens

    def overwriting(*positional, **named):
        if in_place:
            file.write_bytes(other.read_bytes())
        elif other.exists():
            os.replace(other, file)  # the mapped file lives on under no name
        return draw(*positional, **named)

    monkeypatch.setattr(loop, "draw_tokens", overwriting)
    if in_place:
        with pytest.raises(ValueError, match="was written over while images were drawn"):
            arbench.run(**{**asked, "weights": file}, out=tmp_path / "runs")
        assert not (only_run(tmp_path / "runs") / "record.json").exists()
    else:
        arbench.run(**{**asked, "weights": file}, out=tmp_path / "runs")


def test_labels_may_be_given_one_by_one(tmp_path):
    record = arbench.run(**tiny(num_images=3), labels=[7, 7, 1], out=tmp_path)
    assert record["labels"] == [7, 7, 1]
    assert np.load(only_run(tmp_path) / "labels.npy").tolist() == [7, 7, 1]


def drawn_nothing(out):
    return not list(out.glob("*"))


def test_images_of_no_class_have_no_label_accuracy(tmp_path):
    asked = {**tiny("ar"), "evaluate": True, "labels": [10, 3, 3, 3], "num_images": 4, "out": tmp_path}
    with pytest.raises(ValueError, match="some images are of no class; expected metrics without label_accuracy"):
        arbench.run(**asked)
    assert drawn_nothing(tmp_path)
    assert arbench.run(**asked, metrics=["fid"])["metrics"]["fid"] > 0


@pytest.mark.parametrize(
    ("nothing", "told"), [({"metrics": []}, "no metrics asked for"), ({"extractor": ""}, "no extractor in ''")]
)
def test_nothing_asked_for_is_not_the_usual(tmp_path, nothing, told):
    with pytest.raises(ValueError, match=told):
        arbench.run(**{**tiny("ar"), "evaluate": True, **nothing}, out=tmp_path)
    assert drawn_nothing(tmp_path)


def test_too_few_images_for_the_usual_metrics_are_told_before_any_is_drawn(tmp_path):
    real, asked = tmp_path / "real", {**tiny("ar"), "evaluate": True, "num_images": 3}
    real.mkdir()
    for index in range(4):
        Image.fromarray(np.full((32, 32, 3), 60 * index, np.uint8)).save(real / f"{index}.png")
    with pytest.raises(ValueError, match="expected at least 4, which precision takes"):
        arbench.run(**asked, reference=real, extractor="digits-cnn", out=tmp_path / "runs")
    assert drawn_nothing(tmp_path / "runs")


@pytest.mark.parametrize("method", ["ar", "mar"])
def test_a_grid_that_is_no_square_gives_pictures_that_are_none(tmp_path, method):
    asked = tiny(method, num_images=2)
    arbench.run(**{**asked, "config": {**asked["config"], "grid": (4, 8)}}, out=tmp_path)
    assert images_of(only_run(tmp_path)).shape == (2, 16, 32, 3)


def test_the_automatic_batch_fits_the_free_memory(monkeypatch):
    monkeypatch.setattr("arbench.runs.memory.free_memory", lambda device: 1000)
    estimate = MemoryEstimate(fixed=5000, per_image=100)
    assert automatic_batch(estimate, torch.device("cpu"), 50) == 7  # 0.7 of 1000 over 100
    assert automatic_batch(estimate, torch.device("cpu"), 3) == 3
    assert automatic_batch(MemoryEstimate(fixed=0, per_image=10**6), torch.device("cpu"), 3) == 1


def test_only_memory_errors_are_taken_for_memory_errors():
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_second_process_may_not_resume_a_living_run(tmp_path, monkeypatch):
    arbench.run(**tiny(), out=tmp_path)
    monkeypatch.setattr(produce.RunFolder, "claims", lambda self: HeldElsewhere())
    with pytest.raises(ValueError, match="being written by another process"):
        arbench.run(**tiny(), out=tmp_path, resume=True)


class HeldElsewhere:
    def take(self, index):
        return False

    def close(self, **_):
        pass


def test_the_estimate_is_of_the_size_that_is_decoded():
    """AR and PAR decode 384 pixels a side and keep 256; a masked model has no KV cache."""
    parts = load_parts("ar", "ar-b-384", weights="random", tokenizer_weights="random", device=torch.device("meta"))
    assert (parts.decoded_size, parts.image_size) == (384, 256)
    without = load_generator("ar-b", weights="random", device="meta", kv_cache=False)
    cached = load_generator("ar-b", weights="random", device="meta")
    saved = estimate_memory(cached, None, 16).per_image - estimate_memory(without, None, 16).per_image
    assert saved == 2 * 2 * 12 * 256 * 768 * 4  # guidance, keys and values, layers, tokens, width, float32
