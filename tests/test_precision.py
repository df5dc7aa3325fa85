"""Precisions by name, what "auto" is where, and half precision in matrix products alone."""

from __future__ import annotations

import pytest
import torch
from conftest import make_generator, relative_error
from tiny_runs import tiny
from torch import nn

from arbench.generators.common.layers import RMSNorm
from arbench.generators.methods import get_method, get_preset
from arbench.generators.spec import Method
from arbench.machine.precision import Precision, precision_of, resolve_precision, set_precision
from arbench.runs.execute import execute, run
from arbench.runs.models import load_parts
from arbench.runs.request import RunRequest
from arbench.sampling.algorithm import generate
from arbench.weights.load import load_generator

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
MIXED = Precision.of("mixed-bfloat16")
FEW = {"mar": {"num_iter": 3, "head_steps": 3}, "arpg": {"num_iter": 3}, "dit": {"head_steps": 3}}


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("ar-l-384", "bfloat16"),
        ("par-xl-4x", "bfloat16"),
        ("arpg-l", "bfloat16"),
        ("mar-b", "mixed-float16"),
        ("mar-digits", "float32"),
        ("ar-digits", "float32"),
        ("dit-digits", "float32"),
    ],
)
def test_auto_is_what_a_release_is_evaluated_in_on_cuda_and_float32_elsewhere(preset, name):
    own = get_method(get_preset(preset).method).evaluated_in(get_preset(preset))
    assert resolve_precision("auto", CUDA, own).name == name
    assert {resolve_precision("auto", device, own).name for device in (CPU, MPS)} == {"float32"}
    assert {resolve_precision("float32", device, own).name for device in (CPU, CUDA)} == {"float32"}


def test_a_method_that_says_nothing_is_drawn_in_float32():
    spec = Method(name="mine", config=dict, model=dict, schedule="sequential", sampling=())
    assert resolve_precision("auto", CUDA, spec.evaluated_in(None)) == Precision()


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float64", "mixed-float16", "mixed-bfloat16"])
def test_a_precision_is_set_told_and_read_off_again(name):
    model = make_generator("mar", "diffusion")
    set_precision(model, Precision.of(name))
    assert precision_of(model).name == Precision.of(name).name == name
    products = {
        id(weight) for layer in model.modules() if isinstance(layer, nn.Linear) for weight in layer.parameters()
    }
    for parameter in model.parameters():
        expected = Precision.of(name).products if id(parameter) in products else Precision.of(name).kept
        assert parameter.dtype == expected


def test_unknown_precisions_are_told_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mixed-float16'"):
        resolve_precision("mixed-float1", CPU)
    with pytest.raises(ValueError, match="unknown dtype 'auto'"):
        Precision.of("auto")


@torch.inference_mode()
def test_the_transformer_computes_what_autocast_computes():
    model, mixed = (make_generator("mar", "diffusion") for _ in range(2))
    set_precision(mixed, MIXED)
    mask = torch.zeros(2, model.num_tokens).index_fill_(1, torch.tensor([1, 2, 5]), 1.0)
    given = torch.randn(2, model.channels, *model.grid), mask, torch.tensor([1, 3])
    with torch.autocast("cpu", torch.bfloat16):
        expected = model.condition(*given)
    found = mixed.condition(*given)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert not torch.equal(found, model.condition(*given))


@pytest.mark.parametrize(
    ("name", "engine"),
    [("dit", "eager"), *((name, engine) for name in ("ar", "par", "mar", "arpg") for engine in ("eager", "graph"))],
)
def test_products_take_halves_and_the_stream_between_them_does_not(name, engine):
    model = load_generator(f"{name}-digits")
    set_precision(model, MIXED)
    into: dict[type, set[torch.dtype]] = {nn.Linear: set(), nn.LayerNorm: set(), RMSNorm: set()}
    for layer in model.modules():
        kind = next((kind for kind in into if isinstance(layer, kind)), None)
        if kind is not None:
            layer.register_forward_pre_hook(lambda _, given, kind=kind: into[kind].add(given[0].dtype))
    tokens = generate(model, [3, 7], seed=1, engine=engine, **FEW.get(name, {}))
    assert tokens.dtype in (torch.int64, torch.float32)
    assert into.pop(nn.Linear) == {torch.bfloat16}
    assert set().union(*into.values()) == {torch.float32}


def test_mixed_latents_are_those_of_float32_but_for_rounding():
    exact, mixed = (load_generator("mar-digits") for _ in range(2))
    set_precision(mixed, Precision.of("mixed-float16"))
    few = {"seed": 1, "num_iter": 2, "head_steps": 5}
    found, expected = generate(mixed, [3, 7], **few), generate(exact, [3, 7], **few)
    assert 0 < relative_error(found, expected) < 0.05  # float16 rounds to 5e-4, which 10 denoising steps enlarge


def test_a_run_names_what_auto_came_to_and_its_tier(tmp_path):
    plain, _ = execute(RunRequest.of(**tiny("par"), out=tmp_path / "auto"))
    named, record = execute(RunRequest.of(**tiny("par"), dtype="float32", out=tmp_path / "named"))
    assert plain.name == named.name
    assert (record["hardware"]["dtype"], record["speed"]["tier"]) == ("float32", "E1")
    record = run(**tiny("par"), dtype="mixed-bfloat16", out=tmp_path)
    assert (record["hardware"]["dtype"], record["speed"]["tier"]) == ("mixed-bfloat16", "A2")
    assert record.folder.name != plain.name


def test_parts_are_loaded_in_the_precision_asked_for():
    parts = load_parts("mar", device=CPU, dtype="mixed-bfloat16")
    assert parts.precision == MIXED
    assert {value.dtype for value in parts.tokenizer.parameters()} == {torch.float32}
    assert load_parts("mar", device=CPU).precision == Precision()
    with pytest.raises(ValueError, match="unknown dtype 'half'"):
        load_parts("mar", device=CPU, dtype="half")
