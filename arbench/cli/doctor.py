"""`arbench doctor`: what this machine has, what is missing and how to get it."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

EXAMPLES = """Examples:

  arbench doctor

  arbench doctor --json
"""
MARKS = {"ok": "+", "missing": "-", "problem": "!"}

AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as one JSON array.")]


def register(app: typer.Typer) -> None:
    """Add `doctor` to the app."""
    app.command("doctor", epilog=EXAMPLES)(doctor)


def doctor(as_json: AsJson = False) -> None:
    """Print versions, devices, memory, and which weights and references are here; exit 0 whatever is missing."""
    from arbench.weights.inventory import inventory

    facts = list(inventory())
    if as_json:
        print(json.dumps([dataclasses.asdict(fact) for fact in facts], indent=2))
        return
    width = max(len(fact.name) for fact in facts)
    section = ""
    for fact in facts:
        if fact.section != section:
            section = fact.section
            print(f"\n{section}")
        remedy = f"; {fact.remedy}" if fact.remedy else ""
        print(f"  {MARKS[fact.state]} {fact.name:{width}}  {fact.value}{remedy}")
    print("\n+ here   - not here, needed for some runs only   ! look at this")
