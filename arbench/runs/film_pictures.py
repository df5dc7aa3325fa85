"""The pictures of a film: every model's images with its steps and its clock, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from arbench.report.values import method_name
from arbench.runs.film import Reel, Shot
from arbench.runs.grid import GAP, INK, MARGIN, PAPER, cell_size, draw_grid

FILM_SECONDS = 6.0
LAST_SECONDS = 2.5  # how long the finished images stand
MOST_WIDE = 720  # pixels of a picture
SMALLEST_TILE = 32
TITLE, TEXT = 17, 14  # sizes of letters
NOTE = "s: measured seconds of the steps so far, without decoding"


def film_pictures(reels: Sequence[Reel], count: int) -> tuple[list[np.ndarray], list[float]]:
    """(H, W, 3) uint8 pictures of one size, `count` and the first, and how many seconds each is shown.

    Every reel runs from its first shot to its last, however long it took: that is told by its clock.
    """
    cell = tile_size(reels)
    pictures = [_picture([(reel, reel.at(shown / count)) for reel in reels], cell) for shown in range(count + 1)]
    return pictures, [FILM_SECONDS / count] * count + [LAST_SECONDS]


def tile_size(reels: Sequence[Reel]) -> int:
    """Pixels a side of one image in a film of `reels`, so that its picture is no wider than MOST_WIDE.

    Small images are enlarged by a whole factor.
    """
    side = max(max(reel.shots[-1].images.shape[1:3]) for reel in reels)
    cell = cell_size(side)
    while cell > SMALLEST_TILE and _picture([(reel, reel.shots[-1]) for reel in reels], cell).shape[1] > MOST_WIDE:
        cell = cell - side if cell > side else max(SMALLEST_TILE, cell * 7 // 8)
    return cell


def _picture(shown: Sequence[tuple[Reel, Shot]], cell: int) -> np.ndarray:
    """The panels of all reels, about as many down as across, and what the clock counts."""
    panels = [_panel(reel, shot, cell) for reel, shot in shown]
    across = math.ceil(math.sqrt(len(panels)))
    width, height = max(panel.width for panel in panels), max(panel.height for panel in panels)
    font = ImageFont.load_default(size=TEXT - 1)
    note = -(-TEXT * 3 // 2)
    wide = max(across * width, 2 * MARGIN + math.ceil(font.getlength(NOTE)))
    page = Image.new("RGB", (wide, -(-len(panels) // across) * height + note + GAP), PAPER)
    for place, panel in enumerate(panels):
        page.paste(panel, (place % across * width, place // across * height))
    ImageDraw.Draw(page).text((MARGIN, page.height - note), NOTE, fill=INK, font=font)
    return np.asarray(page)


def _panel(reel: Reel, shot: Shot, cell: int) -> Image.Image:
    """The model's name, its step and its clock over its images."""
    tiles = [(name, image[None]) for name, image in zip(reel.captions, shot.images, strict=True)]
    grid = Image.fromarray(draw_grid(tiles, cell))
    title, text = ImageFont.load_default(size=TITLE), ImageFont.load_default(size=TEXT)
    top = TITLE + TEXT + 3 * GAP
    name = f"{method_name(reel.method)} · {reel.model}"
    longest = max(title.getlength(name), text.getlength(_clock(reel, reel.shots[-1])))  # as wide in every picture
    wide = max(grid.width, 2 * MARGIN + int(longest) + TEXT)
    page = Image.new("RGB", (wide, top + grid.height), PAPER)
    page.paste(grid, (0, top))
    pen = ImageDraw.Draw(page)  # within the upper margin of the grid too
    pen.text((MARGIN, MARGIN // 2), name, fill=INK, font=title)
    pen.text((MARGIN, MARGIN // 2 + TITLE + GAP), _clock(reel, shot), fill=INK, font=text)
    return page


def _clock(reel: Reel, shot: Shot) -> str:
    return f"step {shot.step} of {reel.steps} · {shot.seconds:.2f} s"
