"""Memory that a process has freed and soon wants again, and memory that is not there."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from stforecast.errors import ErrorKind, StforecastError

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_ALL = 2**31 - 1
_MIB = 2**20


@cache
def keep_freed_memory() -> bool:
    """Whether glibc now keeps what is freed in this process; it cannot be taken back.

    By itself glibc gives large freed blocks back to the system, and each forward of a network faults all its pages in
    again, zeroed: 145,000 faults and a third of the time for a TAU on 8 windows of 4 x 2 x 32 x 32. Called when a run
    begins, never at import, for the price is that the process stays as large as it once was. With another C library
    nothing happens.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, _ = library.mallopt, library.gnu_get_libc_version
    except (AttributeError, OSError, TypeError):
        return False
    # Some versions refuse a threshold above 32 MiB; then no block at all is mapped by itself.
    from_heap = mallopt(_M_MMAP_THRESHOLD, 1024 * _MIB) or mallopt(_M_MMAP_MAX, 0)
    return bool(from_heap and mallopt(_M_TRIM_THRESHOLD, _ALL))


@contextmanager
def memory_named(remedy: str) -> Iterator[None]:
    """Says so in our words when torch or NumPy gets no memory, and what to do.

    Raises:
        StforecastError: MEMORY_BUDGET.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch has no class of its own for it.
        is_want = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
        if not is_want:
            raise
        said = (str(error).splitlines() or ["no more is said"])[0]
        raise StforecastError(ErrorKind.MEMORY_BUDGET, f"there is too little memory ({said}): {remedy}") from error
