"""The vision transformers whose features FD-DINOv2 and CMMD are of, through timm; found by entry point.

FD-DINOv2 has two dialects, which bring images to 224 pixels differently: that of EDM2 (arXiv:2312.02696) as floats,
that of dgm-eval (arXiv:2306.04675) as pictures of 256 levels. Each is an extractor of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional as F

from arbench.evaluation.files import one_line, read_state
from arbench.evaluation.network_cards import CLIP, DINOV2, card_file
from arbench.machine.files import file_sha256
from arbench.machine.hardware import exact_float32

PATCH = 14
HEAD_WIDTH = 64
LARGE = 1024  # width of ViT-L
DINO_SIZE, CLIP_SIZE = 224, 336
DINO_OFFSET = 0.1  # added to the grid when positions are interpolated, DINOv2 release
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class DinoV2:
    """DINOv2's class token after the last norm. `resized` is what the dialects differ in."""

    name = "dinov2"
    resize = ""

    def __init__(self, state: Mapping[str, Tensor], sha256: str, device: torch.device | str = "cpu") -> None:
        """From the release's state dict; ValueError where its names or shapes are not a DINOv2's."""
        self.sha256, self.device = sha256, torch.device(device)
        self._network = _dino(state, self.name).to(self.device)
        self.width = self._network.embed_dim

    @classmethod
    def load(cls, weights: Path | None, device: torch.device) -> DinoV2:
        """ValueError where the file is not of ViT-L/14, FileNotFoundError where it is not here."""
        file = weights or card_file(DINOV2, cls.name)
        made = cls(read_state(file), file_sha256(file), device)
        _require_large(made._network, cls.name, file)
        return made

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) to (B, width) float32."""
        pixels = normalised(self.resized(images) / 255, IMAGENET_MEAN, IMAGENET_STD)
        with exact_float32(self.device):
            return self._network(pixels.to(self.device))

    def resized(self, images: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) to float32 (B, 3, 224, 224), 0 to 255."""
        raise NotImplementedError


class DinoV2Edm2(DinoV2):
    """As EDM2 computes FD-DINOv2."""

    name = "dinov2-edm2"
    resize = "bicubic with antialias to 224, floats that are neither rounded nor clipped (EDM2)"

    def resized(self, images: np.ndarray) -> Tensor:
        """As `DinoV2.resized`; values may lie outside of 0 to 255 a little."""
        return F.interpolate(as_floats(images), size=(DINO_SIZE, DINO_SIZE), mode="bicubic", antialias=True)


class DinoV2Dgm(DinoV2):
    """As dgm-eval computes FD-DINOv2."""

    name = "dinov2-dgm"
    resize = "Pillow's bicubic with antialias to 224, rounded to 256 levels (dgm-eval)"

    def resized(self, images: np.ndarray) -> Tensor:
        """As `DinoV2.resized`; whole numbers."""
        size, bicubic = (DINO_SIZE, DINO_SIZE), Image.Resampling.BICUBIC
        made = [np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, bicubic)) for image in images]
        return as_floats(np.stack(made))


class Clip:
    """CLIP's image embedding of length 1, as CMMD takes it (arXiv:2401.09603)."""

    name = "clip-336"
    resize = "bicubic without antialias to 336, floats that are neither rounded nor clipped (CMMD)"

    def __init__(self, state: Mapping[str, Tensor], sha256: str, device: torch.device | str = "cpu") -> None:
        """From a state dict in timm's or OpenAI's names; ValueError where its names or shapes are not CLIP's."""
        self.sha256, self.device = sha256, torch.device(device)
        self._network = _clip(state, self.name).to(self.device)
        self.width = self._network.num_classes

    @classmethod
    def load(cls, weights: Path | None, device: torch.device) -> Clip:
        """ValueError where the file is not of ViT-L/14 at 336 pixels, FileNotFoundError where it is not here."""
        file = weights or card_file(CLIP, cls.name)
        made = cls(read_state(file), file_sha256(file), device)
        _require_large(made._network, cls.name, file)
        return made

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) to (B, width) float32 of length 1."""
        resized = F.interpolate(as_floats(images) / 255, size=(CLIP_SIZE, CLIP_SIZE), mode="bicubic")
        with exact_float32(self.device):
            embedded = self._network(normalised(resized, CLIP_MEAN, CLIP_STD).to(self.device))
        return F.normalize(embedded, dim=1)


def as_floats(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W), 0 to 255."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, 3, H, W) less the mean of each colour, over its deviation."""
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]


def dino_positions(stored: Tensor) -> Tensor:
    """Embeddings of the class and of a 37 × 37 grid (1, 1 + 1369, D) to those of 16 × 16, as the release makes them."""
    side, wanted = math.isqrt(stored.shape[1] - 1), DINO_SIZE // PATCH
    grid = stored[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = (wanted + DINO_OFFSET) / side
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    return torch.cat((stored[:, :1], grid.flatten(2).transpose(1, 2)), dim=1)


def _dino(state: Mapping[str, Tensor], name: str) -> VisionTransformer:
    held = {key: tensor.float() for key, tensor in state.items() if key != "mask_token"}  # of training alone
    width, depth = _shape(held, name)
    network = VisionTransformer(
        img_size=DINO_SIZE,
        patch_size=PATCH,
        embed_dim=width,
        depth=depth,
        num_heads=width // HEAD_WIDTH,
        init_values=1e-5,
        num_classes=0,
        global_pool="token",
    )
    return _filled(network, {**held, "pos_embed": dino_positions(held["pos_embed"])}, name)


def _clip(state: Mapping[str, Tensor], name: str) -> VisionTransformer:
    held = {key: tensor.float() for key, tensor in state.items()}
    is_openais = "visual.class_embedding" in held
    width, depth, embedded = _openais_shape(held, name) if is_openais else (*_shape(held, name), len(held["head.bias"]))
    network = VisionTransformer(
        img_size=CLIP_SIZE,
        patch_size=PATCH,
        embed_dim=width,
        depth=depth,
        num_heads=width // HEAD_WIDTH,
        pre_norm=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
        act_layer="quick_gelu",
        num_classes=embedded,
        global_pool="token",
    )
    return _filled(network, checkpoint_filter_fn(held, network) if is_openais else held, name)


def _openais_shape(state: Mapping[str, Tensor], name: str) -> tuple[int, int, int]:
    """Width, depth and width of the embedding in OpenAI's names. ValueError for another resolution or patch."""
    positions = len(state.get("visual.positional_embedding", ()))
    if positions != 1 + (CLIP_SIZE // PATCH) ** 2 or "visual.proj" not in state:
        raise ValueError(
            f"these are not weights of {name}: {positions} positions; expected those of {CLIP_SIZE} pixels"
        )
    blocks = {key.split(".")[3] for key in state if key.startswith("visual.transformer.resblocks.")}
    return len(state["visual.class_embedding"]), len(blocks), state["visual.proj"].shape[1]


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Width and depth. ValueError where a tensor is missing that tells them."""
    wanted = ["cls_token", "pos_embed", *(["head.bias"] if name == Clip.name else [])]
    missing = [key for key in wanted if key not in state]
    if missing:
        raise ValueError(f"these are not weights of {name}: no {' and '.join(missing)} among {len(state)} tensors")
    blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
    return state["cls_token"].shape[-1], len(blocks)


def _filled(network: VisionTransformer, state: Mapping[str, Tensor], name: str) -> VisionTransformer:
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(f"these are not weights of {name}: {one_line(error)}") from error
    return network.float().eval().requires_grad_(False)


def _require_large(network: VisionTransformer, name: str, file: Path) -> None:
    """ValueError for a network of another size, whose features are no such metric's."""
    if network.embed_dim != LARGE:
        raise ValueError(f"{file}: a network of width {network.embed_dim}; expected {name}'s ViT-L/14 of {LARGE}")
