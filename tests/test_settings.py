"""A sampling setting is defined once, and whoever names settings reads that definition."""

from __future__ import annotations

import dataclasses
import math

import pytest

from arbench import cli
from arbench.generators.arpg.config import ARPGSampling
from arbench.heads.solvers import SOLVERS
from arbench.report.values import quantity
from arbench.runs.request import RunRequest
from arbench.settings import (
    CFG_SCALE,
    HEAD_SAMPLERS,
    REVEAL_ORDERS,
    SETTINGS,
    CategoricalSampling,
    MaskedCategoricalSampling,
    MaskedDiffusionSampling,
    make_settings,
    settings_of,
    stored_settings,
)

KINDS = (CategoricalSampling, MaskedDiffusionSampling, MaskedCategoricalSampling, ARPGSampling)
WRONG = {"int": 0.5, "float": "much", "str": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_sampling_type_is_a_defined_setting(kind):
    assert settings_of(kind).keys() == {field.name for field in dataclasses.fields(kind)}
    assert all(SETTINGS[name] is setting for name, setting in settings_of(kind).items())


def test_what_goes_unsaid_is_what_was_drawn_before_there_was_the_setting():
    usual, other = (MaskedDiffusionSampling(reveal_order=order) for order in REVEAL_ORDERS)
    stored = stored_settings(usual)
    assert stored.keys() == settings_of(MaskedDiffusionSampling).keys() - {"reveal_order"}
    assert make_settings(MaskedDiffusionSampling, stored) == usual
    assert stored_settings(other) == {**stored, "reveal_order": "checkerboard"}
    assert [setting.name for setting in SETTINGS.values() if setting.unsaid is not None] == ["reveal_order"]


def test_solvers_are_those_that_the_setting_names():
    assert tuple(SOLVERS) == tuple(HEAD_SAMPLERS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_an_option_a_quantity_and_a_keyword(name, capsys):
    assert cli.run_command(["sample", "--help"]) == 0
    assert f"--{name.replace('_', '-')} " in capsys.readouterr().out
    assert quantity(name).title == SETTINGS[name].title
    assert RunRequest.of(**{name: 1}).sampling == {name: 1}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_value_of_another_type_names_the_setting(name):
    kind = next(kind for kind in KINDS if name in settings_of(kind))
    for wrong in (WRONG[SETTINGS[name].kind.__name__], True, None):
        with pytest.raises(ValueError, match=name):
            make_settings(kind, {name: wrong})


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.kind is float])
def test_only_finite_numbers_are_settings(name, value):
    with pytest.raises(ValueError, match=f"{name} .*: expected"):
        make_settings(CategoricalSampling, {name: value})


def test_one_and_one_point_nought_are_one_setting():
    assert isinstance(make_settings(CategoricalSampling, {"cfg_scale": 2}).cfg_scale, float)


def test_values_are_written_as_words_where_they_have_one():
    assert SETTINGS["cfg_interval"].text(-1) == "always"
    assert SETTINGS["cfg_interval"].text(8) == "8"
    assert CFG_SCALE.text(1.5) == "1.5"
