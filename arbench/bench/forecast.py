"""What a batch asks of a GPU by either engine, counted, and what would bound it there: launching, or the device."""

from __future__ import annotations

from typing import Any, Optional

from arbench.bench.launches import REPLAY, LaunchCount, count_launches
from arbench.machine.peak import gpu_peak
from arbench.machine.work import Peak
from arbench.runs.models import Parts
from arbench.runs.roofline import Roofline
from arbench.sampling.engine import engine_name

ENGINES = ("eager", "graph")
Peaks = tuple[Optional[Peak], Optional[Peak]]  # of the generator and of the decoder
FORECAST_GPU = "A100"  # whose data sheet forecasts are made by where there is no GPU; the papers' own was one


def describe_launches(parts: Parts, batch_size: int, work: Roofline | None, peaks: Peaks) -> dict[str, Any]:
    """What a batch launches on a GPU, copies and waits for by each engine, decoding left out, and what bounds it there.

    `peaks` are the generator's and the decoder's on the device of `parts`. The forecast holds the host's seconds, at
    `LAUNCH_SECONDS` a launch, against the roofline's floor on that GPU, off CUDA on `FORECAST_GPU`; it is None where
    the floor is unknown. An engine that the model has not got is None.
    """
    if parts.device.type != "cuda":
        peaks = (gpu_peak(FORECAST_GPU, parts.precision.products), gpu_peak(FORECAST_GPU, parts.decode_dtype))
    device_seconds = floor_seconds(batch_size, work, peaks)
    found: dict[str, Any] = {}
    for engine in ENGINES:
        found[engine] = None
        if engine_name(engine, parts.generator) == engine:
            count = count_launches(parts.generator, parts.settings, batch_size, parts.precision, engine)
            found[engine] = describe_count(count, device_seconds)
    return {**found, "forecast": describe_forecast(parts, peaks, device_seconds)}


def floor_seconds(batch_size: int, work: Roofline | None, peaks: Peaks) -> float | None:
    """The roofline's floor of a batch without decoding; None where the work or a peak is unknown."""
    generator, decoder = peaks
    if work is None or generator is None:
        return None
    floor = work.floor(generator, decoder)
    return batch_size * sum(seconds for name, seconds in floor.items() if name != "decode")


def describe_count(count: LaunchCount, device_seconds: float | None) -> dict[str, Any]:
    """A count as JSON holds it; `total` is what the host issues, replays of graphs included."""
    bound = None
    if device_seconds is not None:
        bound = "launch-bound" if count.seconds > device_seconds else "device-bound"
    return {
        "total": count.total,
        "by_phase": count.phases,
        "replays": count.operations.get(REPLAY, 0),
        "in_graphs": count.in_graphs,
        "copies_in_loop": count.copies_in_loop,
        "copies_before": count.copies_before,
        "waits": count.waits,
        "launch_seconds": count.seconds,
        "forecast": bound,
    }


def describe_forecast(parts: Parts, peaks: Peaks, device_seconds: float | None) -> dict[str, Any] | None:
    """On which GPU and by what the forecast is made."""
    generator = peaks[0]
    if generator is None or device_seconds is None:
        return None
    return {
        "gpu": generator.device,
        "dtype": parts.precision.name,
        "source": generator.source,
        "floor_seconds": device_seconds,
        "is_this_device": parts.device.type == "cuda",
    }
