"""Downloads from a local server that breaks off, lies about length, serves wrong bytes and forgets ranges."""

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from arbench.generators.cards import WeightsCard
from arbench.machine.files import file_sha256
from arbench.weights.cards import all_cards, find_weights
from arbench.weights.download import Download, Expected, get_weights, recorded_sha256, verify_present

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WRONG = bytes(len(CONTENT))


@dataclass
class Script:
    """How the server behaves: one function a request, the last one for all that follow."""

    behaviours: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)


def serve(
    body: bytes = CONTENT,
    *,
    send: int | None = None,
    claim: int | None = None,
    ranges: bool = True,
    mime: str = "application/octet-stream",
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer with `body`, of which only `send` bytes go out and `claim` bytes are promised."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and ranges else 0
        total = len(body) if claim is None else claim
        if start >= total:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{total}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        handler.send_header("Content-Type", mime)
        handler.send_header("Content-Length", str(total - start))
        handler.end_headers()
        handler.wfile.write(body[start:] if send is None else body[start : start + send])
        handler.close_connection = True

    return answer


def status(code: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def as_the_hub(sha256: str, size: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """A redirect that tells hash and size on the way, as huggingface.co does."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/storage/file")
        handler.send_header("X-Linked-Etag", f'"{sha256}"')
        handler.send_header("X-Linked-Size", str(size))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect(location: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def another_part(told: str | None) -> Callable[[BaseHTTPRequestHandler], None]:
    """Status 206, but not with the bytes that were asked for."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206)
        if told is not None:
            handler.send_header("Content-Range", told)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(WRONG[:10])

    return answer


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """A server on this machine that follows the script; `script.url` is its address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.ranges.append(self.headers.get("Range"))
            script.behaviours[min(len(script.ranges), len(script.behaviours)) - 1](self)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("arbench.generators.cards.HUB_MIRRORS", ())
    yield script
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> WeightsCard:
    monkeypatch.setenv("ARBENCH_WEIGHTS", str(tmp_path))
    return all_cards()["mar-b"]


def get(
    card: WeightsCard, *behaviours: Callable[[BaseHTTPRequestHandler], None], script: Script, **how: object
) -> Path:
    script.behaviours, script.ranges = list(behaviours), []
    expected = how.pop("expected", Expected())
    Download(target=card.path, expected=expected, first_wait=0.0, **how).run(card.urls)  # type: ignore[arg-type]
    assert card.path.read_bytes() == CONTENT
    assert not card.path.with_name(f"{card.path.name}.part").exists()
    return card.path


def test_a_download_gets_its_name_and_its_hash_is_recorded(card: WeightsCard, script: Script) -> None:
    script.behaviours = [serve()]
    seen: list[tuple[int, int | None]] = []
    assert find_weights("mar-b") is None
    path, fresh = get_weights(card, on_progress=lambda done, total: seen.append((done, total)))
    assert (fresh, path.read_bytes(), seen[-1]) == (True, CONTENT, (len(CONTENT), len(CONTENT)))
    assert find_weights("mar-b") == path
    assert recorded_sha256(path) == SHA256 == file_sha256(path)
    assert path.with_name(f"{path.name}.sha256").read_text() == f"{SHA256}  mar-base.safetensors\n"
    assert get_weights(card) == (path, False)
    assert len(script.ranges) == 1


def test_a_changed_file_is_told_and_not_overwritten(card: WeightsCard, script: Script) -> None:
    path = get(card, serve(), script=script)
    path.write_bytes(WRONG)
    with pytest.raises(ValueError, match=rf"SHA-256 is .*, expected {SHA256}; delete the file"):
        get_weights(card)
    assert path.read_bytes() == WRONG


def test_a_file_put_there_by_hand_is_hashed_once(card: WeightsCard) -> None:
    card.path.write_bytes(CONTENT)
    assert verify_present(card.path, None) == recorded_sha256(card.path) == SHA256
    with pytest.raises(ValueError, match="expected 0000"):
        verify_present(card.path, "0000")


def test_it_goes_on_where_the_server_broke_off(card: WeightsCard, script: Script) -> None:
    get(card, serve(send=1000), serve(send=500), serve(), script=script)
    assert script.ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_it_goes_on_in_another_run(card: WeightsCard, script: Script) -> None:
    with pytest.raises(OSError, match=r"broke off at 1000 of 10240 bytes; run again to go on"):
        get(card, serve(send=1000), serve(send=0), script=script)
    assert not card.path.exists()
    get(card, serve(), script=script)
    assert script.ranges == ["bytes=1000-"]


def test_a_server_without_ranges_starts_again(card: WeightsCard, script: Script) -> None:
    get(card, serve(send=1000), serve(ranges=False), script=script)


def test_a_promise_of_more_than_there_is_ends_in_an_error(card: WeightsCard, script: Script) -> None:
    with pytest.raises(OSError, match=r"broke off at 10240 of 99999 bytes"):
        get(card, serve(claim=99999), script=script)
    assert not card.path.exists()


def whole(path: Path) -> None:
    if path.stat().st_size < len(CONTENT):
        raise ValueError("truncated")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"check": whole}, "gave a broken file: truncated"),
        ({"expected": Expected(size=len(CONTENT))}, "has 4000 bytes, expected 10240"),
        ({"expected": Expected(sha256=SHA256)}, "gave wrong bytes: SHA-256"),
    ],
)
def test_a_promise_of_less_than_there_is(
    card: WeightsCard, script: Script, how: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        get(card, serve(claim=4000, send=4000), script=script, **how)
    assert "\n" not in str(error.value)
    assert list(card.path.parent.iterdir()) == []


def test_wrong_bytes_are_thrown_away(card: WeightsCard, script: Script) -> None:
    with pytest.raises(
        ValueError, match=f"wrong bytes: SHA-256 {hashlib.sha256(WRONG).hexdigest()}, expected {SHA256}"
    ):
        get(card, serve(WRONG), script=script, expected=Expected(sha256=SHA256))
    assert list(card.path.parent.iterdir()) == []


def test_a_continued_file_that_proves_wrong_is_fetched_once_more(card: WeightsCard, script: Script) -> None:
    card.path.with_name(f"{card.path.name}.part").write_bytes(WRONG[:700])
    get(card, serve(), script=script, expected=Expected(sha256=SHA256))
    assert script.ranges == ["bytes=700-", None]


def test_a_part_that_is_already_whole(card: WeightsCard, script: Script) -> None:
    card.path.with_name(f"{card.path.name}.part").write_bytes(CONTENT)
    get(card, serve(), script=script)
    assert script.ranges == ["bytes=10240-"]


def test_a_part_longer_than_the_file_is_thrown_away(card: WeightsCard, script: Script) -> None:
    card.path.with_name(f"{card.path.name}.part").write_bytes(CONTENT * 2)
    get(card, serve(), script=script)
    assert script.ranges == ["bytes=20480-", None]


def test_hash_and_size_of_the_hub_are_held_against_what_comes(card: WeightsCard, script: Script) -> None:
    get(card, as_the_hub(SHA256, len(CONTENT)), serve(), script=script)
    card.path.unlink()
    with pytest.raises(ValueError, match=f"wrong bytes: SHA-256 .*, expected {SHA256}"):
        get(card, as_the_hub(SHA256, len(CONTENT)), serve(WRONG), script=script)
    with pytest.raises(ValueError, match="has 10240 bytes, expected 77"):
        get(card, as_the_hub(SHA256, 77), serve(), script=script)


def test_answers_that_are_no_file(card: WeightsCard, script: Script) -> None:
    with pytest.raises(OSError, match=r"^mar-base\.safetensors: 127\.0\.0\.1:\d+ answered HTTP 404 Not Found for http"):
        get(card, status(404), script=script)
    assert len(script.ranges) == 1
    with pytest.raises(OSError, match="answered with a web page"):
        get(card, serve(b"<html>", mime="text/html; charset=utf-8"), script=script)
    with pytest.raises(OSError, match="HTTP 503"):
        get(card, status(503), script=script)
    assert len(script.ranges) == 5
    assert list(card.path.parent.iterdir()) == []
    get(card, status(503), status(429), serve(), script=script)


def test_redirects_are_followed_to_a_file_and_nowhere_else(card: WeightsCard, script: Script, tmp_path: Path) -> None:
    get(card, redirect("/a"), redirect("/b"), serve(), script=script)
    card.path.unlink()
    (tmp_path / "secret").write_bytes(CONTENT)
    for location in (f"file://{tmp_path}/secret", "/round/and/round"):
        with pytest.raises(OSError, match=r"answered HTTP 302") as error:
            get(card, redirect(location), script=script)
        assert "\n" not in str(error.value)
    assert not card.path.exists()


@pytest.mark.parametrize("told", ["bytes 9000-9009/10240", None, "nonsense"])
def test_a_part_that_does_not_join_is_not_taken(card: WeightsCard, script: Script, told: str | None) -> None:
    card.path.with_name(f"{card.path.name}.part").write_bytes(CONTENT[:700])
    get(card, another_part(told), serve(), script=script)
    assert script.ranges == ["bytes=700-", "bytes=700-"]
    card.path.unlink()
    with pytest.raises(OSError, match="asked for bytes 0 onwards, the answer holds"):
        get(card, another_part(told), script=script)


def test_without_a_network_the_way_by_hand_is_told(card: WeightsCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbench.generators.cards.HUB_MIRRORS", ())
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    by_hand = f"download {card.file} by hand from {card.source} to {card.path}"
    with pytest.raises(OSError, match=f"127.0.0.1:9: Connection refused; without a network: {by_hand}$"):
        get_weights(card, first_wait=0.0)
    assert list(card.path.parent.iterdir()) == []


def test_a_host_that_does_not_exist_is_not_asked_again(card: WeightsCard, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def no_such_host(host: str, *_: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    monkeypatch.setenv("HF_ENDPOINT", "http://nowhere.invalid")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("arbench.generators.cards.HUB_MIRRORS", ())
    with pytest.raises(OSError, match=r"nowhere\.invalid: Name or service not known; without a network"):
        get_weights(card, first_wait=0.0)
    assert asked == ["nowhere.invalid"]


def test_mirrors_are_asked_in_turn(
    card: WeightsCard, script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = card.urls[0].removesuffix(f"/{card.hub}/resolve/main/{card.file}")
    monkeypatch.setattr("arbench.generators.cards.HUB_MIRRORS", (address,))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert len(card.urls) == 2
    get(card, serve(), script=script)


def test_a_file_to_fetch_by_hand_says_from_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"download kl16\.ckpt by hand from https://github\.com/LTH14/mar to .*kl16\.ckpt"
    ):
        get_weights(all_cards()["kl16"])


def test_too_little_room_is_told_before_the_first_byte(
    card: WeightsCard, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbench.weights.download._free_bytes", lambda folder: 100)
    with pytest.raises(OSError, match=r"to download, 0\.0 GB free"):
        get(card, serve(), script=script)
