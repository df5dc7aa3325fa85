"""Text that a terminal can take: no control characters, and ASCII where it knows no more."""

from __future__ import annotations

import codecs
import io
import unicodedata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, TextIO

MARK = "\N{REPLACEMENT CHARACTER}"
KEPT = "\n\t"
# Control characters, formatting ones (they turn the order of what follows), those that nobody has defined or that are
# private, halves of a character, line separators.
HIDDEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
ASCII = {
    "↓": "v",
    "↑": "^",
    "→": "->",
    "±": "+-",
    "×": "x",
    "–": "-",
    "—": "-",
    "…": "...",
    "·": ".",
    "²": "2",
    "é": "e",
}
ERRORS = "arbench-ascii"  # the name by which Python knows `in_ascii`


def printable(text: str) -> str:
    """`text` with every character that a terminal would obey, rather than show, replaced by a mark."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(MARK if character not in KEPT and _is_hidden(character) else character for character in text)


def one_printable_line(text: str) -> str:
    """`text` on one line, printable."""
    return printable(" ".join(text.split()))


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in HIDDEN


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """An error handler for `encode`: the nearest ASCII for what an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(ASCII.get(character, "?") for character in lacking), error.end


class PlainStream(io.TextIOWrapper):
    """A text stream that writes what is printable; as ASCII it calls itself UTF-8, or Click would go round it."""

    def __init__(self, buffer: BinaryIO, encoding: str, line_buffering: bool) -> None:
        self._is_ascii = codecs.lookup(encoding).name == "ascii"
        known_as = "utf-8" if self._is_ascii else encoding
        super().__init__(buffer, encoding=known_as, errors=ERRORS, line_buffering=line_buffering)

    def write(self, text: str) -> int:
        shown = printable(text)
        return super().write(shown.encode("ascii", ERRORS).decode() if self._is_ascii else shown)


def plain_stream(stream: TextIO) -> TextIO:
    """`stream`, or what writes to the same place: printable text, in ASCII where its encoding lacks a character."""
    codecs.register_error(ERRORS, in_ascii)
    if type(stream) is not io.TextIOWrapper:  # ours already, or what a test or a notebook put there
        return stream
    encoding, buffered = stream.encoding, stream.line_buffering
    return PlainStream(stream.detach(), encoding, buffered)


__all__ = ["ERRORS", "one_printable_line", "plain_stream", "printable"]
