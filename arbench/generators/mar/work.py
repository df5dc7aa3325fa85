"""Operations of an iteration of MAR's backbone, and the memory of an image."""

from __future__ import annotations

from arbench.generators.common.work import (
    activation_bytes,
    block_flops,
    embedded_channels,
    head_kept_bytes,
    kept_bytes,
    logit_bytes,
    num_tokens,
)
from arbench.heads.work import item_size
from arbench.machine.work import PlannedStep, Work
from arbench.protocols import Generator

MEAN_HIDDEN = 0.867  # share of the tokens, of the release's mask ratios


def masked_work(generator: Generator, step: PlannedStep, batch_size: int) -> Work:
    """One iteration of encoder and decoder; the decoder's last block computes the wanted places alone."""
    config, item = generator.config, item_size(generator)
    rows, inner, width = batch_size * step.rows, config.encoder_width, config.decoder_width
    seen, whole = config.buffer_size + step.known, config.buffer_size + step.total
    embedding, bridge = embedded_channels(generator) * inner, inner * width
    flops = step.known * 2 * embedding + seen * 2 * bridge
    flops += config.encoder_depth * block_flops(inner, seen, seen)
    flops += (config.decoder_depth - 1) * block_flops(width, whole, whole) + block_flops(width, step.size, whole)
    weights = 12 * (config.encoder_depth * inner**2 + config.decoder_depth * width**2) + embedding + bridge
    return Work(flops=rows * flops, bytes=weights * item)


def masked_memory(generator: Generator) -> int:
    """Bytes an image takes: activations of the wider part, and logits."""
    config = generator.config
    length, width = num_tokens(generator) + config.buffer_size, max(config.encoder_width, config.decoder_width)
    return activation_bytes(generator, length, width) + logit_bytes(generator)


def training_memory(generator: Generator, bfloat16: bool, recomputed: bool) -> int:
    """Bytes that training keeps of an image, about: encoder, decoder, and the head over the hidden tokens."""
    config, tokens = generator.config, num_tokens(generator)
    hidden = round(tokens * MEAN_HIDDEN)
    seen, whole = config.buffer_size + tokens - hidden, config.buffer_size + tokens
    kept = kept_bytes(seen * config.encoder_width, config.encoder_depth, bfloat16, recomputed)
    kept += kept_bytes(whole * config.decoder_width, config.decoder_depth, bfloat16, recomputed)
    return kept + head_kept_bytes(generator, hidden, bfloat16)
