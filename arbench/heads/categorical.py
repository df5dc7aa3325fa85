"""The categorical head: logits over a codebook, their filters, and a draw by inverse transform."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from arbench.machine.products import FewRowsLinear, is_read_anew
from arbench.protocols import Noise
from arbench.settings import CategoricalSampling

LEAST_TEMPERATURE = 1e-5  # logits over less overflow float32; LlamaGen release


def guided_logits(conditional: Tensor, unconditional: Tensor | None, scale: float | Tensor) -> Tensor:
    """uncond + scale (cond - uncond); the conditional logits where there are no others (LlamaGen, section 2.2)."""
    if unconditional is None:
        return conditional
    return unconditional + scale * (conditional - unconditional)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Logits below the k-th largest of their row become -inf; 0 keeps all. (..., V) -> (..., V)."""
    if top_k <= 0 or top_k >= logits.shape[-1]:
        return logits
    threshold = logits.topk(top_k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < threshold, -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of codes whose mass exceeds `top_p`, the crossing one included. (..., V) -> (..., V)."""
    if top_p >= 1:
        return logits
    ranked, index = logits.sort(dim=-1, descending=True)
    mass_before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)
    dropped = mass_before > top_p
    dropped[..., 0] = False
    return logits.masked_fill(dropped.scatter(-1, index, dropped), -torch.inf)


def probabilities(logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Temperature, then top-k, then top-p, then softmax: (..., V) float -> (..., V)."""
    logits = logits if temperature == 1 else logits / max(temperature, LEAST_TEMPERATURE)
    return keep_top_p(keep_top_k(logits, top_k), top_p).softmax(-1)


def inverse_transform(probability: Tensor, uniform: Tensor) -> Tensor:
    """The code where the cumulative probability passes `uniform`: (..., V), (...) -> (...) int64."""
    cumulative = probability.double().cumsum(-1)
    target = (uniform * cumulative[..., -1]).unsqueeze(-1)
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_(max=probability.shape[-1] - 1)


class CategoricalHead(FewRowsLinear):
    """Condition vectors to logits over `vocab_size` codes, and from there to drawn codes."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__(width, vocab_size, bias=False)

    def logits(self, condition: Tensor) -> Tensor:
        """(..., D) -> (..., V), at least float32."""
        logits = self(condition)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def both_logits(self, condition: Tensor, unconditional: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`logits` of both; one product where two would read the weights from memory twice."""
        if unconditional is None:
            return self.logits(condition), None
        if not is_read_anew(self.weight):
            return self.logits(condition), self.logits(unconditional)
        first, second = self.logits(torch.cat((condition, unconditional))).chunk(2)
        return first, second

    def loss(self, condition: Tensor, codes: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy in nats of `codes` (B, n) under `condition` (B, n, D)."""
        return F.cross_entropy(self.logits(condition).flatten(0, -2), codes.flatten())

    def draw(
        self,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float,
        settings: CategoricalSampling,
        noise: Noise,
        positions: Tensor,
    ) -> Tensor:
        """Draw a code for each of `positions` (B, n) from conditions (B, n, D): (B, n) int64.

        `settings` holds temperature (0 is greedy), top_k, top_p; `noise.uniform(positions)` gives the random numbers.
        """
        logits = self._guided(condition, unconditional, scale)
        if settings.temperature == 0:
            return logits.argmax(-1)
        return inverse_transform(_kept(logits, settings), noise.uniform(positions))

    def draw_with_confidence(
        self,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float,
        settings: CategoricalSampling,
        noise: Noise,
        positions: Tensor,
        draw: int,
    ) -> tuple[Tensor, Tensor]:
        """As `draw`, by `noise.uniform(positions, draw)`: codes (B, n), and the logarithms of their probabilities.

        The probability is that of the draw, after temperature, top-k and top-p; of a greedy one the softmax's.
        """
        logits = self._guided(condition, unconditional, scale)
        if settings.temperature == 0:
            codes, probability = logits.argmax(-1), logits.softmax(-1)
        else:
            probability = _kept(logits, settings)
            codes = inverse_transform(probability, noise.uniform(positions, draw))
        return codes, probability.gather(-1, codes.unsqueeze(-1)).squeeze(-1).log()

    def _guided(self, condition: Tensor, unconditional: Tensor | None, scale: float) -> Tensor:
        """Guided logits (B, n, V)."""
        return guided_logits(*self.both_logits(condition, unconditional), scale)


def _kept(logits: Tensor, settings: CategoricalSampling) -> Tensor:
    """`probabilities` under sampling settings."""
    return probabilities(logits, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
