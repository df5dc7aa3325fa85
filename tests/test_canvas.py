"""What is revealed so far: an observer sees every token once, and watching changes nothing."""

from __future__ import annotations

import pytest
import torch
from conftest import COMBINATIONS, make_generator, make_tokens
from test_sampling import QUICK

from arbench.runs.models import load_parts
from arbench.sampling.algorithm import generate
from arbench.sampling.canvas import Canvas

CELLS = [(name, head, {}) for name in COMBINATIONS for head in QUICK]
CELLS += [(name, "diffusion", {"patch_size": 2}) for name in ("ar-raster", "mar")]


def blank_of(model):
    """One image's tokens, of the size that `model` makes."""
    patch = getattr(model.config, "patch_size", 1)
    tokens = make_tokens(model, 1)
    return tokens.repeat_interleave(patch, 2).repeat_interleave(patch, 3) if model.kind == "continuous" else tokens


@pytest.mark.parametrize(("name", "head", "changes"), CELLS)
def test_each_step_adds_its_tokens_and_the_last_canvas_is_the_result(name, head, changes) -> None:
    model = make_generator(name, head, **changes)
    blank = blank_of(model)
    canvas = Canvas(model, 3, blank)
    seen = []

    def observe(step, tokens):
        before, hidden = canvas.tokens.clone(), canvas.hidden.clone()
        canvas(step, tokens)
        seen.append(step.size)
        revealed = hidden & ~canvas.hidden
        assert revealed.sum(1).tolist() == [step.size] * 3
        assert torch.equal(torch.zeros_like(hidden).scatter(1, step.positions, True), revealed)
        # Nothing but the places of this step has changed; a patch is patch_size² latents.
        changed = (canvas.tokens != before).reshape(3, -1).sum(1)
        assert bool((changed <= step.size * before[0].numel() // hidden.shape[1]).all())
        assert canvas.steps == len(seen)

    assert torch.equal(canvas.tokens, blank.expand_as(canvas.tokens))
    watched = generate(model, [0, 1, 2], seed=5, observe=observe, **QUICK[head])
    assert sum(seen) == canvas.hidden.shape[1]
    assert torch.equal(canvas.tokens, watched)
    assert torch.equal(watched, generate(model, [0, 1, 2], seed=5, **QUICK[head]))


@pytest.mark.parametrize("method", ["arpg", "dit"])
def test_the_other_digits_models_are_watched_too(method) -> None:
    parts = load_parts(method, device=torch.device("cpu"))
    blank = parts.tokenizer.encode(torch.zeros(1, 3, 32, 32))
    canvas = Canvas(parts.generator, 2, blank)
    sampling = {"head_steps": 4} if method == "dit" else {"num_iter": 3}
    watched = generate(parts.generator, [3, 7], observe=canvas, **sampling)
    assert torch.equal(canvas.tokens, watched)
    assert canvas.steps == (1 if method == "dit" else 3)
    assert not canvas.hidden.any()
