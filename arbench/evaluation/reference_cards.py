"""The references that papers compare with, by name: which file, from where, of which images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "ARBENCH_REFERENCES"
DEFAULT_HOME = Path("~/.cache/arbench/references")

_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet"
_MAR = "https://github.com/LTH14/mar/raw/main/fid_stats"
_CROPPED = "ImageNet training set; statistics of all, 10,000 images for precision and recall"


@dataclass(frozen=True, kw_only=True)
class ReferenceCard:
    """One reference file.

    `file` is its name in the references folder, `url` where it is released (None: made with `arbench eval
    --make-reference`), `split` which images it is of ("train" or "val"), `size` their side in pixels.
    """

    name: str
    file: str
    url: str | None
    split: str
    size: int
    note: str

    @property
    def path(self) -> Path:
        """Where the file lies, or would lie, on this machine."""
        return reference_home() / self.file

    @property
    def how_to_get(self) -> str:
        """One sentence for a user who lacks the file."""
        if self.url is None:
            return (
                f"make it: arbench eval --make-reference IMAGES --size {self.size} --split {self.split} -o {self.path}"
            )
        return f"download {self.url} to {self.path}"


def _adm(size: int, file: str) -> ReferenceCard:
    url = f"{_ADM}/{size}/{file}"
    return ReferenceCard(name=f"adm-train-{size}", file=file, url=url, split="train", size=size, note=_CROPPED)


REFERENCES: dict[str, ReferenceCard] = {
    card.name: card
    for card in (
        _adm(64, "VIRTUAL_imagenet64_labeled.npz"),
        _adm(128, "VIRTUAL_imagenet128_labeled.npz"),
        _adm(256, "VIRTUAL_imagenet256_labeled.npz"),
        _adm(512, "VIRTUAL_imagenet512.npz"),
        ReferenceCard(
            name="mar-train-256",
            file="adm_in256_stats.npz",
            url=f"{_MAR}/adm_in256_stats.npz",
            split="train",
            size=256,
            note="the statistics of adm-train-256 as MAR's repository holds them, without images",
        ),
        ReferenceCard(
            name="val-256-crop",
            file="val-256-crop.npz",
            url=None,
            split="val",
            size=256,
            note="ImageNet validation set, ADM crop; for reconstructions (rFID), not for generated images",
        ),
    )
}


def reference_home() -> Path:
    """The folder that holds reference files: $ARBENCH_REFERENCES, else ~/.cache/arbench/references."""
    return Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()
