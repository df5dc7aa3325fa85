"""The diffusion head of MAR (arXiv:2406.11838, section 3): a small denoising MLP conditioned on one token's vector."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from arbench.heads.schedule import Diffusion
from arbench.heads.solvers import SOLVERS, Row, Solver, run_solver
from arbench.heads.variational import noise_and_variance_loss
from arbench.machine.fused import Region
from arbench.machine.precision import into_stream
from arbench.machine.transfer import sent
from arbench.protocols import Noise
from arbench.settings import DiffusionSampling

TIME_CHANNELS = 256  # width of the sinusoidal time embedding, MAR release
MAX_PERIOD = 10_000  # longest period of that embedding, MAR release
# Values of the modulation table held at once while sampling; the table is filled in slices of time beyond that.
MODULATION_BUDGET = {"cpu": 2**23, "cuda": 2**28, "meta": 2**28}


def time_embedding(timesteps: Tensor) -> Tensor:
    """Sinusoids of the timesteps, cosines then sines: (M,) -> (M, 256) float32."""
    half = TIME_CHANNELS // 2
    index = torch.arange(half, device=timesteps.device, dtype=torch.float32)
    angles = timesteps.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * index / half)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def steps_at_once(values: int, device: str) -> int:
    """For how many denoising steps the modulations are held at once, those of one being so many values."""
    budget = MODULATION_BUDGET.get(device, MODULATION_BUDGET["cpu"])
    return max(1, budget // max(1, values))


Modulation = Sequence[Tensor]  # shift, gain = 1 + scale and, of a residual block, gate


def split_modulation(modulation: Tensor, parts: int) -> Modulation:
    """(.., parts W) of shift, scale and perhaps gate -> (.., W) each, the scale as a gain."""
    shift, scale, *gate = modulation.chunk(parts, dim=-1)
    return shift, 1 + scale, *gate


class TimeEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        """(M,) -> (M, W)."""
        return self.mlp(time_embedding(timesteps).to(next(self.parameters()).dtype))


class ResidualBlock(nn.Module):
    """x + gate * mlp(shift + gain * norm(x)), with shift, gain and gate given by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """(M, W), three of (M, W) -> (M, W)."""
        shift, gain, gate = modulation
        return torch.addcmul(x, gate, self.mlp(torch.addcmul(shift, self.in_ln(x), gain)))


class FinalLayer(nn.Module):
    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """(M, W), two of (M, W) -> (M, out_channels)."""
        shift, gain = modulation
        return self.linear(torch.addcmul(shift, self.norm_final(x), gain))


def start_as_identity(net: nn.Module, time: TimeEmbedder, blocks: Iterable[nn.Module], final: FinalLayer) -> None:
    """Xavier weights, zero biases; modulations and output of `net` start at zero, so each block is the identity."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for name, parameter in time.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(parameter, std=0.02)
    modulations = [cast("nn.Sequential", block.adaLN_modulation)[1] for block in (*blocks, final)]
    for layer in cast("list[nn.Linear]", [*modulations, final.linear]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


class DenoisingMLP(nn.Module):
    """Predicts the noise in a token and the interpolation of its variance from (x_t, t, z)."""

    def __init__(self, channels: int, condition_width: int, width: int, depth: int) -> None:
        super().__init__()
        self.channels, self.width, self.depth = channels, width, depth
        self.time_embed = TimeEmbedder(width)
        self.cond_embed = nn.Linear(condition_width, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, 2 * channels)
        start_as_identity(self, self.time_embed, self.res_blocks, self.final_layer)

    @property
    def modulation_layers(self) -> list[nn.Linear]:
        """What makes the modulations: a layer a block, the final one's last."""
        return [block.adaLN_modulation[1] for block in [*self.res_blocks, self.final_layer]]

    def modulations(self, timesteps: Tensor, condition: Tensor) -> list[Modulation]:
        """Shift, gain and gate of every block for (t, z); they do not depend on x."""
        activated = torch.nn.functional.silu(self.time_embed(timesteps) + self.cond_embed(condition))
        made = [layer(activated) for layer in self.modulation_layers]
        return [*(split_modulation(values, 3) for values in made[:-1]), split_modulation(made[-1], 2)]

    @Region
    def denoise(self, x: Tensor, modulations: Sequence[Modulation]) -> Tensor:
        """(M, C) and `modulations(t, z)` -> (M, 2C)."""
        hidden = into_stream(self.input_proj, x)
        for block, modulation in zip(self.res_blocks, modulations[:-1], strict=True):
            hidden = block(hidden, modulation)
        return self.final_layer(hidden, modulations[-1])

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """(M, C), (M,), (M, D) -> (M, 2C): predicted noise, then the variance channels."""
        return self.denoise(x, self.modulations(timesteps, condition))


class ModulationTable:
    """Modulations of every kept timestep for one set of conditions, computed in large products, some steps at a time.

    The sum time + condition is the only meeting of t and z, so both embeddings are computed once per set, and the
    product with all blocks' modulation weights serves many denoising steps at once.
    """

    def __init__(self, weight: Tensor, bias: Tensor, time: Tensor, condition: Tensor) -> None:
        """`weight` ((3D + 2) W, W) and `bias` of all blocks; embeddings of the steps (S, W) and conditions (M, W)."""
        self.weight, self.bias, self.time, self.condition = weight, bias, time, condition
        self.steps_at_once = steps_at_once(len(bias) * len(condition), condition.device.type)
        self.first, self.table = -1, weight

    def at(self, index: int) -> list[Modulation]:
        """The modulations of the `index`-th visited timestep."""
        first = index - index % self.steps_at_once
        if first != self.first:
            self.table = self.weight  # what was held goes before its successor is made
            self.table, self.first = self._fill(self.time[first : first + self.steps_at_once]), first
        parts = self.table[index - first].unbind(1)  # 3D + 2 of (M, W)
        return [parts[place : place + 3] for place in range(0, len(parts), 3)]

    def _fill(self, time: Tensor) -> Tensor:
        """Modulations (s, M, 3D + 2, W) of the steps of `time` (s, W), scales as gains."""
        activated = torch.nn.functional.silu(time[:, None] + self.condition)  # (s, M, W)
        made = torch.addmm(self.bias, activated.flatten(0, 1), self.weight.T)
        table = made.view(len(time), len(self.condition), -1, time.shape[1])
        table[:, :, 1::3] += 1  # shift, scale, gate, shift, scale, gate, .. shift, scale
        return table


@dataclass
class DenoisingPlan:
    """The steps of one choice of settings: solver and its coefficients, times (S,) and their embeddings (S, W)."""

    solver: Any
    rows: Sequence[Row]
    visited: Tensor
    time: Tensor


class PreparedHead:
    """A diffusion head with all that no condition changes computed once, for each choice of settings."""

    def __init__(self, net: DenoisingMLP, settings: Sequence[DiffusionSampling]) -> None:
        self.net: Any = net
        layers = net.modulation_layers
        self.weight = torch.cat([layer.weight for layer in layers])  # ((3D + 2) W, W)
        self.bias = torch.cat([layer.bias for layer in layers])
        self.plans: dict[Hashable, DenoisingPlan] = {}
        for one in settings:
            self.plan(one)

    def plan(self, settings: DiffusionSampling) -> DenoisingPlan:
        """The denoising steps of `settings`, made when they are met first."""
        key = (settings.head_sampler, settings.head_steps, settings.temperature)
        if key not in self.plans:
            solver = make_solver(settings)
            visited = sent(torch.from_numpy(solver.visited), self.weight.device)
            self.plans[key] = DenoisingPlan(solver, self._rows(solver), visited, self.net.time_embed(visited))
        return self.plans[key]

    def refresh(self) -> None:
        """Read the weights again, which may have been changed where they are; what is kept stays where it is."""
        layers = self.net.modulation_layers
        sizes = [layer.out_features for layer in layers]
        torch._foreach_copy_(self.weight.split(sizes), [layer.weight for layer in layers])
        torch._foreach_copy_(self.bias.split(sizes), [layer.bias for layer in layers])
        for plan in self.plans.values():
            plan.time.copy_(self.net.time_embed(plan.visited))

    def _rows(self, solver: Solver) -> Sequence[Row]:
        """The solver's coefficients; numbers on the device where that is a GPU: what is compiled serves every step."""
        if self.weight.device.type not in ("cuda", "meta"):  # on the latter it is counted what the former does
            return solver.coefficients
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        table = sent(torch.tensor(solver.coefficients, dtype=dtype), self.weight.device)
        return [row.unbind() for row in table]

    def draw(
        self,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float | Tensor,
        settings: DiffusionSampling,
        noise: Noise,
        positions: Tensor,
    ) -> Tensor:
        """As `DiffusionHead.draw`."""
        plan = self.plan(settings)
        rows = [condition] if unconditional is None else [condition, unconditional]
        embedded = self.net.cond_embed(torch.cat([row.flatten(0, 1) for row in rows]))  # (M, W)
        table = ModulationTable(self.weight, self.bias, plan.time, embedded)

        def predict(x: Tensor, step: int) -> Tensor:
            both = x.to(condition.dtype).flatten(0, 1)
            both = both if len(rows) == 1 else torch.cat((both, both))  # (R n, C)
            return self.net.denoise(both, table.at(step))

        def advance(x: Tensor, predicted: Tensor, added: Tensor | None, step: int) -> Tensor:
            return next_tokens(plan.solver, plan.rows[step], x, predicted, len(rows), scale, added)

        return run_solver(plan.solver, noise, positions, self.net.channels, condition.dtype, predict, advance)


@Region
def next_tokens(
    solver: Solver, row: Row, x: Tensor, predicted: Tensor, copies: int, scale: float | Tensor, noise: Tensor | None
) -> Tensor:
    """The next x (B, n, C) of x, the network's output (copies B n, 2C) and the step's noise (B, n, C)."""
    eps, variance = guided_prediction(predicted.to(x.dtype), copies, scale)
    return solver.step(row, x, eps.view_as(x), variance.view_as(x), noise)


@lru_cache(maxsize=32)
def respaced(num_steps: int) -> Diffusion:
    return Diffusion.cosine(num_steps)


def make_solver(settings: DiffusionSampling) -> Solver:
    """The solver that `settings` name, with as many steps as they say."""
    return SOLVERS[settings.head_sampler](respaced(settings.head_steps), temperature=settings.temperature)


TRAINING_ONLY = ".read_out."  # in the names of tensors that training adds and no weights file holds


class DiffusionHead(nn.Module):
    """Condition vectors to continuous tokens through the denoising MLP, and MAR's Diffusion Loss."""

    def __init__(self, channels: int, condition_width: int, width: int, depth: int) -> None:
        super().__init__()
        self.channels = channels
        self.net = DenoisingMLP(channels, condition_width, width, depth)
        self.read_out: nn.Linear | None = None
        self.read_out_weight = 0.0

    def add_read_out(self, weight: float) -> None:
        """For training: add `weight` times the squared error of a linear guess of the token from its condition.

        The Diffusion Loss weighs what the condition tells by the signal left at each timestep, hardly at all where the
        noise is strong; this tells the backbone directly. The released models know no such layer: set `read_out` to
        None before their weights are written.
        """
        assert weight > 0
        like = self.net.cond_embed.weight
        self.read_out = nn.Linear(like.shape[1], self.channels).to(like)
        self.read_out_weight = weight

    def loss(
        self,
        condition: Tensor,
        tokens: Tensor,
        *,
        rng: torch.Generator | None = None,
        repeats: int = 1,
        timesteps: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Mean Diffusion Loss of `tokens` (..., C) under `condition` (..., D), each token noised `repeats` times.

        `timesteps` (M,) and `noise` (M, C) replace the random ones, M being all tokens times `repeats`.
        """
        condition = condition.flatten(0, -2).repeat(repeats, 1)
        tokens = tokens.flatten(0, -2).repeat(repeats, 1)
        process = respaced(1000)
        if timesteps is None:
            timesteps = torch.randint(len(process.timesteps), (len(tokens),), generator=rng, device=tokens.device)
        if noise is None:
            noise = torch.randn(tokens.shape, generator=rng, device=tokens.device, dtype=tokens.dtype)
        loss = noise_and_variance_loss(self.net, process, tokens, timesteps, noise, condition).mean()
        if self.read_out is not None and self.training:
            loss = loss + self.read_out_weight * nn.functional.mse_loss(self.read_out(condition), tokens)
        return loss

    def draw(
        self,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float,
        settings: DiffusionSampling,
        noise: Noise,
        positions: Tensor,
    ) -> Tensor:
        """Draw a token for each of `positions` (B, n) from conditions (B, n, D): (B, n, C).

        `settings` holds head_steps, head_sampler and temperature. With guidance one x serves both conditions:
        eps = uncond + scale (cond - uncond), while the variance stays the conditional one.
        """
        return self.prepare(settings).draw(condition, unconditional, scale, settings, noise, positions)

    def prepare(self, *settings: DiffusionSampling) -> PreparedHead:
        """The head for a generation under `settings`, those of all its steps: its draws are the same, and do less."""
        return PreparedHead(self.net, settings)


def guided_prediction(predicted: Tensor, copies: int, scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """Guided noise and conditional variance channels, (M, ..., C) each, of (copies M, ..., 2C).

    With two copies the second half is unconditional: eps = uncond + scale (cond - uncond).
    """
    eps, variance = predicted.chunk(2, dim=-1)
    if copies == 1:
        return eps, variance
    conditional, unconditional = eps.chunk(2)
    scale = scale.to(eps.dtype) if isinstance(scale, Tensor) else scale
    return torch.lerp(unconditional, conditional, scale), variance[: len(conditional)]
