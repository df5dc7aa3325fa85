"""Servers that never end, never begin or send elsewhere: an error in bounded time and space, then the next address."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from test_download import CONTENT, SHA256, Script, as_the_hub, card, redirect, script, serve, status

from arbench.generators.cards import WeightsCard
from arbench.weights.download import Download, Expected, get_weights
from arbench.weights.transport import Pace

__all__ = ["card", "script"]  # fixtures

Behaviour = Callable[[BaseHTTPRequestHandler], None]


def quick() -> Pace:
    return Pace(window=0.2, least_rate=10_000)


def download(card: WeightsCard, *behaviours: Behaviour, script: Script, urls: tuple[str, ...] = (), **how: Any) -> str:
    script.behaviours, script.ranges = list(behaviours), []
    job = Download(target=card.path, first_wait=0.0, make_pace=quick, **how)
    return job.run(urls or card.urls)


def dripping(header: bool) -> Behaviour:
    """A byte every hundredth of a second, for ever, of the header or of the body."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"X-Slow: " if header else b"\r\n"))
        try:
            while True:
                handler.wfile.write(b"x")
                handler.wfile.flush()
                time.sleep(0.01)
        except OSError:
            handler.close_connection = True

    return answer


def endless(chunked: bool) -> Behaviour:
    """A body without a length and without an end."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n"))
        block = bytes(1 << 16)
        try:
            while True:
                handler.wfile.write(b"10000\r\n" + block + b"\r\n" if chunked else block)
        except OSError:
            handler.close_connection = True

    return answer


def test_a_server_without_ranges_that_alternates_lengths_ends(card: WeightsCard, script: Script) -> None:
    counter = itertools.count()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        serve(ranges=False, send=1000 + 500 * (next(counter) % 2))(handler)

    with pytest.raises(OSError, match=r"broke off at 1[05]00 of 10240 bytes"):
        download(card, answer, script=script)
    assert len(script.ranges) < 10


def test_tries_that_each_bring_a_byte_end(card: WeightsCard, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbench.weights.download.MOST_TRIES", 7)
    with pytest.raises(OSError, match=r"broke off at 7 of 10240 bytes; run again to go on"):
        download(card, serve(send=1), script=script)
    assert len(script.ranges) == 7


def test_time_ends_too(card: WeightsCard, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbench.weights.download.LONGEST", 0.0)
    with pytest.raises(OSError, match=r"broke off at 1 of 10240 bytes"):
        download(card, serve(send=1), script=script)
    assert len(script.ranges) == 1


@pytest.mark.parametrize("header", [True, False])
def test_a_drip_is_cut_off(card: WeightsCard, script: Script, monkeypatch: pytest.MonkeyPatch, header: bool) -> None:
    monkeypatch.setattr("arbench.weights.download.MOST_TRIES", 2)
    start = time.monotonic()
    with pytest.raises(OSError, match="too slow to ever end"):
        download(card, dripping(header), script=script)
    assert time.monotonic() - start < 20  # generous on a busy machine; without a limit there is no end


@pytest.mark.parametrize("chunked", [True, False])
def test_an_endless_body_of_a_known_size(card: WeightsCard, script: Script, chunked: bool) -> None:
    with pytest.raises(ValueError, match="gives more than 10,240 bytes"):
        download(card, endless(chunked), script=script, expected=Expected(size=len(CONTENT)))
    assert list(card.path.parent.iterdir()) == []
    with pytest.raises(ValueError, match="gives more than 10,240 bytes"):
        download(card, as_the_hub(SHA256, len(CONTENT)), endless(chunked), script=script)
    assert list(card.path.parent.iterdir()) == []


def test_an_endless_body_of_unknown_size_leaves_room(
    card: WeightsCard, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbench.weights.download._free_bytes", lambda folder: 2**28 + 50_000)
    with pytest.raises(ValueError, match="gives more than 50,000 bytes"):
        download(card, endless(False), script=script)
    assert list(card.path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (status(416), "HTTP 416"),
        (redirect("http://[broken"), "sent on to no address"),
        (redirect("http://127.0.0.1:port/"), "nonnumeric port"),
        (redirect("ftp://127.0.0.1/file"), "a redirect to ftp, which is not followed"),
        (redirect("data:,abc"), "HTTP 302"),
        (redirect(""), "HTTP 302"),
    ],
)
def test_an_answer_that_is_no_file_leads_to_the_next_address(
    card: WeightsCard, script: Script, first: Behaviour, told: str
) -> None:
    """`/mirror` serves the file; everything else answers as `first`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        (serve() if handler.path == "/mirror" else first)(handler)

    (url,) = card.urls
    with pytest.raises(OSError, match=told) as error:
        download(card, answer, script=script)
    assert "\n" not in str(error.value)
    mirror = url.removesuffix(f"/{card.hub}/resolve/main/{card.file}") + "/mirror"
    assert download(card, answer, script=script, urls=(url, mirror)) == SHA256
    assert card.path.read_bytes() == CONTENT


@pytest.mark.parametrize("endpoint", ["ftp://127.0.0.1", "file:///tmp", "nonsense"])
def test_an_endpoint_of_another_kind(card: WeightsCard, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr("arbench.generators.cards.HUB_MIRRORS", ())
    with pytest.raises(OSError, match="expected one that begins with https:// or http://"):
        get_weights(card, first_wait=0.0)


def test_the_token_goes_to_the_hub_alone(card: WeightsCard, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen: list[tuple[str, str | None]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        host = handler.headers["Host"].partition(":")[0]
        seen.append((host, handler.headers.get("Authorization")))
        elsewhere = f"http://localhost:{handler.server.server_address[1]}/storage"  # type: ignore[attr-defined]
        (serve() if host == "localhost" else redirect(elsewhere))(handler)

    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    download(card, answer, script=script)
    assert seen == [("127.0.0.1", "Bearer hf_secret"), ("localhost", None)]
