"""netCDF files, opened and written so that any number of threads may do it at once.

The netCDF library is not made for threads. xarray takes a lock where it reads values, but reads and writes metadata
without one, so two threads that open files at the same time may end the process (measured: with eight threads nearly
always). Here the lock is held from the first byte of a file's metadata to the last.
"""

import math
import threading
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import netCDF4
import xarray as xr
from xarray.backends import CachingFileManager, NetCDF4DataStore
from xarray.backends.common import ArrayWriter
from xarray.backends.locks import get_dask_scheduler
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
    # A file that xarray opens once more, by and by or in another process, is this one wherever that then works.
    path = path.absolute()
    with _LOCK:
        files: Any = CachingFileManager(_open_with_small_caches, str(path), mode="r", lock=_LOCK)
        store = NetCDF4DataStore(files, mode="r", lock=_LOCK)  # type: ignore[no-untyped-call]  # xarray's
        try:
            opened = xr.open_dataset(store, **options)
        except BaseException:
            store.close()  # type: ignore[no-untyped-call]  # xarray's
            raise
    opened.encoding["source"] = str(path)
    return opened


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
    """Write a Dataset as netCDF-4, in any thread.

    Args:
        dataset: what to write; chunks of dask are computed and written one by one.
        path: the file, which is replaced if it is there.
        encoding: of variables, as `Dataset.to_netcdf` takes it.

    Raises:
        OSError, RuntimeError: what the disk and the library have to say.
    """
    has_chunks = any(variable.chunks for variable in dataset.variables.values())
    if has_chunks and get_dask_scheduler() not in (None, "threaded"):
        # Workers write too, each for a moment, and xarray sees to it that they take turns.
        dataset.to_netcdf(path, engine="netcdf4", encoding=encoding)
        return
    writer = ArrayWriter()  # type: ignore[no-untyped-call]  # xarray's
    dataset = _with_values(dataset)
    with ExitStack() as stack:
        with _LOCK:
            files: Any = CachingFileManager(netCDF4.Dataset, str(path.absolute()), mode="w", lock=_LOCK)
            store = NetCDF4DataStore(files, mode="w", lock=_LOCK)  # type: ignore[no-untyped-call]  # xarray's
            stack.enter_context(closing(store))
            dataset.dump_to_store(store, writer=writer, encoding=encoding)
        # The threads that compute chunks want the lock too, each for its chunk.
        writer.sync()  # type: ignore[no-untyped-call]  # xarray's


def _with_values(dataset: xr.Dataset) -> xr.Dataset:
    """The Dataset, its values in memory, but for chunks of dask; to read them takes the lock which is held to write."""
    dataset = dataset.copy()
    for variable in dataset.variables.values():
        if not variable.chunks:
            variable.load()
    return dataset
