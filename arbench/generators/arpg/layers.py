"""The two passes of ARPG: blocks that read what is known, and blocks whose queries look at it (section 3.2).

Attention without biases and with separate projections; norms, SwiGLU and rotary positions are LlamaGen's.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arbench.generators.common.joined import JoinedWeights, joined_product, joined_rotaries
from arbench.generators.common.layers import KVCache, RMSNorm, SwiGLU, rotate
from arbench.machine.fused import Region


def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, T, D) -> (B, H, T, D/H)


def split_parts(x: Tensor, parts: int, heads: int) -> Tensor:
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4)  # (B, T, parts D) -> (parts, B, H, T, D/H)


def merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # (B, H, T, D/H) -> (B, T, D)


class SelfAttention(nn.Module):
    """Attention among the known tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> queries, keys, values, each (B, H, T, D/H)."""
        q, k, v = (split_heads(project(x), self.heads) for project in (self.to_q, self.to_k, self.to_v))
        return rotate(q, rotary), rotate(k, rotary), v

    @property
    def projections(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weights of the three products that read the same: (D, D) each."""
        return self.to_q.weight, self.to_k.weight, self.to_v.weight

    def project_together(self, x: Tensor, rotaries: Tensor, joined: Tensor) -> Tensor:
        """As `project`, in one tensor (3, B, H, T, D/H), for `joined` projections (3 D, D) and `rotaries`
        (3, B, 1, T, W, 2) that leave values alone."""
        return rotate(split_parts(joined_product(x, joined), 3, self.heads), rotaries)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None) -> Tensor:
        """A whole sequence (B, T, D); `mask` (T, T) bool, True where attention is allowed, None for causal."""
        q, k, v = self.project(x, rotary)
        return self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)))


class CrossAttention(nn.Module):
    """Attention of queries to keys and values that all blocks of the second pass share."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotary: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
        """Queries (B, n, D), keys and values (B, H, T, D/H) -> (B, n, D); `causal`: query k sees the first k + 1."""
        q = rotate(split_heads(self.to_q(x), self.heads), rotary)
        return self.proj(merge_heads(F.scaled_dot_product_attention(q, keys, values, is_causal=causal)))


class KnownBlock(nn.Module):
    """Pre-norm block of the first pass."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ffn = SwiGLU(width)
        self.attn_norm = RMSNorm(width)
        self.ffn_norm = RMSNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.dropout(self.attn(self.attn_norm(x), rotary, mask))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))

    def step(self, x: Tensor, rotary: Tensor, cache: KVCache, layer: int) -> Tensor:
        """New tokens (R, n, D) -> (R, n, D); they see the cache, which takes their keys and values, and each other."""
        q, k, v = self._before_attention(x, rotary)
        keys, values = cache.extend(layer, k, v)
        return self._after_attention(x, F.scaled_dot_product_attention(q, keys, values))

    def step_joined(
        self, x: Tensor, rotaries: Tensor, cache: KVCache, layer: int, joined: Tensor, both: Tensor
    ) -> Tensor:
        """As `step` in fewer kernels: `rotaries` and `joined` as in `project_together`, `both` as in `SwiGLU`."""
        qkv = self._all_before_attention(x, rotaries, joined)
        keys, values = cache.extend_both(layer, qkv[1:])
        return self._after_attention(x, F.scaled_dot_product_attention(qkv[0], keys, values), both)

    @Region
    def _before_attention(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.attn.project(self.attn_norm(x), rotary)

    @Region
    def _all_before_attention(self, x: Tensor, rotaries: Tensor, joined: Tensor) -> Tensor:
        return self.attn.project_together(self.attn_norm(x), rotaries, joined)

    @Region
    def _after_attention(self, x: Tensor, heads: Tensor, both: Tensor | None = None) -> Tensor:
        x = x + self.attn.proj(merge_heads(heads))
        return x + self.ffn(self.ffn_norm(x), both)


class WantedBlock(nn.Module):
    """Pre-norm block of the second pass."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attn = CrossAttention(width, heads)
        self.ffn = SwiGLU(width)
        self.attn_norm = RMSNorm(width)
        self.ffn_norm = RMSNorm(width)
        self.dropout = nn.Dropout(dropout)

    @Region
    def forward(
        self, x: Tensor, rotary: Tensor, keys: Tensor, values: Tensor, causal: bool, both: Tensor | None = None
    ) -> Tensor:
        """(B, n, D) -> (B, n, D); `both` as in `SwiGLU`."""
        x = x + self.dropout(self.attn(self.attn_norm(x), rotary, keys, values, causal))
        return x + self.dropout(self.ffn(self.ffn_norm(x), both))


class TwoPasses(nn.Module):
    """Known tokens to one set of keys and values, and wanted places to conditions by looking at it."""

    def __init__(self, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.self_dec = nn.ModuleList(KnownBlock(width, heads, dropout) for _ in range(depth // 2))
        self.cross_dec = nn.ModuleList(WantedBlock(width, heads, dropout) for _ in range(depth // 2))
        self.norm = RMSNorm(width)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)

    def _shared(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the first pass (B, T, D) -> keys and values (B, H, T, D/H); keys are rotated."""
        x = self.norm(x)
        return rotate(split_heads(self.to_k(x), self.heads), rotary), split_heads(self.to_v(x), self.heads)

    def known(self, x: Tensor, rotary: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """First pass over a whole sequence (B, T, D): the shared keys and values; `mask` None is causal."""
        for block in self.self_dec:
            x = block(x, rotary, mask)
        return self._shared(x, rotary)

    def known_step(self, x: Tensor, rotary: Tensor, cache: KVCache, shared: KVCache) -> tuple[Tensor, Tensor]:
        """First pass over new tokens (R, n, D): all shared keys and values; both caches take theirs in."""
        for index, block in enumerate(cast("list[KnownBlock]", self.self_dec)):
            x = block.step(x, rotary, cache, index)
        keys, values = shared.extend(0, *self._shared(x, rotary))
        cache.advance(x.shape[1])
        shared.advance(x.shape[1])
        return keys, values

    def known_step_joined(
        self, x: Tensor, rotaries: Tensor, cache: KVCache, shared: KVCache, joined: JoinedPasses
    ) -> tuple[Tensor, Tensor]:
        """As `known_step` in fewer kernels, for `rotaries` (3, R, 1, n, W, 2)."""
        blocks = zip(cast("list[KnownBlock]", self.self_dec), joined.projections, joined.known, strict=True)
        for index, (block, projections, both) in enumerate(blocks):
            x = block.step_joined(x, rotaries, cache, index, projections, both)
        keys, values = shared.extend_both(0, self._shared_together(x, rotaries[1:], joined.shared))
        cache.advance(x.shape[1])
        shared.advance(x.shape[1])
        return keys, values

    @Region
    def _shared_together(self, x: Tensor, rotaries: Tensor, joined: Tensor) -> Tensor:
        """As `_shared`, in one tensor (2, B, H, T, D/H)."""
        return rotate(split_parts(joined_product(self.norm(x), joined), 2, self.heads), rotaries)

    def wanted(
        self,
        x: Tensor,
        rotary: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        causal: bool,
        joined: JoinedPasses | None = None,
    ) -> Tensor:
        """Second pass: queries (B, n, D), rotated by the places that are wanted -> (B, n, D)."""
        pairs = [None] * len(self.cross_dec) if joined is None else joined.wanted
        for block, both in zip(self.cross_dec, pairs, strict=True):
            x = block(x, rotary, keys, values, causal, both)
        return x


class JoinedPasses:
    """What the steps of a static state read in fewer pieces: copies of most weights, and rotary entries."""

    def __init__(self, passes: TwoPasses, rotary_table: Tensor) -> None:
        first, second = cast("list[KnownBlock]", passes.self_dec), cast("list[WantedBlock]", passes.cross_dec)
        projections = [block.attn.projections for block in first]
        pairs = [block.ffn.pair for block in first] + [block.ffn.pair for block in second]
        self.rotaries = joined_rotaries(rotary_table)  # (3, 1 + N, W, 2)
        self.weights = JoinedWeights([*projections, *pairs, (passes.to_k.weight, passes.to_v.weight)])
        made, depth = self.weights.joined, len(first)
        self.projections, self.known = made[:depth], made[depth : 2 * depth]  # (3 D, D) and (2 hidden, D) a block
        self.wanted, self.shared = made[2 * depth : -1], made[-1]  # (2 hidden, D) a block; (2 D, D)


def group_causal_mask(sizes: list[int], device: torch.device) -> Tensor:
    """(T, T) bool for tokens fed in groups of these sizes: each sees the groups before and its own fully."""
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(device)
    return group[:, None] >= group
