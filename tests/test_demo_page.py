"""`arbench demo` in a browser: opened, clicked and looked at, at two widths, without a request to elsewhere."""

from __future__ import annotations

import base64
import io
import itertools
import re
import shutil
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from arbench.runs.models import load_parts
from arbench.runs.samples import sample_rows
from arbench.runs.watching import GREY

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 180_000  # milliseconds
CELL = 4  # pixels of a token's side
DONE = "#images section[data-model='{}'][data-done='1']"


@pytest.fixture(scope="module")
def address():
    """The page, served by the command in a process of its own."""
    pytest.importorskip("gradio", reason="needs the extra: pip install 'arbench[demo]'")
    command = [sys.executable, "-m", "arbench", "demo", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        late = threading.Timer(PATIENCE / 1000, process.kill)
        late.start()
        told = process.stdout.readline()
        late.cancel()
        try:
            yield re.search(r"http://127\.0\.0\.1:\d+", told)[0]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium of this machine."""
    library = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs a browser of this machine: one of {', '.join(BROWSERS)}")
    with library.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(address, browser):
    """The page just opened; what it asked for is in `asked`, and its errors in `broken`."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.asked, opened.broken = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("pageerror", lambda error: opened.broken.append(str(error)))
    opened.goto(address)
    opened.wait_for_selector("#draw", timeout=PATIENCE)
    yield opened
    assert opened.broken == []
    assert {urlsplit(url).hostname for url in opened.asked if url.startswith("http")} == {"127.0.0.1"}
    opened.close()


def choose(page, *models):
    """Check these models and uncheck the others."""
    for box in page.locator("#models label").all():
        box.locator("input").set_checked(box.inner_text().strip() in models)


def images(page, model):
    """The images (n, H, W, 3) that stand on the page for a model."""
    sources = page.eval_on_selector_all(
        f"#images section[data-model='{model}'] img", "found => found.map(image => image.src)"
    )
    data = [base64.b64decode(source.partition("base64,")[2]) for source in sources]
    return np.stack([np.asarray(Image.open(io.BytesIO(bytes_))) for bytes_ in data])


def hidden_cells(pictures):
    """How many tokens of each image are not drawn yet."""
    side = pictures.shape[1] // CELL
    cells = pictures.reshape(len(pictures), side, CELL, side, CELL, 3).transpose(0, 1, 3, 2, 4, 5)
    return (cells.reshape(len(pictures), side * side, -1) == GREY).all(-1).sum(1)


def test_images_appear_as_they_form_and_are_those_of_sample(page):
    choose(page, "ar-digits")
    page.fill("#seed input", "5")
    page.click("#draw")
    page.wait_for_selector("#images section[data-model='ar-digits'] .clock >> text=/of 64 tokens/", timeout=PATIENCE)
    seen = [images(page, "ar-digits")]
    while not page.locator(DONE.format("ar-digits")).count():
        seen.append(images(page, "ar-digits"))
    page.wait_for_selector("#protocol details", timeout=PATIENCE)
    last = images(page, "ar-digits")
    counts = [int(hidden_cells(pictures).max()) for pictures in seen]
    assert counts == sorted(counts, reverse=True)
    assert len({count for count in counts if count}) > 3  # it was seen half-drawn, more than once
    rows = sample_rows(load_parts("ar", device=torch.device("cpu")), range(10), 1, seed=5, batch_size=10)
    # One level: another process may add its floats in another order.
    assert np.abs(last.astype(int) - np.concatenate([pictures for _, pictures in rows])).max() <= 1
    assert re.search(r"\d m?s an image", page.inner_text("#images .clock"))
    told = page.inner_text("#protocol")
    assert "ar-digits.safetensors" in told
    assert "Seed 5" in told
    page.click("#protocol summary")
    assert '"model": "ar-digits"' in page.inner_text("#protocol pre")


def test_stop_stops_and_the_next_drawing_begins_anew(page):
    choose(page, "ar-digits")
    page.click("#draw")
    page.wait_for_selector("#images section[data-model='ar-digits']", timeout=PATIENCE)
    page.click("#stop")
    page.wait_for_timeout(1000)
    left = page.inner_text("#images .clock")
    page.wait_for_timeout(1500)
    assert page.inner_text("#images .clock") == left
    assert "an image" not in left
    choose(page, "par-digits")
    page.click("#draw")
    page.wait_for_selector(DONE.format("par-digits"), timeout=PATIENCE)
    assert hidden_cells(images(page, "par-digits")).max() == 0


def test_a_mistake_is_told_on_the_page(page):
    choose(page, "mar-digits")
    page.fill("#steps textarea, #steps input", "0")
    page.click("#draw")
    page.wait_for_selector("text=num_iter 0: expected 1 or more", timeout=PATIENCE)
    assert page.locator("#images section").count() == 0


def test_a_narrow_screen_shows_all_below_each_other(page):
    page.set_viewport_size({"width": 400, "height": 800})
    choose(page, "par-digits", "arpg-digits")
    page.click("#draw")
    page.wait_for_selector(DONE.format("arpg-digits"), timeout=PATIENCE)
    page.wait_for_selector("#protocol details", timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    places = [page.locator(name).bounding_box() for name in ("#models", "#draw", "#images", "#protocol")]
    assert all(one["y"] + one["height"] <= other["y"] + 1 for one, other in itertools.pairwise(places))
    assert all(place["x"] + place["width"] <= 400 for place in places)
    assert page.locator("#images img").count() == 20
