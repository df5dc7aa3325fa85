"""`arbench models`: every generator preset with its size, its sampling settings and what its paper reports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from arbench.generators.presets import Preset

EXAMPLES = """Examples:

  arbench models

  arbench models --json
"""
FOOTNOTE = """
FID and IS are the papers' own, from 50,000 images. Where a paper does not print the guidance that gave them (MAR's
Tables 1 and 3, par-xxl-16x), that of the nearest model stands in. `-`: not published, not released."""

AsJson = Annotated[bool, typer.Option("--json", help="Print the presets as one JSON array.")]


def register(app: typer.Typer) -> None:
    """Add `models` to the app."""
    app.command("models", epilog=EXAMPLES)(models)


def models(as_json: AsJson = False) -> None:
    """List the generator presets: parameters (counted), pixels, tokenizer, sampling settings, published FID and IS."""
    from arbench.generators.presets import PRESETS

    rows = [describe(preset) for preset in PRESETS.values()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = [tuple(rows[0]), *(tuple(map(cell, row.values())) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    print(FOOTNOTE)


def describe(preset: Preset) -> dict[str, Any]:
    """One preset as a row; None where there is nothing to say."""
    from arbench.weights.load import count_parameters

    published = preset.published
    return {
        "model": preset.name,
        "method": preset.method,
        "params_m": round(count_parameters(preset) / 1e6, 1),
        "pixels": preset.image_size,
        "tokenizer": preset.tokenizer,
        "weights": "shipped" if preset.shipped else preset.weights,
        "fid": published.fid if published else None,
        "is": published.inception_score if published else None,
        "source": published.source if published else None,
        "sampling": dict(preset.sampling),
    }


def cell(value: Any) -> str:
    """A value as it stands in the table; settings as on the command line."""
    if isinstance(value, dict):
        return " ".join(f"--{name.replace('_', '-')} {setting}" for name, setting in value.items())
    return "-" if value is None else str(value)
