"""netCDF files, opened and written so that any number of threads may do it at once.

The netCDF library is not made for threads. xarray takes a lock where it reads values, but reads and writes metadata
without one, so two threads that open files at the same time may end the process (measured: with eight threads nearly
always). Here the lock is held from the first byte of a file's metadata to the last.
"""

import math
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import netCDF4
import xarray as xr
from xarray.backends import CachingFileManager, NetCDF4DataStore
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

# A chunk that is larger is decoded anew at each read, as it is by default.
_LARGEST_CACHE = 64 * 2**20


class _ReentrantLock:
    """xarray's lock for the netCDF library, which the thread that holds it may take again.

    Whoever reads through xarray waits for it, and xarray takes it again for each value that it looks at while it opens.
    """

    def __init__(self) -> None:
        self._holder: int | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True) -> bool:
        """Whether this thread has the lock now."""
        if self._holder != threading.get_ident():
            if not NETCDF4_PYTHON_LOCK.acquire(blocking):
                return False
            self._holder = threading.get_ident()
        self._depth += 1
        return True

    def release(self) -> None:
        """Give back what `acquire` took."""
        self._depth -= 1
        if not self._depth:
            self._holder = None
            NETCDF4_PYTHON_LOCK.release()

    def locked(self) -> bool:
        """Whether a thread has it."""
        return bool(NETCDF4_PYTHON_LOCK.locked())  # type: ignore[attr-defined]  # it is there

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()

    def __reduce__(self) -> str:
        # Each process has its own library and its own lock.
        return "_LOCK"


_LOCK: Any = _ReentrantLock()


def open_netcdf(path: Path, **options: Any) -> xr.Dataset:
    """What `xarray.open_dataset` gives of a netCDF file, lazily, in any thread.

    Args:
        path: the file.
        options: of `xarray.open_dataset`.

    Raises:
        Exception: what the line of xarray or netCDF4 raises that meets the damage, if the file has any.
    """
    with _LOCK:
        files: Any = CachingFileManager(_open_with_small_caches, str(path), mode="r", lock=_LOCK)
        store = NetCDF4DataStore(files, mode="r", lock=_LOCK)  # type: ignore[no-untyped-call]  # xarray's
        try:
            return xr.open_dataset(store, **options)
        except BaseException:
            store.close()  # type: ignore[no-untyped-call]  # xarray's
            raise


def _open_with_small_caches(path: str, mode: Literal["r"]) -> Any:
    """A file that keeps one decoded chunk a variable in memory.

    By default the netCDF library keeps up to 64 MiB of them for each variable of each open file, and xarray 128 files.
    """
    file = netCDF4.Dataset(path, mode)
    for variable in file.variables.values():
        chunk = variable.chunking()
        if isinstance(chunk, list) and variable.dtype is not str:
            variable.set_var_chunk_cache(size=min(math.prod(chunk) * variable.dtype.itemsize, _LARGEST_CACHE))
    return file


def write_netcdf(dataset: xr.Dataset, path: Path, *, encoding: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a Dataset as netCDF-4: one in memory in any thread, one that is backed by dask in one thread at a time.

    Args:
        dataset: what to write; chunks of dask are computed and written one by one.
        path: the file, which is replaced if it is there.
        encoding: of variables, as `Dataset.to_netcdf` takes it.

    Raises:
        OSError, RuntimeError: what the disk and the library have to say.
    """
    if any(variable.chunks for variable in dataset.variables.values()):
        # The threads that compute chunks want the lock too.
        dataset.to_netcdf(path, engine="netcdf4", encoding=encoding)
        return
    with _LOCK:
        files: Any = CachingFileManager(netCDF4.Dataset, str(path), mode="w", lock=_LOCK)
        with closing(NetCDF4DataStore(files, mode="w", lock=_LOCK)) as store:  # type: ignore[no-untyped-call]  # xarray's
            dataset.dump_to_store(store, encoding=encoding)
