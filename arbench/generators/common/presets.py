"""What the presets of several methods share: sizes, codebooks, the digits, and the cells of MAR's Table 1.

Shapes: LlamaGen (arXiv:2406.06525, Table 1), PAR (arXiv:2412.15119, Table 1), MAR (arXiv:2406.11838, section 4.1).
Published are FID-50k and IS on ImageNet 256 px.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arbench.generators.common.recipe import MAR_EVALUATIONS
from arbench.generators.recipe import TrainConfig
from arbench.generators.spec import Preset, Published

NUM_CODES = 16384  # VQ-16 and LlamaGen VQ
KL16_CHANNELS = 16  # latents of KL-16
LLAMAGEN, PAR, MAR = "arXiv:2406.06525", "arXiv:2412.15119", "arXiv:2406.11838"

DIGITS_SHAPE = {"num_classes": 10, "grid": 8}
DIGITS_GPT = {"width": 96, "depth": 5, "heads": 3, "vocab_size": 256, **DIGITS_SHAPE}

# name, width, depth, heads: LlamaGen and PAR
GPT_SIZES = {
    "b":   ( 768, 12, 12),
    "l":   (1024, 24, 16),
    "xl":  (1280, 36, 20),
    "xxl": (1536, 48, 24),
    "3b":  (3200, 24, 32),
}  # fmt: skip

# The cells of MAR's Table 1 (about 400 M parameters, 3 blocks of width 1024 in the diffusion head); the guidance that
# gave the published values is not printed, so the scale is MAR-L's. No weights were released.
TABLE1_CODES = {"head": "categorical", "vocab_size": NUM_CODES}
TABLE1_LATENTS = {"head": "diffusion", "channels": KL16_CHANNELS, "head_depth": 3, "head_width": 1024}


def published(fid: float | None, inception_score: float | None, paper: str, place: str | None) -> Published | None:
    """The values of a table of a paper; None where it has none."""
    if fid is None or inception_score is None:
        return None
    return Published(fid=fid, inception_score=inception_score, source=f"{paper}, {place}")


def gpt_config(size: str, image_size: int) -> dict[str, Any]:
    """The configuration of a GPT over the codes of images of `image_size` pixels a side."""
    width, depth, heads = GPT_SIZES[size]
    return {"width": width, "depth": depth, "heads": heads, "grid": image_size // 16, "vocab_size": NUM_CODES}


def table1_preset(
    name: str,
    method: str,
    backbone: Mapping[str, Any],
    head: Mapping[str, Any],
    fid: float,
    inception_score: float,
    recipe: TrainConfig | None = None,
    **sampling: Any,
) -> Preset:
    """One cell of MAR's Table 1, trained by `recipe` where that is not its method's."""
    return Preset(
        name=name,
        method=method,
        config={**backbone, **head},
        tokenizer="kl16" if head["head"] == "diffusion" else "vq16",
        image_size=256,
        sampling={"cfg_scale": 3.0, "cfg_schedule": "linear", **sampling},
        published=published(fid, inception_score, MAR, "Table 1"),
        recipe=recipe,
        evaluations=MAR_EVALUATIONS,
    )
