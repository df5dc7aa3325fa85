"""Behind the page of `arbench demo`: what may be chosen, images as they form, and what is told of them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from arbench import cli
from arbench.demo import choices, serving
from arbench.demo.choices import MOST_IMAGES, Wish, classes_of, models_here, settings_for
from arbench.demo.drawing import COLD, draw
from arbench.demo.page import duration, gallery, protocol
from arbench.demo.serving import HOST, OwnMachineOnly, open_port
from arbench.demo.studio import FILM_SECONDS, Studio, paced, press
from arbench.report.record import validate
from arbench.runs.models import load_parts
from arbench.runs.samples import sample_rows
from arbench.runs.watching import GREY
from arbench.weights.inventory import MISSING, Fact

CPU = torch.device("cpu")
WISH = Wish(labels=[3, 7], seed=5)


@pytest.fixture(scope="module")
def par():
    return load_parts("par", device=CPU)


@pytest.fixture(scope="module")
def frames(par):
    return list(draw(par, WISH))


def pictures(markup: str) -> list[np.ndarray]:
    """The images inside the page."""
    found = re.findall(r'src="data:image/png;base64,([^"]*)"', markup)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_models_are_those_whose_weights_are_here(monkeypatch):
    assert set(models_here()["digits"]) >= {f"{method}-digits" for method in ("ar", "arpg", "dit", "mar", "par")}
    facts = [
        Fact(section="generators", name="mar-b", value=""),
        Fact(section="generators", name="mar-l", value="", state=MISSING),
        Fact(section="generators", name="ar-digits", value=""),
        Fact(section="generators", name="plug-in", value=""),
    ]
    monkeypatch.setattr(choices, "generators", lambda: iter(facts))
    assert models_here() == {"digits": ["ar-digits"], "ImageNet": ["mar-b"]}
    studio = Studio(CPU)
    assert studio.classes("ImageNet")[207] == ("golden retriever (207)", 207)
    assert len(studio.classes("ImageNet")) == 1000
    assert studio.classes("digits") == [(str(number), number) for number in range(10)]
    monkeypatch.setattr(choices, "generators", lambda: iter(facts[1:2]))
    with pytest.raises(ValueError, match="arbench doctor"):
        Studio(CPU)


def test_names_of_classes_are_told_apart():
    names = [name for name, _ in classes_of("ImageNet", 1000)]
    assert len(set(names)) == 1000  # two are called crane


@pytest.mark.parametrize(("method", "name", "own"), [("mar", "num_iter", 8), ("dit", "head_steps", 50)])
def test_steps_are_the_models_own_kind(method, name, own):
    parts = load_parts(method, device=CPU)
    assert getattr(settings_for(parts, WISH), name) == own
    wished = settings_for(parts, Wish(labels=[1], steps=3, cfg_scale=1.75, temperature=0.5))
    assert (getattr(wished, name), wished.cfg_scale, wished.temperature) == (3, 1.75, 0.5)
    with pytest.raises(ValueError, match=f"{name} 0"):
        settings_for(parts, Wish(labels=[1], steps=0))


def test_without_steps_to_choose_none_are_taken(par):
    assert settings_for(par, Wish(labels=[1], steps=3)) == settings_for(par, WISH) == par.settings


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"labels": []}, "no class"),
        ({"labels": [1], "per_class": 0}, "1 to"),
        ({"labels": [1] * 7, "per_class": MOST_IMAGES // 7 + 1}, f"1 to {MOST_IMAGES}"),
        ({"labels": [1], "seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_wished_is_one_line(given, told):
    with pytest.raises(ValueError, match=told):
        Wish(**given)


def test_images_form_out_of_grey_and_are_those_of_sample(par, frames):
    assert (frames[0].images == GREY).all()
    assert [frame.revealed for frame in frames] == sorted({frame.revealed for frame in frames})
    assert len(frames) == 1 + frames[0].steps == 20
    half = next(frame for frame in frames if frame.revealed == 32)
    cells = half.images.reshape(2, 8, 4, 8, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 64, -1)
    assert [(cells == GREY).all(-1).sum(1).tolist() for cells in (cells,)] == [[32, 32]]
    rows = sample_rows(par, [3, 7], 1, seed=5, batch_size=2)
    assert np.array_equal(frames[-1].images, np.concatenate([images for _, images in rows]))


def test_the_record_tells_how_and_pauses_do_not_count(par, frames):
    record = frames[-1].record
    validate(record)
    assert all(frame.record is None for frame in frames[:-1])
    assert (record["model"], record["seed"], record["labels"], record["num_images"]) == ("par-digits", 5, [3, 7], 2)
    assert record["speed"]["steps"] == 19
    assert record["speed"]["excludes"].endswith(COLD)
    start, pause = time.perf_counter(), 0.02
    looked = []
    for frame in draw(par, WISH, warm=True):
        looked.append(frame)
        time.sleep(pause)
    elapsed = time.perf_counter() - start
    assert not looked[-1].record["speed"]["excludes"].endswith(COLD)
    # One frame is drawn ahead of the one that is looked at.
    assert 2 * looked[-1].record["speed"]["seconds_per_image"] < elapsed - 18 * pause


def test_who_stops_looking_stops_the_drawing(par):
    running = threading.active_count()
    drawing = draw(par, WISH)
    for _ in range(3):
        next(drawing)
    assert threading.active_count() == running + 1
    drawing.close()
    assert threading.active_count() == running


def test_an_error_of_the_drawing_reaches_who_waits(par):
    with pytest.raises(ValueError, match="label 11"):
        list(draw(par, Wish(labels=[11])))


def test_the_page_shows_the_images_and_needs_nothing_else(frames):
    shown = gallery([frames[5], frames[-1]], ["<3>", "7"])
    assert "http" not in shown
    assert "<3>" not in shown
    assert "&lt;3&gt;" in shown
    assert np.array_equal(np.stack(pictures(shown)), np.concatenate([frames[5].images, frames[-1].images]))
    assert "step 5 of 19 · 8 of 64 tokens" in shown
    seconds = frames[-1].record["speed"]["seconds_per_image"]
    assert f"{duration(seconds)} an image" in shown
    assert shown.count("an image") == 1
    assert [duration(value) for value in (0.0123, 0.5, 2.345)] == ["12.3 ms", "500 ms", "2.35 s"]


def test_the_protocol_stands_below(frames):
    record = frames[-1].record
    told = protocol([record])
    assert f"par-digits.safetensors ({record['weights']['sha256'][:8]})" in told
    assert "Seed 5, float32" in told
    assert "par-digits: guidance 1.5, temperature 1; weights" in told
    assert "without a warm-up: par-digits" in told
    unfolded = re.search(r"<pre>(.*?)</pre>", told, re.DOTALL)[1].replace("&quot;", '"')
    assert json.loads(unfolded) == record
    assert protocol([]) == ""


def test_models_draw_one_after_another():
    studio = Studio(CPU)
    shown = list(press(studio, "digits", ["par-digits", "arpg-digits"], [3], 2, None, "2", "", "", False))
    images, told = shown[-1]
    assert re.findall(r'data-model="([^"]*)" data-done="(.)"', images) == [("par-digits", "1"), ("arpg-digits", "1")]
    assert len(pictures(images)) == 4
    assert told.count("<details>") == 2
    assert '"num_iter": 2' in told.replace("&quot;", '"')
    assert shown[0][1] == ""
    again, told = list(studio.show("digits", ["arpg-digits"], Wish(labels=[3], steps=2)))[-1]
    assert "warm-up" not in told
    assert len(pictures(again)) == 1


@pytest.mark.parametrize(
    ("models", "steps", "told"),
    [([], "", "no model"), (["mar-b"], "", "'mar-b'"), (["mar-digits"], "many", "many"), (["par-digits"], "-1", "-1")],
)
def test_mistakes_on_the_page_are_one_line(models, steps, told):
    with pytest.raises(ValueError, match=told) as caught:
        next(press(Studio(CPU), "digits", models, [3], 1, 0, steps, "", "", False))
    assert "\n" not in str(caught.value)


def test_slow_motion_gives_each_step_its_share(frames, monkeypatch):
    monkeypatch.setattr("arbench.demo.studio.FILM_SECONDS", 0.1)
    for slowly, least in ((True, 0.1), (False, 0)):
        start = time.monotonic()
        assert list(paced(iter(frames), slowly)) == frames
        assert time.monotonic() - start >= least
    assert FILM_SECONDS > 1


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("sample", "demo"))
    monkeypatch.setattr(serving, "GRADIO", "gradio_that_is_not_there")
    assert cli.run_command(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'arbench[demo]'" in line


def test_only_this_machine_is_listened_to():
    with open_port(0) as listener:
        address, port = listener.getsockname()
        assert address == HOST == "127.0.0.1"
        with pytest.raises(ValueError, match=f"port {port} is not free"):
            open_port(port)
    with pytest.raises(ValueError, match="port 70000"):
        open_port(70000)


def test_every_answer_forbids_the_browser_other_places():
    sent = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    asyncio.run(OwnMachineOnly(application)({"type": "http"}, None, send))
    headers = dict(sent[0]["headers"])
    assert headers[b"x"] == b"y"
    assert headers[b"content-security-policy"].startswith(b"default-src 'self' data: blob:;")
    assert b"http" not in headers[b"content-security-policy"]
    assert sent[1]["body"] == b""
