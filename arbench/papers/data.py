"""A paper's printed values as rows for machines, beside those that `arbench.report.data` makes of records."""

from __future__ import annotations

from collections.abc import Mapping

from arbench.papers.experiment import Experiment, Row
from arbench.papers.published import PublishedValue
from arbench.report.data import DataRow


def published_data(experiment: Experiment, row: Row, printed: Mapping[str, PublishedValue]) -> DataRow:
    """The row of a paper's printed values, digit for digit."""
    shown = {name: printed[name] for name in experiment.columns if name in printed}
    timed = next((value for value in shown.values() if value.hardware), None)
    return {
        "experiment": experiment.name,
        "row": row.name,
        "group": row.group,
        "label": row.label,
        "kind": "published",
        "source": experiment.source,
        "method": row.method,
        "model": row.model,
        "tokenizer": row.tokenizer,
        **row.sampling,
        **{name: value.value for name, value in shown.items() if value.number is not None},
        "hardware": timed.hardware if timed else None,
        "batch_size": timed.batch if timed else None,
        "bounds": ";".join(f"{name}{value.value}" for name, value in shown.items() if value.number is None),
    }
