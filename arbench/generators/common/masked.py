"""MAR's backbone: a bidirectional encoder over the known tokens, a decoder over all (arXiv:2406.11838, section 3.3).

The encoder sees the known tokens behind a buffer of slots that all hold the class embedding; the decoder puts a mask
token at every hidden place. Its output at a hidden place, plus that place's embedding, conditions the head.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arbench.generators.common.config import require
from arbench.generators.common.layers import ViTBlock
from arbench.generators.common.tokens import take, with_unconditional
from arbench.protocols import Step

INIT_STD = 0.02  # MAR release


@dataclass
class MaskedState:
    """A generation under way; labels hold the images, then once more the images unconditionally where guided."""

    labels: Tensor  # (R,)
    order: Tensor  # (B, N) raster index of the k-th revealed token
    tokens: Tensor  # (B, N) or (B, N, C): tokens on the raster grid, anything at hidden places
    known: int = 0

    @property
    def images(self) -> int:
        return len(self.tokens)


class MaskedBackbone(nn.Module):
    """Known tokens and class to a condition vector for each hidden place."""

    def __init__(
        self,
        *,
        encoder: tuple[int, int, int],
        decoder: tuple[int, int, int],
        num_classes: int,
        grid: tuple[int, int],
        buffer_size: int,
        dropout: float,
    ) -> None:
        """`encoder` and `decoder` are (width, depth, heads)."""
        super().__init__()
        (width, depth, heads), (decoder_width, decoder_depth, decoder_heads) = encoder, decoder
        self.grid, self.buffer_size, self.num_classes = grid, buffer_size, num_classes
        self.num_tokens = grid[0] * grid[1]
        length = buffer_size + self.num_tokens
        self.class_emb = nn.Embedding(num_classes, width)
        self.fake_latent = nn.Parameter(torch.zeros(1, width))
        self.z_proj_ln = nn.LayerNorm(width, eps=1e-6)
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, length, width))
        self.encoder_blocks = nn.ModuleList(ViTBlock(width, heads, dropout) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, length, decoder_width))
        self.decoder_blocks = nn.ModuleList(
            ViTBlock(decoder_width, decoder_heads, dropout) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, self.num_tokens, decoder_width))

    def initialise(self) -> None:
        """Normal embeddings of deviation 0.02, Xavier products, zero biases (MAR release)."""
        for name, parameter in self.named_parameters():
            if "embed_learned" in name or name in ("fake_latent", "mask_token", "class_emb.weight"):
                nn.init.normal_(parameter, std=INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """(B, n) codes or (B, n, C) continuous tokens -> (B, n, D); given by the generator."""
        raise NotImplementedError

    def embed_labels(self, labels: Tensor) -> Tensor:
        """(B,) -> (B, D); label `num_classes` is the unconditional embedding."""
        classes = self.class_emb(labels.clamp(max=self.num_classes - 1))
        return torch.where((labels == self.num_classes)[:, None], self.fake_latent.to(classes.dtype), classes)

    def encode(self, tokens: Tensor, known: Tensor, labels: Tensor) -> Tensor:
        """Known tokens (B, n[, C]) at raster places `known` (B, n), labels (B,) -> (B, buffer + n, D)."""
        buffer = self.embed_labels(labels)[:, None].expand(-1, self.buffer_size, -1)
        x = torch.cat((buffer, self.embed_tokens(tokens)), dim=1)
        place = self.encoder_pos_embed_learned[0]
        x = x + torch.cat((place[: self.buffer_size].expand(len(x), -1, -1), place[self.buffer_size + known]), dim=1)
        x = self.z_proj_ln(x)
        for block in self.encoder_blocks:
            x = block(x)
        return self.encoder_norm(x)

    def decode(self, encoded: Tensor, known: Tensor, wanted: Tensor | None) -> Tensor:
        """Encoded (B, buffer + n, D) -> conditions of the places `wanted` (B, m), or of all N: (B, m, D')."""
        embedded = self.decoder_embed(encoded)
        buffer, tokens = embedded.split((self.buffer_size, known.shape[1]), dim=1)
        width = embedded.shape[-1]
        hidden = self.mask_token.to(embedded.dtype).expand(len(embedded), self.num_tokens, width)
        grid = hidden.scatter(1, known.unsqueeze(-1).expand(-1, -1, width), tokens)
        x = torch.cat((buffer, grid), dim=1) + self.decoder_pos_embed_learned
        if wanted is None:
            wanted = torch.arange(self.num_tokens, device=x.device).expand(len(x), -1)
        for block in self.decoder_blocks[:-1]:
            x = block(x)
        # Of the last block only the wanted rows are read, so only they are computed.
        x = self.decoder_norm(self.decoder_blocks[-1](x, wanted + self.buffer_size))
        return x + self.diffusion_pos_embed_learned[0][wanted]

    def condition_on(self, tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Raster tokens (B, N[, C]) and mask (B, N), 1 = hidden -> conditions of all places (B, N, D).

        Raises ValueError where the images hide different numbers of tokens.
        """
        hidden = mask.bool()
        counts = (~hidden).sum(1)
        require(bool((counts == counts[0]).all()), f"mask: {counts.tolist()} known tokens; expected one count a batch")
        known = hidden.to(torch.int8).argsort(dim=1, stable=True)[:, : int(counts[0])]
        return self.decode(self.encode(rows_at(tokens, known), known, labels), known, None)

    def begin(self, labels: Tensor, guided: bool, reveal_order: Tensor, *, static: bool = False) -> MaskedState:
        """The state with nothing revealed; `labels` (B,), `reveal_order` (B, N). It is `static` as it is."""
        rows = with_unconditional(labels, self.num_classes, guided)
        return MaskedState(labels=rows, order=reveal_order, tokens=self.empty_tokens(len(labels)))

    def restart(self, state: MaskedState, labels: Tensor, order: Tensor) -> None:
        """Fill a state, all rows of it, with another batch."""
        state.labels.copy_(with_unconditional(labels, self.num_classes, len(state.labels) > len(labels)))
        state.order.copy_(order)
        state.known = 0

    steps_have_places = True  # steps of one `step_shape` are at one place of the order

    def step_shape(self, state: MaskedState, step: Step, guided: bool) -> Hashable:
        """What decides the shapes of a step: every iteration has its own."""
        return step.known, step.size, guided

    def empty_tokens(self, batch: int) -> Tensor:
        """Room for the drawn tokens; given by the generator."""
        raise NotImplementedError

    def conditions(self, state: MaskedState, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Conditions (B, n, D) of the step's positions, with the class and, where guided, without."""
        if not guided:
            state.labels = state.labels[: state.images]
        copies = len(state.labels) // state.images
        known = state.order[:, : state.known]
        tokens = rows_at(state.tokens, known)
        known, wanted = known.repeat(copies, 1), step.positions.repeat(copies, 1)
        encoded = self.encode(tokens.repeat(copies, *[1] * (tokens.dim() - 1)), known, state.labels)
        z = self.decode(encoded, known, wanted)
        return (z[: state.images], z[state.images :]) if guided else (z, None)

    def reveal(self, state: MaskedState, step: Step, tokens: Tensor) -> None:
        """Put the drawn tokens (B, n) or (B, n, C) at their places."""
        index, tokens = step.positions, tokens.to(state.tokens.dtype)
        if tokens.dim() == 3:
            index = index.unsqueeze(-1).expand_as(tokens)
        state.tokens.scatter_(1, index, tokens)
        state.known += step.size


def rows_at(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens at raster places: (B, N) or (B, N, C), (B, n) -> (B, n) or (B, n, C)."""
    return tokens.gather(1, index) if tokens.dim() == 2 else take(tokens, index)
