"""A cache takes what another one holds of its images, and is byte for byte the one that takes nothing."""

import dataclasses
import os
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from test_cache import Codes, Moments

from arbench import cli
from arbench.generators.recipe import Augmentation
from arbench.images.data import ImageData, open_data
from arbench.training.cache import shard_name
from arbench.training.cache_build import build_cache, describe_cache
from arbench.training.identity import path_hash
from arbench.training.reuse import KEYS_NAME, find_known, note_keys
from arbench.training.tokens import open_cache

DRAWN = {"augmentation": Augmentation(shift=1, rotation=10, noise=0.1, flip=True), "seed": 3}


class Counted(Codes):
    """Counts the images that it encodes."""

    def __init__(self):
        self.encoded = 0

    def encode(self, images, *, rng=None):
        self.encoded += len(images)
        return super().encode(images, rng=rng)


def write_images(root, names, size=8, salt=0, suffix="png"):
    for name in names:
        path = root / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng([salt, *name.encode()])
        Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def tree(tmp_path):
    """Two classes of three images each."""
    write_images(tmp_path / "tree", [f"{kind}/{number}" for kind in "bd" for number in (1, 3, 5)])
    return tmp_path / "tree"


def opened(tokenizer, data, folder, said=None, **settings):
    settings = {"views": 1, "augmentation": Augmentation(), "seed": 0, **settings}
    said = [] if said is None else said
    return open_cache(tokenizer, data, folder, device="cpu", say=said.append, **settings)


def shards(cache):
    return [(cache.folder / shard_name(number)).read_bytes() for number in range(cache.spec.num_shards)]


def fresh(data, folder, tokenizer=None, **settings):
    return shards(opened(tokenizer or Counted(), data, folder, **settings))


@pytest.mark.parametrize(("before", "after", "encoded"), [(2, 5, 3), (5, 2, 0)])
def test_views_that_are_there_are_not_encoded(tree, tmp_path, before, after, encoded):
    data, said, tokenizer = open_data(tree), [], Counted()
    opened(Counted(), data, tmp_path / "one", views=before, **DRAWN)
    grown = opened(tokenizer, data, tmp_path / "one", said, views=after, **DRAWN)
    assert tokenizer.encoded == 1 + encoded * len(data)  # one to describe the cache
    assert any(f"{6 * min(before, after)} of {6 * after} views are there" in line for line in said)
    assert shards(grown) == fresh(data, tmp_path / "other", views=after, **DRAWN)


@pytest.mark.parametrize("kind", [Counted, Moments])
@pytest.mark.parametrize("settings", [{}, {"view_set": "mirror"}], ids=["plain", "mirror"])
def test_images_that_were_there_are_not_read_again(tree, tmp_path, kind, settings):
    opened(kind(), open_data(tree), tmp_path / "one", **settings)
    write_images(tree, ["a/1", "b/2", "c/9", "d/0"])  # before, between and behind them, and classes too
    (tree / "d" / "5.png").unlink()
    data, read = open_data(tree), []
    whole = data._read
    data._read = lambda index: (read.append(index), whole(index))[1]
    grown = opened(kind(), data, tmp_path / "one", **settings)
    new = {0, 2, 5, 6, 8}  # of a/1, b/1, b/2, b/3, b/5, c/9, d/0, d/1, d/3; the last is read anyway
    assert set(read) == new
    assert shards(grown) == fresh(data, tmp_path / "other", kind(), **settings)
    assert torch.equal(grown.labels, torch.from_numpy(data.labels))


def test_drawn_views_are_those_of_an_image_s_number(tree, tmp_path):
    """An image that has moved has other views; those before the first new one have not."""
    opened(Counted(), open_data(tree), tmp_path / "one", views=2, **DRAWN)
    write_images(tree, ["d/2"])
    data, tokenizer = open_data(tree), Counted()
    grown = opened(tokenizer, data, tmp_path / "one", views=2, **DRAWN)
    assert tokenizer.encoded == 1 + 2 * 4  # two that have moved, the new one, and the first, which is read anyway
    assert shards(grown) == fresh(data, tmp_path / "other", views=2, **DRAWN)


def test_images_of_another_size_or_cut_otherwise_are_others(tmp_path):
    write_images(tmp_path / "tree", ["a/1", "a/2", "a/3", "a/4"], size=16)
    data = open_data(tmp_path / "tree", size=8)
    opened(Counted(), data, tmp_path / "one")
    other = open_data(tmp_path / "tree", size=8, crop="resize")
    spec = dataclasses.replace(describe_cache(Counted(), other), data="others")
    assert find_known(spec, data, tmp_path / "one").num_views == 2
    assert find_known(spec, other, tmp_path / "one") is None
    assert find_known(describe_cache(Moments(), data), data, tmp_path / "one") is None


def test_files_that_are_called_alike_are_not_told_apart(tree, tmp_path):
    data = open_data(tree)
    folder = opened(Counted(), data, tmp_path / "one").folder
    keys = np.load(folder / KEYS_NAME)
    keys[2] = keys[1]
    np.save(folder / KEYS_NAME, keys)
    spec = dataclasses.replace(describe_cache(Counted(), data), data="grown")
    assert find_known(spec, data, tmp_path / "one").rows.tolist() == [-1, -1, -1, 3, 4, -1]


@pytest.mark.parametrize("content", [b"", b"half", np.arange(5).tobytes()])
def test_keys_that_are_damaged_or_not_there_are_none(tree, tmp_path, content):
    data = open_data(tree)
    folder = opened(Counted(), data, tmp_path / "one").folder
    (folder / KEYS_NAME).write_bytes(content)
    spec = dataclasses.replace(describe_cache(Counted(), data), data="grown")
    assert find_known(spec, data, tmp_path / "one") is None
    (folder / KEYS_NAME).unlink()
    assert find_known(spec, data, tmp_path / "one") is None
    note_keys(folder, data)
    assert find_known(spec, data, tmp_path / "one").num_views == 4


def test_a_damaged_cache_gives_nothing(tree, tmp_path):
    data = open_data(tree)
    folder = opened(Counted(), data, tmp_path / "one", views=2, **DRAWN).folder
    shard = folder / shard_name(0)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"broken token cache \(tokens-00000.npy is not what was written\); remove"):
        opened(Counted(), data, tmp_path / "one", views=3, **DRAWN)
    shard.write_bytes(whole[:-7])
    grown = opened(Counted(), data, tmp_path / "one", views=3, **DRAWN)
    assert shards(grown) == fresh(data, tmp_path / "other", views=3, **DRAWN)


def test_a_half_built_cache_goes_on_without_what_it_began_from(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("arbench.training.cache_build.SMALLEST_SHARD", 2)
    data = open_data(tree)
    before = opened(Counted(), data, tmp_path / "one", views=1, **DRAWN)
    spec = describe_cache(Counted(), data, views=2, **DRAWN)

    def stop(done):
        raise KeyboardInterrupt

    known = find_known(spec, data, tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        build_cache(Counted(), data, spec, tmp_path / "one", known=known, watch=lambda done: done > 2 and stop(done))
    shutil.rmtree(before.folder)
    tokenizer = Counted()
    grown = opened(tokenizer, data, tmp_path / "one", views=2, **DRAWN)
    assert tokenizer.encoded == 1 + 2 * 4  # the first shard was written
    assert shards(grown) == fresh(data, tmp_path / "other", views=2, **DRAWN)


def test_data_without_files_are_known_by_their_name(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    data = ImageData("noise", np.arange(5) % 2, ["a", "b"], lambda index: pixels[index])
    opened(Counted(), data, tmp_path, views=1, **DRAWN)
    tokenizer = Counted()
    opened(tokenizer, data, tmp_path, views=2, **DRAWN)
    assert tokenizer.encoded == 1 + 5
    fewer = ImageData("noise", np.arange(4) % 2, ["a", "b"], lambda index: pixels[index])
    opened(tokenizer, fewer, tmp_path, views=1, **DRAWN)
    assert tokenizer.encoded == 1 + 5 + 1 + 4


def test_the_command_says_what_is_there_and_plans_the_rest(tmp_path, capsys):
    asked = ["cache", "--tokenizer", "digits-vq", "--device", "cpu", "--out", str(tmp_path), "--flip"]
    assert cli.run_command([*asked, "--views", "1"]) == 0
    capsys.readouterr()
    assert cli.run_command([*asked, "--views", "3", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "1438 of 4314 views are there" in shown
    assert "2876 views to encode" in shown


def test_a_last_shard_of_one_image_is_taken_like_others(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("arbench.training.cache_build.SMALLEST_SHARD", 3)
    opened(Counted(), open_data(tree), tmp_path / "one")
    write_images(tree, ["c/1"])
    data, tokenizer = open_data(tree), Counted()
    assert len(data) % 3 == 1
    grown = opened(tokenizer, data, tmp_path / "one")
    assert tokenizer.encoded == 1 + 1 + 2
    assert shards(grown) == fresh(data, tmp_path / "other")


def test_images_that_others_have_replaced_are_encoded(tree, tmp_path):
    """Of as many bytes and the same name, at either end and in the middle."""
    opened(Counted(), open_data(tree), tmp_path / "one")
    files = sorted(tree.rglob("*.png"))
    for number, file in enumerate((files[0], files[2], files[-1])):
        size = file.stat().st_size
        write_images(tree, [f"{file.parent.name}/{file.stem}"], salt=number + 1)
        assert file.stat().st_size == size
    write_images(tree, ["e/1"])
    data = open_data(tree)
    assert shards(opened(Counted(), data, tmp_path / "one")) == fresh(data, tmp_path / "other")


def test_files_that_were_renumbered_are_not_those_of_their_new_names(tmp_path):
    write_images(tmp_path / "tree", [f"a/{number}" for number in range(6)], suffix="bmp")
    opened(Counted(), open_data(tmp_path / "tree"), tmp_path / "one")
    for number in range(5):
        (tmp_path / "tree" / "a" / f"{number + 1}.bmp").replace(tmp_path / "tree" / "a" / f"{number}.bmp")
    data = open_data(tmp_path / "tree")
    assert shards(opened(Counted(), data, tmp_path / "one")) == fresh(data, tmp_path / "other")


def test_members_of_one_name_in_two_shards_are_not_told_apart(tmp_path):
    def write_tar(name, salt):
        write_images(tmp_path / name, ["a/1", "a/2", "a/3"], salt=salt, suffix="bmp")
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for file in sorted((tmp_path / name).rglob("*.bmp")):
                os.utime(file, (1, 1))
                tar.add(file, file.relative_to(tmp_path / name))

    write_tar("0", 0)
    opened(Counted(), open_data(f"shards:{tmp_path}/*.tar"), tmp_path / "one")
    write_tar("1", 1)
    data = open_data(f"shards:{tmp_path}/*.tar")
    assert shards(opened(Counted(), data, tmp_path / "one")) == fresh(data, tmp_path / "other")


def test_a_folder_s_files_are_known_in_shards_too(tree, tmp_path):
    for number, file in enumerate(sorted(tree.rglob("*.png"))):
        os.utime(file, (1000 + number, 1000 + number))  # a tar keeps whole seconds
    opened(Counted(), open_data(tree), tmp_path / "one")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for file in sorted(tree.rglob("*.png"), reverse=True):
            tar.add(file, file.relative_to(tree))
    tokenizer = Counted()
    opened(tokenizer, open_data(f"shards:{tmp_path}/0.tar"), tmp_path / "one")
    assert tokenizer.encoded == 1 + 2  # the first and the last


def test_what_is_no_cache_of_ours_is_passed(tree, tmp_path):
    opened(Counted(), open_data(tree), tmp_path / "one", views=1, **DRAWN)
    (tmp_path / "one" / "strange" / "cache.json").mkdir(parents=True)
    tokenizer = Counted()
    opened(tokenizer, open_data(tree), tmp_path / "one", views=2, **DRAWN)
    assert tokenizer.encoded == 1 + 6


def test_a_cache_named_by_the_path_gives_views_and_no_keys(tree, tmp_path, monkeypatch):
    """As earlier versions named them: whether its files have changed since is not known."""
    data = open_data(tree)
    with monkeypatch.context() as patch:
        patch.setattr("arbench.training.cache_build.data_hash", path_hash)
        earlier = opened(Counted(), data, tmp_path / "one", views=1, **DRAWN).folder
    (earlier / KEYS_NAME).unlink()
    assert opened(Counted(), data, tmp_path / "one", views=1, **DRAWN).folder == earlier
    assert not (earlier / KEYS_NAME).exists()
    tokenizer = Counted()
    opened(tokenizer, data, tmp_path / "one", views=2, **DRAWN)
    assert tokenizer.encoded == 1 + 6
