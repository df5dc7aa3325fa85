"""The data interface: digits, folders of classes, and ADM's crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from arbench.images.data import open_data, show_digits
from arbench.images.pictures import center_crop

PARITY = Path(__file__).parent / "parity" / "images"


def save(path: Path, value: int, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def test_adm_crop_equals_the_original() -> None:
    expected = load_file(PARITY / "expected.safetensors")
    assert np.array_equal(center_crop(expected["image"], 128), expected["adm_crop"])


def test_digits_splits_are_disjoint_and_complete() -> None:
    train, heldout = open_data("digits"), open_data("digits", split="heldout")
    assert len(train) + len(heldout) == 1797
    images = np.concatenate([train.images(), heldout.images()])
    everything = show_digits(load_digits().images)
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in everything)
    assert images.dtype == np.uint8
    assert images.shape[1:] == (32, 32, 3)


def test_digits_split_is_stratified_and_fixed() -> None:
    train, heldout = open_data("digits"), open_data("digits", split="heldout")
    counts, held = np.bincount(train.labels), np.bincount(heldout.labels)
    assert np.array_equal(counts, np.round(0.8 * (counts + held)))
    assert np.array_equal(train.images(), open_data("digits").images())
    assert train.num_classes == 10
    assert train.class_names == [str(digit) for digit in range(10)]


def test_digits_at_their_own_size_are_the_levels() -> None:
    levels = load_digits().images[:5]
    shown = show_digits(levels, 8)
    assert np.array_equal(shown[..., 0], np.round(levels * 255 / 16))
    assert np.array_equal(shown[..., 0], shown[..., 2])


def test_digits_are_shown_with_half_pixel_centres() -> None:
    corner = show_digits(np.array([[[16.0, 0.0], [0.0, 0.0]]]), 4)[0, :, :, 0]
    assert corner[0, 0] == 255  # outside the first centre the edge value stands
    assert corner[0, 1] == round(255 * 0.75)
    assert corner[0, 2] == round(255 * 0.25)


def test_folder_classes_are_sorted_and_counted(tmp_path: Path) -> None:
    save(tmp_path / "wolf" / "1.png", 10)
    save(tmp_path / "cat" / "2.png", 20)
    save(tmp_path / "cat" / "1.png", 30)
    data = open_data(tmp_path)
    assert data.class_names == ["cat", "wolf"]
    assert data.labels.tolist() == [0, 0, 1]
    assert data.labels.dtype == np.int64
    assert [int(data[i][0][0, 0, 0]) for i in range(3)] == [30, 20, 10]
    assert data.images([2]).shape == (1, 8, 6, 3)


def test_folder_is_cropped_to_the_size(tmp_path: Path) -> None:
    picture = load_file(PARITY / "expected.safetensors")
    (tmp_path / "a").mkdir()
    Image.fromarray(picture["image"]).save(tmp_path / "a" / "x.png")
    assert np.array_equal(open_data(tmp_path, size=128).images()[0], picture["adm_crop"])
    assert open_data(tmp_path, size=32, crop="resize").images().shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="500x375, not 64x64"):
        open_data(tmp_path, size=64, crop="none").images()


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", 1)
    save(tmp_path / "a" / "2.png", 1, (4, 4))
    with pytest.raises(ValueError, match="differ in size"):
        open_data(tmp_path).images()


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'heldout'"):
        open_data("digits", split="held-out")
    with pytest.raises(ValueError, match="unknown crop 'amd'"):
        open_data("digits", crop="amd")
    with pytest.raises(ValueError, match="one split"):
        open_data(tmp_path, split="val")
    with pytest.raises(ValueError, match="no images found"):
        open_data(tmp_path)
    with pytest.raises(NotADirectoryError, match="no such folder"):
        open_data(tmp_path / "absent")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="not a readable image"):
        open_data(tmp_path)[0]
    with pytest.raises(IndexError, match="no image 9"):
        open_data(tmp_path)[9]
