"""Pictures one after another as a film: a GIF, or an MP4 where ffmpeg is there."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from arbench.machine.files import one_line, whole_file, write_whole
from arbench.registry import unknown_name

GIF, MP4 = ".gif", ".mp4"
PALETTE_PICTURES = 8  # of the film, from which the colours of a GIF are chosen
GIF_TICK = 10  # milliseconds; a GIF counts in hundredths of a second
MP4_RATE = 25  # pictures a second


def check_film(text: str | Path) -> Path:
    """The file that a film goes to, its folder made. Raises ValueError for a suffix of no film, and for an MP4 where
    ffmpeg is not found; OSError where nothing can be written."""
    path = Path(text)
    if path.suffix.lower() not in (GIF, MP4):
        raise unknown_name("suffix of --film", path.suffix, (GIF, MP4))
    if path.suffix.lower() == MP4:
        find_ffmpeg(path)
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent} is no folder; expected one to write {path.name} into")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def find_ffmpeg(path: Path) -> str:
    """The program that writes MP4: on the PATH, else imageio-ffmpeg's. ValueError where there is neither."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        told = "ffmpeg is not here; expected it on the PATH, or pip install imageio-ffmpeg, or a .gif"
        raise ValueError(f"{path}: {told}") from None


def write_film(path: Path, pictures: Sequence[np.ndarray], durations: Sequence[float]) -> None:
    """Write `pictures` (H, W, 3) uint8 of one size, each shown for its seconds, whole or not at all.

    Raises OSError where the file cannot be written, or ffmpeg cannot make it.
    """
    if path.suffix.lower() == GIF:
        write_whole(path, gif(pictures, durations))
    else:
        with whole_file(path) as partial:
            _write_mp4(find_ffmpeg(path), partial, pictures, durations)


def gif(pictures: Sequence[np.ndarray], durations: Sequence[float]) -> memoryview:
    """A GIF that goes round and round, in 256 colours that are chosen once: where nothing changes, nothing flickers."""
    colours = _palette(pictures)
    frames = [Image.fromarray(picture).quantize(palette=colours, dither=Image.Dither.NONE) for picture in pictures]
    shown = [GIF_TICK * max(1, round(1000 * seconds / GIF_TICK)) for seconds in durations]
    content = io.BytesIO()
    frames[0].save(
        content, format="gif", save_all=True, append_images=frames[1:], duration=shown, loop=0, optimize=True
    )
    return content.getbuffer()


def _palette(pictures: Sequence[np.ndarray]) -> Image.Image:
    """The colours of some of the pictures, and that of the paper in the first one's corner just as it is."""
    chosen = np.unique(np.linspace(0, len(pictures) - 1, PALETTE_PICTURES).round().astype(int))
    found = Image.fromarray(np.concatenate([pictures[index] for index in chosen])).quantize(255).getpalette()
    assert found is not None
    palette = Image.new("P", (1, 1))
    palette.putpalette([*found[: 3 * 255], *pictures[0][0, 0].tolist()])
    return palette


def _write_mp4(ffmpeg: str, path: Path, pictures: Sequence[np.ndarray], durations: Sequence[float]) -> None:
    """H.264 with sides of even length, as players want it; every picture is repeated for as long as it is shown."""
    height, width = (side - side % 2 for side in pictures[0].shape[:2])
    command = [ffmpeg, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-r", str(MP4_RATE), "-i", "-", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-f", "mp4", str(path)]
    raw = bytearray()
    for picture, seconds in zip(pictures, durations, strict=True):
        raw += picture[:height, :width].tobytes() * max(1, round(seconds * MP4_RATE))
    done = subprocess.run(command, input=bytes(raw), capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise OSError(f"ffmpeg could not write the film: {one_line(OSError(last or f'status {done.returncode}'))}")
