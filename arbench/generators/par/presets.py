"""The named PAR models: those of the paper's Table 2, and those of the digits.

Guidance: PAR's repository.
"""

from __future__ import annotations

from arbench.generators.common.presets import DIGITS_GPT, PAR, gpt_config, published
from arbench.generators.spec import DIGITS, Preset

# preset, size, n, guidance, FID, IS, source in arXiv:2412.15119; all 384 px
TABLE = (
    ("par-b-4x",    "b",    4, 1.600, None, None,  None),  # not in the paper; guidance as PAR-L-4x
    ("par-l-4x",    "l",    4, 1.600, 3.76, 218.9, "Table 2"),
    ("par-xl-4x",   "xl",   4, 1.500, 2.61, 259.2, "Table 2"),
    ("par-xxl-4x",  "xxl",  4, 1.435, 2.35, 263.2, "Table 2"),
    ("par-3b-4x",   "3b",   4, 1.345, 2.29, 255.5, "Table 2"),
    ("par-xxl-16x", "xxl", 16, 1.500, 3.02, 270.6, "Table 2"),  # guidance not printed; as PAR-3B-16x
    ("par-3b-16x",  "3b",  16, 1.500, 2.88, 262.5, "Table 2"),
)  # fmt: skip
RELEASED = ("par-xl-4x", "par-xxl-4x", "par-3b-4x", "par-3b-16x")


def _preset(
    name: str, size: str, parallel: int, scale: float, fid: float | None, score: float | None, place: str | None
) -> Preset:
    return Preset(
        name=name,
        method="par",
        config={**gpt_config(size, 384), "parallel": parallel},
        tokenizer="llamagen-vq",
        image_size=384,
        evaluated_at=256,
        sampling={"cfg_scale": scale},
        weights=name if name in RELEASED else None,
        published=published(fid, score, PAR, place),
    )


PRESETS = (
    Preset(
        name="par-digits",
        method="par",
        config={**DIGITS_GPT, "parallel": 4},
        tokenizer="digits-vq",
        image_size=32,
        sampling={"cfg_scale": 1.5},
        shipped=True,
        data=DIGITS,
    ),
    # All tokens in four steps. With 16 single ones first, as the paper has it, this small grid would take 19 steps, as
    # many as four tokens a step do.
    Preset(
        name="par-digits-16x",
        method="par",
        config={**DIGITS_GPT, "parallel": 16, "sequential_start": False},
        tokenizer="digits-vq",
        image_size=32,
        sampling={"cfg_scale": 1.5},
        shipped=True,
        data=DIGITS,
    ),
    *(_preset(*row) for row in TABLE),
)
