"""The named ARPG models: the released sizes, and the one of the digits.

Shapes, guidance and values: README of the release (hp-l33/ARPG), at 64 steps along the cosine. It prints the scale of
guidance and not how that grows; linear is what scales as high as these are made for.
"""

from __future__ import annotations

from arbench.generators.common.presets import DIGITS_GPT, gpt_config, published
from arbench.generators.spec import DIGITS, Preset

README = "hp-l33/ARPG"

# preset, size, guidance, FID, IS
TABLE = (
    ("arpg-l",   "l",   4.5, 2.44, 292.0),
    ("arpg-xl",  "xl",  6.0, 2.10, 331.0),
    ("arpg-xxl", "xxl", 7.5, 1.94, 340.0),
)  # fmt: skip


def _preset(name: str, size: str, scale: float, fid: float, score: float) -> Preset:
    return Preset(
        name=name,
        method="arpg",
        config=gpt_config(size, 256),
        tokenizer="llamagen-vq",
        image_size=256,
        sampling={"num_iter": 64, "cfg_scale": scale, "cfg_schedule": "linear"},
        weights=name,
        published=published(fid, score, README, "README"),
    )


PRESETS = (
    Preset(
        name="arpg-digits",
        method="arpg",
        config={**DIGITS_GPT, "depth": 6, "sinusoids": True},
        tokenizer="digits-vq",
        image_size=32,
        sampling={"num_iter": 16, "cfg_scale": 1.5, "cfg_schedule": "constant"},
        shipped=True,
        data=DIGITS,
    ),
    *(_preset(*row) for row in TABLE),
)
