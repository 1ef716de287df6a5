"""Immutable versions of a store behind one link, with a manifest each, published in one step."""

import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import make_durable, sha256, sync

CURRENT, VERSIONS = ".current", ".versions"
GROUP, MANIFEST = "store", "manifest.json"

Files = dict[str, tuple[int, str]]


def is_store(path: Path) -> bool:
    """Whether a store that `prepare` made stands at `path`."""
    return (path / CURRENT).is_symlink() and (path / VERSIONS).is_dir()


def current_version(path: Path) -> Path:
    """The folder of the version that is current now; it stays what it is while newer ones are published.

    Raises:
        StforecastError: FILE_MISSING; FILE_FORMAT if it is no store of ours; STORE_INCOMPLETE if the version is gone.
    """
    if not path.exists() and not path.is_symlink():
        raise StforecastError(ErrorKind.FILE_MISSING, f"there is no store at {path}; make one with stforecast prepare")
    if not is_store(path):
        raise StforecastError(ErrorKind.FILE_FORMAT, f"{path} is not a store that stforecast prepared")
    version = (path / CURRENT).resolve().parent
    if not (version / GROUP).is_dir():
        raise StforecastError(ErrorKind.STORE_INCOMPLETE, f"{path} points to {version.name}, which is not there")
    return version


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """One writer of a store at a time; the kernel releases the lock of a process that died.

    Raises:
        StforecastError: STORE_BUSY, naming host and process of the holder; PERMISSION if the folder cannot be written.
    """
    file, holder = path.with_name(f".{path.name}.lock"), path.with_name(f".{path.name}.holder")
    taken = filelock.FileLock(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        taken.acquire(timeout=0)
    except filelock.Timeout as error:
        who = _said(holder) or "another process"
        raise StforecastError(ErrorKind.STORE_BUSY, f"{path} is being written by {who}; wait for it to end") from error
    except PermissionError as error:
        raise StforecastError(
            ErrorKind.PERMISSION,
            f"{path.parent.resolve()} cannot be written by this user, so {path.name} cannot be; choose another place",
        ) from error
    except OSError as error:
        raise named(error, path) from error
    try:
        # Who holds it is said for people; the lock itself does not depend on it.
        with suppress(OSError):
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        taken.release()


def _said(holder: Path) -> str:
    """What a holder wrote; nothing if it ended or did not come to it yet."""
    try:
        return holder.read_text()
    except OSError:
        return ""


def named(error: OSError, path: Path) -> StforecastError:
    """What an error of the operating system means for a store that was to be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StforecastError(
            ErrorKind.DISK_FULL, f"the disk is full: {path} was not written and what was there before is intact"
        )
    kind = ErrorKind.PERMISSION if isinstance(error, PermissionError) else ErrorKind.IO_ERROR
    return StforecastError(kind, f"{path} was not written and what was there before is intact: {error}")


def staging_of(path: Path) -> Path:
    """Where the next version of a store is built, beside it."""
    return path.with_name(f".{path.name}.partial")


def read_manifest(version: Path) -> Files:
    """Size and SHA-256 of every file of a version, by its path in the group.

    Raises:
        StforecastError: STORE_CORRUPT if the manifest cannot be read.
    """
    try:
        listed = json.loads((version / MANIFEST).read_text())["files"]
        return {str(name): (int(size), str(digest)) for name, (size, digest) in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StforecastError(
            ErrorKind.STORE_CORRUPT, f"the manifest of {version} cannot be read ({error}); prepare the store anew"
        ) from error


def write_manifest(version: Path, known: Files) -> None:
    """List every file of a version; sums that are known already are not computed again."""
    group = version / GROUP
    names = sorted(str(file.relative_to(group)) for file in group.rglob("*") if file.is_file())
    files = {name: known.get(name) or digest_of(group / name) for name in names}
    (version / MANIFEST).write_text(json.dumps({"files": files}, indent=1))


def digest_of(file: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    content = file.read_bytes()
    return len(content), sha256(content)


def find_damage(version: Path, *, deep: bool) -> list[tuple[ErrorKind, str]]:
    """What of a version's files is missing, has another size or, if `deep`, other content than its manifest says."""
    faults = []
    for name, (size, digest) in read_manifest(version).items():
        file = version / GROUP / name
        if not file.is_file():
            faults.append((ErrorKind.STORE_INCOMPLETE, f"{name} is missing"))
        elif file.stat().st_size != size:
            faults.append((ErrorKind.STORE_CORRUPT, f"{name} has {file.stat().st_size} bytes instead of {size}"))
        elif deep and digest_of(file)[1] != digest:
            faults.append((ErrorKind.STORE_CORRUPT, f"{name} was changed (its SHA-256 differs)"))
    return faults


def publish(staged: Path, path: Path) -> None:
    """Make a verified, staged version current, durably and in one atomic step.

    A store is a folder of immutable versions, a link to the current one's group, and a link through it for every name
    in that group's root, so that plain readers open the folder itself.
    """
    names = sorted(entry.name for entry in (staged / GROUP).iterdir())
    make_durable(staged)
    if not path.exists():
        whole = path.with_name(f".{path.name}.whole")
        shutil.rmtree(whole, ignore_errors=True)
        (whole / VERSIONS).mkdir(parents=True)
        staged.rename(whole / VERSIONS / "1")
        _link(whole / CURRENT, Path(VERSIONS) / "1" / GROUP)
        _link_names(whole, names)
        sync(whole / VERSIONS)
        sync(whole)
        whole.rename(path)
        sync(path.parent)
        return
    before = current_version(path)
    number = 1 + max(int(version.name) for version in (path / VERSIONS).iterdir())
    staged.rename(path / VERSIONS / str(number))
    sync(path / VERSIONS)
    _link_names(path, names)
    _link(path / CURRENT, Path(VERSIONS) / str(number) / GROUP)
    sync(path)
    # What is published is published: old versions that cannot be dropped now are dropped next time.
    with suppress(OSError):
        _retire(path, names=set(names), kept={before.name, str(number)})


def _link_names(path: Path, names: list[str]) -> None:
    for name in names:
        if not (path / name).is_symlink():
            _link(path / name, Path(CURRENT) / name)


def _link(link: Path, target: Path) -> None:
    """Make or replace a symbolic link atomically."""
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _retire(path: Path, *, names: set[str], kept: set[str]) -> None:
    """Drop versions that no reader of the last one needs, and links to names that are no more.

    The version that was current before stays, for readers that have it open. It need not be the last but one: a writer
    that died may have left one that never was current.
    """
    for version in (path / VERSIONS).iterdir():
        if version.name not in kept:
            shutil.rmtree(version)
    for entry in path.iterdir():
        if entry.is_symlink() and entry.name != CURRENT and entry.name not in names:
            entry.unlink()


def remember(file: Path, described: Any, *, durable: bool = True) -> None:
    """Write a small JSON file whole or not at all; several processes may write the same.

    Args:
        file: what is to be written.
        described: what JSON can hold.
        durable: whether it is to be whole if the power goes, too; if not, `recall` may find nothing then.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(described))
    if durable:
        sync(temporary)
    temporary.replace(file)


def recall(file: Path) -> Any:
    """What was remembered in a file; None if nothing was, or it did not outlive a loss of power."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None
