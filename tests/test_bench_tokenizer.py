"""The tokenizer benchmark: it times what it says, and its convolutions are those that run."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import arbench
from arbench.bench.tokenizer import bench_tokenizer, convolutions, median_seconds


def test_result():
    found = bench_tokenizer("digits-kl", image_size=32, batch_size=2, device="cpu", repeats=2)
    assert (found["tokenizer"], found["image_size"], found["batch_size"], found["dtype"]) == (
        "digits-kl",
        32,
        2,
        "float32",
    )
    for phase in (found["encode"], found["decode"]):
        assert phase["seconds_per_image"] > 0
        # rounding of one division
        assert phase["ratio"] == pytest.approx(phase["seconds_per_image"] / phase["bare"], rel=1e-12)
    assert found["params_m"] == pytest.approx(0.242, abs=0.001)
    assert found["hardware"]["device"] == "cpu"


def test_every_convolution_that_runs_is_found():
    tokenizer = arbench.load_tokenizer("digits-kl")
    tokens = torch.zeros(1, 4, 8, 8)
    called = {layer for layer, _ in convolutions(tokenizer, lambda: tokenizer.decode(tokens))}
    in_decoder = {layer for layer in tokenizer.decoder.modules() if isinstance(layer, nn.Conv2d)}
    assert called == in_decoder | {tokenizer.post_quant_conv}


def test_median_of_repeats_after_a_warm_up():
    calls = []

    def run():
        calls.append(None)
        time.sleep(0.3 if len(calls) == 1 else 0.001)
        return torch.zeros(1)

    assert median_seconds(run, torch.device("cpu"), 3) < 0.3
    assert len(calls) == 4
