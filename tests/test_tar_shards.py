"""Images inside tar shards: those of the folder they were packed from, found once, mistakes on one line."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from arbench.cli.train import register
from arbench.generators.recipe import Augmentation
from arbench.images import index, tar_shards
from arbench.images.data import open_data
from arbench.images.listing import image_files
from arbench.images.tar_shards import list_shards, shards_index_path
from arbench.machine.distributed import Processes
from arbench.tokenizer.load import load_tokenizer
from arbench.training.cache_build import build_cache, describe_cache
from arbench.training.reading import AtSides, list_once, read_batches

CPU = torch.device("cpu")
# From Python 3.12 on, forking beside PyTorch's own threads is warned of; a worker uses none of them.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def picture(number: int, suffix: str = ".png") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, Image.registered_extensions()[suffix])
    return stream.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    os.utime(path, ns=(10**9, 10**9))  # long ago
    return path


@pytest.fixture(autouse=True)
def indexes(tmp_path, monkeypatch):
    monkeypatch.setenv("ARBENCH_INDEXES", str(tmp_path / "indexes"))
    monkeypatch.setattr(index, "SAVED_FROM", 3)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for number in range(10):
        path = root / f"class-{number // 4}" / f"{number:02d}.{('png', 'jpg', 'webp')[number % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, path.suffix))
    return root


@pytest.fixture(params=["folders", "numbers"])
def shards(request, tree):
    """The images of the tree, in its order, in three shards; classes told either way."""
    files = image_files(tree)
    for shard, start in enumerate(range(0, len(files), 4)):
        members = {}
        for file in files[start : start + 4]:
            name = str(file.relative_to(tree))
            if request.param == "numbers":
                name = file.name
                members[f"{file.stem}.cls"] = file.parent.name[-1].encode() + b"\n"
            members[name] = file.read_bytes()
        pack(tree.parent / "shards" / f"{shard}.tar", members)
    return f"shards:{tree.parent}/shards/*.tar"


@pytest.fixture
def walks(monkeypatch):
    """The shards whose headers were read."""
    seen, infos = [], tar_shards._infos
    monkeypatch.setattr(
        tar_shards, "_infos", lambda path, stream: (seen.append(Path(path).name), infos(path, stream))[1]
    )
    return seen


def test_shards_are_the_folder_they_were_packed_from(tree, shards):
    packed, plain = open_data(shards, size=8), open_data(tree, size=8)
    assert np.array_equal(packed.images(), plain.images())
    assert packed.labels.dtype == np.int64
    assert np.array_equal(packed.labels, plain.labels)
    assert packed.num_classes == plain.num_classes == 3
    assert np.array_equal(packed.sized(7, [12])[0], plain.sized(7, [12])[0])
    assert packed.class_names in (plain.class_names, ["0", "1", "2"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_of_shards_is_that_of_the_folder(tree, shards, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("arbench.training.cache_build.IMAGES_PER_SHARD", 3)
    tokenizer = load_tokenizer("digits-vq")
    written = []
    for name, source, readers in (("tree", tree, 0), ("shards", shards, workers)):
        data = open_data(source, size=8)
        spec = describe_cache(tokenizer, data, views=2, augmentation=Augmentation(flip=True))
        build_cache(tokenizer, data, spec, tmp_path / name, batch_size=4, workers=readers)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).glob("*/*.npy")})
    assert written[0] == written[1]
    assert len(written[0]) == 5  # four of tokens, one of labels


def test_the_index_spares_the_shards(shards, walks):
    pattern = shards.removeprefix("shards:")
    first = open_data(shards, size=8)
    assert walks == ["0.tar", "1.tar", "2.tar"]
    assert shards_index_path(pattern).is_file()
    second = open_data(shards, size=8)
    assert len(walks) == 3
    assert np.array_equal(first.images(), second.images())
    assert np.array_equal(first.labels, second.labels)
    assert first.class_names == second.class_names
    said = []
    list_once(shards, Processes(), again=True, say=said.append)
    assert len(walks) == 6
    assert said == [f"images: 10 images inside {pattern}, listed in {shards_index_path(pattern)}"]


def test_changed_shards_are_indexed_anew(shards, walks):
    pattern = shards.removeprefix("shards:")
    assert len(list_shards(pattern)) == 10
    (Path(pattern).parent / "0.tar").write_bytes((Path(pattern).parent / "1.tar").read_bytes())
    os.utime(Path(pattern).parent / "0.tar", ns=(10**9, 10**9 + 1))
    (Path(pattern).parent / "1.tar").write_bytes((Path(pattern).parent / "2.tar").read_bytes())
    assert len(list_shards(pattern)) == 8
    os.utime(Path(pattern).parent / "1.tar", ns=(2 * 10**9, 2 * 10**9))
    list_shards(pattern)
    assert len(walks) == 9
    list_shards(pattern)
    assert len(walks) == 9
    shards_index_path(pattern).write_bytes(b"damaged")
    assert len(list_shards(pattern)) == 8
    assert len(walks) == 12
    (Path(pattern).parent / "2.tar").unlink()
    assert len(list_shards(pattern)) == 6


def test_shards_that_just_changed_get_no_index(shards):
    pattern = shards.removeprefix("shards:")
    os.utime(Path(pattern).parent / "1.tar")
    list_shards(pattern)
    assert not shards_index_path(pattern).exists()


def test_what_is_no_image_is_not_looked_at(tmp_path):
    members = {"1.pkl": b"\x80\x04.", "1.json": b"{", "1.py": b"raise SystemExit", "1.PNG": picture(0), "1.cls": b" 4 "}
    path = pack(tmp_path / "a.tar", members)
    data = open_data(f"shards:{path}")
    assert len(data) == 1
    assert data.labels.tolist() == [4]
    assert data.class_names == ["0", "1", "2", "3", "4"]


def test_of_two_members_of_one_name_the_last_counts(tmp_path):
    path = pack(tmp_path / "a.tar", {"./a/1.png": picture(0), "a/1.png": picture(1), "a/2.png": picture(2)})
    data = open_data(f"shards:{path}")
    assert [Image.open(io.BytesIO(picture(number))).tobytes() for number in (1, 2)] == [
        x.tobytes() for x in data.images()
    ]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"1.png": b""}, r"a\.tar: 1\.png: no class; expected 1\.cls with its number, or a folder in the name"),
        (
            {"1.png": b"", "1.cls": b"0", "b/2.png": b""},
            r"a\.tar: b/2\.png: no class; expected b/2\.cls, as others have",
        ),
        ({"1.png": b"", "1.cls": b"cat"}, r"a\.tar: 1\.cls: class 'cat'; expected a whole number from 0 to 999,999"),
        ({"1.png": b"", "1.cls": b"-1"}, r"a\.tar: 1\.cls: class '-1'; expected a whole number"),
        ({"1.png": b"", "1.cls": b"1.0"}, r"a\.tar: 1\.cls: class '1\.0'; expected a whole number"),
        ({"1.png": b"", "1.cls": b"9" * 4000}, r"a\.tar: 1\.cls: class '9{21}'; expected a whole number"),
        ({"1.png": b"", "1.cls": b"\xff\n\x00"}, r"a\.tar: 1\.cls: class .*; expected a whole number"),
        ({"1.json": b"{}"}, r"a\.tar: no images found; expected members KEY\.png, KEY\.jpg"),
    ],
)
def test_mistakes_name_shard_and_member(tmp_path, members, told):
    path = pack(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=told) as caught:
        open_data(f"shards:{path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data[:700], "behind 'a/1.png' (unexpected end of data)"),  # within an image
        (lambda data: data[:1024], "behind 'a/1.png' (no end of the archive)"),  # between two members
        (lambda data: data[:1200], "behind 'a/1.png' (no end of the archive)"),  # within a header
        (lambda data: data[:1024] + b"\xff" * 512 + data[1536:], "behind 'a/1.png' (no end of the archive)"),
        (lambda data: b"", "behind its beginning"),
        (lambda data: b"\x1f\x8b" + data, "behind its beginning"),  # as if compressed
    ],
)
def test_a_broken_tar_is_named_with_its_last_member(tmp_path, change, told):
    path = pack(tmp_path / "a.tar", {"a/1.png": picture(0), "a/2.png": picture(1)})
    whole = path.read_bytes()
    assert whole[1024:1031] == b"a/2.png"  # a member is a header and one block of 512 bytes
    path.write_bytes(change(whole))
    with pytest.raises(ValueError, match="truncated or damaged") as caught:
        open_data(f"shards:{path}")
    assert f"{path}: truncated or damaged {told}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_links_are_refused(tmp_path):
    info = tarfile.TarInfo("a/1.png")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(info)
    with pytest.raises(ValueError, match=r"a\.tar: a/1\.png: a link or no plain file; expected images as regular"):
        open_data(f"shards:{tmp_path}/a.tar")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_member_is_named(tmp_path, workers):
    path = pack(tmp_path / "a.tar", {"a/1.png": picture(0), "a/2.jpg": b"no picture"})
    data = open_data(f"shards:{path}", size=8)
    with pytest.raises(ValueError, match=r"a\.tar: a/2\.jpg: not a readable image"):
        list(read_batches(data, AtSides(), [(torch.arange(2), torch.zeros(2))], workers=workers, device=CPU))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"a\.tar: a/1\.png: the shard ends within it"):
        data[0]


@pytest.mark.parametrize(("pattern", "hint"), [("none-*.tar", "DIR/*.tar"), ("", "{root}/*.tar")])
def test_a_pattern_without_shards_is_one_line(tmp_path, pattern, hint):
    with pytest.raises(ValueError, match="no shard matches") as caught:
        open_data(f"shards:{tmp_path}/{pattern}")
    told = str(caught.value)
    assert "no shard matches; expected a pattern of tar files, e.g. shards:" + hint.format(root=tmp_path) in told
    assert "\n" not in told


def test_cache_reads_shards_from_the_command_line(shards, tmp_path):
    command = ["cache", "--tokenizer", "digits-vq", "--data", shards, "--size", "8", "--out", str(tmp_path / "cache")]
    app = Typer()
    register(app)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "10 images in" in result.output
