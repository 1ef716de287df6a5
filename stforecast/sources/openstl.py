"""TaxiBJ as OpenSTL cuts it: windows in [-1, 1] without times, for the protocol that TAU was published with.

Tan et al.: OpenSTL: A Comprehensive Benchmark of Spatio-Temporal Predictive Learning, NeurIPS 2023, arXiv:2306.11249.
"""

import zipfile
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources.raw_files import Stamp, at_rest, begins_with, check_sum, in_one_line

Part = Literal["train", "test"]

_MEMBERS = {"history": "X_{part}.npy", "horizon": "Y_{part}.npy"}
_DIMS = ("window", "{name}_step", "flow", "row", "column")
_FLOWS = ["inflow", "outflow"]
# The file of OpenSTL holds 1.4 GB in float32.
_LARGEST = 8 * 2**30
_BLOCK_BYTES = 2**24
_LACKS = (
    "times (which half hours the windows are of), the scale (values are in [-1, 1], not vehicles) and gaps (whether "
    "two windows follow each other)"
)


def is_openstl(path: Path) -> bool:
    """Whether a file is such an archive of windows."""
    if not path.is_file() or not begins_with(path, b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {"X_train.npy", "Y_train.npy"} <= set(archive.namelist())
    except zipfile.BadZipFile:
        return False


def refuse_as_series(path: Path) -> None:
    """Say that such a file is no series.

    Raises:
        StforecastError: DIMS, always.
    """
    raise StforecastError(
        ErrorKind.DIMS,
        f"{path} holds OpenSTL's windows, which have no times and are no series; read them with "
        "stforecast.sources.openstl.read_windows(path, part='train'), or open TaxiBJ's own BJ*.h5",
    )


def read_windows(path: str | Path, *, part: Part) -> xr.Dataset:
    """One part's windows in memory: history and horizon (window, step, flow, row, column), float32 in [-1, 1].

    The attribute `lacks` says what is not in the file: times, scale and gaps. So nothing can be forecast in vehicles
    from it, nor verified by time of day; it is for comparing with published numbers.

    Args:
        path: OpenSTL's dataset.npz.
        part: "train" or "test".

    Raises:
        StforecastError: ARGUMENT for another part; FILE_MISSING, FILE_FORMAT, FILE_TRUNCATED, FILE_CHECKSUM,
            VAR_MISSING, SHAPE or RANGE, naming the array; FILE_UNSAFE for arrays of Python objects, FILE_TOO_LARGE for
            more than such a file can hold, both before anything is allocated.
    """
    path = Path(path)
    if part not in get_args(Part):
        raise StforecastError(ErrorKind.ARGUMENT, f"unknown part {part!r}; there are {', '.join(get_args(Part))}")
    if not path.is_file():
        raise StforecastError(ErrorKind.FILE_MISSING, f"there is no file {path}; check the path")
    check_sum(path)
    with at_rest(Stamp.of(path)):
        try:
            with zipfile.ZipFile(path) as archive:
                values = {name: _read(archive, member.format(part=part), path) for name, member in _MEMBERS.items()}
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise StforecastError(
                ErrorKind.FILE_FORMAT, f"{path} is damaged or no .npz: {in_one_line(error)}; fetch the file anew"
            ) from error
    return _label(values, part, path)


def _label(values: dict[str, npt.NDArray[np.float32]], part: Part, path: Path) -> xr.Dataset:
    history, horizon = values["history"].shape, values["horizon"].shape
    if history[:1] + history[2:] != horizon[:1] + horizon[2:]:
        raise StforecastError(
            ErrorKind.SHAPE, f"{path}: X_{part} is {history} and Y_{part} {horizon}, wanted as many windows on one grid"
        )
    windows = {
        name: (
            tuple(dim.format(name=name) for dim in _DIMS),
            array,
            {"units": "1", "valid_min": -1.0, "valid_max": 1.0},
        )
        for name, array in values.items()
    }
    coordinates = {
        "flow": _FLOWS,
        "row": ("row", np.arange(history[3]), {"axis": "Y", "long_name": "row, counted from the north"}),
        "column": ("column", np.arange(history[4]), {"axis": "X", "long_name": "column, counted from the west"}),
    }
    attrs = {"title": f"TaxiBJ as OpenSTL cuts it, {part} windows", "lacks": _LACKS}
    return xr.Dataset(windows, coordinates, attrs)


def _read(archive: zipfile.ZipFile, member: str, path: Path) -> npt.NDArray[np.float32]:
    if member not in archive.namelist():
        raise StforecastError(
            ErrorKind.VAR_MISSING,
            f"{path} has no array {member.removesuffix('.npy')}; it has {', '.join(archive.namelist()[:8])}",
        )
    with archive.open(member) as file:
        shape, is_fortran, dtype = _header(file, f"{member} of {path}")
        _check_declared(shape, dtype, archive.getinfo(member), file.tell(), f"{member} of {path}")
        values = _load(file, int(np.prod(shape)), dtype, f"{member} of {path}")
    return values.reshape(shape, order="F" if is_fortran else "C")


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
    except ValueError as error:
        raise StforecastError(ErrorKind.FILE_FORMAT, f"{where} is no array: {in_one_line(error)}") from error
    return shape, is_fortran, dtype


def _check_declared(
    shape: tuple[int, ...], dtype: np.dtype[Any], member: zipfile.ZipInfo, header_bytes: int, where: str
) -> None:
    """Refuse what a header declares before anything is made of that size."""
    if dtype.hasobject:
        raise StforecastError(
            ErrorKind.FILE_UNSAFE,
            f"{where} holds Python objects, which are never unpickled; wanted an array of numbers",
        )
    if len(shape) != len(_DIMS) or shape[2] != len(_FLOWS) or 0 in shape or dtype.kind not in "iuf":
        raise StforecastError(
            ErrorKind.SHAPE, f"{where} is {dtype} {shape}, wanted numbers (windows, steps, 2, rows, columns)"
        )
    declared = dtype.itemsize
    for length in shape:  # not numpy's product, which overflows
        declared *= length
    if declared > _LARGEST:
        raise StforecastError(
            ErrorKind.FILE_TOO_LARGE, f"{where} declares {declared} bytes, more than {_LARGEST}, which is not read"
        )
    if member.file_size != header_bytes + declared:
        raise StforecastError(
            ErrorKind.FILE_TRUNCATED,
            f"{where} declares {declared} bytes of values but the archive holds {member.file_size - header_bytes}; "
            "fetch the file anew",
        )


def _load(file: IO[bytes], count: int, dtype: np.dtype[Any], where: str) -> npt.NDArray[np.float32]:
    """Values in float32, read in blocks so that float64 never lies in memory whole."""
    values = np.empty(count, np.float32)
    most = _BLOCK_BYTES // dtype.itemsize
    for start in range(0, count, most):
        wanted = min(most, count - start)
        values[start : start + wanted] = np.frombuffer(file.read(wanted * dtype.itemsize), dtype, wanted)
    if file.read(1):  # reading to the end is what compares the archive's checksum
        raise StforecastError(ErrorKind.FILE_FORMAT, f"{where} is longer than it declares")
    lowest, highest = float(values.min()), float(values.max())
    if not -1 <= lowest <= highest <= 1:
        raise StforecastError(
            ErrorKind.RANGE, f"{where} has values from {lowest:g} to {highest:g}, wanted [-1, 1] as OpenSTL scales them"
        )
    return values
