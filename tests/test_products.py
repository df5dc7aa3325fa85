"""Products of a few rows with large weights in the order that a CPU is fast at; with small ones to the last bit."""

from __future__ import annotations

import pytest
import torch
from conftest import make_generator, relative_error
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from arbench.bench.originals import ReleasedCausal, ReleasedKVCache
from arbench.generators.common.causal import CausalBackbone
from arbench.heads.categorical import CategoricalHead
from arbench.machine import products
from arbench.machine.products import LEAST_WEIGHTS, MOST_EIGHTS, MOST_ROWS, FewRowsLinear, plain_products
from arbench.sampling.algorithm import generate

FACTORS = (torch.ops.aten.mm.default, torch.ops.aten.matmul.default, torch.ops.aten.linear.default)


class Products(TorchDispatchMode):
    """The shapes of the first factors of all products inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in FACTORS:
            self.first.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def layer(out: int, width: int, bias: bool = False) -> FewRowsLinear:
    torch.manual_seed(0)
    return FewRowsLinear(width, out, bias=bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, MOST_ROWS, MOST_ROWS + 1, MOST_EIGHTS, MOST_EIGHTS + 8])
def test_few_rows_with_a_large_weight_are_turned_round(rows, bias):
    large, x = layer(1024, 256, bias), torch.randn(rows, 1, 256)
    with torch.inference_mode(), Products() as seen:
        found = large(x)
    assert ((1024, 256) in seen.first) is (rows in (2, 5, MOST_ROWS, MOST_EIGHTS))
    assert found.is_contiguous()
    assert relative_error(found, F.linear(x, large.weight, large.bias)) < 1e-6  # float32: sums in another order


@pytest.mark.parametrize(("out", "width"), [(512, 256), (256, 1024)])
def test_small_and_narrowing_weights_keep_every_bit(out, width):
    assert 512 * 256 < LEAST_WEIGHTS <= 256 * 1024
    one, x = layer(out, width), torch.randn(4, 2, width)
    with torch.inference_mode(), Products() as seen:
        assert torch.equal(one(x), F.linear(x, one.weight))
    assert (out, width) not in seen.first


def test_training_half_precision_and_transposed_storage_are_as_they_were():
    large, x = layer(1024, 256), torch.randn(4, 256)
    half = layer(1024, 256).to(torch.bfloat16)
    turned = layer(1024, 256)
    turned.weight = torch.nn.Parameter(turned.weight.detach().t().contiguous().t())
    with Products() as seen:
        large(x)
        with torch.no_grad():
            half(x.to(torch.bfloat16))
            turned(x)
            with plain_products():
                large(x)
    assert seen.first == [(4, 256)] * 4


def test_a_large_codebook_is_read_once_for_both_halves(monkeypatch):
    torch.manual_seed(0)
    head = CategoricalHead(16, 32)
    given = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    apart = head.both_logits(*given)
    monkeypatch.setattr(products, "LEAST_WEIGHTS", 1)
    with torch.no_grad(), Products() as seen:
        together = head.both_logits(*given)
    assert seen.first == [(12, 16)]
    for found, expected in zip(together, apart, strict=True):
        assert relative_error(found, expected) < 1e-6  # float32


def test_the_releases_way_copies_its_whole_cache_and_turns_nothing(monkeypatch):
    monkeypatch.setattr(products, "LEAST_WEIGHTS", 1)
    generator = make_generator("ar-raster")
    assert isinstance(generator, CausalBackbone)
    widths = {tuple(one.weight.shape) for one in generator.modules() if isinstance(one, FewRowsLinear)}
    for way, is_turned in ((generator, True), (ReleasedCausal(generator), False)):
        with Products() as seen:
            generate(way, [0, 1], cfg_scale=2.0)
        assert (not widths.isdisjoint(seen.first)) is is_turned
    cache = generator.empty_cache(2, ReleasedKVCache)
    new = torch.randn(2, 2, generator.heads, 1, generator.width // generator.heads)
    keys, values = cache.extend(0, *new)
    assert keys.shape[2] == generator.num_tokens
    keys.zero_()
    cache.advance(1)
    assert torch.equal(cache.extend(0, *new)[0][:, :, :1], new[0])
    assert torch.equal(values[:, :, :1], new[1])
