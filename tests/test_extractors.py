"""The extractors against torch-fidelity's own module, their dtype, and weights that do not fit."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from random_inception import write_random_inception
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from arbench.evaluation.digits_cnn import DigitsCNN
from arbench.evaluation.extractors import load_extractor
from arbench.evaluation.networks import Digits, Inception
from arbench.machine.files import file_sha256


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def inception(inception_file: Path) -> Inception:
    extractor = load_extractor("inception", weights=inception_file)
    assert isinstance(extractor, Inception)
    return extractor


def test_inception_equals_torch_fidelity(inception: Inception, inception_file: Path) -> None:
    original = FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=inception_file
    )
    images = random_images(2, 64)
    features, logits = original(torch.from_numpy(images).permute(0, 3, 1, 2))
    found = inception.extract(images)
    assert np.array_equal(found.features, features.numpy())
    assert np.array_equal(found.logits, logits.numpy())
    assert found.features.dtype == found.logits.dtype == np.float32
    assert found.features.shape == (2, inception.width)
    assert found.logits.shape == (2, 1008)
    assert found.spatial is None
    assert inception.sha256 == file_sha256(inception_file)


def test_spatial_features_are_the_first_channels_of_mixed_6_conv(inception: Inception) -> None:
    images = random_images(2, 64, seed=1)
    caught: list[torch.Tensor] = []
    network = inception._network
    # The input of Mixed_6d is Mixed_6c's output; its 1×1 branch applied by hand.
    handle = network.Mixed_6c.register_forward_hook(lambda _, __, output: caught.append(output.clone()))
    found = inception.extract(images, spatial=True).spatial
    handle.remove()
    branch = network.Mixed_6d.branch1x1
    expected = torch.relu(branch.bn(branch.conv(caught[0])))
    assert found is not None
    assert found.shape == (2, 2023)
    cube = found.reshape(2, 17, 17, 7)
    assert np.array_equal(cube, expected[:, :7].permute(0, 2, 3, 1).numpy())
    assert not network.Mixed_6d.branch1x1._forward_hooks


def test_settings_of_the_caller_are_left_alone(inception: Inception) -> None:
    torch.backends.cudnn.allow_tf32 = True
    features = inception.extract(random_images(1, 32)).features
    assert torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(inception.extract(random_images(1, 32)).features, features)


def test_digits_features_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(DigitsCNN().state_dict(), tmp_path / "digits.safetensors")
    extractor = load_extractor("digits-cnn", weights=tmp_path / "digits.safetensors")
    images = random_images(5, 32)
    together = extractor.extract(images)
    apart = [extractor.extract(images[i : i + 1]) for i in range(5)]
    assert together.features.shape == (5, 64)
    assert together.logits.shape == (5, 10)
    # float32 sums may be taken in another order for another batch
    np.testing.assert_allclose(np.concatenate([one.features for one in apart]), together.features, atol=1e-5)
    with pytest.raises(ValueError, match="reads 32x32 images, not 16x16"):
        extractor.extract(random_images(1, 16))


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'inception'"):
        load_extractor("inceptoin")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_extractor("inception", weights=tmp_path / "absent.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="not a torch file that is safe to read"):
        load_extractor("inception", weights=tmp_path / "cut.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_extractor("inception", weights=tmp_path / "cut.safetensors")
    torch.save(DigitsCNN(), tmp_path / "module.pth")  # a pickled class: refused, not run
    with pytest.raises(ValueError, match="not a torch file that is safe to read"):
        load_extractor("inception", weights=tmp_path / "module.pth")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="expected a state dict"):
        load_extractor("inception", weights=tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not weights of digits-cnn"):
        Digits({"project.weight": torch.zeros(3)}, "")


def test_unreachable_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(OSError, match=r"no route.*--inception-weights FILE"):
        load_extractor("inception")


@pytest.mark.gpu
def test_inception_on_the_gpu_is_float32_without_tf32(inception: Inception, inception_file: Path) -> None:
    images = random_images(4, 64)
    torch.backends.cudnn.allow_tf32 = True
    found = load_extractor("inception", weights=inception_file, device="cuda").extract(images).features
    expected = inception.extract(images).features
    # float32 through 94 convolutions; TF32 would be off by about 1e-3
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
