"""What the page shows, as HTML that needs nothing from elsewhere: the images so far, and how they were made."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence

import numpy as np

from arbench.demo.choices import settings_text
from arbench.demo.drawing import COLD, Frame
from arbench.generators.methods import get_method, get_preset
from arbench.images.pixels import to_pil
from arbench.report.formats import table_element
from arbench.report.record import Record
from arbench.report.tables import records_table

SMALL_SIDE = 64  # pixels; smaller pictures are shown with sharp pixels
STYLE = """
.arbench { display: grid; grid-template-columns: minmax(0, 1fr); }
.arbench h3 { margin: 0 0 .15rem; font-size: 1.05rem; }
.arbench section { margin-bottom: 1.1rem; }
.arbench .clock { margin: 0 0 .35rem; font-size: .85rem; font-variant-numeric: tabular-nums; }
.arbench .clock b { white-space: nowrap; }
.arbench .bar { height: 3px; margin-bottom: .5rem; background: var(--border-color-primary); border-radius: 2px; }
.arbench .bar i { display: block; height: 100%; background: #2563eb; border-radius: 2px; }
.arbench .tiles { display: grid; gap: .4rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.arbench .tiles.small { grid-template-columns: repeat(auto-fill, minmax(3.6rem, 1fr)); max-width: 48rem; }
.arbench figure { margin: 0; }
.arbench img { display: block; width: 100%; margin: 0; border-radius: 3px; }
.arbench .small img { image-rendering: pixelated; }
.arbench figcaption { font-size: .75rem; text-align: center; line-height: 1.3; padding-top: .1rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.arbench .clock, .arbench figcaption, .arbench .quiet { opacity: .75; }
.arbench .wide { overflow-x: auto; }
.arbench table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
.arbench :is(table, thead, tbody, tr) { border: 0 !important; }
.arbench th, .arbench td { padding: .25rem .7rem .25rem 0; text-align: left; white-space: nowrap; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.arbench .number { text-align: right; }
.arbench .quiet, .arbench .footnotes, .arbench summary { font-size: .8rem; overflow-wrap: anywhere; }
.arbench ul, .arbench p.quiet { margin: .4rem 0; padding-left: 0; list-style: none; }
.arbench summary { cursor: pointer; }
.arbench pre { overflow-x: auto; font-size: .75rem; line-height: 1.35; }
"""


def gallery(frames: Sequence[Frame], captions: Sequence[str]) -> str:
    """One section a model: its name, its clock, its images with the `captions` (one an image) below them."""
    return _framed("".join(_section(frame, captions) for frame in frames))


def _section(frame: Frame, captions: Sequence[str]) -> str:
    label = get_method(get_preset(frame.model).method).label
    small = " small" if frame.images.shape[1] <= SMALL_SIDE else ""
    tiles = "".join(_tile(image, caption) for image, caption in zip(frame.images, captions, strict=True))
    return (
        f'<section data-model="{html.escape(frame.model)}" data-done="{int(frame.record is not None)}">'
        f"<h3>{html.escape(label)} · {html.escape(frame.model)}</h3>"
        f'<p class="clock">{clock(frame)}</p>'
        f'<div class="bar"><i style="width: {frame.revealed / frame.tokens:.1%}"></i></div>'
        f'<div class="tiles{small}">{tiles}</div></section>'
    )


def clock(frame: Frame) -> str:
    """Steps and tokens that are over, and once it has finished the time an image, in words."""
    text = f"step {frame.step} of {frame.steps} · {frame.revealed} of {frame.tokens} tokens"
    if frame.steps == 1:
        text = f"all {frame.tokens} tokens at once"
    if frame.record is None:
        return text
    return f"{text} · <b>{duration(frame.record['speed']['seconds_per_image'])} an image</b>"


def duration(seconds: float) -> str:
    """`seconds` with two or three digits, in the unit that suits."""
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _tile(image: np.ndarray, caption: str) -> str:
    stream = io.BytesIO()
    to_pil(image[None])[0].save(stream, "png")
    data = base64.b64encode(stream.getvalue()).decode()
    told = html.escape(caption)
    return f'<figure><img alt="{told}" src="data:image/png;base64,{data}"><figcaption>{told}</figcaption></figure>'


def protocol(records: Sequence[Record]) -> str:
    """The table row of each record, in words how they were made, and the records themselves to unfold."""
    if not records:
        return ""
    table = f'<div class="wide">{table_element(records_table(list(records)))}</div>'
    lines = "".join(
        f"<li>{html.escape(told)}</li>" for told in (common_words(records), *map(settings_and_files, records))
    )
    return _framed(f'{table}<ul class="quiet">{lines}</ul>{"".join(map(_unfold, records))}')


def common_words(records: Sequence[Record]) -> str:
    """What the records of one press of the button have in common, and which drew for the first time."""
    record = records[-1]
    left_out = record["speed"]["excludes"].removesuffix(COLD)
    dtype, torch = record["hardware"]["dtype"], record["versions"]["torch"]
    told = f"Seed {record['seed']}, {dtype}, torch {torch}; nothing is scored. The time leaves out {left_out}."
    cold = [one["model"] for one in records if one["speed"]["excludes"].endswith(COLD)]
    return f"{told} Drew for the first time, without a warm-up: {', '.join(cold)}." if cold else told


def settings_and_files(record: Record) -> str:
    """A model's settings, weights and tokenizer, with the start of their SHA-256."""
    weights = record["weights"]
    return (
        f"{record['model']}: {settings_text(record['sampling'])}; weights {_file(weights, '')}, "
        f"tokenizer {record['tokenizer']}: {_file(weights, 'tokenizer_')}"
    )


def _file(weights: Mapping[str, str | None], prefix: str) -> str:
    sha256 = weights.get(f"{prefix}sha256")
    return f"{weights.get(f'{prefix}file')}{f' ({sha256[:8]})' if sha256 else ''}"


def _unfold(record: Record) -> str:
    text = html.escape(json.dumps(record, indent=2, ensure_ascii=False))
    return f"<details><summary>record of {html.escape(record['model'])}</summary><pre>{text}</pre></details>"


def _framed(body: str) -> str:
    return f'<div class="arbench">{body}</div>'
