"""scripts/check_cost.py: what it leaves out for its measurement is there."""

import importlib.util
from pathlib import Path

import pytest

from arbench.images.pixels import FiniteChecks

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_cost.py"


@pytest.mark.skipif(not SCRIPT.is_file(), reason="installed without the checkout")
def test_every_check_can_be_left_out_and_comes_back():
    spec = importlib.util.spec_from_file_location("check_cost", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    before = FiniteChecks.settle
    with script.replaced(lambda name, check, stand_in: stand_in):
        assert FiniteChecks.settle is not before
    assert FiniteChecks.settle is before
