"""TensorBoard and Weights & Biases behind one interface: what a training and a run tell them, and what fails in one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_training import TinyTask, tiny_config
from tiny_runs import tiny

import arbench
from arbench.cli import run_command
from arbench.machine.distributed import Processes
from arbench.report.logs import Logs, log_names, open_logs, record_scalars
from arbench.training.log import LOG_NAME, Reporter, Stopwatch
from arbench.training.loop import train

STAND_IN = """
import json, pathlib
def init(**given):
    return Run(given)
class Image:
    def __init__(self, file):
        self.file = file
class Run:
    def __init__(self, given):
        self.file = pathlib.Path(given["dir"]) / "told.jsonl"
        self.tell("init", {name: given[name] for name in ("project", "name", "id", "resume")})
    def tell(self, kind, what):
        with self.file.open("a") as stream:
            stream.write(json.dumps([kind, what]) + "\\n")
    def define_metric(self, name, step_metric):
        self.tell("metric", [name, step_metric])
    def log(self, values):
        self.tell("log", {k: v.file if isinstance(v, Image) else v for k, v in values.items()})
    def finish(self):
        self.tell("finish", None)
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in place of `wandb` that writes down what it is told."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setitem(sys.modules, "wandb", None)  # whatever is there is put back afterwards
    del sys.modules["wandb"]


def told(folder: Path) -> list:
    return [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]


def picture(path: Path) -> Path:
    Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(path)
    return path


def test_tensorboard_holds_what_it_was_told(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is an extra: pip install 'arbench[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = open_logs(("tensorboard",), tmp_path, title="ar-digits", facts={"seed": 3})
    logs.scalars({"training/loss": 0.5}, 10)
    logs.scalars({"training/loss": 0.25}, 20)
    logs.picture("evaluation/images", picture(tmp_path / "grid.png"), 20)
    logs.close()
    resumed = open_logs(("tensorboard",), tmp_path, title="ar-digits", step=10)
    resumed.scalars({"training/loss": 0.125}, 15)
    resumed.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("training/loss")] == [(10, 0.5), (15, 0.125)]
    assert "seed: 3" in events.Tensors("ar-digits/text_summary")[0].tensor_proto.string_val[0].decode()


def test_a_training_tells_wandb_what_its_log_holds(tmp_path, wandb):
    logs = open_logs(("wandb",), tmp_path, title="tiny")
    train(TinyTask, tiny_config(log_every=5), tmp_path / "run", logs=logs)
    logs.close()
    again = open_logs(("wandb",), tmp_path, title="tiny")
    again.close()
    events = told(tmp_path)
    first, second = (what for kind, what in events if kind == "init")
    assert first == second  # one run, also where the training was interrupted
    assert (first["project"], first["resume"]) == ("arbench", "allow")
    assert ["metric", ["*", "step"]] in events
    assert events[-1] == ["finish", None]
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG_NAME).read_text().splitlines()]
    logged = [what for kind, what in events if kind == "log"]
    assert [row["step"] for row in logged] == [line["step"] for line in lines]
    for row, line in zip(logged, lines, strict=True):
        for name in ("loss", "gradient_norm", "learning_rate", "images_per_second", "memory_gib", "epoch"):
            assert row[f"training/{name}"] == line[name]


def test_a_run_tells_its_record_and_its_grid(tmp_path, wandb):
    record = arbench.run(**tiny(out=tmp_path / "runs", evaluate=True, log=["wandb"]))
    (logged, grid) = [what for kind, what in told(record.folder) if kind == "log"]
    assert logged["evaluation/fid"] == record["metrics"]["fid"]
    assert logged["evaluation/images_per_second"] == record["speed"]["images_per_second"]
    assert grid["evaluation/images"] == str(record.folder / "grid.png")


def test_a_log_that_fails_is_told_once_and_the_others_go_on(tmp_path, capsys):
    class Broken:
        def scalars(self, values, step):
            raise OSError("the server\nis away")

    class Kept:
        def __init__(self):
            self.rows = []

        def scalars(self, values, step):
            self.rows.append((step, dict(values)))

        def close(self):
            self.rows.append("closed")

    kept = Kept()
    logs = Logs({"wandb": Broken(), "tensorboard": kept})
    for step in (1, 2):
        logs.scalars({"loss": 0.5}, step)
    logs.close()
    assert kept.rows == [(1, {"loss": 0.5}), (2, {"loss": 0.5}), "closed"]
    assert capsys.readouterr().err.splitlines() == ["--log wandb ends here (the server is away); nothing depends on it"]


def test_mistakes_are_one_line_before_anything_is_done(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="did you mean 'wandb'"):
        log_names("wandbb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wandb is not installed; expected: pip install 'arbench\[wandb\]'"):
        log_names("wandb")
    train = ["train", "--target", "digits-cnn", "--steps", "1", "--out", str(tmp_path / "train"), "--log", "wandb"]
    for command in (train, ["run", "--method", "ar", "--out", str(tmp_path / "runs"), "--log", "tensorboard"]):
        assert run_command(command) == 2
        assert "is not installed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_opened_is_a_users_mistake(tmp_path, wandb):
    (tmp_path / "modules" / "wandb.py").write_text("def init(**given):\n    raise RuntimeError('no key')\n")
    with pytest.raises(ValueError, match="--log wandb cannot be opened: no key"):
        open_logs(("wandb",), tmp_path, title="x")


def test_scalars_of_a_record_name_further_extractors(tmp_path):
    record = {
        "metrics": {"fid": 2.0, "is_mean": None},
        "other_extractors": {"inception": {"metrics": {"fid": 3.0}}},
        "speed": {"seconds_per_image": 0.5},
    }
    assert record_scalars(record) == {
        "evaluation/fid": 2.0,
        "evaluation/fid@inception": 3.0,
        "evaluation/seconds_per_image": 0.5,
    }


def test_a_pause_is_no_part_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    watch = Stopwatch()
    now[0] = 2.0
    with watch.paused():
        now[0] = 50.0
    now[0] = 51.0
    assert watch.read()["seconds"] == 3.0


def test_the_log_tells_speed_since_its_last_line_and_mfu(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    device = torch.device("cpu")
    shown: list[tuple[int, float]] = []
    report = Reporter(
        tmp_path,
        Processes(),
        device,
        step=10,
        batch_size=8,
        epoch=40,
        share_of_peak=1e-3,
        watch=lambda step, told: shown.append((step, told["images_per_second"])),
    )
    for step, seconds in ((11, 1.0), (12, 3.0)):
        now[0] = seconds
        report.stepped(step, {"loss": torch.tensor(float(step)), "gradient_norm": 1.0})
    report.line(12)
    with report.paused():
        now[0] = 100.0
    now[0] = 104.0
    report.stepped(13, {"loss": 5.0, "gradient_norm": 1.0})
    report.line(13)
    first, second = (json.loads(line) for line in (tmp_path / LOG_NAME).read_text().splitlines())
    assert (first["loss"], first["epoch"], first["images_per_second"]) == (11.5, 2.4, 5.3333)
    assert (second["loss"], second["epoch"], second["images_per_second"]) == (5.0, 2.6, 2.0)
    assert second["mfu"] == 2.0e-3
    assert shown == [(11, 8.0), (12, 16 / 3), (13, 24 / 7)]  # since the training began here
    assert second["seconds_per_step"] == pytest.approx(7 / 3, abs=1e-5)  # the pause is no part of it
