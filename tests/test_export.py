"""The file that training writes as a release does is read like one: both sets of weights, bit for bit."""

import pytest
import torch
from conftest import make_generator
from safetensors.torch import load_file
from tiny_trainings import pictures, tiny_training

from arbench.generators.methods import get_method
from arbench.generators.spec import same_name
from arbench.training.export import export_release
from arbench.training.jobs import run_job
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


def test_a_training_leaves_raw_and_averaged_weights_in_its_release(tmp_path):
    job = tiny_training("mar-b", pictures(tmp_path / "data"))
    averaged = run_job(job, tmp_path / "out")
    files = {"ema": averaged, "raw": job.raw_weights_path(tmp_path / "out")}
    saved = {which: load_file(file) for which, file in files.items()}
    assert any(not torch.equal(value, saved["raw"][name]) for name, value in saved["ema"].items())
    release = read_tensors(averaged.with_suffix(".pth"))
    for which, state in saved.items():
        found = release.tensors(which)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], value) for name, value in state.items()), which
