"""Names: near-name suggestions for every lookup, and the discovery of tokenizer plug-ins by entry point."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

TOKENIZER_GROUP = "arbench.tokenizers"


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, or None where nothing is close."""
    found = difflib.get_close_matches(str(name).lower(), list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> ValueError:
    """The one-line error for a name that is not among `choices`: value, nearest valid choice, allowed values."""
    names = sorted(choices)
    close = nearest(name, names)
    hint = f"did you mean {close!r}? " if close else ""
    return ValueError(f"unknown {kind} {name!r}; {hint}expected one of: {', '.join(names)}")


def tokenizer_entry_points() -> dict[str, EntryPoint]:
    """Installed tokenizer plug-ins by name, ours and third parties' alike; nothing is imported."""
    return {entry.name: entry for entry in entry_points(group=TOKENIZER_GROUP)}
