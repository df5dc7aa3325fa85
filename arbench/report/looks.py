"""How the curves of a figure are told apart: by colour, marker and line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from arbench.generators.methods import methods

# Once all plain looks are taken, each colour gets the marker of the next one, then of the one after it, and so on, with
# another line. Dashes are of what is published.
LINES = ("-", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))


class Look(NamedTuple):
    """How a curve is told from others: colour and marker together are its own, and so tell single points apart too."""

    colour: str
    marker: str
    line: Any = LINES[0]


# Okabe and Ito's colours, told apart by colour-blind readers (their yellow is lost on paper), each with its marker, so
# that a curve is known in print without colour too. Those of the methods stand in their specs.
OTHER_LOOKS = (Look("#CC79A7", "D"), Look("#56B4E9", "v"), Look("#000000", "X"), Look("#7F7F7F", "<"))


def method_looks() -> dict[str, Look]:
    """The look of each method that has its own, by its label."""
    told = ((method.label, method.colour, method.marker) for method in methods().values())
    return {label: Look(colour, marker) for label, colour, marker in told if colour is not None and marker is not None}


def curve_looks(names: Sequence[str]) -> dict[str, Look]:
    """The look of each name: the first curve of a method looks the same in every figure."""
    known, looks = method_looks(), dict[str, Look]()
    for name in dict.fromkeys(names):
        own = known.get(re.split(r"[,: ]", name)[0])  # "MAR, guidance 2" and "MAR mar-b" are of MAR
        if own is not None and own not in looks.values():
            looks[name] = own
    free = [look for look in _many_looks(known.values()) if look not in looks.values()]
    others = [name for name in dict.fromkeys(names) if name not in looks]
    return looks | {name: free[i % len(free)] for i, name in enumerate(others)}


def _many_looks(known: Iterable[Look]) -> list[Look]:
    """Looks of which no two share colour and marker: those of nobody, of the methods, and then mixtures of them."""
    plain = list(dict.fromkeys((*OTHER_LOOKS, *known)))
    colours = list(dict.fromkeys(look.colour for look in plain))
    markers = list(dict.fromkeys(look.marker for look in plain))
    mixed = [
        Look(colour, markers[(place + turn) % len(markers)], LINES[turn % len(LINES)])
        for turn in range(1, len(markers))
        for place, colour in enumerate(colours)
    ]
    taken = {(look.colour, look.marker) for look in plain}
    return [*plain, *(look for look in mixed if (look.colour, look.marker) not in taken)]
