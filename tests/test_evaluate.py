"""`evaluate` and `arbench eval`: every kind of input gives the same scores, and says how they were made."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import arbench
from arbench.cli.evaluate import register
from arbench.evaluation import scores
from arbench.evaluation.digits_cnn import DigitsCNN
from arbench.evaluation.extractors import load_extractor
from arbench.evaluation.features import CachedExtractor, FeatureCollector
from arbench.evaluation.kernels import standardised
from arbench.evaluation.metrics import evaluate
from arbench.evaluation.networks import Digits
from arbench.evaluation.sources import open_images
from arbench.evaluation.statistics import FrechetStatistics
from arbench.images.data import open_data
from arbench.report.record import new_record
from arbench.runs.folder import start_run
from arbench.runs.shards import Shards

ALL = ("fid", "is", "precision", "recall", "kid", "label_accuracy")
COUNT = 150


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("digits") / "random.safetensors"
    save_file(DigitsCNN().state_dict(), file)
    return file


@pytest.fixture(scope="module")
def extractor(weights: Path) -> Digits:
    network = load_extractor("digits-cnn", weights=weights)
    assert isinstance(network, Digits)
    return network


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return open_data("digits").images(range(COUNT))


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return open_data("digits").labels[:COUNT]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray, labels: np.ndarray) -> dict[str, Path]:
    """The same images as a folder of PNG files, plain and compressed npz, and a run folder."""
    root = tmp_path_factory.mktemp("images")
    (root / "png").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(root / "png" / f"{i:06d}.png")
    np.savez(root / "plain.npz", images)
    np.savez_compressed(root / "small.npz", arr_0=images, arr_1=labels)
    shards = Shards(root / "run" / "shards", COUNT)
    for index in range(len(shards)):
        shards.write(index, images[list(shards.ids(index))])
    np.save(root / "run" / "labels.npy", labels)
    return {name: root / name for name in ("png", "plain.npz", "small.npz", "run")}


@pytest.fixture(scope="module")
def result(images: np.ndarray, labels: np.ndarray, extractor: Digits) -> dict:
    return evaluate(images, "digits-heldout", extractor=extractor, metrics=ALL, labels=labels)


def test_scores_are_those_of_the_pure_functions(
    result: dict, images: np.ndarray, labels: np.ndarray, extractor: Digits
) -> None:
    real = open_data("digits", split="heldout")
    ours, theirs = (
        np.concatenate([extractor.extract(part[i : i + 64]).features for i in range(0, len(part), 64)])
        for part in (images, real.images())
    )
    assert result["fid"] == pytest.approx(FrechetStatistics.of(ours).distance(FrechetStatistics.of(theirs)), rel=1e-9)
    held = scores.precision_recall(ours, theirs)
    assert (result["precision"], result["recall"]) == (held.precision, held.recall)
    assert result["kid"] == scores.kid(*standardised(ours, theirs), reference_classes=real.labels).mean
    assert 0 <= result["label_accuracy"] <= 1
    assert result["duplicates"] == 0
    assert list(result) == [
        *("fid", "is_mean", "is_std", "precision", "recall", "kid", "kid_std", "label_accuracy", "duplicates"),
        "metric_protocol",
    ]


@pytest.mark.parametrize("place", ["png", "plain.npz", "small.npz", "run"])
def test_every_kind_of_input_gives_the_same(
    place: str, places: dict[str, Path], result: dict, extractor: Digits, labels: np.ndarray
) -> None:
    known = None if place == "run" else labels  # a run folder holds its own
    found = evaluate(places[place], "digits-heldout", extractor=extractor, metrics=ALL, labels=known)
    assert found == result


def test_how_images_come_in_changes_nothing(images: np.ndarray, extractor: Digits) -> None:
    whole, bit_by_bit = (FeatureCollector(CachedExtractor(extractor), count=COUNT) for _ in range(2))
    whole.update(images)
    for part in np.split(images, [1, 63, 64, 65, 149]):
        bit_by_bit.update(part)
    first, second = whole.finish(), bit_by_bit.finish()
    assert np.array_equal(first.features, second.features)
    assert np.array_equal(first.statistics.covariance, second.statistics.covariance)
    assert first.sha256 == second.sha256
    assert first.features.dtype == np.float32
    assert first.statistics.covariance.dtype == np.float64


def test_protocol_says_everything(result: dict, extractor: Digits, weights: Path) -> None:
    protocol = result["metric_protocol"]
    assert protocol["extractor"] == "digits-cnn"
    assert protocol["extractor_sha256"] == extractor.sha256
    assert protocol["reference"] == "digits-heldout"
    assert len(protocol["reference_sha256"]) == 64
    assert protocol["reference_count"] == protocol["reference_images"] == 359
    assert protocol["num_images"] == COUNT
    assert protocol["fid_name"] == "FID-150"
    assert protocol["image_size"] == [32, 32]
    assert protocol["evaluator_version"] == arbench.__version__
    low, high = protocol["measured"]["intervals"]["fid"]
    assert low < result["fid"] < high
    low, high = protocol["measured"]["intervals"]["is_mean"]
    assert low <= result["is_mean"] < high
    json.dumps(result)


@pytest.mark.parametrize(("asked", "mode"), [("random", "random"), ([3] * COUNT, "given")])
def test_the_label_mode_is_that_of_the_run(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, extractor: Digits, asked: str | list[int], mode: str
) -> None:
    run = start_run(tmp_path, "m", {"images": {"num_images": COUNT, "labels": asked}, "evaluation": None})
    for index in range(len(run.shards)):
        run.shards.write(index, images[list(run.shards.ids(index))])
    run.write_labels(labels)
    for count in (None, 100):
        found = evaluate(run.path, "digits-heldout", extractor=extractor, metrics=["is"], num_images=count)
        assert found["metric_protocol"]["label_mode"] == mode


def test_a_record_takes_the_result(result: dict) -> None:
    values = {name: value for name, value in result.items() if name != "metric_protocol"}
    new_record(method="mar", model="mar-digits", metrics=values, metric_protocol=result["metric_protocol"])


def test_questionable_references_are_questioned(
    tmp_path: Path, images: np.ndarray, extractor: Digits, places: dict[str, Path]
) -> None:
    def warnings(reference: str | Path, reconstructions: bool) -> str:
        found = evaluate(images, reference, extractor=extractor, metrics=["fid"], reconstructions=reconstructions)
        return " ".join(found["metric_protocol"]["warnings"])

    from arbench.evaluation.reference import make_reference

    make_reference(places["png"], tmp_path / "val.npz", extractor, split="val")
    assert "FID of generated images is against training images" in warnings(tmp_path / "val.npz", False)
    assert not warnings(tmp_path / "val.npz", True)
    assert "FID of reconstructions is against validation images" in warnings("digits-train", True)
    assert not warnings("digits-train", False)
    few = evaluate(images[:40], "digits-heldout", extractor=extractor, metrics=["fid"])["metric_protocol"]
    assert "singular" in " ".join(few["warnings"])


def test_duplicates_and_sorted_classes_are_told(images: np.ndarray, labels: np.ndarray, extractor: Digits) -> None:
    order = np.argsort(labels, kind="stable")
    twice = np.concatenate([images[order], images[order[-3:]]])
    classes = np.concatenate([labels[order], labels[order[-3:]]])
    found = evaluate(twice, "digits-heldout", extractor=extractor, metrics=["is"], labels=classes)
    assert found["duplicates"] == 3
    told = " ".join(found["metric_protocol"]["measured"]["notes"])
    assert "3 of 153 images are exact copies" in told
    assert "sorted by class; shuffled with seed 2020" in told


def test_features_are_cached_by_content(tmp_path: Path, images: np.ndarray, extractor: Digits, result: dict) -> None:
    class Counting(Digits):
        calls = 0

        def extract(self, images: np.ndarray, spatial: bool = False):  # type: ignore[no-untyped-def]
            Counting.calls += 1
            return super().extract(images, spatial)

    network = Counting(extractor._network.state_dict(), extractor.sha256)
    settings = {"extractor": network, "metrics": ("fid", "precision"), "cache": tmp_path}
    first = evaluate(images, "digits-heldout", **settings)
    extracted = Counting.calls
    assert evaluate(images, "digits-heldout", **settings) == first
    assert Counting.calls == extracted
    assert first["fid"] == result["fid"]
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    assert evaluate(changed, "digits-heldout", **settings) != first
    assert Counting.calls > extracted


def test_statistics_alone_give_what_they_can(tmp_path: Path, images: np.ndarray, extractor: Digits) -> None:
    statistics = FrechetStatistics.of(extractor.extract(images).features)
    np.savez(tmp_path / "stat.npz", mu=statistics.mean, sigma=statistics.covariance)
    found = evaluate(images, tmp_path / "stat.npz", extractor=extractor)
    assert {"fid", "is_mean"} < set(found)
    assert "precision" not in found
    assert found["fid"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match=r"precision: the reference .* holds statistics only"):
        evaluate(images, tmp_path / "stat.npz", extractor=extractor, metrics=["precision"])


def test_adm_npz_of_2000_images_round_trips(tmp_path: Path, extractor: Digits) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "samples.npz", arr_0=images)
    from_file = evaluate(tmp_path / "samples.npz", images[:99], extractor=extractor, metrics=["fid", "is"])
    assert from_file == evaluate(images, images[:99], extractor=extractor, metrics=["fid", "is"])
    assert from_file["metric_protocol"]["fid_name"] == "FID-2k"
    # The ADM evaluator opens the zip member arr_0.npy, reads NumPy's header and then the bytes in order.
    with zipfile.ZipFile(tmp_path / "samples.npz") as archive, archive.open("arr_0.npy") as member:
        np.lib.format.read_magic(member)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        assert (shape, fortran, dtype) == (images.shape, False, np.uint8)
        assert member.read() == images.tobytes()


def test_mistakes_are_told_before_any_work(tmp_path: Path, images: np.ndarray, extractor: Digits) -> None:
    def expect(message: str, images: object = images, reference: object = "digits-train", **settings: object) -> None:
        with pytest.raises((ValueError, OSError), match=message):
            evaluate(images, reference, **{"extractor": extractor, **settings})  # type: ignore[arg-type]

    expect("150 images, but 151 were asked for", num_images=151)
    expect("num_images is 2.5; expected a whole number", num_images=2.5)
    expect("batch_size is 0; expected a whole number of at least 1", batch_size=0)
    expect(r"labels are float64 \(150,\); expected whole numbers in one row", labels=np.zeros(150))
    expect("did you mean 'precision'", metrics=["precison"])
    expect("no metrics asked for", metrics=[])
    expect("sfid needs the extractor inception", metrics=["sfid"])
    expect("no labels", metrics=["label_accuracy"])
    expect("3 labels for 150 images", labels=np.zeros(3, np.int64))
    expect(r"float64 .*expected uint8 images", images=images / 255)
    expect("no images in it", images=images[:0])
    expect("no such file or folder", images=tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    expect("no images in it", images=tmp_path / "empty")
    np.savez(tmp_path / "x.npz", x=images)
    expect("no arr_0 in it", images=tmp_path / "x.npz")
    np.savez(tmp_path / "wide.npz", mu=np.zeros(3), sigma=np.eye(3))
    expect("is 3 wide; digits-cnn has 64 features", reference=tmp_path / "wide.npz", metrics=["fid"])
    expect("reads 32x32 images", images=np.zeros((5, 8, 8, 3), np.uint8))
    expect("images are a list; expected a uint8 array", images=[np.zeros((32, 32, 3), np.uint8)])
    expect("at least 2 are needed", images=images[:1], metrics=["fid"])


def test_damaged_files_are_told(tmp_path: Path, places: dict[str, Path], extractor: Digits) -> None:
    whole = places["plain.npz"].read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable npz"):
        evaluate(tmp_path / "cut.npz", "digits-train", extractor=extractor)
    (tmp_path / "flipped.npz").write_bytes(whole[:5000] + bytes(100) + whole[5100:])
    with pytest.raises(ValueError, match="cut off or damaged"):
        evaluate(tmp_path / "flipped.npz", "digits-train", extractor=extractor)
    shutil.copytree(places["run"], tmp_path / "run")
    (tmp_path / "run" / "shards" / "000002.npy").unlink()
    with pytest.raises(ValueError, match="128 of 150 images are there; resume"):
        evaluate(tmp_path / "run", "digits-train", extractor=extractor)


@pytest.mark.parametrize("damage", ["altered", "cut", "unsigned"])
def test_a_damaged_shard_is_named_and_not_scored(
    tmp_path: Path, places: dict[str, Path], extractor: Digits, damage: str
) -> None:
    shutil.copytree(places["run"], tmp_path / "run")
    shard = tmp_path / "run" / "shards" / "000001.npy"
    if damage == "altered":
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
    elif damage == "cut":
        os.truncate(shard, 5000)
    else:
        shard.with_name("000001.npy.sha256").unlink()
    with pytest.raises(ValueError, match=r"000001\.npy: (damaged|not a readable shard)"):
        evaluate(tmp_path / "run", "digits-train", extractor=extractor, metrics=["is"])


def test_more_images_than_asked_are_noted(images: np.ndarray) -> None:
    source = open_images(images).first(100)
    assert sum(map(len, source.blocks())) == source.count == 100
    assert source.notes == ["the first 100 of 150 images"]


def test_not_finite_features_stop(images: np.ndarray, extractor: Digits) -> None:
    state = extractor._network.state_dict()
    state["project.bias"] = state["project.bias"] * torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluate(images, "digits-train", extractor=Digits(state, "broken"))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, extractor: Digits) -> typer.Typer:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)  # a single command would lose its name
    loaded = {"inception": "inception", "digits-cnn": extractor}
    monkeypatch.setattr("arbench.evaluation.metrics.load_extractor", lambda name, **_: loaded[name])
    monkeypatch.setattr("arbench.evaluation.extractors.load_extractor", lambda name, **_: loaded[name])
    return app


def test_command_prints_scores_and_protocol(app: typer.Typer, places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "scores.json"
    arguments = [str(places["run"]), "--reference", "digits-heldout", "--metrics", "fid, is", "--out", str(out)]
    ran = CliRunner().invoke(app, ["eval", *arguments], catch_exceptions=False)
    assert ran.exit_code == 0
    assert "FID-150" in ran.output
    assert "95 % in" in ran.output
    assert "reference digits-heldout of 359 images" in ran.output
    assert set(json.loads(out.read_text())) == {"fid", "is_mean", "is_std", "duplicates", "metric_protocol"}


def test_command_makes_a_reference(app: typer.Typer, places: dict[str, Path], tmp_path: Path) -> None:
    made = ["--make-reference", str(places["png"]), "--extractor", "digits-cnn", "--out", str(tmp_path / "own.npz")]
    ran = CliRunner().invoke(app, ["eval", *made, "--size", "32", "--split", "val"], catch_exceptions=False)
    assert "statistics of 150 images by digits-cnn, 150 images kept" in ran.output
    against = ["--reference", str(tmp_path / "own.npz"), "--extractor", "digits-cnn", "--metrics", "fid,precision"]
    ran = CliRunner().invoke(app, ["eval", str(places["png"]), *against], catch_exceptions=False)
    assert "FID-150         0.0000" in ran.output
    assert "precision       1.0000" in ran.output
    assert "warning: own is of validation images" in ran.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected IMAGES and --reference"),
        (["x", "--reference", "y", "--size", "3"], "belong to --make-reference"),
        (["--make-reference", "x"], "needs --out"),
        (["x"], "expected IMAGES and --reference"),
    ],
)
def test_command_refuses(app: typer.Typer, arguments: list[str], message: str) -> None:
    ran = CliRunner().invoke(app, ["eval", *arguments])
    assert isinstance(ran.exception, ValueError)
    assert message in str(ran.exception)


def test_help_shows_an_example(app: typer.Typer) -> None:
    assert "arbench eval" in CliRunner().invoke(app, ["eval", "--help"]).output


def test_images_that_are_all_alike_tell_no_interval(extractor: Digits) -> None:
    """Drawn anew they are the same images: an interval without a width would be told from every other number."""
    images = np.repeat(open_data("digits").images(range(1)), 120, axis=0)
    found = evaluate(images, "digits-heldout", extractor=extractor, metrics=["fid", "is", "precision", "density"])
    assert set(found["metric_protocol"]["measured"]["intervals"]) == {"precision"}
    assert found["is_mean"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("count", "told"), [(99, "99 images in 10 splits: the Inception Score is too low, 10 at"), (100, "")]
)
def test_the_inception_score_of_a_handful_is_questioned_and_has_no_interval(
    extractor: Digits, count: int, told: str
) -> None:
    images = open_data("digits").images(range(count))
    found = evaluate(images, "digits-heldout", extractor=extractor, metrics=["is"])
    warnings = [line for line in found["metric_protocol"]["warnings"] if "Inception Score" in line]
    assert bool(warnings) == bool(told)
    assert all(line.startswith(told) for line in warnings)
    assert ("is_mean" in found["metric_protocol"]["measured"]["intervals"]) == (not told)
    other = evaluate(images, "digits-heldout", extractor=extractor, metrics=["fid"])
    assert not any("Inception Score" in line for line in other["metric_protocol"]["warnings"])


def test_images_of_the_reference_among_the_generated_are_told(extractor: Digits) -> None:
    real = open_data("digits").images(range(40))
    images = np.concatenate([real[:7], real[:2], open_data("digits").images(range(60, 90))])
    notes = evaluate(images, real, extractor=extractor, metrics=["fid"])["metric_protocol"]["measured"]["notes"]
    assert "7 of the reference's images are among these, pixel for pixel" in notes
    other = evaluate(images[9:], real, extractor=extractor, metrics=["fid"])["metric_protocol"]["measured"]["notes"]
    assert not any("pixel for pixel" in line for line in other)
