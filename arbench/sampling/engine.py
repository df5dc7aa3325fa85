"""The graph engine: the sampling algorithm on static buffers, its steps recorded once and replayed.

The generator and its head are wrapped, and `draw_steps` runs as it is. What a step reads is copied into buffers that
stay where they are; steps of one shape are one recording. The first time a shape is met the step is called, which warms
it up, the second time it is recorded as a CUDA graph, from then on replayed. On other devices a replay is a call of the
same function on the same buffers: slower than the eager engine, and for tests of what a graph would compute.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from arbench.heads.preparation import prepare_head
from arbench.machine.fused import EngineWarning, compiled_regions
from arbench.machine.transfer import kept_constants
from arbench.machine.waits import watched
from arbench.protocols import Generator, Head, Step
from arbench.registry import unknown_name
from arbench.sampling.looking import LookingSchedule
from arbench.sampling.noise import ImageNoise
from arbench.sampling.schedules import one_schedule
from arbench.settings import Guidance, resolve_settings


class Replays:
    """Functions of static buffers by the shape of what they do: called, recorded, then replayed, in one memory pool.

    What a replay returns lies in the pool, where the next replay of another function may write over it. A function must
    not hold these replays: what holds itself is freed late, and a pool on a GPU has to go when its owner does.
    """

    def __init__(self, device: torch.device, backend: str | None = None) -> None:
        """`backend` of the compiler that makes few kernels of the regions; None: the usual one on a GPU, else none."""
        self._device = device
        self._calls: dict[Hashable, Callable[[], Any]] = {}
        self._recorded: dict[Hashable, tuple[Any, Any, list[Tensor]]] = {}  # graph, what it returns, its constants
        self._pool: Any = None if device.type != "cuda" else torch.cuda.graph_pool_handle()
        self._stream: torch.cuda.Stream | None = None
        self._is_broken = device.type != "cuda"
        self._backend = "inductor" if backend is None and not self._is_broken else backend
        # Whether a call is watched once before it is recorded, for strangers' code. One that waits cannot be recorded,
        # and a recording that breaks off may leave PyTorch's allocator as if it still went on.
        self.watches = False

    def __call__(self, key: Hashable, call: Callable[[], Any]) -> Any:
        """What `call` returns. Those of one key do the same on the same buffers, so the first is kept for all."""
        if key not in self._calls:
            self._calls[key] = call
            return self._call(key)
        if key not in self._recorded and not self._is_broken:
            if self.watches:
                returned, waited = watched(lambda: self._call(key))
                if waited:
                    self._give_up("it waits for the device")
                    return returned
            self._record(key)
        return self.replay(key)

    def replay(self, key: Hashable) -> Any:
        if key not in self._recorded:
            return self._call(key)
        graph, returned, _ = self._recorded[key]
        graph.replay()
        return returned

    def _call(self, key: Hashable) -> Any:
        with compiled_regions(self._backend):
            return self._calls[key]()

    def _capture(self, graph: torch.cuda.CUDAGraph, key: Hashable) -> Any:
        """As `torch.cuda.graph` does it, without its waiting and collecting of memory before each of many graphs."""
        if self._stream is None:
            torch.cuda.empty_cache()  # what is left of warming up cannot make room for the pool during a recording
            self._stream = torch.cuda.Stream(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                return self._call(key)
            finally:
                graph.capture_end()

    def _record(self, key: Hashable) -> None:
        """Record without running; where that fails, say so once and call from now on."""
        graph = torch.cuda.CUDAGraph()
        try:
            with kept_constants() as constants:
                returned = self._capture(graph, key)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._give_up(str(error).strip().partition("\n")[0])
            return
        self._recorded[key] = graph, returned, constants

    def _give_up(self, reason: str) -> None:
        self._is_broken = True
        warnings.warn(f"engine graph: a step could not be recorded, eager instead: {reason}", EngineWarning, 3)


class Buffers:
    """Tensors that stay where they are, filled with what is given under their names."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, list[Tensor]] = {}

    def fill(self, key: Hashable, given: Tensor) -> Tensor:
        """The buffer `key` with the values of `given`."""
        return self.fill_all(key, given)[0]

    def fill_all(self, key: Hashable, *given: Tensor) -> list[Tensor]:
        """The buffers `key` with the values of `given`, all of one dtype: one kernel copies them."""
        if key not in self._kept:
            self._kept[key] = [x.clone(memory_format=torch.contiguous_format) for x in given]
        else:
            torch._foreach_copy_(self._kept[key], list(given))
        return self._kept[key]


class StaticNoise(ImageNoise):
    """The random numbers of one batch after another, whose image ids and uniform numbers are buffers."""

    def __init__(self, seed: int, image_ids: Tensor, num_tokens: int) -> None:
        super().__init__(seed, image_ids.clone())
        places = torch.arange(num_tokens, device=image_ids.device)
        self._places = places.expand(len(image_ids), -1)
        self._table: Tensor | None = None

    def restart(self, image_ids: Tensor, is_discrete: bool) -> None:
        """Numbers for the images of another batch."""
        self.image_ids.copy_(image_ids)
        if not is_discrete:
            return
        drawn = super().uniform(self._places)
        self._table = drawn if self._table is None else self._table.copy_(drawn)

    def uniform(self, positions: Tensor, draw: int = 0) -> Tensor:
        if draw != 0 or self._table is None:
            return super().uniform(positions, draw)
        return self._table.gather(1, positions)


class ReplayedHead:
    """A head whose draws are replayed; the noise is its own."""

    def __init__(self, head: Head, settings: Guidance, noise: StaticNoise, replays: Replays) -> None:
        self._head: Any = prepare_head(head, settings)  # given a scale that is a tensor
        self._noise, self._replays, self._buffers = noise, replays, Buffers()
        self._scale = torch.ones((), dtype=torch.float64, device=noise.image_ids.device)
        self._told_scale = 1.0

    def refresh(self) -> None:
        """What was prepared of the weights is prepared of those that stand there now."""
        if hasattr(self._head, "refresh"):
            self._head.refresh()

    def draw(
        self,
        condition: Tensor,
        unconditional: Tensor | None,
        scale: float,
        settings: object,
        noise: object,
        positions: Tensor,
    ) -> Tensor:
        """As the head's own."""
        if scale != self._told_scale:
            self._scale.fill_(scale)
            self._told_scale = scale
        key = ("draw", settings, condition.shape, unconditional is None)
        rows = self._buffers.fill_all(key, *(x for x in (condition, unconditional) if x is not None))
        first, second = rows[0], rows[1] if len(rows) == 2 else None
        places = self._buffers.fill((*key, "places"), positions)
        head, fixed, own = self._head, self._scale, self._noise
        if hasattr(head, "plan"):  # made here where it is met first, not inside what is recorded or compiled
            head.plan(settings)
        return self._replays(key, lambda: head.draw(first, second, fixed, settings, own, places))


class ReplayedGenerator:
    """A generator whose steps are replayed, with a static state that one batch after another fills."""

    def __init__(self, generator: Any, settings: Guidance, noise: StaticNoise, replays: Replays) -> None:
        self._generator, self._replays, self._buffers = generator, replays, Buffers()
        self._head = ReplayedHead(generator.draw_head(), settings, noise, replays)
        self._state: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def draw_head(self) -> ReplayedHead:
        return self._head

    def begin(self, labels: Tensor, guided: bool, reveal_order: Tensor) -> Any:
        if self._state is None:
            self._state = self._generator.begin(labels.clone(), guided, reveal_order.clone(), static=True)
            self._whole = dict(vars(self._state))
        else:
            self._head.refresh()
            vars(self._state).update(self._whole)  # rows that were dropped come back
            self._generator.restart(self._state, labels, reveal_order)
        return self._state

    def conditions(self, state: Any, step: Step, guided: bool) -> tuple[Tensor, Tensor | None]:
        key = ("conditions", self._generator.step_shape(state, step, guided))
        if self._generator.steps_have_places:
            positions = state.order[:, step.known : step.known + step.size]
        else:
            positions = self._buffers.fill(key, step.positions)
        fixed, generator = replace(step, positions=positions), self._generator
        return self._replays(key, lambda: generator.conditions(state, fixed, guided))

    def result(self, state: object) -> Tensor:
        return self._generator.result(state).clone()  # the state's tensors are the next batch's


class Engine:
    """Graphs of one generator, batch size, seed and settings at a time; freed with it, or when one of these changes."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._generator: Any = None
        self._noise: Any = None
        self.replays: Replays | None = None

    def static(
        self, generator: Generator, image_ids: Tensor, settings: Guidance, seed: int
    ) -> tuple[ReplayedGenerator, StaticNoise]:
        """`generator` and the noise of the images (B,) as `draw_steps` takes them."""
        weights = tuple((value.data_ptr(), value.dtype) for value in generator.parameters())
        key = (id(generator), len(image_ids), seed, settings, weights)
        if key != self._key:
            self.forget()  # the old graphs go before the new ones come
            self.replays = self.make_replays(image_ids.device)
            self._noise = StaticNoise(seed, image_ids, generator.grid[0] * generator.grid[1])
            self._generator = ReplayedGenerator(generator, settings, self._noise, self.replays)
            self._key = key
        self._noise.restart(image_ids, generator.kind == "discrete")
        return self._generator, self._noise

    def forget(self) -> None:
        """Free the graphs and all that they read and write."""
        self._key = self._generator = self._noise = self.replays = None

    def make_replays(self, device: torch.device) -> Replays:
        return Replays(device)


ENGINES = ("auto", "eager", "graph")
# What a generator has whose steps can be recorded, beside `begin(.., static=True)`: see CausalBackbone, MaskedBackbone.
STATIC_MEMBERS = ("restart", "step_shape", "steps_have_places")
# MAR-B's first batch of 64 took half a minute to compile on an H200; graphs save 4 s a batch then (results/gpu.md).
GRAPH_BATCHES = 32


def check_engine(name: str) -> str:
    """`name`; ValueError with the nearest one where no engine is called so."""
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    return name


def engine_name(name: str, generator: Generator, batches: int = 1) -> str:
    """What `name` comes to for `batches` of `generator`: "eager", or "graph" where `make_engine` makes one.

    "auto" is graphs where they are worth their recording: on CUDA, for `GRAPH_BATCHES` or more.
    """
    asked = check_engine(name)
    if asked == "auto" and next(iter(generator.parameters())).is_cuda and batches >= GRAPH_BATCHES:
        asked = "graph"
    return "graph" if asked == "graph" and has_static_steps(generator) else "eager"


def has_static_steps(generator: Generator) -> bool:
    """Whether what a step does is known before it: not where the schedule looks at what was drawn."""
    if not all(hasattr(generator, member) for member in STATIC_MEMBERS):
        return False
    return not isinstance(one_schedule(generator, resolve_settings(generator, {})), LookingSchedule)


def make_engine(name: str, generator: Generator, batches: int = 1) -> Engine | None:
    """The engine that `engine_name` tells, None for the eager one.

    A generator without `STATIC_MEMBERS`, or whose schedule looks at what was drawn, has no graph: that is told where
    one is asked for. Raises ValueError for an unknown name.
    """
    if engine_name(name, generator, batches) == "graph":
        return Engine()
    if name == "graph":
        warnings.warn(f"engine graph: method {generator.method!r} has no static steps, eager instead", EngineWarning, 3)
    return None
