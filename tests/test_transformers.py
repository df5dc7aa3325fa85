"""Features of FD-DINOv2 and CMMD: random weights against the transformer written out, and each dialect's resize."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from arbench.evaluation.extractors import as_network, load_extractor
from arbench.evaluation.metrics import evaluate
from arbench.evaluation.network_cards import NETWORK_CARDS
from arbench.evaluation.statistics import FrechetStatistics
from arbench.evaluation.transformers import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Clip,
    DinoV2Dgm,
    DinoV2Edm2,
    dino_positions,
)
from arbench.weights.cards import all_cards

WIDTH, DEPTH, OUT = 64, 2, 24


def state_of(shapes, seed=0, scale=0.2):
    rng = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def dino_state(width=WIDTH, depth=DEPTH):
    """In the names of the release, positions of 518 pixels among them."""
    shapes = {"cls_token": (1, 1, width), "mask_token": (1, width), "pos_embed": (1, 1 + 37**2, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,)}
    for block in range(depth):
        named = {
            "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
            "ls1.gamma": (width,), "ls2.gamma": (width,),
        }  # fmt: skip
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in named.items()}
    return state_of(shapes | {"norm.weight": (width,), "norm.bias": (width,)})


def attention(x, state, prefix):
    """One head of 64."""
    q, k, v = F.linear(x, state[f"{prefix}qkv.weight"], state[f"{prefix}qkv.bias"]).chunk(3, dim=-1)
    mixed = (q @ k.transpose(1, 2) / 8).softmax(dim=-1) @ v
    return F.linear(mixed, state[f"{prefix}proj.weight"], state[f"{prefix}proj.bias"])


def layer_norm(x, state, name, eps):
    return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps)


def dino_directly(pixels, state):
    """(B, 3, 224, 224) normalised to (B, WIDTH): the release's forward pass, written out."""
    x = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    x = torch.cat((state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)), dim=1)
    grid = state["pos_embed"][:, 1:].reshape(1, 37, 37, WIDTH).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    x = x + torch.cat((state["pos_embed"][:, :1], grid.permute(0, 2, 3, 1).reshape(1, 256, WIDTH)), dim=1)
    for block in range(DEPTH):
        at = f"blocks.{block}."
        x = x + state[f"{at}ls1.gamma"] * attention(layer_norm(x, state, f"{at}norm1", 1e-6), state, f"{at}attn.")
        h = layer_norm(x, state, f"{at}norm2", 1e-6)
        h = F.gelu(F.linear(h, state[f"{at}mlp.fc1.weight"], state[f"{at}mlp.fc1.bias"]))
        x = x + state[f"{at}ls2.gamma"] * F.linear(h, state[f"{at}mlp.fc2.weight"], state[f"{at}mlp.fc2.bias"])
    return layer_norm(x, state, "norm", 1e-6)[:, 0]


def pictures(count=3, side=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def standard(pixels, mean, std):
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def floats(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def as_edm2(images):
    return F.interpolate(floats(images), size=(224, 224), mode="bicubic", antialias=True) / 255


def as_dgm(images):
    resized = [np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)) for image in images]
    return floats(np.stack(resized)) / 255


@pytest.mark.parametrize(("kind", "resize"), [(DinoV2Edm2, as_edm2), (DinoV2Dgm, as_dgm)])
def test_dino_equals_its_forward_pass_written_out(kind, resize):
    state, images = dino_state(), pictures()
    found = as_network(kind(state, "0" * 64)).extract(images).features
    direct = dino_directly(standard(resize(images), IMAGENET_MEAN, IMAGENET_STD), state)
    assert found.dtype == np.float32
    assert found == pytest.approx(direct.numpy(), abs=1e-5)  # float32; the dialects differ by more


def test_the_dialects_differ_and_say_how():
    state, images = dino_state(), pictures()
    edm2, dgm = DinoV2Edm2(state, "0" * 64), DinoV2Dgm(state, "0" * 64)
    floating, whole = edm2.resized(images), dgm.resized(images)
    assert torch.equal(whole, whole.round().clamp(0, 255))
    assert not torch.equal(floating, floating.round())
    assert float(floating.max()) > 255  # bicubic overshoots, and is not clipped
    assert float((floating.clamp(0, 255) - whole).abs().mean()) < 1  # Pillow rounds and clips between its two passes
    assert (edm2.name, dgm.name) == ("dinov2-edm2", "dinov2-dgm")
    assert "floats" in edm2.resize
    assert "rounded to 256 levels" in dgm.resize


def test_both_dialects_in_one_pass_stand_apart_and_fd_is_that_of_their_features():
    images, reference = pictures(6, 16), pictures(7, 16, seed=1)
    networks = [kind(dino_state(), "0" * 64) for kind in (DinoV2Edm2, DinoV2Dgm)]
    scores = evaluate(images, reference, extractor=networks, metrics=["fid"])
    other = scores["other_extractors"]["dinov2-dgm"]
    assert scores["metric_protocol"]["resize"] != other["metric_protocol"]["resize"]
    for network, fid in zip(networks, (scores["fid"], other["metrics"]["fid"]), strict=True):
        ours, theirs = (FrechetStatistics.of(network.features(side)) for side in (images, reference))
        assert fid == pytest.approx(ours.distance(theirs), rel=1e-3)  # features in batches of 64


def clip_state():
    """In OpenAI's names, text aside."""
    shapes = {"visual.class_embedding": (WIDTH,), "visual.positional_embedding": (1 + 24**2, WIDTH)}
    shapes |= {"visual.conv1.weight": (WIDTH, 3, 14, 14), "visual.proj": (WIDTH, OUT), "logit_scale": ()}
    shapes |= {f"visual.{ln}.{kind}": (WIDTH,) for ln in ("ln_pre", "ln_post") for kind in ("weight", "bias")}
    for block in range(DEPTH):
        at = f"visual.transformer.resblocks.{block}."
        shapes |= {f"{at}{ln}.{kind}": (WIDTH,) for ln in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        shapes |= {f"{at}attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{at}attn.in_proj_bias": (3 * WIDTH,)}
        shapes |= {f"{at}attn.out_proj.weight": (WIDTH, WIDTH), f"{at}attn.out_proj.bias": (WIDTH,)}
        shapes |= {f"{at}mlp.c_fc.weight": (4 * WIDTH, WIDTH), f"{at}mlp.c_fc.bias": (4 * WIDTH,)}
        shapes |= {f"{at}mlp.c_proj.weight": (WIDTH, 4 * WIDTH), f"{at}mlp.c_proj.bias": (WIDTH,)}
    return state_of(shapes)


def test_clip_equals_openais_own_module():
    """The one that torch-fidelity carries."""
    from torch_fidelity.feature_extractor_clip import VisionTransformer

    state, images = clip_state(), pictures(2)
    original = VisionTransformer(
        input_resolution=336, patch_size=14, width=WIDTH, layers=DEPTH, heads=1, output_dim=OUT
    )
    original.load_state_dict({k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")})
    pixels = F.interpolate(floats(images) / 255, size=(336, 336), mode="bicubic")
    with torch.inference_mode():
        direct = original.eval()(standard(pixels, CLIP_MEAN, CLIP_STD))
    found = Clip(state, "0" * 64).features(images)
    assert found == pytest.approx((direct / direct.norm(dim=1, keepdim=True)).numpy(), abs=1e-5)  # float32
    assert found.norm(dim=1).numpy() == pytest.approx(1, abs=1e-6)


def test_clip_in_timms_names_is_the_same_network():
    """Those of the file that its card names."""
    named_by_openai = Clip(clip_state(), "0" * 64)
    state = named_by_openai._network.state_dict()
    assert "visual.proj" not in state
    assert "head.weight" in state
    assert torch.equal(Clip(state, "0" * 64).features(pictures(2)), named_by_openai.features(pictures(2)))


def test_positions_of_as_many_patches_keep_the_class():
    stored = dino_state()["pos_embed"]
    made = dino_positions(stored)
    assert made.shape == (1, 257, WIDTH)
    assert torch.equal(made[:, 0], stored[:, 0])


@pytest.mark.parametrize("name", ["dinov2-edm2", "dinov2-dgm", "clip-336"])
def test_without_weights_one_line_says_how_to_get_them(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ARBENCH_WEIGHTS", str(tmp_path))
    (card,) = (card for card in NETWORK_CARDS if name in card.loads)
    with pytest.raises(FileNotFoundError, match=f"extractor {name} are not on this machine; .* get {card.name}"):
        load_extractor(name)
    assert all_cards()[card.name].urls == (card.url,)


def test_a_network_of_another_size_or_kind_is_one_line(tmp_path):
    file = tmp_path / "small.safetensors"
    save_file(dino_state(), file)
    with pytest.raises(ValueError, match="a network of width 64; expected dinov2-edm2's ViT-L/14 of 1024"):
        load_extractor("dinov2-edm2", weights=file)
    with pytest.raises(ValueError, match="these are not weights of clip-336"):
        load_extractor("clip-336", weights=file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="no cls_token and pos_embed among 1 tensors"):
        load_extractor("dinov2-dgm", weights=file)


@pytest.mark.slow
def test_clip_at_full_size_is_timms_model(tmp_path, monkeypatch):
    """Random weights in the names and shapes of its card's file, 1.2 GB, found where the card says."""
    monkeypatch.setenv("ARBENCH_WEIGHTS", str(tmp_path))
    with torch.device("meta"):  # timm's own random start takes half a minute
        original = timm.create_model("vit_large_patch14_clip_quickgelu_336", num_classes=768).eval()
    state = state_of({name: value.shape for name, value in original.state_dict().items()}, scale=0.02)
    original.load_state_dict(state, assign=True)
    save_file(state, tmp_path / "clip_vitl14_336.safetensors")
    images = pictures(2)
    found = load_extractor("clip-336").extract(images).features
    pixels = F.interpolate(floats(images) / 255, size=(336, 336), mode="bicubic")
    with torch.inference_mode():
        direct = F.normalize(original(standard(pixels, CLIP_MEAN, CLIP_STD)), dim=1)
    assert found == pytest.approx(direct.numpy(), abs=1e-5)  # float32


@pytest.mark.slow
def test_the_full_size_is_read_from_its_file(tmp_path, monkeypatch):
    """Random weights in the release's names and shapes, 1.2 GB, found where its card says."""
    monkeypatch.setenv("ARBENCH_WEIGHTS", str(tmp_path))
    torch.save(dino_state(1024, 24), tmp_path / "dinov2_vitl14_pretrain.pth")
    found = load_extractor("dinov2-edm2").extract(pictures(2)).features
    assert found.shape == (2, 1024)
    assert np.isfinite(found).all()
