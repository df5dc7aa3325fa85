"""How the rows of a table are called: by method and model, and by whatever else tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arbench.report.values import SeedGroup, method_name

HEADS = ("row", "group", "label")  # of an experiment's table; `row` is what --row takes
NOTHING = "–"


def row_names(groups: Sequence[SeedGroup]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and names of rows of records: method, model or label, then the row, tokenizer, weights and run.

    These last four are told where rows differ in them; the weights where those of one model do, for else its name
    tells them.
    """
    told = {
        "experiment": [str(group.first["source"].get("experiment", NOTHING)) for group in groups],
        "row": [str(group.first["source"].get("row", NOTHING)) for group in groups],
        "method": [method_name(group.first["method"]) for group in groups],
        "model": [_model_text(group) for group in groups],
        "tokenizer": _tokenizer_texts(groups),
        "weights": [weights_text(group.first["weights"]) for group in groups],
        "run": [run_text(group) for group in groups],
    }
    kept = {
        "method": True,
        "model": True,
        "experiment": _differ(told["experiment"]),
        "row": any(name != NOTHING for name in told["row"]),
        "tokenizer": _differ(told["tokenizer"]),
        "weights": _differ_within([group.first["model"] for group in groups], told["weights"]),
        "run": _differ(told["run"]),
    }
    names = tuple(name for name in told if kept[name])
    return names, list(zip(*(told[name] for name in names), strict=True))


def telling_labels(labels: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and labels (row, group, label), without groups where no row has one and labels that only repeat rows."""
    kept = [True, any(group for _, group, _ in labels), any(label != row for row, _, label in labels)]
    heads = tuple(head for head, keep in zip(HEADS, kept, strict=True) if keep)
    return heads, [tuple(text for text, keep in zip(label, kept, strict=True) if keep) for label in labels]


def measured_label(label: str, group: SeedGroup, measured: str = "") -> str:
    """`label` with `measured`, and "measured again" with how often, where the row was."""
    again = group.first["source"].get("again")
    told = measured if not again else "measured again" if again == 1 else f"measured again ({again})"
    return f"{label}, {told}" if told else label


def weights_text(weights: Mapping[str, Any]) -> str:
    """The file of weights with the first digits of its hash, raw weights told."""
    file = str(weights.get("file") or NOTHING)
    sha256 = weights.get("sha256")
    which = ", raw" if weights.get("which") == "raw" else ""
    return f"{file}{f' ({sha256[:8]})' if sha256 else ''}{which}"


def run_text(group: SeedGroup) -> str:
    """The run's folder; of several seeds the first one's and how many more there are."""
    runs = list(dict.fromkeys(str(r["source"]["run"]) for r in group.records if r["source"].get("run")))
    if not runs:
        return NOTHING
    return runs[0] if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more"


def _model_text(group: SeedGroup) -> str:
    return measured_label(str(group.first["source"].get("label") or group.first["model"]), group)


def _tokenizer_texts(groups: Sequence[SeedGroup]) -> list[str]:
    """The tokenizers' names, with the first digits of their weights' hash where those of one name differ."""
    names = [str(group.first["tokenizer"] or NOTHING) for group in groups]
    hashes = [str(group.first["weights"].get("tokenizer_sha256") or NOTHING) for group in groups]
    if not _differ_within(names, hashes):
        return names
    return [f"{name} ({sha256[:8]})" for name, sha256 in zip(names, hashes, strict=True)]


def _differ(texts: Sequence[str]) -> bool:
    return len(set(texts)) > 1


def _differ_within(names: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether `texts` differ among rows of one name."""
    return len(set(zip(names, texts, strict=True))) > len(set(names))
