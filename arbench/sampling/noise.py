"""Randomness of image i as a function of (seed, i) alone, drawn alike on CPU and GPU.

The draws come from the counter-based generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011): the key is the seed, the counter names the image, the token and the purpose. No state is carried, so
batch size, number of processes and a resume change nothing. Gaussians are made in float64 and rounded to float32, which
hides the last-bit differences between the logarithms and cosines of different devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from arbench.machine.fused import Fused
from arbench.protocols import Noise
from arbench.validation import Seed, check

MASK32 = 0xFFFFFFFF
# Multipliers and Weyl increments of Philox4x32 (SC 2011, section 3.3).
PHILOX_M0, PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
PHILOX_W0, PHILOX_W1 = 0x9E3779B9, 0xBB67AE85
PHILOX_ROUNDS = 10
MOST_IMAGES = 2**32  # the image's number is one word of the counter
# What a draw is for: the fourth counter word, so that no two purposes share numbers.
ORDER, UNIFORM, GAUSSIAN = 0, 1, 2
# Counters drawn at once: on a CPU their words stay in its second cache, on a GPU one launch serves many steps.
COUNTERS_AT_ONCE = {"cpu": 2**14, "cuda": 2**22, "meta": 2**22}


def check_seed(seed: int) -> int:
    """`seed`; ValueError unless it is a whole number from 0 to 2^64 - 1: one beyond would repeat another's images."""
    check("seed", seed, Seed)
    return int(seed)


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor | int], key: tuple[Tensor | int, Tensor | int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words of 32 random bits for each counter under a `key` of two words.

    Counters and words are int64; the counter's parts may be of different shapes, and are broadcast.
    """
    c0, c1, c2 = counter[:3]
    c3: Any = counter[3]  # a number only before the first round
    key0, key1 = key
    for _ in range(PHILOX_ROUNDS):
        # The int64 product wraps modulo 2^64, so its two 32-bit halves are the exact ones.
        product0, product1 = c0 * PHILOX_M0, c2 * PHILOX_M1
        c0, c1, c2, c3 = (
            ((product1 >> 32) & MASK32) ^ c1 ^ key0,
            product1 & MASK32,
            ((product0 >> 32) & MASK32) ^ c3 ^ key1,
            product0 & MASK32,
        )
        key0, key1 = (key0 + PHILOX_W0) & MASK32, (key1 + PHILOX_W1) & MASK32
    return c0, c1, c2, c3


def unit_interval(words: Tensor) -> Tensor:
    """32-bit words to float64 strictly between 0 and 1."""
    return (words.double() + 0.5) / 2**32


def box_muller(word0: Tensor, word1: Tensor) -> Tensor:
    """Two tensors of 32-bit words to pairs of standard normals, float64, stacked in a new last dimension."""
    radius = torch.sqrt(-2 * torch.log(unit_interval(word0)))
    angle = 2 * math.pi * unit_interval(word1)
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)


def normals(
    images: Tensor, positions: Tensor, index: Tensor, key: tuple[Tensor | int, Tensor | int], channels: int
) -> Tensor:
    """Standard normals (S, B, n, channels) float32 for images (B,), positions (B, n) and `index` (S, quads).

    One function, so that a compiler can make one kernel of it. Four channels are made of one counter.
    """
    counter = (images[:, None, None], positions[:, :, None], index[:, None, None, :], GAUSSIAN)
    word0, word1, word2, word3 = philox(counter, key)
    pairs = torch.stack((box_muller(word0, word1), box_muller(word2, word3)), dim=-2)
    return pairs.flatten(3)[..., :channels].float()  # (S, B, n, quads, 2, 2) -> (S, B, n, C)


fused_normals = Fused(normals, "random numbers")


class ImageNoise:
    """The random numbers of the images `image_ids` under `seed`."""

    def __init__(self, seed: int, image_ids: Tensor) -> None:
        """`image_ids` (B,) int64 on the device where the numbers are wanted; each below 2^32."""
        self.seed = check_seed(seed)
        self.image_ids = image_ids
        self._key = (seed & MASK32, (seed >> 32) & MASK32)

    def _words(self, tokens: Tensor, index: int, purpose: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Words for each image and token (B, n)."""
        return philox((self.image_ids[:, None], tokens, torch.full_like(tokens, index), purpose), self._key)

    def orders(self, num_tokens: int) -> Tensor:
        tokens = torch.arange(num_tokens, device=self.image_ids.device).expand(len(self.image_ids), -1)
        word0, word1, _, _ = self._words(tokens, 0, ORDER)
        # 63 bits a token make ties as good as impossible; a stable sort settles them all the same.
        return torch.argsort((word0 << 31) | (word1 >> 1), dim=1, stable=True)

    def uniform(self, positions: Tensor, draw: int = 0) -> Tensor:
        return unit_interval(self._words(positions, draw, UNIFORM)[0])

    def gaussian(self, step: int, positions: Tensor, channels: int) -> Tensor:
        return self._normals(range(step, step + 1), positions, channels)[0]

    def gaussians(self, count: int, positions: Tensor, channels: int) -> Iterator[Tensor]:
        """`gaussian` of the steps 0, 1, .. `count` - 1 in turn, drawn as many at once as memory allows."""
        counters = max(1, positions.numel() * math.ceil(channels / 4))
        budget = COUNTERS_AT_ONCE.get(positions.device.type, COUNTERS_AT_ONCE["cpu"])
        at_once = max(1, budget // counters)
        for first in range(0, count, at_once):
            drawn = self._normals(range(first, min(count, first + at_once)), positions, channels)
            for step in drawn.unbind():  # noqa: UP028 - `yield from` a list stops torch.compile
                yield step

    def _normals(self, steps: range, positions: Tensor, channels: int) -> Tensor:
        """(len(steps), B, n, channels) float32."""
        quads, device = math.ceil(channels / 4), positions.device
        index = torch.arange(steps.start * quads, steps.stop * quads, device=device).view(len(steps), quads)
        if not fused_normals.pays(positions):
            return normals(self.image_ids, positions, index, self._key, channels)
        # A compiled function is told the key by tensors, which are filled and not copied: it serves every seed.
        key0, key1 = (torch.full((), word, device=device) for word in self._key)
        return fused_normals(self.image_ids, positions.contiguous(), index, (key0, key1), channels)


class UniformsAhead:
    """`noise` whose first uniform number of every place is drawn at once, when the first is asked for."""

    def __init__(self, noise: Noise, num_tokens: int) -> None:
        self._noise, self._num_tokens = noise, num_tokens
        self._first: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._noise, name)

    def uniform(self, positions: Tensor, draw: int = 0) -> Tensor:
        if draw != 0:
            return self._noise.uniform(positions, draw)
        if self._first is None:
            places = torch.arange(self._num_tokens, device=positions.device)
            self._first = self._noise.uniform(places.expand(len(positions), -1))
        return self._first.gather(1, positions)


class FixedNoise:
    """A tape of given random numbers, for comparing implementations draw by draw.

    `orders` (B, N) int64; `gaussian` (1 + S, B, N, C): row 0 starts each token, row 1 + k is added by denoising step k;
    `uniform` (B, N) in (0, 1) for categorical draws, or (draws, B, N) where a place is drawn more than once. Asking for
    what was not given is a ValueError.
    """

    def __init__(
        self, *, orders: Tensor | None = None, gaussian: Tensor | None = None, uniform: Tensor | None = None
    ) -> None:
        self._orders, self._gaussian, self._uniform = orders, gaussian, uniform

    def orders(self, num_tokens: int) -> Tensor:
        orders = self._given("orders", self._orders)
        if orders.shape[1] != num_tokens:
            raise ValueError(f"FixedNoise: orders of {orders.shape[1]} tokens given, the generator has {num_tokens}")
        return orders

    def uniform(self, positions: Tensor, draw: int = 0) -> Tensor:
        tape = self._given("uniform", self._uniform)
        draws = tape if tape.dim() == 3 else tape.unsqueeze(0)
        if draw >= len(draws):
            raise ValueError(f"FixedNoise: uniform of shape {tuple(tape.shape)} given, draw {draw} needed")
        return draws[draw].to(positions.device).double().gather(1, positions)

    def gaussian(self, step: int, positions: Tensor, channels: int) -> Tensor:
        tape = self._given("gaussian", self._gaussian)
        if step >= len(tape) or tape.shape[-1] != channels:
            raise ValueError(
                f"FixedNoise: gaussian of shape {tuple(tape.shape)} given, row {step} with {channels} channels needed"
            )
        index = positions.unsqueeze(-1).expand(-1, -1, channels)
        return tape[step].to(positions.device).gather(1, index)

    @staticmethod
    def _given(name: str, value: Tensor | None) -> Tensor:
        if value is None:
            raise ValueError(f"FixedNoise: {name} needed for these settings but not given")
        return value
