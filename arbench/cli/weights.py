"""`arbench weights`: the released files, their download, inspection and conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from arbench.cli import options
from arbench.cli.screen import print_columns

if TYPE_CHECKING:
    from arbench.generators.cards import WeightsCard
    from arbench.weights.contents import Contents

LIST_EXAMPLES = """Examples:

  arbench weights list

  arbench weights get mar-b

  arbench weights verify checkpoint-last.pth
"""
GET_EXAMPLES = """Examples:

  arbench weights get mar-b llamagen-vq

  ARBENCH_WEIGHTS=/data/weights arbench weights get ar-xl-384
"""
VERIFY_EXAMPLES = """Examples:

  arbench weights verify checkpoint-last.pth --which raw

  arbench weights verify mar-b
"""
CONVERT_EXAMPLES = """Examples:

  arbench weights convert checkpoint-last.pth mar-b.safetensors

  arbench weights convert mar-b.safetensors mar-b.pdparams

  arbench weights convert c2i_B_256.pt fsdp.pth --layout fsdp
"""
FLOAT32_BYTES = 4
LEGEND = "`~`: one set in float32, computed. `-`: not published, recorded at the download."

Names = Annotated[list[str], typer.Argument(help="Weights cards, as `arbench weights` lists them.", show_default=False)]
Source = Annotated[str, typer.Argument(help="A weights file, or the name of a card that is on this machine.")]
Target = Annotated[Path, typer.Argument(help="File to write: .safetensors, .pth, .pt, .ckpt or .pdparams.")]
OneSet = Annotated[Optional[str], typer.Option("--which", help="Take ema or raw alone; default: as the format holds.")]
Layout = Annotated[
    Optional[str], typer.Option("--layout", help="Wrapper of a torch file: ddp, fsdp, deepspeed, lightning or mar.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the target if it is there.")]


def register(app: typer.Typer) -> None:
    """Add the group `weights` to the app."""
    group = typer.Typer(rich_markup_mode=None)
    group.callback(invoke_without_command=True, epilog=LIST_EXAMPLES)(list_weights)
    group.command("list", epilog=LIST_EXAMPLES)(list_weights)
    group.command("get", epilog=GET_EXAMPLES)(get)
    group.command("verify", epilog=VERIFY_EXAMPLES)(verify)
    group.command("convert", epilog=CONVERT_EXAMPLES)(convert_file)
    app.add_typer(group, name="weights")


def list_weights(context: typer.Context) -> None:
    """List the known weights: source, size, licence, SHA-256, and which are on this machine."""
    if context.invoked_subcommand is not None:
        return
    from arbench.generators.cards import weights_home
    from arbench.weights.cards import all_cards

    rows = [_card_row(card) for card in all_cards().values()]
    headings = ("name", "here", "file", "size", "licence", "SHA-256", "source")
    print_columns([headings, *rows])
    typer.echo()
    for note in dict.fromkeys(card.note for card in all_cards().values() if card.note):
        typer.echo(f"{', '.join(card.name for card in all_cards().values() if card.note == note)}: {note}.")
    typer.echo(f"\nFiles lie in {weights_home()} ($ARBENCH_WEIGHTS). {LEGEND}")


def _card_row(card: WeightsCard) -> tuple[str, ...]:
    from arbench.weights.download import recorded_sha256

    here = card.path.is_file()
    sha256 = card.sha256 or (recorded_sha256(card.path) if here else None)
    source = card.source if card.urls else f"{card.source} (by hand)"
    return (
        card.name,
        "yes" if here else "no",
        card.file,
        _size(card.path.stat().st_size) if here else _size_of_card(card),
        card.licence,
        "-" if sha256 is None else f"{sha256[:12]}...",
        source,
    )


def _size_of_card(card: WeightsCard) -> str:
    """A file's size beforehand: published, else what a generator's parameters take, else unknown."""
    from arbench.generators.methods import presets
    from arbench.weights.load import count_parameters

    if card.size is not None:
        return _size(card.size)
    preset = presets().get(card.loads[0])
    return "-" if preset is None else f"~{_size(FLOAT32_BYTES * count_parameters(preset))}"


def _size(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)


def get(names: Names) -> None:
    """Download weights: resumed where it broke off, verified, SHA-256 recorded beside the file."""
    from arbench.weights.cards import get_card
    from arbench.weights.download import get_weights, recorded_sha256
    from arbench.weights.read import read_tensors

    for card in [get_card(name) for name in names]:
        typer.echo(f"{card.name}: {card.source}, licence: {card.licence}{f'; {card.note}' if card.note else ''}")
        with _progress(card.name) as advance:
            path, fresh = get_weights(card, check=read_tensors, on_progress=advance)
        verdict = "downloaded and verified" if fresh else "already here and unchanged"
        typer.echo(f"{card.name}: {verdict}: {path} ({_size(path.stat().st_size)}, SHA-256 {recorded_sha256(path)})")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar of bytes on a terminal's standard error; gives what the download tells its progress to."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def verify(source: Source, which: options.Which = "ema") -> None:
    """Say what a weights file holds, and whether it is whole: format, family, configuration, parameters, SHA-256."""
    from arbench.weights.contents import describe

    contents = describe(_find(source), which=which)
    sets = [f"{held}{'  (looked into)' if held.name == contents.chosen else ''}" for held in contents.sets]
    lines = {
        "file": f"{contents.path} ({_size(contents.size)}, {contents.format})",
        "sha256": f"{contents.sha256}{_known(contents)}",
        "holds": "\n           ".join(sets),
        "family": contents.family,
        "config": _config(contents.config),
        "loads as": ", ".join(contents.presets) or _family_alone(contents),
        "names": "complete: every name and shape of its family",
        "values": f"{contents.num_bad} are NaN or infinite" if contents.num_bad else "all finite",
    }
    for heading, text in lines.items():
        typer.echo(f"{heading:<10} {text}")
    _require_sound(contents)


def _family_alone(contents: Contents) -> str:
    """How Python loads a file that is of no preset: with what its tensors do not tell."""
    untold = "heads=..." if "num_tokens" in contents.config else "heads=..., grid=..."
    return f'no preset; arbench.load_generator("{contents.family}", weights=..., {untold})'


def _require_sound(contents: Contents) -> None:
    """Raise ValueError for a file that changed since its download, or whose weights are not all numbers."""
    from arbench.weights.download import recorded_sha256

    recorded = recorded_sha256(contents.path)
    if recorded not in (None, contents.sha256):
        raise ValueError(
            f"{contents.path}: changed since its download: SHA-256 is {contents.sha256}, expected {recorded}"
        )
    if contents.num_bad:
        raise ValueError(f"{contents.path}: {contents.num_bad} values are NaN or infinite")


def _find(source: str) -> Path:
    """The file that is meant: a path, or a card's file where no such path exists. ValueError where neither is there."""
    from arbench.registry import unknown_name
    from arbench.weights.cards import all_cards, how_to_get

    path = Path(source)
    if path.exists() or path.suffix:
        return path
    if source not in all_cards():
        raise unknown_name("file or weights card", source, all_cards())
    card = all_cards()[source]
    if not card.path.is_file():
        raise ValueError(f"{source} is not on this machine: {how_to_get(card)}")
    return card.path


def _config(config: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in config.items())


def _known(contents: Contents) -> str:
    """Whether the hash is the one that a card or a download's record tells."""
    from arbench.weights.cards import all_cards
    from arbench.weights.download import recorded_sha256

    card = next((card.name for card in all_cards().values() if card.sha256 == contents.sha256), None)
    recorded = recorded_sha256(contents.path)
    if card is not None:
        return f" (that of {card})"
    return " (as recorded)" if recorded == contents.sha256 else ""


def convert_file(
    source: Source, target: Target, which: OneSet = None, layout: Layout = None, force: Force = False
) -> None:
    """Write weights in another format: safetensors, a torch checkpoint or Paddle's pdparams."""
    from arbench.weights.convert import convert

    path = _find(source)
    family = convert(path, target, which=which, layout=layout, overwrite=force)
    typer.echo(f"{target}: {family} weights of {path} ({_size(target.stat().st_size)})")
