"""Every built-in method keeps the protocol; a generator that breaks it is told what it breaks."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from arbench.generators import methods as known
from arbench.generators.methods import get_method, methods
from arbench.protocols import Schedule
from arbench.runs.conformance import check_generator
from arbench.sampling.schedules import sequential

VARIANTS = {
    "ar-random": ("ar", {"order": "random"}),
    "ar-diffusion": ("ar", {"head": "diffusion", "channels": 3, "head_depth": 2, "head_width": 24}),
    "mar-categorical": ("mar", {"head": "categorical", "vocab_size": 17}),
    "par-raster": ("par", {"group_order": "raster"}),
}


def outcomes(checks):
    return {check.name: check.outcome for check in checks}


def failures(checks):
    return {check.name: check.detail for check in checks if check.outcome == "failed"}


@pytest.mark.parametrize("name", methods())
def test_every_method_keeps_the_protocol(name):
    checks = check_generator(get_method(name))
    assert failures(checks) == {}
    assert len(checks) == 11
    skipped = {name for name, outcome in outcomes(checks).items() if outcome == "skipped"}
    assert skipped <= {"cache", "device move"}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_head_and_order_keeps_it(name):
    method, config = VARIANTS[name]
    assert failures(check_generator(get_method(method), {**get_method(method).tiny, **config})) == {}


def broken(monkeypatch, **members):
    """AR with other members, known as a method of its own."""
    from arbench.generators.ar.model import AR

    method = dataclasses.replace(
        get_method("ar"), name="broken", presets=(), model=type("Broken", (AR,), {"method": "broken", **members})
    )
    monkeypatch.setitem(known._given, "broken", method)
    return method


def leaks(self, state, step, guided):
    """The batch's mean goes into every image."""
    from arbench.generators.ar.model import AR

    conditional, unconditional = AR.conditions(self, state, step, guided)
    return conditional + conditional.mean(dim=0, keepdim=True), unconditional


def never_falls(self, tokens, labels, *, rng=None):
    """A loss that no training makes smaller."""
    return 0 * self.norm.weight.sum() + 1


def ignores_the_cache(self, state, step, guided):
    """As if nothing had been drawn before, with the cache only."""
    from arbench.generators.ar.model import AR

    conditional, unconditional = AR.conditions(self, state, step, guided)
    return (conditional if state.cache is None else -conditional), unconditional


@pytest.mark.parametrize(
    ("members", "failed"),
    [
        ({"conditions": leaks}, "batch invariance"),
        ({"conditions": ignores_the_cache}, "cache"),
        ({"loss": never_falls}, "training"),
        ({"kind": property(lambda self: "both", lambda self, value: None)}, "members"),
        ({"result": lambda self, state: state.tokens}, "tokens"),
    ],
)
def test_what_breaks_the_protocol_is_told(monkeypatch, members, failed):
    checks = check_generator(broken(monkeypatch, **members))
    assert failed in failures(checks)


class Late(Schedule):
    """Its last step counts one token too few."""

    def __iter__(self):
        return (dataclasses.replace(step, known=min(step.known, 14)) for step in super().__iter__())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda whole: dataclasses.replace(whole, sizes=[1] * 15, clocks=[-1] * 15), "reveal each of 16 tokens once"),
        (
            lambda whole: dataclasses.replace(whole, order=whole.order[:, [*range(15), 14]]),
            "reveal each of 16 tokens once",
        ),
        (lambda whole: Late(**vars(whole)), "a step says 14 tokens are known; 15 are"),
    ],
)
def test_a_schedule_that_leaves_tokens_out_is_told(monkeypatch, change, told):
    method = dataclasses.replace(broken(monkeypatch), schedule=lambda *given: change(sequential(*given)))
    monkeypatch.setitem(known._given, "broken", method)
    assert told in failures(check_generator(method))["schedule"]


def test_specs_and_help_need_no_torch():
    """What `--help`, tables and plots read of the methods costs no import of torch."""
    code = (
        "import sys, arbench.cli, arbench.report.plots; from arbench.generators.methods import presets; "
        "arbench.cli.build_app(); assert len(presets()) > 30; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
