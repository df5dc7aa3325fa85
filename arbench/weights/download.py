"""Download of weight files: resumed where it broke off, verified before it gets its name, hash recorded beside it."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import time
import urllib.error
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from socket import EAI_NONAME, gaierror
from ssl import SSLError
from urllib.parse import urlsplit

from huggingface_hub import get_token

from arbench.generators.cards import WeightsCard, hub_endpoint
from arbench.machine.files import FULL, NoSpaceError, checksum_path, file_sha256, sha256_line, write_whole
from arbench.weights.cards import by_hand, how_to_get
from arbench.weights.transport import SCHEMES, BadRedirectError, Pace, open_url

CHUNK = 1 << 20
RETRIES = 4  # tries in a row that bring nothing new
MOST_TRIES = 50  # of one address in one run; the next run goes on
LONGEST = 24 * 3600.0  # seconds of one address in one run, likewise
LARGEST = 2**37  # bytes of a file whose size nobody tells; the largest released one has a tenth
RESERVE = 2**28  # bytes that stay free on the disk
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
            size=self.size if self.size is not None else _whole(size),
            sha256=self.sha256 or (told[1] if told else None),
        )


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
    make_pace: Callable[[], Pace] = Pace

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
        if urlsplit(url).scheme not in SCHEMES:
            raise UnreachableError(f"{url} is no address; expected one that begins with https:// or http://")
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
        """Fill the part until the server's own length is reached, trying again as long as new bytes keep coming."""
        host, fruitless, furthest = urlsplit(url).netloc, 0, self.num_bytes
        end, problem = time.monotonic() + LONGEST, ""
        for _ in range(MOST_TRIES):
            try:
                total, known = self._stream(url)
                problem = f"broke off at {self.num_bytes} of {total} bytes; run again to go on"
                if total is None or self.num_bytes == total:
                    return known
            except BadRedirectError as error:
                raise UnreachableError(f"{host}: {error}") from None
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
            # A server without ranges starts again each time: only what goes beyond all before is new.
            fruitless = 0 if self.num_bytes > furthest else fruitless + 1
            furthest = max(furthest, self.num_bytes)
            if fruitless > RETRIES or time.monotonic() > end:
                break
            time.sleep(self.first_wait * (2**fruitless - 1))
        raise UnreachableError(f"{host}: {problem}")

    def _stream(self, url: str) -> tuple[int | None, Expected]:
        """One request for what is missing: (length of the whole file, what is known of it)."""
        start = self.num_bytes
        headers = {**_hub_headers(url), **({"Range": f"bytes={start}-"} if start else {})}
        try:
            response, on_the_way = open_url(url, headers, self.make_pace())
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
                raise
            told: dict[str, str] = getattr(error, "on_the_way", {})
            return self._nothing_left(error), self.expected.filled_from(told)
        with response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            known, host = self.expected.filled_from({**on_the_way, **headers}), urlsplit(url).netloc
            if headers.get("content-type", "").startswith("text/html"):
                raise UnreachableError(f"{host} answered with a web page, not a file")
            begins, total = _extent(response.status, headers, start)
            if total is not None and known.size is not None and total != known.size:
                raise RejectedError(f"{host} has {total} bytes, expected {known.size}")
            size = known.size if total is None else total
            _check_room(self.part, (size or 0) - begins)
            self._append(response, begins, size, host)
        return total, known

    def _nothing_left(self, error: urllib.error.HTTPError) -> int:
        """HTTP 416: no bytes behind those we have. The file is whole, or else ours are of another one: start again."""
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        error.close()
        if total != str(self.num_bytes) or not self.num_bytes:
            self.part.unlink(missing_ok=True)
            raise ConnectionError(f"the file has {total or 'fewer'} bytes now; starting again")
        return int(total)

    def _append(self, response: http.client.HTTPResponse, begins: int, size: int | None, host: str) -> None:
        """Write what comes, up to the `size` of the whole file, or to what the disk can spare where nobody tells it.

        Raises RejectedError, and removes the part, where more comes, and NoSpaceError where the disk is full: the part
        stays.
        """
        most = min(LARGEST, begins + _free_bytes(self.part.parent) - RESERVE) if size is None else size
        try:
            self._write(response, begins, size, most)
        except OverflowError:
            self.part.unlink()
            raise RejectedError(f"{host} gives more than {most:,} bytes, all that is expected or fits here") from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise NoSpaceError(
                f"no space left in {self.part.parent}: {self.num_bytes} bytes are safe in {self.part.name}; make room "
                "and run again to go on"
            ) from error

    def _write(self, response: http.client.HTTPResponse, begins: int, size: int | None, most: int) -> None:
        with open(self.part, "r+b" if begins else "wb") as file:
            file.truncate(begins)
            file.seek(begins)
            while block := response.read1(CHUNK):  # what has come: a slow server is seen at once
                if file.tell() + len(block) > most:
                    raise OverflowError
                file.write(block)
                if self.on_progress is not None:
                    self.on_progress(file.tell(), size)
            file.flush()
            os.fsync(file.fileno())


def _extent(status: int, headers: dict[str, str], start: int) -> tuple[int, int | None]:
    """Where the answer's bytes begin and how long the whole file is (None: not told).

    Raises ConnectionError for a part of the file that does not join what is here already.
    """
    if status == HTTPStatus.PARTIAL_CONTENT:
        match = re.match(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)$", headers.get("content-range", ""))
        if match is None or int(match[1]) > start:
            told = headers.get("content-range", "no range")
            raise ConnectionError(f"asked for bytes {start} onwards, the answer holds {told}")
        return int(match[1]), _whole(match[2])
    return 0, _whole(headers.get("content-length", ""))


def _whole(text: str) -> int | None:
    """A number of bytes in a header, or None."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _hub_headers(url: str) -> dict[str, str]:
    """The user's token, as the Hub's own library finds it, for the Hub; nobody else is told it.

    Not the library's `build_hf_headers`: its first call in a process may ask the Hub something itself.
    """
    if not url.startswith(f"{hub_endpoint()}/"):
        return {}
    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _check_room(part: Path, wanted: int) -> None:
    free = _free_bytes(part.parent)
    if wanted > free:
        raise OSError(f"{part.parent}: {wanted / 1e9:.1f} GB to download, {free / 1e9:.1f} GB free")


__all__ = ["Download", "Expected", "get_weights", "partial_path", "recorded_sha256", "verify_present"]
