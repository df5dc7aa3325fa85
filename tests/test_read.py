"""Reading weights files: every kind gives the same tensors; nothing is executed; every mistake is one line."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from arbench.weights.read import read_tensors

TENSORS = {
    "a.weight": torch.arange(6.0).view(2, 3),
    "b": torch.tensor([1, 2]),
    "h": torch.ones(3, dtype=torch.bfloat16),
}


def same(found, expected=TENSORS):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_safetensors(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"scale": "0.5"})
    checkpoint = read_tensors(tmp_path / "x.safetensors")
    same(checkpoint.tensors())
    assert (checkpoint.format, checkpoint.metadata) == ("safetensors", {"scale": "0.5"})


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", None])
def test_torch(tmp_path, wrapper, zipped):
    content = TENSORS if wrapper is None else {wrapper: OrderedDict(TENSORS), "steps": 3, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = read_tensors(tmp_path / "x.pt")
    same(checkpoint.tensors())
    assert checkpoint.format == "torch"
    assert wrapper is None or checkpoint.metadata["steps"] == 3


def test_content_tells_the_kind_not_the_suffix(tmp_path):
    save_file(TENSORS, tmp_path / "x.ckpt")
    same(read_tensors(tmp_path / "x.ckpt").tensors())
    torch.save(TENSORS, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="another kind under its name"):
        read_tensors(tmp_path / "x.safetensors")


def test_safetensors_whose_header_length_looks_like_a_pickle(tmp_path):
    for padding in range(200):
        save_file(TENSORS, tmp_path / "x.safetensors", metadata={"note": "x" * padding})
        if (tmp_path / "x.safetensors").read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no header length began with byte 0x80")
    same(read_tensors(tmp_path / "x.safetensors").tensors())


def test_namespace_is_allowed(tmp_path):
    torch.save({"model": TENSORS, "args": argparse.Namespace(vae_stride=16)}, tmp_path / "x.pth")
    checkpoint = read_tensors(tmp_path / "x.pth")
    same(checkpoint.tensors())
    assert checkpoint.metadata["args"].vae_stride == 16


def test_ema_and_raw(tmp_path):
    ema = {name: tensor + 1 for name, tensor in TENSORS.items()}
    torch.save({"model": TENSORS, "model_ema": ema}, tmp_path / "x.pth")
    same(read_tensors(tmp_path / "x.pth").tensors("raw"))
    same(read_tensors(tmp_path / "x.pth").tensors("ema"), ema)
    with pytest.raises(ValueError, match=r"'emma'; did you mean 'ema'"):
        read_tensors(tmp_path / "x.pth").tensors("emma")


class Malicious:
    def __reduce__(self):
        return (os.mkdir, ("/tmp/arbench-was-here",))


class Harmless:
    pass


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("bait", "name"), [(Malicious(), r"posix\.mkdir"), (Harmless(), "Harmless"), (print, "print")])
def test_anything_else_is_refused_by_name(tmp_path, bait, name, zipped):
    torch.save({"model": TENSORS, "x": bait}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"x\.pt: refused: its pickle asks for .*{name}") as error:
        read_tensors(tmp_path / "x.pt")
    assert "\n" not in str(error.value)
    assert not Path("/tmp/arbench-was-here").exists()


def write_truncated(path: Path, how: str) -> None:
    if how == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=how == "zip")
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("how", ["safetensors", "zip", "legacy"])
def test_truncated(tmp_path, how):
    write_truncated(tmp_path / "x.bin", how)
    with pytest.raises(ValueError, match=r"x\.bin: .*truncated") as error:
        read_tensors(tmp_path / "x.bin")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"whatever", "bytes b'whatever'"),
    ],
)
def test_foreign_files(tmp_path, content, found):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.pt: .*{found}.*; expected \.safetensors"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"optimizer": {"lr": 0.1}}])
def test_no_tensors(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt: .*found .*"):
        read_tensors(tmp_path / "x.pt")


def test_a_plain_pickle_is_no_checkpoint(tmp_path):
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"x\.pt: no tensors inside; found a"):
        read_tensors(tmp_path / "x.pt")


def test_compressed_archives_are_refused_before_they_swell(tmp_path):
    """A few kilobytes of compressed zeros would become gigabytes; torch itself compresses nothing."""
    torch.save({"model": TENSORS}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in plain.namelist():
            small.writestr(entry, plain.read(entry))
    with pytest.raises(ValueError, match=r"x\.pt: refused: compressed inside"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("entry", "found"), [("code/constants.pkl", "a TorchScript program"), ("word/document.xml", "without tensors")]
)
def test_archives_of_something_else(tmp_path, entry, found):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr(entry, b"content")
    with pytest.raises(ValueError, match=rf"x\.pt: .*{found}.*; expected \.safetensors"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(1, 1).expand(2**33, 64), "claims 2,199,023,255,552 bytes, the whole file has"),
        (torch.eye(3).to_sparse(), r"no plain tensor \(cpu, float32, sparse_coo\)"),
        (torch.empty(3, device="meta"), r"no plain tensor \(meta, float32, strided\)"),
    ],
    ids=["spread", "sparse", "without values"],
)
def test_tensors_that_are_not_what_they_hold_are_refused(tmp_path, tensor, message):
    torch.save({"model": {**TENSORS, "w": tensor}}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=rf"x\.pt: .*w .*{message}|x\.pt: w is {message}"):
        read_tensors(tmp_path / "x.pt")


def test_groups_without_a_model(tmp_path):
    torch.save({"discriminator": TENSORS}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="no model weights; found discriminator"):
        read_tensors(tmp_path / "x.pt").tensors()


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "absent.pt")
    with pytest.raises(OSError, match="directory"):
        read_tensors(tmp_path)
