"""Schedules that look: the next tokens are chosen by what was drawn and how sure the head was of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor

from arbench.protocols import ConfidentHead, Head, Noise, Schedule, Stage, Step


@dataclass(frozen=True, kw_only=True)
class LookingSchedule(Schedule):
    """A schedule that draws a token at every hidden place, keeps the `sizes` it prefers and hides the others again.

    How many tokens a step reveals is known beforehand, which ones is told by `preference`. `order` (B, N) is
    where it starts from, and is rearranged in place: its first entries are the places revealed so far, the rest are
    hidden; so it is a tensor of its own. Each place is revealed once, whatever is preferred.
    """

    def preference(self, step: Step, tokens: Tensor, confidence: Tensor, noise: Noise, draw: int) -> Tensor:
        """How much each of the step's candidates is wanted (B, n): the highest are revealed; given by the method.

        `tokens` (B, n) were drawn at the candidates' `step.positions` (B, n), each with the logarithm `confidence`
        (B, n) of its probability. `draw` is the one of `noise.uniform` that is free for this.
        """
        raise NotImplementedError

    def positions(self, stage: Stage) -> Tensor:
        """Raster indices (B, n) of all hidden places: each may be chosen."""
        return self.order[:, stage.known :]

    def draw(
        self,
        step: Step,
        head: Head,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float,
        settings: object,
        noise: Noise,
    ) -> tuple[Step, Tensor]:
        """The step with the places that were chosen (B, size), and their tokens."""
        given = (condition, unconditional, scale, settings, noise, step.positions)
        # Two random numbers a place and step: one for its code, one for the choice.
        tokens, confidence = cast(ConfidentHead, head).draw_with_confidence(*given, 2 * step.index)
        wanted = self.preference(step, tokens, confidence, noise, 2 * step.index + 1)
        ranking = wanted.argsort(dim=1, descending=True, stable=True)
        ranked = step.positions.gather(1, ranking)
        self.order[:, step.known :] = ranked
        return replace(step, positions=ranked[:, : step.size]), tokens.gather(1, ranking[:, : step.size])
