"""A sample grid as one picture: a row for each class with its name beside it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arbench.files import write_whole
from arbench.sampling.shards import Shards

SMALLEST_CELL = 64  # pictures smaller than this are enlarged by a whole factor, pixels kept sharp
LARGEST_CELL = 256
GAP, MARGIN = 4, 16
MOST_ROWS = MOST_COLUMNS = 10
PAPER, INK = (255, 255, 255), (40, 40, 40)


def draw_grid(rows: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """One picture (H, W, 3) uint8 of `rows` of (caption, images (n, h, w, 3) uint8); all images have one size."""
    from PIL import Image, ImageDraw, ImageFont

    cell = cell_size(rows[0][1].shape[1])
    font = ImageFont.load_default(size=max(14, cell // 5))
    captions = [shorten(caption) for caption, _ in rows]
    left = MARGIN + max(int(font.getlength(caption)) for caption in captions) + 3 * GAP
    width = left + max(len(images) for _, images in rows) * (cell + GAP) - GAP + MARGIN
    page = Image.new("RGB", (width, 2 * MARGIN + len(rows) * (cell + GAP) - GAP), PAPER)
    pen = ImageDraw.Draw(page)
    for row, (_, images) in enumerate(rows):
        top = MARGIN + row * (cell + GAP)
        pen.text((left - 3 * GAP, top + cell // 2), captions[row], fill=INK, font=font, anchor="rm")
        for column, image in enumerate(images):
            filter_ = Image.Resampling.NEAREST if cell >= image.shape[0] else Image.Resampling.LANCZOS
            picture = Image.fromarray(np.ascontiguousarray(image)).resize((cell, cell), filter_)
            page.paste(picture, (left + column * (cell + GAP), top))
    return np.asarray(page)


def save_grid(path: Path, rows: Sequence[tuple[str, np.ndarray]]) -> None:
    """Write the picture of `rows` as PNG, whole or not at all."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(draw_grid(rows)).save(content, format="png")
    write_whole(path, content.getbuffer())


def cell_size(side: int) -> int:
    """Pixels a side that a picture of `side` pixels is shown at."""
    return min(side * max(1, -(-SMALLEST_CELL // side)), LARGEST_CELL)


def shorten(caption: str, longest: int = 24) -> str:
    """A caption cut at a word boundary, so that long class names leave room for the pictures."""
    if len(caption) <= longest:
        return caption
    return caption[:longest].rsplit(" ", 1)[0].rstrip(",") + " …"


def class_rows(shards: Shards, labels: np.ndarray, names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Rows for `draw_grid` from a finished run: up to ten classes spread over those asked for, ten images each."""
    present = np.unique(labels)
    chosen = present[np.linspace(0, len(present) - 1, min(MOST_ROWS, len(present))).round().astype(int)]
    rows = []
    for label in chosen:
        ids = np.flatnonzero(labels == label)[:MOST_COLUMNS]
        images = np.stack([shards.read(image // shards.size)[image % shards.size] for image in ids.tolist()])
        rows.append((names[label] if label < len(names) else str(label), images))
    return rows
