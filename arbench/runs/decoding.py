"""From tokens to uint8 images on the host, beside whatever the device does next."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from arbench.images.pixels import FiniteChecks, count_bad, resize_bicubic, to_levels
from arbench.machine.streams import Fetched, Side
from arbench.protocols import Timer, Tokenizer
from arbench.sampling.engine import Buffers, Replays
from arbench.tokenizer.load import decode_tokens


class Decoding:
    """Images on their way to the host."""

    def __init__(self, images: Fetched, checks: FiniteChecks) -> None:
        self._images, self._checks = images, checks

    def images(self) -> np.ndarray:
        """uint8 (B, H, W, 3), once they are there. Raises ValueError where a latent or a pixel was not finite."""
        self._checks.settle()
        return self._images.numpy()


class Decoder:
    """Decodes a batch on the `side` of the device, as a CUDA graph where it is `recorded`."""

    def __init__(self, tokenizer: Tokenizer, image_size: int | None, side: Side, replays: Replays | None) -> None:
        """`image_size` is the height; None: as the tokenizer decodes. `replays` None: not recorded."""
        self._tokenizer, self._image_size, self._side = tokenizer, image_size, side
        self._replays, self._buffers = replays, Buffers()
        if replays is not None:
            replays.watches = True  # a tokenizer may be anybody's

    def start(self, tokens: Tensor, timer: Timer, checks: FiniteChecks | None = None) -> Decoding:
        """Queue the decoding of `tokens` and return at once where the device has streams; `checks` are settled with it.

        Its time is the phase "decode", the copy to the host included.
        """
        checks = FiniteChecks() if checks is None else checks
        if not self._side.runs_beside:
            checks.settle()  # before anything is decoded in vain
        with self._side.after(tokens), timer.phase("decode"):
            levels, bad = self._levels(tokens)
            checks.counted(bad, levels.numel(), "decoded images")
            checks.fetch()
            return Decoding(Fetched(levels), checks)

    def _levels(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, H, W, 3), and how many values were not finite before."""
        tokenizer, image_size = self._tokenizer, self._image_size
        if self._replays is None:
            return decode_levels(tokenizer, tokens, image_size)
        key = (tokens.shape, tokens.dtype)
        fixed = self._buffers.fill(key, tokens)
        return self._replays(key, lambda: decode_levels(tokenizer, fixed, image_size))


def decode_levels(tokenizer: Tokenizer, tokens: Tensor, image_size: int | None) -> tuple[Tensor, Tensor]:
    """uint8 (B, H, W, 3) of `tokens`, `image_size` high (None: as decoded), and how many values were not finite."""
    images = decode_tokens(tokenizer, tokens)
    if image_size is not None and images.shape[-2] != image_size:
        images = resize_bicubic(images, image_size)
    return to_levels(images), count_bad(images)
