"""AR, PAR and MAR once more, as plainly as the papers say it: one image, whole sequences, loops, no cache.

Nothing of the package is used. A model is its state dict (`weights`, in the release's names) and the number of heads;
every number keeps the weights' dtype.
"""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    product = x @ weights[f"{name}.weight"].T
    return product + weights[f"{name}.bias"] if f"{name}.bias" in weights else product


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def normalise(x: Tensor) -> Tensor:
    """Layer normalisation without weights."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)


def layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return normalise(x) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor) -> Tensor:
    """Softmax attention head by head: (T, D) each, `allowed` (T, T)."""
    outputs = []
    for q_head, k_head, v_head in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = torch.exp(q_head @ k_head.T / math.sqrt(q_head.shape[-1])) * allowed
        outputs.append(scores / scores.sum(-1, keepdim=True) @ v_head)
    return torch.cat(outputs, -1)


# AR and PAR


def generation_order(side: int, parallel: int) -> list[int]:
    """Raster index of the k-th generated token on a square grid."""
    regions = math.isqrt(parallel)
    inner = side // regions
    return [
        (region_row * inner + row) * side + region_column * inner + column
        for row in range(inner)
        for column in range(inner)
        for region_row in range(regions)
        for region_column in range(regions)
    ]


def group_of(place: int, parallel: int) -> int:
    return -1 if parallel == 1 or place < parallel else (place - parallel) // parallel


def turn(x: Tensor, places: list[int | None], side: int, heads: int) -> Tensor:
    """2-D rotary embedding of (T, D) at raster places; None stands for a token without a place, which vanishes."""
    rows = []
    for vector, place in zip(x, places, strict=True):
        turned = []
        for head in vector.chunk(heads):
            half = len(head) // 2
            for channel in range(0, len(head), 2):
                pair = head[channel] + 1j * head[channel + 1]
                if place is None:
                    turned.append(pair * 0)
                    continue
                coordinate = place // side if channel < half else place % side
                turned.append(pair * cmath.exp(1j * coordinate * 10000 ** (-(channel % half) / half)))
        rows.append(torch.view_as_real(torch.stack(turned)).flatten())
    return torch.stack(rows)


def input_sequence(
    weights: Weights, codes: list[int], label: int, side: int, parallel: int
) -> tuple[Tensor, list[int | None]]:
    """Vectors (N, D) and raster places: class, t1 .. tn, the learned tokens, t(n+1) .."""
    vocabulary = weights["tok_embeddings.weight"]
    tokens = list(zip((vocabulary[code] for code in codes), generation_order(side, parallel), strict=True))
    learned = weights.get("spe_tok_embeddings.special_embeddings.weight", ())
    sequence: list[tuple[Tensor, int | None]] = [(weights["cls_embedding.embedding_table.weight"][label], None)]
    sequence += tokens[:parallel]
    sequence += [(vector, None) for vector in learned]
    sequence += tokens[parallel : len(codes) - parallel]
    return torch.stack([vector for vector, _ in sequence]), [place for _, place in sequence]


def causal_logits(weights: Weights, codes: list[int], label: int, heads: int, side: int, parallel: int) -> Tensor:
    """(N, V): row k predicts the k-th generated token; `codes` are all N in generation order."""
    x, places = input_sequence(weights, codes, label, side, parallel)
    groups = [group_of(place, parallel) for place in range(len(x))]
    allowed = torch.tensor(
        [[key <= query or groups[key] == groups[query] >= 0 for key in range(len(x))] for query in range(len(x))]
    )
    for layer in _numbers(weights, "layers."):
        q, k, v = linear(weights, f"{layer}.attention.wqkv", rms_norm(weights, f"{layer}.attention_norm", x)).chunk(
            3, -1
        )
        q, k = (turn(vectors, places, side, heads) for vectors in (q, k))
        x = x + linear(weights, f"{layer}.attention.wo", attend(q, k, v, heads, allowed))
        hidden = rms_norm(weights, f"{layer}.ffn_norm", x)
        gate = silu(linear(weights, f"{layer}.feed_forward.w1", hidden))
        x = x + linear(weights, f"{layer}.feed_forward.w2", gate * linear(weights, f"{layer}.feed_forward.w3", hidden))
    return linear(weights, "output", rms_norm(weights, "norm", x))


def rms_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5) * weights[f"{name}.weight"]


def _numbers(weights: Weights, prefix: str) -> Iterator[str]:
    """The names of the blocks behind `prefix`, in order."""
    count = len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})
    yield from (f"{prefix}{index}" for index in range(count))


def greedy_codes(
    weights: Weights, label: int, scale: float, *, nobody: int, heads: int, side: int, parallel: int
) -> list[int]:
    """The likeliest codes in generation order under guidance, everything computed anew at each step."""
    total, codes = side * side, [0] * (side * side)
    starts = list(range(parallel)) + list(range(parallel, total, parallel)) if parallel > 1 else list(range(total))
    for start, end in zip(starts, [*starts[1:], total], strict=True):
        conditional, unconditional = (
            causal_logits(weights, codes, given, heads, side, parallel) for given in (label, nobody)
        )
        guided = unconditional + scale * (conditional - unconditional)
        codes[start:end] = guided[start:end].argmax(-1).tolist()
    return codes


# MAR


def transformer(weights: Weights, prefix: str, x: Tensor, heads: int) -> Tensor:
    everything = torch.ones(len(x), len(x), dtype=torch.bool)
    for block in _numbers(weights, f"{prefix}_blocks."):
        q, k, v = linear(weights, f"{block}.attn.qkv", layer_norm(weights, f"{block}.norm1", x)).chunk(3, -1)
        x = x + linear(weights, f"{block}.attn.proj", attend(q, k, v, heads, everything))
        hidden = linear(weights, f"{block}.mlp.fc1", layer_norm(weights, f"{block}.norm2", x))
        x = x + linear(weights, f"{block}.mlp.fc2", hidden / 2 * (1 + torch.erf(hidden / math.sqrt(2))))
    return layer_norm(weights, f"{prefix}_norm", x)


def masked_conditions(weights: Weights, tokens: Tensor, hidden: list[bool], label: int | None, heads: int) -> Tensor:
    """z (N, D) of raster tokens (N, C), of which the hidden ones are not read; label None is unconditional."""
    buffer = weights["encoder_pos_embed_learned"].shape[1] - len(tokens)
    embedding = weights["fake_latent"][0] if label is None else weights["class_emb.weight"][label]
    projected = linear(weights, "z_proj", tokens)
    x = torch.stack([embedding] * buffer + list(projected)) + weights["encoder_pos_embed_learned"][0]
    kept = [True] * buffer + [not flag for flag in hidden]
    x = layer_norm(weights, "z_proj_ln", x)[kept]
    x = linear(weights, "decoder_embed", transformer(weights, "encoder", x, heads))
    full = weights["mask_token"][0].repeat(len(kept), 1)
    full[kept] = x
    full = transformer(weights, "decoder", full + weights["decoder_pos_embed_learned"][0], heads)
    return full[buffer:] + weights["diffusion_pos_embed_learned"][0]


def predict(weights: Weights, x: Tensor, timestep: int, z: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and variance channels of one token (C,) at a timestep under its condition (D,)."""
    net = {name.removeprefix("diffloss.net."): tensor for name, tensor in weights.items()}
    # The angles are float32 at any precision: so the released models were trained.
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    sinusoids = torch.cat((torch.cos(timestep * frequencies), torch.sin(timestep * frequencies))).to(x.dtype)
    time = linear(net, "time_embed.mlp.2", silu(linear(net, "time_embed.mlp.0", sinusoids)))
    given = silu(time + linear(net, "cond_embed", z))
    hidden = linear(net, "input_proj", x)
    for block in _numbers(net, "res_blocks."):
        shift, scale, gate = linear(net, f"{block}.adaLN_modulation.1", given).chunk(3)
        inner = layer_norm(net, f"{block}.in_ln", hidden) * (1 + scale) + shift
        hidden = hidden + gate * linear(net, f"{block}.mlp.2", silu(linear(net, f"{block}.mlp.0", inner)))
    shift, scale = linear(net, "final_layer.adaLN_modulation.1", given).chunk(2)
    noise, variance = linear(net, "final_layer.linear", normalise(hidden) * (1 + scale) + shift).chunk(2)
    return noise, variance


def signal_levels(steps: int) -> list[tuple[int, float]]:
    """(timestep, share of signal left) of the kept timesteps, ascending."""
    levels = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    left, products = 1.0, []
    for before, after in itertools.pairwise(levels):
        left *= 1 - min(1 - after / before, 0.999)
        products.append(left)
    kept = [round(index * 999 / (steps - 1)) for index in range(steps)]
    return [(timestep, products[timestep]) for timestep in kept]


def draw_token(
    weights: Weights, z: Tensor, other: Tensor | None, scale: float, temperature: float, noise: Tensor
) -> Tensor:
    """Ancestral sampling of one token; `noise` (1 + S, C): the start, then what each step adds."""
    levels = signal_levels(len(noise) - 1)
    x = noise[0]
    for step, index in enumerate(reversed(range(len(levels)))):
        timestep, now = levels[index]
        before = levels[index - 1][1] if index else 1.0
        eps, variance = predict(weights, x, timestep, z)
        if other is not None:
            unguided = predict(weights, x, timestep, other)[0]
            eps = unguided + scale * (eps - unguided)
        beta = 1 - now / before
        start = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
        x = (beta * math.sqrt(before) * start + (1 - before) * math.sqrt(1 - beta) * x) / (1 - now)
        if index:
            low, share = math.log(beta * (1 - before) / (1 - now)), (variance + 1) / 2
            deviation = torch.exp((share * math.log(beta) + (1 - share) * low) / 2)
            x = x + temperature * deviation * noise[1 + step]
    return x


def masked_tokens(
    weights: Weights,
    label: int,
    order: list[int],
    noise: Tensor,
    *,
    heads: int,
    iterations: int,
    cfg: float,
    warmth: float,
) -> Tensor:
    """Raster tokens (N, C) of one image, guidance growing linearly; `noise` (1 + S, N, C), `warmth` the temperature."""
    total = len(order)
    tokens, hidden_count = torch.zeros_like(noise[0]), total
    for iteration in range(iterations):
        wanted = math.floor(total * math.cos(math.pi / 2 * (iteration + 1) / iterations))
        after = max(1, min(hidden_count - 1, wanted))  # what guidance takes as hidden, also at the last iteration
        hidden = [place in order[:hidden_count] for place in range(total)]
        z = masked_conditions(weights, tokens, hidden, label, heads)
        other = masked_conditions(weights, tokens, hidden, None, heads) if cfg != 1 else None
        scale = 1 + (cfg - 1) * (total - after) / total
        last = iteration == iterations - 1
        for place in order[0 if last else after : hidden_count]:
            unguided = None if other is None else other[place]
            tokens[place] = draw_token(weights, z[place], unguided, scale, warmth, noise[:, place])
        hidden_count = after
    return tokens
