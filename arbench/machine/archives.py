"""Zip files as strangers make them, encrypted, swelling or cut off: each is one line, before it is read."""

from __future__ import annotations

import lzma
import math
import pickle
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from arbench.machine.files import one_line

LARGEST_ARRAY = 2**30  # bytes of an array that is read whole; a covariance of Inception's features has 2**25
LONGEST_HEADER = 10_000  # characters, as NumPy reads them
GLOBAL_NAME = re.compile(r"GLOBAL (\S+)")
# A RuntimeError is an encrypted member, and the kind of one that is compressed in an unknown way.
BROKEN_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, RuntimeError),
    *(OverflowError, SyntaxError, TypeError, KeyError, MemoryError),
)


class ArrayHeader(NamedTuple):
    """What a stored array says of itself before its values."""

    shape: tuple[int, ...]
    in_fortran_order: bool
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def reading_npz(path: Path, told: str = "not a readable npz") -> Iterator[None]:
    """Whatever a broken npz raises inside becomes one ValueError of `path` and `told`; a missing file an OSError."""
    try:
        yield
    except BROKEN_ZIP as error:
        raise ValueError(f"{path}: {told} ({one_line(error)})") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path}: {told} ({one_line(error)})") from error  # bzip2's own error


def read_header(member: IO[bytes]) -> ArrayHeader:
    """The header of an .npy stream, left where its values begin. ValueError where it is none."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        header = ArrayHeader(*read(member, max_header_size=LONGEST_HEADER))
    except (SyntaxError, tokenize.TokenError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"a broken array header ({one_line(error)})") from error
    if any(side < 0 for side in header.shape):
        raise ValueError(f"an array of shape {header.shape}")
    return header


def member_header(archive: zipfile.ZipFile, name: str) -> ArrayHeader:
    """The header of the array `name` of an npz. ValueError where it promises values that are not there."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        header = read_header(member)
        values = info.file_size - member.tell()
    if header.num_bytes > values and not header.dtype.hasobject:
        raise ValueError(f"{name} is {header.dtype} {header.shape}, {header.num_bytes:,} bytes; {values:,} are there")
    return header


def check_arrays(archive: zipfile.ZipFile, names: list[str]) -> None:
    """ValueError where one of the arrays is too large to be read whole, whatever little the file has on disk."""
    for name in names:
        size = member_header(archive, name).num_bytes
        if size > LARGEST_ARRAY:
            raise ValueError(f"{name} would take {size:,} bytes of memory; expected at most {LARGEST_ARRAY:,}")


def check_torch_archive(path: Path, expected: str) -> None:
    """Raise ValueError where a zip file is no archive of tensors, or would swell: torch compresses nothing."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: truncated torch checkpoint: its last part, the table of contents, is missing")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise ValueError(f"{path}: broken torch checkpoint ({error})") from None
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise ValueError(f"{path}: a TorchScript program, not a state dict; {expected}")
    if not any(entry.filename.endswith("data.pkl") for entry in entries):
        raise ValueError(f"{path}: a zip archive without tensors; {expected}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(f"{path}: refused: compressed inside, as no torch checkpoint is; {expected}")


def explain_refusal(error: Exception) -> str:
    """One line for a failed `torch.load`: what the pickle asked for, or that the file is broken.

    PyTorch's own message is not passed on: it tells how to switch its protection off.
    """
    text = str(error)
    if wanted := GLOBAL_NAME.search(text):
        return f"refused: its pickle asks for {wanted[1]}; expected tensors and plain values, nothing was executed"
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text or "Weights only" in text:
        return "broken, truncated or no torch checkpoint, or it holds more than tensors and plain values"
    first_line = text.splitlines()[0] if text else type(error).__name__
    return f"broken, truncated or no torch checkpoint ({first_line[:120]})"
