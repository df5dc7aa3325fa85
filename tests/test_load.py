"""`load_generator`: every format of the releases gives the same model; what contradicts or does not fit is named."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import arbench
from arbench.generators.methods import presets
from arbench.weights.configure import build_generator
from arbench.weights.paddle import write_pdparams
from arbench.weights.read import read_tensors

PARITY = Path(__file__).parent / "parity"
# Heads and AR's grid are what no tensor tells; par4 and par16 are told apart by the number of special tokens.
GIVEN: dict[str, dict[str, Any]] = {
    "ar": {"heads": 4, "grid": 8},
    "par4": {"heads": 4, "grid": 8},
    "par16": {"heads": 4, "grid": 8},
    "mar": {"encoder_heads": 4, "decoder_heads": 4},
    "mar_patch2": {"encoder_heads": 4, "decoder_heads": 4, "patch_size": 2},
}
FILES = {folder: "checkpoint-last.pth" if folder.startswith("mar") else "model.pt" for folder in GIVEN}
PARITY_ERROR = 1e-4  # max |a - b| / max |b|: float32 sums in another order than the original's


def family(folder: str) -> str:
    return next(name for name in ("mar", "par", "ar") if folder.startswith(name))


def load(folder: str, weights: Path | None = None, **changes: Any) -> Any:
    path = weights or PARITY / folder / FILES[folder]
    return arbench.load_generator(family(folder), weights=path, **{**GIVEN[folder], **changes})


def error_of(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.detach() - expected).abs().max() / expected.abs().max())


def check_outputs(folder: str, generator: Any) -> None:
    """The original implementation's logits (rows in generation order) or conditions."""
    expected = load_file(PARITY / folder / "expected.safetensors")
    if folder.startswith("mar"):
        z = generator.condition(expected["latents"], expected["mask"], expected["labels"])
        assert error_of(z, expected["z"]) < PARITY_ERROR
    else:
        ids = expected["ids"][:, generator.order.argsort()].unflatten(1, generator.grid)
        assert error_of(generator.logits(ids, expected["labels"]), expected["logits"]) < PARITY_ERROR


@pytest.mark.parametrize("folder", GIVEN)
def test_the_release_computes_what_the_original_computed(folder: str) -> None:
    generator = load(folder)
    assert not generator.training
    assert all(parameter.dtype == torch.float32 for parameter in generator.parameters())
    check_outputs(folder, generator)


FORMATS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "ddp.pt": lambda tensors: {"model": tensors, "steps": 5, "args": argparse.Namespace(gpt_model="GPT-B")},
    "old.pt": lambda tensors: {"model": tensors},
    "fsdp.pth": lambda tensors: tensors,
    "deepspeed.pt": lambda tensors: {"module": tensors},
    "lightning.ckpt": lambda tensors: {"state_dict": tensors, "epoch": 1},
    "freqs.pt": lambda tensors: {"model": {**tensors, "freqs_cis": torch.zeros(65, 8, 2)}},
    "wrapped.pt": lambda tensors: {"model": {f"module.{name}": tensor for name, tensor in tensors.items()}},
    "compiled.pt": lambda tensors: {"model": {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}},
    "mar.pth": lambda tensors: {
        "model": {name: tensor + 1 for name, tensor in tensors.items()},
        "model_ema": tensors,
        "epoch": 3,
    },
    "hub.safetensors": lambda tensors: tensors,
    "paddle.pdparams": lambda tensors: tensors,
}


def write(name: str, tensors: dict[str, Tensor], folder: Path) -> Path:
    """A state dict in one of the formats and wrappers in which a release or a training run may leave it."""
    path, content = folder / name, FORMATS[name](tensors)
    if path.suffix == ".safetensors":
        save_file(content, path)
    elif path.suffix == ".pdparams":
        write_pdparams(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=name != "old.pt")
    return path


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("folder", ["ar", "par4", "mar"])
def test_every_format_holds_the_same_model(folder: str, name: str, tmp_path: Path) -> None:
    expected = load(folder).state_dict()
    found = load(folder, write(name, expected, tmp_path)).state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_files_of_the_parity_folder_agree() -> None:
    expected = load("ar").state_dict()
    for file in ("fsdp.pth", "deepspeed.pt", "model.safetensors"):
        found = load("ar", PARITY / "ar" / file).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected), file
    hub, ema = load("mar", PARITY / "mar" / "model.safetensors"), load("mar", which="ema")
    assert all(torch.equal(a, b) for a, b in zip(hub.parameters(), ema.parameters(), strict=True))


def test_ema_and_raw_weights(tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load("mar").state_dict().items()}
    path = write("mar.pth", tensors, tmp_path)
    raw, ema = load("mar", path, which="raw").state_dict(), load("mar", path, which="ema").state_dict()
    assert all(torch.equal(ema[name], tensor) for name, tensor in tensors.items())
    assert all(torch.equal(raw[name], tensor + 1) for name, tensor in tensors.items())
    with pytest.raises(ValueError, match="unknown choice of weights 'emma'; did you mean 'ema'"):
        load("mar", which="emma")


def test_raw_weights_that_are_not_there_are_not_replaced_by_averages(tmp_path: Path) -> None:
    torch.save({"model_ema": load("mar").state_dict()}, tmp_path / "x.pth")
    assert load("mar", tmp_path / "x.pth").grid == (8, 8)
    with pytest.raises(ValueError, match=r"x\.pth: holds no raw weights, only model_ema"):
        load("mar", tmp_path / "x.pth", which="raw")


@pytest.mark.parametrize(("folder", "dtype"), [("ar", torch.float64), ("mar", torch.bfloat16)])
def test_dtype_is_the_one_asked_for(folder: str, dtype: torch.dtype) -> None:
    generator = load(folder, dtype=dtype)
    assert {tensor.dtype for tensor in generator.state_dict().values()} == {dtype}
    assert all(parameter.requires_grad for parameter in generator.parameters())


def test_configuration_is_read_off_the_tensors() -> None:
    config = load("par16").config
    assert (config.width, config.depth, config.vocab_size, config.num_classes, config.parallel) == (64, 2, 97, 10, 16)
    config = load("mar_patch2").config
    assert (config.encoder_width, config.encoder_depth, config.decoder_depth) == (64, 1, 2)
    assert (config.buffer_size, config.channels, config.patch_size, config.grid) == (4, 4, 2, (8, 8))
    assert (config.head_depth, config.head_width, config.num_classes) == (1, 64, 10)
    assert load("mar", encoder_heads=4, decoder_heads=4, grid=(4, 16)).grid == (4, 16)
    assert load("mar_patch2", channels=4).config.patch_size == 2
    untold = arbench.load_generator("mar", weights=PARITY / "mar_patch2" / FILES["mar_patch2"], heads=4, channels=4)
    assert untold.config.patch_size == 2


@pytest.mark.parametrize(
    ("folder", "changes", "message"),
    [
        ("ar", {"width": 32}, r"model\.pt: its tensors say width 64, not 32"),
        ("ar", {"vocab_size": 16384}, "its tensors say vocab_size 97, not 16384"),
        ("par4", {"parallel": 16}, "its tensors say parallel 4, not 16"),
        ("mar", {"buffer_size": 64}, "its tensors say buffer_size 8, not 64"),
        ("mar", {"grid": 7}, "its tensors say 64 tokens, not grid 7"),
        ("mar", {"patch_size": 3}, "a token has 16 channels, which is not 1 channels x patch 3 x 3"),
        ("mar", {"heads": 2}, "encoder_heads 4 contradicts heads 2"),
        ("ar", {"heads": 5}, "width 64: not a multiple of heads 5"),
        ("ar", {"heads": 0}, "heads 0: expected 1 or more"),
        ("ar", {"heads": "four"}, "heads 'four': expected a whole number"),
        ("ar", {"grid": 2.5}, "grid 2.5: expected a side"),
        ("ar", {"widht": 64}, "unknown configuration name of ar 'widht'; did you mean 'width'"),
    ],
)
def test_contradictions_are_named(folder: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load(folder, **changes)
    assert "\n" not in str(error.value)


def test_what_nobody_tells_is_asked_for() -> None:
    path = PARITY / "ar" / "model.pt"
    with pytest.raises(ValueError, match="tensors do not tell grid; give grid="):
        arbench.load_generator("ar", weights=path, heads=4)
    with pytest.raises(ValueError, match="tensors do not tell heads; give heads="):
        arbench.load_generator("ar", weights=path, grid=8)


def test_presets_of_the_same_shape_tell_heads_and_grid(tmp_path: Path) -> None:
    digits = arbench.load_generator("ar-digits", weights="random")
    save_file(digits.state_dict(), tmp_path / "x.safetensors")
    again = arbench.load_generator("ar", weights=tmp_path / "x.safetensors")
    assert again.config == digits.config


def save_digits_of(num_classes: int, path: Path) -> None:
    """Weights of ar-digits but for the number of classes."""
    config = {**presets()["ar-digits"].config, "num_classes": num_classes}
    save_file(build_generator("ar", config).state_dict(), path)


def test_a_preset_s_defaults_have_to_agree_as_well(tmp_path: Path) -> None:
    causal = build_generator("ar", {**presets()["ar-digits"].config, "order": "random"})
    save_file(causal.state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="its tensors say order random, not raster"):
        arbench.load_generator("ar-digits", weights=tmp_path / "x.safetensors")


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    path = PARITY / "mar" / "model.safetensors"
    with pytest.raises(ValueError, match=r"model\.safetensors: holds mar weights, not par"):
        arbench.load_generator("par", weights=path)
    with pytest.raises(ValueError, match=r"its tensors say encoder_width 64, not \d+"):
        arbench.load_generator("mar-digits", weights=path)
    save_digits_of(7, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="its tensors say num_classes 7, not 10"):
        arbench.load_generator("ar-digits", weights=tmp_path / "x.safetensors")
    assert arbench.load_generator("ar-digits", weights=tmp_path / "x.safetensors", num_classes=7).num_classes == 7
    with pytest.raises(ValueError, match="unknown model 'mar-digit'; did you mean 'mar-digits'"):
        arbench.load_generator("mar-digit")
    with pytest.raises(FileNotFoundError):
        arbench.load_generator("mar", weights="no-such-file.pth")


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    tensors = load("ar").state_dict()
    del tensors["layers.1.attention.wo.weight"]
    tensors["layers.0.extra"] = torch.zeros(1)
    tensors["norm.weight"] = torch.zeros(63)
    torch.save({"model": tensors}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt: does not fit") as error:
        load("ar", tmp_path / "x.pt")
    assert str(error.value).partition("does not fit; ")[2] == (
        "1 missing: layers.1.attention.wo.weight; 1 unexpected: layers.0.extra; "
        "1 of another shape: norm.weight (63,) instead of (64,)"
    )


def test_codes_in_place_of_weights_are_refused(tmp_path: Path) -> None:
    tensors = {**load("ar").state_dict(), "norm.weight": torch.ones(64, dtype=torch.int64)}
    torch.save({"model": tensors}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"norm\.weight holds torch\.int64, expected floating-point weights"):
        load("ar", tmp_path / "x.pt")


class Hostile:
    """Unpickling this would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_hostile_truncated_and_mislabelled_files_are_one_line(tmp_path: Path) -> None:
    whole = (PARITY / "mar" / "checkpoint-last.pth").read_bytes()
    touched = tmp_path / "touched"
    torch.save({"model": load("mar").state_dict(), "x": Hostile(f"touch {touched}")}, tmp_path / "hostile.pth")
    (tmp_path / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "page.pth").write_bytes(b"<!DOCTYPE html><html>")
    (tmp_path / "wrong.safetensors").write_bytes(whole)
    for name in ("hostile.pth", "truncated.pth", "empty.pth", "page.pth", "wrong.safetensors"):
        with pytest.raises(ValueError, match=name) as error:
            load("mar", tmp_path / name)
        assert "\n" not in str(error.value)
    assert not touched.exists()
    (tmp_path / "safe.pth").write_bytes((PARITY / "mar" / "model.safetensors").read_bytes())
    assert load("mar", tmp_path / "safe.pth").grid == (8, 8)


def test_random_weights_come_from_the_global_seed() -> None:
    torch.manual_seed(3)
    first = arbench.load_generator("ar-digits", weights="random").state_dict()
    torch.manual_seed(3)
    second = build_generator("ar", dict(presets()["ar-digits"].config)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_parallel_generator_of_one_takes_a_causal_file() -> None:
    causal, parallel = (
        load("ar"),
        arbench.load_generator("par", weights=PARITY / "ar" / "model.pt", heads=4, grid=8, parallel=1),
    )
    ids = torch.arange(64).view(1, 8, 8)
    assert torch.equal(causal.logits(ids, torch.tensor([3])), parallel.logits(ids, torch.tensor([3])))


PEAK = """
import resource, sys, torch
from arbench.weights import load, paddle
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load.load_generator("ar", width=32, depth=1, heads=4, vocab_size=8, grid=4, num_classes=2)
before = peak()
model = load.load_generator("ar", weights=sys.argv[1], heads=12, grid=16)
total = sum(float(parameter.detach().sum()) for parameter in model.parameters())
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("file", ["ddp.pt", "old.pt", "mar.pth", "hub.safetensors", "paddle.pdparams"])
def test_peak_memory_is_about_the_size_of_the_file(file: str, tmp_path: Path) -> None:
    """ar-b in float32 is 444 MB; every weight is touched, so that mapped pages count too."""
    model = build_generator("ar", {"width": 768, "depth": 12, "heads": 12, "grid": 16})
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    path = write(file, model.state_dict(), tmp_path)
    del model
    result = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    path.unlink()
    assert int(result.stdout) < 1.2 * size  # mar.pth holds two sets, of which one is read


def test_a_mapped_file_is_never_written(tmp_path: Path) -> None:
    """Weights taken from a mapped file can be trained: writing to them leaves the file as it was."""
    save_file(load("ar").state_dict(), tmp_path / "x.safetensors")
    before = (tmp_path / "x.safetensors").read_bytes()
    generator = load("ar", tmp_path / "x.safetensors")
    with torch.no_grad():
        generator.norm.weight.add_(1)
    assert (tmp_path / "x.safetensors").read_bytes() == before
    assert torch.equal(read_tensors(tmp_path / "x.safetensors").tensors()["norm.weight"] + 1, generator.norm.weight)
