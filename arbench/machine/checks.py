"""One check after another: its name, whether it passed, and what it saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


class CheckSkipped(Exception):
    """A check does not apply to this plug-in or this machine; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the result: `outcome` is "passed", "failed" or "skipped"."""

    name: str
    outcome: str
    detail: str


def run_check(name: str, check: Callable[[], str]) -> Check:
    """The outcome of one check, which returns what it saw; whatever it raises is its failure."""
    label = name.replace("_", " ")
    try:
        return Check(name=label, outcome="passed", detail=check())
    except CheckSkipped as reason:
        return Check(name=label, outcome="skipped", detail=str(reason))
    except Exception as error:  # noqa: BLE001 - a stranger's plug-in may raise anything
        detail = " ".join(str(error).split()) or type(error).__name__
        return Check(name=label, outcome="failed", detail=detail)


def require(holds: bool, otherwise: str) -> None:
    """Raise ValueError with `otherwise` unless it holds."""
    if not holds:
        raise ValueError(otherwise)


def same(found: Tensor, expected: Tensor, tolerance: float, what: str) -> str:
    """Ids have to be equal, floats within `tolerance` of the largest value. Raises ValueError where they are not."""
    if not found.is_floating_point():
        differing = int((found != expected).sum())
        require(differing == 0, f"{what}: {differing} of {found.numel()} ids differ")
        return "ids equal"
    size = float(expected.abs().max())
    error = float((found - expected).abs().max())
    require(error <= tolerance * max(size, 1e-12), f"{what}: floats differ by {error:.3g} of {size:.3g}")
    return f"floats within {error / max(size, 1e-12):.1e}"
