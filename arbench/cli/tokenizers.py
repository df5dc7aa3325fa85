"""`arbench tokenizers`: the installed tokenizers, their conformance test, reconstructions and latent statistics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from arbench.cli import options
from arbench.cli.screen import print_columns

if TYPE_CHECKING:
    import torch

    from arbench.images.data import ImageData
    from arbench.protocols import Tokenizer

LIST_EXAMPLES = """Examples:

  arbench tokenizers list

  arbench tokenizers check digits-vq

  arbench tokenizers check my_package.my_module:MyTokenizer
"""
CHECK_EXAMPLES = """Examples:

  arbench tokenizers check digits-kl

  arbench tokenizers check kl16 --tokenizer-weights kl16.ckpt --size 256 --device cuda
"""
RECONSTRUCT_EXAMPLES = """Examples:

  arbench tokenizers reconstruct digits-vq --out digits-vq.png

  arbench tokenizers reconstruct kl16 --tokenizer-weights kl16.ckpt --data imagenet/val --size 256 --device cuda
"""
STATS_EXAMPLES = """Examples:

  arbench tokenizers stats digits-kl

  arbench tokenizers stats diffusers:stabilityai/sd-vae-ft-mse --data imagenet/train --size 256 --num-images 10000
"""
DEFAULT_SIZE = 256  # of a folder's images; digits have their own
TOKENS_A_SIDE = 8  # of the images that `check` uses, unless --size says otherwise
CHECK_IMAGES = 3
SHOWN_IMAGES = 8  # in the picture of `reconstruct`
DIFFERENCE_GAIN = 4

Name = Annotated[str, typer.Argument(help="An installed tokenizer, module:Class, or diffusers:ID.", show_default=False)]
Size = Annotated[Optional[int], typer.Option("--size", min=1, help="Image side in pixels (ADM's crop).")]
Split = Annotated[Optional[str], typer.Option("--split", help="Of the digits: train or heldout.")]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")]
Extractor = Annotated[
    Optional[str],
    typer.Option("--extractor", help="For rFID: inception, digits-cnn (the default for digits) or none."),
]
InceptionWeights = Annotated[Optional[str], typer.Option("--inception-weights", help="Inception's weights file.")]


def register(app: typer.Typer) -> None:
    """Add the group `tokenizers` to the app."""
    group = typer.Typer(rich_markup_mode=None)
    group.callback(invoke_without_command=True, epilog=LIST_EXAMPLES)(list_tokenizers)
    group.command("list", epilog=LIST_EXAMPLES)(list_tokenizers)
    group.command("check", epilog=CHECK_EXAMPLES)(check)
    group.command("reconstruct", epilog=RECONSTRUCT_EXAMPLES)(reconstruct)
    group.command("stats", epilog=STATS_EXAMPLES)(stats)
    group.command("measure", epilog=STATS_EXAMPLES, help="The same as `stats`.")(stats)
    app.add_typer(group, name="tokenizers")


def list_tokenizers(context: typer.Context) -> None:
    """List the installed tokenizers: kind, size of a token, where their weights come from."""
    if context.invoked_subcommand is not None:
        return
    from arbench.registry import TOKENIZERS

    rows = [_describe(name) if TOKENIZERS.is_own(name) else _stranger(name) for name in TOKENIZERS.installed()]
    print_columns([("name", "kind", "pixels a token", "tokens", "from", "weights"), *rows])
    typer.echo("\nmodule:Class takes any other class; tokenizers/README.md writes one.")


def _stranger(name: str) -> tuple[str, ...]:
    """The row of a plug-in that does not ship with arbench, by what its package says: it is not imported."""
    from arbench.registry import TOKENIZERS

    return (name, "?", "?", "?", TOKENIZERS.package(name), f"arbench tokenizers check {name}")


def _describe(name: str) -> tuple[str, ...]:
    """The row of one that ships with arbench."""
    from arbench.registry import TOKENIZERS
    from arbench.tokenizer.load import find_tokenizer

    package, build = TOKENIZERS.package(name), find_tokenizer(name)
    if hasattr(build, "from_id"):
        return (f"{name}:ID", *["of the model"] * 3, package, "a folder or a Hugging Face id")
    known = {member: _plain(build, member) for member in ("kind", "downsample", "channels", "vocab_size")}
    codes = f"{known['vocab_size']} codes of " if known["vocab_size"] else ""
    tokens = f"{codes}{known['channels'] or '?'}{'' if codes else ' channels'}"
    side = str(known["downsample"] or "?")
    return (name, str(known["kind"] or "?"), side, tokens, package, _weights_state(name))


def _plain(build: object, member: str) -> int | str | None:
    """A class's own value of a member; None where only an instance has it."""
    value = getattr(build, member, None)
    return value if isinstance(value, (int, str)) else None


def _weights_state(name: str) -> str:
    from arbench.weights.cards import cards_for, find_weights, how_to_get, shipped_file

    found, cards = find_weights(name), cards_for(name)
    if found is not None:
        return f"shipped ({found.stat().st_size / 2**20:.1f} MiB)" if shipped_file(name) else str(found)
    return f"not here: {how_to_get(cards[0])}" if cards else "its own"


def check(
    name: Name,
    tokenizer_weights: options.TokenizerWeights = None,
    size: Size = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
) -> None:
    """Test a tokenizer against the protocol on a few real images, and print what passed.

    A plug-in that cannot be imported in a minute fails.
    """
    from arbench.images.data import open_data
    from arbench.images.pixels import to_float
    from arbench.machine.hardware import resolve_device
    from arbench.registry import IMPORT_SECONDS, time_limit
    from arbench.tokenizer.conformance import check_tokenizer
    from arbench.tokenizer.load import find_tokenizer

    with time_limit(IMPORT_SECONDS):
        find_tokenizer(name)
    tokenizer, weights = _open(name, tokenizer_weights, device, dtype, random_allowed=True)
    side = size or TOKENS_A_SIDE * int(tokenizer.downsample)
    images = to_float(open_data("digits", split="heldout", size=side).images(range(CHECK_IMAGES))).to(
        resolve_device(device)
    )
    checks = check_tokenizer(tokenizer, images, trained=weights != "random")
    typer.echo(f"{name}, weights {weights}, {len(images)} images of {side} px")
    print_columns([("check", "outcome", "seen"), *((item.name, item.outcome, item.detail) for item in checks)])
    failed = [item.name for item in checks if item.outcome == "failed"]
    if failed:
        raise ValueError(f"tokenizer {name!r} failed {len(failed)} of {len(checks)} checks: {', '.join(failed)}")


def reconstruct(
    name: Name,
    tokenizer_weights: options.TokenizerWeights = None,
    data: options.Data = None,
    split: Split = None,
    size: Size = None,
    num_images: options.NumImages = None,
    batch_size: Batch = 16,
    extractor: Extractor = None,
    inception_weights: InceptionWeights = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    out: options.Out = None,
) -> None:
    """Measure reconstructions: rFID, PSNR, SSIM, codebook use; draw originals and reconstructions side by side.

    --out is the picture; the scores and their protocol lie beside it as JSON.
    """
    from arbench.images.data import DIGITS
    from arbench.machine.hardware import resolve_device
    from arbench.machine.progress import image_progress
    from arbench.runs.grid import check_format
    from arbench.tokenizer.reconstruction import measure_reconstruction

    picture = out or Path(f"reconstruct-{name.replace(':', '-').replace('/', '-')}.png")
    check_format(picture, "suffix of --out")
    place = resolve_device(device)
    tokenizer, weights = _open(name, tokenizer_weights, device, dtype)
    images = _data(data, split or "heldout", size, num_images)
    network = extractor or ("digits-cnn" if images.name.startswith(DIGITS) else "inception")
    with image_progress(f"{name} on {images.name}", len(images), 0) as progress:
        scores = measure_reconstruction(
            tokenizer,
            images,
            extractor=None if network == "none" else network,
            batch_size=batch_size,
            device=place,
            inception_weights=inception_weights,
            progress=progress,
        )
    _draw(picture, name, tokenizer, images, place)
    result = {"tokenizer": name, "weights": weights, "data": images.name, **scores}
    from arbench.machine.files import write_whole

    write_whole(picture.with_suffix(".json"), json.dumps(result, indent=2) + "\n")
    print_columns([(key, _number(value)) for key, value in result.items() if not isinstance(value, dict)])
    typer.echo(f"picture {picture}, scores and protocol {picture.with_suffix('.json')}")


def stats(
    name: Name,
    tokenizer_weights: options.TokenizerWeights = None,
    data: options.Data = None,
    split: Split = None,
    size: Size = None,
    num_images: options.NumImages = None,
    batch_size: Batch = 16,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
) -> None:
    """Measure mean and deviation of the latents, and the scale that brings them to unit deviation."""
    from arbench.machine.hardware import resolve_device
    from arbench.machine.progress import image_progress
    from arbench.tokenizer.latents import latent_statistics

    tokenizer, _ = _open(name, tokenizer_weights, device, dtype)
    images = _data(data, split or "train", size, num_images)
    with image_progress(f"{name} on {images.name}", len(images), 0) as progress:
        found = latent_statistics(
            tokenizer, images, batch_size=batch_size, device=resolve_device(device), progress=progress
        )
    typer.echo(f"{name}: latents of {found.num_images} images of {images.name}, before scaling")
    channels = zip(found.channel_mean, found.channel_std, strict=True)
    rows = [(f"channel {index}", f"{mean:.4f}", f"{std:.4f}") for index, (mean, std) in enumerate(channels)]
    print_columns([("", "mean", "deviation"), *rows, ("all", f"{found.mean:.4f}", f"{found.std:.4f}")])
    typer.echo(f"by channel: shift {_numbers(found.channel_mean)}, scale {_numbers(found.channel_scale)}")
    typer.echo(f"scale to use: {found.scale:.4f} (this tokenizer has {_numbers(tokenizer.scale)})")


def _open(name: str, weights: str | None, device: str, dtype: str, *, random_allowed: bool = False) -> tuple[Any, str]:
    """The tokenizer with the weights given, shipped or found on this machine, and what these are called.

    Raises ValueError, with how to get them, where a released tokenizer has none here and `random_allowed` is not set.
    """
    from arbench.machine.allocator import keep_freed_memory
    from arbench.machine.hardware import resolve_dtype
    from arbench.runs.choice import find_tokenizer_weights
    from arbench.tokenizer.load import load_tokenizer

    keep_freed_memory()
    chosen = weights or find_tokenizer_weights(name, may_be_random=random_allowed)
    tokenizer = load_tokenizer(name, weights=chosen, device=device, dtype=resolve_dtype(dtype))
    return tokenizer, "its own" if chosen is None else Path(chosen).name


def _data(source: str | None, split: str, size: int | None, num_images: int | None) -> ImageData:
    """The images asked for; of more than `num_images`, so many spread evenly over the classes' order."""
    import numpy as np

    from arbench.images.data import DIGITS, ImageData, open_data

    if source in (None, DIGITS):
        images = open_data(DIGITS, split=split, size=size)
        images.name = f"{DIGITS}-{split}"
    else:
        images = open_data(str(source), size=size or DEFAULT_SIZE)
    if num_images is None or num_images == len(images):
        return images
    if not 0 < num_images <= len(images):
        raise ValueError(f"--num-images {num_images}: {images.name} has {len(images)} images")
    chosen = np.linspace(0, len(images) - 1, num_images).round().astype(int)
    return ImageData(images.name, images.labels[chosen], images.class_names, lambda i: images[int(chosen[i])][0])


def _draw(path: Path, name: str, tokenizer: Tokenizer, images: ImageData, device: torch.device) -> None:
    """Originals, reconstructions and their difference as one picture."""
    import numpy as np

    from arbench.runs.grid import save_grid
    from arbench.tokenizer.reconstruction import reconstruct as through

    shown = images.images(np.linspace(0, len(images) - 1, min(SHOWN_IMAGES, len(images))).round().astype(int))
    back, _ = through(tokenizer, shown, device)
    difference = np.clip(np.abs(back.astype(int) - shown.astype(int)) * DIFFERENCE_GAIN, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_grid(path, [("original", shown), (name, back), (f"difference x{DIFFERENCE_GAIN}", difference)])


def _numbers(value: object) -> str:
    """A number, or numbers a channel, as one writes them into a tokenizer."""
    import torch

    values = torch.as_tensor(value)
    return f"[{', '.join(f'{one:.4f}' for one in values.flatten())}]" if values.ndim else f"{float(values):.4f}"


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
