"""Tunes the process: file descriptors, the allocator, the garbage collector. It does the same, for less.

Source: the measurements in docs/benchmarks.md; mallopt(3), getrlimit(2).
"""

import ctypes
import gc
import resource
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MMAP_BYTES: Final = 4 << 20
_TRIM_BYTES: Final = 64 << 20
_GC_THRESHOLDS: Final = (50_000, 20, 50)
_LIMIT_WANTED: Final = 1 << 20
_UNLIMITED: Final = 1 << 20


def raise_descriptor_limit() -> int:
    """Raises the soft limit of open files as far as it goes; returns the limit then in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        # The kernel has a ceiling of its own (fs.nr_open), which "unlimited" may exceed.
        hard = max(soft, _LIMIT_WANTED)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        hard = soft
    return _UNLIMITED if hard == resource.RLIM_INFINITY else hard


def tune_allocator() -> None:
    """Keeps glibc from mapping and unmapping every 256 KB read buffer: 43 us became 23 us a request."""
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def freeze_heap() -> None:
    """Takes what a started process holds for ever out of the collector's sight; it also looks less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
