"""What a state dict's names and shapes tell."""

import pytest

from arbench.weights.keys import detect_family, embeddings, find_family, is_linear_weight, read_config, strip_prefixes

AR = {
    "cls_embedding.embedding_table.weight": (11, 64),
    "tok_embeddings.weight": (97, 64),
    "layers.0.attention.wqkv.weight": (192, 64),
    "layers.1.attention.wqkv.weight": (192, 64),
    "norm.weight": (64,),
    "output.weight": (97, 64),
}
PAR = {**AR, "spe_tok_embeddings.special_embeddings.weight": (15, 64)}
MAR = {
    "encoder_pos_embed_learned": (1, 72, 64),
    "decoder_pos_embed_learned": (1, 72, 48),
    "diffusion_pos_embed_learned": (1, 64, 48),
    "class_emb.weight": (10, 64),
    "z_proj.weight": (64, 16),
    "decoder_embed.weight": (48, 64),
    "encoder_blocks.0.norm1.weight": (64,),
    "encoder_blocks.10.norm1.weight": (64,),
    "decoder_blocks.0.norm1.weight": (48,),
    "diffloss.net.input_proj.weight": (32, 16),
    "diffloss.net.res_blocks.0.in_ln.weight": (32,),
}
KL = {"encoder.down.0.block.0.norm1.weight": (32,), "quant_conv.weight": (32, 32, 1, 1)}
VQ = {**KL, "quantize.embedding.weight": (96, 8)}
LLAMAGEN_VQ = {"encoder.conv_blocks.0.res.0.norm1.weight": (32,), "quantize.embedding.weight": (96, 8)}


@pytest.mark.parametrize(
    ("family", "shapes"),
    [("ar", AR), ("par", PAR), ("mar", MAR), ("kl16", KL), ("vq16", VQ), ("llamagen-vq", LLAMAGEN_VQ)],
)
def test_a_family_is_told_by_its_names(family: str, shapes: dict[str, tuple[int, ...]]) -> None:
    assert find_family(shapes) == detect_family(shapes, "f.pt") == family


def test_an_unknown_family_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^x\.pt: weights of no known family \(fc\.weight, …\); expected one of: ar"):
        detect_family(["fc.weight"], "x.pt")


def test_ar_and_par_configs() -> None:
    wanted = {
        "width": 64,
        "depth": 2,
        "num_classes": 10,
        "order": "raster",
        "head": "categorical",
        "vocab_size": 97,
    }
    assert read_config("ar", AR) == wanted
    assert read_config("par", PAR) == {**wanted, "parallel": 16}


def test_mar_config() -> None:
    assert read_config("mar", MAR) == {
        "encoder_width": 64,
        "encoder_depth": 2,
        "decoder_width": 48,
        "decoder_depth": 1,
        "num_classes": 10,
        "buffer_size": 8,
        "head": "diffusion",
        "head_depth": 1,
        "head_width": 32,
        "num_tokens": 64,
        "token_width": 16,
    }


def test_heads_and_orders_of_the_table_1_variants() -> None:
    causal = {name: shape for name, shape in AR.items() if name not in ("tok_embeddings.weight", "output.weight")}
    head = {name: shape for name, shape in MAR.items() if name.startswith("diffloss")}
    config = read_config("ar", {**causal, **head, "target_embeddings.weight": (64, 64)})
    assert config == {
        "width": 64,
        "depth": 2,
        "num_classes": 10,
        "order": "random",
        "head": "diffusion",
        "head_depth": 1,
        "head_width": 32,
        "token_width": 16,
        "num_tokens": 64,
    }
    masked = {name: shape for name, shape in MAR.items() if not name.startswith(("diffloss", "z_proj"))}
    codes = read_config("mar", {**masked, "tok_embeddings.weight": (97, 64)})
    assert (codes["head"], codes["vocab_size"]) == ("categorical", 97)
    assert find_family(masked) == "mar"


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(ValueError, match=r"incomplete weights: decoder_embed\.weight is missing"):
        read_config("mar", {name: shape for name, shape in MAR.items() if name != "decoder_embed.weight"})


def test_a_tensor_of_other_dimensions_is_named() -> None:
    with pytest.raises(ValueError, match=r"tok_embeddings\.weight has shape \(97,\); expected 2 dimensions"):
        read_config("ar", {**AR, "tok_embeddings.weight": (97,)})


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_that_all_names_bear_are_taken_off(prefix: str) -> None:
    assert strip_prefixes(prefix + name for name in AR) == {prefix + name: name for name in AR}


def test_a_prefix_that_some_names_lack_stays() -> None:
    names = ["module.norm.weight", "output.weight"]
    assert strip_prefixes(names) == {name: name for name in names}


def test_linear_weights() -> None:
    assert is_linear_weight("diffloss.net.cond_embed.weight", 2)
    assert is_linear_weight("decoder_embed.weight", 2)
    assert not any(is_linear_weight(name, 2) for name in embeddings())
    assert not is_linear_weight("fake_latent", 2)
    assert not is_linear_weight("quant_conv.weight", 4)
    assert not is_linear_weight("encoder_norm.weight", 1)
