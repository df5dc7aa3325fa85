"""The listing of a folder's images and its saved index: the same files, no second walk, never a stale one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arbench.images import index
from arbench.images import listing as module
from arbench.images.data import open_data
from arbench.images.listing import image_files, index_path, list_images

LONG_AGO = 1_000_000_000


def save(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6, 3), value, np.uint8)).save(path)


def settle(root: Path) -> None:
    """Let all folders be as if nobody had changed them for long."""
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, ns=(LONG_AGO, LONG_AGO))


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("ARBENCH_INDEXES", str(tmp_path / "indexes"))
    monkeypatch.setattr(index, "SAVED_FROM", 3)
    root = tmp_path / "data"
    for number, name in enumerate(("b/2.png", "b/1.JPEG", "a/x/9.png", "a/y.png", "b/10.png", "top.png", "a-b/1.png")):
        save(root / name, 10 * number)
    (root / "b" / "notes.txt").write_text("no image")
    settle(root)
    return root


@pytest.fixture
def walks(monkeypatch):
    """How often a disk was asked for its files."""
    seen, walk = [], module._walk
    monkeypatch.setattr(module, "_walk", lambda folder: (seen.append(folder), walk(folder))[1])
    return seen


def test_files_are_sorted_by_path_and_numbered_by_class(tree):
    found = list_images(tree)
    plain = sorted(path for path in tree.rglob("*") if path.suffix.lower() in (".png", ".jpeg"))
    assert list(found) == image_files(tree) == plain
    assert found[-1] == tree / "top.png"
    assert found[1:3] == plain[1:3]
    with pytest.raises(IndexError):
        found[7]
    assert found.class_names == ["a", "a-b", "b"]
    assert open_data(tree).labels.tolist() == [0, 0, 1, 2, 2, 2]
    levels = [int(open_data(tree)[index][0][0, 0, 0]) for index in (0, 1, 2, 4, 5)]
    assert levels == [20, 30, 60, 40, 0]


def test_an_index_spares_the_walk(tree, walks):
    first, labels = list(list_images(tree)), open_data(tree).labels
    assert len(walks) == 1
    assert index_path(tree).is_file()
    assert list(list_images(tree)) == first
    assert np.array_equal(open_data(tree).labels, labels)
    assert len(walks) == 1
    assert list(list_images(tree, again=True)) == first
    assert len(walks) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda root: save(root / "b" / "3.png"),
        lambda root: save(root / "a" / "x" / "new.png"),
        lambda root: (root / "b" / "1.JPEG").unlink(),
        lambda root: (root / "a" / "y.png").rename(root / "a" / "z.png"),
        lambda root: save(root / "c" / "1.png"),
        lambda root: (root / "a" / "x").rename(root / "a" / "w"),
    ],
)
def test_a_changed_folder_is_listed_anew(tree, walks, change):
    before = list(list_images(tree))
    change(tree)
    after = list(list_images(tree))
    assert len(walks) == 2
    assert after != before
    assert after == sorted(path for path in tree.rglob("*") if path.suffix.lower() in (".png", ".jpeg"))


def test_a_folder_that_is_still_being_filled_gets_no_index(tree, walks):
    save(tree / "b" / "3.png")  # now: another one may come within the same tick of the disk's clock
    list_images(tree)
    assert not index_path(tree).exists()
    list_images(tree)
    assert len(walks) == 2


def test_a_small_folder_gets_no_index(tree, monkeypatch):
    monkeypatch.setattr(index, "SAVED_FROM", 8)
    list_images(tree)
    assert not index_path(tree).exists()


@pytest.mark.parametrize("how", [lambda data: b"", lambda data: data[:-4], lambda data: b"\x80\x04" + data])
def test_a_damaged_index_is_made_anew(tree, walks, how):
    first, path = list(list_images(tree)), index_path(tree)
    path.write_bytes(how(path.read_bytes()))
    for _ in range(2):
        assert list(list_images(tree)) == first
    assert len(walks) == 2


def test_names_that_are_no_text_come_back(tree):
    odd = os.fsencode(tree) + b"/b/\xff\xfe.png"
    try:
        os.rename(tree / "b" / "2.png", odd)
    except OSError:
        pytest.skip("this disk takes no such name")
    settle(tree)
    list_images(tree)
    assert os.fsdecode(odd) in [str(path) for path in list_images(tree)]


def test_a_home_that_cannot_be_written_is_no_error(tree, monkeypatch):
    (tree.parent / "file").write_text("")
    monkeypatch.setenv("ARBENCH_INDEXES", str(tree.parent / "file" / "below"))
    assert len(list_images(tree)) == 7


def test_linked_classes_are_followed_and_circles_are_not(tree):
    (tree / "c").symlink_to(tree / "a", target_is_directory=True)
    (tree / "a" / "x" / "circle").symlink_to(tree, target_is_directory=True)
    assert open_data(tree).class_names == ["a", "a-b", "b", "c"]
    assert open_data(tree).labels.tolist() == [0, 0, 1, 2, 2, 2, 3, 3]


def test_a_class_without_images_is_named(tree):
    (tree / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: a class folder without images \(1 of 4 are\)"):
        open_data(tree)
