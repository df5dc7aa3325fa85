"""The plain way beside ours: what the fast paths are measured against, with the same result (tier E1).

`PlainHead` is the diffusion head as the MAR release runs it, everything anew at each denoising step; `Uncached` is a
causal generator without its KV cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arbench.heads.diffusion import DiffusionHead, make_solver
from arbench.heads.solvers import run_solver
from arbench.protocols import Generator, Noise
from arbench.settings import DiffusionSampling


class Beside:
    """A generator that differs from `generator` in what a subclass says, and shares everything else with it."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


class PlainHead:
    """The draw of `DiffusionHead`, with time and condition embedded and modulated again at every step."""

    def __init__(self, head: DiffusionHead) -> None:
        self._net, self._channels = head.net, head.channels

    def draw(
        self,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float,
        settings: DiffusionSampling,
        noise: Noise,
        positions: Tensor,
    ) -> Tensor:
        """As `DiffusionHead.draw`: conditions (B, n, D) -> tokens (B, n, C)."""
        solver = make_solver(settings)
        rows = [condition] if unconditional is None else [condition, unconditional]
        z = torch.cat([row.flatten(0, 1) for row in rows])

        def predict(x: Tensor, step: int) -> tuple[Tensor, Tensor]:
            t = torch.full((len(z),), int(solver.visited[step]), device=z.device)
            eps, variance = self._net(x.to(z.dtype).flatten(0, 1).repeat(len(rows), 1), t, z).to(x.dtype).chunk(2, -1)
            if unconditional is not None:
                eps, uncond = eps.chunk(2)
                eps = uncond + scale * (eps - uncond)
            return eps.view_as(x), variance[: len(eps)].view_as(x)

        return run_solver(solver, noise, positions, self._channels, z.dtype, predict)


class PlainHeadGenerator(Beside):
    def draw_head(self) -> PlainHead:
        head = self._generator.draw_head()
        assert isinstance(head, DiffusionHead)
        return PlainHead(head)


class Uncached(Beside):
    """A causal generator that runs the whole sequence so far at every step."""

    def begin(self, labels: Tensor, guided: bool, reveal_order: Tensor) -> Any:
        state = self._generator.begin(labels, guided, reveal_order)
        state.cache = None
        return state
