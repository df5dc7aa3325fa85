"""The exponential moving average: its warm-up, its closed form, its saved state."""

import pytest
import torch
from torch import nn

from arbench.training.ema import EMA


def test_rate_warms_up_to_the_asked_for_one():
    average = EMA(nn.Linear(1, 1), 0.9)
    assert average.rate_at(0) == pytest.approx(1 / 10)
    assert average.rate_at(8) == pytest.approx(9 / 18)
    assert average.rate_at(80) == pytest.approx(81 / 90)
    assert average.rate_at(10_000) == 0.9


def test_average_is_the_weighted_sum_of_what_it_saw():
    model = nn.Linear(1, 1, bias=False)
    average = EMA(model, 0.5)
    expected = model.weight.item()
    for step, value in enumerate((3.0, -1.0, 7.0)):
        nn.init.constant_(model.weight, value)
        average.update(model)
        rate = min(0.5, (1 + step) / (10 + step))
        expected = rate * expected + (1 - rate) * value
    # One float32 rounding an update.
    assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_integer_buffers_are_copied_and_the_model_is_untouched():
    model = nn.BatchNorm1d(2)
    average = EMA(model, 0.9)
    model(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average.update(model)
    assert average.weights["num_batches_tracked"].item() == 1
    assert average.weights["num_batches_tracked"].dtype == torch.int64
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_without_a_rate_nothing_is_kept_beside_the_weights():
    model = nn.Linear(2, 2)
    average = EMA(model, 0.0)
    nn.init.constant_(model.weight, 7.0)
    average.update(model)
    assert average.weights["weight"].data_ptr() == model.weight.data_ptr()
    assert EMA(model, 0.99, warmup=False).rate_at(0) == 0.99
