"""What a GPU computes is what the CPU computes, and what graphs replay is what the eager engine draws.

`scripts/gpu_bench.sh` runs these first.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from conftest import Parity, relative_error
from test_engine import CELLS, make
from test_generators import AR_FOLDERS, GENERATION_ERROR, MAR_FOLDERS, PARITY_ERROR, load_ar, load_mar

from arbench.machine.fused import EngineWarning
from arbench.machine.hardware import exact_float32
from arbench.runs.execute import run
from arbench.sampling.algorithm import draw_tokens, generate
from arbench.sampling.engine import Engine
from arbench.sampling.noise import FixedNoise, ImageNoise
from arbench.settings import resolve_settings
from arbench.weights.load import load_generator

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
SHIPPED = ("ar-digits", "par-digits", "arpg-digits", "mar-digits", "dit-digits")
NUM_IMAGES = 64
# Codes of two devices part where a rounding crosses the boundary of a draw, and all codes of that image after it.
EQUAL_SHARE = 0.95


@pytest.fixture(autouse=True)
def exactly():
    """No TF32, and no fallback that goes by unseen."""
    with exact_float32(GPU), warnings.catch_warnings():
        warnings.simplefilter("error", EngineWarning)
        yield


def same_share(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The share of images with the same codes; of latents those within rounding."""
    found, expected = found.cpu().flatten(1), expected.cpu().flatten(1)
    if expected.dtype == torch.int64:
        return float((found == expected).all(1).float().mean())
    return float(((found - expected).abs().amax(1) < 1e-3 * expected.abs().amax()).float().mean())


def test_random_numbers_are_the_cpus_bit_for_bit():
    ids, places = torch.arange(40), torch.arange(64).expand(40, -1)
    here, there = ImageNoise(2**40 + 3, ids), ImageNoise(2**40 + 3, ids.to(GPU))
    assert torch.equal(here.orders(64), there.orders(64).cpu())
    assert torch.equal(here.uniform(places), there.uniform(places.to(GPU)).cpu())
    pairs = zip(here.gaussians(20, places, 16), there.gaussians(20, places.to(GPU), 16), strict=True)
    differing = sum(int((first != second.cpu()).sum()) for first, second in pairs)
    assert differing == 0


@pytest.mark.parametrize("name", AR_FOLDERS)
def test_causal_parity_in_float32(name):
    folder = Parity(name)
    model, expected = load_ar(folder).to(GPU), folder.expected
    ids = expected["ids"][:, model.order.cpu().argsort()].unflatten(1, model.grid).to(GPU)
    logits = model.logits(ids, expected["labels"].to(GPU))
    assert relative_error(logits.cpu(), expected["logits"]) < PARITY_ERROR
    for engine in ("eager", "graph"):
        given = {"temperature": 0.0, "cfg_scale": 2.0, "engine": engine}
        assert torch.equal(generate(model, expected["labels"], **given).cpu(), generate_here(folder, **given))


def generate_here(folder, **given):
    return generate(load_ar(folder), folder.expected["labels"], **given)


@pytest.mark.parametrize("name", MAR_FOLDERS)
def test_masked_parity_in_float32(name):
    folder = Parity(name)
    model, expected = load_mar(folder).to(GPU), folder.expected
    z = model.condition(*(expected[part].to(GPU) for part in ("latents", "mask", "labels")))
    assert relative_error(z.cpu(), expected["z"]) < PARITY_ERROR
    settings = dict(folder.meta["runs"]["gen_cfg_linear"])
    settings.pop("std")
    settings["cfg_scale"] = settings.pop("cfg")
    tape = {part: expected[f"gen_cfg_linear.{name}"] for part, name in (("orders", "orders"), ("gaussian", "noise"))}
    latents = generate(model, expected["labels"], noise=FixedNoise(**tape), **settings)
    assert relative_error(latents.cpu(), expected["gen_cfg_linear.latents"]) < GENERATION_ERROR


@pytest.mark.parametrize(("name", "head", "sampling"), CELLS)
def test_batch_after_batch_the_graph_draws_what_the_eager_engine_draws(name, head, sampling):
    generator, engine = make(name, head).to(GPU), Engine()
    settings = resolve_settings(generator, sampling)
    for ids in ([0, 1, 2], [7, 5, 9], [3, 4, 6]):
        given = {"settings": settings, "seed": 4, "image_ids": ids}
        found = draw_tokens(generator, [1, 3, 0], engine=engine, **given)
        expected = draw_tokens(generator, [1, 3, 0], **given)
        if generator.kind == "discrete":
            assert torch.equal(found, expected)
        else:
            assert relative_error(found, expected) < 1e-9  # float64


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_shipped_models_draw_the_cpus_images(name, engine):
    if name == "dit-digits" and engine == "graph":
        pytest.skip("DiT has no static steps")
    labels = [index % 10 for index in range(NUM_IMAGES)]
    here, there = load_generator(name), load_generator(name, device=GPU)
    found, expected = (generate(one, labels, seed=3, engine=which) for one, which in ((there, engine), (here, "eager")))
    share = same_share(found, expected)
    print(f"{name}, {engine}: {share:.3f} of the images are the CPU's")
    assert share >= EQUAL_SHARE


def test_a_run_on_the_gpu(tmp_path):
    given = {"method": "ar", "num_images": 70, "batch_size": 32, "device": "cuda", "dtype": "float32"}
    first = run(**given, out=tmp_path / "a", engine="graph")
    second = run(**given, out=tmp_path / "b", engine="eager")
    here = run(**{**given, "device": "cpu"}, out=tmp_path / "c")
    assert first["hardware"]["device"] == "cuda"
    runs = (first, second, here)
    images = [np.concatenate([np.load(p) for p in sorted(r.folder.glob("shards/*.npy"))]) for r in runs]
    equal = [(images[0] == other).all((1, 2, 3)).mean() for other in images[1:]]
    print(f"graph equals eager in {equal[0]:.3f}, the CPU in {equal[1]:.3f} of the images to the last pixel value")
    for other in images[1:]:
        assert (np.abs(images[0].astype(int) - other).max((1, 2, 3)) <= 1).mean() >= EQUAL_SHARE
    assert first["metrics"]["fid"] == pytest.approx(here["metrics"]["fid"], rel=0.02)


def test_a_batch_that_does_not_fit_is_halved_and_the_images_stay(tmp_path):
    given = {"method": "ar", "num_images": 4096, "device": "cuda", "dtype": "float32", "evaluate": False}
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction(0.5 * 2**30 / total)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = run(**given, batch_size=4096, out=tmp_path / "a")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    print("batches", small["speed"]["batch_sizes"])
    assert min(small["speed"]["batch_sizes"]) < 4096
