"""ARPG: against what the original computed, against itself one token at a time, and its reveal curves."""

import itertools

import pytest
import torch
from conftest import Parity, make_tokens, relative_error
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from arbench.generators.arpg.config import HIDDEN_SHARES, ARPGConfig, ARPGSampling
from arbench.generators.arpg.model import ARPG
from arbench.runs.roofline import roofline
from arbench.sampling.algorithm import generate
from arbench.sampling.guidance import guidance_scale
from arbench.sampling.noise import FixedNoise
from arbench.sampling.schedules import make_schedule, masked_sizes
from arbench.settings import REVEAL_SCHEDULES, make_settings
from arbench.weights.load import load_generator
from arbench.weights.read import read_tensors

PARITY_ERROR = 1e-4  # float32 against float32 of another implementation: sums in another order
FOLDER = Parity("arpg")
RUNS = FOLDER.meta["runs"]
TINY = {"width": 32, "depth": 4, "heads": 2, "num_classes": 5, "grid": 4, "vocab_size": 17}
LABELS = torch.tensor([0, 4, 2])
NOBODY = torch.full_like(LABELS, 5)


def make_arpg(**changes):
    torch.manual_seed(0)
    model = ARPG(ARPGConfig(**(TINY | changes)))
    for parameter in model.parameters():  # a small start would hide what the blocks do
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make_orders(batch=3, tokens=16):
    return torch.stack([torch.randperm(tokens, generator=torch.Generator().manual_seed(s)) for s in range(batch)])


@pytest.fixture(scope="module")
def recorded():
    model = ARPG(ARPGConfig(**FOLDER.meta["config"]))
    model.load_state_dict(read_tensors(FOLDER.folder / "model.pt").tensors())
    return model.eval()


@pytest.mark.parametrize("kind", ["", "unconditional_"])
def test_logits_and_loss_are_the_originals(recorded, kind, monkeypatch):
    expected = FOLDER.expected
    ids, orders = expected["ids"].unflatten(1, recorded.grid), expected["orders"]
    labels = torch.full_like(expected["labels"], recorded.num_classes) if kind else expected["labels"]
    logits = recorded.logits(ids, labels, orders=orders)
    assert logits.dtype == torch.float32
    assert relative_error(logits, expected[f"{kind}logits"]) < PARITY_ERROR
    monkeypatch.setattr(ARPG, "random_orders", lambda *_: orders)
    assert relative_error(recorded.loss(ids, labels)[None], expected[f"{kind}loss"][None]) < PARITY_ERROR


def settings_of(run):
    names = {"sample_schedule": "reveal_schedule", "guidance_scale": "cfg_scale", "sizes": None}
    renamed = {names.get(name, name): value for name, value in RUNS[run].items()}
    renamed.pop(None)
    return renamed


@pytest.mark.parametrize("run", RUNS)
def test_greedy_generations_are_the_originals(recorded, run):
    settings = ARPGSampling(**settings_of(run))
    assert masked_sizes(64, settings.num_iter, settings.hidden_share) == RUNS[run]["sizes"]
    noise = FixedNoise(orders=FOLDER.expected["generation_order"].expand(3, -1))
    ids = generate(recorded, FOLDER.expected["labels"], noise=noise, **settings_of(run))
    assert ids.dtype == torch.int64
    assert torch.equal(ids.flatten(1), FOLDER.expected[f"greedy_{run}"])


def test_every_reveal_schedule_has_its_curve():
    assert tuple(HIDDEN_SHARES) == REVEAL_SCHEDULES
    for share in HIDDEN_SHARES.values():
        assert share(0, 8) == pytest.approx(1)
        assert share(8, 8) == pytest.approx(0)


@pytest.mark.parametrize("curve", REVEAL_SCHEDULES)
@pytest.mark.parametrize("num_tokens", [1, 2, 16, 100])
def test_every_curve_reveals_all_tokens(curve, num_tokens):
    share = ARPGSampling(reveal_schedule=curve).hidden_share
    for num_iter in range(1, num_tokens + 1):
        sizes = masked_sizes(num_tokens, num_iter, share)
        assert len(sizes) == num_iter
        assert sum(sizes) == num_tokens
        assert min(sizes) >= 1
    assert masked_sizes(num_tokens, num_tokens + 3, share) == [1] * num_tokens


def test_one_token_a_step_is_the_causal_generation_that_was_trained():
    """The tokens drawn greedily, one by one from the caches, are those that teacher forcing predicts in that order."""
    model, orders = make_arpg().double(), make_orders()
    ids = generate(model, LABELS, temperature=0.0, num_iter=16, noise=FixedNoise(orders=orders))
    kept = model.logits(ids, LABELS, orders=orders).argmax(-1)
    assert torch.equal(kept, ids.flatten(1).gather(1, orders))


@pytest.mark.parametrize("sinusoids", [False, True])
@pytest.mark.parametrize("sampling", [{}, {"cfg_scale": 3.0}, {"cfg_scale": 3.0, "cfg_interval": 1}])
def test_cached_conditions_equal_those_of_the_whole_sequence(sampling, sinusoids):
    """Also where the unconditional rows are dropped on the way; conditions, for equal codes could hide a difference."""
    seen = []
    for kv_cache in (True, False):
        model = make_arpg(kv_cache=kv_cache, sinusoids=sinusoids).double()
        seen.append([])
        original = model.conditions
        model.conditions = lambda *given, call=original, log=seen[-1]: log.append(call(*given)) or log[-1]
        generate(model, LABELS, seed=3, num_iter=5, **sampling)
    for cached, whole in zip(*seen, strict=True):
        for found, expected in zip(cached, whole, strict=True):
            assert (found is None) == (expected is None)
            # float64: sums over the same keys in blocks of other sizes
            assert found is None or relative_error(found, expected) < 1e-9


def test_a_token_sees_those_before_it_alone():
    """Changing the k-th token of the order changes the logits after it and no other."""
    model, orders = make_arpg(), make_orders()
    ids = make_tokens(model)
    before = model.logits(ids, LABELS, orders=orders)
    changed = ids.flatten(1).scatter(1, orders[:, 6:7], (ids.flatten(1).gather(1, orders[:, 6:7]) + 1) % 17)
    after = model.logits(changed.unflatten(1, model.grid), LABELS, orders=orders)
    assert torch.equal(before[:, :7], after[:, :7])
    assert all(not torch.equal(before[:, k], after[:, k]) for k in range(7, 16))


def test_the_wanted_place_is_told_by_rotation_alone():
    """Two orders that agree up to a token differ from it on, though all queries are the same vector."""
    model, orders = make_arpg(), make_orders()
    other = orders.clone()
    other[:, 6], other[:, 7] = orders[:, 7], orders[:, 6]
    ids = make_tokens(model)
    first, second = model.logits(ids, LABELS, orders=orders), model.logits(ids, LABELS, orders=other)
    assert torch.equal(first[:, :6], second[:, :6])
    assert not torch.equal(first[:, 6], second[:, 6])


def test_the_first_token_knows_its_place_by_sinusoids_alone():
    """The class token has no rotary entry: without sinusoids every first token is predicted alike."""
    for sinusoids in (False, True):
        model = make_arpg(sinusoids=sinusoids)
        ids = make_tokens(model)
        orders = make_orders()
        one, other = (model.logits(ids, LABELS, orders=each)[:, 0] for each in (orders, orders.flip(1)))
        assert torch.equal(one, other) is not sinusoids
        assert set(model.state_dict()) == set(make_arpg().state_dict())


def test_linear_guidance_ends_at_the_full_scale_and_applies_below_one():
    model, settings = make_arpg(), ARPGSampling(cfg_scale=5.0, num_iter=4)
    schedule = make_schedule(model, settings, FixedNoise(orders=make_orders()), LABELS)
    known = list(itertools.accumulate(schedule.sizes))
    assert [guidance_scale(settings, step) for step in schedule] == [1 + 4 * k / 16 for k in known]
    assert known[-1] == 16
    half = ARPGSampling(cfg_scale=0.5, cfg_schedule="constant")
    assert {guidance_scale(half, step) for step in schedule} == {0.5}


def test_guidance_of_one_is_the_conditional_generation_and_of_zero_the_unconditional():
    model = make_arpg().double()
    draw = {"seed": 3, "num_iter": 5, "cfg_schedule": "constant"}
    assert torch.equal(generate(model, LABELS, cfg_scale=1.0, **draw), generate(model, LABELS, **draw))
    assert torch.equal(generate(model, LABELS, cfg_scale=0.0, **draw), generate(model, NOBODY, **draw))


def test_an_image_does_not_depend_on_its_batch():
    model = make_arpg().double()
    sampling = {"num_iter": 5, "cfg_scale": 2.0, "reveal_schedule": "arccos", "top_k": 9}
    together = generate(model, LABELS, seed=3, **sampling)
    assert torch.equal(together[2:], generate(model, LABELS[2:], seed=3, image_ids=[2], **sampling))
    assert not torch.equal(together, generate(model, LABELS, seed=4, **sampling))


def test_loss_trains_every_tensor_and_no_unused_row():
    model = make_arpg(dropout=0.1).train()
    loss = model.loss(make_tokens(model), LABELS, rng=torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters())
    assert model.embeddings.weight.grad[17].any()  # the mask token
    assert not model.embeddings.weight.grad[-1].any()
    assert torch.equal(model.class_rows(LABELS)[:, 0], torch.tensor([18, 22, 20]))


def test_impossible_shapes_and_settings_are_refused():
    for wrong in ({"depth": 3}, {"heads": 3}, {"width": 36, "heads": 6}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ARPGConfig(**(TINY | wrong))
    with pytest.raises(ValueError, match=r"reveal_schedule .*arccos"):
        ARPGSampling(reveal_schedule="arcos")
    with pytest.raises(ValueError, match="ids"):
        make_arpg().logits(torch.zeros(1, 3, 4, dtype=torch.int64), LABELS[:1])
    with pytest.raises(ValueError, match="head_steps"):
        generate(make_arpg(), [0], head_steps=4)


@pytest.mark.parametrize("kv_cache", [True, False])
@pytest.mark.parametrize("sampling", [{"num_iter": 5}, {"num_iter": 5, "cfg_scale": 3.0, "cfg_interval": 1}])
def test_operations_equal_those_that_torch_counts(kv_cache, sampling):
    model = make_arpg(kv_cache=kv_cache).requires_grad_(False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        generate(model, [0, 1], **sampling)
    bound = roofline(model, make_settings(ARPGSampling, sampling), batch_size=2)
    assert bound.flops_per_image * 2 == counter.get_total_flops()


def test_a_file_tells_its_shape_and_a_foreign_one_is_named(tmp_path):
    model, path = make_arpg(), tmp_path / "arpg.safetensors"
    save_file(model.state_dict(), path)
    loaded = load_generator("arpg", weights=path, heads=2, grid=4)
    assert loaded.config == model.config
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(ValueError, match="holds arpg weights, not mar"):
        load_generator("mar", weights=path)
    with pytest.raises(ValueError, match="width 32, not 1024"):
        load_generator("arpg-l", weights=path)


@pytest.mark.parametrize("missing", ["layers.to_k.weight", "layers.cross_dec.1.attn.proj.weight", "embeddings.weight"])
def test_an_incomplete_file_names_what_is_missing(missing, tmp_path):
    state = {name: value for name, value in make_arpg().state_dict().items() if name != missing}
    save_file(state, tmp_path / "arpg.safetensors")
    with pytest.raises(ValueError, match=missing if missing != "embeddings.weight" else "no known family"):
        load_generator("arpg", weights=tmp_path / "arpg.safetensors", heads=2, grid=4)


def test_the_recorded_file_loads_through_the_front_door():
    config = {name: FOLDER.meta["config"][name] for name in ("heads", "grid")}
    loaded = load_generator("arpg", weights=FOLDER.folder / "model.pt", **config)
    assert {name: getattr(loaded.config, name) for name in ("width", "depth", "vocab_size", "num_classes")} == {
        name: FOLDER.meta["config"][name] for name in ("width", "depth", "vocab_size", "num_classes")
    }
