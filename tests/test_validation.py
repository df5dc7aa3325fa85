"""One validator: type hints, bounds and choices, each mistake one line with what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import numpy as np
import pytest

from arbench.validation import SHORT, Count, Limits, Seed, check, check_fields, hints_of

if TYPE_CHECKING:
    from nowhere import Nothing  # type: ignore[import-not-found]

SHARE = Annotated[float, Limits(least=0, below=1)]
BATCH = Annotated[int, Limits(least=1)] | Annotated[str, Limits(choices=("auto",))]


class Inner(TypedDict, total=False):
    head: float | None


class Outer(TypedDict):
    name: str
    inner: Inner
    tags: Mapping[str, list[int]]


@pytest.mark.parametrize(
    ("value", "hint", "told"),
    [
        (0, Count, "it is 0; expected a whole number of at least 1"),
        (True, Count, "it is True; expected a whole number of at least 1"),
        (2.0, Count, "it is 2.0; expected a whole number of at least 1"),
        (9, Annotated[int, Limits(least=1, most=8)], "it is 9; expected at most 8"),
        (1, SHARE, "it is 1; expected below 1"),
        (-0.5, SHARE, "it is -0.5; expected a number of at least 0"),
        (float("nan"), SHARE, "it is nan; expected"),
        (float("inf"), Annotated[float, Limits(above=0)], "it is inf; expected a number above 0"),
        (2**64, Seed, "expected a whole number from 0 to 2**64 - 1"),
        (0, BATCH, "it is 0; expected a whole number of at least 1 or 'auto'"),
        ("atuo", BATCH, "it is 'atuo'; expected a whole number of at least 1 or 'auto'"),
        ("blak", Annotated[str, Limits(choices=("black", "white"), called="colour")], "unknown colour 'blak'; did you"),
        ("fid", Sequence[str], "it is 'fid'; expected a list"),
        (("a", 1), tuple[str, ...], "it is 1; expected a text"),
        (None, str | int, "it is None; expected a text or a whole number"),
        ({"name": "a", "inner": {"haed": 1}, "tags": {}}, Outer, "unknown it.inner entry 'haed'; did you mean 'head'"),
        ({"name": "a", "inner": {"head": "1"}, "tags": {}}, Outer, "it.inner.head is '1'; expected a number or null"),
        ({"name": "a", "inner": {}, "tags": {"x": [1, "2"]}}, Outer, "it.tags.x is '2'; expected a whole number"),
        ({"inner": {}, "tags": {}}, Outer, "it.name is None; expected a text"),
    ],
)
def test_a_mistake_is_one_line(value: object, hint: Any, told: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole line is compared below
        check("it", value, hint)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (np.int64(4), Count),
        (np.float32(0.5), SHARE),
        (2**64 - 1, Seed),
        ("auto", BATCH),
        (np.arange(3), Sequence[int] | None),
        (Path("a"), str | Path | None),
        (float("inf"), Any),
        ({"name": "a", "inner": {"head": None}, "tags": {"x": [1]}}, Outer),
    ],
)
def test_what_is_allowed_passes(value: object, hint: Any) -> None:
    check("it", value, hint)


def test_a_class_whose_hints_cannot_be_resolved_is_not_looked_into() -> None:
    @dataclass
    class Strange:
        width: int
        nothing: Nothing

    assert hints_of(Strange) == {"width": Any, "nothing": Any}
    with pytest.raises(ValueError, match="unknown key 'widht'; did you mean 'width'"):
        check_fields(Strange, {"widht": 3}, kind="key")


def test_the_short_line() -> None:
    with pytest.raises(ValueError, match=r"^heads 'four': expected a whole number$"):
        check("heads", "four", int, SHORT)
