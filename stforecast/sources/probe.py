"""Looks into raw files in a process of its own, so that one that crashes or hangs a C library stops no ingest.

`probing` runs this file as a script. It imports nothing of stforecast, so that it starts in a fifth of a second.
"""

import json
import math
import select
import sys
from typing import Any

import h5py
import netCDF4

# A coordinate is read whole when its file is opened, before anything can be said about it. 2**25 hours are 3,800 years.
LONGEST_AXIS = 2**25
# Zeros compress by gzip 1,000 times at most; no measured field comes near that.
LARGEST_UNSTORED = 4 * 2**30
LARGEST_COMPRESSION = 1000

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LARGEST_CHUNK = 2**28  # bytes; a larger one is not read on probation
_IDLE_S = 20.0
_MEMORY = 16 * 2**30

# The kind of a fault, and what a file's name is followed by in its message.
Fault = tuple[str, str]


class _FaultyError(Exception):
    """What makes a file unfit, as kind and text."""


def look(path: str) -> Fault | None:
    """What makes a netCDF or HDF5 file unfit to be opened, or None.

    Links to other files are looked for before anything is followed. The first and last value of every array are read,
    with the libraries that later read all.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123  pathlib costs more than the rest of a look
            is_hdf5 = file.read(8) == _HDF5_SIGNATURE
        if is_hdf5:
            with h5py.File(path, "r") as opened:
                _look_into_group(opened, set())
        _look_with_netcdf(path)
    except _FaultyError as fault:
        return fault.args[0], fault.args[1]
    except MemoryError:
        return "FILE_TOO_LARGE", "needs more memory to be opened than data do; fetch the file anew"
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        return _of_library(error)
    return None


def _of_library(error: Exception) -> Fault:
    text = " ".join(str(error).split())
    if isinstance(error, BlockingIOError) or "unable to lock file" in text or "already open for write" in text:
        return "FILE_BUSY", "is being written by another program; try again when that has ended"
    return "FILE_FORMAT", f"is damaged: HDF5 says {text}; fetch the file anew"


def _look_into_group(group: h5py.Group, seen: set[int]) -> None:
    address = h5py.h5o.get_info(group.id).addr
    # The netCDF library follows links in a circle until it has spelled out every path there is: for most of a minute.
    if address in seen:
        raise _refused("FILE_UNSAFE_HDF5", str(group.name), "is a group that other links lead to as well")
    seen.add(address)
    for name in group:
        # The HDF5 library would follow such links to any file of this machine.
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise _refused("FILE_UNSAFE_HDF5", name, "is a link to another file")
        member = group[name]
        if isinstance(member, h5py.Group):
            _look_into_group(member, seen)
        elif isinstance(member, h5py.Dataset):
            _look_into_dataset(member, name)


def _look_into_dataset(dataset: h5py.Dataset, name: str) -> None:
    if dataset.is_virtual or dataset.external:
        raise _refused("FILE_UNSAFE_HDF5", name, "keeps its values in other files")
    if dataset.ndim == 1 and dataset.size > LONGEST_AXIS:
        raise _refused("FILE_TOO_LARGE", name, f"declares {dataset.size} values on one axis")
    stored = dataset.id.get_storage_size()
    size = (dataset.size or 0) * dataset.dtype.itemsize
    if size > LARGEST_UNSTORED and size > LARGEST_COMPRESSION * stored:
        raise _refused("FILE_TOO_LARGE", name, f"declares {size} bytes but stores {stored}")
    for attribute in dataset.attrs:
        dataset.attrs.get_id(attribute)
    if dataset.size and _chunk_bytes(dataset) <= _LARGEST_CHUNK:
        _read_ends(dataset, dataset.ndim)


def _chunk_bytes(dataset: h5py.Dataset) -> int:
    return math.prod(dataset.chunks or (1,)) * int(dataset.dtype.itemsize)


def _read_ends(array: Any, ndim: int) -> None:
    array[(0,) * ndim]
    array[(-1,) * ndim]


def _look_with_netcdf(path: str) -> None:
    """Open a file with the other library, which brings an HDF5 of its own; what is not netCDF is none of its business.

    Only whether it survives counts here: what it cannot read is told better, with the variable's name, later.
    """
    try:
        with netCDF4.Dataset(path) as file:
            file.set_auto_maskandscale(False)
            for variable in file.variables.values():
                if variable.size and _is_read_at_ease(variable):
                    _read_ends(variable, variable.ndim)
    except (OSError, RuntimeError, KeyError, ValueError, AttributeError, IndexError, TypeError):
        return


def _is_read_at_ease(variable: Any) -> bool:
    chunks = variable.chunking()
    # "contiguous", or None in a netCDF-3 file; eight bytes are the largest value there is.
    return not isinstance(chunks, list) or 8 * math.prod(chunks) <= _LARGEST_CHUNK


def _refused(kind: str, name: str, fault: str) -> _FaultyError:
    return _FaultyError(kind, f": {name} {fault}, which is not read; get the data themselves in one plain file")


def main() -> None:
    """Answer each line of stdin, a path as JSON, by a line with its fault as JSON; end when nothing comes for long."""
    _limit_memory()
    while select.select([sys.stdin], [], [], _IDLE_S)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        sys.stdout.write(json.dumps(look(json.loads(line))) + "\n")
        sys.stdout.flush()


def _limit_memory() -> None:
    import resource  # absent where there are no such limits

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


if __name__ == "__main__":
    main()
