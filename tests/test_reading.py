"""Images read by workers: the same pixels in the same order for any number of them, mistakes on one line."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from arbench.generators.recipe import Augmentation
from arbench.images.data import ImageData, open_data
from arbench.machine.distributed import Processes
from arbench.tokenizer.load import load_tokenizer
from arbench.training.augment import augment
from arbench.training.cache_build import build_cache, describe_cache
from arbench.training.data import ImageBatches, batch_examples
from arbench.training.reading import AtSides, Feed, image_generator, read_batches, usual_workers

CPU = torch.device("cpu")
# From Python 3.12 on, forking beside PyTorch's own threads is warned of; a worker uses none of them.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def make_tree(root: Path, images: int = 20, side: int = 12) -> Path:
    random = np.random.default_rng(0)
    for number in range(images):
        path = root / f"class-{number % 4}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (side, side + 3, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"))


def coming(count, batch=4, steps=8):
    return [batch_examples(count, batch, step, seed=0) for step in range(steps)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_whoever_reads_them(tree, workers):
    data = open_data(tree, size=8)
    state = torch.get_rng_state()
    read = list(read_batches(data, AtSides((None, 9)), coming(20), workers=workers, device=CPU))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(read) == 8
    for (indices, _), (own, larger) in zip(coming(20), read, strict=True):
        assert own.dtype == torch.uint8
        assert np.array_equal(own.numpy(), data.images(indices))
        assert np.array_equal(larger.numpy(), open_data(tree, size=9).images(indices))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_by_its_path(tmp_path, workers):
    data = open_data(make_tree(tmp_path / "tree"), size=8)
    broken = tmp_path / "tree" / "class-1" / "005.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    batches = [(torch.arange(20), torch.zeros(20))]
    with pytest.raises(ValueError, match=r"class-1/005\.jpg: not a readable image") as caught:
        list(read_batches(data, AtSides(), batches, workers=workers, device=CPU))
    assert "\n" not in str(caught.value)


def test_images_of_several_sizes_are_told(tree):
    data = ImageData("two", np.zeros(2), ["a"], lambda i: np.zeros((4 + i, 5, 3), np.uint8))
    with pytest.raises(ValueError, match=r"images differ in size \(4x5, 5x5\); expected --size"):
        list(read_batches(data, AtSides(), [(torch.arange(2), torch.zeros(2))], workers=0, device=CPU))


ENDED = r"reading of images ended: .*worker.*; expected more memory or fewer --workers"


def deadly():
    """Whoever reads the first image is killed."""

    def die(index):
        os.kill(os.getpid(), signal.SIGKILL)

    return ImageData("deadly", np.zeros(2), ["a"], die)


@pytest.fixture
def watched(monkeypatch):
    """Workers are looked after five times a second, by the handler of SIGCHLD too that a first loader sets."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))  # s
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the queue to it is broken
def test_a_worker_that_dies_is_one_line(watched):
    with pytest.raises(ValueError, match=ENDED):
        list(read_batches(deadly(), AtSides(), [(torch.arange(2), torch.zeros(2))], workers=1, device=CPU))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_while_others_are_made_is_one_line(watched, monkeypatch):
    reset = _MultiProcessingDataLoaderIter._reset

    def reset_and_wait(loader, *others, **settings):
        reset(loader, *others, **settings)
        os.waitid(os.P_PID, loader._workers[0].pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_reset", reset_and_wait)
    with pytest.raises(ValueError, match=ENDED):
        list(read_batches(deadly(), AtSides(), [(torch.arange(2), torch.zeros(2))], workers=1, device=CPU))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_does_not_end_the_step_that_is_computed(tree, watched):
    """Its death is told to who asks for the next batch."""
    data, taken = open_data(tree, size=8), multiprocessing.Event()

    def once(data, index, epoch):
        if index == 1:
            taken.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return data.sized(index)

    batches = [(torch.tensor([index]), torch.zeros(1)) for index in range(2)]
    with closing(read_batches(data, once, batches, workers=1, device=CPU)) as read:
        next(read)
        taken.set()
        for worker in multiprocessing.active_children():
            worker.join()
        with pytest.raises(ValueError, match=ENDED):
            next(read)


def test_workers_live_on_where_the_training_is_told_to_stop():
    data = ImageData("told", np.zeros(8), ["a"], lambda i: np.full((1, 1, 3), i, np.uint8))

    def told(data, index, epoch):
        if index < 2:  # the first image of each worker
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                os.kill(os.getpid(), number)
        return data.sized(index)

    batches = [(torch.tensor([index]), torch.zeros(1)) for index in range(8)]
    read = [batch[0].tolist() for batch in read_batches(data, told, batches, workers=2, device=CPU)]
    assert read == [[[[[index] * 3]]] for index in range(8)]


def test_a_feed_reads_ahead_and_also_what_nobody_announced(tree):
    data = open_data(tree, size=8)
    feed = Feed(data, AtSides(), workers=0, device=CPU)
    feed.read_ahead(iter(coming(20)))
    for number, (indices, epochs) in enumerate(coming(20)):
        if number == 3:
            others = torch.tensor([1, 1, 2])
            assert np.array_equal(feed.take(others)[0][0].numpy(), data.images(others))
        (pixels,), found = feed.take(indices)
        assert torch.equal(found, epochs)
        assert np.array_equal(pixels.numpy(), data.images(indices))
    assert torch.equal(torch.cat([epochs for _, epochs in coming(20)]), torch.arange(32) // 20)


def test_what_is_not_in_memory_is_read_ahead_to_the_same_batches(tree, monkeypatch):
    data = open_data(tree, size=8)
    indices = torch.tensor([3, 0, 19])

    def images(workers):
        batches = ImageBatches(data, Augmentation(shift=1), CPU, workers)
        batches.read_ahead(iter([(indices, torch.zeros(3))]))
        return batches.images(indices, torch.Generator().manual_seed(1))

    resident = images(0)
    monkeypatch.setattr("arbench.training.data.MAX_RESIDENT_IMAGES", 0)
    assert torch.equal(images(0), resident)
    assert torch.equal(images(2), resident)


def test_randomness_of_an_image_is_its_own():
    settings = Augmentation(shift=1, rotation=9, scale=0.1, shear=0.1, contrast=0.1, noise=0.1, flip=True)
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def views(rows, epoch=0, seed=0):
        return augment(images[rows], settings, [image_generator(seed, epoch, row) for row in rows])

    whole = views([0, 1, 2, 3, 4])
    assert torch.equal(views([3, 1]), whole[[3, 1]])
    assert not torch.equal(views([0, 1, 2, 3, 4], epoch=1), whole)
    assert not torch.equal(views([0, 1, 2, 3, 4], seed=1), whole)
    assert not torch.equal(image_generator(0, 0, 1).get_state(), image_generator(0, 1, 0).get_state())


def test_workers_that_nobody_asked_for(monkeypatch):
    assert usual_workers("digits", torch.device("cuda"), Processes()) == 0
    assert usual_workers("folder", CPU, Processes()) == 0
    monkeypatch.setattr("arbench.training.reading.num_cores", lambda: 48)
    assert usual_workers("folder", torch.device("cuda"), Processes()) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "12")
    assert usual_workers("folder", torch.device("cuda"), Processes(count=24)) == 4


@pytest.mark.parametrize("workers", [1, 4])
def test_a_cache_is_the_same_for_any_number_of_workers(tree, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("arbench.training.cache_build.IMAGES_PER_SHARD", 6)
    first = shards(build(tree, tmp_path / "none"))
    assert len(first) == 4
    assert shards(build(tree, tmp_path / "some", workers)) == first


def build(tree, folder, workers=0):
    """Two random views of every image as codes."""
    tokenizer, data = load_tokenizer("digits-vq"), open_data(tree, size=8)
    spec = describe_cache(tokenizer, data, views=2, augmentation=Augmentation(flip=True))
    build_cache(tokenizer, data, spec, folder, batch_size=64, workers=workers)
    return folder


def shards(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/tokens-*.npy")}


TWO_PROCESSES = """
import sys
from pathlib import Path
import arbench.images.pictures as pictures
import arbench.training.cache_build as cache
from arbench.machine.distributed import processes

cache.IMAGES_PER_SHARD = 3
root, out, mine = Path(sys.argv[1]), Path(sys.argv[2]), processes()
read = pictures.read_image

def counted(file, *others):
    with open(out / f"read-{mine.rank}", "a") as log:  # workers are forked and write to the same file
        log.write(file.name + "\\n")
    return read(file, *others)

pictures.read_image = counted
from arbench.start import main
sys.argv[1:] = ["cache", "--tokenizer", "digits-vq", "--data", str(root), "--size", "8", "--out", str(out / "cache")]
sys.argv += ["--flip", "--views", "2", "--workers", "2"]
main()
"""


def test_two_processes_of_two_workers_share_a_tree(tree, tmp_path, monkeypatch):
    """Equal shares of the shards, the bytes that one process writes, and of each image one reading for its tokens."""
    monkeypatch.setattr("arbench.training.cache_build.IMAGES_PER_SHARD", 3)
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(tmp_path / "script.py"), str(tree), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    read = [Counter((tmp_path / f"read-{rank}").read_text().split()) for rank in range(2)]
    names = sorted(path.name for path in tree.rglob("*.jpg"))
    for part in read:  # each looks at the first image twice and at the last one, to tell what data these are
        part.subtract(["000.jpg", "000.jpg", "019.jpg"])
    read[0].subtract(["000.jpg"])  # for the side of the images, which stands beside the cache
    assert sorted((read[0] + read[1]).elements()) == names
    assert [part.total() for part in read] == [11, 9]  # of seven shards of three the first, third, fifth and last
    assert shards(tmp_path / "cache") == shards(build(tree, tmp_path / "alone"))
