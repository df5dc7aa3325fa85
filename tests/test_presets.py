"""Every preset builds; at full size the models are the papers' models, tensor by tensor."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from arbench import cli
from arbench.generators.methods import _given, get_method, get_preset, presets
from arbench.settings import HEAD_SAMPLERS, make_settings
from arbench.weights.cards import cards_for
from arbench.weights.load import count_parameters, load_generator

# Tensor names and shapes of the released files.
MANIFESTS = Path(__file__).parent / "parity" / "manifests"
# Millions of parameters as the papers print them (LlamaGen Table 1; PAR Table 1; MAR section 4.1; README of ARPG).
PRINTED = {
    "ar-b": 111,
    "ar-l": 343,
    "ar-xl": 775,
    "ar-xxl": 1400,
    "ar-3b": 3100,
    "par-l-4x": 343,
    "par-xl-4x": 775,
    "par-xxl-4x": 1400,
    "par-3b-4x": 3100,
    "par-3b-16x": 3100,
    "mar-b": 208,
    "mar-l": 479,
    "mar-h": 943,
    "arpg-l": 320,
    "arpg-xl": 719,
    "arpg-xxl": 1300,
}


@pytest.mark.parametrize("name", presets())
def test_preset_builds_with_settings_that_it_has(name: str) -> None:
    preset = get_preset(name)
    model = load_generator(name, weights="random", device="meta")
    make_settings(model.sampling_type, dict(preset.sampling))
    assert model.method == preset.method
    assert preset.name == name
    assert all(parameter.device.type == "meta" for parameter in model.parameters())


@pytest.mark.parametrize("name", PRINTED)
def test_parameter_counts_are_the_papers(name: str) -> None:
    # Printed to three digits, or two for 1.4B and 3.1B.
    assert count_parameters(get_preset(name)) / 1e6 == pytest.approx(PRINTED[name], rel=0.02)


def test_parameters_are_counted_as_torch_counts_them() -> None:
    generator = load_generator("mar-digits")
    assert count_parameters(get_preset("mar-digits")) == sum(parameter.numel() for parameter in generator.parameters())


def test_the_command_lists_every_preset(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("models", "doctor"))
    assert cli.run_command(["models"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert lines.keys() >= presets().keys()
    assert lines["mar-h"].split()[1:8] == ["mar", "942.4", "256", "kl16", "mar-h", "1.55", "303.7"]
    assert lines["mar-h"].endswith("--num-iter 256 --cfg-scale 3.2 --cfg-schedule linear --head-steps 100")
    assert cli.run_command(["models", "--json"]) == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["par-3b-16x"]["sampling"] == {"cfg_scale": 1.5}
    assert rows["par-b-4x"]["fid"] is None


def test_models_takes_shell_patterns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("models", "doctor"))
    assert cli.run_command(["models", "mar-?", "ar-digits", "--json"]) == 0
    names = [row["model"] for row in json.loads(capsys.readouterr().out)]
    assert names == ["ar-digits", "mar-b", "mar-l", "mar-h"]
    assert cli.run_command(["models", "mra-b*"]) == 2
    assert "unknown model or pattern 'mra-b*'; did you mean 'mar-b'?" in capsys.readouterr().err


def test_models_explains_the_samplers_that_it_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("models", "doctor"))
    trimmed = dataclasses.replace(get_preset("mar-digits"), sampling={"head_sampler": "ddpm-trimmed"})
    spec = dataclasses.replace(get_method("mar"), presets=(trimmed, get_preset("mar-b")))
    monkeypatch.setitem(_given, "mar", spec)
    for pattern, told in (("mar-digits", True), ("mar-b", False)):
        assert cli.run_command(["models", pattern]) == 0
        assert (HEAD_SAMPLERS["ddpm-trimmed"] in capsys.readouterr().out) == told


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.json")), ids=lambda path: path.stem)
def test_names_and_shapes_are_the_releases(path: Path) -> None:
    model = load_generator(path.stem, weights="random", device="meta")
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == json.loads(path.read_text())


def test_released_presets_are_those_with_a_card() -> None:
    for preset in presets().values():
        cards = {card.name for card in cards_for(preset.name)}
        assert preset.weights in cards if preset.weights else not cards


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'mar-b'"):
        get_preset("mar-bb")


def test_published_values_are_those_of_the_tables() -> None:
    rows = []
    for file in (Path(__file__).parents[1] / "results" / "published").glob("*.csv"):
        with file.open() as lines:
            rows += list(csv.DictReader(lines))
    exact = [row for row in rows if row["value"][0].isdigit()]  # bounds are printed with < or >
    fids = {float(row["value"]) for row in exact if row["metric"] == "fid"}
    scores = {float(row["value"]) for row in exact if row["metric"] == "is_mean"}
    for preset in presets().values():
        if preset.published is not None:
            assert preset.published.fid in fids
            assert preset.published.inception_score in scores


def test_random_weights_come_from_the_global_seed() -> None:
    torch.manual_seed(3)
    first = load_generator("ar", width=32, depth=1, heads=2, grid=4, vocab_size=7)
    torch.manual_seed(3)
    second = load_generator("ar", width=32, depth=1, heads=2, grid=4, vocab_size=7)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
