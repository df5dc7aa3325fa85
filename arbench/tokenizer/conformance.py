"""The conformance test of a tokenizer: what `arbench tokenizers check` looks at, one named check after another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from arbench.machine.checks import Check, CheckSkipped, require, run_check, same
from arbench.machine.hardware import available_devices
from arbench.protocols import KINDS, TOKENIZER_MEMBERS, Tokenizer, missing_members
from arbench.tokenizer.load import decode_tokens, encode_images, scaled, shift_and_scale

# Floats of an image may differ with its batch by the order of sums: float32 convolutions stay below this share.
BATCH_TOLERANCE = 1e-4
DEVICE_TOLERANCE = 1e-2  # another device may compute in TF32 and with other kernels
WIDEST_VALUE = 3.0  # decoded images lie about [-1, 1]; beyond this they are not in that range at all
SEED = 0


@torch.no_grad()
def check_tokenizer(tokenizer: Tokenizer, images: Tensor, *, trained: bool = True) -> list[Check]:
    """Every check of the protocol on images (B, 3, H, W) in [-1, 1], B at least 2.

    `trained` False leaves out what random weights cannot do. Nothing is raised for a tokenizer that fails: whatever
    a check raises is its failure.
    """
    missing = missing_members(tokenizer, TOKENIZER_MEMBERS)
    if missing:
        return [Check(name="members", outcome="failed", detail=f"lacks {', '.join(missing)}")]
    probe = Probe(tokenizer, images, trained)
    return [run_check(name, getattr(probe, name)) for name in probe.names()]


class Probe:
    """The checks, one method each; a method returns what it saw, raises ValueError where the protocol is broken."""

    def __init__(self, tokenizer: Tokenizer, images: Tensor, trained: bool) -> None:
        self.tokenizer: Any = tokenizer  # with the members that it may have beside those that it must
        self.images, self.trained = images, trained
        self.discrete = tokenizer.kind == "discrete"

    def names(self) -> Iterator[str]:
        """The checks in their order."""
        return (name for name in vars(Probe) if not name.startswith("_") and name != "names")

    def numbers(self) -> str:
        """`kind`, `downsample`, `channels`, `vocab_size` and `scale` are of the right sort."""
        tokenizer = self.tokenizer
        require(tokenizer.kind in KINDS, f"kind is {tokenizer.kind!r}; expected one of {', '.join(KINDS)}")
        for member in ("downsample", "channels", *(("vocab_size",) if self.discrete else ())):
            value = getattr(tokenizer, member)
            require(isinstance(value, int) and value > 0, f"{member} is {value!r}; expected a positive integer")
        scale = self._numbers_a_channel()
        codes = f", {tokenizer.vocab_size} codes" if self.discrete else ""
        return f"{tokenizer.kind}, 1/{tokenizer.downsample}, {tokenizer.channels} channels{codes}, {scale}"

    def _numbers_a_channel(self) -> str:
        """`scale` is positive, `shift` finite; either is one number, or one a channel."""
        told = []
        for name, value in zip(("shift", "scale"), shift_and_scale(self.tokenizer), strict=True):
            values = torch.as_tensor(value, dtype=torch.float64).flatten()
            count, good = len(values), bool(torch.isfinite(values).all())
            require(count in (1, self.tokenizer.channels), f"{name} has {count} numbers; expected 1, or one a channel")
            require(good and (name == "shift" or bool((values > 0).all())), f"{name} is {value!r}; expected above 0")
            told.append(f"{name} {values.min():.4g}" + (f" to {values.max():.4g}" if count > 1 else ""))
        return told[1] if self.tokenizer.kind == "discrete" or told[0] == "shift 0" else ", ".join(told)

    def encode_shape(self) -> str:
        """Tokens have the shape and dtype that `kind` says."""
        tokens = encode_images(self.tokenizer, self.images)
        return f"{tuple(self.images.shape)} -> {tuple(tokens.shape)} {tokens.dtype}".replace("torch.", "")

    def token_range(self) -> str:
        """Ids lie in the codebook, latents are finite."""
        tokens = encode_images(self.tokenizer, self.images)
        if self.discrete:
            low, high = int(tokens.min()), int(tokens.max())
            require(low >= 0 and high < self.tokenizer.vocab_size, f"ids reach from {low} to {high}")
            return f"ids {low} to {high}"
        require(bool(torch.isfinite(tokens).all()), "latents are not finite")
        return f"deviation {float(tokens.float().std()):.3g} after scaling"

    def decode_shape(self) -> str:
        """Decoding gives the images' shape back, as floats."""
        images = decode_tokens(self.tokenizer, encode_images(self.tokenizer, self.images))
        require(images.is_floating_point(), f"decoded images are {images.dtype}; expected floats")
        return f"{tuple(images.shape)} {images.dtype}".replace("torch.", "")

    def decoded_range(self) -> str:
        """Decoded images are finite and lie about [-1, 1]."""
        images = decode_tokens(self.tokenizer, encode_images(self.tokenizer, self.images))
        require(bool(torch.isfinite(images).all()), "decoded images are not finite")
        low, high = float(images.min()), float(images.max())
        require(max(-low, high) <= WIDEST_VALUE, f"values from {low:.3g} to {high:.3g}; expected about -1 to 1")
        return f"{low:.3g} to {high:.3g}"

    def round_trip(self) -> str:
        """An image comes back nearer than its own mean colour."""
        if not self.trained:
            raise CheckSkipped("random weights")
        images = decode_tokens(self.tokenizer, encode_images(self.tokenizer, self.images)).to(self.images)
        error = float((images - self.images).square().mean())
        flat = float((self.images - self.images.mean(dim=(2, 3), keepdim=True)).square().mean())
        require(error < flat, f"mean squared error {error:.3g}; the mean colour alone has {flat:.3g}")
        return f"PSNR {10 * math.log10(4 / max(error, 1e-12)):.1f} dB"

    def determinism(self) -> str:
        """The same images give the same tokens, the same tokens the same images, bit by bit."""
        tokens = encode_images(self.tokenizer, self.images)
        require(torch.equal(tokens, encode_images(self.tokenizer, self.images)), "encode differs between two calls")
        first, second = (decode_tokens(self.tokenizer, tokens) for _ in range(2))
        require(torch.equal(first, second), "decode differs between two calls")
        return "two calls agree"

    def sampling(self) -> str:
        """With `rng`, equal seeds give equal tokens."""
        first, second = (
            encode_images(self.tokenizer, self.images, rng=torch.Generator().manual_seed(SEED)) for _ in range(2)
        )
        require(torch.equal(first, second), "encode with rng differs between two equal seeds")
        drawn = not torch.equal(first, encode_images(self.tokenizer, self.images))
        return "a posterior is drawn from" if drawn else "nothing is drawn"

    def batch_invariance(self) -> str:
        """An image's tokens and its decoded image do not depend on its batch."""
        tokens = encode_images(self.tokenizer, self.images)
        alone = torch.cat([encode_images(self.tokenizer, image.unsqueeze(0)) for image in self.images])
        seen = same(alone, tokens, BATCH_TOLERANCE, "encode")
        decoded = decode_tokens(self.tokenizer, tokens)
        single = torch.cat([decode_tokens(self.tokenizer, token.unsqueeze(0)) for token in tokens])
        return f"{seen}; decode: {same(single, decoded, BATCH_TOLERANCE, 'decode')}"

    def moments_agree(self) -> str:
        """`moments` is the unscaled posterior that `encode` scales."""
        if self.discrete or not hasattr(self.tokenizer, "moments"):
            raise CheckSkipped("no moments(images)")
        mean, std = self.tokenizer.moments(self.images)
        require(mean.shape == std.shape and bool((std >= 0).all()), "moments are not a mean and a deviation")
        tokens = encode_images(self.tokenizer, self.images)
        return same(tokens, scaled(self.tokenizer, mean), BATCH_TOLERANCE, "encode is not the scaled mean")

    def codebook_agrees(self) -> str:
        """`quantize` of `latents` is `encode`; every code that `lookup` gives is found again by `quantize`."""
        if not self.discrete or not hasattr(self.tokenizer, "quantize"):
            raise CheckSkipped("no latents, quantize and lookup")
        ids = encode_images(self.tokenizer, self.images)
        again = self.tokenizer.quantize(self.tokenizer.latents(self.images))
        same(again, ids, 0.0, "quantize of latents is not encode")
        codes = self.tokenizer.lookup(ids)
        found = self.tokenizer.lookup(self.tokenizer.quantize(codes))
        return same(found, codes, BATCH_TOLERANCE, "quantize does not find the codes that lookup gives")

    def codebook_bounds(self) -> str:
        """An id outside the codebook is an error, or pixels that are not finite where nobody waits for values, not some
        code."""
        if not self.discrete:
            raise CheckSkipped("no codebook")
        ids = encode_images(self.tokenizer, self.images[:1])
        for outside in (self.tokenizer.vocab_size, -1):
            try:
                if not self.tokenizer.decode(torch.full_like(ids, outside)).isfinite().all():
                    continue
            except (ValueError, IndexError):
                continue
            raise ValueError(f"id {outside} decodes without an error; codes are 0 to {self.tokenizer.vocab_size - 1}")
        return "ids outside are refused"

    def device_move(self) -> str:
        """On the machine's fastest device it decodes what it decodes here."""
        tokenizer: Tokenizer = self.tokenizer
        kind = available_devices()[0]
        if kind == "cpu" or not isinstance(tokenizer, torch.nn.Module):
            raise CheckSkipped("this machine has the CPU only" if kind == "cpu" else "no torch module")
        home = next(tokenizer.parameters()).device
        tokens = encode_images(tokenizer, self.images)
        expected = decode_tokens(tokenizer, tokens).cpu()
        try:
            tokenizer.to(kind)
            found = decode_tokens(tokenizer, tokens.to(kind))
        finally:
            tokenizer.to(home)
        require(found.device.type == kind, f"decode on {kind} returns a tensor on {found.device.type}")
        return f"{kind}: {same(found.cpu(), expected, DEVICE_TOLERANCE, 'decode')}"
