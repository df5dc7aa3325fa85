"""Write into the digits weights that ship which model they are and whose tokens they draw; tensors stay as they are.

    python scripts/stamp_weights.py

Training writes these entries itself; this is for files from before it did. The classifier is left alone: the SHA-256
of its file stands in the protocol of every digits score.
"""

from __future__ import annotations

from pathlib import Path

import arbench
from arbench.machine.files import write_whole
from arbench.tokenizer.load import find_tokenizer, shipped_weights
from arbench.training.recipes import DIGITS
from arbench.weights.provenance import describe_tokenizer, entries, tokenizer_entries
from arbench.weights.write import with_metadata

ROOT = Path(__file__).parent.parent


def stamp(target: str) -> None:
    """Write the entries into the shipped file of one recipe."""
    recipe = DIGITS[target]
    path = ROOT / str(recipe.asset)
    if recipe.kind == "tokenizer":
        found = tokenizer_entries(describe_tokenizer(target, arbench.load_tokenizer(target), None, {}))
    else:
        name = str(recipe.tokenizer)
        file = shipped_weights(find_tokenizer(name))
        tokenizer = describe_tokenizer(name, arbench.load_tokenizer(name), file, {})
        found = entries(target, arbench.load_generator(target, weights=path), tokenizer)
    write_whole(path, with_metadata(path.read_bytes(), found))
    print(f"{path}: {', '.join(found)}")


if __name__ == "__main__":
    for chosen in ("tokenizer", "generator"):  # a generator's entries hold the SHA-256 of its tokenizer's file
        for name, recipe in DIGITS.items():
            if recipe.kind == chosen:
                stamp(name)
