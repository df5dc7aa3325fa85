"""What a token cache is named by: which images they are, never where they lie."""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from arbench.generators.recipe import Augmentation
from arbench.images import index
from arbench.images.data import open_data
from arbench.images.listing import index_path, list_images
from arbench.images.tar_shards import list_shards
from arbench.tokenizer.load import load_tokenizer
from arbench.training.cache_build import build_cache, describe_cache
from arbench.training.identity import data_hash, path_hash
from arbench.training.tokens import no_words, open_cache

SIZE = 8


def save(path, value, side=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path)


@pytest.fixture
def tree(tmp_path):
    """Two classes of three images each, and a file in none."""
    for number in range(6):
        save(tmp_path / "data" / "ab"[number // 3] / f"{number}.png", 40 * number)
    save(tmp_path / "data" / "aa.png", 0)
    return tmp_path / "data"


def named(source):
    return data_hash(open_data(source, size=SIZE))


def test_the_spelling_of_a_path_is_no_part_of_a_cache(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tree, tmp_path / "elsewhere" / "copy")
    sources = (str(tree), f"{tree}/", "data", "./data", "elsewhere/copy")
    assert len({named(source) for source in sources}) == 1
    assert len({path_hash(open_data(source, size=SIZE)) for source in sources}) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda root: save(root / "a" / "1.png", 41, side=90),  # in the middle, under the same name
        lambda root: (root / "b" / "4.png").rename(root / "b" / "4x.png"),
        lambda root: save(root / "b" / "6.png", 3),
        lambda root: (root / "b").rename(root / "c"),
    ],
)
def test_other_images_make_another_cache(tree, change):
    before = named(tree)
    change(tree)
    assert named(tree) != before


def test_files_outside_of_the_classes_make_none(tree):
    before = named(tree)
    save(tree / "zz.png", 9)
    assert named(tree) == before


def test_another_crop_or_size_makes_another_cache(tree):
    save(tree / "a" / "0.png", 7, side=2 * SIZE)
    found = {data_hash(open_data(tree, size=size)) for size in (SIZE, 6, 12)}
    assert len(found) == 3


def test_the_index_tells_the_sizes_without_asking_for_the_files(tree, tmp_path, monkeypatch):
    """As long as it holds; an index of an earlier version has none, and is made anew."""
    monkeypatch.setenv("ARBENCH_INDEXES", str(tmp_path / "indexes"))
    plain = list_images(tree).digest()
    monkeypatch.setattr(index, "SAVED_FROM", 3)
    for folder in (tree, tree / "a", tree / "b"):
        os.utime(folder, ns=(10**9, 10**9))
    assert list_images(tree).digest() == plain
    path = index_path(tree)
    assert path.is_file()
    (tree / "a" / "1.png").write_bytes(b"in place: no folder has changed")
    assert list_images(tree).digest() == plain
    assert list_images(tree, again=True).digest() != plain
    arrays, told = index.read_index(path, ("names", "ends", "classes"))
    index.save_file(arrays, path, {**told, "version": index.VERSION})
    assert list_images(tree).sizes.sum() == sum(file.stat().st_size for file in tree.rglob("*.png"))


def test_shards_of_the_same_files_are_the_same_images(tree, tmp_path):
    for number, name in enumerate("ab"):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as shard:
            for file in sorted((tree / name).iterdir()):
                shard.add(file, f"./{name}/{file.name}")
    pattern = f"{tmp_path}/*.tar"
    assert list_shards(pattern).digest() == list_images(tree).inside_classes().digest()
    assert named(f"shards:{pattern}") == named(tree)


def test_digits_keep_the_names_of_their_caches():
    """As they were written when `data` held the name of the data; 1,438 are the training split."""
    data = open_data("digits")
    assert data_hash(data) == path_hash(data) == "digits-1438-fd2a4415833471cf"


def test_a_complete_cache_of_an_earlier_version_is_used(tree, tmp_path):
    """It is named by the path; a half-built one is left where it is, and one of the new name comes first."""
    tokenizer, data, folder = load_tokenizer("digits-vq"), open_data(tree, size=SIZE), tmp_path / "caches"
    spec = describe_cache(tokenizer, data)
    earlier = replace(spec, data=path_hash(data))
    asked = {"views": 1, "augmentation": Augmentation(), "seed": 0, "device": "cpu", "say": no_words}
    old = build_cache(tokenizer, data, earlier, folder).folder
    assert open_cache(tokenizer, data, folder, **asked).folder == old
    assert [path.name for path in folder.iterdir()] == [earlier.folder_name]
    (old / "cache.json").rename(tmp_path / "kept.json")
    assert open_cache(tokenizer, data, folder, **asked).folder.name == spec.folder_name
    (tmp_path / "kept.json").rename(old / "cache.json")
    assert open_cache(tokenizer, data, folder, **asked).folder.name == spec.folder_name
