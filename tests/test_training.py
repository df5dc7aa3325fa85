"""The training loop: a resumed run is the uninterrupted one, and no run is overwritten or silently started afresh."""

import errno
import itertools
import json
import os
import pickle
import re
import shutil
import signal

import pytest
import torch
from conftest import make_generator, make_tokens
from torch import nn

from arbench.generators.recipe import Augmentation, TrainConfig
from arbench.machine import saving
from arbench.machine.files import file_sha256
from arbench.machine.sharded import FACTS, SEAL, read_all, sealed
from arbench.training.augment import augment
from arbench.training.checkpoint import FOLDER_NAME, Keeping, find_checkpoint, read_checkpoint_facts, saved_steps
from arbench.training.data import batch_indices
from arbench.training.engine import Engine
from arbench.training.log import LOG_NAME
from arbench.training.loop import Trainer, train
from arbench.training.parts import Part, fit_micro_batches, number_of_parts


class TinyTask:
    """Regression with dropout (global randomness) and noise on the inputs (the run's own)."""

    def __init__(self, width=4, dropout=0.3):
        self.model = nn.Sequential(nn.Linear(2, width), nn.Dropout(dropout), nn.Tanh(), nn.Linear(width, 1))
        points = torch.linspace(-1, 1, 26).view(13, 2)
        self.points, self.values = points, points.prod(1, keepdim=True)

    def __len__(self):
        return len(self.points)

    def loss(self, indices, rng):
        points = self.points[indices] + 0.1 * torch.randn(len(indices), 2, generator=rng)
        return (self.model(points) - self.values[indices]).square().mean(), {}

    def weights(self):
        return self.model.state_dict()

    def after_step(self, step, config, rng):
        pass


def tiny_config(**changes):
    settings = {"steps": 12, "batch_size": 5, "learning_rate": 0.01, "warmup_steps": 3}
    return TrainConfig(**{**settings, "checkpoint_every": 4, "log_every": 1, **changes})


def losses_of(folder):
    return [json.loads(line)["loss"] for line in (folder / LOG_NAME).read_text().splitlines()]


def stop_at(step, number=signal.SIGINT):
    """A watcher that presses Ctrl-C, or sends another signal, once during the step."""

    def watch(done, logged):
        if done == step:
            os.kill(os.getpid(), number)

    return watch


@pytest.mark.parametrize("interrupted_at", [1, 6, 11])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, interrupted_at):
    whole = train(TinyTask, tiny_config(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt, match="go on with --resume"):
        train(TinyTask, tiny_config(), tmp_path / "cut", watch=stop_at(interrupted_at))
    resumed = train(TinyTask, tiny_config(), tmp_path / "cut", resume=True)
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")
    for name, value in whole.ema.weights.items():
        assert torch.equal(resumed.ema.weights[name], value)
    for first, second in zip(whole.task.model.parameters(), resumed.task.model.parameters(), strict=True):
        assert torch.equal(first, second)


def test_global_randomness_is_left_as_it_was(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    train(TinyTask, tiny_config(steps=2), tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_loss_falls(tmp_path):
    train(lambda: TinyTask(width=32, dropout=0), tiny_config(steps=200, learning_rate=0.03), tmp_path)
    losses = losses_of(tmp_path)
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


def test_a_run_is_neither_overwritten_nor_started_afresh(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at"):
        train(TinyTask, tiny_config(), tmp_path, resume=True)
    train(TinyTask, tiny_config(steps=1), tmp_path)
    with pytest.raises(ValueError, match="go on with --resume"):
        train(TinyTask, tiny_config(steps=1), tmp_path)


def test_resume_refuses_other_settings_models_and_broken_files(tmp_path):
    train(TinyTask, tiny_config(steps=2), tmp_path)
    with pytest.raises(ValueError, match=r"cannot resume with learning_rate=0\.5"):
        train(TinyTask, tiny_config(steps=2, learning_rate=0.5), tmp_path, resume=True)
    with pytest.raises(ValueError, match="another model"):
        train(lambda: TinyTask(width=5), tiny_config(steps=2), tmp_path, resume=True)


def test_a_flipped_bit_is_not_trained_on(tmp_path):
    train(TinyTask, tiny_config(steps=2), tmp_path)
    path = find_checkpoint(tmp_path)
    files = sorted(path.iterdir())
    assert len(files) == 3  # the facts, PyTorch's table, the tensors
    for file in files:
        content = file.read_bytes()
        for place in (0, len(content) // 3, len(content) - 1):
            changed = bytearray(content)
            changed[place] ^= 4
            file.write_bytes(changed)
            with pytest.raises(ValueError, match=re.escape(str(path))) as error:
                train(TinyTask, tiny_config(steps=4), tmp_path, resume=True)
            assert len(str(error.value).splitlines()) == 1
        file.write_bytes(content)
    train(TinyTask, tiny_config(steps=2), tmp_path, resume=True)


FACTS_OF = {"step": 1, "made_of": {}, "parts": 1, "num_updates": 1, "files": {".metadata": "0"}}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "step: 3",
        "[1]",
        '{"files": {}}',
        '{"files": {".metadata": "0"}}',
        '{"files": {"../../secret": "0"}}',
        sealed({**FACTS_OF, "config": {"steps": "2"}}),
        sealed({**FACTS_OF, "step": "1", "config": tiny_config().as_dict()}),
        sealed({**FACTS_OF, "config": tiny_config().as_dict()}),
    ],
)
def test_what_is_no_checkpoint_is_one_line(tmp_path, content):
    path = tmp_path / FOLDER_NAME / "step-0000001"
    path.mkdir(parents=True)
    (path / FACTS).write_text(content)
    with pytest.raises(ValueError, match=r"checkpoint|table of tensors") as error:
        train(TinyTask, tiny_config(), tmp_path, resume=True)
    assert len(str(error.value).splitlines()) == 1


def test_a_table_of_tensors_executes_nothing(tmp_path, capsys):
    class Foreign:
        def __reduce__(self):
            return (print, ("executed",))

    train(TinyTask, tiny_config(steps=1), tmp_path)
    path = find_checkpoint(tmp_path)
    (path / ".metadata").write_bytes(pickle.dumps(Foreign()))
    facts = json.loads((path / FACTS).read_text())
    facts["files"][".metadata"] = file_sha256(path / ".metadata")  # whoever means harm writes the checksum as well
    facts.pop(SEAL)
    (path / FACTS).write_text(sealed(facts))
    with pytest.raises(ValueError, match="which no table of tensors needs"):
        train(TinyTask, tiny_config(steps=1), tmp_path, resume=True)
    assert capsys.readouterr().out == ""


def test_what_a_killed_training_left_half_written_goes_at_the_next_start(tmp_path):
    left = tmp_path / FOLDER_NAME / ".step-0000001.partial"
    left.mkdir(parents=True)
    (left / "__0_0.distcp").write_bytes(b"half")
    train(TinyTask, tiny_config(steps=2), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FOLDER_NAME, LOG_NAME]
    assert [path.name for path in (tmp_path / FOLDER_NAME).iterdir()] == ["step-0000002"]


def test_a_save_that_breaks_off_loses_nothing(tmp_path, monkeypatch):
    whole = train(TinyTask, tiny_config(), tmp_path / "whole")
    saved, done = saving.file_sha256, []

    def breaking(path):
        done.append(path)
        if len(done) == 4:  # of the second save; each has two files
            raise OSError(28, "No space left on device")
        return saved(path)

    monkeypatch.setattr(saving, "file_sha256", breaking)
    with pytest.raises(OSError, match=r"no space left in .*: step-0000008 was not written"):
        train(TinyTask, tiny_config(), tmp_path / "cut")
    assert read_checkpoint_facts(find_checkpoint(tmp_path / "cut"))["step"] == 4
    resumed = train(TinyTask, tiny_config(), tmp_path / "cut", resume=True)
    assert [path.name for path in (tmp_path / "cut" / FOLDER_NAME).iterdir()] == ["step-0000012"]
    for name, value in whole.ema.weights.items():
        assert torch.equal(resumed.ema.weights[name], value)


def test_the_last_checkpoints_and_milestones_are_kept(tmp_path):
    train(TinyTask, tiny_config(steps=13, checkpoint_every=1), tmp_path, keeping=Keeping(last=2, every=5))
    steps = sorted(int(path.name[5:]) for path in (tmp_path / FOLDER_NAME).iterdir())
    assert steps == [5, 10, 12, 13]
    train(TinyTask, tiny_config(), tmp_path / "between", keeping=Keeping(every=3))  # others go at every fourth step
    assert list(saved_steps(tmp_path / "between")) == [3, 6, 9, 12]
    with pytest.raises(ValueError, match="keep_last=0"):
        Keeping(last=0)


def test_a_checkpoint_that_cannot_be_removed_stops_nothing_and_goes_at_the_next_start(tmp_path, monkeypatch):
    """As on a network's disk, where another process reads one of its files; the facts are gone, the tensors are not."""
    remove, stuck = shutil.rmtree, []

    def busy(path, ignore_errors=False):
        if stuck or not (path / FACTS).exists():
            remove(path, ignore_errors=ignore_errors)
            return
        stuck.append((path / FACTS).unlink())
        if not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(shutil, "rmtree", busy)
    train(TinyTask, tiny_config(), tmp_path)
    folder = tmp_path / FOLDER_NAME
    assert sorted(path.name for path in folder.iterdir()) == [".step-0000004.partial", "step-0000012"]
    train(TinyTask, tiny_config(steps=13), tmp_path, resume=True)
    assert [path.name for path in folder.iterdir()] == ["step-0000013"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_s_signal_saves_and_leaves(tmp_path, number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="step 3 is saved"):
        train(TinyTask, tiny_config(), tmp_path, watch=stop_at(3, number))
    assert read_checkpoint_facts(find_checkpoint(tmp_path))["step"] == 3
    assert signal.getsignal(number) == before


def test_micro_batches_draw_each_for_itself_and_come_back_to_the_bit(tmp_path):
    """Three parts on one process: the run that is cut is the run that is not."""
    config = tiny_config(batch_size=6, micro_batches=3)
    whole = train(TinyTask, config, tmp_path / "whole")
    assert read_checkpoint_facts(find_checkpoint(tmp_path / "whole"))["parts"] == 3
    with pytest.raises(KeyboardInterrupt):
        train(TinyTask, config, tmp_path / "cut", watch=stop_at(5))
    resumed = train(TinyTask, config, tmp_path / "cut", resume=True)
    other = train(TinyTask, tiny_config(batch_size=6), tmp_path / "other")
    weights = [run.task.model.state_dict()["0.weight"] for run in (whole, resumed, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_fewer_processes_replay_the_micro_batches_that_more_have_begun(tmp_path):
    """Three of the recipe, six of the run that six processes began: it goes on as it would have."""
    whole = train(TinyTask, tiny_config(batch_size=6, micro_batches=6), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(TinyTask, tiny_config(batch_size=6, micro_batches=6), tmp_path / "cut", watch=stop_at(5))
    recipe, said = tiny_config(batch_size=6, micro_batches=3), []
    resumed = train(TinyTask, recipe, tmp_path / "cut", resume=True, say=said.append)
    assert said == ["micro_batches 3 -> 6: as the run was begun"]
    assert torch.equal(*(run.task.model.state_dict()["0.weight"] for run in (whole, resumed)))
    begun = {"config": {"micro_batches": 6}}  # which four processes cannot share
    assert (
        fit_micro_batches(tiny_config(batch_size=12, micro_batches=4), 4, said.append, begun=begun).micro_batches == 4
    )


def test_the_number_of_micro_batches_follows_batch_and_processes():
    said = []

    def fit(count, batch, wanted):
        return fit_micro_batches(tiny_config(batch_size=batch, micro_batches=wanted), count, said.append).micro_batches

    assert [fit(8, 2048, 32), fit(1, 2048, 32), fit(64, 2048, 32), fit(3, 48, 32)] == [32, 32, 64, 24]
    assert len(said) == 2
    assert fit(2, 10, 0) == 0
    with pytest.raises(ValueError, match="batch_size=10 cannot be shared by 4 processes evenly"):
        fit(4, 10, 0)
    assert number_of_parts(tiny_config(batch_size=8), 2) == 2
    assert number_of_parts(tiny_config(batch_size=8), 2, before=4) == 4  # a run of four goes on with two
    assert number_of_parts(tiny_config(batch_size=8), 4, before=2) == 4


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for engine in (Engine(), Engine(recompute=True)):
        model = make_generator("mar", "diffusion", dropout=0.1)
        task = Fixed(model, make_tokens(model, batch=4))
        trainer = Trainer(task, TrainConfig(steps=1, batch_size=4, learning_rate=1e-3), engine=engine)
        torch.manual_seed(0)
        trainer.one_step()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(torch.equal(kept, again) for kept, again in zip(*gradients, strict=True))


class Fixed:
    """A generator on tokens that lie in memory."""

    def __init__(self, model, tokens):
        self.model, self.tokens = model, tokens

    def __len__(self):
        return len(self.tokens)

    def loss(self, indices, rng):
        return self.model.loss(self.tokens[indices], torch.zeros(len(indices), dtype=torch.int64), rng=rng), {}

    def weights(self):
        return self.model.state_dict()

    def after_step(self, step, config, rng):
        pass


def test_constant_rate_run_can_be_lengthened(tmp_path):
    config = {"schedule": "constant"}
    train(TinyTask, tiny_config(steps=12, **config), tmp_path / "whole")
    train(TinyTask, tiny_config(steps=5, **config), tmp_path / "longer")
    train(TinyTask, tiny_config(steps=12, **config), tmp_path / "longer", resume=True)
    assert losses_of(tmp_path / "longer") == losses_of(tmp_path / "whole")


def test_a_run_whose_warm_up_shrank_can_be_lengthened_past_that(tmp_path):
    """Three epochs of warm-up are too many for four epochs, not for eight; what was begun is gone on with."""

    def config(epochs):
        return tiny_config(steps=0, epochs=epochs, warmup_epochs=3.0, schedule="constant").for_images(13)

    train(TinyTask, config(4), tmp_path)
    assert (config(4).warmup, config(8).warmup) == (1, 7.8)
    assert train(TinyTask, config(8), tmp_path, resume=True).config.warmup == 1


def test_another_number_of_parts_goes_on_with_numbers_that_no_part_has_drawn():
    def drawn(part):
        with part.drawing():
            return torch.rand(4, generator=part.rng).tolist(), torch.rand(4).tolist()

    with torch.random.fork_rng():
        torch.manual_seed(7)  # what the first part's dropout draws from
        seen = [drawn(Part(number, 7, torch.device("cpu"))) for number in range(12)]
        for step, number in itertools.product((1, 5), range(3)):
            part = Part(number, 7, torch.device("cpu"))
            part.seed_afresh(7, step)
            seen.append(drawn(part))
    for draws in zip(*seen, strict=True):
        assert len(set(map(tuple, draws))) == 18


def test_a_checkpoint_holds_the_weights_and_the_recipe_s_average(tmp_path):
    trainer = train(TinyTask, tiny_config(), tmp_path / "averaged")
    path = find_checkpoint(tmp_path / "averaged")
    assert read_checkpoint_facts(path)["step"] == 12
    for name, value in trainer.ema.weights.items():
        assert torch.equal(read_all(path, "ema.")[name], value)
    train(TinyTask, tiny_config(ema_rate=0.0), tmp_path / "raw")
    assert not read_all(find_checkpoint(tmp_path / "raw"), "ema.")


def test_parts_share_the_batch():
    parts = [batch_indices(13, 6, 4, 0, rank=rank, world_size=2) for rank in range(2)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(), batch_indices(13, 6, 4, 0))


def test_mixed_precision_keeps_float32_weights_and_average(tmp_path):
    trainer = train(TinyTask, tiny_config(dtype="bfloat16"), tmp_path / "mixed")
    assert {value.dtype for value in trainer.ema.weights.values()} == {torch.float32}
    train(TinyTask, tiny_config(), tmp_path / "single")
    mixed, single = losses_of(tmp_path / "mixed"), losses_of(tmp_path / "single")
    assert mixed != single
    assert mixed == pytest.approx(single, rel=0.05)  # bfloat16 keeps 8 bits: 0.4 percent a product


def test_batches_walk_through_every_example_each_epoch():
    places = torch.cat([batch_indices(13, 5, step, seed=3) for step in range(26)])
    for epoch in places.view(10, 13):
        assert sorted(epoch.tolist()) == list(range(13))
    assert not torch.equal(places[:13], places[13:26])


def test_learning_rate_warms_up_and_falls():
    config = tiny_config(steps=100, warmup_steps=10, learning_rate=1.0, final_rate=0.1)
    assert config.learning_rate_at(0) == 0.1
    assert config.learning_rate_at(10) == 1.0
    assert config.learning_rate_at(55) == pytest.approx(0.55)
    assert config.learning_rate_at(100) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"batch_size": -1}, {"ema_rate": 1.0}, {"schedule": "cosin"}, {"dtype": "bf16"}]
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        tiny_config(**changes)


def test_no_augmentation_is_the_identity_and_views_keep_shape_and_range():
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(augment(images, Augmentation(), rng), images)
    views = augment(images, Augmentation(shift=2, rotation=20, scale=0.2, contrast=0.5, noise=0.5, flip=True), rng)
    assert views.shape == images.shape
    assert views.dtype == torch.float32
    assert views.abs().max() <= 1
    still = augment(images, Augmentation(contrast=1e-9), rng)
    # Resampling on the same grid is exact but for rounding of the grid's coordinates.
    torch.testing.assert_close(still, images, rtol=0, atol=1e-5)


def test_shift_moves_by_whole_pixels_at_most():
    image = torch.full((1, 3, 9, 9), -1.0)
    image[..., 4, 4] = 1.0
    for seed in range(20):
        view = augment(image, Augmentation(shift=2), torch.Generator().manual_seed(seed))
        rows, columns = (view[0, 0] > -0.99).nonzero(as_tuple=True)
        assert rows.min() >= 1
        assert rows.max() <= 7
        assert columns.min() >= 1
        assert columns.max() <= 7


def test_a_cosine_run_is_lengthened_with_its_rate_laid_anew(tmp_path):
    said = []
    train(TinyTask, tiny_config(steps=6), tmp_path)
    train(TinyTask, tiny_config(steps=12, warmup_steps=5), tmp_path, resume=True, say=said.append)
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / LOG_NAME).read_text().splitlines()]
    short, long = tiny_config(steps=6), tiny_config(steps=12)
    assert rates == [short.learning_rate_at(step) for step in range(6)] + [
        long.learning_rate_at(step) for step in range(6, 12)
    ]
    assert len(said) == 1
    assert said[0].startswith("steps 6 -> 12: the cosine is laid anew")
    with pytest.raises(ValueError, match="cannot resume with steps=3: the checkpoint was trained with 12"):
        train(TinyTask, tiny_config(steps=3), tmp_path, resume=True)
