"""What images are compared with: named references, files of statistics, folders of real images."""

from __future__ import annotations

import codecs
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from arbench.evaluation.extractors import Network
from arbench.evaluation.features import extract_features
from arbench.evaluation.files import load_npz, npz_names, one_line, read_torch, save_npz
from arbench.evaluation.moments import stored_count
from arbench.evaluation.reference_cards import REFERENCES
from arbench.evaluation.sources import READ, SHARDS, STRATIFIED, ImageSource, array_source, open_images
from arbench.evaluation.statistics import FrechetStatistics
from arbench.images.data import ImageData, folder_data, open_data
from arbench.images.listing import list_images
from arbench.images.pictures import CROPS
from arbench.machine.files import file_sha256
from arbench.registry import nearest, unknown_name

DIGITS = {"digits-train": "train", "digits-heldout": "heldout"}
SPLITS = ("train", "val")
NUM_KEPT = 10_000  # images that an ADM reference keeps for precision and recall
KEPT_SEED = 0
META = "meta"  # our own entry of a reference npz: JSON text
TOLD = ("name", "split", "crop", "extractor", "extractor_sha256")  # its entries that are read
LONGEST_NAME = 200  # characters of a name that a file gives itself
STATISTICS_OF_UNKNOWN_COUNT = 2  # any count from 2 on gives back the stored covariance


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference before any network has run: stored statistics, images, or both.

    `count` is the number of images behind the statistics where it is known, `split` "train", "val", "heldout" or None,
    `extractor` and `extractor_sha256` what made the statistics where the file says so, `notes` how its pictures were
    read.
    """

    name: str
    sha256: str | None = None
    count: int | None = None
    split: str | None = None
    crop: str | None = None
    statistics: FrechetStatistics | None = None
    spatial: FrechetStatistics | None = None
    images: ImageSource | None = None
    extractor: str | None = None
    extractor_sha256: str | None = None
    notes: tuple[str, ...] = ()


RealImages = str | os.PathLike[str] | np.ndarray | Reference  # what `open_reference` opens


def open_reference(reference: RealImages, *, size: tuple[int, int] | None = None, crop: str = "adm") -> Reference:
    """`reference` by name ("digits-heldout", "adm-train-256" …), as a file, a folder or an array of images.

    Files: npz with `mu sigma` (pytorch-fid), also `mu_s sigma_s arr_0` (ADM), or torch-fidelity's cached .pt. The
    pictures of a folder are brought to `size` (height, width) by `crop` (`CROPS`). Raises ValueError for what cannot
    be read and OSError for what is not there, with where to get it.
    """
    if isinstance(reference, Reference):
        return reference
    if isinstance(reference, np.ndarray):
        source = array_source("array", reference)
        return Reference(name="array", count=source.count, images=source)
    name = str(reference)
    if name in DIGITS:
        data = open_data("digits", split=DIGITS[name])
        images = array_source(name, data.images(), data.labels, STRATIFIED)
        return Reference(name=name, count=len(data), split=DIGITS[name], images=images)
    if name in REFERENCES:
        return _named(name)
    return _at_path(Path(name), size, crop)


def _named(name: str) -> Reference:
    card = REFERENCES[name]
    if not card.path.exists():
        raise FileNotFoundError(f"reference {name!r} is not on this machine; {card.how_to_get}")
    return replace(_npz(card.path), name=name, split=card.split)


def _at_path(path: Path, size: tuple[int, int] | None, crop: str) -> Reference:
    if path.is_dir():
        if (path / SHARDS).is_dir():
            source = open_images(path)
            return Reference(name=str(path), count=source.count, images=source)
        return _folder(path, size, crop)
    if not path.exists():
        known = (*DIGITS, *REFERENCES)
        if path.suffix or len(path.parts) > 1 or not nearest(str(path), known):
            raise FileNotFoundError(f"reference {path}: no such file or folder, nor one of {', '.join(known)}")
        raise unknown_name("reference", str(path), known)
    if path.suffix == ".npz":
        return _npz(path)
    if path.suffix in (".pt", ".pth"):
        return _torch_fidelity(path)
    raise ValueError(
        f"reference {path}: {path.suffix or 'no suffix'} is not read (a pickle could run code); expected .npz or .pt"
    )


def _npz(path: Path) -> Reference:
    """`mu sigma`, `mu_s sigma_s` and `arr_0`, as many as there are; the images are not read yet."""
    names = set(npz_names(path))
    arrays = load_npz(path, names & {"mu", "sigma", "mu_s", "sigma_s", "count", META})
    meta = _meta(path, arrays)
    count = _count(path, arrays)
    reference = Reference(
        name=_own_name(path, meta.get("name")),
        sha256=file_sha256(path),
        count=count,
        split=meta.get("split"),
        crop=meta.get("crop"),
        statistics=_moments(path, arrays, "mu", "sigma", count),
        spatial=_moments(path, arrays, "mu_s", "sigma_s", count),
        images=open_images(path) if "arr_0" in names else None,
        extractor=meta.get("extractor"),
        extractor_sha256=meta.get("extractor_sha256"),
        notes=tuple(meta.get("notes", ())),
    )
    if reference.statistics is None and reference.images is None:
        raise ValueError(f"reference {path}: holds {', '.join(sorted(names))}; expected mu and sigma, or arr_0")
    if reference.statistics is None and reference.images is not None:
        return replace(reference, count=reference.images.count)
    return reference


def _meta(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if META not in arrays:
        return {}
    try:
        meta = dict(json.loads(str(arrays[META])))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"reference {path}: its {META!r} is not JSON ({one_line(error)})") from error
    for name in TOLD:
        if not isinstance(meta.get(name), (str, type(None))):
            raise ValueError(
                f"reference {path}: its {META!r} gives {name} as {meta[name]!r:.40}; expected a text or null"
            )
    notes = meta.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise ValueError(f"reference {path}: its {META!r} gives notes as {notes!r:.40}; expected a list of texts")
    if meta.get("split") not in (None, *SPLITS):
        raise unknown_name(f"split of reference {path}", meta["split"], SPLITS)
    return meta


def _own_name(path: Path, name: str | None) -> str:
    """What a file calls itself, but its path where that is a name of ours: a record must not confuse the two."""
    plain = unicodedata.normalize("NFKC", name or "").strip().casefold()
    card = REFERENCES.get(plain)
    is_taken = plain in DIGITS or (card is not None and not (card.path.exists() and card.path.samefile(path)))
    return str(path) if not plain or is_taken or not plain.isprintable() or len(plain) > LONGEST_NAME else str(name)


def _count(path: Path, arrays: dict[str, np.ndarray]) -> int | None:
    if "count" not in arrays:
        return None
    try:
        return stored_count(arrays["count"])
    except ValueError as error:
        raise ValueError(f"reference {path}: {error}") from error


def _moments(
    path: Path, arrays: dict[str, np.ndarray], mean: str, covariance: str, count: int | None
) -> FrechetStatistics | None:
    if mean not in arrays and covariance not in arrays:
        return None
    if mean not in arrays or covariance not in arrays:
        raise ValueError(f"reference {path}: has only one of {mean} and {covariance}")
    try:
        return FrechetStatistics.from_moments(arrays[mean], arrays[covariance], count or STATISTICS_OF_UNKNOWN_COUNT)
    except ValueError as error:
        raise ValueError(f"reference {path}: {error}") from error


def _torch_fidelity(path: Path) -> Reference:
    """The statistics that torch-fidelity keeps in its cache: a dict of NumPy arrays `mu` and `sigma`."""
    content = read_torch(path, _array_parts())
    if not isinstance(content, dict) or not {"mu", "sigma"} <= set(content):
        raise ValueError(f"reference {path}: expected torch-fidelity's statistics, a dict of mu and sigma")
    arrays = {name: np.asarray(content[name]) for name in ("mu", "sigma")}
    statistics = _moments(path, arrays, "mu", "sigma", None)
    return Reference(name=str(path), sha256=file_sha256(path), statistics=statistics)


def _array_parts() -> list[Any]:
    """What a pickled float array is made of, under NumPy 1's and 2's names: all that such a file may call."""
    reconstruct = np.zeros(0).__reduce__()[0]
    names = ("numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct")
    dtypes = [type(np.dtype(kind)) for kind in (np.float32, np.float64)]
    return [*((reconstruct, name) for name in names), (codecs.encode, "_codecs.encode"), np.ndarray, np.dtype, *dtypes]


def _folder(path: Path, size: tuple[int, int] | None, crop: str) -> Reference:
    """Real pictures, each brought to the size of those that are scored."""
    if crop not in CROPS:
        raise unknown_name("crop", crop, CROPS)
    if size is not None and size[0] != size[1]:
        raise ValueError(f"images of {size[0]}x{size[1]}: a folder as reference is cropped square; give an npz")
    data = _pictures(path, size[0] if size else None, crop)
    return Reference(name=str(path), count=len(data), crop=crop, images=_data_source(data))


def _pictures(path: Path, size: int | None, crop: str) -> ImageData:
    files = list_images(path)
    if not files:
        raise ValueError(f"reference {path}: no images in it")
    return folder_data(str(path), files, np.zeros(len(files), np.int64), ["all"], size=size, crop=crop)


def _data_source(data: ImageData) -> ImageSource:
    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(data), READ):
            yield data.images(range(start, min(start + READ, len(data))))

    return ImageSource(name=data.name, count=len(data), blocks=blocks, conversions=data.conversions)


def make_reference(
    images: str | Path,
    out: Path,
    extractor: Network,
    *,
    size: int | None = None,
    crop: str = "adm",
    split: str | None = None,
    num_kept: int = NUM_KEPT,
    progress: Callable[[int], None] | None = None,
) -> Reference:
    """Write a reference npz of all pictures below the folder `images`; returns it as read back.

    It holds `mu sigma count`, with Inception also `mu_s sigma_s`, and `arr_0`: up to `num_kept` of the images, chosen
    with a fixed seed, in one array in memory (2 GB for 10,000 at 256 px). `split` ("train", "val") says what the
    images are. Without `size` they are taken as they are. Raises ValueError for an unknown crop or split, a size below
    1, or fewer than two images.
    """
    if crop not in CROPS:
        raise unknown_name("crop", crop, CROPS)
    if split not in (None, *SPLITS):
        raise unknown_name("split", str(split), SPLITS)
    if out.suffix != ".npz":
        raise ValueError(f"reference file {out}: expected a name that ends in .npz")
    if size is not None and size < 1:
        raise ValueError(f"size is {size}; expected at least 1 pixel")
    if size is None:
        crop = "none"  # the pictures are taken as they are
    data = _pictures(Path(images), size, crop)
    source, spatial = _data_source(data), extractor.has_spatial
    found = extract_features(source, extractor, spatial=spatial, keep=False, progress=progress)
    arrays = {"mu": found.statistics.mean, "sigma": found.statistics.covariance, "count": np.int64(len(found))}
    if found.spatial is not None:
        arrays |= {"mu_s": found.spatial.mean, "sigma_s": found.spatial.covariance}
    kept = np.random.RandomState(KEPT_SEED).permutation(len(data))[:num_kept]
    arrays["arr_0"] = data.images(np.sort(kept))
    meta = {"name": out.stem, "split": split, "crop": crop, "size": size, "extractor": extractor.name}
    told = {**meta, "extractor_sha256": extractor.sha256, "notes": data.conversions.notes}
    arrays[META] = np.array(json.dumps(told))
    save_npz(out, arrays)
    return _npz(out)
