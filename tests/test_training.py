"""The training loop: a resumed run is the uninterrupted one, and no run is overwritten or silently started afresh."""

import json
import os
import re
import signal
import struct
import zipfile

import pytest
import torch
from torch import nn

from arbench.generators.recipe import Augmentation, TrainConfig
from arbench.training.augment import augment
from arbench.training.checkpoint import FILE_NAME, load_checkpoint
from arbench.training.data import batch_indices
from arbench.training.loop import LOG_NAME, train


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


def stop_at(step):
    """A watcher that presses Ctrl-C once during the step."""

    def watch(done, logged):
        if done == step:
            os.kill(os.getpid(), signal.SIGINT)

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
    (tmp_path / FILE_NAME).write_bytes((tmp_path / FILE_NAME).read_bytes()[:500])
    with pytest.raises(ValueError, match="not a torch file that is safe to read"):
        train(TinyTask, tiny_config(steps=2), tmp_path, resume=True)


def test_a_flipped_bit_is_not_trained_on(tmp_path):
    train(TinyTask, tiny_config(steps=2), tmp_path)
    path, whole = tmp_path / FILE_NAME, (tmp_path / FILE_NAME).read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = [(entry.header_offset, len(archive.read(entry))) for entry in archive.infolist()]
    for header, size in members:
        names, extra = struct.unpack_from("<HH", whole, header + 26)
        changed = bytearray(whole)
        changed[header + 30 + names + extra + size // 2] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*") as error:
            train(TinyTask, tiny_config(steps=4), tmp_path, resume=True)
        assert len(str(error.value).splitlines()) == 1
    path.write_bytes(whole)
    train(TinyTask, tiny_config(steps=2), tmp_path, resume=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"step: 3",
        {"step": "3"},
        [1],
        {"step": 1, "config": {"steps": 2}, "model": {}, "ema": {}, "optimizer": {}, "rng": {}},
        {"step": 1, "config": tiny_config().as_dict(), "model": {}, "ema": {}, "optimizer": {}, "rng": {}},
    ],
)
def test_what_is_no_checkpoint_is_one_line(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / FILE_NAME).write_bytes(content)
    else:
        torch.save(content, tmp_path / FILE_NAME)
    with pytest.raises(ValueError, match=r"checkpoint") as error:
        train(TinyTask, tiny_config(), tmp_path, resume=True)
    assert len(str(error.value).splitlines()) == 1


def test_what_a_killed_training_left_half_written_goes_at_the_next_start(tmp_path):
    (tmp_path / f".{FILE_NAME}.0badcafe.partial").write_bytes(b"half")
    train(TinyTask, tiny_config(steps=1), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE_NAME, LOG_NAME]


def test_constant_rate_run_can_be_lengthened(tmp_path):
    config = {"schedule": "constant"}
    train(TinyTask, tiny_config(steps=12, **config), tmp_path / "whole")
    train(TinyTask, tiny_config(steps=5, **config), tmp_path / "longer")
    train(TinyTask, tiny_config(steps=12, **config), tmp_path / "longer", resume=True)
    assert losses_of(tmp_path / "longer") == losses_of(tmp_path / "whole")


def test_checkpoint_leaves_no_half_file(tmp_path):
    train(TinyTask, tiny_config(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE_NAME, LOG_NAME]
    assert load_checkpoint(tmp_path / FILE_NAME)["step"] == 12


def test_gradients_pass_the_hook_and_ranks_share_the_batch(tmp_path):
    seen = []
    train(TinyTask, tiny_config(steps=3), tmp_path, reduce_gradients=lambda gradients: seen.append(len(gradients)))
    assert seen == [4, 4, 4]
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
