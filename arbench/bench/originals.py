"""The releases' way of drawing, with the same result (tier E1): what they compute at each step, by our layers.

LlamaGen and PAR: a cache of full length, copied whole at every step (each head is repeated once) and read through a
mask by plain products; guidance runs both halves to the end; the probabilities of every step are copied and kept. MAR:
known and predicted tokens found by `nonzero`, the whole of the last block, and in each denoising step both halves of x,
all embeddings anew and six coefficients taken from NumPy. Written from what the releases compute; no code is theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from arbench.bench.baselines import Beside
from arbench.generators.common.layers import KVCache
from arbench.generators.common.masked import MaskedState, rows_at
from arbench.generators.common.tokens import take
from arbench.heads.categorical import CategoricalHead, guided_logits, inverse_transform, probabilities
from arbench.heads.diffusion import DiffusionHead, make_solver, respaced
from arbench.heads.schedule import Diffusion
from arbench.machine.products import plain_products
from arbench.protocols import Noise, Step
from arbench.settings import TRAIN_STEPS, CategoricalSampling, DiffusionSampling


class ReleasedCausal(Beside):
    """AR and PAR as LlamaGen's release draws them."""

    def begin(self, labels: Tensor, guided: bool, reveal_order: Tensor) -> Any:
        state: Any = self._generator.begin(labels, guided, reveal_order)
        state.cache = self._generator.empty_cache(len(state.labels), ReleasedKVCache)  # type: ignore[attr-defined]
        return state

    def conditions(self, state: Any, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        """The whole cache is looked at, by both halves where there were two at the start."""
        with sdpa_kernel(SDPBackend.MATH), plain_products():
            return self._generator.conditions(state, step, guided or state.copies > 1)

    def draw_head(self) -> ReleasedCategorical:
        head = self._generator.draw_head()
        assert isinstance(head, CategoricalHead)
        return ReleasedCategorical(head)


class ReleasedKVCache(KVCache):
    """A cache that hands out copies of all its keys and values, as repeating each head makes them."""

    def __init__(self, *shape: Any) -> None:
        super().__init__(*shape)
        self._buffer.zero_()  # what is masked is multiplied by zero, and must be finite

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (R, H, n, D) behind the filled part and return copies of all keys and values, filled or not."""
        super().extend(layer, keys, values)
        every_key, every_value = self._buffer[layer]
        return every_key.repeat_interleave(1, dim=1), every_value.repeat_interleave(1, dim=1)

    def mask(self, count: int, causal: bool) -> Tensor:
        """(count, T) bool: True where a new token looks, which is at what is filled once it is in."""
        places = torch.arange(self._buffer.shape[-2], device=self._buffer.device)
        last = self.length + torch.arange(count, device=places.device)[:, None]
        return places <= (last if causal else last[-1:].expand(count, 1))


class ReleasedCategorical:
    """The draw of `CategoricalHead`, all probabilities kept."""

    def __init__(self, head: CategoricalHead) -> None:
        self._head = head
        self.kept: list[Tensor] = []

    def draw(
        self,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float,
        settings: CategoricalSampling,
        noise: Noise,
        positions: Tensor,
    ) -> Tensor:
        """As `CategoricalHead.draw`."""
        with plain_products():
            logits = guided_logits(*self._head.both_logits(condition, unconditional), scale)
        if settings.temperature == 0:
            self.kept.append(logits.softmax(-1).clone())
            return logits.argmax(-1)
        found = probabilities(logits, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
        self.kept.append(found.clone())
        return inverse_transform(found, noise.uniform(positions))


class ReleasedMasked(Beside):
    """MAR as its release draws."""

    def conditions(self, state: MaskedState, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Encoder and decoder over everything, as often as there are iterations."""
        if not guided:
            state.labels = state.labels[: state.images]
        copies, whole = len(state.labels) // state.images, self._generator
        hidden = torch.ones(state.images, state.order.shape[1], dtype=torch.bool, device=state.order.device)
        hidden.scatter_(1, state.order[:, : state.known], False)
        hidden = hidden.repeat(copies, 1)
        known = (~hidden).nonzero(as_tuple=True)[1].view(len(hidden), -1)  # waits for the device
        tokens = state.tokens.repeat(copies, *[1] * (state.tokens.dim() - 1))
        encoded = whole.encode(rows_at(tokens, known), known, state.labels)  # type: ignore[attr-defined]
        z = take(whole.decode(encoded, known, None), step.positions.repeat(copies, 1))  # type: ignore[attr-defined]
        return (z[: state.images], z[state.images :]) if guided else (z, None)

    def draw_head(self) -> ReleasedDiffusion:
        head = self._generator.draw_head()
        assert isinstance(head, DiffusionHead)
        return ReleasedDiffusion(head)


class ReleasedDiffusion:
    """The draw of `DiffusionHead` by ancestral sampling, step by step from (x, t, z)."""

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
        kept = make_solver(settings).visited[::-1]
        process = Diffusion(timesteps=kept, alpha_bar=respaced(TRAIN_STEPS).alpha_bar[kept])
        rows = [condition] if unconditional is None else [condition, unconditional]
        z, copies = torch.cat([row.flatten(0, 1) for row in rows]), len(rows)

        def drawn(step: int) -> Tensor:
            return noise.gaussian(step, positions, self._channels).flatten(0, 1).repeat(copies, 1)  # (R M, C)

        x = drawn(0).to(torch.promote_types(torch.float32, z.dtype))
        for step, index in enumerate(reversed(range(len(kept)))):
            added = settings.temperature * drawn(step + 1) if index > 0 else None
            x = self._step(x, index, z, scale, copies, process, added)
        return x[: len(x) // copies].view(*positions.shape, self._channels)

    def _step(
        self, x: Tensor, index: int, z: Tensor, scale: float, copies: int, process: Diffusion, noise: Tensor | None
    ) -> Tensor:
        """One denoising step of both halves, which hold the same x (R M, C)."""
        t = torch.full((len(x),), index, device=x.device)
        timesteps = torch.from_numpy(process.timesteps.copy()).to(x.device)[t]
        eps, variance = self._net(x.to(z.dtype), timesteps, z).to(x.dtype).chunk(2, -1)
        if copies == 2:
            conditional, others = eps.chunk(2)
            eps = (others + scale * (conditional - others)).repeat(2, 1)
            variance = variance.chunk(2)[0].repeat(2, 1)
        start = spread(np.sqrt(1 / process.alpha_bar), t, x) * x
        start = start - spread(np.sqrt(1 / process.alpha_bar - 1), t, x) * eps
        mean = spread(process.mean_from_start, t, x) * start + spread(process.mean_from_noisy, t, x) * x
        low, high = spread(process.posterior_log_variance, t, x), spread(process.log_betas, t, x)
        share = (variance + 1) / 2
        return mean if noise is None else mean + torch.exp((share * high + (1 - share) * low) / 2) * noise


def spread(values: np.ndarray, index: Tensor, like: Tensor) -> Tensor:
    """Of an array (S,) the entries `index` (M,), copied to the device and spread over the shape of `like` (M, C)."""
    taken = torch.from_numpy(values).to(index.device)[index].to(like.dtype)
    return taken[:, None] + torch.zeros_like(like)
