"""The file that training writes as a release does is read like one: both sets of weights, bit for bit."""

import pytest
import torch
from conftest import make_generator

from arbench.generators.methods import get_method
from arbench.generators.spec import same_name
from arbench.training.export import export_release
from arbench.weights.load import load_generator
from arbench.weights.read import read_tensors

LAYOUT_HOLDS_RAW = {"mar": True, "ar-raster": False, "par": False}


@pytest.mark.parametrize(("name", "holds_raw"), LAYOUT_HOLDS_RAW.items())
def test_a_written_release_is_read_as_one(tmp_path, name, holds_raw):
    model = make_generator(name)
    release = get_method(model.method).release
    assert release.rename is same_name
    averaged = model.state_dict()
    raw = {key: value + 1 if value.is_floating_point() else value for key, value in averaged.items()}
    file = tmp_path / "checkpoint-last.pth"
    export_release(file, release, raw, averaged)

    loaded = load_generator(model.method, weights=file, **dict(vars(model.config)))
    assert all(torch.equal(value, averaged[key]) for key, value in loaded.state_dict().items())
    found = read_tensors(file).tensors("raw")
    assert all(torch.equal(found[key], (raw if holds_raw else averaged)[key]) for key in raw)
