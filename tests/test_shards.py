"""Shards: written whole or not at all, checked on resume, claimed by one process at a time."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess

import numpy as np
import pytest

from arbench.runs.shards import Assembly, Claims, Shards, ShardWriter, claim_unfinished


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def shards(tmp_path):
    return Shards(tmp_path / "shards", num_images=10, size=4)


def write_all(shards: Shards) -> np.ndarray:
    images = pictures(shards.num_images)
    for index in range(len(shards)):
        shards.write(index, images[list(shards.ids(index))])
    return images


def test_the_shards_cover_every_image_once(shards):
    assert [list(shards.ids(index)) for index in range(len(shards))] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_shards_read_back_in_image_order_by_file_name(shards):
    images = write_all(shards)
    files = sorted(shards.folder.glob("*.npy"))
    assert np.array_equal(np.concatenate([np.load(file) for file in files]), images)
    assert shards.unfinished() == []
    assert shards.num_written() == 10


def test_checksums_are_what_sha256sum_checks(shards):
    write_all(shards)
    done = subprocess.run(["sha256sum", "-c", "000000.npy.sha256"], cwd=shards.folder, capture_output=True)
    assert done.returncode == 0
    digest = hashlib.sha256(shards.path(1).read_bytes()).hexdigest()
    assert shards.checksum_path(1).read_text().splitlines() == [
        f"{digest}  000001.npy",
        "# run -, shard 1, images 4 to 7 of 10",
    ]
    shards.path(0).write_bytes(b"altered")
    assert subprocess.run(["sha256sum", "-c", *done.args[2:]], cwd=shards.folder, capture_output=True).returncode == 1


def test_damaged_truncated_and_unsigned_shards_are_dropped(tmp_path):
    shards = Shards(tmp_path, num_images=16, size=4)
    write_all(shards)
    altered = bytearray(shards.path(0).read_bytes())
    altered[-1] ^= 1
    shards.path(0).write_bytes(altered)
    os.truncate(shards.path(1), 40)
    shards.checksum_path(2).unlink()
    (tmp_path / ".000003.npy.77.partial").write_bytes(b"half")
    assert shards.drop_damaged() == [0, 1, 2]
    assert shards.unfinished() == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000003.npy", "000003.npy.sha256"]


def test_export_is_the_npz_numpy_reads_and_holds_one_shard_at_a_time(shards, tmp_path):
    images = write_all(shards)
    with np.load(shards.export_npz(tmp_path / "samples.npz")) as archive:
        assert archive.files == ["arr_0"]
        assert archive["arr_0"].dtype == np.uint8
        assert np.array_equal(archive["arr_0"], images)


def test_the_writer_finishes_what_it_was_given_after_an_interrupt(shards):
    written: list[int] = []

    def interrupted() -> None:
        with ShardWriter(shards, done=written.append) as writer:
            writer.put(1, pictures(4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert written == [1]
    assert shards.is_intact(1)


def test_a_failed_write_is_raised_to_the_sampler(shards):
    shards.folder.write_text("a file where the folder should be")
    with pytest.raises(OSError), ShardWriter(shards, done=lambda _: None) as writer:  # noqa: PT011 (any OSError)
        writer.put(0, pictures(4))


def hold_claim(path, started, stop):
    claims = Claims(path)
    assert claims.take(1)
    started.set()
    stop.wait(20)
    os.kill(os.getpid(), 9)


def test_a_claim_is_exclusive_and_a_killed_process_gives_it_back(shards, tmp_path):
    context = multiprocessing.get_context("spawn")
    started, stop = context.Event(), context.Event()
    other = context.Process(target=hold_claim, args=(tmp_path / ".claims", started, stop))
    other.start()
    assert started.wait(20)
    claims = Claims(tmp_path / ".claims")
    assert list(claim_unfinished(shards, claims)) == [0, 2]
    stop.set()
    other.join(20)
    assert list(claim_unfinished(shards, claims)) == [0, 1, 2]
    claims.close(remove=True)


def test_finished_shards_are_not_claimed(tmp_path):
    shards = Shards(tmp_path / "shards", num_images=20, size=4)
    shards.write(1, pictures(4))
    claims = Claims(tmp_path / ".claims")
    assert list(claim_unfinished(shards, claims)) == [0, 2, 3, 4]
    claims.close()


@pytest.mark.parametrize("batch", [1, 3, 4, 7, 10])
def test_batches_of_any_size_become_whole_shards(shards, batch):
    images = pictures(10)
    complete: dict[int, np.ndarray] = {}
    assembly = Assembly(shards, complete.__setitem__)
    assert [list(assembly.expect(index)) for index in range(3)] == [list(shards.ids(index)) for index in range(3)]
    for first in range(0, 10, batch):
        assembly.add(images[first : first + batch])
    assert list(complete) == [0, 1, 2]
    assert all(np.array_equal(part, images[list(shards.ids(index))]) for index, part in complete.items())
