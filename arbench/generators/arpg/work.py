"""Operations of a step of ARPG's two passes, and the memory of an image."""

from __future__ import annotations

from arbench.generators.common.layers import swiglu_width
from arbench.generators.common.work import (
    ROWS,
    activation_bytes,
    logit_bytes,
    num_tokens,
    pair_weights,
    rotaries_bytes,
)
from arbench.heads.work import item_size
from arbench.machine.work import PlannedStep, Work
from arbench.protocols import Generator


def two_pass_work(generator: Generator, step: PlannedStep, batch_size: int) -> Work:
    """What was drawn last goes through the first pass; the wanted tokens go through the second.

    Without a cache the first pass runs over the whole sequence so far. The keys and values that all blocks of the
    second pass share count as read once.
    """
    config, item, rows = generator.config, item_size(generator), batch_size * step.rows
    width, blocks = config.width, config.depth // 2
    feed_forward = 3 * width * swiglu_width(width)
    first = blocks * (4 * width**2 + feed_forward) + 2 * width**2  # and the shared keys and values
    second = blocks * (2 * width**2 + feed_forward)
    length = 1 + step.known  # the class token too
    fed = (step.drawn_before or 1) if config.kv_cache else length
    attention = 4 * blocks * width * length
    flops = rows * (fed * (2 * first + attention) + step.size * (2 * second + attention))
    cached = rows * (blocks + 1) * 2 * width * (length + fed) if config.kv_cache else 0
    return Work(flops=flops, bytes=(first + second + cached) * item)


def two_pass_memory(generator: Generator) -> int:
    """Bytes an image takes: activations, the keys and values of both passes, and the logits of all tokens at once."""
    config, tokens = generator.config, num_tokens(generator)
    layers = config.depth // 2 + 1 if config.kv_cache else 1
    key_value_cache = ROWS * 2 * layers * tokens * config.width * item_size(generator)
    return activation_bytes(generator, tokens, config.width) + key_value_cache + tokens * logit_bytes(generator)


def two_pass_static_memory(generator: Generator) -> int:
    """Bytes that a static state keeps beside weights and caches: joined projections of queries, keys and values, those
    that both passes share too, joined w1 and w3, and rotary entries."""
    config, blocks = generator.config, generator.config.depth // 2
    if not config.kv_cache:
        return 0
    joined = blocks * (3 * config.width**2 + 2 * pair_weights(config.width)) + 2 * config.width**2
    return joined * item_size(generator) + rotaries_bytes(generator)
