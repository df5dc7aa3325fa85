"""Training of a tokenizer: its own loss, a discriminator against it from a given step, and the use of its codebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arbench.generators.recipe import TrainConfig
from arbench.protocols import TokenizerPass, TrainableTokenizer
from arbench.tokenizer.recipe import TokenizerLosses
from arbench.training.discriminator import (
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from arbench.training.perceptual import Perceptual
from arbench.training.reading import Examples
from arbench.training.tokenizer_losses import latent_terms, reconstruction_terms

REVIVE_EVERY = 50  # steps
REVIVE_IMAGES = 256  # a code that none of their tokens chooses is dead
REMEMBERED_IDS = 65_536  # that use and perplexity are of (LlamaGen release)


class Batches(Protocol):
    """Where the images come from."""

    def __len__(self) -> int: ...

    def images(self, indices: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 3, H, W) floats in [-1, 1] of the examples `indices`."""

    def read_ahead(self, coming: Iterator[Examples]) -> None:
        """As `reading.ReadsAhead` has it."""


class Rivals(nn.Module):
    """A tokenizer's parts under their own names and a discriminator beside them as `loss.discriminator`, as LDM has it.

    So that a checkpoint of training is one of LDM's, and whoever reads a tokenizer skips what training alone needs.
    """

    def __init__(self, tokenizer: nn.Module, discriminator: nn.Module | None) -> None:
        super().__init__()
        for name, child in tokenizer.named_children():
            self.add_module(name, child)
        for name, parameter in tokenizer.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in tokenizer.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        if discriminator is not None:
            self.add_module("loss", nn.ModuleDict({"discriminator": discriminator}))


class TokenizerTask:
    """The loss of a tokenizer and, where its recipe has one, of a discriminator, in one backward pass.

    The tokenizer's loss has no gradient to the discriminator's weights and the discriminator's none to the tokenizer's,
    both see the same reconstructions, and Adam knows no weight but its own: one step of one optimiser over both is
    LlamaGen's step of one and then of the other. Each network's gradients are clipped by themselves.
    """

    def __init__(
        self,
        tokenizer: TrainableTokenizer,
        batches: Batches,
        losses: TokenizerLosses,
        *,
        perceptual: Perceptual | None = None,
        fresh: bool = True,
    ) -> None:
        """`perceptual` is needed where `losses` weigh it; one that is not `fresh` goes on from given weights."""
        assert isinstance(tokenizer, nn.Module)
        assert (perceptual is not None) == bool(losses.perceptual_weight)
        self.tokenizer: TrainableTokenizer = tokenizer
        self.batches, self.losses, self.perceptual = batches, losses, perceptual
        place = tokenizer.last_layer
        self.discriminator: PatchDiscriminator | None = None
        if losses.discriminator_weight:
            self.discriminator = PatchDiscriminator(losses.discriminator_layers).to(place.device)
        self.model: nn.Module = Rivals(tokenizer, self.discriminator)
        self.step = 0
        self.use = CodebookUse(tokenizer.vocab_size, place.device) if tokenizer.kind == "discrete" else None
        if fresh and losses.unit_codes:
            normalise_codes(tokenizer)

    def __len__(self) -> int:
        return len(self.batches)

    def read_ahead(self, coming: Iterator[Examples]) -> None:
        """As `ReadsAhead` has it."""
        self.batches.read_ahead(coming)

    def weights(self) -> dict[str, Tensor]:
        """The tokenizer's tensors as its files name them."""
        return self.tokenizer.release_tensors()

    def before_step(self, step: int) -> None:
        """Step `step` (0-based) is next."""
        self.step = step

    def networks(self) -> list[list[nn.Parameter]]:
        """The tokenizer's weights, then the discriminator's."""
        rivals = [] if self.discriminator is None else list(self.discriminator.parameters())
        own = [weight for weight in self.model.parameters() if all(weight is not other for other in rivals)]
        return [own, rivals] if rivals else [own]

    def loss(self, indices: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        images = self.batches.images(indices, rng)
        found = self.tokenizer.training_pass(images, rng)
        rebuilding, terms = reconstruction_terms(found, images, self.losses, self.perceptual)
        of_latents, more_terms = latent_terms(found, self.losses)
        total = rebuilding if of_latents is None else rebuilding + of_latents
        terms.update(more_terms)
        if self.discriminator is not None:
            against, rival_terms = self._rivalry(images, found.reconstruction, rebuilding)
            total = total + against
            terms.update(rival_terms)
        if self.use is not None and found.ids is not None:
            terms.update(self.use.seen(found.ids))
        return total, {name: term.detach() for name, term in terms.items()}

    def _rivalry(self, images: Tensor, reconstruction: Tensor, rebuilding: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What both networks lose to each other, and its terms; before its start the discriminator has gradients 0."""
        assert self.discriminator is not None
        losses, discriminator = self.losses, self.discriminator
        if self.step + 1 < losses.discriminator_start:
            silent = sum((weight.sum() for weight in discriminator.parameters()), images.new_zeros(()))
            return 0 * silent, {}
        adversarial = hinge_generator_loss(discriminator.judge(reconstruction))
        weight = torch.ones_like(adversarial)
        if losses.adaptive_weight:
            weight = adaptive_weight(rebuilding, adversarial, self.tokenizer.last_layer)
        real, fake = discriminator(images), discriminator(reconstruction.detach())
        judged = hinge_discriminator_loss(real, fake)
        terms = {"adversarial": adversarial, "adversarial_weight": weight, "discriminator": judged}
        terms.update(logits_real=real.mean(), logits_fake=fake.mean())
        return losses.discriminator_weight * weight * adversarial + losses.discriminator_loss_weight * judged, terms

    def after_step(self, step: int, config: TrainConfig, rng: torch.Generator) -> None:
        """Every `REVIVE_EVERY` steps of the recipe's share of them, move codes that nothing chose onto latents."""
        until = self.losses.revive_until * config.steps
        if not until or step % REVIVE_EVERY or step > until:
            return
        chosen = torch.randint(len(self), (REVIVE_IMAGES,), generator=rng, device=rng.device).cpu()
        revive_codes(self.tokenizer, self.batches.images(chosen, rng), rng)


class CodebookUse:
    """How much of a codebook the last ids have used; those of this process alone."""

    def __init__(self, vocab_size: int | None, device: torch.device) -> None:
        assert vocab_size is not None
        self.vocab_size = vocab_size
        self._ids = torch.full((REMEMBERED_IDS,), vocab_size, device=device)  # `vocab_size` stands for none yet

    def seen(self, ids: Tensor) -> dict[str, Tensor]:
        """Remember `ids` (B, h, w); the share of codes used and the perplexity, scalars on the device."""
        self._ids = torch.cat((self._ids, ids.flatten()))[-REMEMBERED_IDS:]
        counts = torch.zeros(self.vocab_size + 1, device=ids.device).index_add_(
            0, self._ids, torch.ones_like(self._ids, dtype=torch.float32)
        )[:-1]
        chances = counts / counts.sum()
        entropy = -torch.special.xlogy(chances, chances).sum()
        return {"codes_used": (counts > 0).float().mean(), "perplexity": entropy.exp()}


@torch.no_grad()
def normalise_codes(tokenizer: TrainableTokenizer) -> None:
    """Let the codebook start as unit vectors (LlamaGen release)."""
    codebook = codebook_of(tokenizer)
    codebook.copy_(F.normalize(codebook, dim=1))


@torch.no_grad()
def revive_codes(tokenizer: TrainableTokenizer, images: Tensor, rng: torch.Generator) -> int:
    """Move every code that `images` (B, 3, H, W) never use onto one of their latents; return how many moved."""
    found: TokenizerPass = tokenizer.training_pass(images, rng)
    assert found.ids is not None
    assert found.latents is not None
    codebook = codebook_of(tokenizer)
    counts = found.ids.flatten().bincount(minlength=len(codebook))
    dead = (counts == 0).nonzero().flatten()
    vectors = found.latents.permute(0, 2, 3, 1).flatten(0, 2)  # (B, D, h, w) -> (B h w, D)
    chosen = torch.randint(len(vectors), (len(dead),), generator=rng, device=rng.device).to(vectors.device)
    codebook[dead] = vectors[chosen].to(codebook)
    return len(dead)


def codebook_of(tokenizer: TrainableTokenizer) -> Tensor:
    """The parameter (V, D) of a discrete tokenizer's codes."""
    codebook: Tensor = tokenizer.codebook  # type: ignore[attr-defined]
    return codebook
