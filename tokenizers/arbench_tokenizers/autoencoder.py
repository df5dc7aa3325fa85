"""The convolutional autoencoder of latent diffusion (arXiv:2112.10752), shared by every tokenizer here.

Module names are those of the released state dicts, so that a checkpoint's keys are our keys.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arbench_tokenizers.config import AutoencoderConfig

NORM_GROUPS = 32  # LDM: GroupNorm(32) everywhere; narrower layers take the largest divisor
NORM_EPS = 1e-6


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or the largest common divisor for narrow layers."""
    return nn.GroupNorm(math.gcd(NORM_GROUPS, channels), channels, eps=NORM_EPS)


def activate(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """SiLU of the normalised input; in place where no gradient is wanted, since the norm's output is ours alone."""
    return F.silu(norm(x), inplace=not torch.is_grad_enabled())


def residual(x: Tensor, change: Tensor) -> Tensor:
    """x + change, written into `change` where no gradient is wanted."""
    return x + change if torch.is_grad_enabled() else change.add_(x)


class ResBlock(nn.Module):
    """Two 3×3 convolutions around a skip, (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.has_shortcut = in_channels != out_channels

    def forward(self, x: Tensor) -> Tensor:
        change = self.conv1(activate(self.norm1, x))
        change = self.conv2(activate(self.norm2, change))
        return residual(self.nin_shortcut(x) if self.has_shortcut else x, change)


class Attention(nn.Module):
    """One head of self-attention over all positions, its projections written as 1×1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        normed = self.norm(x)
        projections = (self.q, self.k, self.v)
        # (B, C, H, W) -> (B, 1, H W, C)
        query, key, value = (project(normed).flatten(2).transpose(1, 2).unsqueeze(1) for project in projections)
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = mixed.squeeze(1).transpose(1, 2).unflatten(2, (height, width))  # (B, 1, H W, C) -> (B, C, H, W)
        return residual(x, self.proj_out(mixed))


class Downsample(nn.Module):
    """Stride-2 convolution padded on the right and below only, as the release pads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour ×2, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """Block, attention, block at the coarsest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """The blocks of one resolution, each followed by attention where the level attends, then the change of size."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, attends: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * num_blocks
        self.block = nn.ModuleList(ResBlock(widths[i], widths[i + 1]) for i in range(num_blocks))
        self.attn = nn.ModuleList(Attention(out_channels) for _ in range(num_blocks if attends else 0))

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        return x


class DownLevel(Level):
    """A level of the encoder; all but the coarsest halve the size at their end."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, attends: bool, halves: bool) -> None:
        super().__init__(in_channels, out_channels, num_blocks, attends)
        self.downsample = Downsample(out_channels) if halves else None

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if self.downsample is None else self.downsample(x)


class UpLevel(Level):
    """A level of the decoder; all but the finest double the size at their end."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, attends: bool, doubles: bool) -> None:
        super().__init__(in_channels, out_channels, num_blocks, attends)
        self.upsample = Upsample(out_channels) if doubles else None

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if self.upsample is None else self.upsample(x)


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> (B, encoder_channels, H/downsample, W/downsample)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        incoming = (config.base_channels, *widths[:-1])
        self.conv_in = nn.Conv2d(3, config.base_channels, 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(incoming[i], widths[i], config.num_res_blocks, config.attends(i), halves=i < last)
            for i in range(last + 1)
        )
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.encoder_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return self.conv_out(activate(self.norm_out, self.mid(x)))


class Decoder(nn.Module):
    """Bottleneck (B, channels, h, w) -> images (B, 3, h·downsample, w·downsample)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        incoming = (*widths[1:], widths[-1])
        attends = [config.decoder_attention and config.attends(i) for i in range(len(widths))]
        self.conv_in = nn.Conv2d(config.channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(  # indexed by level, finest first, as the release numbers them; run from the back
            UpLevel(incoming[i], widths[i], config.num_res_blocks + 1, attends[i], doubles=i > 0)
            for i in range(len(widths))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, bottleneck: Tensor) -> Tensor:
        x = self.mid(self.conv_in(bottleneck))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(activate(self.norm_out, x))
