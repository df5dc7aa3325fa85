"""Schedules that look: every token once, the images of a batch apart, and the loop that MaskGIT's paper writes down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import COMBINATIONS, make_generator
from torch import Tensor

from arbench.heads.categorical import CategoricalHead, inverse_transform
from arbench.machine.fused import EngineWarning
from arbench.protocols import Noise, Step
from arbench.sampling import algorithm, schedules
from arbench.sampling.algorithm import generate
from arbench.sampling.looking import LookingSchedule
from arbench.sampling.noise import FixedNoise, ImageNoise
from arbench.sampling.schedules import masked_sizes
from arbench.settings import CategoricalSampling

CHOICE_TEMPERATURE = 3.0
LABELS = [0, 3, 5, 1]
SETTINGS: dict[str, Any] = {"num_iter": 6, "cfg_scale": 2.5, "temperature": 1.3, "top_k": 12}


@dataclass(frozen=True, kw_only=True)
class Confident(LookingSchedule):
    """MaskGIT's choice (arXiv:2202.04200, section 3.2)."""

    def preference(self, step: Step, tokens: Tensor, confidence: Tensor, noise: Noise, draw: int) -> Tensor:
        gumbel = -(-noise.uniform(step.positions, draw).log()).log()
        return confidence + CHOICE_TEMPERATURE * (1 - (step.index + 1) / len(self)) * gumbel


def confident(generator: Any, settings: Any, noise: Noise, labels: Tensor) -> Confident:
    sizes = masked_sizes(generator.num_tokens, settings.num_iter)
    order = torch.arange(generator.num_tokens).repeat(len(labels), 1)
    return Confident(order=order, sizes=sizes, clocks=list(range(-1, len(sizes) - 1)))


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small masked generator whose schedule looks."""
    monkeypatch.setattr(algorithm, "make_schedule", confident)
    return make_generator("mar")


class Spy:
    """Notes every call of a method, and calls it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        original = getattr(owner, name)

        def noted(*given: Any) -> Any:
            self.calls.append(given)
            return original(*given)

        monkeypatch.setattr(owner, name, noted)


def test_every_token_is_revealed_once_and_as_many_as_planned(looking, monkeypatch) -> None:
    reveal = Spy(monkeypatch, looking, "reveal")
    generate(looking, LABELS, **SETTINGS)
    steps = [step for _, step, _ in reveal.calls]
    assert [step.positions.shape[1] for step in steps] == masked_sizes(16, 6)
    revealed = torch.cat([step.positions for step in steps], dim=1)
    assert torch.equal(revealed.sort(dim=1).values, torch.arange(16).expand(4, -1))
    assert len({tuple(row) for row in revealed.tolist()}) > 1  # images differ in what they are sure of


def test_what_was_drawn_is_kept(looking, monkeypatch) -> None:
    reveal = Spy(monkeypatch, looking, "reveal")
    ids = generate(looking, LABELS, **SETTINGS).flatten(1)
    for _, step, tokens in reveal.calls:
        assert torch.equal(ids.gather(1, step.positions), tokens)


def test_an_image_does_not_depend_on_its_batch(looking) -> None:
    ids = [4, 9, 0, 2]
    together = generate(looking, LABELS, seed=7, image_ids=ids, **SETTINGS)
    alone = [
        generate(looking, [label], seed=7, image_ids=[i], **SETTINGS) for label, i in zip(LABELS, ids, strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together, generate(looking, LABELS, seed=8, image_ids=ids, **SETTINGS))


@pytest.mark.parametrize("name", COMBINATIONS)
def test_only_a_schedule_that_looks_asks_for_confidence(name, monkeypatch) -> None:
    asked = Spy(monkeypatch, CategoricalHead, "draw_with_confidence")
    drawn = Spy(monkeypatch, CategoricalHead, "draw")
    generate(make_generator(name), LABELS)
    assert not asked.calls
    assert drawn.calls


def test_one_that_looks_asks_at_every_step(looking, monkeypatch) -> None:
    asked = Spy(monkeypatch, CategoricalHead, "draw_with_confidence")
    drawn = Spy(monkeypatch, CategoricalHead, "draw")
    generate(looking, LABELS, **SETTINGS)
    assert len(asked.calls) == 6
    assert not drawn.calls


def test_one_that_looks_has_no_graph(looking, monkeypatch) -> None:
    monkeypatch.setattr(schedules, "make_schedule", confident)
    eager = generate(looking, LABELS, **SETTINGS)
    with pytest.warns(EngineWarning, match="no static steps, eager instead"):
        assert torch.equal(generate(looking, LABELS, engine="graph", **SETTINGS), eager)


def maskgit_as_published(model: Any, labels: list[int], tape: Tensor, num_iter: int, scale: float) -> Tensor:
    """The loop of MaskGIT's Figure 3 on whole grids, written without any of the sampler: ids (B, N)."""
    batch, total = len(labels), model.num_tokens
    classes = torch.tensor(labels)
    ids, hidden = torch.zeros(batch, total, dtype=torch.int64), torch.ones(batch, total, dtype=torch.bool)
    for step in range(num_iter):
        grid, known = ids.unflatten(1, model.grid), int((~hidden[0]).sum())
        cond = model.output(model.condition(grid, hidden.float(), classes))
        uncond = model.output(model.condition(grid, hidden.float(), torch.full_like(classes, model.num_classes)))
        stays = 0 if step == num_iter - 1 else math.floor(total * math.cos(math.pi / 2 * (step + 1) / num_iter))
        revealed_by_then = min(total - stays, total - 1)
        logits = uncond + (1 + (scale - 1) * revealed_by_then / total) * (cond - uncond)
        probability = logits.softmax(-1)
        drawn = torch.where(hidden, inverse_transform(probability, tape[2 * step]), ids)
        confidence = probability.gather(-1, drawn[..., None])[..., 0].log().double()
        gumbel = -torch.log(-torch.log(tape[2 * step + 1]))
        confidence += CHOICE_TEMPERATURE * (1 - (step + 1) / num_iter) * gumbel
        confidence[~hidden] = math.inf
        for image in range(batch):
            least_sure = confidence[image].argsort()[:stays]
            hidden[image] = False
            hidden[image, least_sure] = True
        assert total - known >= stays
        ids = torch.where(hidden, 0, drawn)
    return ids


def test_equals_the_loop_as_maskgit_writes_it(looking) -> None:
    tape = torch.rand(12, 4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        expected = maskgit_as_published(looking, LABELS, tape, num_iter=6, scale=2.5)
    found = generate(looking, LABELS, noise=FixedNoise(uniform=tape), num_iter=6, cfg_scale=2.5)
    assert torch.equal(found.flatten(1), expected)


def test_the_plan_is_that_of_the_steps_that_are_taken(looking) -> None:
    noise, labels = ImageNoise(0, torch.arange(2)), torch.tensor([0, 1])
    schedule = confident(looking, looking.sampling_type(**SETTINGS), noise, labels)
    assert [(stage.index, stage.known, stage.size) for stage in schedule.plan] == [
        (step.index, step.known, step.size) for step in schedule
    ]
    assert [step.positions.shape[1] for step in schedule] == [step.total - step.known for step in schedule]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_confidence_is_the_log_probability_of_the_code_that_draw_gives(temperature) -> None:
    torch.manual_seed(0)
    head, condition, others = CategoricalHead(8, 13), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    settings = CategoricalSampling(temperature=temperature, top_k=6)
    given = (condition, others, 2.0, settings, ImageNoise(0, torch.arange(2)), torch.arange(5).expand(2, -1))
    codes, confidence = head.draw_with_confidence(*given, 0)
    assert torch.equal(codes, head.draw(*given))
    logits = head(others) + 2 * (head(condition) - head(others))
    if temperature:
        threshold = logits.topk(6).values[..., -1:]
        logits = torch.where(logits < threshold, -math.inf, logits) / temperature
    expected = logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(confidence, expected, rtol=1e-5, atol=1e-6)  # another order of float32 sums
