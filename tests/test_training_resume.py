"""A training is resumed on the tokens that it began with: of the same tokenizer, size and images, or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file
from tiny_trainings import pictures, tiny_training

from arbench.machine.sharded import FACTS, sealed
from arbench.runs.choice import find_tokenizer_weights
from arbench.training.asked import with_settings
from arbench.training.checkpoint import find_checkpoint, read_checkpoint_facts
from arbench.training.jobs import run_job

STEPS = 2


def longer(job, **changes):
    """The same job with another step, `changes` apart."""
    return replace(job, config=with_settings(job.config, steps=job.config.steps + 1), **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The job of a tiny generator on the codes of the digits tokenizer, and the folder in which it was trained."""
    folder = tmp_path_factory.mktemp("trained")
    weights = shutil.copy(find_tokenizer_weights("digits-vq", may_be_random=False), folder / "tokenizer.safetensors")
    job = tiny_training("ar-b", pictures(folder / "data"), tokenizer="digits-vq", tokenizer_weights=str(weights))
    run_job(job, folder / "out")
    return job, folder


@pytest.fixture
def begun(trained, tmp_path):
    """The same with a copy of its own."""
    job, folder = trained
    shutil.copytree(folder, tmp_path / "here")
    return job, tmp_path / "here" / "out"


def other_weights(job, path):
    tensors = load_file(job.tokenizer_weights)
    save_file({name: value + 0.1 if value.is_floating_point() else value for name, value in tensors.items()}, path)
    return str(path)


CHANGES = {
    "weights": (
        lambda job, folder: {"tokenizer_weights": other_weights(job, folder / "other.safetensors")},
        r"cannot resume with tokenizer_weights 'SHA-256 \w{12}': the checkpoint has 'SHA-256 \w{12}'",
    ),
    "size": (lambda job, folder: {"size": 64}, "cannot resume with size 64: the checkpoint has 32"),
    "images": (
        lambda job, folder: {"data": str(pictures(folder / "other", side=40))},
        r"cannot resume with data '8 images of 2 classes, SHA-256 \w{12}': the checkpoint has '8 images of 2 classes",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_tokens_are_refused_before_any_is_made(begun, tmp_path, what):
    job, out = begun
    change, line = CHANGES[what]
    caches = list((out / "cache").iterdir())
    with pytest.raises(ValueError, match=line) as error:
        run_job(longer(job, **change(job, tmp_path)), out, resume=True)
    assert "\n" not in str(error.value)
    assert list((out / "cache").iterdir()) == caches


def test_the_same_tokens_are_gone_on_with_wherever_they_come_from(begun, monkeypatch):
    job, out = begun
    monkeypatch.chdir(out.parent)
    run_job(longer(job, data="./data/", tokenizer_weights="tokenizer.safetensors"), out, resume=True)
    assert read_checkpoint_facts(find_checkpoint(job.folder(out)))["step"] == STEPS + 1


def test_a_training_of_before_goes_on(begun):
    """Its checkpoint does not say these things, and that of its next step does."""
    job, out = begun
    path, names = find_checkpoint(job.folder(out)), ("size", "data", "tokenizer_weights")
    facts = read_checkpoint_facts(path)
    told = {name: facts["made_of"].pop(name) for name in names}
    (path / FACTS).write_text(sealed(facts))
    run_job(longer(job), out, resume=True)
    made_of = read_checkpoint_facts(find_checkpoint(job.folder(out)))["made_of"]
    assert {name: made_of[name] for name in names} == told
