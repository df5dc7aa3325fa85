"""A damaged checkpoint is passed over where a run goes on by itself, told with what to do where that was asked for."""

from collections import Counter

import pytest
import torch
from test_training import TinyTask, stop_at, tiny_config

from arbench.machine import sharded
from arbench.machine.distributed import Processes
from arbench.machine.sharded import FACTS
from arbench.runs.request import IF_STARTED
from arbench.training import checkpoint
from arbench.training.checkpoint import DAMAGED, FOLDER_NAME, Keeping, chosen_checkpoint
from arbench.training.loop import train


@pytest.fixture
def run(tmp_path):
    """A run that was interrupted, with the checkpoints of steps 4, 8 and 9."""
    with pytest.raises(KeyboardInterrupt):
        train(TinyTask, tiny_config(), tmp_path / "run", watch=stop_at(9), keeping=Keeping(last=9))
    return tmp_path / "run"


def kept(run):
    return sorted(path.name for path in (run / FOLDER_NAME).iterdir())


def damage(run, step, how="flipped"):
    path = run / FOLDER_NAME / f"step-{step:07d}"
    (tensors,) = path.glob("*.distcp")
    if how == "lost":
        tensors.unlink()
    elif how == "flipped":
        content = bytearray(tensors.read_bytes())
        content[len(content) // 2] ^= 1
        tensors.write_bytes(content)
    else:
        (path / FACTS).write_text("")


@pytest.mark.parametrize("how", ["flipped", "lost", "empty"])
def test_a_run_goes_on_by_itself_from_the_newest_intact_checkpoint(run, tmp_path, how):
    damage(run, 9, how)
    damage(run, 8)
    before, said = kept(run), []
    with pytest.raises(ValueError, match=r"step-0000009.*; step-0000008 is kept: --resume auto goes on") as error:
        train(TinyTask, tiny_config(), run, resume=True)
    assert "\n" not in str(error.value)
    assert kept(run) == before
    resumed = train(TinyTask, tiny_config(), run, resume=IF_STARTED, say=said.append)
    (line,) = said
    assert "step-0000009" in line
    assert "going on from step-0000004" in line
    assert kept(run) == [f"{DAMAGED}step-0000008", f"{DAMAGED}step-0000009", "step-0000012"]
    whole = train(TinyTask, tiny_config(), tmp_path / "whole")
    for name, value in whole.ema.weights.items():
        assert torch.equal(resumed.ema.weights[name], value)


def test_no_run_begins_anew_beside_damaged_checkpoints(run):
    damage(run, 9)
    damage(run, 8)
    damage(run, 4)
    before = kept(run)
    with pytest.raises(ValueError, match=r"step-0000009.*none of the 2 older ones is intact: choose another --out"):
        train(TinyTask, tiny_config(), run, resume=IF_STARTED)
    assert kept(run) == before


def test_a_run_of_one_damaged_checkpoint_says_what_is_left_to_do(tmp_path):
    train(TinyTask, tiny_config(steps=2), tmp_path)
    damage(tmp_path, 2)
    for resume in (True, IF_STARTED):
        with pytest.raises(ValueError, match="no older one is kept: choose another --out"):
            train(TinyTask, tiny_config(steps=4), tmp_path, resume=resume)


def test_what_one_process_finds_damaged_all_pass_over(run, monkeypatch):
    others = iter(["of another process: damaged"])
    monkeypatch.setattr(checkpoint, "gathered", lambda value, mine: [value, next(others, "")])
    assert chosen_checkpoint(run, IF_STARTED, Processes()) == run / FOLDER_NAME / "step-0000008"
    assert kept(run) == [f"{DAMAGED}step-0000009", "step-0000004", "step-0000008"]


def test_what_was_put_aside_before_makes_room(run):
    aside = run / FOLDER_NAME / f"{DAMAGED}step-0000009"
    aside.mkdir()
    (aside / "before").write_text("")
    damage(run, 9)
    assert chosen_checkpoint(run, IF_STARTED, Processes()) == run / FOLDER_NAME / "step-0000008"
    assert (aside / FACTS).is_file()
    assert not (aside / "before").exists()


def test_no_file_is_summed_up_twice(run, monkeypatch):
    """Neither of what is passed over nor of what is gone on from."""
    damage(run, 9)
    read, of_file = [], sharded.file_sha256

    def counted(file):
        read.append(file.relative_to(run / FOLDER_NAME).as_posix())
        return of_file(file)

    monkeypatch.setattr(sharded, "file_sha256", counted)
    train(TinyTask, tiny_config(), run, resume=IF_STARTED)
    assert set(Counter(read).values()) == {1}
    assert {name.partition("/")[0] for name in read} == {"step-0000008", "step-0000009"}


def test_a_run_that_is_not_there_begins(tmp_path):
    assert chosen_checkpoint(tmp_path, IF_STARTED, Processes()) is None
    assert chosen_checkpoint(tmp_path, False, Processes()) is None
