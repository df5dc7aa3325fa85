"""The plan of a training: counted parameters and bytes, and the figures that were published."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import make_generator

from arbench.generators.methods import get_method
from arbench.tokenizer.load import find_tokenizer
from arbench.training.asked import method_job, with_settings
from arbench.training.encoding import encoding_of
from arbench.training.engine import Engine
from arbench.training.forecast import forecast
from arbench.training.jobs import run_job
from arbench.training.plan import GIB, image_flops, plan_training, share_of_peak
from arbench.weights.load import without_memory

IMAGENET_IMAGES = 1_281_167
CPU = torch.device("cpu")
RECOMPUTE, ACCUMULATE = "--recompute keeps fewer activations", "--accumulate makes smaller micro-batches"


def plan(model, method, processes=1, engine=None, **changes):
    config = with_settings(get_method(method).recipe, scale_rate=True, **changes).for_images(IMAGENET_IMAGES)
    return plan_training(model, config, processes, engine or Engine(), {})


def test_mar_l_is_the_published_run():
    known = plan("mar-l", "mar", 16)
    assert known.hours == pytest.approx(35, rel=0.01)  # 1 day 11 hours on 16 H100
    assert (known.parts, known.sharded, known.config.steps) == (32, False, 250_228)
    told = list(known.sentences(CPU))
    assert told[0] == (
        "mar-l, 478 M parameters, 250,228 steps of 2048 = 512,466,944 images (400 epochs), learning rate 0.0008 after "
        "62,557 steps of warm-up, then constant"
    )
    assert told[1] == (
        "16 x 2 micro-batches of 64 images a step (DDP), bfloat16; about 35 hours at 4,064 images/s on 16 H100 "
        "(as published for mar-l: MAR's repository, cached latents)"
    )


def test_images_that_are_encoded_on_the_way_take_the_time_that_was_published_for_it():
    job = method_job("mar", "mar-l")
    encoding = encoding_of(replace(job, config=replace(job.config, cached=False)))
    assert encoding_of(job) is None
    assert encoding.flops == pytest.approx(138e9, rel=0.02)
    config = job.config.for_images(IMAGENET_IMAGES)
    cached, fresh = (plan_training("mar-l", config, 32, Engine(), {}, what) for what in (None, encoding))
    assert fresh.hours == pytest.approx(31, rel=0.01)  # 1 day 7 hours on 32 H100
    assert "4,576 images/s on 32 H100 (as published for mar-l: MAR's repository, images encoded" in fresh.hours_of
    assert fresh.tokenizer == fresh.num_bytes - cached.num_bytes == encoding.weights
    with without_memory():
        assert encoding.weights == 4 * sum(weight.numel() for weight in find_tokenizer("kl16")().parameters())
    assert f"average 1.8 + tokenizer {encoding.weights / GIB:.1f} + activations" in list(fresh.sentences(None))[2]
    smaller = plan_training("mar-b", config, 32, Engine(), {}, encoding)
    further = fresh.hours - cached.hours  # of encoding, whatever the model
    assert smaller.hours == pytest.approx(plan_training("mar-b", config, 32, Engine(), {}).hours + further)
    unknown = replace(encoding, flops=None)
    assert plan_training("mar-l", config, 32, Engine(), {}, unknown).hours is None
    told = " ".join(" ".join(forecast([job], 32, Engine(), {"cached": False}, data=None)).split())
    assert "about 31 hours" in told


@pytest.mark.parametrize(
    ("model", "method", "rate"),
    [
        ("mar-b", "mar", "learning rate 0.0008 after 62,557 steps of warm-up, then constant"),
        ("par-b-4x", "par", "learning rate 0.0001, constant"),
        ("arpg-l", "arpg", "learning rate 0.0004 after 125,114 steps of warm-up, then a cosine to 1e-05"),
    ],
)
def test_the_plan_is_read_on_a_screen_of_80_columns(monkeypatch, model, method, rate):
    monkeypatch.setattr("arbench.training.plan.memory_of", lambda device: 8 * GIB)
    lines = list(plan(model, method, 8).lines(CPU))
    assert max(map(len, lines)) <= 80
    assert all(line.startswith(("plan: ", "      ")) for line in lines)
    assert len([line for line in lines if line.startswith("plan: ")]) == 3
    assert rate in " ".join(" ".join(lines).split())


def test_memory_of_mar_l_is_near_what_was_published():
    """32 GB at batch 64 with activation checkpointing on an A100; the 62 GB without it hold attention matrices too."""
    recomputed = plan("mar-l", "mar", 32, Engine(recompute=True)).num_bytes
    assert recomputed == pytest.approx(32e9, rel=0.2)
    assert 1.3 * recomputed < plan("mar-l", "mar", 32).num_bytes < 62e9


@pytest.mark.parametrize(("model", "method"), [("ar-3b", "ar"), ("mar-h", "mar")])
def test_weights_of_large_models_by_their_parameters(model, method):
    alone, shared = plan(model, method), plan(model, method, 8, Engine(shard=True))
    copies = 5 if get_method(method).recipe.ema_rate else 4
    assert alone.num_bytes - alone.activations == copies * 4 * alone.parameters
    assert 8 * shared.weights == pytest.approx(4 * alone.parameters, rel=0.01)
    assert plan(model, method, 8).sharded == (alone.parameters >= 1e9)


def test_what_does_not_fit_is_said(monkeypatch):
    monkeypatch.setattr("arbench.training.plan.memory_of", lambda device: 8 * GIB)
    assert "does not fit into 8 GiB; --recompute" in list(plan("mar-b", "mar").sentences(CPU))[2]
    monkeypatch.setattr("arbench.training.plan.memory_of", lambda device: 800 * GIB)
    assert "fits into 800 GiB" in list(plan("mar-b", "mar").sentences(CPU))[2]


def test_remedies_are_those_that_help():
    shared, turns = Engine(shard=True), {"micro_batches": 32}
    assert plan("ar-3b", "ar", 8).remedies == (RECOMPUTE, ACCUMULATE)
    assert plan("ar-3b", "ar", 8, Engine(recompute=True)).remedies == ()  # whole gradients would outweigh it
    accumulated = plan("ar-3b", "ar", 8, Engine(recompute=True), **turns)
    assert accumulated.remedies == (ACCUMULATE, "--accumulate 1 keeps a share of the gradients rather than all")
    assert accumulated.gradients == 4 * accumulated.parameters
    assert accumulated.num_bytes - plan("ar-3b", "ar", 8, Engine(recompute=True)).num_bytes > 6 * GIB
    assert plan("ar-b", "ar", 8, shared).remedies == (RECOMPUTE, ACCUMULATE)
    assert plan("ar-b", "ar", 8).remedies[2] == "--shard shares weights among processes"
    assert plan("ar-b", "ar", 1).remedies == (RECOMPUTE, ACCUMULATE)
    assert plan("ar-b", "ar", 1, batch_size=1).remedies == (RECOMPUTE,)


def test_a_plan_for_elsewhere_names_the_cards_that_hold_it():
    def told(size):
        *_, last = replace(known, weights=0, gradients=0, average=0, activations=size * 10**9).lines(None)
        return last

    known = plan("ar-b", "ar", 8)
    assert told(40) == "plan: fits A100 40 GB, A100 80 GB, H100 80 GB, H200 141 GB"
    assert told(41) == "plan: fits A100 80 GB, H100 80 GB, H200 141 GB"
    assert told(141) == "plan: fits H200 141 GB"
    assert (
        "fits none of A100 40 GB, A100 80 GB, H100 80 GB, H200 141 GB; --recompute"
        in list(replace(known, activations=142 * 10**9).sentences(None))[-1]
    )
    assert list(replace(known, activations=None).sentences(None))[-1] == "fits: not known"
    assert not any("A100" in sentence for sentence in known.sentences(CPU))


def test_a_changed_batch_keeps_epochs_and_scales_the_rate_and_says_so():
    said = []
    config = with_settings(get_method("mar").recipe, scale_rate=True, say=said.append, batch_size=256)
    assert (config.epochs, config.learning_rate) == (400, pytest.approx(1e-4))
    assert said == ["batch_size 2048 -> 256: the learning rate follows, 0.0008 -> 0.0001, and epochs stay epochs"]


def test_the_plan_comes_before_anything_is_looked_for(tmp_path):
    said = []
    job = method_job("mar", "mar-b", data="digits", tokenizer_weights=str(tmp_path / "absent.ckpt"))
    with pytest.raises((ValueError, OSError)):
        run_job(job, tmp_path, say=said.append)
    assert said[0].startswith("plan: mar-b, ")
    few = method_job("mar", "mar-b", data="digits", model_config={"num_classes": 3})
    with pytest.raises(ValueError, match="num_classes 3: digits has 10; expected at least as many"):
        run_job(few, tmp_path)


def test_mfu_is_of_the_counted_operations_and_the_data_sheet(monkeypatch):
    model = make_generator("ar-raster")
    device, sheet = torch.device("cuda"), {"name": "NVIDIA H100 80GB HBM3"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(**sheet))
    per_image = image_flops("ar", model.config)
    assert share_of_peak(model, "bfloat16", 4, device) == pytest.approx(per_image / (4 * 989.4e12))
    assert share_of_peak(model, "float32", 1, device) == pytest.approx(per_image / 494.7e12)
    assert share_of_peak(model, "bfloat16", 1, CPU) is None
    assert share_of_peak(torch.nn.Linear(1, 1), "bfloat16", 1, device) is None
    sheet["name"] = "of a maker that is not in the table"
    assert share_of_peak(model, "bfloat16", 1, device) is None
