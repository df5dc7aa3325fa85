"""Films within a page: GIFs beside the records of run folders, and those that are named."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

FILM_FILE = "film.gif"
MOST_BYTES = 4 << 20  # of one film; a page is sent by mail


def film_figures(films: Sequence[tuple[Path, str]]) -> str:
    """A figure for each (file, caption); of one that is larger than MOST_BYTES only words. ValueError for no GIF."""
    figures = "".join(_figure(file, caption) for file, caption in films)
    return f'<div class="films">{figures}</div>' if figures else ""


def _figure(file: Path, caption: str) -> str:
    data, told = file.read_bytes(), html.escape(caption)
    if not data.startswith(b"GIF8"):
        raise ValueError(f"{file}: no GIF; expected a film that arbench sample --film FILE.gif has written")
    if len(data) > MOST_BYTES:
        left_out = f"{told}: left out, its {len(data) / 2**20:.1f} MiB are more than {MOST_BYTES >> 20}"
        return f"<figure><figcaption>{left_out}; --film-pictures makes it smaller</figcaption></figure>"
    embedded = base64.b64encode(data).decode()
    picture = f'<img alt="film of {told}" src="data:image/gif;base64,{embedded}">'
    return f"<figure>{picture}<figcaption>{told}</figcaption></figure>"
