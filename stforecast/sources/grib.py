"""Series from GRIB files, read by cfgrib where it is installed."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources import cf
from stforecast.sources.raw_files import (
    GRIB_SUFFIXES,
    Stamp,
    begins_with,
    check_sum,
    describe_magic,
    find_files,
    in_one_line,
    naming,
)
from stforecast.sources.selection import Selection

_MAGIC, _END = b"GRIB", b"7777"
_HEADER_BYTES = 16
_BLOCK_BYTES = 4096
# A GRIB1 message above 8 MiB gives its length in another way, of units of 120 bytes (ECMWF, "large GRIB1 messages").
_LARGE_GRIB1 = 0x800000


def is_grib(path: Path) -> bool:
    """Whether a file, or the first *.grib of a folder, begins as GRIB does."""
    try:
        first = find_files(path, suffixes=GRIB_SUFFIXES)[0]
    except StforecastError:
        return False
    return first.is_file() and begins_with(first, _MAGIC)


def read(path: Path, selection: Selection) -> xr.Dataset:
    """A lazy series of GRIB files, under the names that cfgrib gives (t2m, z, …), times being those of validity.

    Args:
        path: a file, a pattern, or a folder of *.grib, *.grb, *.grib2 or *.grb2.
        selection: what of it is wanted.

    Raises:
        StforecastError: ARGUMENT without cfgrib; FILE_MISSING, FILE_FORMAT, FILE_TRUNCATED, FILE_CHECKSUM; DIMS for
            forecasts; and what `cf.read_opened` raises.
    """
    files = find_files(path, suffixes=GRIB_SUFFIXES)
    with ExitStack() as stack:
        return cf.read_opened([opened for file in files for opened in open_file(file, stack)], selection)


def open_file(path: Path, stack: ExitStack) -> list[cf.Opened]:
    """What a GRIB file has, one for each kind of level, with values not read.

    Raises:
        StforecastError: as `read`.
    """
    stamp = Stamp.of(path)
    check_messages(path)
    check_sum(path)
    if importlib.util.find_spec("cfgrib") is None:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{path} is GRIB, which cfgrib reads; install it: pip install 'stforecast[grib]'"
        )
    try:
        # Without an index path cfgrib would write its index beside the file.
        datasets = importlib.import_module("cfgrib").open_datasets(
            str(path), backend_kwargs={"indexpath": "", "squeeze": False, "errors": "raise"}, chunks=None, cache=False
        )
    except Exception as error:  # cfgrib and eccodes raise their own
        raise StforecastError(
            ErrorKind.FILE_FORMAT, f"{path} cannot be read as GRIB: {in_one_line(error)}; fetch the file anew"
        ) from error
    for dataset in datasets:
        stack.callback(dataset.close)
    with naming(path):
        return [cf.Opened.of(path, _by_valid_time(dataset), stamp) for dataset in datasets]


def _by_valid_time(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset of cfgrib, which counts from the start of each forecast, on the times that its frames are valid at."""
    cf.check_no_forecast(dataset)
    spare = [dim for dim in ("number", "step", "surface", *_single_levels(dataset)) if dim in dataset.dims]
    spare = [dim for dim in spare if dataset.sizes[dim] == 1]
    lone: dict[Any, int] = dict.fromkeys(spare, 0)
    timed = dataset.isel(lone, drop=False).drop_vars("step", errors="ignore")
    return timed.swap_dims(time="valid_time").drop_vars("time").rename(valid_time="time")


def _single_levels(dataset: xr.Dataset) -> list[str]:
    """Levels that are no pressure: the two metres of a temperature say nothing that its name has not said."""
    return [str(dim) for dim in dataset.dims if dim in dataset.coords and str(dim).startswith(("heightAbove", "depth"))]


def check_messages(path: Path) -> None:
    """Refuse a file that is not a row of whole GRIB messages.

    Raises:
        StforecastError: FILE_FORMAT or FILE_TRUNCATED, naming the file and the byte.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for start, length in _messages(file, path):
            if start + length > size:
                raise StforecastError(
                    ErrorKind.FILE_TRUNCATED,
                    f"{path} is cut short: the message at byte {start} declares {length} bytes, "
                    f"{size - start} are there; fetch the file anew",
                )
            file.seek(start + length - len(_END))
            if file.read(len(_END)) != _END:
                raise StforecastError(
                    ErrorKind.FILE_FORMAT,
                    f"{path} is damaged: the message at byte {start} does not end with 7777; fetch the file anew",
                )


def _messages(file: BinaryIO, path: Path) -> Iterator[tuple[int, int]]:
    """Where each message begins and how many bytes it declares (WMO Manual on Codes, FM 92, section 0)."""
    start = 0
    while header := _bytes_at(file, start):
        if not header.startswith(_MAGIC):
            where = describe_magic(header[:8]) if start == 0 else f"{header[:4]!r} stands at byte {start}, not GRIB"
            raise StforecastError(ErrorKind.FILE_FORMAT, f"{path} is not a GRIB file: {where}")
        edition = header[7] if len(header) > 7 else 0
        length = int.from_bytes(header[4:7], "big") if edition == 1 else int.from_bytes(header[8:16], "big")
        if edition == 1 and length & _LARGE_GRIB1:
            return
        yield start, max(length, _HEADER_BYTES)
        start = _next_start(file, start + max(length, _HEADER_BYTES))


def _bytes_at(file: BinaryIO, start: int) -> bytes:
    file.seek(start)
    return file.read(_HEADER_BYTES)


def _next_start(file: BinaryIO, start: int) -> int:
    """Where the next message begins: some archives pad them with zeros."""
    file.seek(start)
    while block := file.read(_BLOCK_BYTES):
        rest = block.lstrip(b"\0")
        start += len(block) - len(rest)
        if rest:
            break
    return start
