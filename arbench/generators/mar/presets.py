"""The named MAR models: those of the paper's Tables 3 and 4, the masked cells of its Table 1, and the digits' own.

Guidance: MAR's repository.
"""

from __future__ import annotations

from typing import Any

from arbench.generators.common.presets import (
    DIGITS_SHAPE,
    KL16_CHANNELS,
    MAR,
    TABLE1_CODES,
    TABLE1_LATENTS,
    published,
    table1_preset,
)
from arbench.generators.spec import DIGITS, Preset

# preset, width, depth and heads of encoder and of decoder, head depth, head width, guidance, FID, IS, source
TABLE = (
    ("mar-b",       768, 12, 12,  6, 1024, 2.9, 2.31, 281.7, "Table 4"),
    ("mar-l",      1024, 16, 16,  8, 1280, 3.0, 1.78, 296.0, "Table 4"),
    ("mar-h",      1280, 20, 16, 12, 1536, 3.2, 1.55, 303.7, "Table 4"),
    # Head widths of Table 3; the guidance that gave these values is not printed, MAR-L's stands in.
    ("mar-l-w256", 1024, 16, 16,  3,  256, 3.0, 2.45, 274.0, "Table 3"),
    ("mar-l-w512", 1024, 16, 16,  3,  512, 3.0, 2.11, 281.0, "Table 3"),
    ("mar-l-w1024", 1024, 16, 16, 3, 1024, 3.0, 1.97, 291.2, "Table 3"),
    ("mar-l-w1536", 1024, 16, 16, 3, 1536, 3.0, 1.91, 289.3, "Table 3"),
)  # fmt: skip
RELEASED = ("mar-b", "mar-l", "mar-h")

# The masked cells of Table 1: preset, head, iterations, FID, IS
TABLE1 = (
    ("mar-l-one-ce", TABLE1_CODES,   256, 3.50, 280.9),
    ("mar-l-one",    TABLE1_LATENTS, 256, 1.84, 292.7),
    ("mar-l-ce",     TABLE1_CODES,   64,  3.69, 278.4),
    ("mar-l-many",   TABLE1_LATENTS, 64,  1.98, 290.3),
)  # fmt: skip

# A short training does not carry over from mostly hidden images to mostly known ones, which the last iterations need:
# so more of them are shown than MAR's 30 % (its normal of deviation 0.25 down to a ratio of 0.7).
DIGITS_MASKS = {"mask_ratio_deviation": 0.5, "min_mask_ratio": 0.02}
DIGITS_HEAD = {"channels": 4, "head_depth": 3, "head_width": 96}


def both(width: int, depth: int, heads: int) -> dict[str, Any]:
    """The same size for encoder and decoder."""
    sizes = {"width": width, "depth": depth, "heads": heads}
    return {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in sizes.items()}


def _preset(
    name: str,
    width: int,
    depth: int,
    heads: int,
    head_depth: int,
    head_width: int,
    scale: float,
    fid: float,
    score: float,
    place: str,
) -> Preset:
    config = {**both(width, depth, heads), "head_depth": head_depth, "head_width": head_width}
    return Preset(
        name=name,
        method="mar",
        config={**config, "channels": KL16_CHANNELS},
        tokenizer="kl16",
        image_size=256,
        # The tables are of 256 iterations (appendix B); the release's own default is 64.
        sampling={"num_iter": 256, "cfg_scale": scale, "cfg_schedule": "linear", "head_steps": 100},
        weights=name if name in RELEASED else None,
        published=published(fid, score, MAR, place),
    )


PRESETS = (
    Preset(
        name="mar-digits",
        method="mar",
        config={**both(96, 3, 3), "buffer_size": 8, **DIGITS_SHAPE, **DIGITS_HEAD, **DIGITS_MASKS},
        tokenizer="digits-kl",
        image_size=32,
        sampling={"num_iter": 8, "cfg_scale": 2.0, "head_steps": 15, "head_sampler": "ddpm-trimmed"},
        shipped=True,
        data=DIGITS,
    ),
    *(_preset(*row) for row in TABLE),
    *(
        table1_preset(name, "mar", both(1024, 16, 16), head, fid, score, num_iter=num_iter)
        for name, head, num_iter, fid, score in TABLE1
    ),
)
