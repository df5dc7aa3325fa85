"""References: by name, as files of three projects, as folders of real pictures; and the file that we write."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from arbench.evaluation.digits_cnn import DigitsCNN
from arbench.evaluation.networks import Digits
from arbench.evaluation.reference import make_reference, open_reference
from arbench.evaluation.reference_cards import HOME_VARIABLE, REFERENCES
from arbench.evaluation.sources import ImageSource
from arbench.evaluation.statistics import FrechetStatistics
from arbench.images.data import open_data
from arbench.images.pictures import center_crop


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


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"sigma": -1e9 * np.eye(4)}, "negative eigenvalue -1e\\+09"),
        ({"sigma": np.diag([1, 1, 1, -0.01])}, "negative eigenvalue -0.01"),
        ({"sigma": np.eye(4) + np.triu(np.ones((4, 4)), 1)}, "not symmetric"),
        ({"sigma": np.eye(4) * (1 + 0j)}, "sigma is complex128; expected real numbers"),
        ({"mu": np.array(list("abcd"))}, "mu is <U1; expected real numbers"),
        ({"mu": np.full(4, 1e200)}, r"holds 1e\+200, whose square is no float64"),
        ({"sigma": np.eye(4) * 1e200}, r"holds 1e\+200, whose square is no float64"),
        ({"mu": np.full(4, np.nan)}, "NaN or infinity"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "do not fit"),
        ({"mu": np.zeros((4, 1))}, "do not fit"),
        ({"count": 0}, "count is 0; expected one whole number of at least 2"),
        ({"count": 1}, "count is 1"),
        ({"count": -7}, "count is -7"),
        ({"count": np.inf}, "count is inf"),
        ({"count": 12.5}, "count is 12.5"),
        ({"count": [5, 5]}, r"count is int64 \(2,\)"),
        ({"count": "many"}, "count is 'many'"),
    ],
)
def test_broken_moments_are_refused(
    tmp_path: Path, statistics: FrechetStatistics, changed: dict[str, Any], told: str
) -> None:
    """Each of these once gave a score, some a FID of 0."""
    arrays = {"mu": np.zeros(4), "sigma": np.eye(4), "count": 9}
    np.savez(tmp_path / "sound.npz", **arrays)
    assert open_reference(tmp_path / "sound.npz").count == 9
    np.savez(tmp_path / "broken.npz", **{**arrays, **changed})
    with pytest.raises(ValueError, match=rf"broken\.npz: .*{told}"):
        open_reference(tmp_path / "broken.npz")


def test_moments_summed_in_float32_are_sound(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32) @ np.ones((40, 40), np.float32)
    sigma = torch.cov(torch.from_numpy(features).T).numpy()  # of rank 1, and so with negative eigenvalues by rounding
    assert np.linalg.eigvalsh(sigma.astype(np.float64))[0] < 0
    np.savez(tmp_path / "single.npz", mu=features.mean(0), sigma=sigma)
    found = open_reference(tmp_path / "single.npz").statistics
    assert found is not None
    assert found.distance(FrechetStatistics.of(features)) == pytest.approx(0, abs=float(1e-5 * np.trace(sigma)))


@pytest.mark.parametrize(
    "name", ["digits-heldout", " Digits-Train", "adm-train-256", "ｄigits-heldout", "a\nb", "x" * 999]
)
def test_a_file_cannot_take_a_name_of_ours(tmp_path: Path, statistics: FrechetStatistics, name: str) -> None:
    arrays = {"mu": statistics.mean, "sigma": statistics.covariance}
    np.savez(tmp_path / "a.npz", meta=json.dumps({"name": name}), **arrays)
    assert open_reference(tmp_path / "a.npz").name == str(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", meta=json.dumps({"name": "my own"}), **arrays)
    assert open_reference(tmp_path / "b.npz").name == "my own"


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        ("[" * 100_000, "'meta' is not JSON"),
        ("[1]", "'meta' is not JSON"),
        ('{"name": 5}', "gives name as 5; expected a text"),
        ('{"extractor": ["x"]}', "gives extractor as"),
        ('{"split": "vla"}', "did you mean 'val'"),
    ],
)
def test_broken_meta_is_one_line(tmp_path: Path, statistics: FrechetStatistics, meta: str, told: str) -> None:
    np.savez(tmp_path / "a.npz", mu=statistics.mean, sigma=statistics.covariance, meta=meta)
    with pytest.raises(ValueError, match=told) as error:
        open_reference(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_a_picture_of_no_pixels_is_refused(tmp_path: Path, extractor: Digits) -> None:
    folder = pictures(tmp_path / "real", 2, (8, 8))
    with pytest.raises(ValueError, match="size is 0; expected at least 1 pixel"):
        make_reference(folder, tmp_path / "ref.npz", extractor, size=0)


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
