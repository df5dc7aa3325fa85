"""All that a plug-in has to know: the members that generators, heads, schedules, tokenizers, noise and timers have.

Nothing here is imported to be inherited from: a class that has the members is one. Shapes: B images, N tokens an image
on a raster grid (h, w), n of them revealed by a step, D the width of a condition, C the channels of a continuous token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from arbench.tokenizer.recipe import TokenizerRecipe

State = TypeVar("State")  # of a generation under way, the generator's own
Sampling = TypeVar("Sampling", contravariant=True)  # the sampling settings that a head reads


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a generation stands at a step: what a schedule knows before anything is drawn."""

    index: int  # of the step, from 0
    known: int  # tokens revealed before this step
    size: int  # tokens that it reveals
    total: int  # tokens of an image
    clock: int  # what `cfg_interval` is compared with; below 0 guidance always holds
    hidden_after: int  # tokens that count as hidden after this step, for linear guidance


@dataclass(frozen=True, kw_only=True)
class Step(Stage):
    """One step of a schedule: which tokens are revealed, and where the generation stands."""

    positions: Tensor  # (B, n) raster indices: those revealed, or those that a schedule that looks chooses from


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`order` (B, N): raster index of the k-th revealed token; `sizes`: tokens a step, adding up to N; `clocks`: what
    `cfg_interval` is compared with at each step; `passes`: how often a step runs the network; `least_hidden`: tokens
    that linear guidance counts as hidden when none is any more.

    One that looks at what was drawn is an `arbench.sampling.looking.LookingSchedule`."""

    order: Tensor
    sizes: list[int]
    clocks: list[int]
    passes: int = 1
    least_hidden: int = 1  # MAR release

    @property
    def plan(self) -> list[Stage]:
        """The steps without their positions: all that guidance and a count of operations need."""
        stages, known, total = [], 0, self.order.shape[1]
        for index, (size, clock) in enumerate(zip(self.sizes, self.clocks, strict=True)):
            after = max(total - known - size, self.least_hidden)
            stages.append(Stage(index=index, known=known, size=size, total=total, clock=clock, hidden_after=after))
            known += size
        return stages

    def positions(self, stage: Stage) -> Tensor:
        """Raster indices (B, n) whose conditions a step needs: those that it reveals."""
        return self.order[:, stage.known : stage.known + stage.size]

    def __iter__(self) -> Iterator[Step]:
        for stage in self.plan:
            yield Step(positions=self.positions(stage), **vars(stage))

    def draw(
        self,
        step: Step,
        head: Head,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float,
        settings: object,
        noise: Noise,
    ) -> tuple[Step, Tensor]:
        """The step as it is revealed, and its tokens; `condition` and what follows are the arguments of `head.draw`."""
        return step, head.draw(condition, unconditional, scale, settings, noise, step.positions)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_passes(self) -> int:
        """What a table calls steps: passes of the network through one image."""
        return len(self) * self.passes


class Noise(Protocol):
    """Where the sampler's random numbers come from.

    It may also have `gaussians(count, positions, channels)`, an iterator over `gaussian` of the steps 0 to `count` - 1:
    a head asks it for all denoising steps together.
    """

    def orders(self, num_tokens: int) -> Tensor:
        """A random permutation of the raster indices for each image: (B, N) int64."""

    def uniform(self, positions: Tensor, draw: int = 0) -> Tensor:
        """One number in (0, 1) for each image and raster position (B, n): (B, n) float64; another for each `draw`."""

    def gaussian(self, step: int, positions: Tensor, channels: int) -> Tensor:
        """Standard normals (B, n, channels) float32; step 0 starts a token, step 1 + k is for denoising step k."""


class Timer(Protocol):
    """Told which phase is running, so that it can be timed apart: generator, head, decode."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Count the time inside the `with` block as `name`."""

    def seconds(self) -> dict[str, float]:
        """Seconds by phase so far."""


class Head(Protocol[Sampling]):
    """From conditions to drawn tokens. Where it has parameters, a NaN among them is found and told."""

    def draw(
        self,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float,
        settings: Sampling,
        noise: Noise,
        positions: Tensor,
    ) -> Tensor:
        """Codes (B, n) int64 or continuous tokens (B, n, C) for the raster `positions` (B, n).

        `condition` is (B, n, D), `unconditional` likewise where guidance of `scale` is asked for, else None; `settings`
        is an object of the generator's `sampling_type`. All randomness comes from `noise`.
        """


class PreparableHead(Head[Sampling], Protocol[Sampling]):
    """A head that computes beforehand what all draws of a generation share; another head draws then."""

    def prepare(self, *settings: Sampling) -> Head[Sampling]:
        """What draws under each of `settings`, called once a generation."""


class ConfidentHead(Head[Sampling], Protocol[Sampling]):
    """A head that also tells how sure it is: what a schedule that looks needs."""

    def draw_with_confidence(
        self,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float,
        settings: Sampling,
        noise: Noise,
        positions: Tensor,
        draw: int,
    ) -> tuple[Tensor, Tensor]:
        """As `Head.draw`, and beside each code the logarithm of its probability (B, n); `draw` is that of `noise`."""


class Generator(Protocol[State]):
    """What a method's `model` builds from its configuration: a torch module with these members.

    One that is "discrete" has `vocab_size`, one that is "continuous" has `channels` as well: what its tokenizer has.
    """

    method: str  # the name of its `Method`
    kind: str  # "discrete" or "continuous": the tokens it makes
    grid: tuple[int, int]  # rows and columns of tokens
    num_classes: int  # label `num_classes` means unconditional
    config: Any  # a dataclass; `patch_size`, where it has one, is the side of a token in latents
    sampling_type: type  # a dataclass of sampling settings with `guided`, `cfg_scale`, `cfg_schedule`, `cfg_interval`
    default_sampling: Mapping[str, Any]  # what its preset sets; `load_generator` gives it
    training: bool

    def draw_head(self) -> Head:
        """What draws its tokens."""

    def begin(self, labels: Tensor, guided: bool, reveal_order: Tensor) -> State:
        """The state of a generation with nothing revealed; `labels` (B,), `reveal_order` (B, N).

        A schedule that looks decides the order as it goes, in place: the first entries are those revealed so far.
        """

    def conditions(self, state: State, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Condition vectors (B, n, D) of the step's positions, and the unconditional ones where guided."""

    def reveal(self, state: State, step: Step, tokens: Tensor) -> None:
        """Take in the tokens drawn for the step's positions: (B, n) codes or (B, n, C) continuous."""

    def result(self, state: State) -> Tensor:
        """All tokens: ids (B, h, w), or scaled latents (B, C, H, W)."""

    def loss(self, tokens: Tensor, labels: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Scalar training loss of tokens as `result` gives them; in training mode labels drop for guidance."""

    # Those of torch.nn.Module that are used.
    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any: ...

    def eval(self) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...

    def to(self, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Any: ...


GENERATOR_MEMBERS = (
    *("method", "kind", "grid", "num_classes", "config", "sampling_type"),
    *("draw_head", "begin", "conditions", "reveal", "result", "loss"),
)
TRAINING_MEMBERS = ("recipe", "last_layer", "training_pass", "release_tensors")
TOKENIZER_MEMBERS = ("name", "kind", "downsample", "channels", "vocab_size", "scale", "encode", "decode")
EXTRACTOR_MEMBERS = ("name", "sha256", "resize", "width", "features")
KINDS = ("continuous", "discrete")


@runtime_checkable
class Tokenizer(Protocol):
    """Images to tokens and back.

    `kind` is "continuous" (tokens are (latents − shift) · scale, (B, channels, h, w); both are a number or one a
    channel, a tensor (channels,), and a missing `shift` is 0) or "discrete" (tokens are
    ids (B, h, w) below `vocab_size`); `downsample` is image pixels per token side. Continuous tokenizers with a
    posterior also have `moments(images)`, discrete ones `latents(images)`, `quantize(latents)` and `lookup(ids)`.
    """

    kind: str
    downsample: int
    channels: int
    vocab_size: int | None

    @property
    def name(self) -> str: ...

    @property
    def scale(self) -> float | Tensor: ...

    def encode(self, images: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> tokens; a posterior's mean, or a sample where `rng` is given."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens -> images (B, 3, H, W), about [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class TokenizerPass:
    """Images through a tokenizer and back, with gradients: what the terms of its loss are computed from.

    A continuous one has `mean` and `deviation` of the posterior, each (B, C, h, w). A discrete one has `latents` and
    their `codes` (B, D, h, w), as they are compared, `ids` (B, h, w), and the whole codebook `all_codes` (V, D); its
    reconstruction passes gradients straight through to the latents.
    """

    reconstruction: Tensor  # (B, 3, H, W)
    mean: Tensor | None = None
    deviation: Tensor | None = None
    latents: Tensor | None = None
    codes: Tensor | None = None
    ids: Tensor | None = None
    all_codes: Tensor | None = None


class TrainableTokenizer(Tokenizer, Protocol):
    """A tokenizer that is a torch module and learns by `arbench train`.

    A continuous one also has `set_scale(scale)`, which stores what brings its latents to unit deviation; a discrete one
    `codebook`, the parameter (V, D) of its codes.
    """

    recipe: ClassVar[TokenizerRecipe]

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last layer, where gradients of two losses are compared."""

    def training_pass(self, images: Tensor, rng: torch.Generator) -> TokenizerPass:
        """Images (B, 3, H, W) in [-1, 1] there and back; all randomness comes from `rng`."""

    def release_tensors(self) -> dict[str, Tensor]:
        """The state dict under the names of the tokenizer's files."""


class Extractor(Protocol):
    """An image network with frozen weights, as a third party writes it.

    `sha256` identifies the weights, `resize` says how an image becomes the network's input, `width` is the number of
    features. It may also have `logits(features)` -> (B, K), from what `features` has just returned, for the Inception
    Score; `num_classes`, where those logits are of the labels' classes; and a classmethod `load(weights, device)`, by
    which it is made (without: the class is called with nothing). `weights` is a file or None.
    """

    name: str
    sha256: str
    resize: str
    width: int

    def features(self, images: np.ndarray) -> np.ndarray | Tensor:
        """uint8 (B, H, W, 3) to (B, width). ValueError for a size that the network does not read."""


def missing_members(plugin: object, members: Sequence[str]) -> list[str]:
    """Those of `members` that a plug-in lacks."""
    return [member for member in members if not hasattr(plugin, member)]
