"""What training a tokenizer will take, told before anything is read: steps, terms, operations and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16

from arbench.tokenizer.recipe import TokenizerLosses
from arbench.training.discriminator import PatchDiscriminator
from arbench.training.engine import Engine, listed, recompute_blocks
from arbench.training.job import Job
from arbench.training.parts import number_of_parts
from arbench.training.plan import BACKWARD, FLOAT, TrainingPlan, fewer_activations
from arbench.training.tokenizer_job import empty_tokenizer
from arbench.weights.load import without_memory

Computed = dict[nn.Module, Callable[[], object]]  # blocks, each with the inputs that it had
PAIR = 2  # images counted: one patch of one is too few for a batch norm


@dataclass(frozen=True, kw_only=True)
class TokenizerPlan(TrainingPlan):
    """The figures of one training of a tokenizer; `flops` are those of an image and step, None where not known."""

    losses: TokenizerLosses
    kind: str
    rivals: int  # parameters of the discriminator
    flops: float | None

    def sentences(self, device: torch.device | None) -> Iterator[str]:
        yield from super().sentences(device)
        flops = "" if self.flops is None else f"; {self.flops / 1e12:.2f} TFLOP an image"
        yield f"loss {' + '.join(self._terms())}{flops}"

    def _terms(self) -> Iterator[str]:
        losses = self.losses
        yield f"{losses.distance_weight:g} {losses.distance.upper()}"
        if losses.perceptual_weight:
            yield f"{losses.perceptual_weight:g} LPIPS"
        if self.kind == "discrete":
            yield f"{losses.codebook_weight:g} codebook + {losses.commitment_weight:g} commitment"
            if losses.entropy_weight:
                yield f"{losses.entropy_weight:g} entropy"
        else:
            yield f"{losses.kl_weight:g} KL"
        if losses.discriminator_weight:
            how = "adaptive, " if losses.adaptive_weight else ""
            begins = f"{how}from step {losses.discriminator_start:,}, {self.rivals / 1e6:.1f} M parameters"
            yield f"{losses.discriminator_weight:g} hinge ({begins})"


def plan_tokenizer(job: Job, processes: int, engine: Engine) -> TokenizerPlan:
    """The plan of a tokenizer's job whose recipe knows its images (`TrainConfig.for_images`)."""
    config, losses = job.config, TokenizerLosses(**job.losses)
    assert job.size is not None
    tokenizer = empty_tokenizer(job)
    with without_memory():
        rival = PatchDiscriminator(losses.discriminator_layers) if losses.discriminator_weight else None
    own = sum(weight.numel() for weight in tokenizer.parameters())
    rivals = 0 if rival is None else sum(weight.numel() for weight in rival.parameters())
    parts = number_of_parts(config, processes)
    each = config.batch_size // parts
    whole, flops = costs_of_image(tokenizer, rival, losses, job.size)
    fewer = recomputed_bytes(tokenizer, rival, losses, job.size) if whole else None
    kept = fewer if engine.recompute else whole
    weights = FLOAT * (own + rivals)
    return TokenizerPlan(
        model=job.target,
        parameters=own,
        config=config,
        processes=processes,
        parts=parts,
        sharded=False,
        weights=weights,
        gradients=weights,
        average=weights if config.ema_rate else 0,
        activations=None if kept is None else kept * each,
        remedies=tuple(fewer_activations(kept, fewer, each)),
        hours=None,
        losses=losses,
        kind=tokenizer.kind,
        rivals=rivals,
        flops=flops,
    )


def costs_of_image(
    tokenizer: nn.Module, rival: PatchDiscriminator | None, losses: TokenizerLosses, size: int
) -> tuple[int | None, float | None]:
    """Bytes kept for the backward pass of an image of `size` pixels a side, and operations of its step.

    Counted on networks without memory, in float32: bfloat16 keeps less. None for both where the tokenizer does not tell
    its encoder and decoder apart.
    """
    if not all(hasattr(tokenizer, name) for name in ("encode_raw", "decode_raw")):
        return None, None
    image = torch.zeros(PAIR, 3, size, size, device="meta")
    with without_memory():
        judge = vgg16(weights=None).features if losses.perceptual_weight else nn.Identity()
    networks = [network for network in (tokenizer, rival, judge) if network is not None]
    weights = {weight.untyped_storage()._cdata for network in networks for weight in network.parameters()}
    kept: dict[int, Tensor] = {}
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(partial(_note, kept), lambda tensor: tensor):
        trained: Any = tokenizer
        latents = trained.encode_raw(image)[:, : trained.channels]  # of a posterior: its mean
        reconstruction = trained.decode_raw(latents)
        for network, shown in ((judge, reconstruction), *((rival, seen) for seen in (reconstruction, image, image))):
            if network is not None:
                network(shown)
    sizes = [tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in weights]
    return sum(sizes) // PAIR, (1 + BACKWARD) * counter.get_total_flops() / PAIR


def recomputed_bytes(
    tokenizer: nn.Module, rival: PatchDiscriminator | None, losses: TokenizerLosses, size: int
) -> int | None:
    """The same bytes where blocks are computed again: of each its input, and the largest block while its turn is.

    A level of the networks is a block of blocks: computed again, it keeps inputs of those within.
    """
    given: Computed = {}

    def note(block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        given[block] = partial(type(block).forward, block, *inputs, **named)

    watched = [block.register_forward_pre_hook(note, with_kwargs=True) for block in listed(tokenizer)]
    costs_of_image(tokenizer, None, replace(losses, perceptual_weight=0.0), size)
    for hook in watched:
        hook.remove()
    recompute_blocks(tokenizer)
    inputs, _ = costs_of_image(tokenizer, rival, losses, size)
    return None if inputs is None else inputs + max((kept_of(block, given) for block in given), default=0) // PAIR


def kept_of(block: nn.Module, given: Computed) -> int:
    """Bytes kept of a block while it is computed again as in `given`, and of the largest block within as well."""
    kept: dict[int, Tensor] = {}
    with saved_tensors_hooks(partial(_note, kept), lambda tensor: tensor):
        given[block]()
    weights = {weight.untyped_storage()._cdata for weight in block.parameters()}
    own = sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in weights)
    return own + max((kept_of(within, given) for within in listed(block) if within in given), default=0)


def _note(kept: dict[int, Tensor], tensor: Tensor) -> Tensor:
    """Remember a tensor that autograd keeps, once for all that share its memory."""
    kept.setdefault(tensor.untyped_storage()._cdata, tensor)
    return tensor
