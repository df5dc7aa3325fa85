"""How strong classifier-free guidance is at a step (arXiv:2207.12598)."""

from __future__ import annotations

from arbench.protocols import Stage
from arbench.settings import Guidance


def guidance_scale(settings: Guidance, step: Stage) -> float:
    """The scale at `step`; 1 means the conditional prediction alone.

    "constant": `cfg_scale` throughout. "linear": 1 + (cfg_scale - 1) times the share of tokens that are known after
    the step; the schedule says how many count as hidden at the end. Past `cfg_interval`, where it is not -1, there is
    no guidance (LlamaGen release).
    """
    if not settings.guided or (settings.cfg_interval > -1 and step.clock > settings.cfg_interval):
        return 1.0
    if settings.cfg_schedule == "linear":
        return 1 + (settings.cfg_scale - 1) * (step.total - step.hidden_after) / step.total
    return settings.cfg_scale
