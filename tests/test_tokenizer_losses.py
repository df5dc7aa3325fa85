"""Training of tokenizers, term by term: each against its formula, the discriminator against what is published of it."""

import json
import math
import sys
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
from torch import nn

from arbench.cli import run_command
from arbench.protocols import TokenizerPass
from arbench.tokenizer.recipe import TokenizerLosses, trainable
from arbench.training.discriminator import (
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    smallest_side,
)
from arbench.training.perceptual import load_perceptual
from arbench.training.tokenizer_losses import entropy_loss, kl_divergence, latent_terms, reconstruction_terms
from arbench.training.tokenizer_task import CodebookUse

ROUNDING = 1e-6  # of a float32 sum in another order


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("summed", [False, True])
def test_reconstruction_terms_are_what_they_say(distance, summed):
    images, back = random(2, 3, 4, 4), random(2, 3, 4, 4, seed=1)
    losses = TokenizerLosses(distance=distance, distance_weight=3, perceptual_weight=0.5, summed=summed)
    total, terms = reconstruction_terms(
        TokenizerPass(reconstruction=back), images, losses, lambda real, made: (real * made).mean()
    )
    gap = (back - images).abs() if distance == "l1" else (back - images) ** 2
    assert terms["reconstruction"].item() == pytest.approx(gap.mean().item(), rel=ROUNDING)
    expected = 3 * gap + 0.5 * (images * back).mean()
    # Summed, LPIPS counts once a value, as LDM adds it before it sums; the mean is over the two images.
    wanted = expected.sum() / 2 if summed else expected.mean()
    assert total.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_divergence_is_that_of_torch():
    mean, deviation = random(3, 2, 4, 4), random(3, 2, 4, 4, seed=1).exp()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, deviation), normal(0.0, 1.0)).sum((1, 2, 3)).mean()
    assert kl_divergence(mean, deviation).item() == pytest.approx(expected.item(), rel=1e-5)
    total, terms = latent_terms(
        TokenizerPass(reconstruction=mean, mean=mean, deviation=deviation), TokenizerLosses(kl_weight=0.5)
    )
    assert total.item() == pytest.approx(0.5 * terms["kl"].item())


def test_codebook_and_commitment_pull_each_its_own_side():
    latents, codes = random(2, 4, 3, 3).requires_grad_(), random(2, 4, 3, 3, seed=1).requires_grad_()
    losses = TokenizerLosses(codebook_weight=2, commitment_weight=0.25)
    found = TokenizerPass(reconstruction=latents, latents=latents, codes=codes, all_codes=codes)
    total, _ = latent_terms(found, losses)
    total.backward()
    gap = (latents - codes).detach()
    assert total.item() == pytest.approx(2.25 * gap.square().mean().item(), rel=ROUNDING)
    torch.testing.assert_close(codes.grad, -2 * 2 * gap / gap.numel())
    torch.testing.assert_close(latents.grad, 0.25 * 2 * gap / gap.numel())


def test_the_entropy_term_is_the_formula_of_the_release():
    """Written out: chances of each code by distance, the mean entropy less the entropy of the mean."""
    latents, codes, temperature = random(2, 4, 3, 3), random(5, 4, seed=1), 0.7
    chances = []
    for image in latents:
        for row in range(3):
            for column in range(3):
                scores = torch.stack([-(image[:, row, column] - code).square().sum() / temperature for code in codes])
                chances.append(scores.softmax(0))
    chances = torch.stack(chances).double()
    of_each = -(chances * chances.log()).sum(1).mean()
    of_mean = -(chances.mean(0) * chances.mean(0).log()).sum()
    # The release adds 1e-5 to scores and to probabilities inside the logarithms.
    assert entropy_loss(latents, codes, temperature).item() == pytest.approx((of_each - of_mean).item(), abs=1e-4)
    found = TokenizerPass(reconstruction=latents, latents=latents, codes=latents, all_codes=codes)
    assert "entropy" not in latent_terms(found, TokenizerLosses())[1]
    assert "entropy" in latent_terms(found, TokenizerLosses(entropy_weight=0.1))[1]


def test_hinge_values():
    real, fake = torch.tensor([-1.0, 0.0, 0.5, 3.0]), torch.tensor([-2.0, -1.0, 0.0, 2.0])
    assert hinge_discriminator_loss(real, fake).item() == 0.5 * ((2 + 1 + 0.5 + 0) / 4 + (0 + 0 + 1 + 3) / 4)
    assert hinge_generator_loss(fake).item() == 0.25


def test_the_adaptive_weight_is_the_ratio_of_two_gradients():
    torch.manual_seed(0)
    body, last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
    images, target = random(2, 3, 8, 8), random(2, 3, 8, 8, seed=1)

    def losses():
        made = last(body(images))
        return (made - target).square().mean(), -(made * images).tanh().mean()

    first, second = losses()
    weight = adaptive_weight(first, second, last.weight)
    assert not weight.requires_grad
    (wanted,) = torch.autograd.grad(losses()[0], last.weight)
    (found,) = torch.autograd.grad(losses()[1], last.weight)
    assert weight.item() == pytest.approx((wanted.norm() / (found.norm() + 1e-4)).item(), rel=1e-5)
    # Without any adversarial gradient it is 1 / 1e-4 times the other's length, at most 10,000.
    made = last(body(images))
    assert adaptive_weight(10 * (made - target).square().sum(), 0 * made.sum(), last.weight).item() == 1e4
    (first + second).backward()  # the graph is still there


def test_the_discriminator_is_the_published_one():
    model = PatchDiscriminator()
    shapes = [tuple(layer.weight.shape) for layer in model.main if isinstance(layer, nn.Conv2d)]
    assert shapes == [(64, 3, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]
    assert [layer.stride[0] for layer in model.main if isinstance(layer, nn.Conv2d)] == [2, 2, 2, 1, 1]
    # Weights, biases of the first and the last convolution, two numbers a channel of three norms.
    weights = sum(math.prod(shape) for shape in shapes)
    count = sum(weight.numel() for weight in model.parameters())
    assert count == weights + 64 + 1 + 2 * (128 + 256 + 512) == 2_765_633
    assert [layer.negative_slope for layer in model.main if isinstance(layer, nn.LeakyReLU)] == [0.2] * 4
    assert model.main[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.main[5].weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1, 6, 6)
    with torch.device("meta"):
        assert PatchDiscriminator()(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_smallest_image_has_one_patch(layers):
    side = smallest_side(layers)
    model = PatchDiscriminator(layers)
    assert model(torch.rand(2, 3, side, side)).shape[2:] == (1, 1)
    with pytest.raises(RuntimeError):
        model(torch.rand(2, 3, side - 1, side - 1))


def test_judging_gives_gradients_to_images_alone():
    model, images = PatchDiscriminator(1), random(2, 3, 8, 8).requires_grad_()
    logits = model.judge(images)
    assert torch.equal(logits, model(images))
    logits.sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in model.parameters())


def test_use_and_perplexity_are_of_the_last_ids():
    use = CodebookUse(8, torch.device("cpu"))
    told = use.seen(torch.tensor([[[0, 0], [1, 1]]]))
    assert told["codes_used"].item() == 0.25
    assert told["perplexity"].item() == pytest.approx(2)
    told = use.seen(torch.arange(8).repeat(8, 1).view(1, 8, 8))
    assert told["codes_used"].item() == 1
    share = torch.tensor([10, 10, 8, 8, 8, 8, 8, 8]) / 68
    assert told["perplexity"].item() == pytest.approx(torch.exp(-(share * share.log()).sum()).item())
    told = use.seen(torch.full((1, 256, 256), 3))
    assert (told["codes_used"].item(), told["perplexity"].item()) == (0.125, 1)


@pytest.mark.parametrize("name", ["digits-vq", "digits-kl"])
def test_gradients_pass_the_bottleneck(name):
    """Straight through the quantiser, as if codes were latents; and through a posterior's sample."""
    from arbench.tokenizer.load import load_tokenizer

    tokenizer, images = load_tokenizer(name), random(2, 3, 32, 32).clamp(-1, 1)
    direction = random(2, 3, 32, 32, seed=1)
    found = tokenizer.training_pass(images, torch.Generator().manual_seed(0))
    (found.reconstruction * direction).sum().backward()
    gradient = tokenizer.encoder.conv_out.weight.grad.clone()
    tokenizer.zero_grad()
    raw = tokenizer.encode_raw(images)
    if name == "digits-vq":
        latents = tokenizer.quantize.normalize(raw)
        codes = tokenizer.lookup(tokenizer.quantize(latents)).requires_grad_()
        torch.testing.assert_close(found.reconstruction, tokenizer.decode_raw(codes))
        (at_codes,) = torch.autograd.grad((tokenizer.decode_raw(codes) * direction).sum(), codes)
        latents.backward(at_codes)
    else:
        mean, log_variance = raw.chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
        (tokenizer.decode_raw(mean + (0.5 * log_variance).exp() * noise) * direction).sum().backward()
    torch.testing.assert_close(gradient, tokenizer.encoder.conv_out.weight.grad, rtol=1e-4, atol=1e-5)
    assert gradient.abs().sum() > 0


def test_published_recipes():
    recipe = trainable("llamagen-vq").recipe
    config, losses = recipe.config, recipe.losses
    assert (config.epochs, config.batch_size, config.learning_rate, config.betas) == (40, 128, 1e-4, (0.9, 0.95))
    assert (config.clip_norm, config.weight_decay, config.dtype, config.crop_share) == (1.0, 0, "bfloat16", 0.8)
    assert (config.ema_rate, config.schedule, config.warmup_steps, recipe.size) == (0, "constant", 0, 256)
    assert config.augmentation.flip
    assert (losses.distance, losses.distance_weight, losses.perceptual_weight) == ("l2", 1, 1)
    assert (losses.codebook_weight, losses.commitment_weight, losses.entropy_weight) == (1, 0.25, 0)
    assert (losses.discriminator_weight, losses.discriminator_start, losses.adaptive_weight) == (0.5, 20_000, False)
    for name in ("kl16", "vq16"):
        recipe = trainable(name).recipe
        assert recipe.losses.adaptive_weight
        assert recipe.config.learning_rate == pytest.approx(4.5e-6 * recipe.config.batch_size)
        assert json.loads(json.dumps(recipe.losses.as_dict())) == recipe.losses.as_dict()
    with pytest.raises(ValueError, match=r"'perceptual_weigth'.*did you mean 'perceptual_weight'"):
        TokenizerLosses().changed({"perceptual_weigth": 0})
    with pytest.raises(ValueError, match=r"kl_weight -1: expected"):
        TokenizerLosses(kl_weight=-1)


def test_without_lpips_it_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match=r"needs the package lpips .*arbench\[lpips\].*--perceptual-weight 0") as error:
        load_perceptual(torch.device("cpu"))
    assert len(str(error.value).splitlines()) == 1
    arguments = ["train", "--tokenizer", "vq16", "--data", "digits", "--size", "32", "--steps", "1", "--device", "cpu"]
    assert run_command([*arguments, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("--perceptual-weight 0\n")
    assert not list(tmp_path.iterdir())


def test_without_the_weights_of_lpips_it_is_one_line(monkeypatch):
    def refuse(**settings):
        raise URLError("no route\nto host")

    monkeypatch.setitem(sys.modules, "lpips", module := ModuleType("lpips"))
    module.LPIPS = refuse
    with pytest.raises(ValueError, match=r"VGG-16 cannot be had .*vgg16-397923af.pth.*--perceptual-weight 0") as error:
        load_perceptual(torch.device("cpu"))
    assert len(str(error.value).splitlines()) == 1


def test_lpips_is_asked_for_vgg_and_averaged(monkeypatch):
    class Network(nn.Module):
        def __init__(self, **settings):
            super().__init__()
            self.settings, self.weight = settings, nn.Parameter(torch.ones(()))

        def forward(self, images, others):
            assert (self.settings, self.training) == ({"net": "vgg", "verbose": False}, False)
            return self.weight * (images - others).abs().flatten(1).mean(1).view(-1, 1, 1, 1)

    monkeypatch.setitem(sys.modules, "lpips", module := ModuleType("lpips"))
    module.LPIPS = Network
    made = random(2, 3, 4, 4, seed=1).requires_grad_()
    found = load_perceptual(torch.device("cpu"))(random(2, 3, 4, 4), made)
    assert found.item() == pytest.approx((random(2, 3, 4, 4) - made).abs().mean().item())
    found.backward()
    assert made.grad.abs().sum() > 0
