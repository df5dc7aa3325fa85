"""Several processes and killed ones: the same images and the same record as one undisturbed process."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from tiny_runs import images_of, only_run, tiny

import arbench
from arbench.report.record import load_record
from arbench.runs import pipeline as loop

NUM_IMAGES, BATCH = 310, 48  # five shards; neither they nor the batches are all full
SCRIPT = f"""
import os, signal, sys
import arbench
from arbench.machine.distributed import processes
from arbench.runs import pipeline as loop
from tiny_runs import tiny
draw, calls = loop.draw_tokens, []
def dying(*positional, **named):
    calls.append(1)
    if len(calls) == 2:  # the first was the warm-up
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(*positional, **named)
if "die" in sys.argv and (processes().rank, processes().restarts) == (1, 0):
    loop.draw_tokens = dying
asked = {{**tiny(num_images={NUM_IMAGES}), "evaluate": True}}
options = sys.argv[3:]
arbench.run(
    **asked,
    out=sys.argv[1],
    batch_size=int(sys.argv[2]),
    resume="resume" in options,
    on_the_fly="on-the-fly" in options,
)
"""
HOLDER = """
import sys
from pathlib import Path
from arbench.runs.shards import Claims
claims = Claims(Path(sys.argv[1]))
assert claims.take(2)
print("held", flush=True)
sys.stdin.read()
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SEED = int(os.environ.get("ARBENCH_KILL_SEED", "0"))


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "run.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """One process, nothing in its way."""
    out = tmp_path_factory.mktemp("undisturbed")
    arbench.run(**{**tiny(num_images=NUM_IMAGES), "evaluate": True}, out=out, batch_size=BATCH)
    return only_run(out)


def events(run):
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def images_in(run, event):
    return sum(line["images"] for line in events(run) if line["event"] == event)


def environment():
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def assert_same(run, undisturbed):
    assert np.array_equal(images_of(run), images_of(undisturbed))
    ours, theirs = load_record(run), load_record(undisturbed)
    # The products behind KID round by the number of threads, which torchrun sets to one.
    assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-12)
    measured_anew = {"speed": 0, "source": 0, "hardware": 0, "metrics": 0}
    assert {**ours, **measured_anew} == {**theirs, **measured_anew}


@pytest.mark.parametrize(("count", "options"), [(2, ["on-the-fly"]), (3, [])])
def test_torchrun_makes_the_same_images_and_scores(tmp_path, script, undisturbed, count, options):
    launch = [*TORCHRUN, "--standalone", f"--nproc_per_node={count}"]
    done = subprocess.run(
        [*launch, script, tmp_path, str(BATCH), *options],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    assert_same(run, undisturbed)
    assert images_in(run, "batch") == NUM_IMAGES  # none twice
    assert images_in(run, "features") == (NUM_IMAGES if options else 0)
    assert load_record(run)["hardware"]["processes"] == count
    assert not (run / ".claims").exists()


def test_torchrun_restarts_after_a_death_and_goes_on(tmp_path, script, undisturbed):
    """Rank 1 dies over its first shard; torchrun stops the other, starts both anew, and what was finished stays."""
    launch = [*TORCHRUN, "--standalone", "--nproc_per_node=2", "--max-restarts=1"]
    done = subprocess.run(
        [*launch, script, tmp_path, str(BATCH), "die"], env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    assert_same(run, undisturbed)
    (resumed,) = [line for line in events(run) if line["event"] == "resume"]
    drawn_after = events(run)[events(run).index(resumed) :]
    began = [line["event"] for line in events(run)[: events(run).index(resumed)]]
    assert began.count("sampling") == 2, "a restarted process went on before the first one had opened the folder"
    assert sum(line["images"] for line in drawn_after if line["event"] == "batch") == (
        NUM_IMAGES - resumed["images_present"]
    )


def test_two_nodes_share_one_run(tmp_path, script, undisturbed):
    """Two launches of torchrun that meet at an address, as on two machines with one file system."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    meeting = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint={address}", "--rdzv_id=1"]
    command = [*TORCHRUN, *meeting, script, tmp_path, str(BATCH)]
    nodes = [subprocess.Popen(command, env=environment(), stdout=PIPE, stderr=PIPE, text=True) for _ in range(2)]
    outputs = [node.communicate(timeout=600)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert_same(only_run(tmp_path), undisturbed)
    assert images_in(only_run(tmp_path), "batch") == NUM_IMAGES
    assert load_record(only_run(tmp_path))["hardware"]["processes"] == 2


def test_the_first_process_draws_what_a_dead_one_leaves(tmp_path, monkeypatch, undisturbed):
    """Another process holds a shard; the first one does all others, waits, and takes it over once that is killed."""
    draw, other, calls = loop.draw_tokens, [], []

    def generate(*positional, **named):
        calls.append(1)
        if len(calls) == 1:  # the warm-up draw
            claims = only_run(tmp_path) / ".claims"
            other.append(subprocess.Popen([sys.executable, "-c", HOLDER, claims], stdin=PIPE, stdout=PIPE, text=True))
            assert other[0].stdout.readline() == "held\n"
        if len(calls) == 7:  # the last batch of the four free shards
            other[0].kill()
        return draw(*positional, **named)

    monkeypatch.setattr(loop, "draw_tokens", generate)
    arbench.run(**{**tiny(num_images=NUM_IMAGES), "evaluate": True}, out=tmp_path, batch_size=BATCH)
    with other[0]:
        assert len(calls) == 9  # and the two batches of the one that was held
    assert_same(only_run(tmp_path), undisturbed)


def command(script, out):
    """One process that starts the run, or goes on with it."""
    return [sys.executable, script, out, str(BATCH), *(["resume"] if any(out.iterdir()) else [])]


def kill_at_random(script, out, chance):
    """SIGKILL at a random moment after sampling has begun."""
    before = count_events(out)
    with subprocess.Popen(command(script, out), env=environment(), stderr=subprocess.DEVNULL) as process:
        while count_events(out) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)


def count_events(out):
    return sum(text.read_text().count("\n") for text in out.glob("*/events.jsonl"))


def kill_and_resume(script, out, undisturbed, kills, seed):
    chance = random.Random(seed)
    for number in range(kills):
        kill_at_random(script, out, chance)
        run = only_run(out)
        shards = sorted((run / "shards").glob("*.npy"))
        if shards and number % 2:  # what a crash of the machine or a full disk leaves
            os.truncate(shards[0], 1000)
            data = bytearray(shards[-1].read_bytes())
            data[-1] ^= 1
            shards[-1].write_bytes(data)
    last = subprocess.run(command(script, out), env=environment(), capture_output=True, text=True, timeout=600)
    assert last.returncode == 0, last.stderr
    assert_same(only_run(out), undisturbed)
    assert [path.name for path in only_run(out).rglob(".*")] == []


def test_killed_three_times(tmp_path, script, undisturbed):
    kill_and_resume(script, tmp_path, undisturbed, kills=3, seed=SEED)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path, script, undisturbed):
    kill_and_resume(script, tmp_path, undisturbed, kills=20, seed=SEED + 1)
