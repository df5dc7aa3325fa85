"""`arbench eval`: metrics of images that are already there, and reference files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from arbench.cli import options
from arbench.evaluation.table import METRICS

EXAMPLES = """Examples:

  arbench eval runs/mar-digits-0123456789 --reference digits-heldout

  arbench eval samples.npz --reference adm-train-256 --metrics fid,is,precision,recall,sfid

  arbench eval --make-reference imagenet/val --size 256 --split val --out val-256-crop.npz
"""

Images = Annotated[Optional[str], typer.Argument(help="A folder of PNG files, an npz with arr_0, or a run folder.")]
Extractor = Annotated[
    Optional[str],
    typer.Option("--extractor", help="inception, digits-cnn (for digits references), module:Class; or several: a,b."),
]
Metrics = Annotated[
    Optional[str],
    typer.Option("--metrics", help=f"Comma-separated: {' '.join(METRICS)}."),
]
InceptionWeights = Annotated[
    Optional[Path], typer.Option("--inception-weights", help="torch-fidelity's Inception weights; else downloaded.")
]
MakeReference = Annotated[
    Optional[Path], typer.Option("--make-reference", help="Write a reference npz of this folder's pictures to --out.")
]
Crop = Annotated[str, typer.Option("--crop", help="How real pictures are brought to size: adm, resize or none.")]
Size = Annotated[Optional[int], typer.Option("--size", help="With --make-reference: side in pixels.")]
Split = Annotated[Optional[str], typer.Option("--split", help="With --make-reference: train or val.")]
BatchSize = Annotated[Optional[int], typer.Option("--batch-size", min=1, help="Images the extractor sees at once.")]
Reconstructions = Annotated[bool, typer.Option("--reconstructions", help="The images are reconstructions (rFID).")]
Cache = Annotated[Optional[Path], typer.Option("--cache", help="Folder that keeps features between evaluations.")]


def register(app: typer.Typer) -> None:
    """Add `eval` to the app."""
    app.command("eval", epilog=EXAMPLES)(evaluate)


def evaluate(
    images: Images = None,
    reference: options.Reference = None,
    extractor: Extractor = None,
    metrics: Metrics = None,
    num_images: options.NumImages = None,
    batch_size: BatchSize = None,
    inception_weights: InceptionWeights = None,
    device: options.Device = "auto",
    crop: Crop = "adm",
    reconstructions: Reconstructions = False,
    cache: Cache = None,
    out: options.Out = None,
    make_reference: MakeReference = None,
    size: Size = None,
    split: Split = None,
) -> None:
    """Score images against a reference: FID, IS, precision, recall, KID, sFID, with intervals and protocol.

    --out writes everything as JSON. With --make-reference a reference file is written instead.
    """
    if make_reference is not None:
        if images is not None or reference is not None or out is None:
            raise ValueError("--make-reference DIR needs --out FILE.npz, and takes no IMAGES and no --reference")
        made_as = {"size": size, "crop": crop, "split": split}
        return _make_reference(make_reference, out, extractor or "inception", inception_weights, device, made_as)
    if images is None or reference is None:
        raise ValueError("expected IMAGES and --reference, e.g. arbench eval samples.npz --reference adm-train-256")
    if size is not None or split is not None:
        raise ValueError("--size and --split belong to --make-reference")
    settings: dict[str, Any] = {
        "extractor": extractor or _usual_extractor(reference),
        "metrics": None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()],
        "inception_weights": inception_weights,
        "crop": crop,
        "reconstructions": reconstructions,
        "cache": cache,
        **({} if batch_size is None else {"batch_size": batch_size}),
    }
    result = _evaluate(images, reference, num_images, device, settings)
    _show(result)
    if out is not None:
        from arbench.machine.files import write_whole

        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, json.dumps(result, indent=2) + "\n")


def _evaluate(
    images: str, reference: str, num_images: int | None, device: str, settings: dict[str, Any]
) -> dict[str, Any]:
    from arbench.evaluation import metrics, sources
    from arbench.machine.hardware import resolve_device
    from arbench.machine.progress import image_progress

    source = sources.open_images(images).first(num_images)
    with image_progress("scoring", source.count, 0) as progress:
        return metrics.evaluate(
            source,
            reference,
            device=resolve_device(device),
            progress=progress,
            phase=progress.phase,
            **settings,
        )


def _make_reference(
    folder: Path, out: Path, extractor: str, weights: Path | None, device: str, settings: dict[str, Any]
) -> None:
    from arbench.evaluation.extractors import load_extractor
    from arbench.evaluation.reference import make_reference
    from arbench.images.data import existing_folder
    from arbench.images.listing import list_images
    from arbench.machine.hardware import resolve_device
    from arbench.machine.progress import image_progress

    count = len(list_images(existing_folder(folder)))
    network = load_extractor(extractor, weights=weights, device=resolve_device(device))
    with image_progress("features", count, 0) as advance:
        made = make_reference(folder, out, network, progress=advance, **settings)
    kept = made.images.count if made.images else 0
    typer.echo(f"{out}: statistics of {made.count} images by {extractor}, {kept} images kept, sha256 {made.sha256}")
    for line in made.notes:
        typer.echo(f"note: {line}")


def _show(result: dict[str, Any]) -> None:
    """What each extractor says."""
    _show_scores(result, result["metric_protocol"])
    for scored in result.get("other_extractors", {}).values():
        typer.echo()
        _show_scores(scored["metrics"], scored["metric_protocol"])


def _show_scores(scores: dict[str, Any], protocol: dict[str, Any]) -> None:
    """The scores as a small table, then how they were made, then what to question."""
    measured = protocol["measured"]
    names = {"fid": protocol["fid_name"], "is_mean": "IS", "sfid": "s" + protocol["fid_name"], "kid": "KID"}
    for name, value in scores.items():
        if not isinstance(value, (int, float)) or name.endswith("_std") or name == "duplicates":
            continue
        deviation = scores.get(f"{name.removesuffix('_mean')}_std")
        shown = f"{value:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
        span = measured["intervals"].get(name)
        interval = "" if span is None else f"95 % in {span[0]:.4f} to {span[1]:.4f}"
        typer.echo(f"{names.get(name, name):<16}{shown:<22}{interval}".rstrip())
    typer.echo(_protocol_line(protocol))
    for line in measured["notes"]:
        typer.echo(f"note: {line}")
    for line in protocol["warnings"]:
        typer.echo(f"warning: {line}", err=True)


def _protocol_line(protocol: dict[str, Any]) -> str:
    count = protocol["reference_count"]
    reference = protocol["reference"] + (f" of {count} images" if count else "")
    parts = [
        f"{protocol['num_images']} images {'x'.join(map(str, protocol['image_size']))}",
        f"reference {reference} (sha256 {str(protocol['reference_sha256'])[:8]})",
        f"extractor {protocol['extractor']} (sha256 {protocol['extractor_sha256'][:8]})",
        f"arbench {protocol['evaluator_version']}, torch-fidelity {protocol['torch_fidelity']}",
    ]
    return "; ".join(parts)


def _usual_extractor(reference: str) -> str:
    return "digits-cnn" if reference.startswith("digits-") else "inception"
