"""A sample grid as one picture: a row for each class with its name beside it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from arbench.machine.files import write_whole
from arbench.registry import unknown_name
from arbench.runs.shards import Shards

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageFont import FreeTypeFont

SMALLEST_CELL = 64  # pictures smaller than this are enlarged by a whole factor, pixels kept sharp
LARGEST_CELL = 256
GAP, MARGIN = 4, 16
LARGEST_LETTERS = 22
FEWEST_ACROSS = 4
# suffix: format and options as Pillow has them
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("png", {}),
    ".jpg": ("jpeg", {"quality": 95}),
    ".jpeg": ("jpeg", {"quality": 95}),
    ".webp": ("webp", {"lossless": True}),
    ".pdf": ("pdf", {}),
}
MOST_ROWS = MOST_COLUMNS = 10
PAPER, INK = (255, 255, 255), (40, 40, 40)


def draw_grid(rows: Sequence[tuple[str, np.ndarray]], cell: int | None = None) -> np.ndarray:
    """One picture (H, W, 3) uint8 of `rows` of (caption, images (n, h, w, 3) uint8); all images have one size.

    A row a class with its name beside it; where every class has a single image, tiles with their names below. Images
    are shown at `cell` pixels a side, or as `cell_size` says.
    """
    cell = cell_size(max(rows[0][1].shape[1:3])) if cell is None else cell
    if all(len(images) == 1 for _, images in rows):
        return _draw_tiles([(caption, images[0]) for caption, images in rows], cell)
    return _draw_rows(rows, cell)


def _draw_rows(rows: Sequence[tuple[str, np.ndarray]], cell: int) -> np.ndarray:
    font = caption_font(cell)
    pictures = max(len(images) for _, images in rows) * (cell + GAP) - GAP
    room = max(cell, pictures // 2)  # at most a third of the grid is caption
    captions = [fit_caption(shorten(caption), lambda text: font.getlength(text) <= room) for caption, _ in rows]
    left = MARGIN + max(int(font.getlength(caption)) for caption in captions) + 3 * GAP
    width = left + pictures + MARGIN
    page = _blank(width, 2 * MARGIN + len(rows) * (cell + GAP) - GAP)
    pen = ImageDraw.Draw(page)
    for row, (_, images) in enumerate(rows):
        top = MARGIN + row * (cell + GAP)
        pen.text((left - 3 * GAP, top + cell // 2), captions[row], fill=INK, font=font, anchor="rm")
        for column, image in enumerate(images):
            page.paste(_enlarged(image, cell), (left + column * (cell + GAP), top))
    return np.asarray(page)


def _draw_tiles(tiles: Sequence[tuple[str, np.ndarray]], cell: int) -> np.ndarray:
    """Tiles of (caption, image (h, w, 3) uint8), about as many down as across, at least four across where there are."""
    font = caption_font(cell)
    down = -(-len(tiles) // max(FEWEST_ACROSS, math.isqrt(len(tiles) - 1) + 1))
    across = -(-len(tiles) // down)
    line = sum(font.getmetrics()) + 2 * GAP
    page = _blank(2 * MARGIN + across * (cell + GAP) - GAP, 2 * MARGIN + down * (cell + line))
    pen = ImageDraw.Draw(page)
    for index, (caption, image) in enumerate(tiles):
        left, top = MARGIN + index % across * (cell + GAP), MARGIN + index // across * (cell + line)
        page.paste(_enlarged(image, cell), (left, top))
        text = fit_caption(caption, lambda text: font.getlength(text) <= cell)
        pen.text((left + cell // 2, top + cell + GAP), text, fill=INK, font=font, anchor="ma")
    return np.asarray(page)


def _blank(width: int, height: int) -> Picture:
    return Image.new("RGB", (width, height), PAPER)


def _enlarged(image: np.ndarray, cell: int) -> Picture:
    """A picture whose longer side is brought to `cell` pixels: its pixels sharp where it grows."""
    height, width = image.shape[:2]
    longer = max(height, width)
    filter_ = Image.Resampling.NEAREST if cell >= longer else Image.Resampling.LANCZOS
    size = (round(width * cell / longer), round(height * cell / longer))
    return Image.fromarray(np.ascontiguousarray(image)).resize(size, filter_)


def caption_font(cell: int) -> FreeTypeFont:
    """The font of captions beside or below pictures of `cell` pixels a side."""
    font = ImageFont.load_default(size=min(max(14, cell // 5), LARGEST_LETTERS))
    assert not isinstance(font, ImageFont.ImageFont)
    return font


def fit_caption(caption: str, fits: Callable[[str], bool]) -> str:
    """`caption`, or its first synonym, or as many whole words of that as fit, or letters where not even one does."""
    first = caption.split(",")[0]
    words = first.split(" ")
    shorter = [f"{' '.join(words[:count])} …" for count in range(len(words) - 1, 0, -1)]
    letters = [f"{first[:count]}…" for count in range(len(words[0]) - 1, 0, -1)]
    return next((text for text in (caption, first, *shorter, *letters) if fits(text)), "")


def check_format(path: Path, what: str = "suffix of a picture") -> None:
    """Raise ValueError, with the nearest, for a suffix that no picture is written under."""
    if path.suffix.lower() not in FORMATS:
        raise unknown_name(what, path.suffix, FORMATS)


def save_grid(path: Path, rows: Sequence[tuple[str, np.ndarray]]) -> None:
    """Write the picture of `rows` in the format of the suffix (one of `FORMATS`), whole or not at all."""
    form, how = FORMATS[path.suffix.lower()]
    content = io.BytesIO()
    Image.fromarray(draw_grid(rows)).save(content, format=form, **how)
    write_whole(path, content.getbuffer())


def save_singles(folder: Path, rows: Sequence[tuple[str, np.ndarray]]) -> list[Path]:
    """Write every image of `rows` as a PNG of its own size, named by its class and its index there; the files."""
    written: dict[str, int] = {}
    files = []
    for caption, images in rows:
        name = re.sub(r"[^\w]+", "-", caption.split(",")[0]).strip("-") or "class"
        for image in images:
            index = written.setdefault(name, 0)
            written[name] += 1
            content = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(image)).save(content, format="png")
            files.append(folder / f"{name}_{index}.png")
            write_whole(files[-1], content.getbuffer())
    return files


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
