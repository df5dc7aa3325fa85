"""`arbench sample --film`: the steps of one model, or of all methods side by side, as a film."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbench.cli.run import ALL
from arbench.cli.sample import load_asked

if TYPE_CHECKING:
    from arbench.runs.models import Parts

NOT_FILMED = {"out": "the film is the file", "batch_size": "all images are one batch", "engine": "steps are watched"}


def write_film_of(
    asked: Mapping[str, Any], sampling: Mapping[str, Any], path: Path, *, per_class: int, pictures: int
) -> None:
    """Draw what is `asked` under the `sampling` settings and write the film; its path goes to standard output.

    Raises ValueError for what does not go with a film, and as `load_parts` and `film` do.
    """
    from arbench.images.films import check_film, write_film
    from arbench.machine.progress import image_progress
    from arbench.runs.film import count_filmed, film
    from arbench.runs.film_pictures import film_pictures
    from arbench.runs.grid import MOST_ROWS
    from arbench.runs.samples import parse_labels
    from arbench.validation import Count, Seed, check

    for option, why in NOT_FILMED.items():
        if option in asked:
            raise ValueError(f"--{option.replace('_', '-')} does not go with --film: {why}")
    check("per_class", per_class, Count)
    check("film_pictures", pictures, Count)
    check("seed", asked.get("seed", 0), Seed)
    target = check_film(path)
    models = load_all(asked) if asked.get("method") == ALL else [load_asked(asked, sampling)]
    num_classes = min(model.generator.num_classes for model in models)
    labels = asked.get("labels", ",".join(map(str, range(min(num_classes, MOST_ROWS)))))
    wanted = [label for label in parse_labels(labels, num_classes) for _ in range(per_class)]
    reels = []
    with image_progress("filming", len(wanted) * len(models), 0) as progress:
        for model in models:
            seed = asked.get("seed", 0)
            reels.append(film(model, wanted, pictures=pictures, seed=seed, warm=len(models) > 1))
            progress(len(wanted))
    write_film(target, *film_pictures(reels, min(pictures, max(count_filmed(model) for model in models))))
    print(target)


def load_all(asked: Mapping[str, Any]) -> list[Parts]:
    """Every method's models. Raises ValueError for what belongs to one of them."""
    from arbench.runs.compare import compared_methods, refuse_own

    refuse_own(asked)
    return [load_asked({**asked, "method": method.name}, {}) for method in compared_methods()]
