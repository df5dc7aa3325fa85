"""tokenizers/README.md is followed to the letter: files are written, commands run, and what is drawn is read."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import arbench
from arbench.cli import run_command
from arbench.images.data import open_data
from arbench.tokenizer.latents import latent_statistics

TEXT = (Path(__file__).parent.parent / "tokenizers" / "README.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^### (.*)\n", re.MULTILINE)
BLOCK = re.compile(r"^```(python|toml|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILES = {"python": ".py", "toml": ".toml"}
WELL_READ = 0.8  # label accuracy; ten classes drawn at random are read at 0.1


def sections() -> dict[str, list[tuple[str, str]]]:
    """The blocks below each heading of the third order: language and text."""
    parts = SECTION.split(TEXT)
    return {title: BLOCK.findall(text) for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def write_file(language: str, text: str) -> None:
    """A block whose first line is a comment with a name is a file of that name."""
    name = re.match(r"# (\w+\.\w+)\n", text)
    assert name is not None
    assert name[1].endswith(FILES[language])
    Path(name[1]).write_text(text, encoding="utf-8")


def write_files_before(title: str) -> None:
    """What a reader who has come to a section has in the folder."""
    for before, blocks in sections().items():
        if before == title:
            return
        for language, text in blocks:
            if language in FILES:
                write_file(language, text)


def command_lines(text: str) -> list[list[str]]:
    """The words of each line of a shell block; comments are left out, lines that go on are joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def run_line(words: list[str], path: pytest.MonkeyPatch) -> None:
    """One command as a shell would run it; pip installs into a folder of its own, without a network."""
    if words[:2] == ["pip", "install"]:
        offline = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", "site"]
        subprocess.run([sys.executable, "-m", "pip", *words[1:], *offline], check=True, capture_output=True, text=True)
        path.syspath_prepend(str(Path("site").resolve()))
    elif words[0] == "export":
        assert words == ["export", "PYTHONPATH=."]
        path.syspath_prepend(str(Path.cwd()))
    else:
        assert words[0] == "arbench"
        assert run_command(words[1:]) == 0


def follow(title: str, path: pytest.MonkeyPatch) -> None:
    """Write the files and run the commands of a section, in its order."""
    for language, text in sections()[title]:
        if language in FILES:
            write_file(language, text)
            continue
        for words in command_lines(text):
            run_line(words, path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, from which Python imports; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name, module in sys.modules.items() if is_below(module, tmp_path)]:
        del sys.modules[name]


def is_below(module: object, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)


def test_sections_are_the_three_tokenizers():
    assert list(sections()) == ["Latents", "Another grid", "Codes", "What else it may have", "Train one"]


@pytest.mark.parametrize(
    ("title", "module", "fits"),
    [
        ("Latents", "block_dct:BlockDCT", {"channels": 6, "grid": (4, 4)}),
        pytest.param("Another grid", "fine_dct:FineDCT", {"channels": 6, "grid": (8, 8)}, marks=pytest.mark.slow),
        pytest.param("Codes", "seven_bits:SevenBits", {"vocab_size": 128, "grid": (8, 8)}, marks=pytest.mark.slow),
    ],
)
def test_from_an_empty_file_to_images_that_are_read_as_asked(title, module, fits, folder, monkeypatch, capsys):
    write_files_before(title)
    follow(title, monkeypatch)
    assert "failed" not in capsys.readouterr().out
    (found,) = folder.rglob("record.json")
    record = json.loads(found.read_text())
    assert (record["tokenizer"], record["num_images"]) == (module, 200)
    assert record["metrics"]["label_accuracy"] > WELL_READ
    (weights,) = folder.rglob("*-digits.safetensors")
    config = arbench.load_generator(record["model"], weights=weights).config
    assert {name: getattr(config, name) for name in fits} == fits


@pytest.mark.parametrize("module", ["block_dct:BlockDCT", "fine_dct:FineDCT", "seven_bits:SevenBits"])
def test_every_tokenizer_passes_the_check(module, folder, capsys):
    write_files_before("What else it may have")
    assert run_command(["tokenizers", "check", module, "--device", "cpu"]) == 0
    assert "failed" not in capsys.readouterr().out


@pytest.mark.parametrize("module", ["block_dct:BlockDCT", "fine_dct:FineDCT"])
def test_shift_and_scale_are_those_that_stats_tells(module, folder, capsys):
    write_files_before("What else it may have")
    tokenizer = arbench.load_tokenizer(module)
    found = latent_statistics(tokenizer, open_data("digits", split="train"), batch_size=256, device="cpu")
    np.testing.assert_allclose(tokenizer.shift.flatten(), found.channel_mean, atol=6e-5)  # four decimals are written
    np.testing.assert_allclose(tokenizer.scale.flatten(), found.channel_scale, atol=6e-5)
    assert run_command(["tokenizers", "stats", module, "--num-images", "8", "--device", "cpu"]) == 0
    assert f"this tokenizer has [{tokenizer.scale.flatten()[0]:.4f}, " in capsys.readouterr().out


def test_the_codes_are_all_distinct_pictures(folder):
    write_files_before("What else it may have")
    tokenizer = arbench.load_tokenizer("seven_bits:SevenBits")
    codes = torch.arange(tokenizer.vocab_size).view(1, 8, 16)
    blocks = tokenizer.decode(codes)[0, 0].unfold(0, 4, 4).unfold(1, 4, 4).reshape(-1, 16)
    assert len(blocks.unique(dim=0)) == tokenizer.vocab_size
    assert torch.equal(tokenizer.encode(tokenizer.decode(codes)), codes)
