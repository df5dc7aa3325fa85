"""Randomness of image i as a function of (seed, i) alone, drawn alike on CPU and GPU.

The draws come from the counter-based generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011): the key is the seed, the counter names the image, the token and the purpose. No state is carried, so
batch size, number of processes and a resume change nothing. Gaussians are made in float64 and rounded to float32, which
hides the last-bit differences between the logarithms and cosines of different devices.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

MASK32 = 0xFFFFFFFF
# Multipliers and Weyl increments of Philox4x32 (SC 2011, section 3.3).
PHILOX_M0, PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
PHILOX_W0, PHILOX_W1 = 0x9E3779B9, 0xBB67AE85
PHILOX_ROUNDS = 10
MOST_SEEDS = 2**64  # the key is two words of 32 bits
MOST_IMAGES = 2**32  # the image's number is one word of the counter
# What a draw is for: the fourth counter word, so that no two purposes share numbers.
ORDER, UNIFORM, GAUSSIAN = 0, 1, 2


def check_seed(seed: int) -> int:
    """`seed`; ValueError unless it is a whole number from 0 to 2^64 - 1: one beyond would repeat another's images."""
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < MOST_SEEDS:
        raise ValueError(f"seed is {seed!r}; expected a whole number from 0 to 2**64 - 1")
    return int(seed)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words of 32 random bits for each counter; counters and words are int64 tensors of one shape."""
    c0, c1, c2, c3 = counter
    key0, key1 = seed & MASK32, (seed >> 32) & MASK32
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


class ImageNoise:
    """The random numbers of the images `image_ids` under `seed`."""

    def __init__(self, seed: int, image_ids: Tensor) -> None:
        """`image_ids` (B,) int64 on the device where the numbers are wanted; each below 2^32."""
        self.seed = check_seed(seed)
        self.image_ids = image_ids

    def _words(self, token: Tensor, index: Tensor | int, purpose: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Words for each (image, token, index); `token` is (B, n) or (B, n, m)."""
        image = self.image_ids.view(-1, *[1] * (token.dim() - 1)).expand_as(token)
        second = torch.as_tensor(index, device=token.device).expand_as(token)
        return philox((image, token, second, torch.full_like(token, purpose)), self.seed)

    def orders(self, num_tokens: int) -> Tensor:
        tokens = torch.arange(num_tokens, device=self.image_ids.device).expand(len(self.image_ids), -1)
        word0, word1, _, _ = self._words(tokens, 0, ORDER)
        # 63 bits a token make ties as good as impossible; a stable sort settles them all the same.
        return torch.argsort((word0 << 31) | (word1 >> 1), dim=1, stable=True)

    def uniform(self, positions: Tensor, draw: int = 0) -> Tensor:
        return unit_interval(self._words(positions, draw, UNIFORM)[0])

    def gaussian(self, step: int, positions: Tensor, channels: int) -> Tensor:
        quads = math.ceil(channels / 4)
        token = positions.unsqueeze(-1).expand(-1, -1, quads)
        index = step * quads + torch.arange(quads, device=positions.device)
        word0, word1, word2, word3 = self._words(token, index, GAUSSIAN)
        normals = torch.stack((box_muller(word0, word1), box_muller(word2, word3)), dim=-2)
        return normals.flatten(2)[..., :channels].float()  # (B, n, quads, 2, 2) -> (B, n, C)


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
