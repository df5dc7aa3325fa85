"""Scores through Inception (random weights) against torch-fidelity's own on the same two folders, and sFID."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_inception import write_random_inception

from arbench.cli import run_command
from arbench.evaluation import scores
from arbench.evaluation.extractors import load_extractor
from arbench.evaluation.metrics import evaluate
from arbench.evaluation.sources import open_images

METRICS = ("fid", "is", "precision", "recall", "kid")
# torch-fidelity's mean is float32 and its KID is computed in float32: 1e-4 is what the two can agree to
TOLERANCE = 1e-4
KID_SUBSETS, KID_SUBSET_SIZE = 20, 15  # the folders are smaller than the usual subsets
TORCH_FIDELITY_NAMES = {
    "fid": "frechet_inception_distance",
    "is_mean": "inception_score_mean",
    "is_std": "inception_score_std",
    "kid": "kernel_inception_distance_mean",
    "kid_std": "kernel_inception_distance_std",
    "precision": "precision",
    "recall": "recall",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = write_random_inception(tmp_path_factory.mktemp("weights"))
    state = torch.load(file, weights_only=True)
    # Else every image shows all classes alike, and the Inception Score is 1 whatever it is of.
    state["fc.weight"] *= 100
    torch.save(state, file)
    return file


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


def torch_fidelity_says(first: Path, second: Path, weights: Path) -> dict[str, float]:
    """What torch-fidelity's own command line prints about two folders."""
    asked = ["--cpu", "--json", "--silent", "--isc", "--fid", "--kid", "--prc", "--no-cache", "--save-cpu-ram"]
    asked += ["--kid-subsets", str(KID_SUBSETS), "--kid-subset-size", str(KID_SUBSET_SIZE)]
    # Named, because its precision and recall would be on VGG.
    asked += ["--feature-extractor", "inception-v3-compat", "--feature-extractor-weights-path", str(weights)]
    program = [sys.executable, "-c", "from torch_fidelity.fidelity import main; main()"]
    command = [*program, *asked, "--input1", str(first), "--input2", str(second)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_scores_equal_torch_fidelity_s_command_line(
    folders: tuple[Path, Path], weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scores.kid, "__defaults__", (KID_SUBSETS, KID_SUBSET_SIZE, scores.SHUFFLE_SEED))
    asked = [str(folders[0]), "--reference", str(folders[1]), "--inception-weights", str(weights), "--crop", "none"]
    out = tmp_path / "scores.json"
    assert run_command(["eval", *asked, "--metrics", ",".join(METRICS), "--out", str(out)]) == 0
    ours = json.loads(out.read_text())
    theirs = torch_fidelity_says(*folders, weights)
    for name, original in TORCH_FIDELITY_NAMES.items():
        assert ours[name] == pytest.approx(theirs[original], rel=TOLERANCE), name
    assert ours["fid"] > 1
    assert ours["is_mean"] > 1.05
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
