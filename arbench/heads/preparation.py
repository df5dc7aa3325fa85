"""What all draws of a generation share, computed once before them."""

from __future__ import annotations

from typing import cast

from arbench.protocols import Head, PreparableHead, Sampling


def prepare_head(head: Head[Sampling], *settings: Sampling) -> Head[Sampling]:
    """What draws from `head` under each of `settings`: the head itself where it has nothing to compute beforehand."""
    if not hasattr(head, "prepare"):
        return head
    return cast("PreparableHead[Sampling]", head).prepare(*settings)
