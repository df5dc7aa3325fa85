"""Several processes train one model: DDP, FSDP2 and accumulation are one process with the whole batch."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from training_cases import RUN_HERE, STEPS, needs_cpu_shards, result, run

from arbench.machine.distributed import Processes
from arbench.machine.sharded import read_all
from arbench.training.checkpoint import find_checkpoint, read_checkpoint_facts

ERROR = 1e-5  # float32: gradients are summed in another order over twenty steps
SCRIPT = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from arbench.machine.distributed import process_group, processes
from training_cases import CASES, STEPS, result, run

torch.set_num_threads(1)
out, mine = Path(sys.argv[1]), processes()
with process_group(mine, torch.device("cpu")):
    for name in sys.argv[2:]:
        resumed, _, case = name.rpartition(":")
        options = CASES[case]
        if resumed == "cut":
            try:
                run(out / "cut", mine, **options, stop_at=7)
                raise AssertionError("was not stopped")
            except KeyboardInterrupt:
                pass
        folder = out / (resumed or case)
        steps = STEPS + 4 if resumed == "longer" else STEPS
        trainer = run(folder, mine, **options, steps=steps, resume=bool(resumed))
        tensors = result(trainer)
        if mine.is_first:
            save_file(tensors, out / f"{resumed or case}.safetensors")
"""


def torchrun(out, count, *words, script=SCRIPT, restarts=0):
    (out / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    command += [f"--max-restarts={restarts}", str(out / "script.py"), str(out), *words]
    environment = {**os.environ, "PYTHONPATH": "tests", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300 * (1 + restarts), env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    torchrun(out, 2, *RUN_HERE, "cut:mar")
    return out


def assert_same(first, second, error=ERROR):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            value, second[name], rtol=0, atol=error, msg=lambda told, name=name: f"{name}: {told}"
        )


def test_two_processes_are_one_with_the_whole_batch(by_two, tmp_path):
    alone = result(run(tmp_path, Processes(), "ar-raster"))
    for name in {"ddp", "fsdp", "accumulated"}.intersection(RUN_HERE):
        assert_same(load_file(by_two / f"{name}.safetensors"), alone)


def test_mask_ratios_of_two_processes_are_replayed_by_one(by_two, tmp_path):
    """Each part of the batch draws its own ratio, order, noise and dropout, wherever it is computed."""
    alone = result(run(tmp_path, Processes(), "mar", parts=2))
    for name in {"mar", "mar-fsdp"}.intersection(RUN_HERE):
        assert_same(load_file(by_two / f"{name}.safetensors"), alone)
    one_ratio = result(run(tmp_path / "one", Processes(), "mar"))
    assert not torch.allclose(one_ratio["class_emb.weight"], alone["class_emb.weight"], rtol=0, atol=ERROR)


def test_two_processes_stop_together_and_go_on_to_the_bit(by_two):
    assert_same(load_file(by_two / "cut.safetensors"), load_file(by_two / "mar.safetensors"), error=0)


@needs_cpu_shards
def test_what_two_have_sharded_one_reads_and_goes_on_with(by_two, tmp_path):
    path = find_checkpoint(by_two / "fsdp")
    facts = read_checkpoint_facts(path)
    assert (facts["step"], facts["processes"], facts["parts"]) == (STEPS, 2, 2)
    assert sum(name.endswith(".distcp") for name in facts["files"]) == 2  # each has written its share
    expected = load_file(by_two / "fsdp.safetensors")
    assert_same(read_all(path, "model."), {k: v for k, v in expected.items() if not k.startswith("ema.")}, error=0)
    longer = result(run(by_two / "fsdp", Processes(), "ar-raster", steps=STEPS + 4, resume=True))
    assert_same(longer, result(run(tmp_path, Processes(), "ar-raster", steps=STEPS + 4)))


def test_two_processes_train_the_tokenizer_that_one_does_in_two_parts(by_two, tmp_path):
    """A discriminator's batch norms see one part of the batch, on one process as on two."""
    alone = result(run(tmp_path, Processes(), "tokenizer", parts=2))
    assert_same(load_file(by_two / "tokenizer.safetensors"), alone)


@needs_cpu_shards
@pytest.mark.slow
def test_what_two_have_saved_three_go_on_with(tmp_path):
    torchrun(tmp_path, 2, "fsdp")
    (tmp_path / "fsdp").rename(tmp_path / "longer")
    torchrun(tmp_path, 3, "longer:fsdp")
    alone = result(run(tmp_path / "alone", Processes(), "ar-raster", steps=STEPS + 4))
    assert_same(load_file(tmp_path / "longer.safetensors"), alone)


COMPILED = """
import sys
from functools import partialmethod
from pathlib import Path
import torch
from safetensors.torch import save_file
from torch import nn
from arbench.machine.distributed import process_group, processes
from arbench.training.engine import Engine
from training_cases import result, run

torch.set_num_threads(1)
nn.Module.compile = partialmethod(nn.Module.compile, backend="aot_eager")
out, mine = Path(sys.argv[1]), processes()
with process_group(mine, torch.device("cpu")):
    for shard in (False, True):
        for compiled in (False, True):
            name = f"{shard}-{compiled}"
            trainer = run(out / name, mine, "ar-raster", engine=Engine(shard=shard, compile=compiled), steps=3)
            done = [block for block in trainer.task.model.modules() if block._compiled_call_impl is not None]
            assert bool(done) is compiled
            tensors = result(trainer)
            if mine.is_first:
                save_file(tensors, out / f"{name}.safetensors")
"""


@needs_cpu_shards
@pytest.mark.slow
def test_compiled_blocks_of_two_processes_are_the_blocks(tmp_path):
    """Under DDP and under FSDP2, whose hooks stand around each block."""
    torchrun(tmp_path, 2, script=COMPILED)
    for shard in (False, True):
        found = [load_file(tmp_path / f"{shard}-{compiled}.safetensors") for compiled in (False, True)]
        assert_same(*found)


FAILED = """
import errno, os, sys
from pathlib import Path
import torch
from arbench.machine import saving
from arbench.machine.distributed import process_group, processes
from training_cases import run

torch.set_num_threads(1)
out, mine, of_file, steps = Path(sys.argv[1]), processes(), saving.file_sha256, []

def failing(file):
    if mine.rank == 1:
        raise OSError(errno.EFBIG, "File too large")
    return of_file(file)

saving.file_sha256 = failing
with process_group(mine, torch.device("cpu")):
    try:
        run(out / "run", mine, "ar-raster", steps=500, checkpoint_every=200, watch=lambda step, _: steps.append(step))
    except OSError as error:
        (out / f"{mine.rank}.txt").write_text(f"{len(steps)} {error}")
"""


@pytest.mark.slow
def test_two_processes_leave_together_where_a_save_of_one_has_failed(tmp_path):
    torchrun(tmp_path, 2, script=FAILED)
    first, second = ((tmp_path / f"{rank}.txt").read_text().partition(" ") for rank in range(2))
    assert first[0] == second[0]
    assert 200 < int(first[0]) < 400
    assert all("File too large" in told and "step-0000200" in told for told in (first[2], second[2]))


KILLS = 10
KILLED = """
import os, random, signal, sys, threading
from pathlib import Path
import torch
from safetensors.torch import save_file
from arbench.machine.distributed import process_group, processes
from arbench.training.checkpoint import has_checkpoint
from training_cases import result, run

torch.set_num_threads(1)
out, kills, mine = Path(sys.argv[1]), int(sys.argv[2]), processes()
chance = random.Random(mine.restarts)
dying = mine.restarts < kills and chance.randrange(2) == mine.rank
steps, moment = chance.randint(0, 4), chance.uniform(0, 0.1)

def die():
    with open(out / "kills.txt", "a") as file:
        file.write(f"{mine.rank}\\n")
    os.kill(os.getpid(), signal.SIGKILL)

began = []
def watch(step, logged):
    began.append(step)
    if dying and len(began) == steps:  # so many steps and a moment later: in a step, in a save, or between
        threading.Timer(moment, die).start()

if dying and not steps:
    threading.Timer(moment, die).start()
with process_group(mine, torch.device("cpu")):
    again = has_checkpoint(out / "run")
    trainer = run(out / "run", mine, "mar", steps=200, checkpoint_every=2, watch=watch, resume=again)
    tensors = result(trainer)
    if mine.is_first:
        save_file(tensors, out / "end.safetensors")
"""


@pytest.mark.slow
def test_ten_random_kills_end_at_the_undisturbed_weights(tmp_path):
    """One of two processes is killed; torchrun begins both anew, which go on from what was saved, by themselves."""
    ends = []
    for kills in (0, KILLS):
        out = tmp_path / str(kills)
        out.mkdir()
        torchrun(out, 2, str(kills), script=KILLED, restarts=kills)
        ends.append(load_file(out / "end.safetensors"))
    assert len((tmp_path / str(KILLS) / "kills.txt").read_text().split()) == KILLS
    assert_same(*ends, error=0)
    assert [path.name for path in (out / "run" / "checkpoints").iterdir()] == ["step-0000200"]
