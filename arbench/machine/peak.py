"""How fast a device can go at most: data sheets of GPUs, and a measurement of this CPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from arbench.machine.hardware import cpu_name, num_cores
from arbench.machine.work import Peak

MATMUL_SIDE = 512  # of the product that measures a CPU: near its peak, yet seconds long where a dtype has no fast path
FLOATS = 1 << 25  # of what is copied and read, 128 MiB: more than a last-level cache
ATTEMPTS = 7  # the best of as many counts


# NVIDIA's data sheets, SXM modules, dense: operations a second in half precision, in float32 (as TF32, so that the
# bound holds where TF32 is allowed) and in float64 (tensor cores), then bytes a second. A slower variant of the same
# name stays below these.
GPU_PEAKS = {
    "A100": (312.0e12, 156.0e12, 19.5e12, 2.039e12),
    "H100": (989.4e12, 494.7e12, 66.9e12, 3.35e12),
    "H200": (989.4e12, 494.7e12, 66.9e12, 4.8e12),
}
# Their memory in gigabytes of 10^9 bytes. Drivers find a little more: room for the libraries' own.
GPU_MEMORY = (("A100", 40), ("A100", 80), ("H100", 80), ("H200", 141))
COLUMNS = {torch.bfloat16: 0, torch.float16: 0, torch.float32: 1, torch.float64: 2}


def device_peak(device: torch.device, dtype: torch.dtype) -> Peak | None:
    """The peak of `device` in `dtype`: from the table for GPUs, measured for the CPU; None for an unknown device."""
    if device.type == "cpu":
        return measure_cpu(dtype)
    if device.type == "cuda":
        return gpu_peak(torch.cuda.get_device_properties(device).name, dtype)
    return None


def gpu_peak(name: str, dtype: torch.dtype) -> Peak | None:
    """The data sheet's peak of the GPU called `name`; None where it is not in the table."""
    for model, row in GPU_PEAKS.items():
        if model in name:
            return Peak(device=name, flops=row[COLUMNS[dtype]], bandwidth=row[-1], source="data sheet, dense")
    return None


def measure_cpu(dtype: torch.dtype) -> Peak:
    """What this CPU reaches with the threads it was given: a product of two square matrices, a copy, and a read.

    Of copy and read the faster counts: before it writes, a copy may read what it writes over. Both are larger than the
    caches; weights that stay in them (the digits models') move faster than they say.
    """
    a, b = (torch.randn(MATMUL_SIDE, MATMUL_SIDE).to(dtype) for _ in range(2))
    source, target = torch.ones(FLOATS), torch.empty(FLOATS)  # zeros may be one page of the system's, over and over
    size, threads = 4 * FLOATS, torch.get_num_threads()
    return Peak(
        device=cpu_name(),
        flops=2 * MATMUL_SIDE**3 / best_seconds(lambda: a @ b),
        bandwidth=max(2 * size / best_seconds(lambda: target.copy_(source)), size / best_seconds(source.sum)),
        source=f"measured here: {MATMUL_SIDE}² product, copy and read of {size >> 20} MiB, {threads} threads",
    )


def best_seconds(function: Callable[[], object]) -> float:
    """The shortest of a few calls, after one that does not count: this process's CPU time, shared by its threads.

    Other processes' load lengthens the clock's time and not this one.
    """
    function()
    threads = min(torch.get_num_threads(), num_cores())
    seconds = []
    for _ in range(ATTEMPTS):
        start = time.process_time()
        function()
        seconds.append((time.process_time() - start) / threads)
    return min(seconds)
