"""Scores through Inception (random weights) against torch-fidelity's own on the same two folders, and sFID."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch_fidelity
from PIL import Image
from random_inception import write_random_inception

from arbench.evaluation import scores
from arbench.evaluation.extractors import load_extractor
from arbench.evaluation.metrics import evaluate
from arbench.evaluation.sources import open_images

METRICS = ("fid", "is", "precision", "recall", "kid")
# torch-fidelity's mean is float32 and its KID is computed in float32: 1e-4 is what the two can agree to
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("weights"))


def blobs(folder: Path, count: int, seed: int) -> Path:
    """Smooth coloured pictures of 24×24, whose statistics depend on the seed."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(count):
        small = random.integers(0, 256 - 40 * seed, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((24, 24), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("folders")
    return blobs(root / "first", 24, 0), blobs(root / "second", 22, 1)


@pytest.mark.slow
def test_scores_equal_torch_fidelity(
    folders: tuple[Path, Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores.kid, "__defaults__", (20, 15, scores.SHUFFLE_SEED))
    settings = {"inception_weights": weights, "crop": "none", "metrics": METRICS}
    ours = evaluate(folders[0], folders[1], **settings)
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders[0]),
        input2=str(folders[1]),
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=20,
        kid_subset_size=15,
        feature_extractor="inception-v3-compat",  # its precision and recall would be on VGG
        feature_extractor_weights_path=str(weights),
        save_cpu_ram=True,  # no loader processes
        cache=False,
        verbose=False,
    )
    pairs = {
        "fid": "frechet_inception_distance",
        "is_mean": "inception_score_mean",
        "is_std": "inception_score_std",
        "kid": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std",
        "precision": "precision",
        "recall": "recall",
    }
    for name, original in pairs.items():
        assert ours[name] == pytest.approx(theirs[original], rel=TOLERANCE), name
    assert ours["fid"] > 1
    assert 0 < ours["precision"] < 1


@pytest.mark.slow
def test_sfid_equals_a_direct_computation(folders: tuple[Path, Path], weights: Path) -> None:
    network = load_extractor("inception", weights=weights)
    found = evaluate(folders[0], folders[1], extractor=network, crop="none", metrics=["sfid"])["sfid"]
    spatial = []
    for folder in folders:
        images = np.concatenate(list(open_images(folder).blocks()))
        part = network.extract(images, spatial=True).spatial
        assert part is not None
        spatial.append(part.astype(np.float64))
    first, second = spatial
    gap = first.mean(0) - second.mean(0)
    centred = [(part - part.mean(0)) / np.sqrt(len(part) - 1) for part in spatial]
    # tr (S1 S2)^½ is the nuclear norm of X1 X2^T for S = X^T X
    nuclear = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    expected = gap @ gap + sum((part**2).sum() for part in centred) - 2 * nuclear
    assert found == pytest.approx(expected, rel=1e-6)
