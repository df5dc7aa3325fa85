"""What graphs keep goes with its owner at once, not when Python next collects its cycles."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_generator
from tiny_runs import TINY_GPT, tiny

from arbench.runs import execute
from arbench.runs.models import load_parts
from arbench.runs.pipeline import Pipeline, draw_fitting
from arbench.sampling.algorithm import NoTimer, draw_tokens
from arbench.sampling.engine import Engine, make_engine
from arbench.settings import resolve_settings

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def uncollected():
    gc.disable()
    yield
    gc.enable()


def kept_by(engine: Engine) -> list[weakref.ref]:
    """The replays, what they draw from, and a tensor of its state."""
    generator = engine._generator
    parts = (generator, generator._state, generator._state.tokens, generator._head, engine._noise, engine.replays)
    return [weakref.ref(part) for part in parts]


def num_alive(kept: list[weakref.ref]) -> int:
    return sum(one() is not None for one in kept)


@pytest.mark.parametrize(("name", "head"), [("ar-raster", "categorical"), ("mar", "diffusion")])
def test_old_graphs_are_freed_by_new_ones_and_with_their_engine(name, head):
    generator, engine = make_generator(name, head), Engine()
    settings = resolve_settings(generator, {"head_steps": 2} if head == "diffusion" else {})
    draw_tokens(generator, [1, 2], settings=settings, engine=engine)
    before = kept_by(engine)
    assert num_alive(before) == len(before)
    draw_tokens(generator, [1, 2, 3], settings=settings, engine=engine)
    assert num_alive(before) == 0
    last = kept_by(engine)
    del engine
    assert num_alive(last) == 0


def test_the_graphs_of_a_batch_that_did_not_fit_are_freed_before_half_of_it_is_tried(monkeypatch):
    parts = load_parts("par", weights="random", tokenizer_weights="random", device=CPU, config=TINY_GPT)
    decode, kept, alive = parts.tokenizer.decode, [], []

    def scarce(tokens):
        alive.append(num_alive(kept))
        kept.extend([*kept_by(pipeline.engine), weakref.ref(pipeline.decoder), weakref.ref(pipeline.decoder._replays)])
        if len(tokens) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(tokens)

    monkeypatch.setattr(parts.tokenizer, "decode", scarce)
    given = {"labels": np.zeros(32, np.int64), "settings": parts.settings, "seed": 0, "device": CPU}
    pipeline = Pipeline(generator=parts.generator, tokenizer=parts.tokenizer, engine=Engine(), **given)
    assert draw_fitting(pipeline, range(32), 32, NoTimer)[1] == 8
    assert alive == [0, 0, 0]  # when 32, 16 and 8 were decoded


def test_a_run_leaves_nothing_of_its_graphs(tmp_path, monkeypatch):
    engines, replays = [], []

    class Noted(Engine):
        def make_replays(self, device):
            made = super().make_replays(device)
            replays.append(weakref.ref(made))
            return made

    def noted(name, generator, batches):
        assert make_engine(name, generator, batches) is not None
        engine = Noted()
        engines.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(execute, "make_engine", noted)
    execute.run(**tiny(num_images=2, batch_size=2), engine="graph", out=tmp_path)
    assert len(replays) == 2  # of drawing and of decoding
    assert num_alive(engines + replays) == 0


def test_an_engine_that_ran_out_of_memory_begins_anew():
    class Scarce(Engine):
        def make_replays(self, device):
            if room.images < 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().make_replays(device)

    room, generator, engine = SimpleNamespace(images=3), make_generator("par"), Scarce()
    settings = resolve_settings(generator, {})
    first = draw_tokens(generator, [1, 2], settings=settings, engine=engine)
    room.images = 2
    with pytest.raises(torch.OutOfMemoryError):
        draw_tokens(generator, [1, 2, 3], settings=settings, engine=engine)
    room.images = 3
    assert torch.equal(draw_tokens(generator, [1, 2], settings=settings, engine=engine), first)
