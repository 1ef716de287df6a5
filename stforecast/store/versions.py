"""Immutable versions of a store behind one link, with a manifest each, published in one step."""

import errno
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import psutil

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import confirm, link_to, make_durable, sha256, sync, unwritten

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
def lock(
    path: Path, *, busy: ErrorKind = ErrorKind.STORE_BUSY, doing: str = "written", patience: float = 0.0
) -> Iterator[None]:
    """One writer of a store at a time; the kernel releases the lock of a process that died.

    Args:
        path: what is written.
        busy: the kind of the error where another process holds it.
        doing: what that process does with it, as the error says it.
        patience: seconds to wait for it.

    Raises:
        StforecastError: STORE_BUSY, naming host and process of the holder; PERMISSION, naming folder and user, if the
            store cannot be written; LOCK_UNSUPPORTED on a file system that keeps no lock between machines.
    """
    file, holder = path.with_name(f".{path.name}.lock"), path.with_name(f".{path.name}.holder")
    taken = filelock.FileLock(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_locking(path)
        _check_writable(path)
        taken.acquire(timeout=patience)
    except filelock.Timeout as error:
        who = _said(holder) or "another process"
        raise StforecastError(busy, f"{path} is being {doing} by {who}; wait for it to end") from error
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise _no_lock(path, f"cannot lock files ({error})") from error
        raise unwritten(error, path) from error
    except NotImplementedError as error:
        raise _no_lock(path, "cannot lock files") from error
    try:
        # Who holds it is said for people; the lock itself does not depend on it.
        with suppress(OSError):
            holder.write_text(_THIS_PROCESS.format(pid=os.getpid(), host=socket.gethostname()))
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        taken.release()


_THIS_PROCESS = "process {pid} on {host}"


def holder_of(path: Path) -> str:
    """Who holds the lock of what is written at `path`, as "process 4711 on host"; nothing if nobody does.

    It is told by what the holder wrote. The lock itself is left alone: who came for it at that moment would be refused.
    """
    return _said(path.with_name(f".{path.name}.holder"))


def _said(holder: Path) -> str:
    """What a holder wrote; nothing if it ended or did not come to it yet.

    A holder that was killed leaves its text behind, and whoever has the lock now may not have written its own yet. Its
    number may be another process' by now.
    """
    try:
        text, written = holder.read_text(), holder.stat().st_mtime
    except OSError:
        return ""
    said = re.fullmatch(r"process (\d+) on (.*)", text)
    if said is None:
        return ""
    if said[2] == socket.gethostname():
        try:
            process = psutil.Process(int(said[1]))
            ended = process.status() == psutil.STATUS_ZOMBIE or process.create_time() > written + _CLOCKS_DIFFER_SECONDS
        except psutil.NoSuchProcess:
            ended = True
        except psutil.AccessDenied:
            ended = False
        return "" if ended else text
    return text


# A disk of another machine stamps files by that one's clock.
_CLOCKS_DIFFER_SECONDS = 60


def check_locking(path: Path, mounts: str | None = None) -> None:
    """Refuse a file system on which a lock does not keep writers on other machines out.

    Args:
        path: where a store is to be.
        mounts: what /proc/mounts says; by default, of this machine, where it has such a file.

    Raises:
        StforecastError: LOCK_UNSUPPORTED, naming the file system and where it is mounted.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text()
        except OSError:
            return
    place = path.parent.resolve()
    best: tuple[Path, str, set[str]] | None = None
    for line in mounts.splitlines():
        _, point, kind, options, *_ = [re.sub(r"\\([0-7]{3})", lambda o: chr(int(o[1], 8)), w) for w in line.split()]
        # Of mounts over each other the last one counts.
        if place.is_relative_to(point) and (best is None or len(point) >= len(str(best[0]))):
            best = (Path(point), kind, set(options.split(",")))
    if best is None:
        return
    point_of, kind, given = best
    if (
        kind in _LOCKED_HERE_ONLY
        or given & _LOCAL_LOCKS.get(kind, set())
        or (kind == "lustre" and "flock" not in given)
    ):
        raise _no_lock(path, f"is {kind}, mounted at {point_of} so that locks do not reach other machines")


# Each of these answers a lock with success and tells no other machine (their manuals: sshfs(1), rclone mount, s3fs,
# gcsfuse, mount-s3), nor do they rename in one step.
_LOCKED_HERE_ONLY = {"fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "fuse.mount-s3"}
# nfs(5), mount.cifs(8), mount.lustre(8): options by which locks stay on the machine that takes them.
_LOCAL_LOCKS = {
    "nfs": {"nolock", "local_lock=flock", "local_lock=all"},
    "nfs4": {"nolock", "local_lock=flock", "local_lock=all"},
    "cifs": {"nobrl"},
    "smb3": {"nobrl"},
    "lustre": {"localflock", "noflock"},
}


def _no_lock(path: Path, why: str) -> StforecastError:
    return StforecastError(
        ErrorKind.LOCK_UNSUPPORTED,
        f"the file system of {path} {why}, so two writers could spoil the store; prepare it on a local disk and copy "
        "it there, or mount it with locks",
    )


def _check_writable(path: Path) -> None:
    """Refuse before the work what publishing would be refused after it."""
    effective = os.access in os.supports_effective_ids
    for folder in (path.parent, path, path / VERSIONS):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


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
    """What of a version's files is missing, has another size or other content than its manifest says.

    Metadata are always compared by content: they are small and, unlike chunks, have no checksum of their own. All else
    is if `deep`, and then files that the manifest does not name are faults as well.
    """
    faults = []
    manifest = read_manifest(version)
    if deep:
        there = {str(file.relative_to(version / GROUP)) for file in (version / GROUP).rglob("*") if file.is_file()}
        faults += [(ErrorKind.STORE_CORRUPT, f"{name} does not belong to it") for name in sorted(there - set(manifest))]
    for name, (size, digest) in manifest.items():
        file = version / GROUP / name
        if not file.is_file():
            faults.append((ErrorKind.STORE_INCOMPLETE, f"{name} is missing"))
        elif file.stat().st_size != size:
            faults.append((ErrorKind.STORE_CORRUPT, f"{name} has {file.stat().st_size} bytes instead of {size}"))
        elif (deep or name.endswith("zarr.json")) and digest_of(file)[1] != digest:
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
        link_to(whole / CURRENT, Path(VERSIONS) / "1" / GROUP)
        _link_names(whole, names)
        sync(whole / VERSIONS)
        sync(whole)
        whole.rename(path)
        confirm(path.parent, path)
        return
    before = current_version(path)
    number = 1 + max(int(version.name) for version in (path / VERSIONS).iterdir())
    staged.rename(path / VERSIONS / str(number))
    sync(path / VERSIONS)
    _link_names(path, names)
    link_to(path / CURRENT, Path(VERSIONS) / str(number) / GROUP)
    confirm(path, path)
    # What is published is published: old versions that cannot be dropped now are dropped next time.
    with suppress(OSError):
        _retire(path, names=set(names), kept={before.name, str(number)})


def _link_names(path: Path, names: list[str]) -> None:
    for name in names:
        if not (path / name).is_symlink():
            link_to(path / name, Path(CURRENT) / name)


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
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.tmp")
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
