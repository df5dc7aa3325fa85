"""Layers of the two backbones: RMSNorm, 2-D rotary embedding, KV cache, and the two kinds of transformer block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arbench.generators.common.joined import joined_product
from arbench.machine.fused import Region
from arbench.machine.products import FewRowsLinear

ROTARY_BASE = 10_000  # longest wavelength over 2 pi, LlamaGen release
SINUSOID_PERIOD = 100.0  # tokens, well above the side of a small grid
HEAD_MULTIPLE = 8  # channels of a head that fused attention under a mask wants in half precision, by reading
SWIGLU_MULTIPLE = 256  # the hidden width of SwiGLU is rounded up to it, LlamaGen release


def as_wide(weight: Tensor, x: Tensor) -> Tensor:
    """A norm's `weight`, in the dtype of `x` where that is wider: FSDP2 puts weights together in half precision."""
    return weight.to(torch.promote_types(weight.dtype, x.dtype))


class LayerNorm(nn.LayerNorm):
    """PyTorch's with weight and bias, which may be in half precision where what it normalises is not."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, as_wide(self.weight, x), as_wide(self.bias, x), self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation computed in at least float32 (epsilon 1e-5, LlamaGen release)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), as_wide(self.weight, x), self.eps)


def rotary_table(grid: tuple[int, int], head_width: int) -> Tensor:
    """Cosines and sines for the class token and each place of the grid: (1 + N, head_width / 2, 2) float64.

    The first half of a head's channel pairs turns with the row, the second with the column. The class token's entry is
    all zeros, so that its query and key vanish: this is how the released models were trained.
    """
    half = head_width // 2
    frequencies = ROTARY_BASE ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)
    rows = torch.arange(grid[0], dtype=torch.float64)[:, None, None] * frequencies
    columns = torch.arange(grid[1], dtype=torch.float64)[None, :, None] * frequencies
    shape = (*grid, len(frequencies))
    angles = torch.cat((rows.expand(shape), columns.expand(shape)), dim=-1).flatten(0, 1)  # (N, head_width / 2)
    table = torch.stack((angles.cos(), angles.sin()), dim=-1)
    return torch.cat((torch.zeros_like(table[:1]), table))


def grid_sinusoids(grid: tuple[int, int], width: int) -> Tensor:
    """(rows · columns, width) float32: half of the channels turn with the row, half with the column."""
    half = width // 4
    rates = torch.exp(-math.log(SINUSOID_PERIOD) * torch.arange(half) / half) * math.pi / 2
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    angles = [place.flatten()[:, None] * rates for place in (rows, columns)]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return F.pad(table, (0, width - table.shape[1]))


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn adjacent channel pairs: x (.., B, H, T, D), rotary (T, D/2, 2) or (B, 1, T, D/2, 2) -> as x.

    A pair is a complex number and a rotary entry the one that it is multiplied by.
    """
    pairs = x.to(rotary.dtype).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # compilers make no kernels of complex numbers
        (real, imaginary), (cosine, sine) = pairs.unbind(-1), rotary.unbind(-1)
        turned = torch.stack((real * cosine - imaginary * sine, real * sine + imaginary * cosine), dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotary))
    return turned.flatten(-2).to(x.dtype)


class KVCache:
    """Keys and values of the tokens so far, one pair of buffers a layer: (R, H, T, D) each, `length` of T filled."""

    def __init__(self, depth: int, rows: int, heads: int, capacity: int, head_width: int, like: Tensor) -> None:
        shape = (depth, 2, rows, heads, capacity, head_width)
        self._buffer = self._whole = torch.empty(shape, device=like.device, dtype=like.dtype)
        self.length = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (R, H, n, D) behind the filled part and return views of all keys and values up to there."""
        end = self.length + keys.shape[2]
        buffer = self._buffer[layer]
        buffer[0, :, :, self.length : end] = keys
        buffer[1, :, :, self.length : end] = values
        return buffer[0, :, :, :end], buffer[1, :, :, :end]

    def extend_both(self, layer: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """As `extend`, of both in one tensor (2, R, H, n, D): one write."""
        end = self.length + keys_values.shape[3]
        buffer = self._buffer[layer]
        buffer[:, :, :, self.length : end] = keys_values
        return buffer[0, :, :, :end], buffer[1, :, :, :end]

    def mask(self, count: int, causal: bool) -> Tensor | None:
        """Which keys `count` new tokens see, (count, T) bool; None for all. `causal`: each those up to itself."""
        if count == 1 or not causal:
            return None
        seen = torch.ones(count, self.length + count, dtype=torch.bool, device=self._buffer.device)
        return seen.tril(self.length)

    def advance(self, num_tokens: int) -> None:
        self.length += num_tokens

    def keep_rows(self, rows: int) -> None:
        """Forget all but the first `rows` rows (no copy)."""
        self._buffer = self._buffer[:, :, :rows]

    def restart(self) -> None:
        """Nothing filled, all rows."""
        self._buffer, self.length = self._whole, 0


class StaticKVCache(KVCache):
    """A cache whose tensors stay where they are: how far it is filled is a tensor, and `bucket` places are looked at.

    A step on it is the same operations on the same addresses whatever the filled length, as a CUDA graph needs it.
    """

    length: Tensor  # type: ignore[assignment]

    def __init__(self, depth: int, rows: int, heads: int, capacity: int, head_width: int, like: Tensor) -> None:
        super().__init__(depth, rows, heads, capacity, head_width, like)
        self._buffer.zero_()  # what is masked is multiplied by zero, and must be finite
        self.bucket = capacity
        self.length = torch.zeros((), dtype=torch.int64, device=like.device)
        self._ahead = torch.arange(capacity, device=like.device)
        hidden = self._ahead > self._ahead[:, None]
        self._masks = torch.zeros(hidden.shape, device=like.device, dtype=like.dtype).masked_fill_(hidden, -torch.inf)
        self._places: Tensor  # of the new tokens

    def extend_both(self, layer: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (2, R, H, n, D) behind the filled part and return views of the first `bucket` keys and values."""
        buffer = self._buffer[layer].index_copy_(3, self._places, keys_values)
        return buffer[0, :, :, : self.bucket], buffer[1, :, :, : self.bucket]

    def mask(self, count: int, causal: bool) -> Tensor:
        """(count, bucket), what attention adds: 0 where a new token looks, -inf elsewhere; comes before `extend`.

        It looks at what is filled once the new tokens are in, or with `causal` at what there is up to itself.
        """
        self._places = self.length + self._ahead[:count]
        last = self._places if causal else self._places[-1:].expand(count)
        return self._masks[:, : self.bucket].index_select(0, last)

    def restart(self) -> None:
        """Nothing filled, all rows."""
        self._buffer = self._whole
        self.length.zero_()


def padded_head(head_width: int) -> int:
    """Channels of a head in a static state: `head_width` rounded up to `HEAD_MULTIPLE`."""
    return -(-head_width // HEAD_MULTIPLE) * HEAD_MULTIPLE


class CausalAttention(nn.Module):
    """Multi-head attention with a fused projection, rotary positions and no biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.wqkv = FewRowsLinear(width, 3 * width, bias=False)
        self.wo = FewRowsLinear(width, width, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (3, B, H, T, D/H)."""
        batch, length, _ = x.shape
        return self.wqkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> queries, keys, values, each (B, H, T, D/H)."""
        qkv = self._split(x)
        q, k = rotate(qkv[:2], rotary)  # both at once
        return q, k, qkv[2]

    def project_together(self, x: Tensor, rotaries: Tensor) -> Tensor:
        """As `project`, in one tensor (3, B, H, T, W'), for `rotaries` (3, B, 1, T, W, 2) that leave values alone.

        W' is `padded_head` of D/H; channels beyond the head's own are 0.
        """
        qkv, padding = rotate(self._split(x), rotaries), padded_head(self.head_width) - self.head_width
        return F.pad(qkv, (0, padding)) if padding else qkv

    def attend_padded(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Attention over padded heads, as if they were not: (B, H, n, W')."""
        scale = None if q.shape[-1] == self.head_width else self.head_width**-0.5
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None) -> Tensor:
        """A whole sequence (B, T, D); `mask` (T, T) bool, True where attention is allowed, None for causal."""
        q, k, v = self.project(x, rotary)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.merge(out)

    def merge(self, heads: Tensor) -> Tensor:
        """(B, H, T, D/H), or with padded heads -> (B, T, D)."""
        return self.wo(heads[..., : self.head_width].transpose(1, 2).flatten(2))


def swiglu_width(width: int) -> int:
    """Two thirds of four widths, rounded up to a multiple of 256 (LlamaGen release)."""
    return -(-int(2 * 4 * width / 3) // SWIGLU_MULTIPLE) * SWIGLU_MULTIPLE


class SwiGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = swiglu_width(width)
        self.w1 = FewRowsLinear(width, hidden, bias=False)
        self.w3 = FewRowsLinear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """The weights of the two products that read the same: (hidden, D) each."""
        return self.w1.weight, self.w3.weight

    def forward(self, x: Tensor, both: Tensor | None = None) -> Tensor:
        """(.., D) -> (.., D); `both` is `pair` in one tensor (2 hidden, D): one product in place of two."""
        gate, up = (self.w1(x), self.w3(x)) if both is None else joined_product(x, both).chunk(2, dim=-1)
        return self.w2(F.silu(gate) * up)


class CausalBlock(nn.Module):
    """Pre-norm block of the causal GPT."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = CausalAttention(width, heads)
        self.feed_forward = SwiGLU(width)
        self.attention_norm = RMSNorm(width)
        self.ffn_norm = RMSNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, mask))
        return x + self.dropout(self.feed_forward(self.ffn_norm(x)))

    def step(self, x: Tensor, rotary: Tensor, cache: KVCache, layer: int, mask: Tensor | None) -> Tensor:
        """New tokens (R, n, D) -> (R, n, D); they see the cache, which takes their keys and values, and each other
        where no `mask` hides it."""
        q, k, v = self._before_attention(x, rotary)
        keys, values = cache.extend(layer, k, v)
        return self._after_attention(x, F.scaled_dot_product_attention(q, keys, values, attn_mask=mask))

    def step_static(
        self, x: Tensor, rotaries: Tensor, cache: StaticKVCache, layer: int, mask: Tensor, both: Tensor
    ) -> Tensor:
        """As `step` in fewer kernels: `rotaries` as in `project_together`, `both` as in `SwiGLU`."""
        qkv = self._all_before_attention(x, rotaries)
        keys, values = cache.extend_both(layer, qkv[1:])
        return self._after_attention(x, self.attention.attend_padded(qkv[0], keys, values, mask), both)

    @Region
    def _before_attention(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.attention.project(self.attention_norm(x), rotary)

    @Region
    def _all_before_attention(self, x: Tensor, rotaries: Tensor) -> Tensor:
        return self.attention.project_together(self.attention_norm(x), rotaries)

    @Region
    def _after_attention(self, x: Tensor, heads: Tensor, both: Tensor | None = None) -> Tensor:
        x = x + self.attention.merge(heads)
        return x + self.feed_forward(self.ffn_norm(x), both)


class BidirectionalAttention(nn.Module):
    """Multi-head attention with biases; its parameter names are those of timm's `Attention`."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        """`dropout` is that of the attention weights."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, D) -> (B, H, T, D/H)

    def forward(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D), or (B, n, D) for `queries` (B, n, D), rows of x for which alone output is wanted."""
        if queries is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            width, dtype = x.shape[-1], self.qkv.weight.dtype
            queries, x = queries.to(dtype), x.to(dtype)  # half where only products are in half precision
            q = F.linear(queries, self.qkv.weight[:width], self.qkv.bias[:width])
            k, v = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:]).chunk(2, dim=-1)
        chance = self.dropout.p if self.training else 0.0
        out = F.scaled_dot_product_attention(self._split(q), self._split(k), self._split(v), dropout_p=chance)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        """`dropout` is that of the first layer's output."""
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(F.gelu(self.fc1(x))))


class ViTBlock(nn.Module):
    """Pre-norm ViT block; own code, for timm's cannot leave out the queries whose output nobody reads.

    Dropout is where MAR has it: on the attention's weights and output, and on both layers of the MLP.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, eps=1e-6)
        self.attn = BidirectionalAttention(width, heads, dropout)
        self.norm2 = LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width, dropout)
        self.dropout = nn.Dropout(dropout)

    @Region
    def forward(self, x: Tensor, wanted: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D), or (B, n, D) for the rows `wanted` (B, n) alone."""
        normed, queries = self.norm1(x), None
        if wanted is not None:
            index = wanted.unsqueeze(-1).expand(-1, -1, x.shape[-1])
            x, queries = x.gather(1, index), normed.gather(1, index)
        x = x + self.dropout(self.attn(normed, queries))
        return x + self.dropout(self.mlp(self.norm2(x)))
