"""`arbench sample`: a row of pictures for each class asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from arbench import cli
from arbench.parts import load_parts
from arbench.running.samples import parse_labels, sample_rows
from arbench.sampling.grid import cell_size, draw_grid, shorten


def parts():
    config = {"width": 16, "depth": 1, "heads": 2}
    return load_parts("par", weights="random", device=torch.device("cpu"), config=config)


def test_the_command_writes_one_png(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("sample",))
    target = tmp_path / "new" / "grid.png"
    arguments = ["sample", "--method", "par", "--weights", "random", "--labels", "3,7", "--per-class", "2"]
    assert cli.run_command([*arguments, "--out", str(target)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    with Image.open(target) as picture:
        assert picture.format == "PNG"
    assert list(target.parent.iterdir()) == [target]


def test_rows_are_the_classes_and_the_batch_changes_nothing():
    both = parts()
    rows = sample_rows(both, [3, 7], 2, seed=1)
    assert [name for name, _ in rows] == ["3", "7"]
    assert all(images.shape == (2, 32, 32, 3) and images.dtype == np.uint8 for _, images in rows)
    again = sample_rows(both, [3, 7], 2, seed=1, batch_size=3)
    # One level: float sums may be ordered differently in another batch.
    assert all(np.abs(a.astype(int) - b).max() <= 1 for (_, a), (_, b) in zip(rows, again, strict=True))


def test_labels_are_numbers_or_imagenet_names():
    assert parse_labels(" 3, 7 ", 10) == [3, 7]
    assert parse_labels("207,monarch", 1000) == [207, 323]
    with pytest.raises(ValueError, match="unknown ImageNet class"):
        parse_labels("zebrra", 1000)


def test_small_pictures_are_enlarged_by_a_whole_factor_with_sharp_pixels():
    assert [cell_size(side) for side in (8, 32, 48, 64, 256, 512)] == [64, 64, 96, 64, 256, 256]
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 0, 0] = (255, 0, 0)
    page = draw_grid([("0", image), ("1", image)])
    red = (page == (255, 0, 0)).all(axis=-1)
    assert red.sum() == 2 * 4  # one pixel of each picture, 2 × 2


def test_long_names_are_cut_at_a_word():
    assert shorten("golden retriever") == "golden retriever"
    assert shorten("monarch, monarch butterfly, milkweed butterfly") == "monarch, monarch …"
