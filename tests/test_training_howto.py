"""The how-to of training: its commands exist, its costs are what the plan computes; Slurm's script, with stand-ins."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_readme import parse

from arbench.cli import run_command

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "arbench/training/README.md").read_text(encoding="utf-8")
SCRIPT = ROOT / "scripts/slurm/train.sbatch"
ROWS = re.findall(r"^\| `(arbench train [^`]+)` \| ([\d,]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)


def arbench_words(line: str) -> list[str]:
    """The words after `arbench`, also behind torchrun or in place of the Slurm script's own."""
    words = shlex.split(line, comments=True)
    if words[0] == "sbatch":
        return ["train", *words[words.index("scripts/slurm/train.sbatch") + 1 :]]
    return words[words.index("arbench") + 1 :]


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(arbench|torchrun|sbatch) ", line)]


@pytest.mark.parametrize("line", commands())
def test_commands_exist(line):
    parse(arbench_words(line))


def test_what_is_trained_has_its_cost_told():
    trained = {re.search(r"--model (\S+)", line)[1] for line in commands() if "torchrun" in line}
    assert trained <= {re.search(r"--model (\S+)", command)[1] for command, _, _ in ROWS}
    papers = {"mar-b", "ar-b", "par-l-4x", "arpg-l", "ar-3b"}
    assert papers < trained
    plain = {f"arbench train --model {model} --plan {gpus}" for model in papers for gpus in (8, 64)}
    assert plain <= {command for command, _, _ in ROWS}


@pytest.mark.parametrize(("command", "hours", "memory"), ROWS)
def test_costs_are_what_the_plan_computes(command, hours, memory, capsys):
    assert run_command(shlex.split(command)[1:]) == 0
    told = capsys.readouterr().out
    assert f"about {hours} hours" in " ".join(told.split())
    assert f"= {memory} GiB\n" in told


def test_a_plan_takes_what_is_changed_and_trains_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(["train", "--model", "mar-b", "--plan", "2", "--batch-size", "256", "--accumulate", "4"]) == 0
    told = capsys.readouterr().out
    assert "2 x 4 micro-batches of 32 images" in told
    assert "learning rate follows" in told
    assert run_command(["train", "--target", "digits-cnn", "--plan", "2"]) == 2
    assert "digits-cnn is a classifier" in capsys.readouterr().err
    assert run_command(["train", "--model", "ar-b", "--plan", "3"]) == 2
    assert "cannot be shared by 3 processes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", sorted((ROOT / "scripts/slurm").glob("*.sbatch")), ids=lambda path: path.stem)
def test_scripts_are_bash(script):
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0


STAND_INS = {
    "scontrol": """#!/usr/bin/env bash
if [[ $1 == show ]]; then echo localhost; else echo "$*" >> "$TOLD/requeued"; fi
""",
    "srun": f"""#!{sys.executable}
import json, os, sys
words = [word for word in sys.argv[1:]]
options = []
while words[0].startswith("--"):
    options.append(words.pop(0))
with open(os.path.join(os.environ["TOLD"], "options"), "a") as file:
    file.write(json.dumps([*options, os.environ["OMP_NUM_THREADS"]]) + "\\n")
with open(os.path.join(os.environ["TOLD"], "srun"), "a") as file:
    file.write(json.dumps(words) + "\\n")
if os.environ.get("FAIL"):
    sys.exit(7)
os.execvp(words[0], words)
""",
    # To every process of the step: those below the one that `srun` has become.
    "scancel": f"""#!{sys.executable}
import os, signal, subprocess
def below(pid):
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    for line in found.splitlines():
        number, words = line.split(None, 1)
        if int(number) != os.getpid():
            yield from below(int(number))
            yield int(number)
for pid in below(os.getppid()):
    try:
        os.kill(pid, signal.SIGUSR1)
    except ProcessLookupError:
        pass
""",
}


@pytest.fixture
def slurm(tmp_path):
    """The environment of a batch script with stand-ins for Slurm's commands."""
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "torchrun").write_text(f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n')
    (tmp_path / "bin" / "torchrun").chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "1"}
    job |= {"SLURM_CPUS_PER_TASK": "1", "SLURM_GPUS_ON_NODE": "1", "TOLD": str(tmp_path), "ARBENCH_RUNS": str(tmp_path)}
    return {**os.environ, **job, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def started(tmp_path):
    return [json.loads(line) for line in (tmp_path / "srun").read_text().splitlines()]


def test_the_slurm_script_starts_a_training_that_the_parser_takes_and_tries_again_after_a_crash(slurm, tmp_path):
    words = ["--model", "mar-b", "--data", "imagenet/train"]
    done = subprocess.run(["bash", str(SCRIPT), *words], env={**slurm, "FAIL": "1"}, capture_output=True, text=True)
    assert done.returncode == 7
    assert done.stderr.count("ended with status 7") == 4
    first, *others = started(tmp_path)
    assert len(others) == 3
    assert others[0] != first  # another rendezvous
    assert first[first.index("arbench") + 1 :] == ["train", "--out", f"{tmp_path}/train", *words, "--resume", "auto"]
    parse(first[first.index("arbench") + 1 :])
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize(("cores", "threads"), [("64", "16"), ("2", "1"), (None, "1")])
def test_a_step_has_the_cores_of_its_job(slurm, tmp_path, cores, threads):
    given = {**slurm, "FAIL": "1", "SLURM_GPUS_ON_NODE": "4"}
    del given["SLURM_CPUS_PER_TASK"]
    given |= {} if cores is None else {"SLURM_CPUS_PER_TASK": cores}
    subprocess.run(["bash", str(SCRIPT), "--model", "mar-b"], env=given, capture_output=True)
    told = {tuple(json.loads(line)) for line in (tmp_path / "options").read_text().splitlines()}
    assert told == {("--kill-on-bad-exit=1", f"--cpus-per-task={cores or 4}", threads)}


@pytest.mark.slow
def test_a_signal_before_the_time_limit_saves_and_requeues(slurm, tmp_path):
    """With torchrun itself: a training that is signalled leaves with a checkpoint, and the job is requeued."""
    words = ["--target", "ar-digits", "--steps", "100000", "--batch-size", "4", "--views", "1", "--device", "cpu"]
    batch = subprocess.Popen(["bash", str(SCRIPT), *words], env=slurm, start_new_session=True)
    try:
        checkpoints, log = tmp_path / "train/ar-digits/checkpoints", tmp_path / "train/ar-digits/log.jsonl"
        deadline = time.monotonic() + 240
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert log.exists()
        batch.send_signal(signal.SIGUSR1)
        assert batch.wait(timeout=110) == 0
    finally:
        if batch.poll() is None:
            os.killpg(batch.pid, signal.SIGKILL)
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    (saved,) = checkpoints.glob("step-*")
    last = json.loads(log.read_text().splitlines()[-1])
    assert int(saved.name.removeprefix("step-")) == last["step"]
    assert len(started(tmp_path)) == 1
