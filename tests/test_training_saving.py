"""Checkpoints are written while training goes on: whole, of the step that they are named by, one at a time."""

import errno
import os
import signal
import threading
import warnings
from concurrent.futures import wait

import pytest
import torch
import torch.distributed.checkpoint as dcp
from small_disk import small_disk
from test_training import TinyTask, stop_at, tiny_config

from arbench.machine import saving
from arbench.machine.distributed import Processes
from arbench.machine.sharded import read_all
from arbench.training.checkpoint import (
    FOLDER_NAME,
    STEP_NAME,
    Keeping,
    find_checkpoint,
    has_checkpoint,
    read_checkpoint_facts,
)
from arbench.training.loop import train

PATIENCE = 60  # seconds until a test that would wait for ever fails


class Held:
    """The sums of a checkpoint's files, held up until somebody opens; how many saves were under way at once."""

    def __init__(self, monkeypatch):
        self.opened, self.at_once, self.most = threading.Event(), 0, 0
        self.of_file, appear = saving.file_sha256, saving.Saver._complete

        def counted(saver, *given):
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            appear(saver, *given)
            self.at_once -= 1

        monkeypatch.setattr(saving, "file_sha256", self.wait)
        monkeypatch.setattr(saving.Saver, "_complete", counted)

    def wait(self, file):
        assert self.opened.wait(PATIENCE)
        return self.of_file(file)


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """What is written is the state of its step, though the weights have moved on before."""
    held, seen = Held(monkeypatch), []

    def watch(step, logged):
        seen.append((step, has_checkpoint(tmp_path / "run")))
        if step == 7:
            held.opened.set()

    train(TinyTask, tiny_config(schedule="constant"), tmp_path / "run", watch=watch, keeping=Keeping(last=9))
    assert [there for step, there in seen if step <= 7] == [False] * 7  # the first checkpoint is of step 4
    train(TinyTask, tiny_config(steps=4, schedule="constant"), tmp_path / "short")
    first = tmp_path / "run" / FOLDER_NAME / "step-0000004"
    expected = read_all(find_checkpoint(tmp_path / "short"))
    assert read_checkpoint_facts(first)["step"] == 4
    for name, value in read_all(first).items():
        assert torch.equal(value, expected[name]), name


def test_a_state_is_written_as_it_was_whatever_pytorch_copies(tmp_path, monkeypatch):
    """PyTorch's earlier stagers hand on what lies on the CPU as it is; the weights move on before it is written."""
    moved, write = threading.Event(), dcp.FileSystemWriter.write_data

    def write_later(*given):
        assert moved.wait(PATIENCE)
        return write(*given)

    monkeypatch.setattr(dcp.FileSystemWriter, "stage", lambda writer, state: state)
    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", write_later)
    weight, rows = torch.arange(4.0), torch.zeros(3, dtype=torch.int64)
    with saving.saving(Processes()) as saver:
        saver.begin(tmp_path / "saved", {"weight": weight, "rows": rows}, {}, lambda: None)
        weight += 1
        rows += 1
        moved.set()
    found = read_all(tmp_path / "saved")
    assert torch.equal(found["weight"], torch.arange(4.0))
    assert torch.equal(found["rows"], torch.zeros(3, dtype=torch.int64))


def test_two_checkpoints_never_overlap(tmp_path, monkeypatch):
    held = Held(monkeypatch)
    held.opened.set()
    train(TinyTask, tiny_config(checkpoint_every=1), tmp_path, keeping=Keeping(last=12))
    assert held.most == 1
    assert [path.name for path in sorted((tmp_path / FOLDER_NAME).iterdir())] == [f"step-{n:07d}" for n in range(1, 13)]


@pytest.mark.parametrize("end", ["finished", "signal", "error"])
def test_what_was_begun_is_there_at_the_end(tmp_path, monkeypatch, end):
    held, ends = Held(monkeypatch), {"finished": 12, "signal": 5, "error": 4}
    threading.Timer(0.2, held.opened.set).start()

    def watch(step, logged):
        if step == 5 and end == "error":
            raise ValueError("of a watcher")
        stop_at(5 if end == "signal" else 0)(step, logged)

    try:
        train(TinyTask, tiny_config(), tmp_path, watch=watch)
    except (KeyboardInterrupt, ValueError):
        assert end != "finished"
    assert read_checkpoint_facts(find_checkpoint(tmp_path))["step"] == ends[end]
    assert [path.name for path in (tmp_path / FOLDER_NAME).iterdir()] == [f"step-{ends[end]:07d}"]


def test_a_save_that_fails_ends_the_training_at_the_next_step(tmp_path, monkeypatch):
    """Not when the next save is due; the line names the checkpoint."""
    begun, seen, begin, of_file = [], [], saving.Saver.begin, saving.file_sha256

    def noted(saver, folder, *given):
        begin(saver, folder, *given)
        begun.append(saver._running)

    def failing(file):
        if "step-0000008" in str(file):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return of_file(file)

    def watch(step, logged):
        seen.append(step)
        if step == 9:
            assert wait(begun[1:], PATIENCE).done

    monkeypatch.setattr(saving.Saver, "begin", noted)
    monkeypatch.setattr(saving, "file_sha256", failing)
    with pytest.raises(OSError, match=r"could not be written: .*step-0000008") as error:
        train(TinyTask, tiny_config(log_every=100), tmp_path, watch=watch)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(tmp_path / FOLDER_NAME / "step-0000008"))
    assert seen[-1] == 9
    assert [path.name for path in (tmp_path / FOLDER_NAME).iterdir()] == ["step-0000004"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_a_kill_in_the_middle_of_a_save_loses_nothing(tmp_path, monkeypatch, moment):
    """SIGKILL over the first or the second file of the second save, before or after its sum."""
    whole = train(TinyTask, tiny_config(), tmp_path / "whole")
    child = os.fork()
    if not child:
        done, of_file = [], saving.file_sha256

        def dying(file):
            done.append(file)
            if len(done) == 2 + (moment + 1) // 2:  # each save has two files
                if moment % 2 == 0:
                    of_file(file)
                os.kill(os.getpid(), signal.SIGKILL)
            return of_file(file)

        saving.file_sha256 = dying
        try:
            train(TinyTask, tiny_config(), tmp_path / "cut")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert read_checkpoint_facts(find_checkpoint(tmp_path / "cut"))["step"] == 4
    resumed = train(TinyTask, tiny_config(), tmp_path / "cut", resume=True)
    assert [path.name for path in (tmp_path / "cut" / FOLDER_NAME).iterdir()] == ["step-0000012"]
    for name, value in whole.ema.weights.items():
        assert torch.equal(resumed.ema.weights[name], value)


def test_a_full_disk_is_one_line_and_room_goes_on(tmp_path):
    config = tiny_config(checkpoint_every=1, steps=6)

    def wide():
        return TinyTask(width=400)

    whole = train(wide, config, tmp_path / "whole")
    with small_disk("fake", tmp_path / "disk", 40_000) as disk:
        with pytest.raises(OSError, match=r"[Nn]o space left|could not be written"):
            train(wide, config, disk.folder / "run")
        assert all(STEP_NAME.fullmatch(path.name) for path in (disk.folder / "run" / FOLDER_NAME).iterdir())
        disk.enlarge(10**7)
        again = train(wide, config, disk.folder / "run", resume=has_checkpoint(disk.folder / "run"))
    for name, value in whole.ema.weights.items():
        assert torch.equal(again.ema.weights[name], value)


@pytest.mark.parametrize(
    "told",
    [
        "torch.distributed is disabled, unavailable or uninitialized, assuming the intent is to save",
        "torch.distributed is unavailable or uninitialized, assuming the intent is to save",
        "TypedStorage is deprecated. It will be removed in the future",
    ],
)
def test_what_pytorch_says_to_itself_is_not_passed_on(told):
    """The last two by the saver of PyTorch 2.6."""
    with saving.saving(Processes()):
        warnings.warn(told, stacklevel=1)
