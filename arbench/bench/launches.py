"""Kernel launches, copies between host and device and host waits of a batch, counted without a GPU.

The sampler runs as it is on tensors that have shapes and no values (torch's "meta" device stands for the GPU), and
every operation on them is counted: a count and no time. Views and allocations launch nothing. Steps of the same shape
are counted once and added as often as they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from arbench.bench.baselines import Beside
from arbench.generators.methods import get_method
from arbench.heads.diffusion import PreparedHead
from arbench.machine.precision import Precision, set_precision
from arbench.protocols import Generator, Head, PreparableHead, Step, Timer
from arbench.sampling.algorithm import NoTimer, draw_steps
from arbench.sampling.engine import Engine, Replays
from arbench.sampling.noise import ImageNoise
from arbench.settings import Guidance

LAUNCH_SECONDS = 5e-6  # of the host, for a small kernel issued by PyTorch: a guess; a virtual machine took 17e-6
# Operations that put nothing on the device: what asks for shapes, what allocates, and what training alone does.
FREE = (
    *("prim.", "aten.empty", "aten.new_empty", "aten.detach", "aten.lift_fresh", "aten.dropout"),
    *("aten.sym_", "aten.is_", "aten.size"),
)
COPIES = ("aten._to_copy", "aten.copy_", "aten.to.")
DEVICE = "meta"
REPLAY = "graph replay"
BFLOAT16 = Precision.of("bfloat16")


@cache
def traits(func: OpOverload) -> tuple[str, bool, bool]:
    """Of an operation: its name, whether it is a view or puts nothing on the device, whether it may be a copy."""
    name = str(func)
    is_copy = name.startswith(COPIES)
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    return name, name.startswith(FREE) or (is_view and not is_copy), is_copy


class Launches(TorchDispatchMode):
    """Counts what runs inside: `ops` launched on the device, `copies` between host and device, by name; by phase too.

    It is a timer as well: its phases are the sampler's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[tuple[str, str]] = Counter()  # (phase, operation)
        self.copies: Counter[tuple[str, str]] = Counter()
        self.in_graphs = 0
        self._phase = "outside"

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out, (name, is_free, is_copy) = func(*args, **(kwargs or {})), traits(func)
        made = next((x for x in pytree.tree_leaves(out) if isinstance(x, Tensor)), None)
        if made is None or is_free:
            return out
        given = next((x for x in args if isinstance(x, Tensor)), made)
        if is_copy:
            source = args[1] if name.startswith("aten.copy_") else given
            if isinstance(source, Tensor) and source.device != made.device:
                self.copies[self._phase, name] += 1
            elif name.startswith("aten.to.") and given.dtype == made.dtype:
                return out  # nothing to convert
        if made.device.type == DEVICE:
            self.ops[self._phase, name] += 1
        return out

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._phase, before = name, self._phase
        try:
            yield
        finally:
            self._phase = before

    def seconds(self) -> dict[str, float]:
        return {}

    def replay(self) -> None:
        """Count the launch of a graph."""
        self.ops[self._phase, REPLAY] += 1


class Once:
    """Calls of one key count as the first of them did, and return what it returned."""

    def __init__(self, count: Launches) -> None:
        self.count = count  # of what runs now
        self._known: dict[Hashable, tuple[Any, Counter[tuple[str, str]], Counter[tuple[str, str]]]] = {}

    def __call__(self, key: Hashable, call: Callable[[], Any]) -> Any:
        count = self.count
        if key in self._known:
            out, ops, copies = self._known[key]
            count.ops.update(ops)
            count.copies.update(copies)
            return out
        before = Counter(count.ops), Counter(count.copies)
        out = call()
        self._known[key] = out, count.ops - before[0], count.copies - before[1]
        return out


class OnceMethod:
    """`whole` with calls of one method, on tensors of one shape, counted once."""

    def __init__(self, whole: object, method: str, once: Once) -> None:
        self._whole, self._method, self._once = whole, method, once

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._whole, name)
        if name != self._method:
            return value

        def call(*given: Any) -> Any:
            shapes = tuple(x.shape if isinstance(x, Tensor) else x is None for x in given)
            return self._once((name, shapes), lambda: value(*given))

        return call


class OnceHead:
    """A head whose draws of one shape are counted once, and of a diffusion head's denoising steps one."""

    def __init__(self, head: Head, once: Once) -> None:
        self._head, self._once, self._is_first = head, once, True

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._head, name)
        return self._prepare if name == "prepare" else value

    def _prepare(self, *settings: Guidance) -> OnceHead:
        prepared = cast(PreparableHead, self._head).prepare(*settings)
        if isinstance(prepared, PreparedHead):
            prepared.net = OnceMethod(prepared.net, "denoise", self._once)
            for plan in prepared.plans.values():
                plan.solver = OnceMethod(plan.solver, "step", self._once)
        return OnceHead(prepared, self._once)

    def draw(
        self, condition: Tensor, unconditional: Tensor | None, scale: float, settings: Hashable, *rest: Any
    ) -> Tensor:
        # The first draws numbers for all.
        key = ("draw", settings, condition.shape, unconditional is None, self._is_first)
        self._is_first = False
        return self._once(key, lambda: self._head.draw(condition, unconditional, scale, settings, *rest))


class OnceGenerator(Beside):
    """A generator whose steps of one size, after steps of one size, are counted once."""

    def __init__(self, generator: Generator, once: Once) -> None:
        super().__init__(generator)
        self._once, self._before = once, 0

    def draw_head(self) -> OnceHead:
        return OnceHead(self._generator.draw_head(), self._once)

    def conditions(self, state: object, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        key = ("conditions", step.size, self._before, guided)
        self._before = step.size
        return self._once(key, lambda: self._generator.conditions(state, step, guided))


class OnceRecorded(OnceGenerator):
    """A generator whose steps are recorded: those with a cache are few, tell it how far it is filled, and are counted
    as they come."""

    def conditions(self, state: object, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        if self.steps_have_places:  # each is recorded by itself, and has no cache
            return super().conditions(state, step, guided)
        return self._generator.conditions(state, step, guided)


@dataclass(frozen=True, kw_only=True)
class LaunchCount:
    """Of one batch: launches by phase, copies inside the loop and before it, and what waited for the device."""

    batch_size: int
    phases: dict[str, int]
    copies_in_loop: int
    copies_before: int
    waits: int
    operations: dict[str, int]
    in_graphs: int = 0  # what the replays of graphs launch by themselves, where regions are not compiled

    @property
    def total(self) -> int:
        return sum(self.phases.values())

    @property
    def seconds(self) -> float:
        """What issuing them takes the host, at `LAUNCH_SECONDS` each."""
        return self.total * LAUNCH_SECONDS


class CountedReplays(Replays):
    """What would be a graph is run when it is first met, and is one launch from then on."""

    def __init__(self, device: torch.device, count: Launches, once: Once) -> None:
        super().__init__(device)
        self._count, self._once, self._returned = count, once, dict[Hashable, Any]()
        self._inside: dict[Hashable, int] = {}

    def __call__(self, key: Hashable, call: Callable[[], Any]) -> Any:
        if key in self._returned:
            self._count.replay()  # of the first batch's nobody is told
            self._count.in_graphs += self._inside[key]
        else:
            with Launches() as inside:
                self._once.count = inside
                self._returned[key] = call()
            self._inside[key] = inside.ops.total()
        return self._returned[key]


class CountedEngine(Engine):
    def __init__(self, count: Launches, once: Once) -> None:
        super().__init__()
        self._count, self._once = count, once

    def make_replays(self, device: torch.device) -> Replays:
        return CountedReplays(device, self._count, self._once)


def draw_counted(engine: str, generator: Generator, labels: Tensor, settings: Guidance, count: Launches) -> None:
    """Draw a batch under the eye of `count`; of the graph engine one more was drawn before, unseen."""
    if engine == "eager":
        with count:
            draw_steps(OnceGenerator(generator, Once(count)), labels, settings, ImageNoise(0, labels), count)
        return
    once = Once(count)
    graphs, generator = CountedEngine(count, once), OnceRecorded(generator, once)
    # The first batch makes the graphs, the second is counted.
    rounds: list[tuple[Timer, AbstractContextManager[object]]] = [(NoTimer(), nullcontext()), (count, count)]
    for timer, watch in rounds:
        count.ops.clear()
        count.in_graphs = 0
        with watch:
            static, noise = graphs.static(generator, labels, settings, seed=0)
            draw_steps(static, labels, settings, noise, timer)


def count_launches(
    generator: Generator,
    settings: Guidance,
    batch_size: int,
    precision: Precision = BFLOAT16,
    engine: str = "eager",
) -> LaunchCount:
    """What a batch of `generator` (any device, meta too) launches on a CUDA device under `settings`, in `precision`.

    Decoding is left out. With the graph `engine` a replay is one launch, and the graphs are there already. What waits
    for the device, because it asks for values, ends the count: `waits` is 1 then.
    """
    count, waits = Launches(), 0
    with torch.inference_mode():
        pretended = pretend(generator, precision)
        labels = torch.zeros(batch_size, dtype=torch.int64, device=DEVICE)
        try:
            draw_counted(engine, pretended, labels, settings, count)
        except (RuntimeError, NotImplementedError) as error:
            if "meta" not in str(error).lower():
                raise
            waits = 1
    phases: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    for (phase, name), number in count.ops.items():
        phases[phase] += number
        operations[name] += number
    before = sum(number for (phase, _), number in count.copies.items() if phase == "outside")
    return LaunchCount(
        batch_size=batch_size,
        phases=dict(phases),
        copies_in_loop=count.copies.total() - before,
        copies_before=before,
        waits=waits,
        operations=dict(operations.most_common()),
        in_graphs=count.in_graphs,
    )


def pretend(generator: Generator, precision: Precision) -> Generator:
    """A generator of the same shape whose tensors have no values."""
    with torch.device(DEVICE):
        model = get_method(generator.method).model(generator.config)
    set_precision(model, precision)
    return model.eval()
