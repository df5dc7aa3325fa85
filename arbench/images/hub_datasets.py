"""Images of a Hugging Face data set, by the package `datasets` (extra of this name); its programs are never run."""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from arbench.images.pictures import Conversions, decode_image, read_image
from arbench.machine.files import one_line
from arbench.registry import unknown_name

if TYPE_CHECKING:
    from types import ModuleType

HUB = "hf:"  # what such a source of images begins with
DEFAULT_SPLIT = "train"
COLUMNS = ("image", "label")
COMPARED = 64  # pictures by which data sets are told apart, beside their labels


class Rows(Protocol):
    """The rows of a column of images that are not decoded."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Mapping[str, Any]]: ...


@dataclass(frozen=True)
class HubPictures:
    """Pictures that are rows of a data set, stored as bytes or as the path of a file."""

    rows: Rows
    source: str
    conversions: Conversions = field(default_factory=Conversions)

    def __call__(self, index: int) -> Image.Image:
        stored = self.rows[index]["image"]
        if stored["bytes"] is None:
            return read_image(Path(stored["path"]), self.conversions)
        return decode_image(io.BytesIO(stored["bytes"]), f"{self.source}: row {index}", self.conversions)

    def digest(self) -> str:
        """What tells these pictures from others, wherever they lie: a few of them, spread over all rows.

        The bytes of all would have to be read.
        """
        digest = hashlib.sha256()
        for row in np.linspace(0, len(self.rows) - 1, COMPARED).round().astype(int).tolist():
            stored = self.rows[row]["image"]
            content = Path(stored["path"]).read_bytes() if stored["bytes"] is None else stored["bytes"]
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


def open_hub(source: str) -> tuple[HubPictures, np.ndarray, list[str]]:
    """The pictures of `hf:NAME_OR_FOLDER[:SPLIT]`, their labels (N,) int64 and the names of the classes.

    A folder is one that `save_to_disk` wrote, or whatever `datasets` reads as data. Raises ValueError without the
    package, for an unknown data set or split, and where there is no image or label.
    """
    datasets = _package()
    name, split = _parts(source.removeprefix(HUB))
    table = _load(datasets, source, name, split)
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise ValueError(f"{source}: no column {missing[0]!r} among {', '.join(table.column_names)}; expected both")
    if not isinstance(table.features["image"], datasets.Image):
        raise ValueError(f"{source}: column 'image' is {table.features['image']}; expected images")
    labels, names = _labels(source, table["label"][:], table.features["label"])
    rows = table.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    return HubPictures(rows, source), labels, names


def _package() -> ModuleType:
    try:
        return importlib.import_module("datasets")  # optional, and it takes seconds
    except ImportError as error:
        raise ValueError(
            f"{HUB} needs the package datasets ({one_line(error)}); expected `pip install 'arbench[datasets]'`"
        ) from None


def _parts(text: str) -> tuple[str, str | None]:
    """Name or folder, and the split behind the last colon."""
    if text and Path(text).expanduser().is_dir():
        return text, None
    name, colon, split = text.rpartition(":")
    name, chosen = (name, split) if colon else (text, None)
    if not name or chosen == "":
        raise ValueError(f"{HUB}{text}: expected {HUB}NAME_OR_FOLDER or {HUB}NAME_OR_FOLDER:SPLIT")
    return name, chosen


def _load(datasets: ModuleType, source: str, name: str, split: str | None) -> Any:
    """The table of one split."""
    folder = Path(name).expanduser()
    saved = any((folder / file).is_file() for file in ("state.json", "dataset_dict.json"))
    try:
        if not saved:
            # Asked for by name as well: before 2.20 a data set's own program was run where nobody forbade it.
            return datasets.load_dataset(name, split=split or DEFAULT_SPLIT, trust_remote_code=False)
        table = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever a library of many file formats and the network raises
        raise ValueError(f"{source}: not to be loaded ({one_line(error)})") from error
    if isinstance(table, Mapping):
        if (split or DEFAULT_SPLIT) not in table:
            raise unknown_name(f"split of {name}", split or DEFAULT_SPLIT, table)
        return table[split or DEFAULT_SPLIT]
    if split is not None:
        raise ValueError(f"{source}: {name} is one split by itself; expected {HUB}{name}")
    return table


def _labels(source: str, values: Sequence[object], feature: object) -> tuple[np.ndarray, list[str]]:
    """Labels (N,) and the names of the classes: those of the column, else its numbers."""
    labels: list[int] = []
    for row, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{source}: row {row}: label {value!r}; expected a whole number, 0 or more")
        labels.append(value)
    if not labels:
        raise ValueError(f"{source}: no rows; expected images")
    names = getattr(feature, "names", None) or [str(number) for number in range(max(labels) + 1)]
    if max(labels) >= len(names):
        raise ValueError(f"{source}: label {max(labels)}; expected one below {len(names)}, the number of classes")
    return np.asarray(labels, np.int64), list(names)
