"""What every convolutional tokenizer does: check shapes, work in bounded chunks, encode, decode, load its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from arbench.protocols import TokenizerPass
from arbench.tokenizer.recipe import TokenizerRecipe
from arbench.weights.keys import require_same
from arbench_tokenizers.autoencoder import Decoder, Encoder
from arbench_tokenizers.config import AutoencoderConfig, KLConfig, VQConfig, make_config, merge_config, read_config
from arbench_tokenizers.quantize import VectorQuantizer
from arbench_tokenizers.release import read_release

# Pixels encoded or decoded at once, so that memory does not grow with the batch. On the CPU small chunks stay in its
# caches, and all have one size (the last is filled up), which makes an image's bits independent of its batch.
CPU_CHUNK_PIXELS = 16 * 32 * 32
CHUNK_PIXELS = 16 * 256 * 256
MAX_LOG_VARIANCE, MIN_LOG_VARIANCE = 20.0, -30.0  # LDM's clamp of the posterior's log-variance

Self = TypeVar("Self", bound="ConvTokenizer")


class ConvTokenizer(nn.Module):
    """An LDM autoencoder with 1×1 convolutions around its bottleneck.

    A subclass names itself, its `default` configuration and the `family` of state dicts that it loads; keywords
    override the configuration. Raises ValueError for an unknown keyword or an impossible value.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    default: ClassVar[AutoencoderConfig]
    recipe: ClassVar[TokenizerRecipe]
    kind: str
    channels: int
    downsample: int
    vocab_size: int | None = None

    def __init_subclass__(cls) -> None:
        """Let the class itself say what its default configuration makes of it, so that a list builds no model."""
        super().__init_subclass__()
        if "default" in vars(cls):
            cls.channels, cls.downsample = cls.default.latent_channels, cls.default.downsample
            cls.vocab_size = getattr(cls.default, "vocab_size", None)

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = make_config(self.name, self.default, config)
        self.channels = self.config.latent_channels
        self.downsample = self.config.downsample
        encoded = self.config.encoder_channels * self.channels // self.config.channels
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.quant_conv = nn.Conv2d(self.config.encoder_channels, encoded, 1)
        self.post_quant_conv = nn.Conv2d(self.channels, self.config.channels, 1)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_weights(cls: type[Self], path: Path, **config: Any) -> Self:
        """A tokenizer with the weights of a release's file, its architecture read off the tensors.

        Raises ValueError for a foreign or broken file, for tensors missing, left over or of another shape, and where
        `config` contradicts the file; OSError where it cannot be read.
        """
        family, tensors = read_release(path)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if family != cls.family:
            raise ValueError(f"{path}: holds {family} weights; expected {cls.family} weights for {cls.name!r}")
        asked = make_config(cls.name, cls.default, config)
        told = {**read_config(shapes, asked.resolution, str(path)), **cls.told_besides(tensors)}
        merged = merge_config(cls.name, cls.default, told, config, str(path))
        with torch.device("meta"):
            tokenizer = cls(**vars(merged))
        tokenizer.make_room(tensors)
        require_same(shapes, {name: tuple(value.shape) for name, value in tokenizer.state_dict().items()}, str(path))
        tokenizer.load_state_dict(tensors, assign=True)
        return tokenizer.to(memory_format=torch.channels_last)

    @classmethod
    def told_besides(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Settings that a family's files hold beside the autoencoder's shapes."""
        return {}

    def make_room(self, tensors: dict[str, Tensor]) -> None:
        """Prepare for what a file holds and a new tokenizer does not."""

    def release_tensors(self) -> dict[str, Tensor]:
        """The state dict under the names of the family's files."""
        return self.state_dict()

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution (3, channels, 3, 3)."""
        return self.decoder.conv_out.weight

    @property
    def scale(self) -> float:
        """Factor that brings the latents to unit deviation."""
        return self.config.scale

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
        return in_chunks(self.encode_raw, images, images.shape[2] * images.shape[3], self.post_quant_conv.weight)

    def _decode_chunks(self, latents: Tensor) -> Tensor:
        """`decode_raw` over chunks of bounded size. Raises ValueError for a wrong shape."""
        if latents.ndim != 4 or latents.shape[1] != self.channels:
            shape = tuple(latents.shape)
            raise ValueError(f"{self.name}: latents have shape {shape}; expected (B, {self.channels}, h, w)")
        pixels = latents.shape[2] * latents.shape[3] * self.downsample**2
        return in_chunks(self.decode_raw, latents, pixels, self.post_quant_conv.weight)


class KLTokenizer(ConvTokenizer):
    """Continuous latents with a Gaussian posterior; tokens are latents multiplied by `scale`.

    The scale of one that was trained here was measured and travels with its weights as `latent_scale`.
    """

    family = "kl16"
    kind = "continuous"
    config: KLConfig
    latent_scale: Tensor | None

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_buffer("latent_scale", None)
        self._read: tuple[Tensor, int, float] | None = None  # the buffer, its version and its value when last read

    @classmethod
    def told_besides(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        return {"scale": tensors["latent_scale"].item()} if "latent_scale" in tensors else {}

    def make_room(self, tensors: dict[str, Tensor]) -> None:
        if "latent_scale" in tensors:
            self.latent_scale = torch.empty((), device="meta")

    @property
    def scale(self) -> float:
        """Factor that brings the latents to unit deviation."""
        told = self.latent_scale
        if told is None:
            return self.config.scale
        # Read again where it was changed alone: to ask a device for a value is to wait for it, which no graph records.
        version = -1 if told.is_inference() else told._version
        if self._read is None or self._read[0] is not told or self._read[1] != version:
            self._read = told, version, float(told)
        return self._read[2]

    def set_scale(self, scale: float) -> None:
        """Store the factor, usually 1 / standard deviation of the training set's latents."""
        self.latent_scale = torch.tensor(scale, device=self.post_quant_conv.weight.device)

    def training_pass(self, images: Tensor, rng: torch.Generator) -> TokenizerPass:
        """Images (B, 3, H, W) in [-1, 1] through a posterior sample and back, with gradients."""
        mean, std = split_moments(self.encode_raw(images))
        return TokenizerPass(
            reconstruction=self.decode_raw(mean + std * normal_like(mean, rng)), mean=mean, deviation=std
        )

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

    `quantize` is the codebook itself: calling it turns latents (B, D, h, w) into ids (B, h, w).
    """

    family = "vq16"
    kind = "discrete"
    unit_norm: ClassVar[bool] = False  # codes and latents are compared as unit vectors
    config: VQConfig

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.kind = self.config.kind
        self.vocab_size = self.config.vocab_size
        self.quantize = VectorQuantizer(self.vocab_size, self.config.codebook_dim, unit_norm=self.unit_norm)

    @property
    def codebook(self) -> Tensor:
        """The codes (V, D) as they are stored, not normalised."""
        return self.quantize.embedding.weight

    def training_pass(self, images: Tensor, rng: torch.Generator) -> TokenizerPass:
        """Images (B, 3, H, W) in [-1, 1] through their codes and back, with gradients; `rng` is not drawn from.

        Gradients pass the quantiser straight through.
        """
        latents = self.quantize.normalize(self.encode_raw(images))
        ids = self.quantize(latents)
        codes = self.quantize.lookup(ids)
        reconstruction = self.decode_raw(latents + (codes - latents).detach())
        every = self.quantize.codebook()
        return TokenizerPass(reconstruction=reconstruction, latents=latents, codes=codes, ids=ids, all_codes=every)

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> unscaled latents before quantisation (B, D, h, w)."""
        return self._encode_chunks(images)

    @torch.no_grad()
    def lookup(self, ids: Tensor) -> Tensor:
        """Ids (B, h, w) -> codes (B, D, h, w), as `VectorQuantizer.lookup`."""
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


def in_chunks(function: Callable[[Tensor], Tensor], inputs: Tensor, pixels: int, weight: Tensor) -> Tensor:
    """Apply `function`, chunk by chunk and channels last, to images of `pixels` each; device and dtype are `weight`'s.

    The result is contiguous and allocated once, so memory beyond it is that of one chunk.
    """
    inputs = inputs.to(weight.device, weight.dtype, memory_format=torch.channels_last)
    on_cpu = weight.device.type == "cpu"
    size = max(1, (CPU_CHUNK_PIXELS if on_cpu else CHUNK_PIXELS) // max(1, pixels))
    outputs = inputs.new_empty(0)
    for start, chunk in zip(range(0, max(1, len(inputs)), size), inputs.split(size), strict=True):
        found = function(_filled(chunk, size) if on_cpu else chunk)
        if not start:
            outputs = found.new_empty(len(inputs), *found.shape[1:])
        outputs[start : start + size] = found[: len(chunk)]
    return outputs


def _filled(chunk: Tensor, size: int) -> Tensor:
    """`chunk` with zeros behind it up to `size` images."""
    return chunk if len(chunk) == size else torch.cat((chunk, chunk.new_zeros(size - len(chunk), *chunk.shape[1:])))


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2C, h, w) as the network gives it -> mean and standard deviation, each (B, C, h, w)."""
    mean, log_variance = moments.chunk(2, dim=1)
    return mean, torch.exp(0.5 * log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE))


def normal_like(values: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `values`, drawn where `rng` lives."""
    noise = torch.randn(values.shape, generator=rng, device=rng.device, dtype=torch.float32)
    return noise.to(values.device, values.dtype)
