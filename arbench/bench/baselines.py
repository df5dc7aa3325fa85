"""The plain way beside ours: what the fast paths are measured against, with the same result (tier E1).

`PlainHead` is the diffusion head as the MAR release runs it, everything anew at each denoising step; `Uncached` is a
causal generator without its KV cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arbench.heads.diffusion import DiffusionHead, respaced
from arbench.heads.solvers import SOLVERS


class Beside:
    """A generator that differs from `generator` in what a subclass says, and shares everything else with it."""

    def __init__(self, generator: Any) -> None:
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
        settings: Any,
        noise: Any,
        positions: Tensor,
    ) -> Tensor:
        """As `DiffusionHead.draw`: conditions (B, n, D) -> tokens (B, n, C)."""
        solver = SOLVERS[settings.head_sampler](respaced(settings.head_steps), temperature=settings.temperature)
        rows = [condition] if unconditional is None else [condition, unconditional]
        z = torch.cat([row.flatten(0, 1) for row in rows])
        start = noise.gaussian(0, positions, self._channels).flatten(0, 1)
        x = start.to(torch.promote_types(start.dtype, z.dtype))
        for step, timestep in enumerate(solver.visited.tolist()):
            t = torch.full((len(z),), timestep, device=z.device)
            eps, variance = self._net(x.to(z.dtype).repeat(len(rows), 1), t, z).to(x.dtype).chunk(2, dim=-1)
            if unconditional is not None:
                eps = eps[len(x) :] + scale * (eps[: len(x)] - eps[len(x) :])
            added = None
            if solver.needs_noise(step):
                added = noise.gaussian(1 + step, positions, self._channels).flatten(0, 1).to(x.dtype)
            x = solver.step(step, x, eps, variance[: len(x)], added)
        return x.view(*positions.shape, self._channels)


class PlainHeadGenerator(Beside):
    def draw_head(self) -> PlainHead:
        return PlainHead(self._generator.draw_head())


class Uncached(Beside):
    """A causal generator that runs the whole sequence so far at every step."""

    def begin(self, labels: Tensor, guided: bool, reveal_order: Tensor) -> Any:
        state = self._generator.begin(labels, guided, reveal_order)
        state.cache = None
        return state


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A plain way of drawing the same tokens."""

    name: str
    generator: Any


def find_rivals(generator: Any) -> list[Rival]:
    """What `generator` can be measured against; empty where none of its parts has a plain counterpart here."""
    rivals = []
    if generator.config.head == "diffusion":
        rivals.append(Rival(name="the plain diffusion head", generator=PlainHeadGenerator(generator)))
    if generator.schedule == "sequential" and generator.kv_cache:
        rivals.append(Rival(name="no KV cache", generator=Uncached(generator)))
    return rivals
