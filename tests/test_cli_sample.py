"""`arbench sample`: a row of pictures for each class asked for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from arbench import cli
from arbench.generators.methods import _given, get_method
from arbench.generators.spec import Preset
from arbench.images.pixels import resize_bicubic, to_uint8
from arbench.runs.grid import MARGIN, cell_size, draw_grid, fit_caption, shorten
from arbench.runs.models import load_parts
from arbench.runs.samples import parse_labels, sample_rows
from arbench.sampling.algorithm import generate
from arbench.tokenizer.load import decode_tokens
from arbench.weights.load import load_generator


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


TINY_PART = {"width": 16, "depth": 1, "heads": 2}
SIZES = {
    "ar": {**TINY_PART, "vocab_size": 256, "grid": 12},
    "par": {**TINY_PART, "vocab_size": 256, "grid": 12, "parallel": 16},
    "mar": {
        **{f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in TINY_PART.items()},
        **{"buffer_size": 2, "channels": 4, "head_depth": 1, "head_width": 16, "grid": 8},
    },
}


@pytest.fixture
def tiny_presets(monkeypatch):
    """The three methods with ImageNet's classes; AR and PAR decode to 48 pixels and are shown at 32, as 384 at 256."""
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("sample",))
    for method, config in SIZES.items():
        tokenizer = "digits-kl" if method == "mar" else "digits-vq"
        sampling = {"num_iter": 2, "head_steps": 2} if method == "mar" else {}
        preset = Preset(
            name=f"{method}-tiny",
            method=method,
            config=config,
            tokenizer=tokenizer,
            image_size=config["grid"] * 4,
            sampling=sampling,
            evaluated_at=None if method == "mar" else 32,
        )
        spec = get_method(method)
        monkeypatch.setitem(_given, method, replace(spec, presets=(*spec.presets, preset)))


@pytest.mark.parametrize("method", SIZES)
def test_imagenet_by_name_and_number_at_the_papers_size(method, tiny_presets, tmp_path):
    """The demo of the papers' repositories: chosen classes, brought to the size of the evaluation as floats."""
    out = tmp_path / "grid.png"
    chosen = ["--labels", "golden retriever,n01494475,323", "--per-class", "1", "--seed", "3", "--out", str(out)]
    assert cli.run_command(["sample", "--model", f"{method}-tiny", "--weights", "random", *chosen]) == 0
    loaded = load_parts(model=f"{method}-tiny", weights="random", device=torch.device("cpu"))
    tokens = generate(loaded.generator, [207, 4, 323], seed=3, **loaded.sampling)
    images = loaded.tokenizer.decode(tokens)
    assert images.shape[-1] == (32 if method == "mar" else 48)
    if method != "mar":
        images = resize_bicubic(images, 32)
    names = ("golden retriever", "hammerhead, hammerhead shark", "monarch, monarch butterfly, milkweed butterfly")
    rows = [(name, image[None]) for name, image in zip(names, to_uint8(images), strict=True)]
    with Image.open(out) as picture:
        assert np.array_equal(np.asarray(picture), draw_grid(rows))


SHARED = ("--cfg-scale", "1.5", "--temperature", "0.9")
OWN = {
    "ar": ("--cfg-interval", "3", "--top-k", "50", "--top-p", "0.5"),
    "mar": ("--num-iter", "3", "--cfg-schedule", "constant", "--head-steps", "4", "--head-sampler", "ddim"),
}
OWN["par"] = OWN["ar"]
FOREIGN = {
    "ar": {"--num-iter": "3", "--head-steps": "2", "--head-sampler": "ddim"},
    "mar": {"--top-k": "5", "--top-p": "0.9"},
}
FOREIGN["par"] = FOREIGN["ar"]


def write_random(name, path):
    """Weights of which none are zero: fresh ones start with layers that hide the class and the noise."""
    generator, rng = load_generator(name, weights="random"), torch.Generator().manual_seed(0)
    save_file(
        {key: 0.3 * torch.randn(tensor.shape, generator=rng) for key, tensor in generator.state_dict().items()}, path
    )


@pytest.fixture
def drawn(monkeypatch):
    """The tokens of every batch that is decoded, in the order of drawing."""
    seen = []

    def decode(tokenizer, tokens):
        seen.append(tokens.clone())
        return decode_tokens(tokenizer, tokens)

    monkeypatch.setattr("arbench.runs.decoding.decode_tokens", decode)
    return seen


@pytest.mark.parametrize("method", SIZES)
def test_every_option_of_a_method_changes_the_images(method, tiny_presets, tmp_path, drawn):
    """One after another, each on top of those before: an option that is ignored would leave the tokens as they were.

    Tokens, not pictures: the latents of random weights lie far outside the decoder's range, where pixels saturate.
    """
    weights = tmp_path / "x.safetensors"
    write_random(f"{method}-tiny", weights)
    base = ["sample", "--model", f"{method}-tiny", "--weights", str(weights), "--labels", "1", "--per-class", "2"]
    given = (*SHARED, *OWN[method])
    counts = range(0, len(given) + 1, 2)
    for count in counts:
        assert cli.run_command([*base, *given[:count], "--out", str(tmp_path / "x.png")]) == 0
    assert len(drawn) == len(counts)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))


@pytest.mark.parametrize(("method", "option"), [(method, option) for method in SIZES for option in FOREIGN[method]])
def test_an_option_of_another_method_is_an_error(method, option, tiny_presets, tmp_path, capsys):
    arguments = ["--model", f"{method}-tiny", "--weights", "random", option, FOREIGN[method][option]]
    assert cli.run_command(["sample", *arguments, "--out", str(tmp_path / "x.png")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert repr(option.removeprefix("--").replace("-", "_")) in line
    assert "expected one of: cfg_interval, cfg_scale" in line
    assert list(tmp_path.iterdir()) == []


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
    page = draw_grid([("0", np.repeat(image, 2, axis=0)), ("1", image)])
    red = (page == (255, 0, 0)).all(axis=-1)
    assert red.sum() == 3 * 4  # one pixel of each picture, 2 × 2


def test_pictures_keep_their_proportions():
    wide = np.zeros((1, 16, 32, 3), np.uint8)
    black = (draw_grid([("0", wide), ("1", np.repeat(wide, 2, axis=0))]) == 0).all(axis=-1)
    assert black.sum() == 3 * 32 * 64


def test_long_names_are_cut_at_a_word():
    assert shorten("golden retriever") == "golden retriever"
    assert shorten("monarch, monarch butterfly, milkweed butterfly") == "monarch, monarch …"


def test_eight_labels_are_eight_tiles_with_their_names_below():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    page = draw_grid([(str(label), image) for label in range(8)])
    black = (page == 0).all(axis=-1)
    assert black.sum() == 8 * 64 * 64
    assert [len(np.flatnonzero(np.diff(black.any(axis=axis).astype(int)) == 1)) for axis in (0, 1)] == [4, 2]
    assert page.shape[1] < 5 * 64 + 2 * MARGIN


def test_captions_beside_pictures_leave_them_most_of_the_room():
    images = np.zeros((2, 32, 32, 3), np.uint8)
    page = draw_grid([("lesser panda, red panda", images), ("otter", images)])
    black = (page == 0).all(axis=-1)
    assert black.any(axis=0).sum() > page.shape[1] / 2


def test_names_fit_their_tile():
    def fitted(room):
        return fit_caption("golden retriever, dog", lambda text: len(text) <= room)

    assert [fitted(room) for room in (30, 16, 10, 5, 0)] == [
        "golden retriever, dog", "golden retriever", "golden …", "gold…", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "start"), [("x.jpg", b"\xff\xd8"), ("x.webp", b"RIFF"), ("x.pdf", b"%PDF"), ("x.PNG", b"\x89PNG")]
)
def test_the_suffix_is_the_format(name, start, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("sample",))
    out = tmp_path / name
    assert (
        cli.run_command(["sample", "--method", "par", "--weights", "random", "--labels", "3", "--out", str(out)]) == 0
    )
    assert out.read_bytes().startswith(start)


def test_a_folder_takes_single_images_by_class_and_index(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("sample",))
    arguments = ["sample", "--method", "par", "--weights", "random", "--labels", "3,7,3", "--seed", "1"]
    names = ["3_0.png", "3_1.png", "7_0.png"]
    for out in (f"{tmp_path}/new/", str(tmp_path / "new")):
        assert cli.run_command([*arguments, "--out", out]) == 0
        assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    both = load_parts("par", weights="random", device=torch.device("cpu"))
    expected = [images[0] for _, images in sample_rows(both, [3, 7, 3], 1, seed=1)]
    for name, image in zip(("3_0", "7_0", "3_1"), expected, strict=True):
        with Image.open(tmp_path / "new" / f"{name}.png") as picture:
            assert np.array_equal(np.asarray(picture), image)
