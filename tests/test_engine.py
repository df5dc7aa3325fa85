"""The graph engine draws what the eager one draws: emulated on a CPU, where a replay is a call on the same buffers."""

from __future__ import annotations

import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_generator, relative_error

from arbench.generators.arpg.config import ARPGConfig
from arbench.generators.arpg.model import ARPG
from arbench.generators.common.causal import buckets
from arbench.machine.fused import EngineWarning, limited_compilations
from arbench.runs.execute import run
from arbench.sampling.algorithm import draw_tokens, generate
from arbench.sampling.engine import Engine, Replays, engine_name, make_engine
from arbench.settings import resolve_settings
from arbench.weights.load import load_generator

GRID = 8  # 64 tokens: four buckets
CELLS = [
    ("ar-raster", "categorical", {"cfg_scale": 2.0, "top_k": 9, "top_p": 0.9, "temperature": 0.8}),
    ("ar-raster", "categorical", {"cfg_scale": 2.0, "cfg_interval": 20}),
    ("ar-random", "diffusion", {"cfg_scale": 2.0, "head_steps": 3}),
    ("par", "categorical", {"cfg_scale": 2.0, "cfg_interval": 8}),
    ("par", "categorical", {"temperature": 0.0}),
    ("mar", "diffusion", {"cfg_scale": 2.0, "cfg_schedule": "linear", "num_iter": 9, "head_steps": 4}),
    ("mar", "diffusion", {"cfg_scale": 2.0, "num_iter": 20, "head_steps": 12, "head_sampler": "disa"}),
    ("mar", "categorical", {"cfg_scale": 2.0, "num_iter": 9, "reveal_order": "checkerboard"}),
    ("arpg", "categorical", {"cfg_scale": 2.0, "num_iter": 9}),
]


def make(name, head="categorical", **changes):
    if name != "arpg":
        return make_generator(name, head, grid=GRID, **changes).double()
    torch.manual_seed(0)
    generator = ARPG(ARPGConfig(width=32, depth=4, heads=2, num_classes=5, grid=GRID, vocab_size=17, **changes))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return generator.double().eval()


class Recorded(Replays):
    """Tells what would have been replayed."""

    def __init__(self, device):
        super().__init__(device)
        self.replayed, self.called = [], []

    def __call__(self, key, call):
        (self.replayed if key in self._calls else self.called).append(key)
        return super().__call__(key, call)


class Watched(Engine):
    def make_replays(self, device):
        return Recorded(device)


@pytest.mark.parametrize(("name", "head", "sampling"), CELLS)
def test_batch_after_batch_is_what_the_eager_engine_draws(name, head, sampling):
    generator, engine = make(name, head), Watched()
    settings = resolve_settings(generator, sampling)
    for ids in ([0, 1, 2], [7, 5, 9], [3, 4, 6]):
        labels = torch.tensor([1, 3, 0]) if ids[0] else torch.tensor([2, 2, 4])
        given = {"settings": settings, "seed": 4, "image_ids": ids}
        found = draw_tokens(generator, labels, engine=engine, **given)
        expected = draw_tokens(generator, labels, **given)
        if generator.kind == "discrete":
            assert torch.equal(found, expected)
        else:
            assert relative_error(found, expected) < 1e-9  # float64; masked places and tensor scales re-associate
        assert settings.temperature == 0 or len({tuple(image.flatten().tolist()) for image in found}) == 3
    replays = engine.replays
    assert len(replays.called) == len(set(replays.called))
    assert len(replays.replayed) >= 2 * len(replays.called)


def test_heads_of_odd_width_are_padded_and_draw_the_same():
    generator, engine = make("par", width=24, heads=2), Watched()  # 12 channels a head, as the 3B models have 100
    settings = resolve_settings(generator, {"cfg_scale": 2.0})
    state = generator.begin(torch.tensor([1, 2]), True, torch.arange(64).expand(2, -1), static=True)
    assert state.cache._buffer.shape[-1] == 16
    for ids in ([0, 1], [4, 2]):
        given = {"settings": settings, "image_ids": ids}
        assert torch.equal(draw_tokens(generator, ids, engine=engine, **given), draw_tokens(generator, ids, **given))


def test_what_a_replay_returned_is_not_read_after_the_next():
    generator = make("par")

    class Overwriting(Replays):
        before: tuple = ()

        def __call__(self, key, call):
            returned = super().__call__(key, call)
            for tensor in self.before:
                tensor.fill_(-1 if tensor.dtype == torch.int64 else torch.nan)
            self.before = tuple(x for x in (returned if isinstance(returned, tuple) else (returned,)) if x is not None)
            return returned

    class OverwritingEngine(Engine):
        def make_replays(self, device):
            return Overwriting(device)

    settings, engine = resolve_settings(generator, {"cfg_scale": 2.0}), OverwritingEngine()
    for _ in range(2):
        found = draw_tokens(generator, [1, 2], settings=settings, engine=engine)
    assert torch.equal(found, draw_tokens(generator, [1, 2], settings=settings))


@pytest.mark.parametrize("name", ["arpg", "mar"])
def test_a_step_whose_recording_failed_is_called_again(name):
    generator = make(name)

    class Twice(Replays):
        def _call(self, key):
            super()._call(key)  # as far as the recording came
            return super()._call(key)

    class TwiceEngine(Engine):
        def make_replays(self, device):
            return Twice(device)

    settings, engine = resolve_settings(generator, {"cfg_scale": 2.0, "num_iter": 9}), TwiceEngine()
    for _ in range(2):
        found = draw_tokens(generator, [1, 2], settings=settings, engine=engine)
    assert torch.equal(found, draw_tokens(generator, [1, 2], settings=settings))


def test_causal_steps_share_a_few_recordings():
    generator, engine = make("ar-raster"), Watched()
    settings = resolve_settings(generator, {"cfg_scale": 2.0})
    draw_tokens(generator, [0, 1], settings=settings, engine=engine)
    kinds = [key for key in engine.replays.called if key[0] == "conditions"]
    assert len(kinds) == 1 + len(buckets(64)) == 5  # the class token, and a bucket each
    assert len(engine.replays.replayed) == 2 * 64 - len(engine.replays.called)


def test_buckets_are_few_and_end_with_the_capacity():
    for capacity in (1, 16, 17, 64, 256, 576, 1024):
        lengths = buckets(capacity)
        assert lengths[-1] == capacity
        assert len(lengths) <= 6
        assert lengths == sorted(set(lengths))
    assert buckets(576) == [96, 192, 288, 384, 480, 576]


def test_causal_groups_stay_causal_on_a_static_cache():
    generator = make("par", group_attention=False)
    assert torch.equal(generate(generator, [1, 2], seed=2, engine="graph"), generate(generator, [1, 2], seed=2))


@pytest.mark.parametrize("name", ["par", "arpg"])
def test_without_a_cache_too(name):
    generator = make(name, kv_cache=False)
    settings, engine = resolve_settings(generator, {}), Engine()
    for ids in ([0, 1], [4, 9]):
        found = draw_tokens(generator, [1, 2], settings=settings, image_ids=ids, engine=engine)
        assert torch.equal(found, draw_tokens(generator, [1, 2], settings=settings, image_ids=ids))


def test_another_batch_seed_or_setting_is_recorded_anew():
    generator, engine = make("par"), Watched()
    for labels, seed, scale in (([0, 1], 0, 2.0), ([0], 0, 2.0), ([0], 1, 2.0), ([0], 1, 1.5)):
        settings, before = resolve_settings(generator, {"cfg_scale": scale}), engine.replays
        found = draw_tokens(generator, labels, settings=settings, seed=seed, engine=engine)
        assert torch.equal(found, draw_tokens(generator, labels, settings=settings, seed=seed))
        assert engine.replays is not before


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("par", "output"),
        ("par", "layers.1.feed_forward.w3"),
        ("arpg", "layers.self_dec.1.attn.to_v"),
        ("arpg", "layers.cross_dec.0.ffn.w3"),
        ("arpg", "layers.to_k"),
        ("mar", "diffloss.net.res_blocks.1.adaLN_modulation.1"),
        ("mar", "diffloss.net.time_embed.mlp.2"),
    ],
)
def test_new_weights_are_seen(method, name):
    generator, engine = make(method, "diffusion" if method == "mar" else "categorical"), Engine()
    settings = resolve_settings(generator, {"num_iter": 3, "head_steps": 3} if method == "mar" else {})
    first = draw_tokens(generator, [0, 1], settings=settings, engine=engine)
    with torch.no_grad():
        generator.get_submodule(name).weight.mul_(-1)
    found = draw_tokens(generator, [0, 1], settings=settings, engine=engine)
    assert not torch.equal(found, first)
    expected = draw_tokens(generator, [0, 1], settings=settings)
    assert relative_error(found.double(), expected.double()) < 1e-9  # codes are the same, latents in float64


@pytest.mark.parametrize("name", ["ar-digits", "par-digits", "mar-digits", "arpg-digits"])
def test_the_shipped_models_draw_the_same(name):
    generator = load_generator(name)
    found, expected = (generate(generator, [3, 7], seed=3, engine=engine) for engine in ("graph", "eager"))
    if generator.kind == "discrete":
        assert torch.equal(found, expected)
    else:
        assert relative_error(found, expected) < 1e-4  # float32


def test_auto_is_the_graph_engine_in_long_runs_on_cuda(monkeypatch):
    generator = make_generator("par")
    assert engine_name("auto", generator, 10**6) == "eager"  # on a CPU
    monkeypatch.setattr(generator, "parameters", lambda: iter([SimpleNamespace(is_cuda=True)]))
    assert [engine_name("auto", generator, batches) for batches in (1, 31, 32)] == ["eager", "eager", "graph"]
    assert engine_name("eager", generator, 10**6) == "eager"


def test_engines_by_name():
    generator = make_generator("par")
    assert make_engine("auto", generator) is None
    assert make_engine("eager", generator) is None
    assert make_engine("graph", generator) is not None
    with pytest.raises(ValueError, match="did you mean 'graph'"):
        make_engine("grpah", generator)
    with pytest.warns(EngineWarning, match="'dit' has no static steps, eager instead"):
        assert make_engine("graph", load_generator("dit-digits")) is None


def assert_compiled_draws_the_same(backend, generator, labels, settings, tolerance):
    """With regions compiled by `backend` as without, in a first batch and in one that replays it."""

    class CompilingEngine(Engine):
        def make_replays(self, device):
            return Replays(device, backend)

    torch._dynamo.reset()
    engine = CompilingEngine()
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineWarning)
        found = [draw_tokens(generator, labels, settings=settings, engine=engine) for _ in range(2)]
    expected = draw_tokens(generator, labels, settings=settings)
    assert relative_error(found[0].double(), expected.double()) < tolerance
    assert torch.equal(found[0], found[1])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "head", "sampling"), CELLS)
def test_compiled_regions_give_the_same(name, head, sampling):
    generator = make(name, head)
    settings = resolve_settings(generator, sampling)

    assert_compiled_draws_the_same("aot_eager", generator, [0, 1], settings, 1e-9)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler here")
@pytest.mark.parametrize("name", ["ar-digits", "par-digits", "mar-digits", "arpg-digits"])
def test_regions_compiled_to_kernels_draw_the_same(name):
    generator = load_generator(name)
    few = {"num_iter": 3, "head_steps": 3} if name == "mar-digits" else {}
    settings = resolve_settings(generator, few)

    assert_compiled_draws_the_same("inductor", generator, [3, 7], settings, 1e-4)  # float32; codes are equal then


STEPS = [cell for cell in CELLS if cell[0] != "ar-random"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "head", "sampling"), STEPS)
def test_every_step_compiles_whole_and_once(name, head, sampling):
    generator = make(name, head)
    settings = resolve_settings(generator, sampling)

    class Compiling(Replays):
        def __call__(self, key, call):
            return super().__call__(key, torch.compile(call, fullgraph=True, backend="aot_eager"))

    class CompilingEngine(Engine):
        def make_replays(self, device):
            return Compiling(device)

    torch._dynamo.reset()
    engine = CompilingEngine()
    with limited_compilations(256, 4096):
        first = draw_tokens(generator, [0, 1], settings=settings, engine=engine)
        with torch._dynamo.config.patch(error_on_recompile=True):
            again = draw_tokens(generator, [0, 1], settings=settings, engine=engine)
    expected = draw_tokens(generator, [0, 1], settings=settings)
    assert relative_error(first.double(), expected.double()) < 1e-9
    assert torch.equal(first, again)


def test_a_run_names_its_engine_and_keeps_its_folder(tmp_path):
    given = {"method": "par", "num_images": 2, "evaluate": False, "batch_size": 2}
    plain = run(**given, out=tmp_path / "a")
    graph = run(**given, out=tmp_path / "b", engine="graph")
    assert (plain["hardware"]["engine"], graph["hardware"]["engine"]) == ("eager", "graph")
    assert plain.folder.name == graph.folder.name
    first, second = (np.load(next(folder.glob("shards/*.npy"))) for folder in (plain.folder, graph.folder))
    assert np.array_equal(first, second)
    with pytest.raises(ValueError, match="did you mean 'eager'"):
        run(**given, out=tmp_path / "c", engine="egaer")
