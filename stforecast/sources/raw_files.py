"""Raw files: which ones a path means, and whether each is whole, of a known kind and safe to open."""

import glob
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import h5py

from stforecast.errors import ErrorKind, StforecastError

NETCDF_SUFFIXES = frozenset({".nc", ".nc4", ".cdf"})
HDF5_SUFFIXES = frozenset({".h5", ".hdf5"})

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ZARR_METADATA = ("zarr.json", ".zgroup", ".zmetadata")
_OTHER_KINDS = (
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"\x1f\x8b", "gzip; unpack it first"),
    (b"GRIB", "GRIB; convert it to netCDF first, e.g. with cdo -f nc4 copy"),
    (b"<", "HTML or XML, often an error page saved by a download; fetch the file anew"),
)
# A coordinate is read whole when its file is opened, before anything can be said about it. 2**25 hours are 3,800 years.
_LONGEST_AXIS = 2**25
# Zeros compress by gzip 1,000 times at most; no measured field comes near that.
_LARGEST_UNSTORED = 4 * 2**30
_LARGEST_COMPRESSION = 1000


@contextmanager
def naming(where: object) -> Iterator[None]:
    """A block whose faults begin with the name of the file or folder that has them."""
    try:
        yield
    except StforecastError as error:
        raise StforecastError(error.kind, f"{where}: {error}") from error


def in_one_line(error: Exception) -> str:
    """What a library's error says, without line breaks; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr store."""
    return any((path / name).is_file() for name in _ZARR_METADATA)


def find_files(path: Path, *, suffixes: Collection[str] = NETCDF_SUFFIXES | HDF5_SUFFIXES) -> list[Path]:
    """The files and zarr stores that a path means, sorted by name.

    Args:
        path: one file or zarr store, a glob pattern with * or ?, or a folder of files.
        suffixes: which files of a folder are meant. Hidden ones, and those that a download has not finished
            (*.nc.part), are never.

    Raises:
        StforecastError: FILE_MISSING, if there is none.
    """
    if path.is_file() or is_zarr(path):
        return [path]
    if path.is_dir():
        wanted = f"a file with a name in *{', *'.join(sorted(suffixes))} or a zarr store"
        found = [file for file in path.iterdir() if file.suffix in suffixes or is_zarr(file)]
    elif {"*", "?"} & set(str(path)):
        wanted = "a file that matches this pattern"
        found = [file for file in _matching(path) if file.is_file() or is_zarr(file)]
    else:
        raise StforecastError(ErrorKind.FILE_MISSING, f"there is no file or folder {path}; check the path")
    files = sorted(file for file in found if not file.name.startswith("."))
    if not files:
        raise StforecastError(ErrorKind.FILE_MISSING, f"{path}: wanted {wanted}, found none; check the path")
    return files


def _matching(pattern: Path) -> list[Path]:
    # Brackets are part of many folders' names, seldom of a pattern.
    names = glob.glob(str(pattern).replace("[", "[[]"))  # noqa: PTH207  Path.glob takes no absolute pattern
    return sorted(map(Path, names))


def files_below(path: Path) -> list[Path]:
    """Every file that a path, a glob or a folder stands for, however deep, in order."""
    roots = [path] if path.exists() else _matching(path)
    return [
        file
        for root in roots
        for file in (sorted(below for below in root.rglob("*") if below.is_file()) if root.is_dir() else [root])
    ]


def check_file(path: Path) -> None:
    """Refuse a file that is not netCDF or HDF5, is cut short or is not safe to open.

    The netCDF library reads a netCDF-3 file that is cut short without an error, so sizes are compared
    beforehand. Links to other files, and sizes that no data could fill, are not safe.

    Raises:
        StforecastError: FILE_FORMAT, FILE_TRUNCATED, FILE_UNSAFE or FILE_TOO_LARGE, naming the file and what was found
            in it.
    """
    with path.open("rb") as file:
        magic = file.read(8)
        if magic == _HDF5_SIGNATURE:
            declared = _hdf5_size(file)
        elif magic[:3] == b"CDF" and magic[3:4] in (b"\x01", b"\x02", b"\x05"):
            declared = _netcdf3_size(file, path)
        else:
            raise StforecastError(ErrorKind.FILE_FORMAT, f"{path} is not a netCDF or HDF5 file: {_describe(magic)}")
    size = path.stat().st_size
    if size < declared:
        raise StforecastError(
            ErrorKind.FILE_TRUNCATED,
            f"{path} is cut short: its header declares {declared} bytes, there are {size}; fetch the file anew",
        )
    if magic == _HDF5_SIGNATURE:
        with hdf5_file(path) as file:
            _check_group(file, path)


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 (and so netCDF-4) files do."""
    with path.open("rb") as file:
        return file.read(8) == _HDF5_SIGNATURE


def _describe(magic: bytes) -> str:
    if not magic:
        return "it is empty; fetch the file anew"
    for start, kind in _OTHER_KINDS:
        if magic.startswith(start):
            return f"it begins with {magic!r} and looks like {kind}"
    return f"it begins with {magic!r}"


def _hdf5_size(file: BinaryIO) -> int:
    """The end-of-file address in the superblock (HDF5 File Format Specification 3.0, II.A), in bytes."""
    file.seek(8)
    header = file.read(88)
    version = header[0] if header else 0
    width = header[5 if version < 2 else 1] if len(header) > 5 else 0
    # Addresses begin at byte 24, 28 in version 1, 12 since version 2; that of the end of the file is the third.
    start = {0: 24, 1: 28}.get(version, 12) - 8 + 2 * width
    return int.from_bytes(header[start : start + width], "little")


@contextmanager
def hdf5_file(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file opened for reading, in a block whose errors of HDF5 name the file.

    Raises:
        StforecastError: FILE_FORMAT, if it is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise StforecastError(
            ErrorKind.FILE_FORMAT, f"{path} is damaged: HDF5 says {error}; fetch the file anew"
        ) from error


def _check_group(group: h5py.Group, path: Path) -> None:
    for name in group:
        # The HDF5 library would follow such links to any file of this machine.
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise _refused(ErrorKind.FILE_UNSAFE, path, name, "is a link to another file")
        member = group[name]
        if isinstance(member, h5py.Group):
            _check_group(member, path)
        elif isinstance(member, h5py.Dataset):
            _check_hdf5_dataset(member, name, path)


def _check_hdf5_dataset(dataset: h5py.Dataset, name: str, path: Path) -> None:
    if dataset.is_virtual or dataset.external:
        raise _refused(ErrorKind.FILE_UNSAFE, path, name, "keeps its values in other files")
    if dataset.ndim == 1 and dataset.size > _LONGEST_AXIS:
        raise _refused(ErrorKind.FILE_TOO_LARGE, path, name, f"declares {dataset.size} values on one axis")
    size = (dataset.size or 0) * dataset.dtype.itemsize
    if size > _LARGEST_UNSTORED and size > _LARGEST_COMPRESSION * dataset.id.get_storage_size():
        raise _refused(
            ErrorKind.FILE_TOO_LARGE, path, name, f"declares {size} bytes but stores {dataset.id.get_storage_size()}"
        )


def _refused(kind: ErrorKind, path: Path, name: str, fault: str) -> StforecastError:
    return StforecastError(
        kind, f"{path}: {name} {fault}, which is not read; get the data themselves in one plain file"
    )


def check_zarr(path: Path) -> None:
    """Refuse a zarr store with a coordinate that would not fit into memory when it is opened.

    Raises:
        StforecastError: FILE_FORMAT, naming store and array.
    """
    import zarr  # here, as it takes longer than opening a netCDF file

    try:
        arrays = list(zarr.open_group(path, mode="r").arrays())
    except Exception as error:  # damaged metadata raise whatever the line that meets them raises
        raise StforecastError(
            ErrorKind.FILE_FORMAT, f"{path} is not a zarr group that can be read: {in_one_line(error)}"
        ) from error
    for name, array in arrays:
        if array.ndim == 1 and array.size > _LONGEST_AXIS:
            raise _refused(ErrorKind.FILE_TOO_LARGE, path, name, f"declares {array.size} values on one axis")


_NETCDF3_TYPE_SIZE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
_DIMENSION, _VARIABLE, _ATTRIBUTE = 10, 11, 12


class _Netcdf3Header:
    """The header of a netCDF-3 file, read in order (NetCDF User's Guide, Appendix B: CDF-1, CDF-2 and CDF-5)."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(3)
        self._file = file
        version = file.read(1)[0]
        self._count = ">Q" if version == 5 else ">I"
        self._offset = ">I" if version == 1 else ">Q"

    def _number(self, form: str) -> int:
        content = self._file.read(struct.calcsize(form))
        return int(struct.unpack(form, content)[0])

    def _skip(self, length: int) -> None:
        self._file.seek(-(-length // 4) * 4, 1)

    def _items(self, tag: int) -> range:
        found, count = self._number(">I"), self._number(self._count)
        if found not in (0, tag):
            raise ValueError(f"tag {found} where {tag} is due")
        return range(count)

    def _attributes(self) -> None:
        for _ in self._items(_ATTRIBUTE):
            self._skip(self._number(self._count))
            kind = self._number(">I")
            self._skip(self._number(self._count) * _NETCDF3_TYPE_SIZE[kind])

    def size(self) -> int:
        """Bytes up to the end of the last value that the header places."""
        records = self._number(self._count)
        is_streaming = records == 2 ** (8 * struct.calcsize(self._count)) - 1
        lengths = []
        for _ in self._items(_DIMENSION):
            self._skip(self._number(self._count))
            lengths.append(self._number(self._count))
        self._attributes()
        variables = [self._variable(lengths) for _ in self._items(_VARIABLE)]
        ends = [begin + length for begin, length, is_record in variables if not is_record]
        of_records = [(begin, length) for begin, length, is_record in variables if is_record]
        if records and not is_streaming:
            # The values of one record are padded to four bytes each, but for those of an only variable.
            padded = [-(-length // 4) * 4 for _, length in of_records]
            record = sum(padded) if len(padded) > 1 else sum(length for _, length in of_records)
            ends += [begin + (records - 1) * record + length for begin, length in of_records]
        return max(ends, default=self._file.tell())

    def _variable(self, lengths: list[int]) -> tuple[int, int, bool]:
        """Where a variable begins, its bytes (of one record, if it has records), and whether it has."""
        self._skip(self._number(self._count))
        shape = [lengths[self._number(self._count)] for _ in range(self._number(self._count))]
        self._attributes()
        length = _NETCDF3_TYPE_SIZE[self._number(">I")]
        self._number(self._count)  # its size in bytes, which overflows in large files: the shape says it better
        is_record = bool(shape) and shape[0] == 0
        for extent in shape[1:] if is_record else shape:
            length *= extent
        return self._number(self._offset), length, is_record


def _netcdf3_size(file: BinaryIO, path: Path) -> int:
    try:
        return _Netcdf3Header(file).size()
    except (struct.error, ValueError, KeyError, IndexError, OSError, OverflowError) as error:
        raise StforecastError(
            ErrorKind.FILE_FORMAT, f"{path} is cut short or damaged in its netCDF-3 header; fetch the file anew"
        ) from error
