"""Progress: within a batch by its steps, scoring by phase, a line a minute off a terminal; images stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import TINY, images_of, only_run, tiny

from arbench.cli import run_command
from arbench.cli.screen import tell
from arbench.evaluation.metrics import evaluate
from arbench.images.data import open_data
from arbench.machine import progress
from arbench.runs import execute as runner
from arbench.runs.models import load_parts
from arbench.runs.samples import sample_rows


class Clock:
    """Time that passes as told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Shown(list):
    """What a bar was told."""

    def __call__(self, *told: object) -> None:
        self.append(told)


def test_steps_move_a_batch_along() -> None:
    shown, clock = Shown(), Clock()
    bar = progress.ImageProgress("mar", 40, done=8, steps=4, show=shown, seconds=0, clock=clock)
    for step in range(4):
        clock.now += 1
        bar.step(16, step)
    clock.now += 1
    bar(16)
    assert shown == [
        ("mar", 8, 40, 0),
        ("mar", 12, 40, 2),
        ("mar", 16, 40, 8 / 3),
        ("mar", 20, 40, 3),
        ("mar", 24, 40, 16 / 5),
    ]


def test_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bar = progress.ImageProgress("mar", 300, steps=100, show=progress.print_line, clock=clock)
    for step in range(100):  # one batch of 200 that takes 150 s
        bar.step(200, step)
        clock.now += 1.5
    bar.phase("features", 300)
    assert capsys.readouterr().err.splitlines() == [
        "mar: 80 of 300 images, 1.33 images/s, 0:02:45 left",
        "mar: 160 of 300 images, 1.33 images/s, 0:01:45 left",
    ]
    clock.now += 60
    bar.phase("kid")
    assert capsys.readouterr().err == "mar: kid\n"


@pytest.mark.parametrize("method", ["mar", "par", "ar"])
def test_every_step_of_a_batch_is_told_and_changes_no_image(method: str) -> None:
    request = TINY[method]
    sampling = {name: value for name, value in request.items() if name not in ("method", "config")}
    torch.manual_seed(0)
    parts = load_parts(
        method,
        None,
        device=torch.device("cpu"),
        weights="random",
        tokenizer_weights="random",
        config=request["config"],
        sampling=sampling,
    )
    told: list[tuple[int, int]] = []
    watched = sample_rows(parts, [3], 5, batch_size=3, step=lambda images, step: told.append((images, step)))
    steps = {"mar": 3, "par": 19, "ar": 64}[method]
    assert told == [(images, step) for images in (3, 2) for step in range(steps)]
    assert np.array_equal(watched[0][1], sample_rows(parts, [3], 5, batch_size=3)[0][1])


def test_a_run_tells_its_steps_but_not_those_of_the_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner.run(**tiny("mar", out=tmp_path / "quiet", batch_size=4))
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(progress.ImageProgress, "step", lambda self, images, step: told.append((images, step)))
    runner.run(**tiny("mar", out=tmp_path / "told", batch_size=4))
    assert told == [(images, step) for images in (4, 4, 2) for step in range(3)]
    runs = [only_run(tmp_path / name) for name in ("quiet", "told")]
    assert np.array_equal(*map(images_of, runs))


def test_scoring_is_told_by_phase() -> None:
    images = open_data("digits", split="heldout").images()[:40]
    told: list[tuple[str, int]] = []
    counted: list[int] = []
    evaluate(
        images,
        images[:30],
        extractor="digits-cnn",
        metrics=["fid", "kid"],
        progress=counted.append,
        phase=lambda name, total: told.append((name, total)),
    )
    assert told == [("features", 40), ("features of the reference", 30), ("fid", 0), ("kid", 0)]
    assert sum(counted) == 70


def test_bars_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images.npz"
    np.savez(images, open_data("digits", split="heldout").images()[:40])
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert run_command(["eval", str(images), "--reference", "digits-heldout", "--metrics", "fid"]) == 0
    assert "scoring: fid" in capsys.readouterr().err


def test_a_training_tells_loss_speed_and_the_time_left() -> None:
    shown, clock = Shown(), Clock()
    advance = progress.progress_lines("mar", 100, seconds=0, show=shown, clock=clock)
    advance(10, {"loss": 0.5})
    clock.now += 60
    advance(40, {"loss": 0.25, "images_per_second": 16.04})
    assert shown == [(10, "loss 0.5000"), (40, "loss 0.2500, 16 images/s, 2 min left")]


def test_a_bar_rests_while_another_one_moves() -> None:
    with progress.terminal_bar("training", 10):
        (outer,) = progress._shown
        with progress.terminal_bar("scoring", 5):
            assert not outer.live.is_started
            assert progress._shown[-1].live.is_started
        assert outer.live.is_started
    assert progress._shown == []


def test_a_line_is_told_beside_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.terminal_bar("training", 10):
        tell("step 3: FID-20 834.46")
        assert progress._shown[-1].live.is_started
    assert capsys.readouterr().out == "step 3: FID-20 834.46\n"
