"""`arbench models`: every generator preset with its size, settings and published values; the check of a generator."""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from arbench.cli.screen import print_columns
from arbench.settings import as_option

if TYPE_CHECKING:
    from arbench.generators.spec import Preset

EXAMPLES = """Examples:

  arbench models

  arbench models 'mar*' '*-384'

  arbench models --json
"""
CHECK_EXAMPLES = """Examples:

  arbench models check mar

  arbench models check mypackage:METHOD
"""
FOOTNOTE = """
FID and IS are the papers' own, from 50,000 images. Where a paper does not print the guidance that gave them (MAR's
Tables 1 and 3, par-xxl-16x), that of the nearest model stands in. `-`: not published, not released."""
SAMPLER_NOTE = "`--head-sampler {name}`: {meaning}."

Patterns = Annotated[
    Optional[list[str]],
    typer.Argument(metavar="NAME", help="Names or shell patterns, e.g. 'mar*'; all by default.", show_default=False),
]
Name = Annotated[
    str, typer.Argument(help="A method, a preset, or module:Name of an arbench.Method.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the presets as one JSON array.")]


class Listing(TyperGroup):
    """A group whose arguments are those of `list` where they name none of its commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] != ["--help"] and (not args or args[0] not in self.commands):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the group `models` to the app."""
    group = typer.Typer(cls=Listing, rich_markup_mode=None)
    group.command("list", epilog=EXAMPLES)(models)
    group.command("check", epilog=CHECK_EXAMPLES)(check)
    told = "List the generator presets; check a generator against the protocol."
    app.add_typer(group, name="models", help=told, epilog=EXAMPLES)


def models(patterns: Patterns = None, as_json: AsJson = False) -> None:
    """List the generator presets: parameters (counted), pixels, tokenizer, sampling settings, published FID and IS."""
    chosen = matching(patterns or ["*"])
    rows = [describe(preset) for preset in chosen]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = [tuple(rows[0]), *(tuple(map(cell, row.values())) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    print(FOOTNOTE)
    print(sampler_notes(chosen))
    tell_unusable()


def tell_unusable() -> None:
    """A line on standard error for each plug-in that cannot be used."""
    from arbench.generators.methods import unusable

    for line in unusable():
        print(f"note: {line}", file=sys.stderr)


def check(name: Name) -> None:
    """Test a generator against the protocol with tiny models of random weights, and print what passed."""
    from arbench.runs.conformance import check_generator, find_checked

    method, config = find_checked(name)
    checks = check_generator(method, config)
    print_columns([(item.name, item.outcome, item.detail) for item in checks])
    failed = [item.name for item in checks if item.outcome == "failed"]
    if failed:
        raise ValueError(f"method {name!r} failed {len(failed)} of {len(checks)} checks: {', '.join(failed)}")


def matching(patterns: Sequence[str]) -> list[Preset]:
    """The presets whose name any of the shell patterns fits, in their order. ValueError for one that fits none."""
    from arbench.generators.methods import presets
    from arbench.registry import unknown_name

    known = presets()
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise unknown_name("model or pattern", pattern, known)
    return [preset for name, preset in known.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def sampler_notes(presets: Iterable[Preset]) -> str:
    """What the samplers that the presets name are, a line each."""
    from arbench.settings import HEAD_SAMPLERS

    named = dict.fromkeys(preset.sampling.get("head_sampler") for preset in presets)
    return "\n".join(SAMPLER_NOTE.format(name=name, meaning=HEAD_SAMPLERS[name]) for name in named if name)


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


def cell(value: object) -> str:
    """A value as it stands in the table; settings as on the command line."""
    if isinstance(value, dict):
        return " ".join(as_option(name, setting) for name, setting in value.items())
    return "-" if value is None else str(value)
