"""How a download speaks to a server: http and https alone, no slower than a least pace, redirects checked."""

from __future__ import annotations

import functools
import http.client
import io
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from arbench import __version__

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

TIMEOUT = 30.0  # seconds without a byte
WINDOW = 60.0  # seconds over which the pace is taken
LEAST_RATE = 10_000.0  # bytes a second over a window, headers too: below it a download of gigabytes has no end
SCHEMES = ("http", "https")


@dataclass
class Pace:
    """Watches the bytes of one answer, from its first header on. `least_rate` is in bytes a second."""

    window: float = WINDOW
    least_rate: float = LEAST_RATE

    def __post_init__(self) -> None:
        self._began, self._bytes = time.monotonic(), 0

    def count(self, num_bytes: int) -> None:
        """Take note of bytes that came. Raises TimeoutError where a whole window brought too few."""
        self._bytes += num_bytes
        seconds = time.monotonic() - self._began
        if seconds < self.window:
            return
        if num_bytes and self._bytes < self.least_rate * seconds:
            raise TimeoutError(f"{self._bytes} bytes in {seconds:.1f} seconds, too slow to ever end")
        self._began, self._bytes = time.monotonic(), 0


class _PacedReader(io.RawIOBase):
    """A connection's bytes, counted as they come."""

    def __init__(self, raw: io.RawIOBase, pace: Pace) -> None:
        self._raw, self._pace = raw, pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        count = self._raw.readinto(buffer)
        self._pace.count(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedResponse(http.client.HTTPResponse):
    def __init__(self, pace: Pace, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.fp = io.BufferedReader(_PacedReader(self.fp.detach(), pace))


class _Pacing:
    """Mixed into urllib's handlers: every answer of their connections is paced."""

    pace: Pace

    def do_open(self, http_class: Callable[..., Any], req: urllib.request.Request, **named: Any) -> Any:
        def connect(*host: Any, **how: Any) -> Any:
            connection = http_class(*host, **how)
            connection.response_class = functools.partial(_PacedResponse, self.pace)
            return connection

        return super().do_open(connect, req, **named)  # type: ignore[misc]


class _Http(_Pacing, urllib.request.HTTPHandler):
    pass


class _Https(_Pacing, urllib.request.HTTPSHandler):
    pass


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the headers on the way: the Hub tells size and hash there, not at the end."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # an address that cannot be read
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        self.headers.update({name.lower(): value for name, value in headers.items()})
        if urlsplit(newurl).scheme not in SCHEMES:
            told = f"{msg}, a redirect to {urlsplit(newurl).scheme or 'nowhere'}, which is not followed"
            raise urllib.error.HTTPError(req.full_url, code, told, headers, fp)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            request.remove_header("Authorization")  # of the first host only
        return request


class BadRedirectError(OSError):
    """A server sent us on to what is no address."""


def open_url(url: str, headers: Mapping[str, str], pace: Pace) -> tuple[http.client.HTTPResponse, dict[str, str]]:
    """The answer to one request, and the headers (lower case) of the redirects that led to it.

    Raises `urllib.error.HTTPError` for a status that is no success, carrying those headers as `on_the_way`, OSError
    or `http.client.HTTPException` where nothing comes, and BadRedirectError.
    """
    redirects, opener = _Redirects(), urllib.request.OpenerDirector()
    http_handler, https_handler = _Http(), _Https()
    http_handler.pace = https_handler.pace = pace
    handlers = (urllib.request.ProxyHandler(), urllib.request.HTTPDefaultErrorHandler(), redirects)
    for handler in (*handlers, urllib.request.HTTPErrorProcessor(), http_handler, https_handler):
        opener.add_handler(handler)
    opener.add_handler(urllib.request.UnknownHandler())
    request = urllib.request.Request(url, headers={"User-Agent": f"arbench/{__version__}", **headers})
    try:
        response = opener.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.on_the_way = redirects.headers  # type: ignore[attr-defined]
        raise
    except ValueError as error:  # an address that cannot be read, out of a redirect
        raise BadRedirectError(f"sent on to no address ({' '.join(str(error).split())[:100]})") from None
    assert isinstance(response, http.client.HTTPResponse)
    return response, redirects.headers


__all__ = ["SCHEMES", "BadRedirectError", "Pace", "open_url"]
