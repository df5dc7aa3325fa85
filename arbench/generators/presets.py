"""Every named generator as one table: shape, tokenizer, the paper's sampling settings, published FID and IS.

Shapes: LlamaGen (arXiv:2406.06525, Table 1), PAR (arXiv:2412.15119, Table 1), MAR (arXiv:2406.11838, section 4.1).
Guidance: MAR's and PAR's repositories; LlamaGen, Tables 8 to 10. Published are FID-50k and IS on ImageNet 256 px.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from arbench.registry import unknown_name


@dataclass(frozen=True, kw_only=True)
class Published:
    """A paper's FID-50k and IS for a preset at its sampling settings, with the place where they stand."""

    fid: float
    inception_score: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named generator. `config` are fields of the method's configuration, `sampling` its default settings."""

    name: str
    method: str
    config: Mapping[str, Any]
    tokenizer: str
    image_size: int
    sampling: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None  # name of its weights card
    shipped: bool = False  # whether its weights travel with the package
    published: Published | None = None
    evaluated_at: int | None = None  # side to which images are brought before evaluation, where it differs


def _both(width: int, depth: int, heads: int) -> dict[str, Any]:
    """The same size for encoder and decoder."""
    sizes = {"width": width, "depth": depth, "heads": heads}
    return {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in sizes.items()}


DIGITS = {"num_classes": 10, "grid": 8}
DIGITS_GPT = {"width": 96, "depth": 5, "heads": 3, "vocab_size": 256, **DIGITS}
DIGITS_MASKED = {**_both(96, 3, 3), "buffer_size": 8, **DIGITS}
# A short training does not carry over from mostly hidden images to mostly known ones, which the last iterations need:
# so more of them are shown than MAR's 30 % (its normal of deviation 0.25 down to a ratio of 0.7).
DIGITS_MASKS = {"mask_ratio_deviation": 0.5, "min_mask_ratio": 0.02}
DIGITS_HEAD = {"channels": 4, "head_depth": 3, "head_width": 96}

DIGITS_PRESETS = (
    Preset(
        name="ar-digits",
        method="ar",
        config=DIGITS_GPT,
        tokenizer="digits-vq",
        image_size=32,
        sampling={"cfg_scale": 1.5},
        shipped=True,
    ),
    Preset(
        name="par-digits",
        method="par",
        config={**DIGITS_GPT, "parallel": 4},
        tokenizer="digits-vq",
        image_size=32,
        sampling={"cfg_scale": 1.5},
        shipped=True,
    ),
    Preset(
        name="mar-digits",
        method="mar",
        config={**DIGITS_MASKED, **DIGITS_HEAD, **DIGITS_MASKS},
        tokenizer="digits-kl",
        image_size=32,
        sampling={"num_iter": 8, "cfg_scale": 2.0, "head_steps": 15, "head_sampler": "ddpm-trimmed"},
        shipped=True,
    ),
    Preset(
        name="dit-digits",
        method="dit",
        config={"width": 96, "depth": 6, "heads": 3, "channels": 4, **DIGITS},
        tokenizer="digits-kl",
        image_size=32,
        sampling={"cfg_scale": 1.25, "head_steps": 50, "head_sampler": "ddpm-trimmed"},
        shipped=True,
    ),
)

# name, width, depth, heads: LlamaGen and PAR
GPT_SIZES = {
    "b":   ( 768, 12, 12),
    "l":   (1024, 24, 16),
    "xl":  (1280, 36, 20),
    "xxl": (1536, 48, 24),
    "3b":  (3200, 24, 32),
}  # fmt: skip

# preset, size, pixels, guidance, FID, IS, source in arXiv:2406.06525 (300 epochs)
AR_TABLE = (
    ("ar-b",       "b",   256, 2.00, 5.464, 193.613, "Table 8"),
    ("ar-l",       "l",   256, 2.00, 4.407, 288.170, "Table 8"),
    ("ar-xl",      "xl",  256, 1.75, None,  None,    None),  # Table 8 has it after 50 epochs only: 3.391
    ("ar-xxl",     "xxl", 256, 1.75, None,  None,    None),  # after 50 epochs: 3.094
    ("ar-3b",      "3b",  256, 1.65, None,  None,    None),  # after 50 epochs, guidance 1.75: 3.063
    ("ar-b-384",   "b",   384, 2.00, 6.437, 157.173, "Table 9"),
    ("ar-l-384",   "l",   384, 2.00, 3.075, 256.067, "Table 9"),
    ("ar-xl-384",  "xl",  384, 1.75, 2.629, 244.085, "Table 10"),
    ("ar-xxl-384", "xxl", 384, 1.75, 2.340, 253.906, "Table 10"),
    ("ar-3b-384",  "3b",  384, 1.65, 2.189, 263.334, "Table 10"),
)  # fmt: skip

# preset, size, n, guidance, FID, IS, source in arXiv:2412.15119; all 384 px
PAR_TABLE = (
    ("par-b-4x",    "b",    4, 1.600, None, None,  None),  # not in the paper; guidance as PAR-L-4x
    ("par-l-4x",    "l",    4, 1.600, 3.76, 218.9, "Table 2"),
    ("par-xl-4x",   "xl",   4, 1.500, 2.61, 259.2, "Table 2"),
    ("par-xxl-4x",  "xxl",  4, 1.435, 2.35, 263.2, "Table 2"),
    ("par-3b-4x",   "3b",   4, 1.345, 2.29, 255.5, "Table 2"),
    ("par-xxl-16x", "xxl", 16, 1.500, 3.02, 270.6, "Table 2"),  # guidance not printed; as PAR-3B-16x
    ("par-3b-16x",  "3b",  16, 1.500, 2.88, 262.5, "Table 2"),
)  # fmt: skip

# preset, width, depth and heads of encoder and of decoder, head depth, head width, guidance, FID, IS, source
MAR_TABLE = (
    ("mar-b",       768, 12, 12,  6, 1024, 2.9, 2.31, 281.7, "Table 4"),
    ("mar-l",      1024, 16, 16,  8, 1280, 3.0, 1.78, 296.0, "Table 4"),
    ("mar-h",      1280, 20, 16, 12, 1536, 3.2, 1.55, 303.7, "Table 4"),
    # Head widths of Table 3; the guidance that gave these values is not printed, MAR-L's stands in.
    ("mar-l-w256", 1024, 16, 16,  3,  256, 3.0, 2.45, 274.0, "Table 3"),
    ("mar-l-w512", 1024, 16, 16,  3,  512, 3.0, 2.11, 281.0, "Table 3"),
    ("mar-l-w1024", 1024, 16, 16, 3, 1024, 3.0, 1.97, 291.2, "Table 3"),
    ("mar-l-w1536", 1024, 16, 16, 3, 1536, 3.0, 1.91, 289.3, "Table 3"),
)  # fmt: skip

# Presets whose weights were released; the others are in the papers' tables, or close a row of sizes.
RELEASED = {
    *("ar-b", "ar-l", "ar-l-384", "ar-xl-384", "ar-xxl-384", "ar-3b-384"),
    *("par-xl-4x", "par-xxl-4x", "par-3b-4x", "par-3b-16x"),
    *("mar-b", "mar-l", "mar-h"),
}

MAR_CHANNELS = 16  # KL-16 latents
NUM_CODES = 16384  # VQ-16 and LlamaGen VQ


def _published(fid: float | None, inception_score: float | None, paper: str, place: str | None) -> Published | None:
    if fid is None or inception_score is None:
        return None
    return Published(fid=fid, inception_score=inception_score, source=f"{paper}, {place}")


def _gpt(size: str, image_size: int) -> dict[str, Any]:
    width, depth, heads = GPT_SIZES[size]
    return {"width": width, "depth": depth, "heads": heads, "grid": image_size // 16, "vocab_size": NUM_CODES}


def _ar(name: str, size: str, pixels: int, scale: float, fid: Any, score: Any, place: str | None) -> Preset:
    return Preset(
        name=name,
        method="ar",
        config=_gpt(size, pixels),
        tokenizer="llamagen-vq",
        image_size=pixels,
        evaluated_at=256,
        sampling={"cfg_scale": scale},
        weights=name if name in RELEASED else None,
        published=_published(fid, score, "arXiv:2406.06525", place),
    )


def _par(name: str, size: str, parallel: int, scale: float, fid: Any, score: Any, place: str | None) -> Preset:
    return Preset(
        name=name,
        method="par",
        config={**_gpt(size, 384), "parallel": parallel},
        tokenizer="llamagen-vq",
        image_size=384,
        evaluated_at=256,
        sampling={"cfg_scale": scale},
        weights=name if name in RELEASED else None,
        published=_published(fid, score, "arXiv:2412.15119", place),
    )


def _mar(
    name: str,
    width: int,
    depth: int,
    heads: int,
    head_depth: int,
    head_width: int,
    scale: float,
    fid: Any,
    score: Any,
    place: str,
) -> Preset:
    config = {**_both(width, depth, heads), "head_depth": head_depth, "head_width": head_width}
    return Preset(
        name=name,
        method="mar",
        config={**config, "channels": MAR_CHANNELS},
        tokenizer="kl16",
        image_size=256,
        # The tables are of 256 iterations (appendix B); the release's own default is 64.
        sampling={"num_iter": 256, "cfg_scale": scale, "cfg_schedule": "linear", "head_steps": 100},
        weights=name if name in RELEASED else None,
        published=_published(fid, score, "arXiv:2406.11838", place),
    )


# The cells of MAR's Table 1 (about 400 M parameters, 3 blocks of width 1024 in the diffusion head); the guidance that
# gave the published values is not printed, so the scale is MAR-L's. No weights were released.
_TABLE1_GPT = {"width": 1024, "depth": 32, "heads": 16, "grid": 16}
_TABLE1_CODES = {"head": "categorical", "vocab_size": NUM_CODES}
_TABLE1_LATENTS = {"head": "diffusion", "channels": MAR_CHANNELS, "head_depth": 3, "head_width": 1024}
_TABLE1_MASKED = _both(1024, 16, 16)

# preset, method, backbone, order, head, iterations, FID, IS
TABLE1 = (
    ("ar-l-ce",        "ar",  _TABLE1_GPT,    "raster", _TABLE1_CODES,   None, 4.92, 227.3),
    ("ar-l-diff",      "ar",  _TABLE1_GPT,    "raster", _TABLE1_LATENTS, None, 4.69, 244.6),
    ("mar-l-causal-ce", "ar", _TABLE1_GPT,    "random", _TABLE1_CODES,   None, 4.36, 222.7),
    ("mar-l-causal",   "ar",  _TABLE1_GPT,    "random", _TABLE1_LATENTS, None, 4.07, 232.4),
    ("mar-l-one-ce",   "mar", _TABLE1_MASKED, None,     _TABLE1_CODES,   256,  3.50, 280.9),
    ("mar-l-one",      "mar", _TABLE1_MASKED, None,     _TABLE1_LATENTS, 256,  1.84, 292.7),
    ("mar-l-ce",       "mar", _TABLE1_MASKED, None,     _TABLE1_CODES,   64,   3.69, 278.4),
    ("mar-l-many",     "mar", _TABLE1_MASKED, None,     _TABLE1_LATENTS, 64,   1.98, 290.3),
)  # fmt: skip


def _table1(
    name: str,
    method: str,
    backbone: Mapping[str, Any],
    order: str | None,
    head: Mapping[str, Any],
    num_iter: int | None,
    fid: float,
    score: float,
) -> Preset:
    ordered = {} if order is None else {"order": order}
    iterations = {} if num_iter is None else {"num_iter": num_iter}
    return Preset(
        name=name,
        method=method,
        config={**backbone, **ordered, **head},
        tokenizer="kl16" if head["head"] == "diffusion" else "vq16",
        image_size=256,
        sampling={"cfg_scale": 3.0, "cfg_schedule": "linear", **iterations},
        published=_published(fid, score, "arXiv:2406.11838", "Table 1"),
    )


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        *DIGITS_PRESETS,
        *(_ar(*row) for row in AR_TABLE),
        *(_par(*row) for row in PAR_TABLE),
        *(_mar(*row) for row in MAR_TABLE),
        *(_table1(*row) for row in TABLE1),
    )
}


def get_preset(name: str) -> Preset:
    """The preset called `name`; an unknown name is a ValueError with the nearest one."""
    if name not in PRESETS:
        raise unknown_name("model", name, PRESETS)
    return PRESETS[name]
