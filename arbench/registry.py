"""Names: near-name suggestions for every lookup, and the doors by which plug-ins come in.

Tokenizers, generators and extractors are found by entry point, ours and a third party's alike, or given as
`module:Name`. Nothing is imported before it is asked for, names and versions are those of the installed packages, and
one that cannot be imported is told in one line.
"""

from __future__ import annotations

import difflib
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from types import FrameType
from typing import Any

OWN_DISTRIBUTION = "arbench"  # what ships with it wins where two plug-ins have one name
IMPORT_SECONDS = 60.0  # for a plug-in that is checked
SCAN_SECONDS = 20.0  # for one that nobody named, where all are looked through
AGAIN_SECONDS = 1.0  # after which what swallowed the first signal gets another


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


@dataclass(frozen=True, kw_only=True)
class Door:
    """One group of plug-ins: its entry-point group, what comes in by it, and how another one may be named."""

    group: str
    kind: str  # as errors tell it: "tokenizer"
    by_module: str  # as in "module:Class"

    def installed(self) -> dict[str, EntryPoint]:
        """Installed plug-ins by name, ours and third parties' alike; nothing is imported."""
        return dict(_installed(self.group, tuple(sys.path))[0])

    def clashes(self) -> tuple[str, ...]:
        """A line for each installed plug-in that is not used because its name is taken."""
        return tuple(
            f"{self.kind} {entry.name!r} of {_owner(entry)} is not used: the name is that of {_owner(winner)}"
            for entry, winner in _installed(self.group, tuple(sys.path))[1]
        )

    def is_own(self, name: str) -> bool:
        """Whether the installed plug-in `name` ships with arbench."""
        return name in _own(self.group, tuple(sys.path))

    def package(self, name: str) -> str:
        """Name and version of the package that brings an installed plug-in; nothing is imported."""
        entry = self.installed()[name]
        return _owner(entry) if entry.dist is None else f"{_owner(entry)} {entry.dist.version}"

    def find(self, name: str) -> Any:
        """The object behind an installed name or `module:Name`.

        Raises ValueError for an unknown name and for a plug-in that cannot be imported, or not within the `time_limit`
        that is set.
        """
        installed = self.installed()
        if name in installed:
            return self.load(name, installed[name].load)
        module, _, attribute = name.partition(":")
        if module and attribute:
            return self.load(name, lambda: find_object(name))
        if not installed:
            raise ValueError(
                f"no {self.kind} is installed, not even ours: the installation is older than its code; "
                "run `pip install -e .` (or `pip install .`) again"
            )
        raise unknown_name(self.kind, name, [*installed, self.by_module])

    def made_by(self, name: str) -> dict[str, str]:
        """The third-party distribution that brings `name` and its version; empty for ours and where none is known."""
        first, _, rest = name.partition(":")
        entry = self.installed().get(name) or self.installed().get(first)  # an adapter's `first:ID`
        if entry is not None:
            found = {} if entry.dist is None else {entry.dist.name: entry.dist.version}
        else:
            brought = packages_distributions().get(first.partition(".")[0], ()) if rest else ()
            found = {distribution: version(distribution) for distribution in brought}
        return {distribution: told for distribution, told in found.items() if distribution != OWN_DISTRIBUTION}

    def load(self, name: str, load: Callable[[], Any]) -> Any:
        """Import a plug-in; whatever goes wrong in a stranger's module becomes one line that names it."""
        try:
            return load()
        except SystemExit as stop:
            told = f"it ends the program with sys.exit({stop.code!r})"
            raise ValueError(f"{self.kind} {name!r} cannot be imported: {told}") from None
        except TooLong as limit:
            raise ValueError(f"{self.kind} {name!r} cannot be imported: {limit}") from None
        except Exception as error:  # a stranger's module may raise anything
            raise ValueError(f"{self.kind} {name!r} cannot be imported: {type(error).__name__}: {error}") from error


TOKENIZERS = Door(group="arbench.tokenizers", kind="tokenizer", by_module="module:Class")
GENERATORS = Door(group="arbench.generators", kind="method", by_module="module:Name")
EXTRACTORS = Door(group="arbench.extractors", kind="extractor", by_module="module:Class")


class TooLong(BaseException):
    """A time limit is over. No Exception, so that no `except Exception` of what takes so long swallows it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Within it, what takes longer than `seconds` is interrupted by `TooLong`, which a `Door` turns into its line.

    Raises ValueError where no door stands between. Works by a signal: in the main thread, where the system has interval
    timers; elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"it takes longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    waiting = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
    try:
        yield
    except TooLong as limit:
        raise ValueError(f"a plug-in cannot be used: {limit}") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, *waiting)
        signal.signal(signal.SIGALRM, before)


def tokenizer_entry_points() -> dict[str, EntryPoint]:
    """Installed tokenizer plug-ins by name."""
    return TOKENIZERS.installed()


def find_object(name: str) -> Any:
    """The object that `module:name` means, `name` dotted where it lies in another. Raises what the import raises."""
    module, _, attribute = name.partition(":")
    value: Any = importlib.import_module(module)
    for part in attribute.split("."):
        value = getattr(value, part)
    return value


def lazy(name: str) -> Callable[..., Any]:
    """A callable that imports `module:name` when it is first called, so that naming it costs nothing."""

    @lru_cache(maxsize=1)
    def found() -> Callable[..., Any]:
        return find_object(name)

    def call(*positional: Any, **named: Any) -> Any:
        return found()(*positional, **named)

    call.__qualname__ = call.__name__ = name
    return call


def _owner(entry: EntryPoint) -> str:
    """The distribution that brings a plug-in."""
    return (entry.dist.name or "?") if entry.dist is not None else "?"


@lru_cache(maxsize=64)
def _installed(
    group: str, path: tuple[str, ...]
) -> tuple[dict[str, EntryPoint], tuple[tuple[EntryPoint, EntryPoint], ...]]:
    """The plug-ins on `path` by name, and those whose name is taken, each with the one that has it."""
    entries = sorted(entry_points(group=group), key=lambda entry: _owner(entry) != OWN_DISTRIBUTION)  # ours first
    names: dict[str, EntryPoint] = {}
    losers = []
    for entry in entries:
        winner = names.setdefault(entry.name, entry)
        if winner.value != entry.value:  # an installation and its checkout both tell of one
            losers.append((entry, winner))
    return dict(sorted(names.items())), tuple(losers)


@lru_cache(maxsize=64)
def _own(group: str, path: tuple[str, ...]) -> frozenset[str]:
    """The names of the plug-ins on `path` that ship with arbench; asking each for its distribution reads a file."""
    return frozenset(name for name, entry in _installed(group, path)[0].items() if _owner(entry) == OWN_DISTRIBUTION)
