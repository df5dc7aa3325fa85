"""`arbench sample --film`: the shots are those of the drawing itself, and the file holds them."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from arbench import cli
from arbench.images.films import check_film, write_film
from arbench.runs import compare
from arbench.runs.film import Reel, Shot, film
from arbench.runs.film_pictures import MOST_WIDE, film_pictures
from arbench.runs.models import load_parts
from arbench.runs.samples import sample_rows
from arbench.runs.watching import GREY

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def par():
    return load_parts("par", device=CPU)


def test_shots_are_the_steps_so_far_and_the_last_are_the_images(par):
    reel = film(par, [3, 7], pictures=5, seed=4)
    assert reel.steps == 19
    assert [shot.step for shot in reel.shots] == [0, 3, 7, 11, 15, 19]
    images = np.concatenate([images for _, images in sample_rows(par, [3, 7], 1, seed=4)])
    assert np.array_equal(reel.shots[-1].images, images)
    hidden = [int((shot.images == GREY).all(axis=-1).sum()) for shot in reel.shots]
    assert hidden[0] == images[..., 0].size
    assert sorted(hidden[1:], reverse=True) == hidden[1:]
    # After three steps, each of one token of 4 × 4 pixels: no more of the two images is shown.
    assert images[..., 0].size - hidden[1] <= 2 * 3 * 16
    seconds = [shot.seconds for shot in reel.shots]
    assert seconds[0] == 0
    assert sorted(seconds) == seconds


def test_a_denoised_image_is_watched_as_its_noise_goes():
    parts = load_parts("dit", device=CPU, sampling={"head_steps": 4})
    reel = film(parts, [3], pictures=9, seed=4)
    assert (reel.steps, [shot.step for shot in reel.shots]) == (4, [0, 1, 2, 3, 4])
    assert np.array_equal(reel.shots[-1].images, sample_rows(parts, [3], 1, seed=4)[0][1])
    gaps = [np.abs(shot.images.astype(int) - reel.shots[-1].images).mean() for shot in reel.shots]
    assert gaps[0] > 2 * gaps[3] > 0
    assert not parts.generator.joint.net._forward_pre_hooks


def test_a_grid_that_is_no_square_is_filmed_as_it_is():
    shape = {"grid": (4, 8), "width": 16, "depth": 1, "heads": 2}
    reel = film(load_parts("ar", weights="random", device=CPU, config=shape), [3], pictures=2)
    assert [shot.images.shape for shot in reel.shots] == [(1, 16, 32, 3)] * 3


def test_too_many_images_are_one_line(par):
    with pytest.raises(ValueError, match="49 images in a film; expected 1 to 48"):
        film(par, [0] * 49, pictures=2)


def reel(steps, shots, side=32, captions=("3",)):
    images = [np.full((len(captions), side, side, 3), 10 * shot, np.uint8) for shot in range(shots + 1)]
    return Reel(
        model="par-digits",
        method="par",
        captions=captions,
        steps=steps,
        shots=[Shot(shot * steps // shots, 0.1 * shot, image) for shot, image in enumerate(images)],
    )


def test_every_model_runs_from_its_first_step_to_its_last():
    short, long = reel(2, 2), reel(64, 8)
    assert [short.at(share / 4).step for share in range(5)] == [0, 0, 1, 1, 2]
    assert [long.at(share / 4).step for share in range(5)] == [0, 16, 32, 48, 64]
    pictures, durations = film_pictures([short, long], 8)
    assert len(pictures) == len(durations) == 9
    assert len({picture.shape for picture in pictures}) == 1


@pytest.mark.parametrize(("side", "cell"), [(32, 64), (256, 149)])
def test_pictures_are_no_wider_than_a_page(side, cell):
    captions = [str(label) for label in range(8)]
    (last, *_), _ = film_pictures([reel(2, 2, side, captions)], 1)
    black = (last == 0).all(axis=-1)
    assert last.shape[1] <= MOST_WIDE
    assert black.sum() == pytest.approx(8 * cell**2, rel=0.02)  # letters are dark too


def test_what_the_clock_counts_stands_there_whole_beside_one_small_image():
    (picture, *_), _ = film_pictures([reel(2, 2)], 1)
    page = picture.min(axis=2) < 250
    assert page[-15:].any()  # the note
    assert not page[-15:, -4:].any()  # and some paper behind it


def test_a_gif_holds_every_picture_for_its_time(tmp_path):
    pictures = [np.full((20, 30, 3), 255, np.uint8) for _ in range(4)]
    for number, picture in enumerate(pictures):
        picture[5:10, 5 : 10 + number] = (40 * number, 90, 7)
    write_film(tmp_path / "x.gif", pictures, [0.1, 0.2, 0.05, 1.0])
    with Image.open(tmp_path / "x.gif") as found:
        assert found.info["loop"] == 0
        frames = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(found)]
    assert [seconds for _, seconds in frames] == [100, 200, 50, 1000]
    assert all(np.array_equal(frame, picture) for (frame, _), picture in zip(frames, pictures, strict=True))


def fake_ffmpeg(tmp_path, monkeypatch, script):
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def test_ffmpeg_is_given_every_picture_for_its_time(tmp_path, monkeypatch):
    fake_ffmpeg(tmp_path, monkeypatch, 'for last; do :; done; echo "$@" > "$(dirname $0)/told"; cat > "$last"')
    pictures = [np.full((5, 7, 3), value, np.uint8) for value in (1, 2)]
    write_film(tmp_path / "x.mp4", pictures, [0.04, 0.12])
    assert (tmp_path / "x.mp4").read_bytes() == bytes([1] * 4 * 6 * 3 + [2] * 3 * 4 * 6 * 3)  # sides of even length
    assert "-s 6x4" in (tmp_path / "bin" / "told").read_text()


def test_what_ffmpeg_cannot_do_is_one_line_and_no_file(tmp_path, monkeypatch):
    fake_ffmpeg(tmp_path, monkeypatch, 'cat > /dev/null; echo first >&2; echo "Unknown encoder" >&2; exit 1')
    with pytest.raises(OSError, match="could not write the film: Unknown encoder"):
        write_film(tmp_path / "x.mp4", [np.zeros((4, 4, 3), np.uint8)], [1.0])
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_without_ffmpeg_an_mp4_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match=r"x.mp4: ffmpeg is not here; expected it on the PATH, .* or a .gif"):
        check_film(tmp_path / "x.mp4")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--film", "x.mov"], "unknown suffix of --film '.mov'"),
        (["--film", "x.gif", "--out", "y.png"], "--out does not go with --film"),
        (["--film", "x.gif", "--film-pictures", "0"], "film_pictures is 0"),
        (["--film", "x.gif", "--method", "all", "--num-iter", "3"], "--num-iter belongs to one method"),
        (["--method", "all"], "--method all is for films"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_drawn(options, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("sample",))
    assert cli.run_command(["sample", *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert list(tmp_path.iterdir()) == []


def test_all_methods_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("sample",))
    kept = [method for method in compare.compared_methods() if method.name in ("par", "arpg")]
    monkeypatch.setattr(compare, "compared_methods", lambda: [replace(method) for method in kept])
    target = tmp_path / "new" / "film.gif"
    asked = ["sample", "--method", "all", "--labels", "3", "--film", str(target), "--film-pictures", "2"]
    assert cli.run_command(asked) == 0
    assert capsys.readouterr().out == f"{target}\n"
    with Image.open(target) as found:
        assert found.n_frames == 3
        assert found.width > 2 * 64
