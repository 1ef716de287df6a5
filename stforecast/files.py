"""Outputs that are whole or not there: written under a temporary name, made durable, then renamed."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_FLUSHES = 8


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which becomes `path` when the block ends without an error.

    The parent folder is made. On an error the temporary file or folder is removed and what was at `path` stays. A
    folder takes the place only of nothing: os.replace refuses a folder that is not empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers choose their format by it.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield temporary
        make_durable(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


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


def sync(path: Path) -> None:
    """Flush one file, or one folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
