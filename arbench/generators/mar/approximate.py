"""Training-free approximations of MAR: named settings that draw faster, none of them a default.

Each is told in shares of the settings it stands beside; beside the release's 100 denoising steps they are those of the
literature. What one of them costs in quality `arbench bench --tiers` measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arbench.settings import CHECKERBOARD, DiffusionSampling, MaskedSampling, OrderedSampling

RELEASED_STEPS = 100  # denoising steps (MAR release)
FEWER_STEPS = 25  # ancestral sampling that is still safe beside them
DISA_FIRST_STEPS = 50  # of the first iteration (DiSA, arXiv:2505.20297, release for MAR)


def approximations(settings: MaskedSampling) -> dict[str, Mapping[str, Any]]:
    """What is changed in `settings`, by name: fewer denoising steps, DiSA, fewer iterations in either order.

    The second order follows the two stages of Generation then Reconstruction (GtR, arXiv:2510.17171): slowly a
    structure of places that do not touch, then quickly what lies between. That these are the colours of a checkerboard,
    and that the sizes stay the cosine's, was chosen here; GtR's choice of tokens by their frequencies is not in it.
    """
    found: dict[str, Mapping[str, Any]] = {}
    if isinstance(settings, DiffusionSampling):
        least, first = (
            max(1, settings.head_steps * steps // RELEASED_STEPS) for steps in (FEWER_STEPS, DISA_FIRST_STEPS)
        )
        found[f"{least} denoising steps"] = {"head_steps": least}
        found["DiSA"] = {"head_steps": first, "head_sampler": "disa"}
    for part, word in ((2, "half"), (4, "a quarter of")):
        fewer = settings.num_iter // part
        if fewer:
            found[f"{word} the iterations"] = {"num_iter": fewer}
        if fewer > 1 and isinstance(settings, OrderedSampling):
            found[f"{word} the iterations, {CHECKERBOARD}"] = {"num_iter": fewer, "reveal_order": CHECKERBOARD}
    return found
