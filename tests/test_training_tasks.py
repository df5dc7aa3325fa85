"""What is trained: dead codes come back to life, and a masked generator hides the share that its configuration says."""

import numpy as np
import pytest
import torch

import arbench
from arbench.generators.recipe import Augmentation, TrainConfig
from arbench.images.data import ImageData
from arbench.training.cache_build import build_cache, describe_cache
from arbench.training.data import ImageBatches
from arbench.training.loop import train
from arbench.training.start import TABLE_DEVIATION, start_positions
from arbench.training.tasks import GeneratorTask
from arbench.training.tokenizer_task import TokenizerTask

TINY = {"width": 16, "depth": 1, "heads": 1, "head_width": 16, "head_depth": 1, "buffer_size": 2}


def test_dead_codes_are_moved_onto_latents():
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    data = ImageData("noise", np.zeros(12), ["noise"], lambda i: pixels[i])
    tokenizer = arbench.load_tokenizer("digits-vq", weights="random")
    batches = ImageBatches(data, Augmentation(), torch.device("cpu"))
    task = TokenizerTask(tokenizer, batches, tokenizer.recipe.losses)
    config = TrainConfig(steps=100, batch_size=4, learning_rate=1e-3)
    images = task.batches.images(torch.arange(12), torch.Generator())
    before = len(tokenizer.encode(images).unique())
    task.after_step(1, config, torch.Generator().manual_seed(0))
    assert len(tokenizer.encode(images).unique()) == before
    task.after_step(0, config, torch.Generator().manual_seed(0))
    assert len(tokenizer.encode(images).unique()) > 2 * before


@pytest.mark.parametrize(("deviation", "lowest"), [(0.25, 0.7), (0.5, 0.02)])
def test_masked_generator_hides_the_configured_share(deviation, lowest):
    generator = arbench.load_generator(
        "mar", weights="random", grid=8, channels=4, mask_ratio_deviation=deviation, min_mask_ratio=lowest, **TINY
    )
    rng = torch.Generator().manual_seed(0)
    shares = torch.tensor([generator._num_hidden(rng) / 64 for _ in range(2000)])
    assert shares.min() >= lowest
    assert shares.max() == 1
    # Mean of a normal around 1 cut to [lowest, 1], by numerical integration; 2,000 draws have an error of under 0.01,
    # and rounding up adds half a token of 64.
    grid = torch.linspace(lowest, 1, 10_001)
    weight = torch.exp(-0.5 * ((grid - 1) / deviation) ** 2)
    mean = (grid * weight).sum().item() / weight.sum().item()
    assert shares.mean().item() == pytest.approx(mean + 0.5 / 64, abs=0.02)


def test_impossible_mask_ratios_are_refused():
    for settings in ({"min_mask_ratio": 1.0}, {"mask_ratio_deviation": -1.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            arbench.load_generator("mar", weights="random", grid=8, channels=4, **settings, **TINY)


def tiny_cache(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    data = ImageData("noise", np.arange(6) % 2, ["a", "b"], lambda i: pixels[i])
    tokenizer = arbench.load_tokenizer("digits-kl", weights="random")
    return build_cache(tokenizer, data, describe_cache(tokenizer, data), folder)


def test_training_aids_leave_no_trace_in_the_weights(tmp_path):
    generator = arbench.load_generator("mar", weights="random", grid=8, channels=4, num_classes=2, **TINY)
    names = list(generator.state_dict())
    config = TrainConfig(steps=3, batch_size=4, learning_rate=1e-3, sinusoidal_positions=True, read_out_weight=1.0)
    cache = tiny_cache(tmp_path / "cache")
    trainer = train(lambda: GeneratorTask(generator, cache, config), config, tmp_path / "run")
    assert list(trainer.task.weights()) == names
    assert set(generator.state_dict()) - set(names) == {"diffloss.read_out.weight", "diffloss.read_out.bias"}


def test_read_out_counts_in_training_alone(tmp_path):
    torch.manual_seed(0)
    generator = arbench.load_generator("mar", weights="random", grid=8, channels=4, num_classes=2, **TINY)
    tokens, labels = torch.randn(2, 4, 8, 8), torch.tensor([0, 1])

    def loss():
        return generator.loss(tokens, labels, rng=torch.Generator().manual_seed(0)).item()

    generator.eval()
    judged = loss()
    generator.train()
    plain = loss()
    config = TrainConfig(steps=1, batch_size=1, learning_rate=1, read_out_weight=2)
    GeneratorTask(generator, tiny_cache(tmp_path), config)
    assert loss() > plain
    generator.eval()
    assert loss() == judged


def test_sinusoidal_positions_tell_neighbours_from_others():
    generator = arbench.load_generator("mar-digits", weights="random")
    buffer = generator.encoder_pos_embed_learned[0, : generator.buffer_size].clone()
    start_positions(generator)
    assert torch.equal(generator.encoder_pos_embed_learned[0, : generator.buffer_size], buffer)
    table = generator.decoder_pos_embed_learned.detach()[0, generator.buffer_size :]
    assert table.std().item() == pytest.approx(TABLE_DEVIATION)
    distances = torch.cdist(table, table).fill_diagonal_(torch.inf).view(64, 8, 8)
    nearest = distances.flatten(1).argmin(1)
    places = torch.arange(64)
    assert ((nearest // 8 - places // 8).abs() + (nearest % 8 - places % 8).abs()).max() == 1
    with pytest.raises(ValueError, match="AR has no learned positions"):
        start_positions(arbench.load_generator("ar-digits", weights="random"))
