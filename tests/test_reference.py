"""References: by name, as files of three projects, as folders of real pictures; and the file that we write."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arbench.data import center_crop, open_data
from arbench.evaluation.digits_cnn import DigitsCNN
from arbench.evaluation.extractors import Digits
from arbench.evaluation.reference import make_reference, open_reference
from arbench.evaluation.reference_cards import HOME_VARIABLE, REFERENCES
from arbench.evaluation.sources import ImageSource
from arbench.evaluation.statistics import FrechetStatistics


@pytest.fixture(scope="module")
def extractor() -> Digits:
    torch.manual_seed(0)
    return Digits(DigitsCNN().state_dict(), "random")


@pytest.fixture
def statistics() -> FrechetStatistics:
    return FrechetStatistics.of(np.random.default_rng(0).normal(size=(50, 5)))


def pictures(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{i:03d}.png")
    return folder


def all_images(source: ImageSource | None) -> np.ndarray:
    assert source is not None
    return np.concatenate(list(source.blocks()))


def test_digits_by_name() -> None:
    for split in ("train", "heldout"):
        reference = open_reference(f"digits-{split}")
        assert reference.split == split
        assert np.array_equal(all_images(reference.images), open_data("digits", split=split).images())


def test_adm_file(tmp_path: Path, statistics: FrechetStatistics) -> None:
    images = np.random.default_rng(1).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    arrays = {"mu": statistics.mean, "sigma": statistics.covariance}
    np.savez(tmp_path / "adm.npz", arr_0=images, mu_s=arrays["mu"] + 1, sigma_s=arrays["sigma"], **arrays)
    reference = open_reference(tmp_path / "adm.npz")
    assert reference.statistics is not None
    assert reference.spatial is not None
    np.testing.assert_allclose(reference.statistics.covariance, statistics.covariance, rtol=1e-14)
    assert np.array_equal(reference.statistics.mean, statistics.mean)
    assert reference.spatial.distance(reference.statistics) == pytest.approx(5)
    assert np.array_equal(all_images(reference.images), images)
    assert reference.count is None  # the file does not say of how many images the statistics are
    assert reference.sha256 is not None


def test_pytorch_fid_and_torch_fidelity_files(tmp_path: Path, statistics: FrechetStatistics) -> None:
    moments = {"mu": statistics.mean.astype(np.float32), "sigma": statistics.covariance}
    np.savez(tmp_path / "stat.npz", **moments)
    torch.save(moments, tmp_path / "stat.pt")  # as torch-fidelity's cache does
    for name in ("stat.npz", "stat.pt"):
        reference = open_reference(tmp_path / name)
        assert reference.statistics is not None
        assert reference.images is None
        assert reference.statistics.distance(statistics) == pytest.approx(0, abs=1e-6)  # mu was float32


def test_folder_is_cropped_as_asked(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "real" / "cat", 3, (40, 60)).parent
    reference = open_reference(folder, size=(16, 16))
    first = np.asarray(Image.open(folder / "cat" / "000.png"))
    assert np.array_equal(all_images(reference.images)[0], center_crop(first, 16))
    assert reference.crop == "adm"
    assert all_images(open_reference(folder, size=(16, 16), crop="resize").images).shape == (3, 16, 16, 3)
    with pytest.raises(ValueError, match="60x40, not 16x16"):
        all_images(open_reference(folder, size=(16, 16), crop="none").images)
    with pytest.raises(ValueError, match="unknown crop 'center'"):
        open_reference(folder, size=(16, 16), crop="center")


def test_made_reference_is_read_back(tmp_path: Path, extractor: Digits) -> None:
    folder = pictures(tmp_path / "real", 20, (40, 64))
    made = make_reference(folder, tmp_path / "ref.npz", extractor, size=32, split="val", num_kept=6)
    expected = np.stack([center_crop(np.asarray(Image.open(file)), 32) for file in sorted(folder.iterdir())])
    statistics = FrechetStatistics.of(extractor.extract(expected).features)
    assert made.statistics is not None
    assert made.statistics.count == made.count == 20
    np.testing.assert_allclose(made.statistics.covariance, statistics.covariance, rtol=1e-9, atol=1e-12)
    kept = all_images(made.images)
    assert len(kept) == 6
    assert {image.tobytes() for image in kept} < {image.tobytes() for image in expected}
    assert (made.name, made.split, made.crop) == ("ref", "val", "adm")
    assert (made.extractor, made.extractor_sha256) == ("digits-cnn", "random")
    with np.load(tmp_path / "ref.npz") as file:  # as the ADM evaluator opens it
        assert set(file.files) >= {"mu", "sigma", "arr_0"}
        assert file["arr_0"].dtype == np.uint8


def test_named_reference_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'adm-train-256' is not on this machine; download https://.*256/VIRT"):
        open_reference("adm-train-256")
    with pytest.raises(FileNotFoundError, match=r"make it: .* IMAGES --size 256 --split val"):
        open_reference("val-256-crop")
    statistics = FrechetStatistics.of(np.eye(4))
    statistics.save(REFERENCES["mar-train-256"].path)
    reference = open_reference("mar-train-256")
    assert (reference.name, reference.split) == ("mar-train-256", "train")


def test_mistakes_are_told(tmp_path: Path, extractor: Digits) -> None:
    with pytest.raises(ValueError, match="did you mean 'digits-heldout'"):
        open_reference("digits-held-out")
    with pytest.raises(FileNotFoundError, match=r"missing\.npz: no such file or folder, nor one of"):
        open_reference("missing.npz")
    (tmp_path / "stats.pkl").write_bytes(pickle.dumps({"mu": 1}))
    with pytest.raises(ValueError, match=r"\.pkl is not read"):
        open_reference(tmp_path / "stats.pkl")
    torch.save({"mu": np.zeros(2), "sigma": extractor}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="not a torch file that is safe to read"):
        open_reference(tmp_path / "evil.pt")
    np.savez(tmp_path / "half.npz", mu=np.zeros(2))
    with pytest.raises(ValueError, match="only one of mu and sigma"):
        open_reference(tmp_path / "half.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match="holds x; expected mu and sigma, or arr_0"):
        open_reference(tmp_path / "other.npz")
    np.savez(tmp_path / "shape.npz", mu=np.zeros(2), sigma=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="do not fit"):
        open_reference(tmp_path / "shape.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in it"):
        open_reference(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        make_reference(tmp_path / "empty", tmp_path / "ref.txt", extractor)
