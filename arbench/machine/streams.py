"""Work beside the main stream of a device: a CUDA stream of its own, copies that nobody waits for yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


class Side:
    """A stream beside the main one. On a device without streams there is none, and its work is done at once."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def runs_beside(self) -> bool:
        """Whether what is queued here runs while the main stream goes on."""
        return self._stream is not None

    @contextmanager
    def after(self, *given: Tensor) -> Iterator[None]:
        """Inside, work is queued here, behind all that the current stream has to do so far; it reads `given`."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            for tensor in given:
                tensor.record_stream(self._stream)  # not handed out anew before it was read
        with self.beside():
            yield

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Inside, work is queued here and waits for nothing else."""
        with torch.cuda.stream(self._stream):  # None: stays where it is
            yield


class Fetched:
    """A tensor on its way to the host: from a CUDA device through pinned memory, behind what is queued so far."""

    def __init__(self, values: Tensor) -> None:
        self._there: torch.cuda.Event | None = None
        self._source: Tensor | None = values  # its memory is another's only once it was copied
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._there = torch.cuda.Event(blocking=True)
            self._there.record()
        else:
            self._host = values.cpu()

    def numpy(self) -> np.ndarray:
        """The values, once they are there."""
        if self._there is not None:
            self._there.synchronize()
        self._source = None
        return self._host.numpy()
