"""The causal backbone: LlamaGen's GPT over image tokens in any order (arXiv:2406.06525, section 2.2).

Sequence: one class token, then the image tokens in generation order; place k predicts token k. With `parallel` = n > 1
(arXiv:2412.15119, section 3.2) the first n tokens are followed by n - 1 learnable ones, after which n tokens are
predicted at once: the sequence is class, t1 .. tn, M1 .. M(n-1), t(n+1) .., attention is full inside each group of n.
`singles` is the number of tokens drawn one by one before that: with 0 the learnable ones follow the class token.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from arbench.generators.common.joined import JoinedWeights, joined_rotaries
from arbench.generators.common.layers import (
    CausalBlock,
    KVCache,
    RMSNorm,
    StaticKVCache,
    padded_head,
    rotary_table,
)
from arbench.generators.common.tokens import put, span, with_unconditional
from arbench.machine.transfer import constant
from arbench.protocols import Step

INIT_STD = 0.02  # LlamaGen release
MOST_BUCKETS, BUCKET_MULTIPLE = 6, 16  # lengths of attention in a static state; masked kernels like multiples of 16


def buckets(capacity: int) -> list[int]:
    """The lengths that attention on a static state looks at: a few, evenly apart, the last being `capacity`."""
    width = -(-capacity // (MOST_BUCKETS * BUCKET_MULTIPLE)) * BUCKET_MULTIPLE
    return [*range(width, capacity, width), capacity]


class ClassEmbedding(nn.Module):
    """One vector a class, and a last one for "unconditional"."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


class GroupTokens(nn.Module):
    """The n - 1 learnable tokens in front of the first group."""

    def __init__(self, parallel: int, width: int) -> None:
        super().__init__()
        self.special_embeddings = nn.Embedding(parallel - 1, width)

    def forward(self) -> Tensor:
        return self.special_embeddings.weight


def group_mask(length: int, parallel: int, singles: int, full_attention: bool = True) -> Tensor:
    """(T, T) bool: causal, and full inside each group of n places from place `singles` on."""
    place = torch.arange(length)
    allowed = place[:, None] >= place
    if full_attention:
        group = torch.where(place < singles, -1, (place - singles) // parallel)
        allowed |= (group[:, None] == group) & (group >= 0)
    return allowed


class Gathered:
    """What the steps of a static state read in fewer pieces."""

    def __init__(self, rotary_table: Tensor, layers: Iterable[CausalBlock]) -> None:
        self.rotaries = joined_rotaries(rotary_table)  # (3, 1 + N, W, 2)
        self.weights = JoinedWeights(layer.feed_forward.pair for layer in layers)  # (2 hidden, D) a layer


@dataclass
class CausalState:
    """A generation under way; rows are the images, then once more the images unconditionally where guided."""

    labels: Tensor  # (R,)
    order: Tensor  # (B, N) raster index of the k-th generated token
    places: Tensor  # (R, N) its place in the rotary table
    cache: KVCache | None  # None: the whole sequence so far is run again at every step
    tokens: Tensor  # (B, N) or (B, N, C): drawn tokens in generation order
    images: int
    rotary_table: Tensor  # (1 + N, W, 2)
    drawn: int = 0  # tokens drawn last, not yet seen by the backbone
    known: int | Tensor = 0  # tokens drawn; a tensor on the device where the state is static
    gathered: Gathered | None = None  # where the state is static

    @property
    def copies(self) -> int:
        return len(self.labels) // self.images

    def drop_unconditional(self) -> None:
        """Go on without the unconditional rows: past `cfg_interval` nobody reads them."""
        self.labels, self.places = self.labels[: self.images], self.places[: self.images]
        if self.cache is not None:
            self.cache.keep_rows(self.images)


class CausalBackbone(nn.Module):
    """Class and tokens to one condition vector a token, over whole sequences or step by step with a KV cache."""

    spe_tok_embeddings: GroupTokens  # where parallel > 1

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        num_classes: int,
        grid: tuple[int, int],
        parallel: int,
        kv_cache: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.kv_cache = kv_cache
        self.width, self.heads, self.grid, self.parallel = width, heads, grid, parallel
        self.num_tokens = self.singles = grid[0] * grid[1]
        self.num_classes = num_classes
        self.cls_embedding = ClassEmbedding(num_classes, width)
        if parallel > 1:
            self.spe_tok_embeddings = GroupTokens(parallel, width)
        self.layers = nn.ModuleList(CausalBlock(width, heads, dropout) for _ in range(depth))
        self.norm = RMSNorm(width)
        self.dropout = nn.Dropout(dropout)

    def initialise(self) -> None:
        """Normal weights of deviation 0.02 (LlamaGen release)."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """(B, n) codes or (B, n, C) continuous tokens -> (B, n, D); given by the generator."""
        raise NotImplementedError

    def embed_targets(self, positions: Tensor) -> Tensor | None:
        """What tells the network which place it predicts next, (B, n) -> (B, n, D); None where the order is fixed."""
        return None

    def rotary_table(self, like: Tensor) -> Tensor:
        """Rotary entries (1 + N, W, 2): place 0 for class and group tokens, 1 + raster index for image tokens."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return constant(rotary_table, self.grid, self.width // self.heads, device=like.device, dtype=dtype)

    def sequence(self, tokens: Tensor, labels: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """The training sequence (B, N, D) and its rotary places (B, N), for tokens in generation order."""
        n, first, batch = self.parallel, self.singles, len(labels)
        image = self.embed_tokens(tokens[:, : self.num_tokens - n])
        parts, places = [self.cls_embedding(labels)[:, None], image], [order.new_zeros(batch, 1), order[:, :-n] + 1]
        if n > 1:
            special = self.spe_tok_embeddings().expand(batch, -1, -1)
            parts = [parts[0], image[:, :first], special, image[:, first:]]
            places = [places[0], places[1][:, :first], order.new_zeros(batch, n - 1), places[1][:, first:]]
        return torch.cat(parts, dim=1), torch.cat(places, dim=1)

    def hidden(self, tokens: Tensor, labels: Tensor, order: Tensor) -> Tensor:
        """Tokens in generation order (B, N[, C]), labels (B,), order (B, N) -> conditions (B, N, D)."""
        return self._run(*self.sequence(tokens, labels, order), order)

    def _run(self, x: Tensor, places: Tensor, order: Tensor) -> Tensor:
        """Embeddings (B, T, D), rotary places and predicted raster places (B, T) -> conditions (B, T, D)."""
        targets = self.embed_targets(order)
        x = self.dropout(x if targets is None else x + targets)
        rotary = self.rotary_table(x)[places].unsqueeze(1)  # (B, 1, T, W, 2)
        mask = None if self.parallel == 1 else self.attention_mask(x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, rotary, mask)
        return self.norm(x)

    def attention_mask(self, length: int, device: torch.device) -> Tensor:
        """Who sees whom in the training sequence: (T, T) bool."""
        return constant(group_mask, length, self.parallel, self.singles, self.group_attention, device=device)

    @property
    def group_attention(self) -> bool:
        """Whether tokens that are drawn together see each other fully."""
        return True

    def begin(self, labels: Tensor, guided: bool, reveal_order: Tensor, *, static: bool = False) -> CausalState:
        """The state with nothing drawn; `labels` (B,), `reveal_order` (B, N).

        A `static` one is for CUDA graphs: its tensors stay where they are, and where it stands is a tensor.
        """
        rows = with_unconditional(labels, self.num_classes, guided)
        like = self.norm.weight
        has_places = static and self.kv_cache
        table, layers = self.rotary_table(like), cast("list[CausalBlock]", self.layers)
        return CausalState(
            labels=rows,
            order=reveal_order,
            places=reveal_order.repeat(len(rows) // len(labels), 1) + 1,
            cache=self.empty_cache(len(rows), StaticKVCache if static else KVCache) if self.kv_cache else None,
            tokens=self.empty_tokens(len(labels), like),
            images=len(labels),
            rotary_table=table,
            known=torch.zeros((), dtype=torch.int64, device=like.device) if has_places else 0,
            gathered=Gathered(table, layers) if has_places else None,
        )

    def empty_cache(self, rows: int, kind: type[KVCache]) -> KVCache:
        """A cache of that kind for all layers and tokens, in the dtype of the projections."""
        attention = cast("CausalBlock", self.layers[0]).attention
        width = padded_head(attention.head_width) if kind is StaticKVCache else attention.head_width
        return kind(len(self.layers), rows, self.heads, self.num_tokens, width, attention.wqkv.weight)

    def restart(self, state: CausalState, labels: Tensor, order: Tensor) -> None:
        """Fill a static state, all rows of it, with another batch."""
        state.labels.copy_(with_unconditional(labels, self.num_classes, len(state.labels) > len(labels)))
        state.order.copy_(order)
        state.places.copy_(order.repeat(state.copies, 1) + 1)
        state.drawn = 0
        if state.cache is None:
            state.known = 0
        else:
            assert isinstance(state.known, Tensor)
            assert state.gathered is not None
            state.gathered.weights.refresh()
            state.cache.restart()
            state.known.zero_()

    @property
    def steps_have_places(self) -> bool:
        """Whether steps of one `step_shape` are at one place of the order."""
        return not self.kv_cache

    def step_shape(self, state: CausalState, step: Step, guided: bool) -> Hashable:
        """What decides the shapes of a step on a static state; sets how far its attention looks."""
        length = step.known + step.size
        if state.cache is None:
            return length, step.size, guided
        assert isinstance(state.cache, StaticKVCache)
        state.cache.bucket = next(bucket for bucket in buckets(self.num_tokens) if bucket >= length)
        return step.size, state.drawn, guided, state.cache.bucket

    def empty_tokens(self, batch: int, like: Tensor) -> Tensor:
        """Room for the drawn tokens; given by the generator."""
        raise NotImplementedError

    def conditions(self, state: CausalState, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Feed what was drawn last and return the conditions (B, n, D) of the step's tokens, with and without class."""
        if not guided and state.copies > 1:
            state.drop_unconditional()
        x = self._recomputed(state, step) if state.cache is None else self._step(state, state.cache, step)
        return (x[: state.images], x[state.images :]) if guided else (x, None)

    def _recomputed(self, state: CausalState, step: Step) -> Tensor:
        """Conditions (R, n, D) of the step's tokens from the whole sequence so far."""
        length = step.known + step.size
        order = state.order.repeat(state.copies, 1)
        tokens = state.tokens.repeat(state.copies, *[1] * (state.tokens.dim() - 1))
        x, places = self.sequence(tokens, state.labels, order)
        return self._run(x[:, :length], places[:, :length], order[:, :length])[:, -step.size :]

    def _step(self, state: CausalState, cache: KVCache, step: Step) -> Tensor:
        """Conditions (R, n, D) of the step's tokens from what was drawn last and the cache, which takes that in."""
        x, places = self._inputs(state, step)
        targets = self.embed_targets(step.positions)
        if targets is not None:
            x = x + targets.repeat(state.copies, 1, 1)
        mask = cache.mask(x.shape[1], causal=not self.group_attention)
        x = self._through_layers(x, places, state, cache, mask)
        cache.advance(x.shape[1])
        return self.norm(x)

    def _through_layers(
        self, x: Tensor, places: Tensor, state: CausalState, cache: KVCache, mask: Tensor | None
    ) -> Tensor:
        """New tokens (R, n, D) at rotary places (R, n) -> (R, n, D)."""
        layers, gathered = cast("list[CausalBlock]", self.layers), state.gathered
        if gathered is None:
            rotary = state.rotary_table[places].unsqueeze(1)  # (R, 1, n, W, 2)
            for index, layer in enumerate(layers):
                x = layer.step(x, rotary, cache, index, mask)
            return x
        assert isinstance(cache, StaticKVCache)
        assert mask is not None
        rotaries = gathered.rotaries[:, places].unsqueeze(2)  # (3, R, 1, n, W, 2)
        for index, (layer, both) in enumerate(zip(layers, gathered.weights.joined, strict=True)):
            x = layer.step_static(x, rotaries, cache, index, mask, both)
        return x

    def _inputs(self, state: CausalState, step: Step) -> tuple[Tensor, Tensor]:
        """Embeddings (R, n, D) and rotary places (R, n) of the tokens to feed before `step`."""
        rows = len(state.labels)
        if state.drawn == 0:
            x, places = self.cls_embedding(state.labels)[:, None], state.labels.new_zeros(rows, 1)
        else:
            fed = (state.known - state.drawn, state.drawn)
            x = self.embed_tokens(span(state.tokens, *fed))
            x = torch.cat((x, x)) if state.copies > 1 else x
            places = span(state.places, *fed)
        if step.size > x.shape[1]:
            # The first group: the class token or the last single one, then the learnable ones.
            x = torch.cat((x, self.spe_tok_embeddings().expand(rows, -1, -1)), dim=1)
            places = torch.cat((places, places.new_zeros(rows, self.parallel - 1)), dim=1)
        return x, places

    def reveal(self, state: CausalState, step: Step, tokens: Tensor) -> None:
        """Keep the drawn tokens (B, n) or (B, n, C) and feed them at the next step."""
        put(state.tokens, state.known, tokens)
        state.drawn = step.size
        state.known += step.size
