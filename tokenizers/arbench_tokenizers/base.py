"""What every convolutional tokenizer does: check shapes, work in bounded chunks, encode and decode."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from arbench_tokenizers.autoencoder import AutoencoderConfig, Decoder, Encoder
from arbench_tokenizers.quantize import VectorQuantizer

# Pixels encoded or decoded at once, so that memory does not grow with the batch
CHUNK_PIXELS = 2 * 256 * 256
MAX_LOG_VARIANCE, MIN_LOG_VARIANCE = 20.0, -30.0  # LDM's clamp of the posterior's log-variance


class ConvTokenizer(nn.Module):
    """An LDM autoencoder with 1×1 convolutions around its bottleneck."""

    name: ClassVar[str]
    kind: str

    def __init__(self, config: AutoencoderConfig, latent_channels: int) -> None:
        super().__init__()
        self.config = config
        self.channels = latent_channels
        self.downsample = config.downsample
        widening = config.encoder_channels // config.channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(config.encoder_channels, widening * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, config.channels, 1)

    def encode_raw(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> the encoder's output after its 1×1 convolution, with gradients."""
        return self.quant_conv(self.encoder(images))

    def decode_raw(self, latents: Tensor) -> Tensor:
        """Unscaled latents (B, C, h, w) -> images (B, 3, H, W), with gradients."""
        return self.decoder(self.post_quant_conv(latents))

    def _encode_chunks(self, images: Tensor) -> Tensor:
        """`encode_raw` over chunks of bounded size. Raises ValueError for a wrong shape."""
        side = self.downsample
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % side or images.shape[3] % side:
            shape = tuple(images.shape)
            raise ValueError(f"{self.name}: images have shape {shape}; expected (B, 3, H, W), sides of {side}·n")
        return self._in_chunks(self.encode_raw, images, images.shape[2] * images.shape[3])

    def _decode_chunks(self, latents: Tensor) -> Tensor:
        """`decode_raw` over chunks of bounded size. Raises ValueError for a wrong shape."""
        if latents.ndim != 4 or latents.shape[1] != self.channels:
            raise ValueError(
                f"{self.name}: latents have shape {tuple(latents.shape)}; expected (B, {self.channels}, h, w)"
            )
        return self._in_chunks(self.decode_raw, latents, latents.shape[2] * latents.shape[3] * self.downsample**2)

    def _in_chunks(self, function: Callable[[Tensor], Tensor], inputs: Tensor, pixels: int) -> Tensor:
        """Apply `function` to at most CHUNK_PIXELS pixels at a time, channels last, in the weights' dtype."""
        weight = self.post_quant_conv.weight
        inputs = inputs.to(weight.device, weight.dtype, memory_format=torch.channels_last)
        chunks = inputs.split(max(1, CHUNK_PIXELS // max(1, pixels)))
        outputs = [function(chunk) for chunk in chunks]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class KLTokenizer(ConvTokenizer):
    """Continuous latents with a Gaussian posterior; tokens are latents multiplied by `scale`."""

    kind = "continuous"
    vocab_size: int | None = None
    scale: float

    @torch.no_grad()
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of images (B, 3, H, W) in [-1, 1]: unscaled mean and standard deviation, each (B, C, h, w)."""
        return split_moments(self._encode_chunks(images))

    @torch.no_grad()
    def encode(self, images: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> scaled latents (B, C, h, w): the mean, or a sample drawn with `rng`."""
        mean, std = self.moments(images)
        if rng is None:
            return mean * self.scale
        return (mean + std * normal_like(mean, rng)) * self.scale

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> images (B, 3, H, W), about [-1, 1]."""
        return self._decode_chunks(tokens / self.scale)


class VQTokenizer(ConvTokenizer):
    """Discrete codes; with `kind="continuous"` tokens are the latents before quantisation (MAR's Table 2).

    `quantize` is the codebook itself: calling it turns latents into ids.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        vocab_size: int,
        codebook_dim: int,
        unit_norm: bool = False,
        kind: str = "discrete",
        scale: float = 1.0,
    ) -> None:
        super().__init__(config, codebook_dim)
        if kind not in ("discrete", "continuous"):
            raise ValueError(f"unknown kind {kind!r} of {self.name}; expected 'discrete' or 'continuous'")
        self.kind = kind
        self.scale = scale
        self.vocab_size = vocab_size
        self.quantize = VectorQuantizer(vocab_size, codebook_dim, unit_norm=unit_norm)

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> unscaled latents before quantisation (B, D, h, w)."""
        return self._encode_chunks(images)

    @torch.no_grad()
    def lookup(self, ids: Tensor) -> Tensor:
        """Ids (B, h, w) -> codes (B, D, h, w). Raises ValueError for an id outside the codebook."""
        return self.quantize.lookup(ids.to(self.post_quant_conv.weight.device))

    @torch.no_grad()
    def encode(self, images: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> ids (B, h, w) int64, or scaled latents for `kind="continuous"`.

        There is no posterior to draw from: `rng` changes nothing.
        """
        latents = self.latents(images)
        return self.quantize(latents) if self.kind == "discrete" else latents * self.scale

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Ids (B, h, w), or scaled latents that are quantised here, -> images (B, 3, H, W), about [-1, 1]."""
        if self.kind == "continuous":
            tokens = self.quantize((tokens / self.scale).to(self.post_quant_conv.weight.device))
        return self._decode_chunks(self.lookup(tokens))


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2C, h, w) as the network gives it -> mean and standard deviation, each (B, C, h, w)."""
    mean, log_variance = moments.chunk(2, dim=1)
    return mean, torch.exp(0.5 * log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE))


def normal_like(values: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `values`, drawn where `rng` lives."""
    noise = torch.randn(values.shape, generator=rng, device=rng.device, dtype=torch.float32)
    return noise.to(values.device, values.dtype)
