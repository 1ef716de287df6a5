"""Outputs that are whole or not there: written under a temporary name, made durable, then renamed."""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from stforecast.errors import ErrorKind, StforecastError

_FLUSHES = 8


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which becomes `path` when the block ends without an error.

    The parent folder is made. On an error the temporary file or folder is removed and what was at `path` stays. A
    folder takes the place only of nothing: os.replace refuses a folder that is not empty.

    Raises:
        StforecastError: IO_ERROR if what is new is in its place but may not survive a loss of power.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers choose their format by it.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield temporary
        make_durable(temporary)
        temporary.replace(path)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise
    confirm(path.parent, path)


def check_writable(folder: Path) -> None:
    """Make a folder that files are going to be written into, before the work that they are of and not after it.

    Raises:
        StforecastError: PERMISSION if it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StforecastError(ErrorKind.PERMISSION, f"the folder {folder} cannot be made: {error}") from error
    if not os.access(folder, os.W_OK):
        raise StforecastError(ErrorKind.PERMISSION, f"the folder {folder} cannot be written by this user")


def make_durable(path: Path) -> None:
    """Flush a file, or every file and folder of a tree, to the disk."""
    if not path.is_dir():
        sync(path)
        return
    files, folders = [], []
    for folder, _, names in os.walk(path, topdown=False):
        files += [Path(folder) / name for name in names if not (Path(folder) / name).is_symlink()]
        folders.append(Path(folder))
    # A disk settles flushes that wait for it together in one go.
    with ThreadPoolExecutor(max_workers=_FLUSHES) as threads:
        list(threads.map(sync, files))
        list(threads.map(sync, folders))


def link_to(link: Path, target: Path) -> None:
    """Make or replace a symbolic link in one step; whoever flushes the folder makes it durable."""
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def sync(path: Path) -> None:
    """Flush one file, or one folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def confirm(folder: Path, path: Path) -> None:
    """Flush a folder's list of names once a rename in it has put `path` in its place.

    Raises:
        StforecastError: IO_ERROR, which does not say that `path` was not written, for it was.
    """
    try:
        sync(folder)
    except OSError as error:
        raise StforecastError(
            ErrorKind.IO_ERROR,
            f"{path} was written and readers see it, but the disk did not confirm it ({error}); should the power go, "
            "what was there before may come back: check the disk, then write it again",
        ) from error


def unwritten(error: OSError | RuntimeError, path: Path, *, needed: int | None = None) -> StforecastError:
    """What an error of the operating system, or of the netCDF library, means for an output that was to be written.

    Args:
        error: what went wrong before anything was put in its place.
        path: the output.
        needed: bytes that it may need, where that is known.
    """
    intact = f"{path} was not written and what was there before is intact"
    code = _errno_of(error, path)
    if code in _FULL:
        space = [] if needed is None else [f"it may need {needed:,} bytes"]
        with suppress(OSError):
            space.append(f"{shutil.disk_usage(path.parent).free:,} are free in {path.parent.resolve()}")
        return StforecastError(ErrorKind.DISK_FULL, "; ".join([f"{_FULL[code]}: {intact}", *space]))
    if isinstance(error, PermissionError):
        return StforecastError(
            ErrorKind.PERMISSION,
            f"{error.filename or path} cannot be written by {_user()}: {intact}; ask its owner or choose another place",
        )
    return StforecastError(ErrorKind.IO_ERROR, f"{intact}: {error}")


@contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Says of an output what the operating system's errors mean for it.

    Raises:
        StforecastError: DISK_FULL, PERMISSION or IO_ERROR, and what was at `path` before is intact.
    """
    try:
        yield
    except OSError as error:
        raise unwritten(error, path) from error


_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "a limit on the size of a file (ulimit -f) is reached",
}


def _errno_of(error: OSError | RuntimeError, path: Path) -> int | None:
    """The number of an error; netCDF says no more than "HDF error", so the disk is asked whether it is full."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return error.errno
    with suppress(OSError):
        if shutil.disk_usage(path.parent).free < _NEARLY_NOTHING:
            return errno.ENOSPC
    return None


# HDF5 writes in pieces of some hundred KiB, so a disk that refused one has less than this.
_NEARLY_NOTHING = 2**20


def _user() -> str:
    """Who this process writes as; the number where the machine has no name for it."""
    import pwd  # not on every system

    try:
        return f"user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"user {os.geteuid()}"


def sha256(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
