"""Plug-ins that never end their import, or end the program in it: named in one line, in nobody's way."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from arbench.cli import run_command
from arbench.registry import time_limit

MODULES = {
    "stray_hang": "import time; time.sleep(600)",
    "stray_stubborn": """
import time
while True:
    try:
        time.sleep(600)
    except Exception:
        pass
""",
    "stray_quit": "import sys; sys.exit(0)",
    "stray_late": "import sys\nclass X:\n    def __init__(self, **config): sys.exit(0)",
}
pytestmark = pytest.mark.filterwarnings("default::arbench.generators.methods.PluginWarning")
GROUPS = ("tokenizers", "generators", "extractors")


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that brings all of them by every door."""
    for module, content in MODULES.items():
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(content)
    info = tmp_path / "stray-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stray\nVersion: 1.5\n")
    entries = "".join(f"{module.replace('_', '-')} = {module}:X\n" for module in MODULES)
    (info / "entry_points.txt").write_text("".join(f"[arbench.{group}]\n{entries}" for group in GROUPS))
    monkeypatch.syspath_prepend(str(tmp_path))
    for place in ("arbench.registry.IMPORT_SECONDS", "arbench.runs.conformance.IMPORT_SECONDS"):
        monkeypatch.setattr(place, 0.3)
    for place in ("arbench.generators.methods.SCAN_SECONDS", "arbench.weights.inventory.SCAN_SECONDS"):
        monkeypatch.setattr(place, 0.2)


def test_tokenizers_are_listed_without_an_import(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["tokenizers"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "stray 1.5" in rows["stray-hang"]
    assert "continuous" in rows["digits-kl"]
    assert not set(MODULES) & set(sys.modules)


def test_models_are_listed_and_the_others_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models", "*-digits"]) == 0
    out, err = capsys.readouterr()
    assert "mar-digits" in out
    assert "arbench: warning: method 'stray-hang' cannot be imported: it takes longer than 0.2 s; reinstall or" in err
    assert "note: method 'stray-quit' cannot be imported: it ends the program with sys.exit(0)" in err
    assert len([line for line in err.splitlines() if line.startswith("note: method 'stray-")]) == len(MODULES)


@pytest.mark.parametrize("group", ["tokenizers", "models"])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("stray-hang", "'stray-hang' cannot be imported: it takes longer than 0.3 s"),
        ("stray-stubborn", "'stray-stubborn' cannot be imported: it takes longer than 0.3 s"),
        ("stray_hang:X", "'stray_hang:X' cannot be imported: it takes longer than 0.3 s"),
        ("stray-quit", "'stray-quit' cannot be imported: it ends the program with sys.exit(0)"),
    ],
)
def test_a_check_ends_in_one_line(group: str, name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([group, "check", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(told)


def test_an_exit_while_it_is_built_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["tokenizers", "check", "stray-late"]) == 2
    *warnings, line = capsys.readouterr().err.splitlines()  # cards of its weights are looked for everywhere
    assert all(told.startswith("arbench: warning: method 'stray-") for told in warnings)
    assert line.startswith("arbench: error: ")
    assert "sys.exit(0)" in line


def test_an_extractor_that_ends_the_program_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((3, 32, 32, 3), np.uint8))
    assert (
        run_command(
            ["eval", str(tmp_path / "images.npz"), "--reference", "digits-heldout", "--extractor", "stray-quit"]
        )
        == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert "extractor 'stray-quit' cannot be imported: it ends the program with sys.exit(0)" in line


def test_the_doctor_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(["doctor"])
    out = capsys.readouterr().out
    assert "tokenizer 'stray-hang' cannot be imported: it takes longer than 0.2 s" in out


def test_what_is_not_used_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, its training, its scores and its table with models and tokenizers of ours."""

    def refused(*_: object) -> None:
        raise AssertionError("methods of strangers are imported")

    monkeypatch.setattr("arbench.generators.methods._usable", refused)
    run = ("run", "--method", "par", "--num-images", "4", "--device", "cpu", "--out", str(tmp_path / "runs"))
    assert run_command([*run]) == 0
    assert run_command(["table", str(tmp_path / "runs")]) == 0
    few = ("--steps", "1", "--batch-size", "4", "--views", "1", "--device", "cpu", "--out", str(tmp_path / "train"))
    assert run_command(["train", "--model", "par-digits", *few]) == 0
    assert not set(MODULES) & set(sys.modules)


def test_a_time_limit_leaves_the_timer_before_it() -> None:
    with pytest.raises(ValueError, match=r"longer than 0\.2 s"), time_limit(0.2):  # noqa: PT012
        with time_limit(5.0):
            pass
        time.sleep(5)
