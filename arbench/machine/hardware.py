"""This machine: device and dtype by name, what a record says about hardware and versions, peak memory."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from arbench import __version__
from arbench.registry import unknown_name

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("float32", "bfloat16", "float16", "float64")
# Packages whose version can change a measured number.
MEASURED_WITH = ("torch", "torchvision", "numpy", "scipy", "timm", "torch-fidelity")
GIB = 1 << 30


def resolve_device(name: str = "auto", local_rank: int = 0, automatic: Sequence[str] = DEVICES) -> torch.device:
    """The device called `name`; "auto" is CUDA, else MPS, else the CPU, as far as they are in `automatic`. Process
    `local_rank` gets its own GPU.

    Raises ValueError for an unknown name and for a device this machine lacks.
    """
    kind, _, index = str(name).partition(":")
    if kind not in DEVICES or (index and not (index.isascii() and index.isdigit())):
        raise unknown_name("device", str(name), DEVICES)
    present = available_devices()
    if kind == "auto":
        kind = next(kind for kind in present if kind in automatic)
    if kind not in present:
        raise ValueError(f"device {name!r} is not available here; expected one of: auto, {', '.join(present)}")
    if kind != "cuda":
        return torch.device(kind)
    number = int(index) if index else local_rank % torch.cuda.device_count()
    if number >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not available here; there are {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", number)


def use_device(device: torch.device) -> torch.device:
    """`device`, which becomes PyTorch's current one: what names none, as a stream that is left does, would else open
    GPU 0 in every process."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def device_name(name: str = "auto", automatic: Sequence[str] = DEVICES) -> str:
    """What `resolve_device` finds, by name; without a GPU's number where none is given, as each process has its own.

    Raises as that does.
    """
    found = resolve_device(name, automatic=automatic)
    return str(found) if ":" in str(name) else found.type


def available_devices() -> list[str]:
    """Kinds of device of this machine, fastest first."""
    found = [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()), ("cpu", True)]
    return [kind for kind, present in found if present]


def resolve_dtype(name: str, what: str = "dtype") -> torch.dtype:
    """The torch dtype called `name`. Raises ValueError, naming `what` it is of, with the nearest name."""
    if str(name) not in DTYPES:
        raise unknown_name(what, str(name), DTYPES)
    return getattr(torch, str(name))


def synchronize(device: torch.device) -> None:
    """Wait for everything queued on `device`."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextlib.contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """No TF32 and no autocast inside; what was set before comes back. Images and features vary with both."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on `device`, or in the machine's memory for the CPU and MPS.

    On CUDA what PyTorch keeps of freed tensors is among them, which to the device is taken.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    facts = _proc_facts("/proc/meminfo")
    if "MemAvailable" in facts:
        return int(facts["MemAvailable"].split()[0]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def reset_peak_memory(device: torch.device) -> None:
    """Start `peak_memory_gib` anew, where the device or the system can (CUDA, Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.path.exists("/proc/self/clear_refs"):
        # Locked-down containers forbid it: the peak then counts from the start of the process.
        with contextlib.suppress(PermissionError), open("/proc/self/clear_refs", "w", encoding="ascii") as control:
            control.write("5")  # proc(5): resets the high-water mark of the resident set


def peak_memory_gib(device: torch.device) -> float:
    """Most memory since the last reset in GiB: allocated on a CUDA device, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    facts = _proc_facts("/proc/self/status")
    if "VmHWM" in facts:
        return int(facts["VmHWM"].split()[0]) * 1024 / GIB
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def _proc_facts(path: str) -> dict[str, str]:
    """The `name: value` lines of a file under /proc, empty on systems without it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    except FileNotFoundError:
        return {}


def describe_hardware(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What a record says about where it was measured; memory in GiB."""
    facts: dict[str, Any] = {"device": device.type, "name": cpu_name(), "cores": num_cores()}
    facts["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts.update(name=properties.name, memory_gib=round(properties.total_memory / GIB, 1))
    facts["threads"] = torch.get_num_threads()
    facts["processes"] = processes
    return facts


def num_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's model name."""
    return _proc_facts("/proc/cpuinfo").get("model name") or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of arbench, Python and the packages a number depends on."""
    found = {"arbench": __version__, "python": platform.python_version()}
    for package in MEASURED_WITH:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
