"""Lazy arrays over files: frames are read and decoded when they are computed, and only those asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources.raw_files import Stamp, at_rest, in_one_line

# What numpy takes in a bracket for one axis.
Key = int | slice | npt.NDArray[np.intp]
Frames = npt.NDArray[np.float32]
# Frames of one file for one key an axis, the first of which is along time and no integer; axes are indexed one by one.
Reader = Callable[[tuple[Key, ...]], Frames]

# Large enough for few tasks (2.9 GB of hourly 5.625° data make 90), small enough for a worker with sixteen threads.
CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True, eq=False)
class VariableRows:
    """Reads frames of one variable of an opened file, decoded and with its axes in the order of a series.

    Attributes:
        variable: a variable that xarray has opened without loading it.
        dims: its dimensions in the order that is wanted.
        where: what the messages call it: the variable and its file.
        stamp: the file as it was when it was opened, which it must still be; None where there is no one file.
    """

    variable: xr.Variable
    dims: tuple[str, ...]
    where: str
    stamp: Stamp | None = None

    def __call__(self, keys: tuple[Key, ...]) -> Frames:
        """Frames of the wanted rows and cells, decoded."""
        covers, rests = zip(*(_cover(key) for key in keys), strict=True)
        selected = self.variable.isel(dict(zip(self.dims, covers, strict=True)))
        with at_rest(self.stamp):
            values = self._load(selected)
        order = [selected.dims.index(dim) for dim in self.dims if dim in selected.dims]
        frames: Frames = values.transpose(order).astype(np.float32, copy=False)
        kept = [rest for rest, key in zip(rests, keys, strict=True) if not isinstance(key, int | np.integer)]
        for axis, rest in enumerate(kept):
            frames = frames if rest is None else frames.take(rest, axis)
        return frames

    def _load(self, selected: xr.Variable) -> npt.NDArray[Any]:
        try:
            return selected.to_numpy()
        except MemoryError:
            raise
        except Exception as error:  # a codec, a network and a C library each raise their own
            if self.stamp is None and isinstance(error, OSError):
                raise StforecastError(
                    ErrorKind.IO_ERROR, f"{self.where} cannot be reached: {in_one_line(error)}; try again later"
                ) from error
            raise StforecastError(
                ErrorKind.FILE_FORMAT,
                f"{self.where} is damaged, reading it gives: {in_one_line(error)}; fetch the file anew",
            ) from error


@dataclass(frozen=True, eq=False)
class FilledRows:
    """Reads frames of one variable with another's values where it has none."""

    rows: VariableRows
    others: VariableRows

    def __call__(self, keys: tuple[Key, ...]) -> Frames:
        """Frames of the wanted rows and cells, decoded."""
        frames = self.rows(keys)
        is_absent = np.isnan(frames)
        return np.where(is_absent, self.others(keys), frames) if is_absent.any() else frames


def _cover(key: Key) -> tuple[Key, npt.NDArray[np.intp] | None]:
    """A slice that holds all positions of an array not much longer than it, and where they are in it.

    Files read a slice at once, and each position of an array on its own.

    >>> _cover(np.array([3, 1, 2])), _cover(slice(2, 5))
    ((slice(1, 4, None), array([2, 0, 1])), (slice(2, 5, None), None))
    """
    if not isinstance(key, np.ndarray) or not len(key):
        return key, None
    first, last = int(key.min()), int(key.max())
    if last - first >= 4 * len(key):
        return key, None
    return slice(first, last + 1), key - first


@dataclass(frozen=True, eq=False)
class Slabs:
    """Frames of one variable over all its files, as an array that dask can index.

    dask.array.concatenate of one array a file would say the same, but a slice of it reads whole chunks: dask joins a
    slice with the reading below it only where nothing stands between the two. Measured on a year of hourly 32x64 data
    (72 MB) for 300 frames (2.5 MB): 2.5 MB read, and 72 MB behind a concatenation, a conversion to float32, or with
    dask.array.from_array(fancy=False). So decoding, conversion and transposition happen in here.

    Attributes:
        readers: one a file, in order of time.
        starts: the row at which each file begins, (file,).
        shape: (time, [level,] y, x).
    """

    readers: tuple[Reader, ...]
    starts: npt.NDArray[np.intp]
    shape: tuple[int, ...]
    dtype = np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    def __getitem__(self, keys: tuple[Key, ...]) -> Frames:
        rows = np.arange(self.shape[0])[keys[0]]
        wanted = np.atleast_1d(rows)
        file_of_row = np.searchsorted(self.starts, wanted, side="right") - 1
        pieces = [
            self.readers[file]((_as_slice(piece - self.starts[file]), *keys[1:]))
            for piece, file in _runs(wanted, file_of_row)
        ]
        frames = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return frames if np.ndim(rows) else frames[0]


def _runs(rows: npt.NDArray[np.intp], file_of_row: npt.NDArray[np.intp]) -> list[tuple[npt.NDArray[np.intp], int]]:
    """Rows cut where the next is in another file, with the file of each piece."""
    if not len(rows):
        return [(rows, 0)]
    pieces = np.split(rows, np.flatnonzero(np.diff(file_of_row)) + 1)
    starts = np.cumsum([0, *map(len, pieces[:-1])])
    return [(piece, int(file_of_row[start])) for piece, start in zip(pieces, starts, strict=True)]


def _as_slice(rows: npt.NDArray[np.intp]) -> Key:
    """Rows as a slice where they follow each other: files read those at once."""
    if not len(rows):
        return slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else rows


def lazy_array(readers: Sequence[Reader], lengths: Sequence[int], cells: tuple[int, ...], *, stored: int = 1) -> Any:
    """A dask array of float32 frames, (time, *cells).

    Args:
        readers: one a file, in order of time.
        lengths: how many frames each file has.
        cells: the shape of a frame.
        stored: how many frames the files keep together; a chunk of the array holds whole groups of them.
    """
    starts = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.intp)]).astype(np.intp)
    slabs = Slabs(tuple(readers), starts, (sum(lengths), *cells))
    most = max(CHUNK_BYTES // max(4 * int(np.prod(cells)), 1), 1)
    chunks = (_time_chunks(lengths, max(most // stored * stored, stored)), *cells)
    # A name of its own each time: the same file may hold other values tomorrow, and workers remember results by name.
    return da.from_array(slabs, chunks=chunks, name=False, meta=np.empty((0,) * slabs.ndim, np.float32))


def _time_chunks(lengths: Sequence[int], most: int) -> tuple[int, ...]:
    """Frames a chunk: at most `most`; long files are cut, short ones kept together.

    >>> _time_chunks([10, 2, 2, 2], 4)
    (4, 4, 4, 4)
    """
    chunks = [0]
    for length in lengths:
        for piece in [most] * (length // most) + [length % most]:
            if chunks[-1] + piece <= most:
                chunks[-1] += piece
            else:
                chunks.append(piece)
    return tuple(chunks)
