"""The conformance test: what is right passes, each broken promise fails the check that is named after it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

import arbench
from arbench.tokenizer.conformance import check_tokenizer

PLUGIN = str(Path(__file__).parent / "plugins" / "quadrants")


@pytest.fixture(scope="module")
def images():
    from arbench.images.data import open_data
    from arbench.images.pixels import to_float

    return to_float(open_data("digits", split="heldout").images(range(3)))


@pytest.fixture
def quadrants(monkeypatch):
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.delitem(sys.modules, "quadrants", raising=False)
    return arbench.load_tokenizer("quadrants:Quadrants")


def outcomes(tokenizer, images, **options):
    return {check.name: check.outcome for check in check_tokenizer(tokenizer, images, **options)}


def failed(tokenizer, images):
    return {name for name, outcome in outcomes(tokenizer, images).items() if outcome == "failed"}


@pytest.mark.parametrize("name", ["digits-kl", "digits-vq"])
def test_ours_conform(name, images):
    assert failed(arbench.load_tokenizer(name), images) == set()


def test_random_weights_skip_the_round_trip(images):
    fresh = arbench.load_tokenizer("digits-kl", weights="random")
    assert outcomes(fresh, images, trained=False)["round trip"] == "skipped"
    assert outcomes(fresh, images)["round trip"] == "failed"


def test_a_foreign_one_conforms(quadrants, images):
    assert failed(quadrants, images) == set()


@pytest.mark.parametrize(
    ("member", "value", "expected"),
    [
        ("kind", "continous", "numbers"),
        ("downsample", 4.0, "numbers"),
        ("scale", float("nan"), "numbers"),
        ("channels", 5, "encode shape"),
        ("encode", lambda images, rng=None: torch.zeros(len(images), 4, 8, 8).int(), "encode shape"),
        ("encode", lambda images, rng=None: torch.full((len(images), 4, 8, 8), float("nan")), "token range"),
        ("decode", lambda tokens: torch.zeros(len(tokens), 3, 16, 16), "decode shape"),
        ("decode", lambda tokens: torch.zeros(len(tokens), 3, 32, 32).int(), "decode shape"),
        ("decode", lambda tokens: torch.full((len(tokens), 3, 32, 32), 255.0), "decoded range"),
        ("decode", lambda tokens: torch.zeros(len(tokens), 3, 32, 32) + 0.9, "round trip"),
        ("decode", lambda tokens: torch.rand(len(tokens), 3, 32, 32), "determinism"),
        ("decode", lambda tokens: torch.full((len(tokens), 3, 32, 32), len(tokens) / 8), "batch invariance"),
        ("encode", lambda images, rng=None: torch.rand(len(images), 4, 8, 8), "sampling"),
        ("moments", lambda images: (torch.ones(3, 4, 8, 8), torch.ones(3, 4, 8, 8)), "moments agree"),
    ],
)
def test_each_broken_promise_is_found(quadrants, images, member, value, expected):
    setattr(quadrants, member, value)
    assert expected in failed(quadrants, images)


def test_codes_outside_the_codebook(images):
    tokenizer = arbench.load_tokenizer("digits-vq")
    tokenizer.lookup = lambda ids: tokenizer.quantize.lookup(ids.clamp(0, 255))
    assert failed(tokenizer, images) == {"codebook bounds"}


def test_a_codebook_that_disagrees(images):
    tokenizer = arbench.load_tokenizer("digits-vq")
    right = tokenizer.latents
    tokenizer.latents = lambda images: -right(images)
    # encode goes through latents as well, so only its own codes tell
    tokenizer.encode = lambda images, rng=None: tokenizer.quantize(right(images))
    assert "codebook agrees" in failed(tokenizer, images)


def test_missing_members_are_told(images):
    (check,) = check_tokenizer(object(), images)
    assert (check.name, check.outcome) == ("members", "failed")
    assert check.detail.startswith("lacks name, kind, downsample")


def test_the_readme_writes_a_tokenizer_that_conforms(images):
    readme = (Path(__file__).parents[1] / "tokenizers" / "README.md").read_text()
    block = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)[0]
    assert block.count("\n") <= 40
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    assert failed(names["BlockDCT"](), images) == set()
