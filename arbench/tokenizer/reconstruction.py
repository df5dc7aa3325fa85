"""How well a tokenizer gives images back: PSNR, SSIM, rFID, and how much of its codebook it uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from arbench.evaluation.metrics import evaluate
from arbench.evaluation.reference import Reference
from arbench.evaluation.sources import ImageSource
from arbench.images.data import ImageData
from arbench.images.pixels import to_float, to_uint8
from arbench.protocols import Tokenizer
from arbench.tokenizer.load import decode_tokens, encode_images

LEVELS = 255.0
IDENTICAL_DB = 100.0  # PSNR given to an image that comes back exactly
# SSIM by scikit-image's defaults: a 7x7 mean, sample covariance, each colour by itself, on levels 0 to 255.
SSIM_WINDOW = 7
SSIM_K1, SSIM_K2 = 0.01, 0.03  # Wang et al. 2004, section III-C
BATCH_SIZE = 16


def psnr(images: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each uint8 image (N, H, W, 3) -> (N,) float64, at most `IDENTICAL_DB`."""
    difference = images.astype(np.float64) - originals.astype(np.float64)
    error = np.square(difference).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.minimum(10 * np.log10(LEVELS**2 / error), IDENTICAL_DB)


def ssim(images: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Structural similarity of each uint8 image (N, H, W, 3), sides of at least 7 pixels -> (N,) float64."""
    first, second = (torch.from_numpy(array).permute(0, 3, 1, 2).double() for array in (images, originals))
    samples = SSIM_WINDOW**2
    unbiased = samples / (samples - 1)
    mean_1, mean_2 = _local_mean(first), _local_mean(second)
    variance_1 = unbiased * (_local_mean(first * first) - mean_1 * mean_1)
    variance_2 = unbiased * (_local_mean(second * second) - mean_2 * mean_2)
    covariance = unbiased * (_local_mean(first * second) - mean_1 * mean_2)
    c1, c2 = (SSIM_K1 * LEVELS) ** 2, (SSIM_K2 * LEVELS) ** 2
    similarity = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    similarity /= (mean_1**2 + mean_2**2 + c1) * (variance_1 + variance_2 + c2)
    return similarity.mean(dim=(1, 2, 3)).numpy()


def _local_mean(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, SSIM_WINDOW, stride=1)


@dataclass
class CodeUsage:
    """How often each of `vocab_size` codes was chosen."""

    vocab_size: int
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.vocab_size, np.int64)

    def update(self, ids: Tensor) -> None:
        """Count ids of any shape."""
        self.counts += np.bincount(ids.flatten().cpu().numpy(), minlength=self.vocab_size)

    @property
    def used(self) -> float:
        """Share of the codes that were chosen at all."""
        return float((self.counts > 0).mean())

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the chosen codes: as many equally likely codes would be as uncertain."""
        shares = self.counts[self.counts > 0] / max(1, self.counts.sum())
        return float(np.exp(-(shares * np.log(shares)).sum()))


class Reconstructions:
    """Every image of `data` through a tokenizer and back, read as a stream; scores of one pass are kept.

    Each call of `blocks` begins a new pass, so memory holds one batch of images whatever their number.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        data: ImageData,
        *,
        batch_size: int = BATCH_SIZE,
        device: torch.device | str = "cpu",
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.tokenizer, self.data, self.batch_size, self.device = tokenizer, data, batch_size, device
        self._progress = progress or (lambda images: None)
        self._begin()

    def _begin(self) -> None:
        self._psnr: list[np.ndarray] = []
        self._ssim: list[np.ndarray] = []
        vocab_size = self.tokenizer.vocab_size if self.tokenizer.kind == "discrete" else None
        self._usage = CodeUsage(vocab_size) if vocab_size else None

    def blocks(self) -> Iterator[np.ndarray]:
        """uint8 reconstructions (b, H, W, 3) in the data's order."""
        self._begin()
        for start in range(0, len(self.data), self.batch_size):
            originals = self.data.images(range(start, min(start + self.batch_size, len(self.data))))
            images, tokens = reconstruct(self.tokenizer, originals, self.device)
            self._psnr.append(psnr(images, originals))
            self._ssim.append(ssim(images, originals))
            if self._usage is not None:
                self._usage.update(tokens)
            self._progress(len(images))
            yield images

    def scores(self) -> dict[str, float]:
        """Of the last pass: `psnr` (dB), `ssim`, for a discrete tokenizer `codes_used` (a share) and `perplexity`."""
        found = {"psnr": float(np.concatenate(self._psnr).mean()), "ssim": float(np.concatenate(self._ssim).mean())}
        if self._usage is not None:
            found |= {"codes_used": self._usage.used, "perplexity": self._usage.perplexity}
        return found


def reconstruct(
    tokenizer: Tokenizer, images: np.ndarray, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, Tensor]:
    """uint8 images (B, H, W, 3) through a tokenizer on `device` and back, and the tokens between.

    Raises ValueError where the tokenizer returns wrong shapes or values that are not finite.
    """
    tokens = encode_images(tokenizer, to_float(images).to(device))
    return to_uint8(decode_tokens(tokenizer, tokens)), tokens


def measure_reconstruction(
    tokenizer: Tokenizer,
    data: ImageData,
    *,
    extractor: str | None = "inception",
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
    inception_weights: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Scores of a tokenizer on `data`: `rfid` against the originals, `psnr`, `ssim`, for codes their use.

    `extractor` None leaves out `rfid` and with it `metric_protocol`. Raises ValueError for images that the tokenizer
    cannot take, and where fewer than two images are there.
    """
    if len(data) < 2:
        raise ValueError(f"{data.name}: {len(data)} images; expected at least 2 to reconstruct")
    passes = Reconstructions(tokenizer, data, batch_size=batch_size, device=device, progress=progress)
    if extractor is None:
        for _ in passes.blocks():
            pass
        return {**passes.scores(), "num_images": len(data)}
    found = evaluate(
        ImageSource(name="reconstructions", count=len(data), blocks=passes.blocks),
        Reference(name=data.name, count=len(data), images=_originals(data, batch_size)),
        extractor=extractor,
        metrics=("fid",),
        device=device,
        reconstructions=True,
        inception_weights=inception_weights,
    )
    protocol = found["metric_protocol"]
    return {"rfid": found["fid"], **passes.scores(), "num_images": len(data), "metric_protocol": protocol}


def _originals(data: ImageData, batch_size: int) -> ImageSource:
    starts = range(0, len(data), batch_size)
    return ImageSource(
        name=data.name,
        count=len(data),
        blocks=lambda: (data.images(range(start, min(start + batch_size, len(data)))) for start in starts),
    )
