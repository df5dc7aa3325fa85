"""Random numbers that the host needs while a device computes."""

from __future__ import annotations

import hashlib

import torch


def on_host(rng: torch.Generator | None) -> torch.Generator | None:
    """A generator of the CPU that is a function of the state of `rng`: `rng` itself where it is the CPU's.

    A number drawn on a device is known to the host only after all that was queued before it is done. The state of a
    device's generator (seed and offset) stands in the host's memory and moves on with every draw.
    """
    if rng is None or rng.device.type == "cpu":
        return rng
    digest = hashlib.sha256(rng.get_state().numpy().tobytes()).digest()  # `hash` differs from process to process
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
