"""How a tokenizer is trained: the terms of its loss, and the published training, as data beside the tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from arbench.generators.recipe import Above0, NotNegative, NotNegativeInt, Share, TrainConfig
from arbench.protocols import TRAINING_MEMBERS, TrainableTokenizer
from arbench.tokenizer.load import find_tokenizer
from arbench.validation import SHORT, Limits, check_fields

DISTANCES = ("l1", "l2")


@dataclass(frozen=True, kw_only=True)
class TokenizerLosses:
    """Weights of the terms; a term of weight 0 is not computed. Steps are counted from 1.

    Terms of the codebook are those of a discrete tokenizer, `kl_weight` that of a continuous one. Raises ValueError for
    a number that cannot be meant.
    """

    distance: Annotated[str, Limits(choices=DISTANCES)] = "l2"  # of reconstruction and image, a mean over all values
    distance_weight: NotNegative = 1.0
    perceptual_weight: NotNegative = 0.0  # LPIPS with VGG-16 (arXiv:1801.03924)
    summed: bool = False  # distance and LPIPS count once a value of an image, not once an image (LDM)
    codebook_weight: NotNegative = 1.0  # codes towards latents (arXiv:1711.00937, equation 3)
    commitment_weight: NotNegative = 0.25  # latents towards codes
    entropy_weight: NotNegative = 0.0  # sure of each code, unsure which (LlamaGen release, off in its command)
    entropy_temperature: Above0 = 0.01
    kl_weight: NotNegative = 0.0  # of the posterior from the unit Gaussian, summed over an image's latents
    discriminator_weight: NotNegative = 0.0  # of the hinge term in the tokenizer's loss; 0: no discriminator
    discriminator_loss_weight: NotNegative = 1.0  # of the discriminator's own loss
    discriminator_start: NotNegativeInt = 0  # the first step with it; before it learns nothing and is not asked
    discriminator_layers: Annotated[int, Limits(least=1)] = 3  # that halve the sides
    adaptive_weight: bool = False  # taming-transformers' `calculate_adaptive_weight`
    unit_codes: bool = False  # the codebook starts as unit vectors
    revive_until: Share = 0.0  # share of the steps during which codes that nothing chooses are moved onto latents

    def __post_init__(self) -> None:
        check_fields(TokenizerLosses, vars(self), wording=SHORT, kind="setting of a tokenizer's loss")

    def changed(self, given: Mapping[str, Any]) -> TokenizerLosses:
        """With what is `given`. Raises ValueError for an unknown name or an impossible value."""
        check_fields(TokenizerLosses, given, wording=SHORT, kind="setting of a tokenizer's loss")
        return dataclasses.replace(self, **given)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe:
    """A tokenizer's training: the terms, optimiser and length, and the side of its images in pixels."""

    losses: TokenizerLosses
    config: TrainConfig
    size: int


def trainable(name: str) -> type[TrainableTokenizer]:
    """The class of the tokenizer `name`, not built. Raises ValueError where it is unknown or does not learn."""
    found = find_tokenizer(name)
    lacking = [member for member in TRAINING_MEMBERS if not hasattr(found, member)]
    if lacking:
        raise ValueError(
            f"tokenizer {name!r} cannot be trained: it lacks {', '.join(lacking)}; see tokenizers/README.md for what a "
            "tokenizer that learns has"
        )
    return found
