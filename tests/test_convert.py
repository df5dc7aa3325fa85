"""Conversion between the releases' formats, and what `describe` says of a file."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import arbench
from arbench.weights.contents import describe
from arbench.weights.convert import LAYOUTS, SUFFIXES, convert
from arbench.weights.read import read_tensors

PARITY = Path(__file__).parent / "parity"
MAR = PARITY / "mar" / "checkpoint-last.pth"
AR = PARITY / "ar" / "model.pt"


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("source", [MAR, AR, PARITY / "par16" / "model.pt"], ids=lambda path: path.parent.name)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back_is_the_identity(source: Path, suffix: str, tmp_path: Path) -> None:
    """From the release's file to any format and back to the release's: the same names, values and wrappers."""
    there, back = tmp_path / f"there{suffix}", tmp_path / f"back{source.suffix}"
    assert convert(source, there) == convert(there, back)
    original, again = read_tensors(source), read_tensors(back)
    assert set(again.groups) == set(original.groups)
    assert same(read_tensors(there).tensors("ema"), dict(sorted_as(there, original.tensors("ema"))))
    for name, tensor in original.tensors("ema").items():
        assert torch.equal(again.tensors("ema")[name], tensor)


@pytest.mark.parametrize("first", SUFFIXES)
@pytest.mark.parametrize("second", SUFFIXES)
def test_every_pair_of_formats_keeps_every_value(first: str, second: str, tmp_path: Path) -> None:
    """Square weights among them, where only the values tell whether a matrix was transposed."""
    one, two, back = tmp_path / f"one{first}", tmp_path / f"two{second}", tmp_path / f"back{first}"
    for source, target in ((MAR, one), (one, two), (two, back)):
        convert(source, target)
    original = read_tensors(MAR).tensors("ema")
    for file in (one, two, back):
        found = read_tensors(file).tensors("ema")
        assert set(found) == set(original)
        assert all(torch.equal(found[name], tensor) for name, tensor in original.items())


def sorted_as(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors keeps no order: the file's own is taken."""
    return {name: tensors[name] for name in read_tensors(path).tensors("ema")}


def test_a_checkpoint_of_mar_keeps_both_sets(tmp_path: Path) -> None:
    convert(MAR, tmp_path / "x.pth")
    original, again = read_tensors(MAR), read_tensors(tmp_path / "x.pth")
    assert same(again.tensors("raw"), original.tensors("raw"))
    assert same(again.tensors("ema"), original.tensors("ema"))
    convert(MAR, tmp_path / "raw.pth", which="raw")
    assert same(read_tensors(tmp_path / "raw.pth").tensors("ema"), original.tensors("raw"))


def test_a_single_set_stands_for_both_and_is_stored_once(tmp_path: Path) -> None:
    convert(MAR, tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "y.pth")
    again = read_tensors(tmp_path / "y.pth")
    assert same(again.tensors("raw"), again.tensors("ema"))
    assert (tmp_path / "y.pth").stat().st_size < 1.2 * (tmp_path / "x.safetensors").stat().st_size  # headers of entries


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_again(layout: str, tmp_path: Path) -> None:
    convert(AR, tmp_path / "x.pt", layout=layout)
    wrappers = {"ddp": {"model"}, "fsdp": {""}, "deepspeed": {"module"}, "lightning": {"state_dict"}}
    again = read_tensors(tmp_path / "x.pt")
    assert set(again.groups) == wrappers.get(layout, {"model", "model_ema"})
    assert same(again.tensors(), read_tensors(AR).tensors())


def test_which_set_a_format_with_one_set_holds(tmp_path: Path) -> None:
    convert(MAR, tmp_path / "ema.safetensors")
    convert(MAR, tmp_path / "raw.safetensors", which="raw")
    for which in ("ema", "raw"):
        with safe_open(tmp_path / f"{which}.safetensors", framework="pt") as file:
            assert file.metadata() == {"format": "pt", "family": "mar", "which": which}
            expected = read_tensors(MAR).tensors(which)["mask_token"]
            assert torch.equal(file.get_tensor("mask_token"), expected)


def test_a_converted_file_loads(tmp_path: Path) -> None:
    convert(MAR, tmp_path / "x.pdparams")
    heads = {"encoder_heads": 4, "decoder_heads": 4}
    found = arbench.load_generator("mar", weights=tmp_path / "x.pdparams", **heads).state_dict()
    expected = arbench.load_generator("mar", weights=MAR, **heads).state_dict()
    assert same(found, expected)


def test_views_are_written_alone_and_tied_weights_twice(tmp_path: Path) -> None:
    tensors = read_tensors(AR).tensors()
    large = torch.zeros(1000, 97, 64)
    large[0] = tensors["output.weight"]
    tensors["output.weight"] = tensors["tok_embeddings.weight"] = large[0]
    torch.save({"model": tensors}, tmp_path / "tied.pt")
    convert(tmp_path / "tied.pt", tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "y.pt")
    assert (tmp_path / "tied.pt").stat().st_size > 20_000_000
    assert (tmp_path / "y.pt").stat().st_size < 1_000_000
    assert torch.equal(read_tensors(tmp_path / "y.pt").tensors()["tok_embeddings.weight"], large[0])


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "there.pt").write_bytes(b"mine")
    torch.save({"model": {"fc.weight": torch.zeros(2)}}, tmp_path / "other.pt")
    before = sorted(tmp_path.iterdir())
    for source, target, options, message in (
        (AR, "there.pt", {}, "there.pt: is there already; give --force"),
        (AR, "x.safetensor", {}, r"unknown suffix '\.safetensor'; did you mean '\.safetensors'"),
        (AR, "folder/x.pt", {}, "there is no folder"),
        (AR, "x.pt", {"layout": "dpp"}, "unknown layout 'dpp'; did you mean 'ddp'"),
        (AR, "x.pdparams", {"layout": "ddp"}, r"layout 'ddp': \.pdparams files have none"),
        (AR, "x.pt", {"which": "avg"}, "unknown choice of weights 'avg'"),
        (tmp_path / "other.pt", "x.pt", {}, "weights of no known family"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            convert(source, tmp_path / target, **options)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.pt").read_bytes() == b"mine"
    convert(AR, tmp_path / "there.pt", overwrite=True)
    assert describe(tmp_path / "there.pt").family == "ar"


def test_describe_says_what_a_file_holds() -> None:
    contents = describe(MAR, which="raw")
    assert (contents.format, contents.family, contents.chosen, contents.num_bad) == ("torch", "mar", "model", 0)
    assert contents.config["encoder_width"] == 64
    assert contents.presets == ()
    assert [(held.name, held.num_tensors, held.dtypes) for held in contents.sets] == [
        ("model", 92, ("float32",)),
        ("model_ema", 92, ("float32",)),
    ]
    model = arbench.load_generator("mar", weights=MAR, heads=4)
    assert contents.sets[0].num_elements == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["ar-digits", "par-digits", "mar-digits"])
def test_shipped_weights_are_whole_and_fit_their_preset(name: str) -> None:
    path = Path(arbench.__file__).parent / "assets" / f"{name}.safetensors"
    contents = describe(path)
    assert name in contents.presets
    assert contents.num_bad == 0


def test_describe_counts_bad_values_and_names_what_is_missing(tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in read_tensors(AR).tensors().items()}
    tensors["norm.weight"][:3] = torch.tensor([float("nan"), float("inf"), 0.0])
    torch.save(tensors, tmp_path / "bad.pt")
    assert describe(tmp_path / "bad.pt").num_bad == 2
    torch.save({name: tensor.to(torch.float8_e5m2) for name, tensor in tensors.items()}, tmp_path / "eighth.pt")
    assert describe(tmp_path / "eighth.pt").num_bad == 2
    torch.save({**tensors, "norm.weight": tensors["norm.weight"].to(torch.complex64)}, tmp_path / "complex.pt")
    with pytest.raises(ValueError, match=r"norm\.weight holds torch\.complex64, expected floating-point"):
        describe(tmp_path / "complex.pt")
    del tensors["norm.weight"]
    torch.save(tensors, tmp_path / "short.pt")
    with pytest.raises(ValueError, match=r"short\.pt: does not fit; 1 missing: norm\.weight"):
        describe(tmp_path / "short.pt")
