"""`.pdparams`: files that PaddlePaddle itself wrote (tests/parity/paddle), ours back in Paddle, and hostile ones."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import arbench
from arbench.weights.paddle import read_pdparams, write_pdparams

PARITY = Path(__file__).parent / "parity" / "paddle"


def forward(weights: dict[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
    """The computation that Paddle did, with torch's functions on the weights as read."""
    hidden = F.linear(x, weights["z_proj.weight"], weights["z_proj.bias"]) + weights["class_emb.weight"][labels]
    hidden = F.layer_norm(hidden, (4,), weights["z_proj_ln.weight"], weights["z_proj_ln.bias"], 1e-6)
    return F.linear(hidden + weights["mask_token"][0], weights["decoder_embed.weight"], weights["decoder_embed.bias"])


@pytest.mark.parametrize("file", ["slice.pdparams", "protocol2.pdparams", "nested.pdparams"])
def test_paddles_own_files_compute_what_paddle_computed(file: str) -> None:
    content = read_pdparams(PARITY / file)
    expected = load_file(PARITY / "expected.safetensors")
    weights = content["model"] if file.startswith("nested") else content
    output = forward(weights, expected["x"], expected["labels"])
    # float32 sums of at most four products in another order
    torch.testing.assert_close(output, expected["output"], rtol=1e-5, atol=1e-6)
    assert list(weights) == [name for name in weights if "@@" not in name]
    assert not file.startswith("nested") or content["epoch"] == 3


def test_bfloat16_comes_back_as_bfloat16() -> None:
    half, full = read_pdparams(PARITY / "bfloat16.pdparams"), read_pdparams(PARITY / "slice.pdparams")
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}
    for name, tensor in full.items():
        torch.testing.assert_close(half[name], tensor.bfloat16(), rtol=0, atol=0)


def example() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "z_proj.weight": torch.randn(6, 3, generator=rng),
        "z_proj.bias": torch.randn(6, generator=rng),
        "class_emb.weight": torch.randn(5, 6, generator=rng),
        "fake_latent": torch.randn(1, 6, generator=rng),
        "z_proj_ln.weight": torch.randn(6, generator=rng).bfloat16(),
        "decoder_embed.weight": torch.randn(6, 6, generator=rng).bfloat16(),
        "encoder.conv_in.weight": torch.randn(2, 3, 3, 3, generator=rng),
        "steps": torch.tensor(7),
    }


def test_there_and_back_is_the_identity(tmp_path: Path) -> None:
    tensors = example()
    write_pdparams(tensors, tmp_path / "x.pdparams")
    again = read_pdparams(tmp_path / "x.pdparams")
    assert list(again) == list(tensors)
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].is_contiguous()
        assert torch.equal(again[name], tensor), name
    assert [path.name for path in tmp_path.iterdir()] == ["x.pdparams"]


def test_linear_weights_are_transposed_in_the_file_and_tables_are_not(tmp_path: Path) -> None:
    tensors = example()
    write_pdparams(tensors, tmp_path / "x.pdparams")
    raw = pickle.loads((tmp_path / "x.pdparams").read_bytes())
    assert raw["z_proj.weight"].shape == (3, 6)
    assert raw["class_emb.weight"].shape == (5, 6)
    assert raw["fake_latent"].shape == (1, 6)
    assert raw["decoder_embed.weight"].dtype == np.uint16
    assert raw["StructuredToParameterName@@"]["z_proj.bias"] == "z_proj.bias"


def test_sliced_arrays_are_joined(tmp_path: Path) -> None:
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    parts = {f"mask@@.{k}": whole.reshape(-1)[k * 6 : k * 6 + 6] for k in range(2)}
    content = {**parts, "UnpackBigParamInfor@@": {"mask": {"OriginShape": (3, 4), "slices": list(parts)}}}
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(content, protocol=2))
    read = read_pdparams(tmp_path / "x.pdparams")
    assert list(read) == ["mask"]
    assert torch.equal(read["mask"], torch.from_numpy(whole))


@pytest.mark.parametrize(
    "table",
    [[1, 2], {"mask": {}}, {"mask": {"slices": ["gone"]}}, {"mask": {"slices": ["piece"], "OriginShape": (5, 5)}}],
)
def test_slices_that_do_not_fit_are_one_line(table: object, tmp_path: Path) -> None:
    content = {"piece": np.zeros(4, np.float32), "UnpackBigParamInfor@@": table}
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"x\.pdparams: broken .*its slices do not fit together"):
        read_pdparams(tmp_path / "x.pdparams")


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    """By hand: `pickle` itself cannot write what it reads."""
    nested = b"\x80\x04" + b"}\x8c\x01a" * 5000 + b"}" + b"s" * 5000 + b"."
    (tmp_path / "x.pdparams").write_bytes(nested)
    with pytest.raises(ValueError, match="nested more than 20 deep"):
        read_pdparams(tmp_path / "x.pdparams")


class Command:
    """Unpickling this would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Evaluate:
    """Unpickling this would evaluate a string, as old Paddle files ask for."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("print('executed')",)


@pytest.mark.parametrize(("kind", "name"), [(Command, f"{os.system.__module__}.system"), (Evaluate, "builtins.eval")])
def test_a_pickle_that_asks_for_a_call_is_refused_by_name(
    kind: Any, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    touched = tmp_path / "touched"
    hostile = Command(f"touch {touched}") if kind is Command else kind()
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({"w": np.zeros(3), "x": hostile}, protocol=4))
    with pytest.raises(ValueError, match=rf"refused: its pickle asks for {name}; nothing was executed$"):
        read_pdparams(tmp_path / "x.pdparams")
    assert not touched.exists()
    assert capfd.readouterr().out == ""


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.pdparams"
    write_pdparams(example(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a pickle", pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.pdparams: (broken or truncated|expected a dict)") as error:
            read_pdparams(path)
        assert "\n" not in str(error.value)
    path.write_bytes(pickle.dumps({"w": np.array(["text"])}))
    with pytest.raises(ValueError, match="w holds <U4, not numbers"):
        read_pdparams(path)


@pytest.mark.slow
def test_paddle_itself_reads_what_we_write(tmp_path: Path) -> None:
    paddle = pytest.importorskip("paddle")
    expected, weights = load_file(PARITY / "expected.safetensors"), read_pdparams(PARITY / "slice.pdparams")
    write_pdparams(weights, tmp_path / "x.pdparams")
    linear = paddle.nn.Linear(3, 4)
    state = paddle.load(str(tmp_path / "x.pdparams"))
    linear.set_state_dict({"weight": state["z_proj.weight"], "bias": state["z_proj.bias"]})
    wanted = F.linear(expected["x"], weights["z_proj.weight"], weights["z_proj.bias"])
    np.testing.assert_allclose(linear(paddle.to_tensor(expected["x"].numpy())).numpy(), wanted.numpy(), rtol=1e-5)


@pytest.mark.slow
def test_a_mar_that_paddle_itself_wrote_computes_what_the_original_computed(tmp_path: Path) -> None:
    paddle = pytest.importorskip("paddle")
    folder = PARITY.parent / "mar"
    state, expected = load_file(folder / "model.safetensors"), load_file(folder / "expected.safetensors")
    turned = {
        name: tensor.T if tensor.ndim == 2 and name not in ("class_emb.weight", "fake_latent") else tensor
        for name, tensor in state.items()
    }
    paddle.save(
        {name: paddle.to_tensor(tensor.numpy()) for name, tensor in turned.items()}, str(tmp_path / "x.pdparams")
    )
    model = arbench.load_generator("mar", weights=tmp_path / "x.pdparams", heads=4)
    z = model.condition(expected["latents"], expected["mask"], expected["labels"]).detach()
    # Relative to the largest value: float32 sums in another order than the original's
    torch.testing.assert_close(z, expected["z"], rtol=0, atol=1e-4 * float(expected["z"].abs().max()))
