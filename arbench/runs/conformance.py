"""The conformance test of a generator: what `arbench models check` looks at, one named check after another.

Models are tiny, with random weights everywhere: layers that start at zero would hide what they do. Most checks run in
float64, where another batch or another way of computing changes a token by less than any draw can see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from arbench.generators.methods import get_method, method_by_module, presets
from arbench.generators.spec import Method
from arbench.machine.checks import Check, CheckSkipped, require, run_check, same
from arbench.machine.hardware import available_devices
from arbench.protocols import KINDS, Generator, Step
from arbench.registry import GENERATORS, IMPORT_SECONDS, time_limit
from arbench.sampling.algorithm import generate
from arbench.settings import settings_of
from arbench.weights.configure import build_generator

SEED = 0
DEVIATION = 0.2  # of every weight
EXACT = 1e-8  # share of the largest value by which float64 may differ with the order of sums
GUIDANCE_OF_ONE = 1 + 1e-9  # takes the guided way, with the strength of none
ALMOST_EXACT = 1e-5  # of latents under it
DEVICE_TOLERANCE = 1e-2  # another device computes in float32 with other kernels
QUICK = {"num_iter": 3, "head_steps": 4}  # settings that would only make the checks slow
TINY_SET = 4  # images that training has to learn by heart
TRAINING_STEPS, LEARNING_RATE = 30, 1e-2
LOSS_DRAWS = 8  # losses that are averaged, for one is noisy


def check_generator(method: Method, config: Mapping[str, Any] | None = None) -> list[Check]:
    """Every check of the protocol on a model of `config`; None takes the method's tiny one, else its default preset's.

    Nothing is raised for a generator that fails: whatever a check raises is its failure. ValueError where there is no
    configuration to build.
    """
    preset = method.default_preset
    own = config or method.tiny or (None if preset is None else preset.config)
    if own is None:
        raise ValueError(f"method {method.name!r} has neither a tiny configuration nor a preset; expected either")
    probe = Probe(method, own)
    built = run_check("members", probe.members)
    if built.outcome == "failed":
        return [built]
    return [built, *(run_check(name, getattr(probe, name)) for name in probe.names())]


class Probe:
    """The checks, one method each; a method returns what it saw, raises ValueError where the protocol is broken."""

    def __init__(self, method: Method, config: Mapping[str, Any]) -> None:
        self.method, self.config = method, config

    def names(self) -> Iterator[str]:
        """The checks in their order, after `members`."""
        return (name for name in vars(Probe) if not name.startswith("_") and name not in ("names", "members"))

    def _fresh(self, seed: int = SEED, **changes: Any) -> Generator:
        """A model as its method builds it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_generator(self.method.name, {**self.config, **changes})

    @torch.no_grad()
    def _model(self, seed: int = SEED, *, dtype: torch.dtype = torch.float64, **changes: Any) -> Generator:
        """A model with random weights everywhere, in evaluation mode."""
        model, rng = self._fresh(seed, **changes), torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.copy_(DEVIATION * torch.randn(parameter.shape, generator=rng))
        return model.to(dtype=dtype).eval()

    def _draw(
        self, model: Generator, labels: Sequence[int], ids: Sequence[int] | None = None, seed: int = SEED, **more: Any
    ) -> Tensor:
        known = settings_of(model.sampling_type)
        quick = {name: value for name, value in {**QUICK, **more}.items() if name in known}
        return generate(model, labels, seed=seed, image_ids=ids, **quick)

    def _labels(self, model: Generator) -> list[int]:
        """Three images: the first class, the last, and none."""
        return [0, model.num_classes - 1, model.num_classes]

    def _tokens(self, model: Generator, count: int = TINY_SET) -> Tensor:
        """Random tokens of the shape that the model draws."""
        drawn, rng = self._draw(model, [0]), torch.Generator().manual_seed(SEED)
        shape = (count, *drawn.shape[1:])
        if model.kind == "discrete":
            return torch.randint(model.vocab_size, shape, generator=rng)  # type: ignore[attr-defined]
        return torch.randn(shape, generator=rng, dtype=drawn.dtype)

    def members(self) -> str:
        """It can be built, has every member, and they are of the right sort."""
        model = self._fresh()
        require(model.method == self.method.name, f"method is {model.method!r}; expected {self.method.name!r}")
        require(model.kind in KINDS, f"kind is {model.kind!r}; expected one of {', '.join(KINDS)}")
        counts = {"num_classes": model.num_classes, "rows": model.grid[0], "columns": model.grid[1]}
        counted = "vocab_size" if model.kind == "discrete" else "channels"
        require(hasattr(model, counted), f"lacks {counted}, which a {model.kind} generator has")
        for name, value in {**counts, counted: getattr(model, counted)}.items():
            require(isinstance(value, int) and value > 0, f"{name} is {value!r}; expected a positive integer")
        require(dataclasses.is_dataclass(model.config), "config is no dataclass")
        require(bool(settings_of(model.sampling_type)), "sampling_type has no settings of arbench.settings")
        require(model.sampling_type in self.method.sampling, "sampling_type is not among the method's `sampling`")
        rows, columns = model.grid
        return f"{model.kind}, {rows}x{columns} tokens, {counted} {getattr(model, counted)}"

    def schedule(self) -> str:
        """Every token is revealed exactly once in every image."""
        model = self._model()
        steps: list[Step] = []
        reveal = model.reveal

        def noted(state: object, step: Step, tokens: Tensor) -> None:
            steps.append(step)  # what a schedule that looks has chosen is known only now
            reveal(state, step, tokens)

        model.reveal = noted  # type: ignore[method-assign]
        self._draw(model, [0, 0, 0])
        total, revealed = model.grid[0] * model.grid[1], 0
        for step in steps:
            require(step.size > 0, "a step reveals no token")
            require(step.positions.shape[1] == step.size, f"a step of {step.size} reveals {step.positions.shape[1]}")
            require(step.known == revealed, f"a step says {step.known} tokens are known; {revealed} are")
            revealed += step.size
        order = torch.cat([step.positions for step in steps], dim=1)
        every = torch.arange(total).expand(3, -1)
        require(torch.equal(order.sort(dim=1).values, every), f"its steps do not reveal each of {total} tokens once")
        return f"{total} tokens in {len(steps)} steps"

    def tokens(self) -> str:
        """Tokens have the shape and range that `kind` says, for classes and for none."""
        model = self._model()
        drawn = self._draw(model, self._labels(model), cfg_scale=2.0)
        require(drawn.shape[0] == 3, f"{len(drawn)} images for 3 labels")
        if model.kind == "discrete":
            require(drawn.dtype == torch.int64, f"ids are {drawn.dtype}; expected int64")
            require(tuple(drawn.shape[1:]) == tuple(model.grid), f"ids of shape {tuple(drawn.shape)}")
            vocab_size = model.vocab_size  # type: ignore[attr-defined]
            require(bool((drawn >= 0).all()) and bool((drawn < vocab_size).all()), "ids lie outside the codebook")
        else:
            channels = model.channels  # type: ignore[attr-defined]
            require(drawn.dim() == 4 and drawn.shape[1] == channels, f"latents of shape {tuple(drawn.shape)}")
            require(bool(torch.isfinite(drawn).all()), "latents are not finite")
        return f"{tuple(drawn.shape)} {drawn.dtype}".replace("torch.", "")

    def repeatable(self) -> str:
        """The same seed gives the same tokens, another one others."""
        model = self._model()
        labels = self._labels(model)
        first, second = (self._draw(model, labels) for _ in range(2))
        require(torch.equal(first, second), "two generations from one seed differ")
        other = self._draw(model, labels, seed=SEED + 1)
        require(not torch.equal(first, other), "another seed gives the same tokens")
        return "two generations agree"

    def batch_invariance(self) -> str:
        """An image's tokens do not depend on its batch."""
        model = self._model()
        labels = self._labels(model)
        together = self._draw(model, labels, range(3), cfg_scale=2.0)
        alone = [self._draw(model, [label], [image], cfg_scale=2.0) for image, label in enumerate(labels)]
        return same(torch.cat(alone), together, EXACT, "alone and in a batch")

    def cache(self) -> str:
        """With its cache and without it draws the same."""
        if "kv_cache" not in {field.name for field in dataclasses.fields(self.method.config)}:
            raise CheckSkipped("no kv_cache in its configuration")
        cached, uncached = self._model(kv_cache=True), self._model(kv_cache=False)
        labels = self._labels(cached)
        ways = [self._draw(model, labels, cfg_scale=2.0) for model in (cached, uncached)]
        return same(ways[0], ways[1], EXACT, "cached and uncached")

    def guidance(self) -> str:
        """Guidance of scale 1 is the conditional prediction."""
        model = self._model()
        labels = self._labels(model)
        guided = self._draw(model, labels, cfg_scale=GUIDANCE_OF_ONE, cfg_schedule="constant")
        return same(guided, self._draw(model, labels, cfg_scale=1.0), ALMOST_EXACT, "guidance of 1 and none")

    def dtypes(self) -> str:
        """Latents, and the loss, are of the model's own dtype."""
        seen = []
        for dtype in (torch.float32, torch.bfloat16):
            model = self._model(dtype=dtype)
            drawn = self._draw(model, [0], cfg_scale=2.0)
            wanted = torch.int64 if model.kind == "discrete" else dtype
            require(drawn.dtype == wanted, f"a model in {dtype} draws {drawn.dtype}; expected {wanted}")
            seen.append(str(drawn.dtype).removeprefix("torch."))
        return ", ".join(seen)

    def device_move(self) -> str:
        """On the machine's fastest device it draws there what it draws here."""
        kind = available_devices()[0]
        if kind == "cpu":
            raise CheckSkipped("this machine has the CPU only")
        model = self._model(dtype=torch.float32)
        labels = self._labels(model)
        expected = self._draw(model, labels)
        found = self._draw(model.to(device=kind), labels)
        require(found.device.type == kind, f"on {kind} it draws tokens on {found.device.type}")
        if model.kind == "discrete":  # a rounding may turn a draw, and all that follow it
            return f"{kind}: {float((found.cpu() == expected).double().mean()):.0%} of the ids are equal"
        return f"{kind}: {same(found.cpu(), expected, DEVICE_TOLERANCE, 'here and there')}"

    def state_dict(self) -> str:
        """Another model with its state draws what it draws."""
        model, other = self._model(), self._model(SEED + 1)
        labels = self._labels(model)
        expected = self._draw(model, labels)
        require(not torch.equal(self._draw(other, labels), expected), "other weights draw the same tokens")
        state = {name: value.clone() for name, value in model.state_dict().items()}
        other.load_state_dict(state)
        require(torch.equal(self._draw(other, labels), expected), "with its state another model draws other tokens")
        return f"{len(state)} tensors"

    def training(self) -> str:
        """The loss is a finite number, and falls where a few images are learned by heart."""
        model = self._fresh().to(dtype=torch.float32)
        tokens = self._tokens(model.eval())
        labels = torch.arange(TINY_SET) % model.num_classes
        before = self._loss(model, tokens, labels)
        optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        rng = torch.Generator().manual_seed(SEED)
        model.train()
        for _ in range(TRAINING_STEPS):
            optimiser.zero_grad()
            model.loss(tokens, labels, rng=rng).backward()
            optimiser.step()
        after = self._loss(model.eval(), tokens, labels)
        require(after < before, f"the loss of {TINY_SET} images goes from {before:.4g} to {after:.4g} by training")
        return f"{before:.4g} -> {after:.4g} in {TRAINING_STEPS} steps"

    @torch.no_grad()
    def _loss(self, model: Generator, tokens: Tensor, labels: Tensor) -> float:
        """The mean of a few losses from fixed random numbers."""
        rng = torch.Generator().manual_seed(SEED)
        losses = torch.stack([model.loss(tokens, labels, rng=rng) for _ in range(LOSS_DRAWS)])
        require(losses.dim() == 1, f"loss has shape {tuple(losses.shape[1:])}; expected a scalar")
        require(bool(torch.isfinite(losses).all()), "loss is not finite")
        return float(losses.mean())


def find_checked(name: str) -> tuple[Method, Mapping[str, Any] | None]:
    """The method of a method's or a preset's name or `module:Name`, with the preset's configuration, if it is one.

    Raises ValueError for an unknown name, and for one that cannot be imported in a minute.
    """
    with time_limit(IMPORT_SECONDS):
        if name in GENERATORS.installed():  # no other plug-in is imported first
            return get_method(name), None
        if ":" in name:
            return method_by_module(name), None
    known = presets()
    if name in known:
        return get_method(known[name].method), known[name].config
    return get_method(name), None
