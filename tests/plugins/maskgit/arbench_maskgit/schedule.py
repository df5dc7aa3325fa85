"""Which tokens are kept: the surest, with Gumbel noise that falls to nothing (arXiv:2202.04200, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arbench.protocols import Generator, Noise, Step
from arbench.sampling.looking import LookingSchedule
from arbench.sampling.schedules import masked_sizes


@dataclass(frozen=True, kw_only=True)
class ConfidenceSchedule(LookingSchedule):
    """Tokens by the log-probability of their code and `choice_temperature` times annealed Gumbel noise."""

    choice_temperature: float

    def preference(self, step: Step, tokens: Tensor, confidence: Tensor, noise: Noise, draw: int) -> Tensor:
        """(B, n) float64: confidence, and noise of which the last step has none."""
        gumbel = -torch.log(-torch.log(noise.uniform(step.positions, draw)))
        return confidence + self.choice_temperature * (1 - (step.index + 1) / len(self)) * gumbel


def by_confidence(generator: Generator, settings: Any, noise: Noise, labels: Tensor) -> ConfidenceSchedule:
    """After iteration k of K there stay hidden floor(N cos(pi/2 k/K)) tokens."""
    rows, columns = generator.grid
    sizes = masked_sizes(rows * columns, settings.num_iter)
    return ConfidenceSchedule(
        order=torch.arange(rows * columns, device=labels.device).repeat(len(labels), 1),
        sizes=sizes,
        clocks=list(range(-1, len(sizes) - 1)),
        choice_temperature=settings.choice_temperature,
    )
