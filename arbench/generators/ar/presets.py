"""The named AR models: LlamaGen's sizes, those of MAR's Table 1, and the one of the digits.

Guidance: LlamaGen, Tables 8 to 10.
"""

from __future__ import annotations

from arbench.generators.common.presets import (
    DIGITS_GPT,
    LLAMAGEN,
    TABLE1_CODES,
    TABLE1_LATENTS,
    gpt_config,
    published,
    table1_preset,
)
from arbench.generators.common.recipe import MAR_RECIPE
from arbench.generators.spec import DIGITS, Preset

# preset, size, pixels, guidance, FID, IS, source in arXiv:2406.06525 (300 epochs)
TABLE = (
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
RELEASED = ("ar-b", "ar-l", "ar-l-384", "ar-xl-384", "ar-xxl-384", "ar-3b-384")

# The causal cells of MAR's Table 1, trained as MAR is: preset, order, head, FID, IS
TABLE1_GPT = {"width": 1024, "depth": 32, "heads": 16, "grid": 16}
TABLE1 = (
    ("ar-l-ce",         "raster", TABLE1_CODES,   4.92, 227.3),
    ("ar-l-diff",       "raster", TABLE1_LATENTS, 4.69, 244.6),
    ("mar-l-causal-ce", "random", TABLE1_CODES,   4.36, 222.7),
    ("mar-l-causal",    "random", TABLE1_LATENTS, 4.07, 232.4),
)  # fmt: skip


def _preset(
    name: str, size: str, pixels: int, scale: float, fid: float | None, score: float | None, place: str | None
) -> Preset:
    return Preset(
        name=name,
        method="ar",
        config=gpt_config(size, pixels),
        tokenizer="llamagen-vq",
        image_size=pixels,
        evaluated_at=256,
        sampling={"cfg_scale": scale},
        weights=name if name in RELEASED else None,
        published=published(fid, score, LLAMAGEN, place),
    )


PRESETS = (
    Preset(
        name="ar-digits",
        method="ar",
        config=DIGITS_GPT,
        tokenizer="digits-vq",
        image_size=32,
        sampling={"cfg_scale": 1.5},
        shipped=True,
        data=DIGITS,
    ),
    *(_preset(*row) for row in TABLE),
    *(
        table1_preset(name, "ar", {**TABLE1_GPT, "order": order}, head, fid, score, recipe=MAR_RECIPE)
        for name, order, head, fid, score in TABLE1
    ),
)
