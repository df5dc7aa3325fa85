"""DiT: a diffusion transformer over the whole image, the baseline of MAR's Figure 6 (arXiv:2212.09748).

In the terms of the other methods: one step that reveals every token, a backbone that is the class embedding alone, and
a head that denoises all tokens together. Blocks are modulated by time and class (adaLN-Zero, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from arbench.generators.common.config import as_grid
from arbench.generators.common.layers import BidirectionalAttention, Mlp, grid_sinusoids
from arbench.generators.common.tokens import drop_labels, patchify, unpatchify, with_unconditional
from arbench.generators.dit.config import DiTConfig, JointSampling
from arbench.heads.diffusion import (
    FinalLayer,
    TimeEmbedder,
    guided_prediction,
    make_solver,
    respaced,
    split_modulation,
    start_as_identity,
)
from arbench.heads.solvers import run_solver
from arbench.heads.variational import noise_and_variance_loss
from arbench.machine.precision import into_stream
from arbench.machine.transfer import constant
from arbench.protocols import Noise, Step

EMBEDDING_STD = 0.02  # of the class table at the start


class ModulatedBlock(nn.Module):
    """A transformer block whose norms are shifted and scaled, and whose branches are gated, by time and class."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = BidirectionalAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(width, 4 * width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(R, N, W), (R, 1, W) -> (R, N, W)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(condition).chunk(6, dim=-1)
        x = x + gate * self.attn(torch.addcmul(shift, self.norm1(x), 1 + scale))
        return x + mlp_gate * self.mlp(torch.addcmul(mlp_shift, self.norm2(x), 1 + mlp_scale))


class DenoisingTransformer(nn.Module):
    """Predicts the noise in all tokens and the interpolation of their variances from (x_t, t, class)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.grid = as_grid(config.grid)
        self.channels = config.channels * config.patch_size**2
        self.x_embedder = nn.Linear(self.channels, config.width)
        self.t_embedder = TimeEmbedder(config.width)
        self.blocks = nn.ModuleList(ModulatedBlock(config.width, config.heads) for _ in range(config.depth))
        self.final_layer = FinalLayer(config.width, 2 * self.channels)
        start_as_identity(self, self.t_embedder, self.blocks, self.final_layer)

    def positions(self) -> Tensor:
        """Fixed sinusoids of the grid (N, W), on the network's device and in its dtype."""
        like = self.x_embedder.weight
        return constant(grid_sinusoids, self.grid, like.shape[0], device=like.device, dtype=like.dtype)

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor, positions: Tensor) -> Tensor:
        """Noisy tokens (R, N, C), timesteps (R,), classes (R, W) and `positions()` -> (R, N, 2C): noise, variances."""
        context = (self.t_embedder(timesteps) + condition)[:, None]  # (R, 1, W)
        hidden = into_stream(self.x_embedder, x) + positions
        for block in self.blocks:
            hidden = block(hidden, context)
        return self.final_layer(hidden, split_modulation(self.final_layer.adaLN_modulation(context), 2))


class JointHead(nn.Module):
    """One class vector an image to all of its tokens, through the denoising transformer."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.net = DenoisingTransformer(config)

    def loss(self, condition: Tensor, tokens: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Mean hybrid loss of tokens (B, N, C) under classes (B, W), one timestep an image."""

        def predict(noisy: Tensor, timesteps: Tensor, classes: Tensor) -> Tensor:
            eps, variance = self.net(noisy.view_as(tokens), timesteps, classes, self.net.positions()).chunk(2, dim=-1)
            return torch.cat((eps.flatten(1), variance.flatten(1)), dim=1)  # (B, 2 N C)

        process, start = respaced(1000), tokens.flatten(1)
        timesteps = torch.randint(len(process.timesteps), (len(tokens),), generator=rng, device=tokens.device)
        noise = torch.randn(start.shape, generator=rng, device=tokens.device, dtype=tokens.dtype)
        return noise_and_variance_loss(predict, process, start, timesteps, noise, condition).mean()

    def draw(
        self,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float,
        settings: JointSampling,
        noise: Noise,
        positions: Tensor,
    ) -> Tensor:
        """Draw the tokens at all `positions` (B, N) from class vectors (B, 1, W): (B, N, C)."""
        rows = [condition] if unconditional is None else [condition, unconditional]
        classes, places = torch.cat(rows).squeeze(1), self.net.positions()
        solver = make_solver(settings)

        def predict(x: Tensor, step: int) -> tuple[Tensor, Tensor]:
            timesteps = torch.full((len(classes),), int(solver.visited[step]), device=x.device)
            both = x.to(classes.dtype).repeat(len(rows), 1, 1)
            return guided_prediction(self.net(both, timesteps, classes, places).to(x.dtype), len(rows), scale)

        return run_solver(solver, noise, positions, self.net.channels, classes.dtype, predict)


@dataclass
class JointState:
    """A generation under way: labels (R,), tokens (B, N, C) in raster order once they are drawn."""

    labels: Tensor
    images: int
    tokens: Tensor | None = None


class DiT(nn.Module):
    """Diffusion transformer: every token in one step of many denoising steps."""

    method = "dit"
    kind = "continuous"
    sampling_type: type = JointSampling
    default_sampling: Mapping[str, Any]  # a preset's

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config, self.grid, self.num_classes = config, as_grid(config.grid), config.num_classes
        self.num_tokens, self.channels = self.grid[0] * self.grid[1], config.channels
        self.y_embedder = nn.Embedding(config.num_classes + 1, config.width)  # the last row is "unconditional"
        nn.init.normal_(self.y_embedder.weight, std=EMBEDDING_STD)
        self.joint = JointHead(config)

    def draw_head(self) -> JointHead:
        return self.joint

    def loss(self, tokens: Tensor, labels: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Mean loss of scaled latents (B, C, H, W); in training mode labels drop."""
        if self.training:
            labels = drop_labels(labels, self.num_classes, rng)
        return self.joint.loss(self.y_embedder(labels), patchify(tokens, self.config.patch_size), rng=rng)

    def begin(self, labels: Tensor, guided: bool, reveal_order: Tensor) -> JointState:
        """The state with nothing drawn; `labels` (B,)."""
        rows = with_unconditional(labels, self.num_classes, guided)
        return JointState(labels=rows, images=len(labels))

    def conditions(self, state: JointState, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        """The class vectors (B, 1, W), with and without class: one for all tokens of an image."""
        classes = self.y_embedder(state.labels)[:, None]
        return classes[: state.images], classes[state.images :] if guided else None

    def reveal(self, state: JointState, step: Step, tokens: Tensor) -> None:
        """Keep the tokens (B, N, C), which are in raster order."""
        state.tokens = tokens

    def result(self, state: JointState) -> Tensor:
        """Scaled latents (B, C, H, W)."""
        assert state.tokens is not None
        return unpatchify(state.tokens.to(self.y_embedder.weight.dtype), self.grid, self.config.patch_size)
