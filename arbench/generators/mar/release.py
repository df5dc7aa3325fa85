"""MAR's released files: their names and shapes, and where they are."""

from __future__ import annotations

from typing import Any

from arbench.generators.cards import MIT, hand_card, hub_card
from arbench.generators.common.shapes import count_blocks, read_head, shape_of
from arbench.generators.spec import Release, Shapes

HUB = "jadechoghari/mar"
EMA_ONLY = "converted from the release; one set of weights"
BOTH_SETS = "raw and EMA weights; linked from the repository"
PADDLE = "PaddlePaddle conversion; save it under this name"


def read_config(shapes: Shapes) -> dict[str, Any]:
    """Widths and depths of encoder and decoder, classes, buffer and head."""
    num_tokens = shape_of(shapes, "diffusion_pos_embed_learned", 3)[1]
    num_classes, encoder_width = shape_of(shapes, "class_emb.weight", 2)
    return {
        "encoder_width": encoder_width,
        "encoder_depth": count_blocks(shapes, r"encoder_blocks\.(\d+)\."),
        "decoder_width": shape_of(shapes, "decoder_embed.weight", 2)[0],
        "decoder_depth": count_blocks(shapes, r"decoder_blocks\.(\d+)\."),
        "num_classes": num_classes,
        "buffer_size": shape_of(shapes, "encoder_pos_embed_learned", 3)[1] - num_tokens,
        "num_tokens": num_tokens,
        **read_head(shapes),
    }


RELEASE = Release(
    wanted=("encoder_pos_embed_learned", "decoder_pos_embed_learned", "class_emb.weight"),
    read_config=read_config,
    untold=("encoder_heads", "decoder_heads"),
    embeddings=("class_emb.weight", "tok_embeddings.weight"),
    layout="mar",
)
CARDS = (
    hub_card("mar-b", "mar", HUB, "mar-base.safetensors", MIT, note=EMA_ONLY),
    hub_card("mar-l", "mar", HUB, "mar-large.safetensors", MIT, note=EMA_ONLY),
    hub_card("mar-h", "mar", HUB, "mar-huge.safetensors", MIT, note=EMA_ONLY),
    hand_card("mar-b-pth", "mar", "LTH14/mar", "mar_base/checkpoint-last.pth", "mar-b", BOTH_SETS),
    hand_card("mar-l-pth", "mar", "LTH14/mar", "mar_large/checkpoint-last.pth", "mar-l", BOTH_SETS),
    hand_card("mar-h-pth", "mar", "LTH14/mar", "mar_huge/checkpoint-last.pth", "mar-h", BOTH_SETS),
    hand_card("mar-b-paddle", "mar", "PaddlePaddle/PaddleMIX", "mar_base.pdparams", "mar-b", PADDLE),
    hand_card("mar-l-paddle", "mar", "PaddlePaddle/PaddleMIX", "mar_large.pdparams", "mar-l", PADDLE),
    hand_card("mar-h-paddle", "mar", "PaddlePaddle/PaddleMIX", "mar_huge.pdparams", "mar-h", PADDLE),
)
