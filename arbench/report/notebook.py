"""The record of a run as a notebook shows it: its folder, its table row and its sample grid."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arbench.evaluation.stored_run import GRID
from arbench.report.formats import table_element
from arbench.report.tables import records_table


class RunRecord(dict[str, Any]):
    """The dict that record.json holds; `folder` is its run folder. In a notebook it shows table and grid.

    Empty, with `folder` None, on any process of a run but the first.
    """

    def __init__(self, record: Mapping[str, Any], folder: Path | None = None) -> None:
        super().__init__(record)
        self.folder = folder

    def _repr_html_(self) -> str:
        """One fragment of HTML with nothing to fetch; the plain dict where there is no record."""
        if not self:
            return f"<pre>{html.escape(repr(dict(self)))}</pre>"
        parts = [table_element(records_table([dict(self)]))]
        if self.folder is not None:
            parts.append(f"<p><code>{html.escape(str(self.folder))}</code></p>")
            grid = self.folder / GRID
            if grid.is_file():
                data = base64.b64encode(grid.read_bytes()).decode()
                parts.append(f'<img alt="sample grid" src="data:image/png;base64,{data}">')
        return f"<div>{''.join(parts)}</div>"
