"""The named DiT: the one of the digits. No other was released in arbench's names."""

from __future__ import annotations

from arbench.generators.common.presets import DIGITS_SHAPE
from arbench.generators.spec import DIGITS, Preset

PRESETS = (
    Preset(
        name="dit-digits",
        method="dit",
        config={"width": 96, "depth": 6, "heads": 3, "channels": 4, **DIGITS_SHAPE},
        tokenizer="digits-kl",
        image_size=32,
        sampling={"cfg_scale": 1.25, "head_steps": 50, "head_sampler": "ddpm-trimmed"},
        shipped=True,
        data=DIGITS,
    ),
)
