"""Large tensors on the CPU reuse the memory of freed ones instead of asking the system for fresh pages each time."""

from __future__ import annotations

import ctypes
import sys

# mallopt(3) of glibc. By default a block above 32 MiB is mapped afresh and unmapped when freed, so that every layer's
# output at 256 px pays for its page faults: 17 ms for 32 MiB where writing them takes 2.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
KEPT_BYTES = 2**31 - 1  # at most this much freed memory stays with the process


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from its heap and to keep up to 2 GiB of freed memory; False elsewhere.

    It holds for the whole process, so it is for programs to call, not for imports.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, e.g. musl
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
