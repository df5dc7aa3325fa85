"""Decoding beside the drawing of the next batch, on a machine where nothing runs beside: order, checks and images."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_runs import images_of, only_run, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from arbench.images.pixels import FiniteChecks, to_uint8
from arbench.machine.streams import Fetched, Side
from arbench.machine.timing import PhaseTimer
from arbench.machine.transfer import sent
from arbench.report.record import load_record
from arbench.runs.decoding import Decoder
from arbench.runs.execute import run
from arbench.runs.models import in_dtype, load_parts
from arbench.runs.pipeline import Drawing, Pipeline, draw_fitting
from arbench.sampling.algorithm import NoTimer
from arbench.sampling.engine import Engine, Replays
from arbench.tokenizer.load import load_tokenizer

CPU = torch.device("cpu")


class Late(Side):
    """Says that it runs beside the main stream, which a CPU has none of."""

    runs_beside = True


@pytest.fixture
def beside(monkeypatch):
    """Every pipeline decodes as on a device with streams; what happens is told in order."""
    told = []
    monkeypatch.setattr("arbench.runs.pipeline.Side", Late)
    start, images = Pipeline.start, Drawing.images

    def started(self, image_ids, *rest):
        told.append(("start", image_ids[0]))
        return start(self, image_ids, *rest)

    def taken(self):
        told.append(("take", self.image_ids[0]))
        return images(self)

    monkeypatch.setattr(Pipeline, "start", started)
    monkeypatch.setattr(Drawing, "images", taken)
    return told


def test_a_batch_is_taken_in_once_the_next_one_is_under_way(tmp_path, beside):
    run(**tiny(num_images=10, batch_size=4), out=tmp_path)
    drawn = beside[2:]  # behind the warm-up
    assert drawn == [("start", 0), ("start", 4), ("take", 0), ("start", 8), ("take", 4), ("take", 8)]


def test_images_and_batches_are_those_of_a_device_without_streams(tmp_path, request):
    given = tiny("mar", num_images=70, batch_size=32)
    plain = run(**given, out=tmp_path / "plain")
    request.getfixturevalue("beside")
    late = run(**given, out=tmp_path / "late")
    assert np.array_equal(images_of(plain.folder), images_of(late.folder))
    assert plain["speed"]["batch_sizes"] == late["speed"]["batch_sizes"] == [32]
    assert "overlaps" not in plain["speed"]
    assert "add up to more" in late["speed"]["overlaps"]


def test_seconds_of_overlapping_batches_add_up_to_the_clock(tmp_path, beside, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("arbench.runs.pipeline.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    record = run(**tiny(num_images=12, batch_size=4), out=tmp_path)
    # Begun at 0, 1 and 3, there at 2, 4 and 5.
    assert record["speed"]["seconds_per_image"] * 12 == pytest.approx(5)


@pytest.mark.parametrize("late", [False, True])
def test_a_pixel_that_is_not_finite_is_told_when_the_images_are_asked_for(late):
    decoder = Decoder(Broken(), None, (Late if late else Side)(CPU), None)
    decoding = decoder.start(torch.zeros(2, 4, 4, 4), PhaseTimer(CPU))
    with pytest.raises(ValueError, match="decoded images: 2 of 384 values are not finite"):
        decoding.images()


@pytest.mark.parametrize("late", [False, True])
def test_latents_are_told_before_pixels_and_before_anything_is_decoded_in_vain(late):
    tokenizer, checks, latents = Broken(), FiniteChecks(), torch.full((2, 4, 4, 4), torch.nan)
    checks.add(latents, "latents")
    with pytest.raises(ValueError, match="latents: 128 of 128 values"):
        Decoder(tokenizer, None, (Late if late else Side)(CPU), None).start(latents, PhaseTimer(CPU), checks).images()
    assert tokenizer.decoded == late


class Broken:
    """A tokenizer whose images have two pixels that are no numbers."""

    name, downsample, decoded = "broken", 2, False

    def decode(self, tokens):
        self.decoded = True
        images = torch.zeros(len(tokens), 3, 8, 8)
        images[0, 0, 0, 0], images[1, 2, 7, 7] = torch.nan, torch.inf
        return images


@pytest.mark.parametrize("name", ["digits-kl", "digits-vq"])
def test_a_recorded_decoder_decodes_each_batch_anew(name):
    tokenizer = load_tokenizer(name)
    decoder = Decoder(tokenizer, 24, Side(CPU), Replays(CPU))
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        images = torch.rand(2, 3, 32, 32, generator=rng) * 2 - 1
        tokens = tokenizer.encode(images)
        expected = Decoder(tokenizer, 24, Side(CPU), None).start(tokens, PhaseTimer(CPU)).images()
        assert expected.shape == (2, 24, 24, 3)
        assert np.array_equal(decoder.start(tokens, PhaseTimer(CPU)).images(), expected)


def test_the_graph_engine_records_the_decoder_too(monkeypatch):
    keys = []
    call = Replays.__call__
    monkeypatch.setattr(Replays, "__call__", lambda self, key, do: (keys.append(key), call(self, key, do))[1])
    parts = load_parts("mar", device=CPU, sampling={"num_iter": 2, "head_steps": 2})
    pipeline = Pipeline(
        generator=parts.generator,
        tokenizer=parts.tokenizer,
        labels=np.array([3, 7]),
        settings=parts.settings,
        seed=0,
        device=CPU,
    )
    eager = pipeline.draw(range(2), PhaseTimer(CPU))
    assert not keys
    graph = replace(pipeline, engine=Engine())
    assert (np.abs(graph.draw(range(2), PhaseTimer(CPU)).astype(int) - eager) <= 1).all()  # latents within rounding
    assert keys[-1][0] == torch.Size((2, parts.tokenizer.channels, *parts.generator.grid))


def test_features_are_extracted_on_the_side_and_written_by_the_thread_that_writes(tmp_path, beside, monkeypatch):
    threads, sides = [], []
    monkeypatch.setattr(
        "arbench.evaluation.features.save_npz", lambda file, arrays: threads.append(threading.current_thread().name)
    )
    entered = Late.beside

    def counted(self):
        sides.append(threading.current_thread().name)
        return entered(self)

    monkeypatch.setattr(Late, "beside", counted)
    given = {**tiny(num_images=70, batch_size=32), "evaluate": True, "reference": "digits-heldout"}
    run(**given, extractor="digits-cnn", metrics=["fid"], on_the_fly=True, out=tmp_path)
    assert [name.startswith("shard-writer") for name in threads[:2]] == [True, True]
    assert len(sides) >= 2


def test_what_is_fetched_and_sent_on_a_cpu_is_as_it_was():
    values = torch.arange(6).view(2, 3)
    assert np.array_equal(Fetched(values).numpy(), values.numpy())
    assert sent(values, CPU) is values
    images = torch.rand(2, 3, 4, 4) * 2 - 1
    pipeline = Decoder(Plain(), None, Side(CPU), None)
    assert np.array_equal(pipeline.start(images, PhaseTimer(CPU)).images(), to_uint8(images))


class Plain:
    name, downsample = "plain", 1

    def decode(self, tokens):
        return tokens


def test_records_hold_no_overlap_where_there_was_none(tmp_path):
    run(**tiny(num_images=4), out=tmp_path)
    assert load_record(only_run(tmp_path))["speed"].get("overlaps") is None


def test_decoding_in_half_precision_is_asked_for_recorded_and_another_folder(tmp_path):
    given = tiny("mar", num_images=4)
    plain, half = run(**given, out=tmp_path), run(**given, decode_dtype="bfloat16", out=tmp_path)
    assert plain.folder.name != half.folder.name
    assert [record["hardware"]["decode_dtype"] for record in (plain, half)] == ["float32", "bfloat16"]
    assert [record["hardware"]["dtype"] for record in (plain, half)] == ["float32", "float32"]
    assert [record["speed"]["tier"] for record in (plain, half)] == ["A1", "A1+A2"]
    images = [images_of(record.folder).astype(int) for record in (plain, half)]
    assert 0 < np.abs(images[0] - images[1]).max() < 16  # bfloat16 has 8 bits, of which a random decoder loses a few


def test_what_decodes_in_no_other_dtype_says_so():
    with pytest.raises(ValueError, match="no torch module and decodes in no bfloat16; expected --decode-dtype float32"):
        in_dtype("plain", Plain(), torch.bfloat16)
    assert isinstance(in_dtype("plain", Plain(), torch.float32), Plain)
    with pytest.raises(ValueError, match="unknown decode dtype 'bf16'; did you mean 'bfloat16'"):
        load_parts("mar", device=CPU, decode_dtype="bf16")


def test_a_tokenizer_is_checked_before_it_is_rounded():
    parts = load_parts("mar", device=CPU, dtype="float64", decode_dtype="bfloat16")
    assert (parts.decode_dtype, parts.coarsest) == (torch.bfloat16, torch.bfloat16)
    assert load_parts("mar", device=CPU, dtype="float64").decode_dtype == torch.float64


def test_graphs_are_recorded_before_time_counts(tmp_path, beside):
    run(**tiny(num_images=8, batch_size=4), engine="graph", out=tmp_path)
    assert [event for event, _ in beside[:4]] == ["start", "take", "start", "take"]  # two warm-ups
    assert beside[4:] == [("start", 0), ("start", 4), ("take", 0), ("take", 4)]


class NoValues(TorchDispatchMode):
    """Nothing inside asks for the value of a tensor, for which a GPU would be waited for and no graph recorded."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def looked_at_by_nobody(ids):
    return False


@pytest.mark.parametrize("name", ["digits-vq", "vq16", "llamagen-vq"])
def test_decoding_codes_waits_for_nothing_where_ids_cannot_be_looked_at(name, monkeypatch):
    weights = {} if name == "digits-vq" else {"weights": "random"}
    tokenizer = load_tokenizer(name, **weights)
    ids = torch.arange(8).view(2, 2, 2)
    expected = tokenizer.decode(ids)
    monkeypatch.setattr("arbench_tokenizers.quantize.can_be_looked_at", looked_at_by_nobody)
    with NoValues():
        assert torch.equal(tokenizer.decode(ids), expected)
        outside = tokenizer.decode(torch.full((1, 2, 2), tokenizer.vocab_size))
    assert outside.isnan().any()
    assert tokenizer.lookup(torch.tensor([[[0, -1, 1]]])).isnan().any(1).tolist() == [[[False, True, False]]]


def test_decoding_latents_waits_for_nothing_once_the_scale_was_read():
    tokenizer = load_tokenizer("digits-kl")
    latents = torch.randn(2, tokenizer.channels, 8, 8)
    expected = tokenizer.decode(latents)
    with NoValues():
        found = tokenizer.decode(latents)
    assert torch.equal(found, expected)
    tokenizer.set_scale(2.0)
    assert tokenizer.scale == 2
    with torch.no_grad():
        tokenizer.latent_scale.fill_(4)
    assert tokenizer.scale == 4


def test_what_was_recorded_for_a_batch_that_did_not_fit_is_freed():
    class Scarce(Pipeline):
        def start(self, image_ids, timer, batch_size=None):
            if len(image_ids) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().start(image_ids, timer, batch_size)

    parts = load_parts("par", device=torch.device("cpu"))
    given = {"labels": np.arange(4), "settings": parts.settings, "seed": 0, "device": parts.device}
    pipeline = Scarce(generator=parts.generator, tokenizer=parts.tokenizer, engine=Engine(), **given)
    before = pipeline.decoder
    drawing, fitting = draw_fitting(pipeline, range(4), 4, NoTimer)
    assert (drawing.rows, fitting) == (2, 2)
    assert pipeline.decoder is not before


def test_whole_shards_are_looked_at_in_a_stream_of_their_own(monkeypatch, tmp_path):
    inside, decoded, looked = [], [], []

    class Told(Side):
        @contextmanager
        def beside(self):
            inside.append(self)
            yield
            inside.pop()

    def look(images):
        looked.append(inside[-1])
        return lambda: None

    levels = Decoder._levels
    monkeypatch.setattr("arbench.runs.pipeline.Side", Told)
    monkeypatch.setattr("arbench.runs.execute.feature_observer", lambda job, folder: look)
    monkeypatch.setattr(Decoder, "_levels", lambda self, tokens: decoded.append(inside[-1]) or levels(self, tokens))
    run(**tiny(), device="cpu", out=tmp_path)
    assert len(set(decoded)) == len(set(looked)) == 1
    assert not set(decoded) & set(looked)
