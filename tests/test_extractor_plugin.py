"""A stranger's features and a new metric, by the README beside the evaluation; a broken plug-in harms nobody."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from installed_plugins import install_plugin
from tiny_runs import only_run, tiny

import arbench
from arbench.cli import run_command
from arbench.evaluation import table
from arbench.evaluation.extractors import load_extractor
from arbench.evaluation.metrics import evaluate
from arbench.evaluation.networks import Digits
from arbench.images.data import open_data
from arbench.registry import EXTRACTORS
from arbench.report.record import load_record
from arbench.report.tables import render_table
from arbench.report.values import group_seeds

PLUGIN = Path(__file__).parent / "plugins" / "moments"
README = Path(arbench.__file__).parent / "evaluation" / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def block(language: str, start: str) -> str:
    return next(text for kind, text in BLOCKS if kind == language and text.startswith(start))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in as pip installs it, its module as the README has it."""
    files = {"moments.py": block("python", "# moments.py")}
    return install_plugin("moments", tmp_path_factory.mktemp("plugin"), files)


@pytest.fixture(autouse=True)
def at_hand(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))
    for module in ("moments", "moments_failing", "moments_broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return open_data("digits", split="train").images()[:120]


def test_the_readme_s_extractor_is_the_plugin_s() -> None:
    assert block("python", "# moments.py").partition("\n")[2] == (PLUGIN / "moments.py").read_text()
    assert block("toml", "[project.entry").strip() in (PLUGIN / "pyproject.toml").read_text()


def test_all_are_found_alike_and_ours_too() -> None:
    assert {"inception", "digits-cnn", "moments", "moments-broken"} <= set(EXTRACTORS.installed())
    assert isinstance(load_extractor("digits-cnn"), Digits)
    assert load_extractor("moments:Moments").width == load_extractor("moments").width == 24
    assert EXTRACTORS.made_by("moments") == EXTRACTORS.made_by("moments:Moments") == {"arbench-moments": "0.1.0"}
    assert EXTRACTORS.made_by("moments_failing:Picky") == {"arbench-moments": "0.1.0"}  # found by its module alone
    assert EXTRACTORS.made_by("digits-cnn") == EXTRACTORS.made_by("nowhere:Class") == {}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("momnets", "did you mean 'moments'"),
        ("moments-broken", "'moments-broken' cannot be imported: ModuleNotFoundError"),
        ("moments:Missing", "'moments:Missing' cannot be imported: AttributeError"),
        ("moments-memberless", "'moments-memberless' lacks resize, width; see arbench/evaluation/README.md"),
        ("moments-unmade", "'moments-unmade' cannot be made: RuntimeError: no licence file"),
        ("moments-misshapen", r"features returned shape \(64, 7\); expected \(64, 25\)"),
        ("moments-failing", "'moments-failing' cannot read these images: KeyError"),
        ("moments-picky", "'moments-picky' cannot read these images: expected 64x64"),
    ],
)
def test_what_goes_wrong_is_one_line(name: str, told: str, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=told) as error:
        evaluate(images, images, extractor=name, metrics=["fid"])
    assert "\n" not in str(error.value)


def test_several_extractors_see_the_images_once_and_say_what_each_alone_says(
    images: np.ndarray, tmp_path: Path
) -> None:
    reads: list[int] = []
    asked = {"metrics": ["fid", "is", "kid", "label_accuracy"], "labels": np.arange(120) % 10}
    both = evaluate(images, "digits-heldout", extractor="digits-cnn,moments", progress=reads.append, **asked)
    assert sum(reads) == 120 + 359
    other = both.pop("other_extractors")["moments"]
    assert both == evaluate(images, "digits-heldout", extractor="digits-cnn", **asked)
    alone = evaluate(images, "digits-heldout", extractor="moments", metrics=["fid", "kid"], labels=asked["labels"])
    assert set(other["metrics"]) == {"fid", "kid", "kid_std"}  # it has no logits
    assert other["metrics"] == {name: alone[name] for name in other["metrics"]}
    assert other["metric_protocol"] == alone["metric_protocol"]

    with pytest.raises(ValueError, match="is needs an extractor with logits, which moments does not give"):
        evaluate(images, images, extractor="moments", metrics=["is"])
    with pytest.raises(ValueError, match="extractor moments computes none of these: is needs an extractor with logits"):
        evaluate(images, images, extractor="digits-cnn,moments", metrics=["is"])
    with pytest.raises(ValueError, match="two extractors are called 'moments'"):
        evaluate(images, images, extractor=["moments", "moments:Moments"])


def test_logits_and_weights_are_optional(images: np.ndarray, tmp_path: Path) -> None:
    labels = np.arange(120) % 10
    found = evaluate(images, images, extractor="moments-reading", metrics=["is", "label_accuracy"], labels=labels)
    features = load_extractor("moments").extract(images).features
    assert found["label_accuracy"] == pytest.approx((features[:, :10].argmax(axis=1) == labels).mean())
    with pytest.raises(ValueError, match=r"'moments' cannot load .*: it has no load\(weights, device\)"):
        load_extractor("moments", weights=tmp_path / "weights.bin")


def test_a_record_holds_several_and_tables_and_plots_ask_for_each(tmp_path: Path) -> None:
    asked = {**tiny(num_images=20), "evaluate": True, "metrics": ["fid", "label_accuracy"]}
    record = arbench.run(**asked, extractor=["digits-cnn", "moments"], out=tmp_path / "runs")
    run = only_run(tmp_path / "runs")
    assert load_record(run) == record
    assert record["versions"]["arbench-moments"] == "0.1.0"
    fid = record["other_extractors"]["moments"]["metrics"]["fid"]
    group = group_seeds([record])[0]
    assert (group.mean("fid@moments"), group.mean("fid@digits-cnn")) == (fid, record["metrics"]["fid"])
    assert group.mean("fid@inception") is None
    low, high = group.interval("fid@moments") or (0.0, 0.0)
    assert low <= fid <= high

    text = render_table([record])
    assert "FID-20 ↓" in text
    assert "FID-20 (moments) ↓" in text
    assert f"{fid:.2f}<sup>b</sup>" in text  # another protocol than the column beside it
    assert "<sup>b</sup> 20 images, extractor moments" in text
    told = next(csv.DictReader(io.StringIO(render_table([record], "csv"))))
    assert float(told["fid@moments"]) == fid
    assert float(told["fid@moments_low"]) == low
    assert told["extractor_sha256@moments"] == load_extractor("moments").sha256
    picture = tmp_path / "curve.svg"
    assert run_command(["plot", str(run), "--y", "fid@moments", "-o", str(picture)]) == 0
    assert "FID-20 (moments)" in picture.read_text()

    on_the_fly = arbench.run(**asked, extractor="digits-cnn,moments", on_the_fly=True, out=tmp_path / "on-the-fly")
    assert on_the_fly["metrics"] == record["metrics"]
    assert on_the_fly["other_extractors"] == record["other_extractors"]


def test_as_a_user_would(installed: Path, images: np.ndarray, tmp_path: Path) -> None:
    """A new process that knows nothing but what is installed."""
    np.savez(tmp_path / "images.npz", images)
    asked = [
        "--reference",
        "digits-heldout",
        "--extractor",
        "digits-cnn,moments",
        "--metrics",
        "fid,label_accuracy,kid",
    ]
    command = [sys.executable, "-m", "arbench", "eval", "images.npz", *asked, "--out", "scores.json"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "label_accuracy: no labels" in done.stderr
    command[command.index("fid,label_accuracy,kid")] = "fid,kid"
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("FID-120") == 2
    assert "extractor moments" in done.stdout
    assert set(json.loads((tmp_path / "scores.json").read_text())["other_extractors"]) == {"moments"}


def test_a_metric_is_one_entry(images: np.ndarray, tmp_path: Path) -> None:
    known = dict(table.METRICS)
    try:
        exec(block("python", "import numpy"), {})
        means = [load_extractor("moments").extract(part).features.mean(axis=0) for part in (images, images[:50])]
        found = evaluate(images, images[:50], extractor="moments", metrics=["mean_distance"])
        assert found["mean_distance"] == pytest.approx(np.linalg.norm(means[0] - means[1]), rel=1e-5)  # float32 means
        asked = {**tiny(num_images=20), "evaluate": True, "metrics": ["fid", "mean_distance"]}
        record = arbench.run(**asked, out=tmp_path)
        assert "mean distance ↓" in render_table([record])
        assert run_command(["plot", str(tmp_path), "--y", "mean_distance", "-o", str(tmp_path / "curve.svg")]) == 0
    finally:
        table.METRICS.clear()
        table.METRICS.update(known)
    with pytest.raises(ValueError, match="unknown metric 'mean_distance'"):
        evaluate(images, images[:50], extractor="moments", metrics=["mean_distance"])
