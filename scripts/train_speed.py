#!/usr/bin/env python3
"""Images a second and MFU of training, one JSON line a model: real steps on random tokens, nothing to be fetched.

    python scripts/train_speed.py --model mar-l ar-l --batch-size 64 [--device cuda] [--steps 20] [--no-compile]

Published: MAR-L 143 images/s a H100 at batch 64 from images, 254 at batch 128 from cached latents.
"""

from __future__ import annotations

import argparse
import gc
import json

from arbench.machine.hardware import resolve_device
from arbench.training.engine import Engine
from arbench.training.speed import train_speed


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", required=True)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--dtype", help="the recipe's where it is left out")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="the recipe's where it is left out")
    parser.add_argument("--recompute", action="store_true")
    given = parser.parse_args(words)
    engine = Engine(recompute=given.recompute, compile=given.compile)
    for model in given.model:
        told = train_speed(
            model,
            batch_size=given.batch_size,
            device=resolve_device(given.device),
            steps=given.steps,
            warm_up=given.warm_up,
            engine=engine,
            dtype=given.dtype,
        )
        print(json.dumps(told), flush=True)
        gc.collect()  # of a model that refers to itself


if __name__ == "__main__":
    main()
