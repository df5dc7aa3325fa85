"""What a generator is measured against: other ways of drawing the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from arbench.bench.baselines import PlainHeadGenerator, Uncached
from arbench.bench.originals import ReleasedCausal, ReleasedMasked
from arbench.generators.common.causal import CausalBackbone
from arbench.generators.common.masked import MaskedBackbone
from arbench.heads.categorical import CategoricalHead
from arbench.heads.diffusion import DiffusionHead
from arbench.protocols import Generator

RELEASED = "the release's way"


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A plain way of drawing the same tokens."""

    name: str
    generator: Any


def find_rivals(generator: Generator, sampler: str | None = None) -> list[Rival]:
    """What `generator` can be measured against; empty where none of its parts has a plain counterpart here.

    MAR's release samples by ancestral steps: there is none of it where the head's `sampler` is another.
    """
    rivals = []
    if isinstance(generator.draw_head(), DiffusionHead):
        rivals.append(Rival(name="the plain diffusion head", generator=PlainHeadGenerator(generator)))
    if isinstance(generator, CausalBackbone) and generator.kv_cache:
        rivals.append(Rival(name="no KV cache", generator=Uncached(generator)))
    head = generator.draw_head()
    if isinstance(generator, CausalBackbone) and generator.kv_cache and isinstance(head, CategoricalHead):
        rivals.append(Rival(name=RELEASED, generator=ReleasedCausal(generator)))
    if isinstance(generator, MaskedBackbone) and isinstance(head, DiffusionHead) and sampler != "ddim":
        rivals.append(Rival(name=RELEASED, generator=ReleasedMasked(generator)))
    return rivals
