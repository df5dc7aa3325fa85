"""The file that training writes as a release does is read like one: both sets of weights, bit for bit."""

import pytest
import torch
from conftest import make_generator
from safetensors.torch import load_file
from tiny_trainings import pictures, tiny_training

from arbench.generators.methods import get_method
from arbench.generators.spec import same_name
from arbench.training.checkpoint import find_checkpoint
from arbench.training.export import export_release
from arbench.training.jobs import run_job
from arbench.training.start import load_start
from arbench.training.tokens import no_words
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The job of a tiny MAR on pictures of two classes, and the averaged weights that it left."""
    folder = tmp_path_factory.mktemp("trained")
    job = tiny_training("mar-b", pictures(folder / "data"))
    return job, run_job(job, folder / "out")


def saved_beside(averaged):
    """Both sets of weights of a training, as its safetensors files have them."""
    raw = averaged.with_name(f"{averaged.stem}-raw.safetensors")
    return {"ema": load_file(averaged), "raw": load_file(raw)}


def same(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_training_leaves_raw_and_averaged_weights_in_its_release(trained):
    _, averaged = trained
    saved = saved_beside(averaged)
    assert not same(saved["ema"], saved["raw"])
    release = read_tensors(averaged.with_suffix(".pth"))
    assert all(same(release.tensors(which), state) for which, state in saved.items())


@pytest.mark.parametrize("kind", ["release", "checkpoint"])
def test_a_training_starts_from_what_another_left_of_as_many_classes(trained, kind):
    """Files without an entry of their origin: the preset has 1,000 classes, their tensors say two."""
    job, averaged = trained
    file = averaged.with_suffix(".pth") if kind == "release" else find_checkpoint(averaged.parent)
    fitted = {**job.model_config, "channels": 6, "grid": 8}
    for which, state in saved_beside(averaged).items():
        start, classes = load_start(job.target, str(file), which, fitted, 2, no_words)
        assert classes == 2
        assert same(start, state)
    with pytest.raises(ValueError, match="knows 2 classes, the data has 3"):
        load_start(job.target, str(file), "ema", fitted, 3, no_words)
    with pytest.raises(ValueError, match="its tensors say num_classes 2, not 7"):
        load_start(job.target, str(file), "ema", {**fitted, "num_classes": 7}, 2, no_words)


def test_weights_of_another_width_are_told_before_anything_is_encoded(trained):
    job, averaged = trained
    with pytest.raises(ValueError, match=r"does not fit; .* of another shape: .*, and \d+ more$"):
        load_start(job.target, str(averaged), "ema", {"channels": 6, "grid": 8}, 2, no_words)


def test_a_bare_file_of_the_digits_models_says_its_classes(tmp_path):
    few = load_generator("ar-digits", weights="random", num_classes=2).state_dict()
    torch.save(few, tmp_path / "few.pt")
    start, classes = load_start("ar-digits", str(tmp_path / "few.pt"), "ema", {}, 2, no_words)
    assert classes == 2
    assert same(start, few)
