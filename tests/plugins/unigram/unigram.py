"""A generator as small as can be: every token is drawn on its own, from a table of its class and place.

It has the members that are written in `arbench.protocols.Generator` and no other, and leaves out of its `Method` all
that may be left out: operations, memory, released files, weights cards, recipes, looks of plots.
"""

from dataclasses import dataclass

import torch
from torch import nn

from arbench import Method, Preset
from arbench.protocols import Schedule
from arbench.settings import Guidance


@dataclass(frozen=True, kw_only=True)
class UnigramConfig:
    vocab_size: int
    num_classes: int = 10
    grid: tuple[int, int] = (8, 8)

    def __post_init__(self):
        side = self.grid
        object.__setattr__(self, "grid", (side, side) if isinstance(side, int) else tuple(side))


class TableHead:
    """Logits are the conditions themselves."""

    def draw(self, condition, unconditional, scale, settings, noise, positions):
        logits = condition if unconditional is None else torch.lerp(unconditional, condition, scale)
        mass = logits.double().softmax(-1).cumsum(-1)
        return torch.searchsorted(mass, noise.uniform(positions)[..., None]).squeeze(-1).clamp(max=logits.shape[-1] - 1)


class Unigram(nn.Module):
    method = "unigram"
    kind = "discrete"
    sampling_type = Guidance

    def __init__(self, config):
        super().__init__()
        self.config, self.grid, self.num_classes = config, config.grid, config.num_classes
        self.vocab_size = config.vocab_size
        self.table = nn.Parameter(
            torch.zeros(config.num_classes + 1, config.grid[0] * config.grid[1], config.vocab_size)
        )

    def draw_head(self):
        return TableHead()

    def begin(self, labels, guided, reveal_order):
        return {"labels": labels, "tokens": torch.zeros_like(reveal_order)}

    def conditions(self, state, step, guided):
        images = torch.arange(len(step.positions), device=step.positions.device)[:, None]
        known = self.table[state["labels"]][images, step.positions]
        none = self.table[self.num_classes][step.positions]
        return known, none if guided else None

    def reveal(self, state, step, tokens):
        state["tokens"].scatter_(1, step.positions, tokens)

    def result(self, state):
        return state["tokens"].unflatten(1, self.grid)

    def loss(self, tokens, labels, *, rng=None):
        if self.training:
            dropped = torch.rand(labels.shape, generator=rng, device=labels.device) < 0.1
            labels = labels.masked_fill(dropped, self.num_classes)
        return nn.functional.cross_entropy(self.table[labels].flatten(0, 1), tokens.flatten())


def at_once(generator, settings, noise, labels):
    """All tokens in one step."""
    total = generator.grid[0] * generator.grid[1]
    order = torch.arange(total, device=labels.device).expand(len(labels), -1)
    return Schedule(order=order, sizes=[total], clocks=[-1])


METHOD = Method(
    name="unigram",
    config=UnigramConfig,
    model=Unigram,
    schedule=at_once,
    sampling=(Guidance,),
    presets=(
        Preset(
            name="unigram-digits",
            method="unigram",
            config={"vocab_size": 256},
            tokenizer="digits-vq",
            image_size=32,
            data="digits",
        ),
    ),
)


class Silent(Unigram):
    """Cannot be trained or drawn from."""

    method = "unigram-memberless"
    loss = draw_head = property()


MEMBERLESS = Method(
    name="unigram-memberless",
    config=UnigramConfig,
    model=Silent,
    schedule=at_once,
    sampling=(Guidance,),
    tiny={"vocab_size": 5},
)
