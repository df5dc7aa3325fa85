"""Processes: read from torchrun's variables, told one value, what any of them wants agreed upon."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from subprocess import PIPE

import pytest

from arbench.machine.distributed import Processes, processes, tell_all

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
SCRIPT = """
import json, sys, torch
from arbench.machine.distributed import Agreement, gathered, process_group, processes, tell_all

mine = processes()
told = tell_all(mine, lambda: {"by": mine.rank})
with process_group(mine, torch.device("cpu")):
    ranks, agreement = gathered(mine.rank, mine), Agreement(mine)
    answers = [agreement.ask(mine.rank == 1 and number == 2) for number in range(5)]
    agreement.close()
result = {"rank": mine.rank, "told": told, "ranks": ranks, "answers": answers}
print("RESULT " + json.dumps(result), flush=True)
"""


ALONE = """
import sys, time
from pathlib import Path
from arbench.machine.distributed import by_first, processes, tell_all

mine, done = processes(), Path(sys.argv[1])
tell_all(mine, lambda: None)  # all have started

def work():
    time.sleep(3)
    done.write_text("done")
    return 7

assert by_first(mine, work) == (7 if mine.is_first else None)
print(f"RANK {mine.rank} LATER {done.exists()}", flush=True)
assert tell_all(mine, lambda: 5) == 5  # what is told next is not mixed up
"""


def torchrun(count: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_without_torchrun_this_is_the_only_process():
    assert processes() == Processes(rank=0, count=1, local_rank=0, restarts=0)
    assert tell_all(processes(), lambda: 3) == 3


def test_torchrun_variables_are_read(monkeypatch):
    for name, value in zip(VARIABLES, ("5", "8", "1", "2"), strict=True):
        monkeypatch.setenv(name, value)
    assert processes() == Processes(rank=5, count=8, local_rank=1, restarts=2)
    assert not processes().is_first


@pytest.mark.parametrize(("rank", "count"), [("x", "2"), ("2", "2"), ("1", ""), ("²", "2")])
def test_wrong_variables_are_one_line(monkeypatch, rank, count):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(ValueError, match="RANK"):
        processes()


@pytest.mark.parametrize("count", ["0", "-1", "²", "two"])
def test_no_processes_at_all_are_one_line(monkeypatch, count):
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(ValueError, match="WORLD_SIZE"):
        processes()


def test_processes_share_a_value_and_agree(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = torchrun(2, str(script))
    assert done.returncode == 0, done.stderr
    # Both print into one pipe, so two results may stand on one line.
    results = [json.JSONDecoder().raw_decode(part)[0] for part in done.stdout.split("RESULT ")[1:]]
    assert sorted(result["rank"] for result in results) == [0, 1]
    assert all(result["told"] == {"by": 0} and result["ranks"] == [0, 1] for result in results)
    # What one wanted in the third round both know in the fourth.
    assert all(result["answers"] == [False, False, False, True, False] for result in results)


def test_others_leave_while_the_first_works(tmp_path):
    (tmp_path / "script.py").write_text(ALONE)
    done = torchrun(2, str(tmp_path / "script.py"), str(tmp_path / "done"))
    assert done.returncode == 0, done.stderr
    assert "RANK 0 LATER True" in done.stdout
    assert "RANK 1 LATER False" in done.stdout


def test_one_process_of_another_node_stays(tmp_path):
    (tmp_path / "script.py").write_text(ALONE)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    meeting = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint={address}"]
    command = [sys.executable, "-m", "torch.distributed.run", *meeting, "--rdzv_id=1"]
    started = [
        subprocess.Popen([*command, tmp_path / "script.py", tmp_path / "done"], stdout=PIPE, stderr=PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [node.communicate(timeout=300) for node in started]
    assert [node.returncode for node in started] == [0, 0], outputs
    printed = "".join(out for out, _ in outputs)
    assert "RANK 0 LATER True" in printed
    assert "RANK 1 LATER True" in printed
