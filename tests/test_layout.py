"""Weights laid out for products of few rows: the same values in another order of memory, where it pays, when asked."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import tiny
from torch import nn

from arbench.machine.layout import store_for_few_rows
from arbench.runs.execute import execute
from arbench.runs.models import lay_out_for_few_rows, load_parts
from arbench.runs.request import RunRequest
from arbench.sampling.algorithm import generate
from arbench.weights.load import load_generator

CPU = torch.device("cpu")


def test_what_widens_lies_transposed_and_holds_the_same():
    model, plain = (load_generator("ar-digits") for _ in range(2))
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    wide = [layer for layer in layers if layer.out_features >= 1.2 * layer.in_features]
    assert 0 < store_for_few_rows(model) == len(wide) < len(layers)
    for layer in layers:
        assert layer.weight.is_contiguous() == (layer not in wide)
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("name", ["ar-digits", "mar-digits"])
def test_images_differ_by_rounding_at_most(name):
    model, plain = (load_generator(name).double() for _ in range(2))
    for layer in model.modules():  # in float64 rounding hardly ever changes a code
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    few = {"num_iter": 3, "head_steps": 3} if name == "mar-digits" else {}
    found, expected = generate(model, [3], seed=1, **few), generate(plain, [3], seed=1, **few)
    assert torch.allclose(found.double(), expected.double(), rtol=1e-9, atol=1e-9)


def test_half_precision_stays_as_it_lies():
    assert store_for_few_rows(load_generator("ar-digits", dtype=torch.bfloat16)) == 0


def test_a_run_says_so_and_keeps_its_folder(tmp_path):
    plain, record = execute(RunRequest.of(**tiny(), out=tmp_path / "plain"))
    named, few = execute(RunRequest.of(**tiny(), few_rows=True, out=tmp_path / "few"))
    assert plain.name == named.name
    assert "few_rows" not in record["hardware"]
    assert few["hardware"]["few_rows"] is True


def test_it_is_for_a_cpu():
    with pytest.raises(ValueError, match="lays weights out for a CPU, not for cuda"):
        lay_out_for_few_rows(load_generator("ar-digits"), torch.device("cuda"))
    assert not load_parts("ar", device=CPU, few_rows=True).generator.layers[0].attention.wqkv.weight.is_contiguous()
