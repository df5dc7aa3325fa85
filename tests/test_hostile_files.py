"""Files that are broken or made to hurt: one line that names the file, before memory or time is spent on it."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
import zlib
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from arbench.evaluation.files import load_npz, read_torch
from arbench.evaluation.reference import open_reference
from arbench.evaluation.sources import open_images
from arbench.evaluation.stored_run import read_config
from arbench.images.data import open_data
from arbench.images.pictures import MOST_PIXELS, read_image
from arbench.machine.yaml_file import read_yaml
from arbench.report.record import load_record, new_record
from arbench.runs.folder import resume_run, start_run
from arbench.runs.shards import Shards
from arbench.tokenizer.load import load_tokenizer
from arbench.weights.contents import describe
from arbench.weights.read import read_tensors

IMAGES = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)


def refused(read, file: Path) -> str:
    """The one line of the ValueError that reading `file` ends in; it names the file."""
    with pytest.raises(ValueError, match=r".") as error:
        read(file)
    line = str(error.value)
    assert line.startswith((str(file), f"reference {file}"))
    assert len(line.splitlines()) == 1
    return line


def test_json_as_deep_as_a_well_is_one_line(tmp_path):
    (tmp_path / "facts.json").write_text("[" * 100_000)
    assert "no intact checkpoint" in refused(read_tensors, tmp_path)


def test_a_target_that_is_no_name_is_none(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": load_tokenizer("digits-vq").state_dict(), "target": ["digits-vq"]}, file)
    assert describe(file).family == "vq16"


def npy(array: np.ndarray) -> bytes:
    content = BytesIO()
    np.save(content, array)
    return content.getvalue()


def npy_header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    content = BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": dtype, "fortran_order": False, "shape": shape})
    return content.getvalue()


def change_flags(file: Path, offset: int, value: int) -> None:
    """Set two bytes of every entry's headers: at `offset` of the local one, two later in the table of contents."""
    content = bytearray(file.read_bytes())
    for magic, place in ((b"PK\x03\x04", offset), (b"PK\x01\x02", offset + 2)):
        start = content.find(magic)
        while start >= 0:
            struct.pack_into("<H", content, start + place, value)
            start = content.find(magic, start + 4)
    file.write_bytes(content)


@pytest.mark.parametrize(("offset", "value"), [(6, 1), (8, 99), (8, 12), (8, 14)])
def test_encrypted_and_unknown_compression(tmp_path: Path, offset: int, value: int) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, arr_0=IMAGES, mu=np.zeros(4), sigma=np.eye(4))
    change_flags(file, offset, value)
    for read in (load_npz, open_images, open_reference):
        assert "not a readable npz" in refused(read, file)


def test_an_array_that_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "bomb.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("sigma.npy", npy_header((2**14, 2**14), "<f8") + bytes(1000))
    assert "sigma is float64 (16384, 16384), 2,147,483,648 bytes; 1,000 are there" in refused(load_npz, file)
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("mu.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy_header((2**20 + 1,), "<f8") + bytes(2**23 + 8))
    monkeypatch.setattr("arbench.machine.archives.LARGEST_ARRAY", 2**23)
    assert file.stat().st_size < 2**16
    assert "mu would take 8,388,616 bytes of memory; expected at most 8,388,608" in refused(open_reference, file)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((1, 40_000, 40_000, 3), r"4,800,000,000 bytes; 48 are there"),
        ((10**9, 4, 4, 3), r"48,000,000,000 bytes"),
        ((3, 0, 4, 3), "images of 0x4; expected 1 to"),
    ],
)
def test_images_that_are_not_there(tmp_path: Path, shape: tuple[int, ...], told: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", npy_header(shape) + bytes(48))
    assert told in refused(open_images, tmp_path / "a.npz")


def test_one_picture_of_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbench.evaluation.sources.MOST_PIXELS", 15)
    np.savez_compressed(tmp_path / "a.npz", arr_0=IMAGES)
    assert "images of 4x4; expected 1 to 15 pixels" in refused(open_images, tmp_path / "a.npz")


def test_large_pictures_are_read_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", arr_0=IMAGES)
    monkeypatch.setattr("arbench.evaluation.sources.READ_BYTES", 100)
    blocks = list(open_images(tmp_path / "a.npz").blocks())
    assert [len(block) for block in blocks] == [2, 1]
    assert np.array_equal(np.concatenate(blocks), IMAGES)


@pytest.mark.parametrize("labels", [np.full(3, 0.7), np.eye(3, dtype=np.int64), np.array(list("abc")), np.arange(2)])
def test_labels_in_an_npz_are_whole_numbers(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", arr_0=IMAGES, arr_1=labels)
    assert "expected 3 whole numbers in one row" in refused(open_images, tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not the labels of a run"),
        (npy(np.array(5)), "labels are int64 (); expected"),
        (npy(np.array(["3", "4", "5"])), "labels are <U1 (3,)"),
        (npy(np.array([0.7, 1, 2])), "labels are float64 (3,)"),
        (npy(np.eye(3, dtype=np.int64)), "labels are int64 (3, 3)"),
        (npy_header((10**12,), "<i8"), "8,000,000,000,000 bytes of labels promised, 0 are there"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "not the labels of a run"),
    ],
)
def test_broken_labels_of_a_run(tmp_path: Path, content: bytes, told: str) -> None:
    Shards(tmp_path / "shards", 3).write(0, IMAGES)
    (tmp_path / "labels.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"labels\.npy: ") as error:
        open_images(tmp_path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


BROKEN_YAML = {
    "broken": "images: [unclosed",
    "tabs": "\t- x\n\tbad: [",
    "brackets": "[" * 5000,
    "dashes": "- " * 5000,
    "tag": "images: !!python/object/apply:os.system ['echo no']",
    "binary": b"\xff\xfe\x00\x01",
    "date": "images: 2020-13-45",
    "keys": "{[1, 2]: 3}",
    "growth": "a: &a [x, x, x]\n"
    + "".join(f"{n}: &{n} [*{m}, *{m}, *{m}, *{m}]\n" for m, n in pairwise("abcdefghijklmnop")),
    "circle": "a: &a [*a]",
}


@pytest.mark.parametrize("content", BROKEN_YAML.values(), ids=BROKEN_YAML)
def test_broken_yaml(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert "not readable YAML" in refused(read_yaml, file)
    Shards(tmp_path / "shards", 3).write(0, IMAGES)
    with pytest.raises(ValueError, match=r"config\.yaml: not readable YAML"):
        open_images(tmp_path)


@pytest.mark.parametrize("value", ["2020-01-01", "!!set {a}", "!!binary aGk=", "{1: a, b: c}"])
@pytest.mark.parametrize("layout", ["shard_size: 4", "shard_size: 4\nbatch_size: 4\nhash: x"])
def test_a_configuration_of_more_than_plain_values(tmp_path: Path, value: str, layout: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"{layout}\nimages: {{num_images: 3, x: {value}}}")
    assert "holds more than texts, numbers and lists" in refused(lambda file: read_config(file.parent), file)


@pytest.mark.parametrize("content", ["[1, 2]", "just text", "", "arbench: 1", "shard_size: 0", "shard_size: many"])
def test_a_configuration_without_what_a_run_needs(tmp_path: Path, content: str) -> None:
    settings = {"images": {"num_images": 3, "labels": "balanced"}, "evaluation": None}
    run = start_run(tmp_path, "m", settings).path
    assert yaml.safe_load((run / "config.yaml").read_text())["shard_size"] > 0
    (run / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"config\.yaml: holds .*; expected the configuration that the run wrote"):
        resume_run(tmp_path, "m", settings)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        json.dumps(new_record(method="ar", model="m")).replace('"num_images": null', f'"num_images": {10**400}'),
        json.dumps(new_record(method="ar", model="m")).replace('"num_images": null', f'"num_images": {"9" * 5000}'),
    ],
)
def test_records_nested_or_counted_beyond_all_use(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    refused(load_record, tmp_path / "record.json")


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"mu": torch.zeros(1000), "sigma": torch.zeros(1000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    for read in (read_torch, open_reference, read_tensors):
        assert "compressed inside" in refused(read, tmp_path / "a.pt")


class Foreign:
    def __reduce__(self):
        return (print, ("executed",))


def test_the_advice_to_lower_the_guard_is_never_passed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Foreign()}, tmp_path / "evil.pt")
    torch.save({"model": Foreign()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "old.pt").read_bytes()[:-20])
    for name in ("evil.pt", "old.pt", "cut.pt"):
        for read in (read_torch, open_reference, read_tensors):
            line = refused(read, tmp_path / name)
            assert not any(word in line for word in ("weights_only", "Weights only", "trust", "options"))
    assert capsys.readouterr().out == ""


def png(width: int, height: int) -> bytes:
    """A grey PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [20_000, 10_000])  # Pillow's error, and what it would only warn of
def test_a_picture_too_large(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert f"expected at most {MOST_PIXELS:,} pixels" in refused(read_image, tmp_path / "a.png")


def test_deep_grey_is_converted_by_its_range(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    (tmp_path / "a").mkdir()
    Image.fromarray((levels * 257).astype(np.uint16)).save(tmp_path / "a" / "deep.png")
    Image.fromarray(levels.astype(np.uint8)).save(tmp_path / "a" / "grey.png")
    Image.fromarray(levels.astype(np.int32) * 257).save(tmp_path / "a" / "deep.ppm")
    source = open_images(tmp_path / "a")
    images = np.concatenate(list(source.blocks()))
    assert len(images) == 3
    assert (images == levels.astype(np.uint8)[..., None]).all()
    assert source.conversions.notes == ["2 files were converted: 16-bit grey, levels divided by 257 and rounded"]
    data = open_data(tmp_path)
    assert np.array_equal(data.images(), images)
    assert data.conversions.notes == source.conversions.notes


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ("CMYK", "CMYK to RGB"),
        ("P", "palette"),
        ("RGBA", "RGBA, alpha left out"),
        ("LA", "LA, alpha left out"),
        ("RGB", None),
        ("L", None),
        ("1", None),
    ],
)
def test_what_was_converted_is_told(tmp_path: Path, mode: str, how: str | None) -> None:
    random = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(random).convert(mode).save(file)
    source = open_images(tmp_path).first(None)
    for _ in range(2):  # reading again counts no file twice
        list(source.blocks())
    assert source.conversions.notes == ([] if how is None else [f"1 files were converted: {how}"])


def test_transparency_of_a_palette_is_told(tmp_path: Path) -> None:
    Image.new("P", (4, 4)).save(tmp_path / "a.png", transparency=0)
    source = open_images(tmp_path)
    list(source.blocks())
    assert source.conversions.notes == ["1 files were converted: palette, transparency left out"]
