"""DiT: the diffusion transformer against itself written plainly, and through the parts that every generator shares."""

import math

import pytest
import torch
from conftest import relative_error
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from arbench.generators.common.layers import grid_sinusoids
from arbench.generators.common.tokens import patchify
from arbench.generators.dit.config import DiTConfig, JointSampling
from arbench.generators.dit.model import DiT
from arbench.heads.diffusion import time_embedding
from arbench.heads.schedule import Diffusion
from arbench.runs.roofline import roofline
from arbench.sampling.algorithm import generate
from arbench.sampling.noise import FixedNoise
from arbench.settings import make_settings
from arbench.weights.load import load_generator

TINY = {"width": 32, "depth": 2, "heads": 2, "num_classes": 5, "grid": 4, "channels": 3}


def make_dit(**changes):
    torch.manual_seed(0)
    model = DiT(DiTConfig(**(TINY | changes)))
    for parameter in model.parameters():  # zero-initialised layers would hide what they do
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def plain_prediction(model, x, t, label):
    """The network written out for one image: (N, C) -> (N, 2C)."""
    net, width = model.joint.net, model.config.width
    embedded = time_embedding(torch.tensor([t]))[0].to(x.dtype)
    first, _, second = net.t_embedder.mlp
    context = second(F.silu(first(embedded))) + model.y_embedder.weight[label]
    h = net.x_embedder(x) + grid_sinusoids(model.grid, width).to(x.dtype)
    for block in net.blocks:
        parts = block.adaLN_modulation[1](F.silu(context)).chunk(6)
        normed = F.layer_norm(h, (width,), eps=1e-6) * (1 + parts[1]) + parts[0]
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(0, 1) for part in block.attn.qkv(normed).chunk(3, dim=-1))
        weights = (q @ k.transpose(1, 2) / math.sqrt(width // 2)).softmax(-1)
        h = h + parts[2] * block.attn.proj((weights @ v).transpose(0, 1).flatten(1))
        normed = F.layer_norm(h, (width,), eps=1e-6) * (1 + parts[4]) + parts[3]
        h = h + parts[5] * block.mlp.fc2(F.gelu(block.mlp.fc1(normed)))
    shift, scale = net.final_layer.adaLN_modulation[1](F.silu(context)).chunk(2)
    return net.final_layer.linear(F.layer_norm(h, (width,), eps=1e-6) * (1 + scale) + shift)


def test_a_generation_equals_the_plain_algorithm():
    """Ancestral sampling written from the posterior's formulas, guidance on the noise, in float64."""
    model, steps, labels, guidance = make_dit().double(), 5, [1, 4], 2.5
    noise = torch.randn(1 + steps, 2, 16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = generate(
        model, labels, noise=FixedNoise(gaussian=noise), cfg_scale=guidance, head_steps=steps, temperature=0.9
    )
    process, images = Diffusion.cosine(steps), []
    for image, label in enumerate(labels):
        x = noise[0, image]
        for step, index in enumerate(reversed(range(steps))):
            eps, variance = plain_prediction(model, x, int(process.timesteps[index]), label).chunk(2, dim=-1)
            unguided = plain_prediction(model, x, int(process.timesteps[index]), 5).chunk(2, dim=-1)[0]
            eps = unguided + guidance * (eps - unguided)
            kept = float(process.alpha_bar[index])
            start = (x - math.sqrt(1 - kept) * eps) / math.sqrt(kept)
            x_next = float(process.mean_from_start[index]) * start + float(process.mean_from_noisy[index]) * x
            if index:
                low, high = float(process.posterior_log_variance[index]), float(process.log_betas[index])
                log_variance = low + (variance + 1) / 2 * (high - low)
                x_next = x_next + 0.9 * torch.exp(0.5 * log_variance) * noise[1 + step, image]
            x = x_next
        images.append(x.T.reshape(3, 4, 4))
    assert found.dtype == torch.float64
    assert relative_error(found, torch.stack(images)) < 1e-9  # float64, sums in another order


def test_loss_trains_every_weight_and_draws_are_of_the_images_alone():
    model = make_dit(patch_size=2).train()
    latents, labels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 2])
    loss = model.loss(latents, labels, rng=torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters())
    model.double()
    together = generate(model, labels, seed=3, head_steps=4, cfg_scale=2.0)
    alone = generate(model, labels[2:], seed=3, image_ids=[2], head_steps=4, cfg_scale=2.0)
    assert together.shape == latents.shape
    assert relative_error(together[2:], alone) < 1e-9  # float64: batches of other sizes sum in another order
    assert patchify(together, 2).shape == (3, 16, 12)


def test_settings_that_mean_nothing_to_it_are_refused():
    for setting in ({"cfg_schedule": "linear"}, {"cfg_interval": 3}, {"head_sampler": "disa"}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            JointSampling(**setting)
    with pytest.raises(ValueError, match="num_iter"):
        generate(make_dit(), [0], num_iter=4)


def test_operations_equal_those_that_torch_counts():
    model, sampling = make_dit().requires_grad_(False), {"head_steps": 4, "cfg_scale": 2.0}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        generate(model, [0, 1], **sampling)
    bound = roofline(model, make_settings(JointSampling, sampling), batch_size=2)
    assert bound.flops_per_image * 2 == counter.get_total_flops()


def test_a_file_tells_its_shape(tmp_path):
    from safetensors.torch import save_file

    model = make_dit()
    save_file(model.state_dict(), tmp_path / "dit.safetensors")
    loaded = load_generator("dit", weights=tmp_path / "dit.safetensors", heads=2, grid=4)
    assert loaded.config == model.config
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(ValueError, match="holds dit weights, not mar"):
        load_generator("mar", weights=tmp_path / "dit.safetensors")
