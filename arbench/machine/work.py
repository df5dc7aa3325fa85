"""Work and the device that does it: operations, bytes, and how fast either can go at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most that a device can do in one dtype: operations and bytes a second, and where the figures are from."""

    device: str
    flops: float
    bandwidth: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operations and compulsory bytes that may overlap; done `repeats` times one after another."""

    flops: float
    bytes: float
    repeats: int = 1

    def seconds(self, peak: Peak) -> float:
        """The longer of arithmetic and traffic, for all repeats."""
        return self.repeats * max(self.flops / peak.flops, self.bytes / peak.bandwidth)


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step of a generation; rows are sequences an image: two where the unconditional one runs along."""

    known: int
    size: int
    drawn_before: int  # tokens that the step before drew
    total: int
    rows: int  # through the backbone
    head_rows: int  # through the head
    passes: int  # of the network through it
    is_first: bool = False  # whether the head meets its settings for the first time in this generation
