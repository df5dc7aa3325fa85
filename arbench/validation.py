"""One validator for all that comes from outside: rows of YAML, run requests, records, configurations, settings.

What may stand there is told by the type hints of a dataclass or a TypedDict, the bounds of a number and the choices of
a text beside them: `Annotated[int, Limits(least=1)]`. Mistakes are one line: name, value, what was expected, and the
nearest name where one is unknown.

It is not pydantic, which would be a further dependency for what is a page here, takes 0.1 to 0.2 s to import where all
of `arbench --help` takes 0.4 s, wants third parties' configurations to be written for it, and tells errors in blocks
of lines, without the nearest name, that would have to be worded anew one by one.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    NamedTuple,
    TypeGuard,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from arbench.registry import unknown_name

LARGEST = 1e18  # of a number without a bound; infinity and what a 64-bit integer cannot hold are beyond it
BOUNDS = {
    "least": (operator.ge, "of at least"),
    "above": (operator.gt, "above"),
    "most": (operator.le, "at most"),
    "below": (operator.lt, "below"),
}
KIND_WORDS = {
    "Mapping": "keys with values",
    "dict": "keys with values",
    "tuple": "a list",
    "list": "a list",
    "Sequence": "a list",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "NoneType": "null",
    "Path": "a path",
}


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How a wrong value is told: the line, and the words for the kinds of values."""

    line: str = "{name} is {value!r}; expected {expected}"
    kinds: Mapping[str, str] = field(default_factory=lambda: KIND_WORDS)

    def error(self, name: str, value: object, expected: str) -> ValueError:
        """The error of one wrong value."""
        return ValueError(self.line.format(name=name, value=value, expected=expected))

    def kind(self, kind: object) -> str:
        """What a value of this type is called."""
        name = "Mapping" if is_typeddict(kind) else getattr(kind, "__name__", str(kind))
        return self.kinds.get(name, name)


PLAIN = Wording()
SHORT = Wording(line="{name} {value!r}: expected {expected}")  # of models' configurations and sampling settings


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a number, or all `choices` of a text.

    A number is from `least` to `most`, above `above` and below `below`. `meaning` says in words what a value may be,
    where the bounds do not say it well; `called` what a choice is, where its name does not.
    """

    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    meaning: str = ""
    called: str = ""

    def hold(self, value: object) -> bool:
        """Whether a value of the right kind lies within; NaN and infinity never do."""
        if isinstance(value, str):
            return not self.choices or value in self.choices
        if not _is_number(value):
            return True
        within = -LARGEST <= value <= LARGEST or self.most is not None or self.below is not None
        return within and not any(self._missed(value, *BOUNDS))

    def told(self, kind: str, value: object) -> str:
        """What a value of `kind`, in words, may be; where it is too large, how large."""
        if self.meaning or self.choices:
            return self.meaning or " or ".join(map(repr, self.choices))
        over = next(self._missed(value, "most", "below"), None) if _is_number(value) else None
        return over or " ".join([kind, *self._missed(-math.inf, "least", "above")])

    def _missed(self, value: float, *bounds: str) -> Iterator[str]:
        """Those of the bounds, in words, that a number does not keep."""
        for name in bounds:
            bound, (keeps, word) = getattr(self, name), BOUNDS[name]
            if bound is not None and not keeps(value, bound):
                yield f"{word} {bound}"


Count = Annotated[int, Limits(least=1)]
Seed = Annotated[int, Limits(least=0, below=2**64, meaning="a whole number from 0 to 2**64 - 1")]


class Option(NamedTuple):
    """One of the kinds of values that a hint allows."""

    kind: Any
    parts: tuple[Any, ...] = ()  # hints of what is inside
    limits: Limits | None = None

    def fits(self, value: object) -> bool:
        """Whether `value` is of this kind; what is inside is not looked at."""
        if self.kind is Any or not isinstance(self.kind, type):
            return True
        if self.kind in NUMBERS:
            return _is(value, NUMBERS[self.kind])
        if is_typeddict(self.kind) or issubclass(self.kind, Mapping):
            return isinstance(value, Mapping)
        if self.kind in (list, tuple, Sequence):  # an array is a list of labels, a text no list of names
            return isinstance(value, Iterable if self.kind is Sequence else (list, tuple)) and not _is(value, str)
        return isinstance(value, self.kind)


NUMBERS = {int: numbers.Integral, float: numbers.Real}


def options(hint: object) -> list[Option]:
    """What a type hint allows, one kind after another."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return [option for part in parts for option in options(part)]
    if origin is Annotated:
        limits = next((part for part in parts[1:] if isinstance(part, Limits)), None)
        return [option._replace(limits=limits) for option in options(parts[0])]
    return [Option(origin or hint, parts)]


def check(name: str, value: object, hint: object, wording: Wording = PLAIN) -> None:
    """Raise ValueError, in one line, where `value` is none that the type `hint` allows, what is inside included."""
    allowed = options(hint)
    fitting = [option for option in allowed if option.fits(value)]
    if not any(option.limits is None or option.limits.hold(value) for option in fitting):
        limits = allowed[0].limits
        if limits is not None and limits.choices and len(allowed) == 1 and isinstance(value, str):
            raise unknown_name(limits.called or name, value, limits.choices)
        told = dict.fromkeys((one.limits or Limits()).told(wording.kind(one.kind), value) for one in allowed)
        raise wording.error(name, value, " or ".join(told))
    kind, parts, _ = fitting[0]
    if is_typeddict(kind):
        check_fields(kind, value, name=name, wording=wording)  # type: ignore[arg-type]
    elif isinstance(value, Mapping) and parts:
        for key, part in value.items():
            check(f"{name}.{key}", part, parts[-1], wording)
    elif isinstance(value, (list, tuple)) and len(parts) == 1 + (parts[-1:] == (...,)):
        for part in value:
            check(name, part, parts[0], wording)


def check_names(kind: str, given: Iterable[object], known: Collection[str]) -> None:
    """Raise ValueError, with the nearest of `known`, for a name that is not among them."""
    for name in given:
        if name not in known:
            raise unknown_name(kind, str(name), known)


def check_fields(
    shape: type, values: Mapping[str, Any], *, kind: str = "", name: str = "", wording: Wording = PLAIN
) -> None:
    """Raise ValueError for the first of `values` that is no field of `shape`, or none that its hint allows.

    `shape` is a dataclass, or a TypedDict, of which what is required has to be there. `kind` says what a field is
    called where it is unknown, `name` where the values stand.
    """
    hints = hints_of(shape)
    check_names(kind or f"{name} entry", values, hints)
    for field_name, hint in hints.items():
        if field_name in values or field_name in getattr(shape, "__required_keys__", ()):
            check(f"{name}.{field_name}" if name else field_name, values.get(field_name), hint, wording)


@lru_cache(maxsize=64)
def hints_of(shape: type) -> dict[str, Any]:
    """The type hints of a class's fields by name; all `Any` where one cannot be resolved, as in a stranger's class."""
    try:
        hints = get_type_hints(shape, include_extras=True)
    except (NameError, TypeError):
        return dict.fromkeys(getattr(shape, "__dataclass_fields__", ()), Any)
    return {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}


def _is(value: object, kind: type) -> bool:
    """`isinstance`, for which true and false are no numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return _is(value, numbers.Real)
