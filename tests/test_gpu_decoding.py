"""On a GPU: images decoded beside the next batch are the same, recorded or not; the precisions of `--dtype auto`."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from conftest import relative_error
from tiny_runs import TINY_MASKED, images_of

from arbench.machine.fused import EngineWarning
from arbench.machine.precision import Precision, set_precision
from arbench.machine.streams import Fetched, Side
from arbench.machine.timing import PhaseTimer
from arbench.machine.transfer import sent
from arbench.runs.decoding import Decoder
from arbench.runs.execute import run
from arbench.runs.models import load_parts
from arbench.runs.pipeline import Pipeline
from arbench.sampling.algorithm import generate
from arbench.sampling.engine import Replays, make_engine
from arbench.tokenizer.load import load_tokenizer
from arbench.weights.load import load_generator

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda", 0)
FEW = {"num_iter": 3, "head_steps": 3}
MAR_B = {**TINY_MASKED, "head_depth": 1, "head_width": 16}  # its tokens and tokenizer, and next to no weights
# Random weights predict no noise: three whole steps from the last timestep would multiply it beyond what float16 holds.
TAME = {**FEW, "head_sampler": "ddpm-trimmed"}


@pytest.fixture(autouse=True)
def no_unseen_fallback():
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineWarning)
        yield


def test_copies_there_and_back_are_whole():
    values = torch.arange(1 << 20).view(1024, -1)
    side, there = Side(GPU), sent(values, GPU)
    with side.after(there):
        fetched = Fetched(there * 2)
    assert np.array_equal(fetched.numpy(), values.numpy() * 2)


@pytest.mark.parametrize("name", ["digits-kl", "digits-vq", "kl16", "llamagen-vq"])
def test_a_recorded_decoder_decodes_each_batch_anew(name):
    tokenizer = load_tokenizer(name, device=GPU)
    side, rng = Side(GPU), torch.Generator().manual_seed(0)
    recorded = Decoder(tokenizer, None, side, Replays(GPU))
    for _ in range(4):  # called, recorded, replayed, replayed
        if tokenizer.kind == "discrete":
            tokens = torch.randint(tokenizer.vocab_size, (5, 8, 8), generator=rng).to(GPU)
        else:
            tokens = torch.randn(5, tokenizer.channels, 8, 8, generator=rng).to(GPU)
        expected = Decoder(tokenizer, None, side, None).start(tokens, PhaseTimer(GPU)).images()
        found = recorded.start(tokens, PhaseTimer(GPU)).images()
        assert np.abs(found.astype(int) - expected).max() <= 1  # a convolution may choose another kernel
        assert len(np.unique(expected)) > 2


def test_a_decoder_that_waits_is_not_recorded_and_the_device_draws_on(monkeypatch):
    tokenizer = load_tokenizer("digits-kl", device=GPU)
    decode, side = tokenizer.decode, Side(GPU)
    monkeypatch.setattr(tokenizer, "decode", lambda tokens: decode(tokens * bool(tokens.isfinite().all())))
    decoder, tokens = Decoder(tokenizer, None, side, Replays(GPU)), torch.ones(5, tokenizer.channels, 8, 8, device=GPU)
    with pytest.warns(EngineWarning, match="it waits for the device") as told:
        found = [decoder.start(tokens * number, PhaseTimer(GPU)).images() for number in range(3)]
    assert len(told) == 1
    expected = [Decoder(tokenizer, None, side, None).start(tokens * number, PhaseTimer(GPU)) for number in range(3)]
    assert all(np.array_equal(images, one.images()) for images, one in zip(found, expected, strict=True))
    assert torch.cuda.get_sync_debug_mode() == 0
    assert torch.randn(3, device=GPU).isfinite().all()


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("method", ["ar", "mar"])
def test_images_decoded_beside_the_next_batch_are_those_decoded_in_turn(method, engine, tmp_path, monkeypatch):
    given = {"method": method, "num_images": 330, "batch_size": 64, "evaluate": False, "device": "cuda"}
    beside = run(**given, engine=engine, out=tmp_path / "beside")
    monkeypatch.setattr(Side, "runs_beside", False)
    in_turn = run(**given, engine=engine, out=tmp_path / "in_turn")
    assert np.array_equal(images_of(beside.folder), images_of(in_turn.folder))
    assert "overlaps" in beside["speed"]
    assert "overlaps" not in in_turn["speed"]
    assert all(seconds > 0 for seconds in beside["speed"]["phases"].values())
    print(method, engine, *(f"{1e3 * one['speed']['seconds_per_image']:.3f} ms an image" for one in (beside, in_turn)))


def test_features_on_the_fly_are_those_of_afterwards(tmp_path):
    given = {"method": "ar", "num_images": 330, "batch_size": 64, "device": "cuda"}
    now, later = run(**given, on_the_fly=True, out=tmp_path / "now"), run(**given, out=tmp_path / "later")
    assert now["metrics"]["fid"] == pytest.approx(later["metrics"]["fid"], rel=1e-6)


@pytest.mark.parametrize("name", ["mixed-float16", "mixed-bfloat16"])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_mixed_latents_are_those_of_float32_but_for_rounding(name, engine):
    exact, mixed = (load_generator("mar-digits", device=GPU) for _ in range(2))
    set_precision(mixed, Precision.of(name))
    found = generate(mixed, [3, 7], seed=1, engine=engine, **FEW)
    assert found.dtype == torch.float32
    error = relative_error(found, generate(exact, [3, 7], seed=1, **FEW))
    print(f"{name}, {engine}: {error:.4f}")
    assert error < {"mixed-float16": 0.05, "mixed-bfloat16": 0.3}[name]  # 5e-4 and 4e-3 a rounding, then enlarged


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("decode_dtype", ["float32", "bfloat16"])
def test_auto_draws_mar_as_its_release_does(engine, decode_dtype):
    given = {"weights": "random", "tokenizer_weights": "random", "decode_dtype": decode_dtype, "sampling": TAME}
    parts = load_parts("mar", "mar-b", device=GPU, config=MAR_B, **given)
    assert parts.precision.name == "mixed-float16"
    pipeline = Pipeline(
        generator=parts.generator,
        tokenizer=parts.tokenizer,
        labels=np.arange(12),
        settings=parts.settings,
        seed=0,
        device=GPU,
        engine=make_engine(engine, parts.generator),
    )
    batches = [pipeline.start(range(first, first + 4), PhaseTimer(GPU)) for first in (0, 4, 8)]
    images = [batch.images() for batch in batches]
    assert {batch.shape for batch in images} == {(4, 256, 256, 3)}
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize(("method", "what"), [("mar", "latents"), ("ar", "what the codes are drawn from")])
def test_what_is_not_finite_is_told_when_the_images_are_asked_for(method, what):
    parts = load_parts(method, device=GPU)
    for parameter in parts.generator.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    pipeline = Pipeline(
        generator=parts.generator,
        tokenizer=parts.tokenizer,
        labels=np.arange(4),
        settings=parts.settings,
        seed=0,
        device=GPU,
    )
    drawing = pipeline.start(range(4), PhaseTimer(GPU))
    with pytest.raises(ValueError, match=f"{what}: .* are not finite"):
        drawing.images()
