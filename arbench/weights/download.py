"""Download of weight files: resumed where it broke off, verified before it gets its name, hash recorded beside it."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from socket import EAI_NONAME, gaierror
from ssl import SSLError
from urllib.parse import urlsplit

from arbench import __version__
from arbench.generators.cards import WeightsCard
from arbench.machine.files import checksum_path, file_sha256, sha256_line, write_whole
from arbench.weights.cards import by_hand, how_to_get

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
RETRIES = 4  # tries in a row that bring nothing
FIRST_WAIT = 1.0  # seconds before the first retry; doubled each time
HUGGING_FACE_HASH = re.compile(r'"?([0-9a-f]{64})"?$')  # X-Linked-Etag of a large file is its SHA-256
RETRY_STATUS = (408, 429)

Progress = Callable[[int, "int | None"], None]


class RejectedError(ValueError):
    """What came is not the file: the bytes are thrown away."""


class UnreachableError(OSError):
    """No address gave the whole file; what has come stays for the next try."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is known of a file beforehand: bytes and SHA-256 (lower-case hex), or None."""

    size: int | None = None
    sha256: str | None = None

    def filled_from(self, headers: dict[str, str]) -> Expected:
        """The same with the gaps filled from what the Hugging Face Hub says of the file (X-Linked-Size, -Etag)."""
        told = HUGGING_FACE_HASH.match(headers.get("x-linked-etag", ""))
        size = headers.get("x-linked-size", "")
        return Expected(
            size=self.size if self.size is not None else int(size) if size.isdigit() else None,
            sha256=self.sha256 or (told[1] if told else None),
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the headers on the way: the Hub tells size and hash there, not at the end."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        self.headers.update({name.lower(): value for name, value in headers.items()})
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def recorded_sha256(path: Path) -> str | None:
    """The hash recorded beside a file at its download (a `sha256sum` line), or None."""
    record = checksum_path(path)
    return next(iter(record.read_text().split()), None) if record.is_file() else None


def partial_path(path: Path) -> Path:
    """Where the bytes of a file gather while it is downloaded."""
    return path.with_name(f"{path.name}.part")


def _record(path: Path, sha256: str) -> None:
    write_whole(checksum_path(path), sha256_line(path, sha256))


def get_weights(
    card: WeightsCard,
    *,
    target: Path | None = None,
    check: Callable[[Path], object] | None = None,
    on_progress: Progress | None = None,
    first_wait: float = FIRST_WAIT,
) -> tuple[Path, bool]:
    """Bring a card's file onto this machine: (its path, whether it was downloaded now).

    `check` looks at the whole file before it gets its name and raises ValueError where it is broken. A file that is
    there already is verified against the card's or the recorded hash. Raises ValueError for a file to fetch by hand
    and for wrong bytes, OSError where no address answers.
    """
    path = target or card.path
    if path.exists():
        verify_present(path, card.sha256)
        return path, False
    if not card.urls:
        raise ValueError(f"{card.name} has no direct address: {how_to_get(card)}")
    expected = Expected(size=card.size, sha256=card.sha256)
    download = Download(target=path, expected=expected, check=check, on_progress=on_progress, first_wait=first_wait)
    try:
        download.run(card.urls)
    except UnreachableError as error:
        raise UnreachableError(f"{error}; without a network: {by_hand(card, path)}") from None
    return path, True


def verify_present(path: Path, sha256: str | None) -> str:
    """The SHA-256 of a file that is there, recorded if it was not. Raises ValueError where it is not the known one."""
    known, found = sha256 or recorded_sha256(path), file_sha256(path)
    if known is not None and found != known:
        raise ValueError(f"{path}: SHA-256 is {found}, expected {known}; delete the file to download it again")
    if known is None:
        _record(path, found)
    return found


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file to bring to `target`; bytes gather in `<target>.part`, which survives an interruption.

    `check` looks at the whole file before it gets its name and raises ValueError where it is broken.
    """

    target: Path
    expected: Expected = Expected()
    check: Callable[[Path], object] | None = None
    on_progress: Progress | None = None
    first_wait: float = FIRST_WAIT

    @property
    def part(self) -> Path:
        return partial_path(self.target)

    @property
    def num_bytes(self) -> int:
        """Bytes that have come so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self, urls: Sequence[str]) -> str:
        """Download from the first address that gives the right file; returns its SHA-256.

        Raises ValueError where every address gave something else, OSError where one of them gave nothing.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        failures: list[Exception] = []
        for url in urls:
            try:
                return self._run_from(url)
            except (RejectedError, UnreachableError) as error:
                failures.append(error)
        kind = ValueError if all(isinstance(error, RejectedError) for error in failures) else UnreachableError
        raise kind(f"{self.target.name}: " + "; ".join(str(error) for error in failures))

    def _run_from(self, url: str) -> str:
        """One address; a continued file that proves wrong is fetched once more from its start."""
        while True:
            resumed = self.part.exists()
            known = self._fetch(url)
            try:
                sha256 = self._accept(url, known)
            except RejectedError:
                self.part.unlink()
                if not resumed:
                    raise
            else:
                os.replace(self.part, self.target)
                _record(self.target, sha256)
                return sha256

    def _accept(self, url: str, known: Expected) -> str:
        """SHA-256 of the whole file if it is the right one, else RejectedError."""
        size, sha256, host = self.num_bytes, file_sha256(self.part), urlsplit(url).netloc
        if known.size is not None and size != known.size:
            raise RejectedError(f"{host} gave {size} bytes, expected {known.size}")
        if known.sha256 is not None and sha256 != known.sha256:
            raise RejectedError(f"{host} gave wrong bytes: SHA-256 {sha256}, expected {known.sha256}")
        if self.check is not None:
            try:
                self.check(self.part)
            except ValueError as error:
                raise RejectedError(f"{host} gave a broken file: {error}") from None
        return sha256

    def _fetch(self, url: str) -> Expected:
        """Fill the part until the server's own length is reached, trying again as long as bytes keep coming."""
        host, fruitless = urlsplit(url).netloc, 0
        while True:
            before = self.num_bytes
            try:
                total, known = self._stream(url)
                problem = f"broke off at {self.num_bytes} of {total} bytes; run again to go on"
                if total is None or self.num_bytes == total:
                    return known
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {' '.join(error.reason.split())}"  # urllib's own reasons have lines
                error.close()
                if error.code < 500 and error.code not in RETRY_STATUS:
                    raise UnreachableError(f"{host} answered {problem} for {url}") from None
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, SSLError) as error:
                cause = getattr(error, "reason", "") or error
                problem = str(getattr(cause, "strerror", None) or cause) or type(cause).__name__
                if isinstance(cause, gaierror) and cause.errno == EAI_NONAME:
                    raise UnreachableError(f"{host}: {problem}") from None  # a minute of trying would not find it
            fruitless = 0 if self.num_bytes > before else fruitless + 1
            if fruitless > RETRIES:
                raise UnreachableError(f"{host}: {problem}")
            time.sleep(self.first_wait * (2**fruitless - 1))

    def _stream(self, url: str) -> tuple[int | None, Expected]:
        """One request for what is missing: (length of the whole file, what is known of it)."""
        start, redirects = self.num_bytes, _Redirects()
        request = urllib.request.Request(url, headers={"User-Agent": f"arbench/{__version__}"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            response = urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            return self._nothing_left(error), self.expected.filled_from(redirects.headers)
        with response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            known, host = self.expected.filled_from({**redirects.headers, **headers}), urlsplit(url).netloc
            if headers.get("content-type", "").startswith("text/html"):
                raise UnreachableError(f"{host} answered with a web page, not a file")
            begins, total = _extent(response.status, headers, start)
            if total is not None and known.size is not None and total != known.size:
                raise RejectedError(f"{host} has {total} bytes, expected {known.size}")
            _check_room(self.part, (total or 0) - begins)
            self._append(response, begins, total)
        return total, known

    def _nothing_left(self, error: urllib.error.HTTPError) -> int:
        """HTTP 416: no bytes behind those we have. The file is whole, or else ours are of another one: start again."""
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        error.close()
        if total != str(self.num_bytes):
            self.part.unlink()
            raise ConnectionError(f"the file has {total or 'fewer'} bytes now; starting again")
        return int(total)

    def _append(self, response: http.client.HTTPResponse, begins: int, total: int | None) -> None:
        with open(self.part, "r+b" if begins else "wb") as file:
            file.truncate(begins)
            file.seek(begins)
            while block := response.read(CHUNK):
                file.write(block)
                if self.on_progress is not None:
                    self.on_progress(file.tell(), total)
            file.flush()
            os.fsync(file.fileno())


def _extent(status: int, headers: dict[str, str], start: int) -> tuple[int, int | None]:
    """Where the answer's bytes begin and how long the whole file is (None: not told).

    Raises ConnectionError for a part of the file that does not join what is here already.
    """
    if status == HTTPStatus.PARTIAL_CONTENT:
        match = re.match(r"bytes (\d+)-\d+/(\d+|\*)$", headers.get("content-range", ""))
        if match is None or int(match[1]) > start:
            told = headers.get("content-range", "no range")
            raise ConnectionError(f"asked for bytes {start} onwards, the answer holds {told}")
        return int(match[1]), int(match[2]) if match[2].isdigit() else None
    length = headers.get("content-length", "")
    return 0, int(length) if length.isdigit() else None


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _check_room(part: Path, wanted: int) -> None:
    free = _free_bytes(part.parent)
    if wanted > free:
        raise OSError(f"{part.parent}: {wanted / 1e9:.1f} GB to download, {free / 1e9:.1f} GB free")


__all__ = ["Download", "Expected", "get_weights", "partial_path", "recorded_sha256", "verify_present"]
