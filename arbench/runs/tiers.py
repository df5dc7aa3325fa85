"""How far a fast way may change the result: the tier that stands beside every speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from arbench.settings import known_ones, make_settings, settings_of

TIERS = {
    "E0": "bit-identical",
    "E1": "same algorithm, floats re-associated",
    "E2": "same distribution",
    "A1": "training-free approximation: fewer iterations or denoising steps, another order or solver",
    "A2": "reduced precision",
    "A3": "other weights, which is another model",
}
HALF = (torch.bfloat16, torch.float16)


def find_tier(sampling: Mapping[str, Any], sampling_type: type, own: Mapping[str, Any], dtype: torch.dtype) -> str:
    """The tier of drawing with `sampling`, measured against a preset's `own` settings in float32.

    E1 where nothing is approximated: our fast paths re-associate floats and no more. "A1+A2" where both apply. What
    `own` says of another head than this one is left out.
    """
    usual, drawn = (
        dataclasses.asdict(make_settings(sampling_type, known_ones(sampling_type, given))) for given in (own, sampling)
    )
    known = settings_of(sampling_type).items()
    fewer = any(setting.shortens and drawn[name] < usual[name] for name, setting in known)
    approximated = fewer or any(setting.approximates and drawn[name] != usual[name] for name, setting in known)
    found = [name for name, holds in (("A1", approximated), ("A2", dtype in HALF)) if holds]
    return "+".join(found) or "E1"


def describe_tier(tier: str) -> str:
    """A tier, or several joined by "+", in words."""
    return "; ".join(TIERS[name] for name in tier.split("+"))
