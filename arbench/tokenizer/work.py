"""Operations and weights of the convolutional decoders that all tokenizers of latent diffusion share.

The layers follow from the configuration alone (arXiv:2112.10752, appendix E): a convolution, the middle with its
attention, then at each level one more block than the encoder has, and a convolution after each doubling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from arbench.machine.work import Work
from arbench.protocols import Tokenizer

# What a tokenizer's configuration has to say for its decoder to be known.
DECODER_FIELDS = ("widths", "num_res_blocks", "decoder_attention", "attends", "channels", "latent_channels")


class DecoderConfig(Protocol):
    """Those fields: channels of each level, finest first, blocks a level, and where attention stands."""

    @property
    def widths(self) -> tuple[int, ...]: ...

    @property
    def num_res_blocks(self) -> int: ...

    @property
    def decoder_attention(self) -> bool: ...

    @property
    def channels(self) -> int: ...

    @property
    def latent_channels(self) -> int: ...

    def attends(self, level: int) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution with bias at `pixels` places; kernel 0 stands for attention among them, which has no weights."""

    incoming: int
    outgoing: int
    kernel: int
    pixels: int

    @property
    def weights(self) -> int:
        return self.incoming * self.outgoing * self.kernel**2 + (self.outgoing if self.kernel else 0)

    @property
    def flops(self) -> int:
        if self.kernel:
            return 2 * self.incoming * self.outgoing * self.kernel**2 * self.pixels
        return 4 * self.outgoing * self.pixels**2


def decoder_work(tokenizer: Tokenizer | None, latent_size: tuple[int, int], batch_size: int) -> Work | None:
    """Decoding `batch_size` latents of (rows, columns); None where the tokenizer's decoder is not of this family.

    A VQ tokenizer with `kind="continuous"` also searches its codebook, which is left out.
    """
    weights: Any = tokenizer  # one with such a configuration is a module
    config = getattr(tokenizer, "config", None)
    if config is None or not all(hasattr(config, name) for name in DECODER_FIELDS):
        return None
    layers = list(decoder_layers(config, latent_size[0] * latent_size[1]))
    item = next(weights.parameters()).element_size()
    flops = batch_size * sum(layer.flops for layer in layers)
    return Work(flops=flops, bytes=item * sum(layer.weights for layer in layers))


def decoder_layers(config: DecoderConfig, pixels: int) -> Iterator[Layer]:
    """Every convolution and attention for latents of `pixels` places, in the order in which they run."""
    width = config.widths[-1]
    yield convolution(config.latent_channels, config.channels, 1, pixels)
    yield convolution(config.channels, width, 3, pixels)
    yield from residual_block(width, width, pixels)
    yield from attention(width, pixels)
    yield from residual_block(width, width, pixels)
    for level in reversed(range(len(config.widths))):
        for _ in range(config.num_res_blocks + 1):
            yield from residual_block(width, config.widths[level], pixels)
            width = config.widths[level]
            if config.decoder_attention and config.attends(level):
                yield from attention(width, pixels)
        if level > 0:
            pixels *= 4
            yield convolution(width, width, 3, pixels)
    yield convolution(width, 3, 3, pixels)


def convolution(incoming: int, outgoing: int, kernel: int, pixels: int) -> Layer:
    return Layer(incoming=incoming, outgoing=outgoing, kernel=kernel, pixels=pixels)


def residual_block(incoming: int, outgoing: int, pixels: int) -> Iterator[Layer]:
    """Two 3×3 convolutions, and a 1×1 one around them where the width changes."""
    yield convolution(incoming, outgoing, 3, pixels)
    yield convolution(outgoing, outgoing, 3, pixels)
    if incoming != outgoing:
        yield convolution(incoming, outgoing, 1, pixels)


def attention(width: int, pixels: int) -> Iterator[Layer]:
    """Query, key, value and output as 1×1 convolutions, and every place looking at every other."""
    for _ in range(4):
        yield convolution(width, width, 1, pixels)
    yield convolution(width, width, 0, pixels)
