"""What is trained: a classifier on images, a generator on cached tokens; a tokenizer is `tokenizer_task`'s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arbench.generators.common.tokens import latent_size
from arbench.generators.recipe import TrainConfig
from arbench.heads.diffusion import TRAINING_ONLY
from arbench.machine.transfer import sent
from arbench.protocols import Generator
from arbench.training.cache import CacheSpec
from arbench.training.data import ImageBatches
from arbench.training.reading import Examples, ReadsAhead
from arbench.training.start import set_dropout, start_positions, zero_output
from arbench.weights.provenance import TokenizerFacts

Logged = Mapping[str, "float | Tensor"]  # scalars; tensors may lie on a device, where nobody waits for them yet


class ClassifierTask:
    """Cross-entropy of a classifier, images (B, 3, H, W) to logits (B, classes)."""

    def __init__(self, model: nn.Module, batches: ImageBatches) -> None:
        self.model, self.batches = model, batches

    def __len__(self) -> int:
        return len(self.batches)

    def read_ahead(self, coming: Iterator[Examples]) -> None:
        """As `ReadsAhead` has it."""
        self.batches.read_ahead(coming)

    def weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def loss(self, indices: Tensor, rng: torch.Generator) -> tuple[Tensor, Logged]:
        images, labels = self.batches.batch(indices, rng)
        logits = self.model(images)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return F.cross_entropy(logits, labels), {"accuracy": accuracy}

    def after_step(self, step: int, config: TrainConfig, rng: torch.Generator) -> None:
        """Nothing to do."""


class Tokens(ReadsAhead, Protocol):
    """The tokens of a data set by the numbers of its images: `TokenCache` or `FreshTokens`."""

    @property
    def spec(self) -> CacheSpec:
        """What they are."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64"""

    def __len__(self) -> int: ...

    def tokens(self, indices: Tensor, rng: torch.Generator) -> Tensor:
        """Those of images `indices` (B,), all randomness from `rng`: ids (B, h, w) int64 or scaled latents."""


class GeneratorTask:
    """A generator's own loss on tokens of a data set; the label is dropped inside it for guidance.

    `config` may ask for a better start and a better-conditioned loss, which short trainings need. Raises ValueError
    where the tokens are of another kind or shape than the generator makes, or it has not what `config` asks for.
    """

    def __init__(
        self,
        model: Generator,
        cache: Tokens,
        config: TrainConfig,
        *,
        tokenizer: TokenizerFacts | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`tokenizer` made the tokens; `start` are weights to go on from, in place of a fresh start."""
        self.model: Any = model
        self.cache, self.tokenizer = cache, tokenizer
        self._check_fit()
        if start is not None:
            model.load_state_dict(start)
        elif config.sinusoidal_positions:
            start_positions(model)
        if config.zero_output and start is None:
            zero_output(model)
        if config.dropout:
            set_dropout(cast("nn.Module", model), config.dropout)
        if config.read_out_weight:
            if not hasattr(model, "diffloss"):
                raise ValueError("read_out_weight is for generators with a diffusion head; expected 0 for this one")
            model.diffloss.add_read_out(config.read_out_weight)

    def _check_fit(self) -> None:
        model, cache = self.model, self.cache
        found = "discrete" if cache.spec.content == "codes" else "continuous"
        if found != model.kind:
            raise ValueError(f"tokenizer {cache.spec.tokenizer!r} makes {found} tokens; expected {model.kind} ones")
        wanted = latent_size(model)
        if tuple(cache.spec.shape[-2:]) != wanted:
            shape = "x".join(map(str, cache.spec.shape[-2:]))
            raise ValueError(f"images become {shape} tokens; expected {wanted[0]}x{wanted[1]}; change --size")

    def __len__(self) -> int:
        return len(self.cache)

    def read_ahead(self, coming: Iterator[Examples]) -> None:
        """As `ReadsAhead` has it."""
        self.cache.read_ahead(coming)

    def weights(self) -> dict[str, Tensor]:
        """The generator's tensors without those that only training needs."""
        return {name: value for name, value in self.model.state_dict().items() if TRAINING_ONLY not in name}

    def loss(self, indices: Tensor, rng: torch.Generator) -> tuple[Tensor, Logged]:
        tokens = self.cache.tokens(indices, rng)
        return self.model.loss(tokens, sent(self.cache.labels[indices], rng.device), rng=rng), {}

    def after_step(self, step: int, config: TrainConfig, rng: torch.Generator) -> None:
        """Nothing to do."""
