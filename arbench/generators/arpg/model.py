"""ARPG: randomised parallel decoding with a causal GPT (arXiv:2503.10568).

In the terms of the other methods: a random order revealed in sets of growing size, a causal backbone in two passes, and
a categorical head. The first pass reads the class token and the known tokens, each turned by its own place, and gives
one set of keys and values. In the second pass the mask token, turned by the place that is wanted, looks at them: so any
number of places in any order is predicted at once (section 3.2).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from arbench.generators.arpg.config import ARPGConfig, ARPGSampling
from arbench.generators.arpg.layers import JoinedPasses, TwoPasses, group_causal_mask
from arbench.generators.common.config import as_grid, require
from arbench.generators.common.layers import KVCache, RMSNorm, grid_sinusoids, rotary_table
from arbench.generators.common.tokens import drop_labels, with_unconditional
from arbench.heads.categorical import CategoricalHead
from arbench.machine.transfer import constant
from arbench.protocols import Step

INIT_STD = 0.02  # LlamaGen release, whose recipe ARPG follows
SINUSOID_STD = 0.1  # deviation of the places' sinusoids, beside embeddings that soon grow to about as much
UNUSED_ROWS = 1  # of the embedding table, in the released files


def scaled_sinusoids(grid: tuple[int, int], width: int) -> Tensor:
    """`ARPG.sinusoids` of a grid."""
    waves = grid_sinusoids(grid, width)
    return functional.pad(waves * (SINUSOID_STD / waves.std()), (0, 0, 1, 0))


@dataclass
class ARPGState:
    """A generation under way; rows are the images, then once more the images unconditionally where guided."""

    labels: Tensor  # (R,)
    order: Tensor  # (B, N) raster index of the k-th generated token
    tokens: Tensor  # (B, N) drawn codes in generation order
    rotary_table: Tensor  # (1 + N, W, 2)
    caches: tuple[KVCache, KVCache] | None  # of the first pass and of what the second looks at; None: run again
    sizes: list[int]  # tokens fed so far and next, group by group; the class token is the first group
    joined: JoinedPasses | None = None  # where the state is static

    @property
    def images(self) -> int:
        return len(self.order)

    @property
    def copies(self) -> int:
        return len(self.labels) // self.images

    def drop_unconditional(self) -> None:
        """Go on without the unconditional rows: nobody reads them any more."""
        self.labels = self.labels[: self.images]
        for cache in self.caches or ():
            cache.keep_rows(self.images)


class ARPG(nn.Module):
    """Causal generator in random order, many tokens a step."""

    method = "arpg"
    kind = "discrete"
    sampling_type: type = ARPGSampling
    default_sampling: Mapping[str, Any]  # a preset's

    def __init__(self, config: ARPGConfig) -> None:
        super().__init__()
        self.config, self.grid, self.num_classes = config, as_grid(config.grid), config.num_classes
        self.num_tokens, self.vocab_size = self.grid[0] * self.grid[1], config.vocab_size
        # Rows: the codes, the mask token, the classes, the dropped class, and what no token ever is.
        rows = config.vocab_size + 1 + config.num_classes + 1 + UNUSED_ROWS
        self.embeddings = nn.Embedding(rows, config.width)
        self.layers = TwoPasses(config.width, config.depth, config.heads, config.dropout)
        self.norm = RMSNorm(config.width)
        self.head = CategoricalHead(config.width, config.vocab_size)
        self.dropout = nn.Dropout(config.dropout)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=INIT_STD)

    def draw_head(self) -> CategoricalHead:
        return self.head

    def rotary_table(self) -> Tensor:
        """Rotary entries (1 + N, W, 2): place 0 for the class token, 1 + raster index for image tokens."""
        like = self.norm.weight
        width, dtype = self.config.width // self.config.heads, torch.promote_types(like.dtype, torch.float32)
        return constant(rotary_table, self.grid, width, device=like.device, dtype=dtype)

    def sinusoids(self) -> Tensor:
        """Fixed sinusoids (1 + N, D) of the places: none at place 0, the class token's."""
        weight = self.norm.weight
        return constant(scaled_sinusoids, self.grid, self.config.width, device=weight.device, dtype=weight.dtype)

    def embed(self, rows: Tensor, places: Tensor) -> Tensor:
        """Rows of the one table, (B, n), at their places (B, n) -> (B, n, D)."""
        x = self.embeddings(rows)
        return self.dropout(x + self.sinusoids()[places] if self.config.sinusoids else x)

    def class_rows(self, labels: Tensor) -> Tensor:
        """Labels (B,), `num_classes` being the dropped class -> rows of the table (B, 1)."""
        return (self.vocab_size + 1 + labels)[:, None]

    def known_sequence(self, tokens: Tensor, labels: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Class token and tokens (B, n) in generation order -> embeddings (B, 1 + n, D), rotary places (B, 1 + n)."""
        places = torch.cat((order.new_zeros(len(order), 1), order + 1), dim=1)
        return self.embed(torch.cat((self.class_rows(labels), tokens), dim=1), places), places

    def queries(self, positions: Tensor) -> Tensor:
        """The mask token for every wanted place: (B, n) -> (B, n, D)."""
        return self.embed(torch.full_like(positions, self.vocab_size), positions + 1)

    def hidden(self, tokens: Tensor, labels: Tensor, order: Tensor) -> Tensor:
        """Codes (B, N) in generation order, labels (B,), order (B, N) -> conditions (B, N, D): each of those before."""
        x, places = self.known_sequence(tokens[:, :-1], labels, order[:, :-1])
        table = self.rotary_table()
        keys, values = self.layers.known(x, table[places].unsqueeze(1), None)
        rotary = table[order + 1].unsqueeze(1)  # (B, 1, N, W, 2)
        return self.norm(self.layers.wanted(self.queries(order), rotary, keys, values, causal=True))

    def random_orders(self, batch: int, rng: torch.Generator | None, device: torch.device) -> Tensor:
        return torch.rand(batch, self.num_tokens, generator=rng, device=device).argsort(dim=1)

    def _teacher_forced(self, ids: Tensor, labels: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
        """Conditions (B, N, D) and their codes (B, N) in generation order."""
        require(ids.shape[1:] == torch.Size(self.grid), f"ids {tuple(ids.shape)}: expected (B, {self.grid})")
        ordered = ids.flatten(1).gather(1, orders)
        return self.hidden(ordered, labels, orders), ordered

    def logits(self, ids: Tensor, labels: Tensor, *, orders: Tensor | None = None) -> Tensor:
        """Teacher-forced logits (B, N, V) of ids (B, h, w): row k predicts the k-th generated token from those before.

        `orders` (B, N): raster index of the k-th token; random where none is given.
        """
        orders = self.random_orders(len(ids), None, ids.device) if orders is None else orders
        return self.head.logits(self._teacher_forced(ids, labels, orders)[0])

    def loss(self, tokens: Tensor, labels: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy a token of ids (B, h, w) in a random order an image; in training mode labels drop."""
        if self.training:
            labels = drop_labels(labels, self.num_classes, rng)
        orders = self.random_orders(len(tokens), rng, tokens.device)
        return self.head.loss(*self._teacher_forced(tokens, labels, orders))

    def restart(self, state: ARPGState, labels: Tensor, order: Tensor) -> None:
        """Fill a state, all rows of it, with another batch."""
        state.labels.copy_(with_unconditional(labels, self.num_classes, len(state.labels) > len(labels)))
        state.order.copy_(order)
        state.sizes = [1]
        if state.joined is not None:
            state.joined.weights.refresh()
        for cache in state.caches or ():
            cache.restart()

    steps_have_places = True  # steps of one `step_shape` are at one place of the order

    def step_shape(self, state: ARPGState, step: Step, guided: bool) -> Hashable:
        """What decides the shapes of a step: every iteration has its own."""
        return tuple(state.sizes), step.size, guided

    def begin(self, labels: Tensor, guided: bool, reveal_order: Tensor, *, static: bool = False) -> ARPGState:
        """The state with nothing drawn; `labels` (B,), `reveal_order` (B, N).

        Its tensors stay where they are; a `static` one, for CUDA graphs, joins weights beside.
        """
        rows, table = with_unconditional(labels, self.num_classes, guided), self.rotary_table()
        return ARPGState(
            labels=rows,
            order=reveal_order,
            tokens=torch.zeros_like(reveal_order),
            rotary_table=table,
            caches=self._empty_caches(len(rows)) if self.config.kv_cache else None,
            sizes=[1],
            joined=JoinedPasses(self.layers, table) if static and self.config.kv_cache else None,
        )

    def _empty_caches(self, rows: int) -> tuple[KVCache, KVCache]:
        shape = (rows, self.config.heads, self.num_tokens, self.config.width // self.config.heads)
        like = self.layers.to_k.weight
        return KVCache(len(self.layers.self_dec), *shape, like), KVCache(1, *shape, like)

    def conditions(self, state: ARPGState, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Feed what was drawn last and return the conditions (B, n, D) of the step's tokens, with and without class."""
        if not guided and state.copies > 1:
            state.drop_unconditional()
        keys, values = self._known_again(state) if state.caches is None else self._known_step(state, state.caches)
        positions = step.positions.repeat(state.copies, 1)
        rotary = state.rotary_table[positions + 1].unsqueeze(1)  # (R, 1, n, W, 2)
        x = self.layers.wanted(self.queries(positions), rotary, keys, values, causal=False, joined=state.joined)
        x = self.norm(x)
        return (x[: state.images], x[state.images :]) if guided else (x, None)

    def _sequence_so_far(self, state: ARPGState) -> tuple[Tensor, Tensor]:
        """Embeddings (R, T, D) and rotary places (R, T) of class token and known tokens."""
        known = sum(state.sizes) - 1
        tokens, order = (x[:, :known].repeat(state.copies, 1) for x in (state.tokens, state.order))
        return self.known_sequence(tokens, state.labels, order)

    def _known_again(self, state: ARPGState) -> tuple[Tensor, Tensor]:
        """Keys and values (R, H, T, D/H) of all that is known, by the first pass over the whole sequence so far."""
        x, places = self._sequence_so_far(state)
        mask = group_causal_mask(state.sizes, x.device)
        return self.layers.known(x, state.rotary_table[places].unsqueeze(1), mask)

    def _known_step(self, state: ARPGState, caches: tuple[KVCache, KVCache]) -> tuple[Tensor, Tensor]:
        """The same from what was drawn last alone, the rest being in the caches."""
        for cache in caches:  # told and not counted: a step that was not recorded to its end is called again
            cache.length = sum(state.sizes[:-1])
        x, places = self._fed(state)
        if state.joined is None:
            return self.layers.known_step(x, state.rotary_table[places].unsqueeze(1), *caches)
        rotaries = state.joined.rotaries[:, places].unsqueeze(2)  # (3, R, 1, n, W, 2)
        return self.layers.known_step_joined(x, rotaries, *caches, state.joined)

    def _fed(self, state: ARPGState) -> tuple[Tensor, Tensor]:
        """Embeddings (R, n, D) and rotary places (R, n) of what was drawn last; of the class token before that."""
        known = sum(state.sizes) - 1
        if known == 0:
            rows = self.class_rows(state.labels)
            return self.embed(rows, torch.zeros_like(rows)), torch.zeros_like(rows)
        last = slice(known - state.sizes[-1], known)
        tokens, order = (x[:, last].repeat(state.copies, 1) for x in (state.tokens, state.order))
        return self.embed(tokens, order + 1), order + 1

    def reveal(self, state: ARPGState, step: Step, tokens: Tensor) -> None:
        """Keep the drawn codes (B, n); the next step feeds them."""
        state.tokens[:, step.known : step.known + step.size] = tokens
        state.sizes.append(step.size)

    def result(self, state: ARPGState) -> Tensor:
        """Ids (B, h, w) on the raster grid."""
        return state.tokens.gather(1, state.order.argsort(dim=1)).unflatten(1, self.grid)
