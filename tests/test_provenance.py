"""Weights know what they are: model, configuration and tokenizer stand in their file, and foreign pairs are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import arbench
from arbench import cli
from arbench.generators.methods import presets
from arbench.runs.models import load_parts
from arbench.tokenizer.load import find_tokenizer, shipped_weights
from arbench.training.recipes import digits_recipes
from arbench.weights.convert import convert
from arbench.weights.load import load_generator
from arbench.weights.load import shipped_weights as shipped_generator
from arbench.weights.provenance import (
    MODEL,
    TOKENIZER,
    content_hash,
    describe_tokenizer,
    entries,
    read_provenance,
)
from arbench.weights.write import write_safetensors

CPU = torch.device("cpu")
GENERATORS = [name for name, recipe in digits_recipes().items() if recipe.kind == "generator"]


class Painted:
    """A tokenizer without weights whose latents have the shape of those of digits-kl."""

    name, kind, downsample, channels, vocab_size, scale = "painted", "continuous", 4, 4, None, 1.0

    def encode(self, images, *, rng=None):
        return images[:, :1].unfold(2, 4, 4).unfold(3, 4, 4)[:, 0, :, :, 0].movedim(-1, 1)

    def decode(self, tokens):
        return tokens[:, :3].repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.mark.parametrize("name", GENERATORS)
def test_shipped_generators_say_what_they_are(name):
    told = read_provenance(shipped_generator(presets()[name]))
    assert (told.name, told.method) == (name, presets()[name].method)
    assert told.config == vars(load_generator(name, weights="random").config)
    tokenizer, recorded = arbench.load_tokenizer(presets()[name].tokenizer), told.tokenizer
    file = shipped_weights(find_tokenizer(presets()[name].tokenizer))
    assert recorded == describe_tokenizer(presets()[name].tokenizer, tokenizer, file, {})


@pytest.mark.parametrize("name", ["digits-kl", "digits-vq"])
def test_shipped_tokenizers_say_what_they_are(name):
    with safe_open(shipped_weights(find_tokenizer(name)), "pt") as file:
        told = json.loads(file.metadata()[TOKENIZER])
    assert (told["name"], told["content"]) == (name, content_hash(arbench.load_tokenizer(name)))


def test_another_tokenizer_is_refused_with_the_way_out():
    where = f"{__name__}:Painted"
    with pytest.raises(ValueError, match=r"trained on the tokens of 'digits-kl' .*expected --tokenizer digits-kl, or"):
        load_parts("mar", tokenizer=where, device=CPU)
    load_parts("mar", weights="random", tokenizer=where, device=CPU)


def test_other_weights_of_the_same_tokenizer_are_refused(tmp_path):
    tensors = load_file(shipped_weights(find_tokenizer("digits-kl")))
    tensors["encoder.conv_in.bias"] += 1
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected --tokenizer-weights with the file of that SHA-256"):
        load_parts("mar", tokenizer_weights=tmp_path / "other.safetensors", device=CPU)
    convert(shipped_weights(find_tokenizer("digits-kl")), tmp_path / "same.pt")  # another file of the same weights
    load_parts("mar", tokenizer_weights=tmp_path / "same.pt", device=CPU)


def test_released_weights_are_not_given_another_tokenizer(tmp_path):
    (tmp_path / "mar-base.safetensors").touch()
    with pytest.raises(ValueError, match=r"released weights of 'mar-b' .* of 'kl16'.*'digits-kl'.*--tokenizer kl16"):
        load_parts("mar", "mar-b", weights=tmp_path / "mar-base.safetensors", tokenizer="digits-kl", device=CPU)


def save_narrow(path: Path, **config) -> None:
    """Weights of a narrow AR of 2 classes that started from ar-digits, in the tokens of digits-vq."""
    narrow = {"width": 16, "depth": 1, "heads": 2, "num_classes": 2, **config}
    generator = load_generator("ar-digits", weights="random", **narrow)
    tokenizer = describe_tokenizer("digits-vq", arbench.load_tokenizer("digits-vq"), None, {})
    write_safetensors(path, generator.state_dict(), entries("ar-digits", generator, tokenizer))


def test_a_file_alone_is_enough(tmp_path):
    path = tmp_path / "narrow.safetensors"
    save_narrow(path)
    parts = load_parts(weights=path, device=CPU)
    assert (parts.model, parts.tokenizer_name, parts.generator.num_classes) == ("ar-digits", "digits-vq", 2)
    assert parts.sampling["cfg_scale"] == presets()["ar-digits"].sampling["cfg_scale"]
    assert load_parts("ar", weights=path, device=CPU).generator.config == parts.generator.config
    assert load_generator("ar", weights=path).config == parts.generator.config
    assert load_generator("ar", weights=path, kv_cache=False).config.kv_cache is False
    with pytest.raises(ValueError, match="holds ar weights; expected --method ar, not mar"):
        load_parts("mar", weights=path, device=CPU)
    with pytest.raises(ValueError, match="was trained with heads 2, not 1"):
        load_generator("ar", weights=path, heads=1)


def test_conversion_keeps_the_origin(tmp_path):
    save_narrow(tmp_path / "narrow.safetensors")
    told = read_provenance(tmp_path / "narrow.safetensors")
    for name, source in (("there.pt", "narrow.safetensors"), ("back.safetensors", "there.pt")):
        convert(tmp_path / source, tmp_path / name)
        again = read_provenance(tmp_path / name)
        assert (again.config, again.tokenizer) == (told.config, told.tokenizer)
    assert load_parts(weights=tmp_path / "there.pt", device=CPU).generator.num_classes == 2


@pytest.fixture
def foreign(tmp_path):
    """A file of a plug-in's that is not here."""
    path = tmp_path / "theirs.safetensors"
    model = {"method": "marr", "preset": "marr-digits", "config": {"grid": 8}}
    write_safetensors(path, {"a": torch.ones(2)}, {MODEL: json.dumps(model)})
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--weights", "FILE"),
        ("run", "--method", "mar", "--weights", "FILE"),
        ("run", "--method", "marr", "--weights", "FILE"),
        ("sample", "--model", "marr", "--weights", "FILE"),
        ("bench", "--model", "mar-digits", "--weights", "FILE"),
        ("train", "--model", "mar-digits", "--steps", "1", "--init", "FILE"),
        ("weights", "verify", "FILE"),
        ("weights", "convert", "FILE", "x.pt"),
    ],
)
def test_weights_of_a_method_that_is_not_installed_name_it(foreign, tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert cli.run_command([str(foreign) if one == "FILE" else one for one in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"arbench: error: {foreign}: holds weights of method 'marr', which is not installed; ")
    assert "expected the package that brings it, or --model module:Name of it (installed: ar, " in line
    assert line.endswith("; nearest: mar)")


@pytest.mark.parametrize("name", ["marr", "marr-digits", "mar-digits"])
def test_loading_weights_of_a_method_that_is_not_installed_names_it(foreign, name):
    with pytest.raises(ValueError, match="holds weights of method 'marr', which is not installed"):
        load_generator(name, weights=foreign)


def test_a_model_that_a_file_s_tensors_fit_is_loaded_whatever_the_method_is_called(tmp_path):
    generator, path = load_generator("ar-digits"), tmp_path / "theirs.safetensors"
    told = {"method": "theirs", "preset": None, "config": {"grid": 8}}
    write_safetensors(path, generator.state_dict(), {MODEL: json.dumps(told)})
    again = load_generator("ar-digits", weights=path)
    assert all(torch.equal(value, generator.state_dict()[key]) for key, value in again.state_dict().items())


WHOLE = {"method": "ar", "preset": None, "config": {"grid": 8}}
OF_TOKENIZER = {"name": "digits-vq", "version": None, "sha256": "", "content": ""}


@pytest.mark.parametrize(
    "entries",
    [
        {MODEL: "{not json"},
        {MODEL: "[" * 100_000},
        {MODEL: json.dumps([])},
        {MODEL: json.dumps({**WHOLE, "method": ["ar"]})},
        {MODEL: json.dumps({**WHOLE, "preset": ["x"]})},
        *({MODEL: json.dumps(WHOLE), TOKENIZER: json.dumps(told)} for told in ([], {**OF_TOKENIZER, "name": 5})),
        *(
            {MODEL: json.dumps(WHOLE), TOKENIZER: json.dumps({**OF_TOKENIZER, name: 7})}
            for name in ("file", "config", "version")
        ),
    ],
)
def test_a_damaged_entry_is_one_line(tmp_path, entries):
    path = tmp_path / "damaged.safetensors"
    write_safetensors(path, {"a": torch.ones(2)}, entries)
    with pytest.raises(ValueError, match="entries of origin are damaged"):
        read_provenance(path)


def test_what_says_nothing_has_no_origin(tmp_path):
    assert read_provenance("random") is read_provenance(None) is read_provenance(tmp_path / "nowhere") is None


def test_equal_content_gives_equal_bytes(tmp_path):
    script = (
        "import sys, torch; from pathlib import Path; from arbench.weights.write import write_safetensors\n"
        "entries = {name: name * 3 for name in 'gfedcba'}\n"
        "write_safetensors(Path(sys.argv[1]), {'x': torch.arange(6.0), 'a': torch.ones(2, 3)}, entries)"
    )
    files = [tmp_path / f"{seed}.safetensors" for seed in range(3)]
    for seed, file in enumerate(files):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        subprocess.run([sys.executable, "-c", script, str(file)], env=environment, check=True)
    assert len({file.read_bytes() for file in files}) == 1
    assert torch.equal(load_file(files[0])["x"], torch.arange(6.0))
    with safe_open(files[0], "pt") as file:
        assert file.metadata() == {"format": "pt", **{name: name * 3 for name in "abcdefg"}}
