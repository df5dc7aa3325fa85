"""Operations of transformer backbones, and the memory that an image takes while it is drawn.

Operations are two for each multiply-add; bytes are weights once and the filled part of the KV cache (see
`arbench.runs.roofline`).
"""

from __future__ import annotations

import torch

from arbench.generators.common.layers import padded_head, swiglu_width
from arbench.heads.work import item_size
from arbench.machine.precision import precision_of
from arbench.machine.work import PlannedStep, Work
from arbench.protocols import Generator

# Live activations of one transformer block in floats per token and unit of width: residual, normalised input,
# fused q k v, attention output, and an MLP four times as wide.
BLOCK_FLOATS = 16
# What training keeps of a block for its backward pass, in bytes a token and unit of width, attention matrices never:
# the residual stream twice in float32; normalised inputs, q k v, attention output, and both layers of the MLP with what
# dropout left of them, two bytes each under bfloat16 and four without. Recomputed blocks keep their input.
KEPT_BYTES = {True: 42, False: 76}
INPUT_BYTES = 4
# Of a block of a diffusion head, a row and unit of width: its input and its gate in float32, shift and scale, what is
# modulated, both layers of the MLP.
HEAD_KEPT_BYTES = {True: 30, False: 48}
LOGIT_BYTES = 10  # a code: the logits in bfloat16, again in float32, and their gradient
ROWS = 2  # sequences an image under guidance
INDEX_BYTES = 8


def causal_work(generator: Generator, step: PlannedStep, batch_size: int) -> Work:
    """One step of the GPT: as many places are fed as tokens are drawn, and look at the cache and each other.

    Without a cache the whole sequence so far is fed, all of it looking at all of it.
    """
    config, item = generator.config, item_size(generator)
    width, depth, rows = config.width, config.depth, batch_size * step.rows
    weights = depth * (4 * width**2 + 3 * width * swiglu_width(width))
    length = step.known + step.size
    fed, embedded = (step.size, step.drawn_before) if config.kv_cache else (length, step.known)
    flops = rows * fed * (2 * weights + 4 * depth * width * length)
    embedding = embedded_channels(generator) * width
    flops += batch_size * embedded * 2 * embedding
    cached = rows * depth * 2 * width * (length + step.size) if config.kv_cache else 0
    return Work(flops=flops, bytes=(weights + embedding + cached) * item)


def causal_memory(generator: Generator) -> int:
    """Bytes an image takes in a GPT: activations, keys and values, logits."""
    config, tokens = generator.config, num_tokens(generator)
    cached = config.depth if config.kv_cache else 0  # layers
    channels = config.heads * padded_head(config.width // config.heads)  # as in graphs, which take no less
    key_value_cache = ROWS * 2 * cached * tokens * channels * item_size(generator)
    return activation_bytes(generator, tokens, config.width) + key_value_cache + logit_bytes(generator)


def causal_static_memory(generator: Generator) -> int:
    """Bytes that a static state of the GPT keeps beside weights and cache: joined w1 and w3 of each layer, rotary
    entries, the table of masks, and places: one a token, where the cache ends, what is known."""
    config, tokens = generator.config, num_tokens(generator)
    if not config.kv_cache:
        return 0
    joined = config.depth * pair_weights(config.width)
    return (joined + tokens**2) * item_size(generator) + rotaries_bytes(generator) + (tokens + 2) * INDEX_BYTES


def pair_weights(width: int) -> int:
    """Weights of w1 and w3 of one SwiGLU."""
    return 2 * width * swiglu_width(width)


def rotaries_bytes(generator: Generator) -> int:
    """Rotary entries of queries, keys and values at every place and the class token's, in float32 at least."""
    config, dtype = generator.config, torch.promote_types(precision_of(generator).kept, torch.float32)
    return 3 * (1 + num_tokens(generator)) * (config.width // config.heads) * dtype.itemsize


def block_flops(width: int, queries: int, keys: int) -> float:
    """One ViT block whose output is wanted at `queries` of `keys` places, for one sequence."""
    projections = 2 * width**2 * (2 * queries + 2 * keys)  # query and output; key and value
    return projections + 16 * width**2 * queries + 4 * width * queries * keys


def activation_bytes(generator: Generator, length: int, width: int) -> int:
    """Activations of one block over sequences of `length` tokens, of one image."""
    return ROWS * BLOCK_FLOATS * length * width * item_size(generator)


def logit_bytes(generator: Generator) -> int:
    """Logits of one token in float32, of one image: raw, guided, sorted for top-k; none of a continuous token."""
    codes = generator.config.vocab_size if generator.kind == "discrete" else 0
    return 3 * ROWS * 4 * codes


def embedded_channels(generator: Generator) -> int:
    """Channels of a continuous token that goes in; 0 for codes, whose embedding is a look-up."""
    config = generator.config
    return 0 if config.head == "categorical" else config.channels * config.patch_size**2


def num_tokens(generator: Generator) -> int:
    """Tokens of an image."""
    return generator.grid[0] * generator.grid[1]


def kept_bytes(values: int, blocks: int, bfloat16: bool, recomputed: bool) -> int:
    """What training keeps of `blocks` alike, each of so many tokens times width; of recomputed ones one at a time."""
    if not recomputed:
        return blocks * values * KEPT_BYTES[bfloat16]
    return values * (blocks * INPUT_BYTES + KEPT_BYTES[bfloat16])


def causal_training_memory(generator: Generator, bfloat16: bool, recomputed: bool) -> int:
    """Bytes that training a GPT keeps of an image, about."""
    config, tokens = generator.config, num_tokens(generator)
    blocks = kept_bytes(tokens * config.width, config.depth, bfloat16, recomputed)
    return blocks + head_kept_bytes(generator, tokens, bfloat16)


def head_kept_bytes(generator: Generator, tokens: int, bfloat16: bool) -> int:
    """What training keeps of the head over so many tokens of an image: logits, or a diffusion head's blocks."""
    config = generator.config
    if generator.kind == "discrete":
        return LOGIT_BYTES * tokens * config.vocab_size
    rows = tokens * config.diffusion_batch_mul
    return rows * config.head_width * config.head_depth * HEAD_KEPT_BYTES[bfloat16]
