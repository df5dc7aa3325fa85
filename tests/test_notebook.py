"""What Python users look at: images as Pillow's, and a record that a notebook shows."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import arbench
from arbench.images.pixels import to_float, to_uint8

ROOT = Path(__file__).parent.parent


def test_floats_and_bytes_become_the_same_pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    for images in (to_float(pixels), pixels, torch.from_numpy(pixels)):
        pictures = arbench.to_pil(images)
        assert [picture.size for picture in pictures] == [(6, 4)] * 2
        assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), pixels)
    assert np.array_equal(to_uint8(to_float(pixels)), pixels)


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 4, 6, 3), torch.zeros(3, 4, 6), np.zeros((1, 3, 4, 6)), np.zeros((1, 3, 4, 6), np.uint8)]
)
def test_anything_else_is_no_picture(images):
    with pytest.raises(ValueError, match=r"expected floats \(B, 3, H, W\)"):
        arbench.to_pil(images)


def test_a_record_shows_itself_and_is_the_dict_of_its_file(tmp_path):
    record = arbench.run(method="par", weights="random", num_images=2, evaluate=False, out=tmp_path)
    assert isinstance(record, dict)
    assert json.loads(json.dumps(record)) == json.loads((record.folder / "record.json").read_text()) == record
    shown = record._repr_html_()
    assert "<table" in shown
    assert str(record.folder) in shown
    (data,) = re.findall(r'src="data:image/png;base64,([^"]*)"', shown)
    assert base64.b64decode(data) == (record.folder / "grid.png").read_bytes()
    assert "http" not in shown
    assert "<script" not in shown


def test_the_notebook_of_ten_cells_runs_and_watching_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "scripts" / "watch.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], len(notebook["cells"])) == (4, 10)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook["cells"])
    names: dict = {}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert [frame.revealed for frame in names["moments"]] == sorted({frame.revealed for frame in names["moments"]})
    assert names["same"]
    assert len(names["times"]) == 4
    assert list(tmp_path.iterdir()) == []


DRAW = "import arbench; arbench.run(method='par', weights='random', num_images=2, evaluate=False, out='runs')"


def test_in_a_notebook_a_bar_moves_and_the_record_is_the_cells_output(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipywidgets")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(DRAW)])
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = notebook.cells[0].outputs
    (record,) = [output for output in outputs if output.output_type == "execute_result"]
    assert "<table" in record.data["text/html"]
    widgets = [output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]
    assert widgets
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    told = " ".join(json.dumps(widget["state"].get("outputs", "")) for widget in state)
    assert "par-digits" in told
    assert "2/2" in told
