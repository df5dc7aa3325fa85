"""Fifty thousand images: bounded memory, statistics in seconds, and work that a killed evaluation does not lose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arbench.evaluation.extractors import Extracted
from arbench.evaluation.features import BATCH_SIZE, extract_features
from arbench.evaluation.metrics import evaluate
from arbench.evaluation.reference import make_reference
from arbench.evaluation.sources import ImageSource, array_source
from arbench.evaluation.statistics import FrechetStatistics
from arbench.runs.shards import SHARD_SIZE


class Bank:
    """An extractor as wide as Inception that costs next to nothing: image i shows vector i of a bank, scaled by i."""

    name, sha256, resize, num_classes, has_spatial = "bank", "0" * 64, "none", None, True

    def __init__(self, width: int = 2048, num_logits: int = 1008, spatial_width: int = 2023) -> None:
        self.width, self.calls = width, 0
        self._bank = np.random.default_rng(0).standard_normal((4096, width), np.float32)
        self._num_logits, self._spatial_width = num_logits, spatial_width

    def extract(self, images: np.ndarray, spatial: bool = False) -> Extracted:
        self.calls += 1
        numbers = images[:, 0, 0, :].astype(np.int64) @ [1, 256, 65536]
        features = self._bank[numbers % 4096] * (1 + numbers[:, None] % 97 / 97).astype(np.float32)
        return Extracted(
            features, features[:, : self._num_logits], features[:, -self._spatial_width :] if spatial else None
        )


def numbered_images(count: int) -> np.ndarray:
    """(count, 2, 2, 3) uint8 that hold their number."""
    numbers = np.arange(count)
    digits = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=-1).astype(np.uint8)
    return np.broadcast_to(digits[:, None, None], (count, 2, 2, 3)).copy()


FIFTY_THOUSAND = """
import json, time
import numpy as np, torch
from test_evaluation_scale import Bank, numbered_images
from arbench.evaluation.features import extract_features
from arbench.evaluation.metrics import evaluate
from arbench.evaluation.reference import Reference
from arbench.evaluation.sources import array_source
from arbench.machine.hardware import peak_memory_gib
images, bank = numbered_images(50_000), Bank()
half = extract_features(array_source("half", images[:25_000]), bank, spatial=True, keep=False)
start = time.process_time()
statistics = extract_features(array_source("all", images), bank, spatial=True, keep=False)
seconds, statistics_peak = time.process_time() - start, peak_memory_gib(torch.device("cpu"))
reference = Reference(name="half", statistics=half.statistics, spatial=half.spatial)
found = evaluate(images, reference, extractor=bank, metrics=("fid", "is", "sfid"), labels=np.arange(50_000) % 1000)
peak = peak_memory_gib(torch.device("cpu"))
print(json.dumps({"seconds": seconds, "statistics_peak": statistics_peak, "peak": peak, "fid": found["fid"]}))
"""


@pytest.mark.slow
def test_fifty_thousand_vectors_take_bounded_memory_and_less_than_a_minute() -> None:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FIFTY_THOUSAND], env=environment, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    # The statistics of pool3 and of sFID's features together, CPU time of one thread.
    assert found["seconds"] < 60
    # Python with PyTorch is 0.4 GiB; two covariances of 2,048 in float64 and their working copies are 0.2.
    assert found["statistics_peak"] < 1
    # Features and logits of 50,000 images in float32 are 0.57 GiB more, eight matrices of the distance 0.25.
    assert found["peak"] < 2
    assert found["fid"] > 0


def test_statistics_alone_keep_no_features() -> None:
    images, bank = numbered_images(300), Bank(width=20, num_logits=7, spatial_width=5)
    source = array_source("numbered", images)
    kept, streamed = (extract_features(source, bank, spatial=True, keep=keep) for keep in (True, False))
    assert kept.features.shape == (300, 20)
    assert kept.logits.shape == (300, 7)
    assert streamed.features.size == streamed.logits.size == 0
    assert len(streamed) == len(kept) == 300
    for one, other in ((kept.statistics, streamed.statistics), (kept.spatial, streamed.spatial)):
        assert one is not None
        assert other is not None
        assert np.array_equal(one.covariance, other.covariance)
    assert kept.features.base is not None  # one array from the first batch on: a view of it, no second copy


def test_one_pass_serves_all_scores() -> None:
    images, bank = numbered_images(256), Bank(width=20, num_logits=7, spatial_width=5)
    evaluate(images, images[:64], extractor=bank, metrics=("fid", "is", "kid", "precision", "recall", "sfid"))
    assert bank.calls == 256 // BATCH_SIZE + 64 // BATCH_SIZE


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    images, bank = numbered_images(300), Bank(width=20, num_logits=7)

    def killed_after_200() -> ImageSource:
        def blocks():  # type: ignore[no-untyped-def]
            yield images[:200]
            raise KeyboardInterrupt

        return ImageSource(name="cut", count=300, blocks=blocks)

    with pytest.raises(KeyboardInterrupt):
        extract_features(killed_after_200(), bank, cache=tmp_path)
    assert bank.calls == 3
    found = extract_features(array_source("whole", images), bank, cache=tmp_path)
    assert bank.calls == 5
    assert np.array_equal(found.features, extract_features(array_source("whole", images), bank).features)


def test_another_batch_content_or_extractor_is_another_entry(tmp_path: Path) -> None:
    images = numbered_images(BATCH_SIZE)
    for bank in (Bank(width=20), Bank(width=20)):
        extract_features(array_source("a", images), bank, cache=tmp_path)
    assert bank.calls == 0
    bank.sha256 = "1" * 64
    extract_features(array_source("a", images), bank, cache=tmp_path)
    extract_features(array_source("a", images), bank, cache=tmp_path, spatial=True)
    extract_features(array_source("a", images), bank, cache=tmp_path, batch_size=BATCH_SIZE // 2)
    extract_features(array_source("a", images[::-1]), bank, cache=tmp_path)
    assert bank.calls == 5  # one each, but for the two halves


def test_fewer_images_than_announced_are_an_error() -> None:
    source = ImageSource(name="cut", count=10, blocks=lambda: iter([numbered_images(7)]))
    with pytest.raises(ValueError, match="7 images to extract features from; expected 10"):
        extract_features(source, Bank(width=5))


def test_a_broken_entry_of_the_cache_is_named(tmp_path: Path) -> None:
    source = array_source("a", numbered_images(5))
    extract_features(source, Bank(width=5), cache=tmp_path)
    (entry,) = tmp_path.iterdir()
    os.truncate(entry, 50)
    with pytest.raises(ValueError, match=rf"{entry.name}: not a readable npz"):
        extract_features(source, Bank(width=5), cache=tmp_path)


def test_a_shard_is_whole_batches() -> None:
    assert SHARD_SIZE % BATCH_SIZE == 0  # else features extracted shard by shard would not be found afterwards


@pytest.mark.parametrize("width", [256, pytest.param(2048, marks=pytest.mark.slow)])
def test_distance_of_wide_gaussians_is_the_closed_form(width: int) -> None:
    random = np.random.default_rng(4)
    axis = random.normal(size=width)
    axis /= np.linalg.norm(axis)
    # Variances that fall over six decades, as those of image features do; a reflection turns them out of the axes.
    falling, gap = np.logspace(0, -6, width), 0.01 * random.normal(size=width)
    a, b = falling * random.uniform(0.5, 2, width), falling * random.uniform(0.5, 2, width)

    def turned(variances: np.ndarray) -> np.ndarray:
        half = np.diag(variances) - 2 * np.outer(axis, axis * variances)
        return half - 2 * np.outer(half @ axis, axis)

    first = FrechetStatistics.from_moments(gap, turned(a), 10**5)
    second = FrechetStatistics.from_moments(np.zeros(width), turned(b), 10**5)
    expected = gap @ gap + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert first.distance(second) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("crop", ["adm", "resize", "none"])
def test_a_made_reference_scores_its_own_pictures_as_equal(tmp_path: Path, crop: str) -> None:
    """Every named crop: the file's statistics and images are those of the folder under the same crop."""
    from PIL import Image

    random = np.random.default_rng(2)
    folder = tmp_path / "real"
    folder.mkdir()
    sizes = [(24, 24)] * 40 if crop == "none" else [(30 + i, 50) for i in range(40)]
    for i, (height, width) in enumerate(sizes):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    mean = MeanColour()
    made = make_reference(folder, tmp_path / "own.npz", mean, size=24, crop=crop, split="train")
    assert (made.crop, made.count) == (crop, 40)
    assert made.images is not None
    kept = np.concatenate(list(made.images.blocks()))
    asked = {"extractor": mean, "metrics": ("fid", "precision", "recall")}
    from_file = evaluate(kept, tmp_path / "own.npz", **asked)
    assert from_file["fid"] == pytest.approx(0, abs=1e-6)
    assert (from_file["precision"], from_file["recall"]) == (1, 1)
    assert evaluate(kept, folder, crop=crop, **asked)["fid"] == pytest.approx(0, abs=1e-6)
    assert from_file["metric_protocol"]["reference_crop"] == crop


class MeanColour:
    """Three features: the mean of each colour."""

    name, sha256, resize, width, num_classes, has_spatial = "mean-colour", "2" * 64, "none", 3, None, False

    def extract(self, images: np.ndarray, spatial: bool = False) -> Extracted:
        means = images.mean(axis=(1, 2), dtype=np.float32)
        return Extracted(means, means, None)
