"""Weights cards: what is released, under which licence, and where it lies."""

from pathlib import Path

import pytest

from arbench.generators.cards import weights_home
from arbench.generators.methods import presets
from arbench.registry import EXTRACTORS, tokenizer_entry_points
from arbench.weights.cards import all_cards, cards_for, find_weights, get_card, how_to_get
from arbench.weights.keys import families

RELEASED = (
    "mar-b mar-l mar-h kl16 llamagen-vq ar-b ar-l ar-l-384 ar-xl-384 ar-xxl-384 ar-3b-384 "
    "par-xl-4x par-xxl-4x par-3b-4x par-3b-16x"
)


def test_every_released_file_has_a_card_under_the_name_that_loads_it() -> None:
    for name in RELEASED.split():
        assert name in all_cards()[name].loads


def test_cards_name_what_exists() -> None:
    for card in all_cards().values():
        assert card.family in (*families(), "extractor")
        known = (*presets(), *tokenizer_entry_points(), *EXTRACTORS.installed())
        assert all(name in known for name in card.loads), card.name
        assert card.source.startswith("https://")
        assert card.licence
        assert card.sha256 is None or len(card.sha256) == 64
    assert len({card.file for card in all_cards().values()}) == len(all_cards())


def test_a_preset_and_its_card_are_of_one_method() -> None:
    for preset in presets().values():
        assert all(card.family == preset.method for card in cards_for(preset.name))


def test_par_has_no_licence_and_the_card_says_so() -> None:
    licences = {card.licence for card in all_cards().values() if card.family == "par"}
    assert licences == {"none stated (all rights reserved)"}
    assert {card.licence for card in all_cards().values() if card.family not in ("par", "extractor")} == {"MIT"}


def test_addresses_follow_the_hub_and_its_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert get_card("ar-b").urls == (
        "https://huggingface.co/FoundationVision/LlamaGen/resolve/main/c2i_B_256.pt",
        "https://hf-mirror.com/FoundationVision/LlamaGen/resolve/main/c2i_B_256.pt",
    )
    monkeypatch.setenv("HF_ENDPOINT", "https://example.org/hub/")
    assert get_card("ar-b").urls[0] == "https://example.org/hub/FoundationVision/LlamaGen/resolve/main/c2i_B_256.pt"
    assert get_card("kl16").urls == ()


def test_files_lie_in_the_folder_that_the_variable_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ARBENCH_WEIGHTS", raising=False)
    assert weights_home() == Path.home() / ".cache" / "arbench" / "weights"
    monkeypatch.setenv("ARBENCH_WEIGHTS", str(tmp_path))
    assert get_card("mar-b-pth").path == tmp_path / "mar_base" / "checkpoint-last.pth"
    assert find_weights("mar-b") is None
    get_card("mar-b-pth").path.parent.mkdir()
    get_card("mar-b-pth").path.write_bytes(b"x")
    assert find_weights("mar-b") == get_card("mar-b-pth").path
    get_card("mar-b").path.write_bytes(b"x")
    assert find_weights("mar-b") == get_card("mar-b").path


def test_how_to_get_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARBENCH_WEIGHTS", "/data")
    assert how_to_get(all_cards()["mar-b"]) == "arbench weights get mar-b"
    assert how_to_get(all_cards()["mar-h-pth"]) == (
        "download checkpoint-last.pth by hand from https://github.com/LTH14/mar to /data/mar_huge/checkpoint-last.pth"
    )


def test_an_unknown_card_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown weights card 'mar-x'; did you mean 'mar-"):
        get_card("mar-x")
    assert cards_for("ar-digits") == ()


@pytest.mark.parametrize("name", ["mar-digits", "digits-vq"])
def test_one_function_finds_what_ships(name: str) -> None:
    found = find_weights(name)
    assert found is not None
    assert found.is_file()
    assert found.name == f"{name}.safetensors"


def test_no_weights_of_what_is_not_there() -> None:
    assert find_weights("mar") is None  # a method alone
    with pytest.raises(ValueError, match="did you mean 'digits-vq'"):
        find_weights("digits-vqq")
