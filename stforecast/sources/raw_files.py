"""Raw files: which ones a path means, and whether each is whole, of a known kind, at rest and safe to open."""

import functools
import glob
import hashlib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import h5py

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources.netcdf3 import is_netcdf3, netcdf3_size
from stforecast.sources.probing import probe

# What lies on this machine, or the URL of a zarr store elsewhere.
Location = Path | str

NETCDF_SUFFIXES = frozenset({".nc", ".nc4", ".cdf"})
HDF5_SUFFIXES = frozenset({".h5", ".hdf5"})
GRIB_SUFFIXES = frozenset({".grib", ".grb", ".grib1", ".grb1", ".grib2", ".grb2"})

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ZARR_METADATA = ("zarr.json", ".zgroup", ".zmetadata")
_UNFINISHED = frozenset({".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart"})
_OTHER_KINDS = (
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"\x1f\x8b", "gzip; unpack it first"),
    (b"BZh", "bzip2; unpack it first"),
    (b"\xfd7zXZ", "xz; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"GRIB", "GRIB; name it with source='grib'"),
    (b"<", "HTML or XML, often an error page saved by a download; fetch the file anew"),
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)")
_SUM = re.compile(r"([0-9a-fA-F]{64})(\s+\*?(?P<name>.+))?\s*")
_LARGEST_SUM_FILE = 4096


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


def is_url(location: Location) -> bool:
    """Whether a location is elsewhere.

    >>> is_url("gs://weatherbench2/datasets/era5"), is_url("data/era5"), is_url(Path("gs://era5"))
    (True, False, False)
    """
    return isinstance(location, str) and _URL.match(location) is not None


def locate(path: str | Path) -> Location:
    """A URL as it is, anything else as a Path; file:// is this machine.

    >>> locate("file:///data/era5.zarr")
    PosixPath('/data/era5.zarr')
    """
    if isinstance(path, str) and path.startswith(("file://", "local://")):
        return Path(path.split("://", 1)[1])
    return path if isinstance(path, str) and is_url(path) else Path(path)


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr store."""
    return any((path / name).is_file() for name in _ZARR_METADATA)


def find_files(path: Path, *, suffixes: Collection[str] = NETCDF_SUFFIXES | HDF5_SUFFIXES) -> list[Path]:
    """The files and zarr stores that a path means, sorted by name.

    Args:
        path: one file or zarr store, a glob pattern with * or ?, or a folder of files.
        suffixes: which files of a folder are meant. Hidden ones, and those that a download has not finished
            (*.nc.part, *.tmp), are never.

    Raises:
        StforecastError: FILE_MISSING, if there is none; FILE_BUSY, if the one file is unfinished.
    """
    if path.is_file() or is_zarr(path):
        if path.suffix in _UNFINISHED:
            raise StforecastError(
                ErrorKind.FILE_BUSY, f"{path} is not finished, by its name; wait for the download or write to end"
            )
        return [path]
    if path.is_dir():
        wanted = f"a file with a name in *{', *'.join(sorted(suffixes))} or a zarr store"
        found = [file for file in path.iterdir() if file.suffix in suffixes or is_zarr(file)]
    elif {"*", "?"} & set(str(path)):
        wanted = "a file that matches this pattern"
        found = [file for file in _matching(path) if file.is_file() or is_zarr(file)]
    else:
        raise StforecastError(ErrorKind.FILE_MISSING, f"there is no file or folder {path}; check the path")
    files = sorted(file for file in found if not file.name.startswith(".") and file.suffix not in _UNFINISHED)
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


@dataclass(frozen=True)
class Stamp:
    """A file as it was at a moment.

    Attributes:
        path: the file.
        size: its bytes.
        modified_ns: when it was last written to.
    """

    path: Path
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The file as it is now."""
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """Refuse a file that has been written to, replaced or removed since.

        Raises:
            StforecastError: FILE_BUSY, naming the file and both sizes.
        """
        try:
            now = Stamp.of(self.path)
        except FileNotFoundError:
            raise StforecastError(ErrorKind.FILE_BUSY, f"{self.path} is gone since it was opened") from None
        if now != self:
            raise StforecastError(
                ErrorKind.FILE_BUSY,
                f"{self.path} has changed since it was opened ({self.size} bytes then, {now.size} now), something is "
                "writing it; open it again when that has ended",
            )


@contextmanager
def at_rest(stamp: Stamp | None) -> Iterator[None]:
    """A block that reads a file, and fails with FILE_BUSY if the file is not what it was, whatever else fails then."""
    if stamp is None:
        yield
        return
    stamp.check()
    try:
        yield
    finally:
        stamp.check()


def check_file(path: Path) -> Stamp:
    """The file as it was when it was found to be netCDF or HDF5, whole, as its checksum says and safe to open.

    The netCDF library reads a netCDF-3 file that is cut short without an error, so sizes are compared beforehand. Where
    `FILE.sha256` lies beside, its sum is compared. Then a child process opens the file, follows its links and reads the
    ends of its arrays. A file that has not changed since is not looked at again.

    Raises:
        StforecastError: FILE_FORMAT, FILE_TRUNCATED, FILE_CHECKSUM, FILE_TIMEOUT, FILE_BUSY, FILE_UNSAFE_HDF5 or
            FILE_TOO_LARGE, naming the file and what was found in it.
    """
    stamp, sums = Stamp.of(path), sum_file(path)
    with at_rest(stamp):
        _check_once(stamp, Stamp.of(sums) if sums.is_file() else None)
    return stamp


@functools.lru_cache(maxsize=2**16)
def _check_once(stamp: Stamp, sums: Stamp | None) -> None:
    path = stamp.path
    with path.open("rb") as file:
        declared = _declared_size(file, path)
    if stamp.size < declared:
        raise StforecastError(
            ErrorKind.FILE_TRUNCATED,
            f"{path} is cut short: its header declares {declared} bytes, there are {stamp.size}; fetch the file anew",
        )
    if sums is not None:
        check_sum(path)
    probe(path)


def _declared_size(file: BinaryIO, path: Path) -> int:
    magic = file.read(8)
    if magic == _HDF5_SIGNATURE:
        return _hdf5_size(file)
    if is_netcdf3(magic):
        return netcdf3_size(file, path)
    raise StforecastError(ErrorKind.FILE_FORMAT, f"{path} is not a netCDF or HDF5 file: {describe_magic(magic)}")


def sum_file(path: Path) -> Path:
    """Where the SHA-256 of a file is looked for."""
    return path.with_name(f"{path.name}.sha256")


def check_sum(path: Path) -> None:
    """Refuse a file whose SHA-256 is not the one that `FILE.sha256` beside it, as sha256sum writes it, names.

    Without such a file nothing is refused.

    Raises:
        StforecastError: FILE_CHECKSUM, naming the file and the beginnings of both sums.
    """
    sums = sum_file(path)
    if not sums.is_file():
        return
    with sums.open("rb") as file:
        lines = file.read(_LARGEST_SUM_FILE).decode(errors="replace").splitlines()
    matches = [match for match in map(_SUM.fullmatch, lines) if match]
    named = [match[1].lower() for match in matches if not match["name"] or Path(match["name"]).name == path.name]
    if not named:
        raise StforecastError(
            ErrorKind.FILE_CHECKSUM, f"{sums} holds no SHA-256 of {path.name}; write it with sha256sum, or remove it"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != named[0]:
        raise StforecastError(
            ErrorKind.FILE_CHECKSUM,
            f"{path} has the SHA-256 {found[:12]}… but {sums.name} names {named[0][:12]}…: it is damaged or another "
            "file; fetch it anew",
        )


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 (and so netCDF-4) files do."""
    return begins_with(path, _HDF5_SIGNATURE)


def begins_with(path: Path, magic: bytes) -> bool:
    """Whether these are the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def describe_magic(magic: bytes) -> str:
    """What a file is that begins with these bytes, as the end of a message."""
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
            ErrorKind.FILE_FORMAT, f"{path} is damaged: HDF5 says {in_one_line(error)}; fetch the file anew"
        ) from error
