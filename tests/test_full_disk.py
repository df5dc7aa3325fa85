"""A full disk: one line that names the folder and what is safe; a run goes on once there is room, log or no log."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Union

import numpy as np
import pytest
from small_disk import FakeDisk, Tmpfs, small_disk
from test_download import Script, card, script, serve  # noqa: F401 - fixtures
from tiny_runs import images_of, only_run, tiny

import arbench
from arbench.cli import run_command
from arbench.machine.files import NoSpaceError, whole_file, write_whole
from arbench.machine.log import LogWarning, append_line, read_lines
from arbench.report.record import load_record
from arbench.report.tables import render_table
from arbench.runs.folder import RunFolder
from arbench.training.log import append_log
from arbench.weights.download import Download, Expected

Disk = Union[Tmpfs, FakeDisk]
SHARD = 64 * 32 * 32 * 3  # bytes of a shard's pixels
NUM_IMAGES = 192  # three shards
ASSETS = Path(arbench.__file__).parent / "assets"


@pytest.fixture(params=["fake", "tmpfs"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk with room for next to nothing."""
    with small_disk(request.param, tmp_path / "disk", 4096) as disk:
        if isinstance(disk, Tmpfs):
            (disk.folder / "others").write_bytes(bytes(4096))
        else:
            disk.enlarge(0)
        yield disk


def asked(out: Path) -> dict:
    return {**tiny(num_images=NUM_IMAGES), "evaluate": True, "batch_size": 64, "out": out}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    arbench.run(**asked(out))
    return only_run(out)


@pytest.mark.parametrize("kind", ["fake", "tmpfs"])
def test_a_run_is_told_what_is_safe_and_goes_on_once_there_is_room(
    kind: str, tmp_path: Path, undisturbed: Path
) -> None:
    with small_disk(kind, tmp_path / "disk", 2 * SHARD + SHARD // 2) as disk:
        with pytest.raises(NoSpaceError) as error:
            arbench.run(**asked(disk.folder))
        run = only_run(disk.folder)
        assert str(error.value) == (
            f"no space left in {run}: 128 of {NUM_IMAGES} images are safe there; make room and give the same command "
            "with --resume to go on"
        )
        assert not list(run.rglob("*.partial"))
        disk.enlarge(20 * SHARD)
        arbench.run(**asked(disk.folder), resume=True)
        assert np.array_equal(images_of(run), images_of(undisturbed))
        assert load_record(run)["metrics"] == load_record(undisturbed)["metrics"]


@pytest.mark.parametrize("kept", [0, 300])
def test_a_run_without_its_log_is_finished_all_the_same(kept: int, tmp_path: Path, undisturbed: Path) -> None:
    """The log cut within a line, or gone; all images are there, the record is not."""
    run = shutil.copytree(undisturbed, tmp_path / undisturbed.name)
    (run / "record.json").unlink()
    if kept:
        os.truncate(run / "events.jsonl", kept)
        with pytest.warns(LogWarning, match="1 of [0-9] lines cannot be read and are skipped"):
            record = arbench.run(**asked(tmp_path), resume=True)
    else:
        (run / "events.jsonl").unlink()
        record = arbench.run(**asked(tmp_path), resume=True)
    assert record["metrics"] == load_record(undisturbed)["metrics"]
    assert "seconds_per_image" not in record["speed"]
    assert "PAR" in render_table([record])


def test_a_line_that_cannot_be_logged_stops_nothing(full: Disk) -> None:
    RunFolder(full.folder, {"images": {"num_images": 1}, "shard_size": 1}).log("batch", images=3)
    assert read_lines(full.folder / "events.jsonl") == []


def test_a_training_goes_on_without_its_log(full: Disk) -> None:
    append_log(full.folder / "log.jsonl", 1, {"loss": 0.5}, {"seconds_per_step": 0.1})
    assert read_lines(full.folder / "log.jsonl") == []


def test_a_log_that_cannot_be_opened_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(LogWarning, match=r"a line was not logged \(.*\); nothing depends on it"):
        append_line(tmp_path / "file" / "events.jsonl", {"event": "batch"})


def test_the_line_after_a_cut_one_stands_alone(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    for number in range(3):
        append_line(log, {"event": "batch", "number": number})
    os.truncate(log, log.stat().st_size - 9)
    append_line(log, {"event": "batch", "number": 3})
    with pytest.warns(LogWarning, match="1 of 4 lines"):
        assert [line["number"] for line in read_lines(log)] == [0, 1, 3]


@pytest.mark.parametrize("content", [b"[1]\n", b"\xff\n", b"{\n", b"[" * 100_000 + b"\n", b'"text"\n'])
def test_what_is_no_line_of_a_log_is_skipped(tmp_path: Path, content: bytes) -> None:
    log = tmp_path / "events.jsonl"
    log.write_bytes(content + b'{"event": "old"}\n')  # an older version's, without a checksum
    with pytest.warns(LogWarning, match="1 of 2 lines"):
        assert read_lines(log) == [{"event": "old"}]


def test_a_flipped_bit_of_a_log_is_no_other_time(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    append_line(log, {"event": "batch", "seconds": 1.25, "loss": float("inf"), "name": "é"})
    assert read_lines(log)[0]["seconds"] == 1.25
    log.write_bytes(log.read_bytes().replace(b"1.25", b"9.25"))
    with pytest.warns(LogWarning, match="1 of 1 lines"):
        assert read_lines(log) == []


def test_a_short_write_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: path.open("wb").close())
    with pytest.raises(OSError, match=r"table.md: 0 of 5 bytes were written"):
        write_whole(tmp_path / "table.md", "12345")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_file_is_whole(full: Disk) -> None:
    path = full.folder / "table.md"
    path.touch()
    with pytest.raises(NoSpaceError, match=r"table.md was not written, the earlier one is whole"):
        write_whole(path, bytes(8192))
    assert path.read_bytes() == b""


def test_another_error_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def write() -> None:
        with whole_file(tmp_path / "a"):
            raise RuntimeError("unexpected pos 576 vs 534")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        write()
    assert list(tmp_path.iterdir()) == []


RUN = ("run", "--method", "par", "--num-images", "64", "--device", "cpu", "--out")
TRAIN = ("train", "--config", "digits", "--target", "digits-cnn", "--steps", "1", "--batch-size", "4", "--out")
CACHE = ("cache", "--tokenizer", "digits-kl", "--device", "cpu", "--out")
COMMANDS = {
    "run": RUN,
    "sample": ("sample", "--method", "par", "--labels", "3", "--device", "cpu", "--out", "grid.png"),
    "train": TRAIN,
    "cache": CACHE,
    "evaluate": ("eval", "{run}", "--reference", "digits-heldout", "--metrics", "fid", "--out", "scores.json"),
    "convert": ("weights", "convert", "{assets}/par-digits.safetensors", "a.pth"),
    "convert to safetensors": ("weights", "convert", "{assets}/par-digits.safetensors", "a.safetensors"),
    "table": ("table", "digits/par-table4", "--out", "table.md"),
    "plot": ("plot", "digits/par-table4", "-o", "curve.png"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_it_in_one_line(
    command: str, full: Disk, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(run=undisturbed, assets=ASSETS) for word in COMMANDS[command]]
    if words[-1] == "--out":
        words.append(str(full.folder))
    else:
        words[-1] = str(full.folder / words[-1])
    before = sorted(full.folder.rglob("*"))
    assert run_command(words) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if " images/s" not in line]
    assert len(told) == 1, told
    assert told[0].startswith(f"arbench: error: no space left in {full.folder}")
    assert not [
        path for path in full.folder.rglob("*") if path.is_file() and path not in before and path.stat().st_size
    ]


def test_a_download_keeps_what_has_come(full: Disk, script: Script) -> None:  # noqa: F811
    content = os.urandom(1 << 20)
    url = f"{os.environ['HF_ENDPOINT']}/file"
    script.behaviours = [serve(content)]
    known = Expected(sha256=hashlib.sha256(content).hexdigest())
    download = Download(target=full.folder / "a.bin", expected=known, first_wait=0.0)
    if isinstance(full, Tmpfs):
        with pytest.raises(OSError, match=r"0.0 GB free"):
            download.run([url])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arbench.weights.download._check_room", lambda part, wanted: None)  # another one fills the disk
        with pytest.raises(NoSpaceError, match=rf"no space left in {full.folder}: \d+ bytes are safe in a.bin.part"):
            download.run([url])
    full.enlarge(4 << 20)
    assert download.run([url]) == hashlib.sha256(content).hexdigest()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
def test_an_output_that_takes_nothing_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "arbench", "table", "digits/par-table4"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr == "arbench: error: no space left where the output goes: what was finished before is whole\n"
