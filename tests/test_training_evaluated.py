"""When weights are evaluated while they train, and with which settings."""

from __future__ import annotations

import dataclasses

import pytest

from arbench.generators.methods import get_preset
from arbench.generators.recipe import TrainConfig
from arbench.generators.spec import Evaluated
from arbench.machine.distributed import Processes
from arbench.training import evaluation
from arbench.training.asked import digits_job, method_job
from arbench.training.evaluated import evaluated_with
from arbench.training.evaluation import Evaluating


@pytest.mark.parametrize(
    ("model", "scales", "expected"),
    [
        ("mar-b", (), {"": 2.9, "no-cfg": 1.0}),  # the paper's recipe
        ("mar-b", (1.0, 3.5, 2.9, 1), {"no-cfg": 1.0, "cfg-3.5": 3.5, "": 2.9}),
        ("ar-b", (), {"": 2.0}),
        ("ar-l-diff", (), {"": 3.0, "no-cfg": 1.0}),  # a causal cell of the same paper's Table 1
        ("mar-l-causal-ce", (), {"": 3.0, "no-cfg": 1.0}),
        ("mar-digits", (), {"": 2.0}),
    ],
)
def test_what_is_evaluated_is_of_the_recipe_or_asked_for(model, scales, expected):
    preset = get_preset(model)
    found = evaluated_with(method_job(preset.method, model), scales)
    own = preset.sampling.get("cfg_scale", 1.0)
    assert {one.name: one.sampling.get("cfg_scale", own) for one in found} == expected
    assert [one.name for one in found] == list(expected)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"epochs": 2}, [8, 15, 23, 30]),  # 15 images every 7.5 steps, and the last
        ({"steps": 10}, [10, 20, 30]),
        ({"epochs": 100}, [30]),
    ],
)
def test_when_an_evaluation_is_due(asked, expected, tmp_path):
    config = TrainConfig(steps=30, batch_size=4, learning_rate=1e-3).for_images(15)
    job = dataclasses.replace(digits_job("ar-digits"), config=config)
    between = evaluation.Evaluation(Evaluating(**asked), job, tmp_path, Processes())
    assert [step for step in range(1, 31) if between.due(step)] == expected


def test_a_setting_is_told_by_a_name_that_a_folder_can_have():
    with pytest.raises(ValueError, match="evaluation 'no/cfg': expected small letters"):
        Evaluated(name="no/cfg")
