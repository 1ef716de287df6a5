"""Processes that die, fail or lose what was not flushed, forked from a warm one so that a trial is cheap."""

import errno
import functools
import json
import os
import pickle
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dask
import numpy as np
import xarray as xr
from factory import make_series

from stforecast.errors import ErrorKind, StforecastError
from stforecast.split import Split
from stforecast.store import append, layout, open_store, prepare, validate

KILL = 0
DISK_IS_FULL = {errno.ENOSPC: {ErrorKind.DISK_FULL}, errno.EFBIG: {ErrorKind.DISK_FULL}}
Act = Callable[[], Any]
SPLIT = Split(
    train=("2016-01-01", "2016-01-08"), validation=("2016-01-09", "2016-01-10"), test=("2016-01-11", "2016-01-31")
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Violation(AssertionError):
    """A rule of reliability that did not hold."""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        how: done, failed or killed.
        points: how many changes of the disk it made before it ended.
        kind: the kind of its StforecastError; the name of the class for another exception.
        message: what the exception said.
        result: what the act returned, if that is plain.
    """

    how: Literal["done", "failed", "killed"]
    points: int = 0
    kind: str = ""
    message: str = ""
    result: Any = None


def numbered(root: Path, at: int, fault: int) -> Callable[[], int]:
    """Counts changes of the disk under a root from now on, for good; the one numbered `at` kills or fails.

    Flushing counts as a change. Only for a child: an audit hook cannot be taken away.
    """
    seen = 0
    prefix = str(root)
    flush = os.fsync

    def change(paths: list[str]) -> None:
        nonlocal seen
        if not any(path.startswith(prefix) for path in paths):
            return
        seen += 1
        if seen == at:
            if fault == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(fault, os.strerror(fault), paths[0])

    def flushed(descriptor: int) -> None:
        change([str(Path(f"/proc/self/fd/{descriptor}").readlink())])
        flush(descriptor)

    os.fsync = flushed
    sys.addaudithook(lambda event, arguments: change(_changed(event, arguments)))
    return lambda: seen


def _changed(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """The paths that an audited call changes."""
    if event == "open":
        path, _, flags = arguments
        return [os.fsdecode(path)] if isinstance(path, str | bytes) and flags & _WRITES else []
    if event in {"os.rename", "os.link"}:
        return [_whole(arguments[0], arguments[2]), _whole(arguments[1], arguments[3])]
    if event == "os.symlink":
        return [_whole(arguments[1], arguments[2])]
    if event in {"os.remove", "os.rmdir"}:
        return [_whole(arguments[0], arguments[1])]
    if event == "os.mkdir":
        return [_whole(arguments[0], arguments[2])]
    return [os.fsdecode(arguments[0])] if event == "os.truncate" and not isinstance(arguments[0], int) else []


def _whole(path: Any, folder: int) -> str:
    """An absolute path for one that may be relative to an open folder, as in shutil.rmtree."""
    name = os.fsdecode(path)
    return name if folder == -1 else str(Path(f"/proc/self/fd/{folder}").readlink() / name)


def start(act: Act) -> tuple[int, int]:
    """The process id of a forked child that acts, and the pipe on which it says how it ended."""
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        # The libraries at work here (zarr's loop, dask's pool) set themselves up anew in a child.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        os.close(writes)
        return child, reads
    os.close(reads)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with dask.config.set(scheduler="synchronous"):
            ended = Ended("done", result=act())
    except StforecastError as error:
        ended = Ended("failed", kind=str(error.kind), message=str(error))
    except BaseException as error:
        ended = Ended("failed", kind=type(error).__name__, message=str(error))
    try:
        os.write(writes, pickle.dumps(ended))
    finally:
        os._exit(0)


def wait(child: int, reads: int, *, limit: float = 60) -> Ended:
    """How a child ended; it is killed when it takes longer than the limit.

    Raises:
        Violation: if it hangs.
    """
    with os.fdopen(reads, "rb") as pipe:
        until = time.monotonic() + limit
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise Violation(f"a process hung for {limit} s")
            time.sleep(0.002)
        said = pipe.read()
    return pickle.loads(said) if said else Ended("killed")


def in_child(act: Act, root: Path, *, at: int = -1, fault: int = KILL) -> Ended:
    """How an act ends whose change number `at` under the root kills it or raises an error."""

    def watched() -> int:
        count = numbered(root, at, fault)
        act()
        return count()

    ended = wait(*start(watched))
    return Ended(ended.how, ended.result or 0, ended.kind, ended.message)


# --- What survives a loss of power: only what was flushed, and names only where their folder was.

Listing = dict[str, tuple[str, str]]


def listing_of(folder: Path) -> Listing:
    """What each name in a folder stands for: a link by its target, all else by its inode."""
    return {
        entry.name: ("link", str(entry.readlink())) if entry.is_symlink() else ("inode", str(entry.stat().st_ino))
        for entry in folder.iterdir()
    }


def record_flushes(root: Path, log: Path) -> None:
    """Write down, for good, what each fsync under a root makes durable. Only for a child."""
    flush = os.fsync

    def recorded(descriptor: int) -> None:
        flush(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(root):
            status = os.fstat(descriptor)
            what = listing_of(path) if path.is_dir() else (status.st_mtime_ns, status.st_size)
            with log.open("a") as lines:
                lines.write(json.dumps([str(status.st_ino), what]) + "\n")

    os.fsync = recorded


@dataclass
class Durable:
    """What a disk is sure to hold: files by inode with their time of change, folders by inode with their names."""

    files: dict[str, int]
    folders: dict[str, Listing]

    @classmethod
    def of(cls, root: Path) -> "Durable":
        """All that is there: it was written long ago."""
        durable = cls({}, {})
        for folder, _, names in os.walk(root):
            durable.folders[str(Path(folder).stat().st_ino)] = listing_of(Path(folder))
            for status in [(Path(folder) / name).lstat() for name in names]:
                durable.files[str(status.st_ino)] = status.st_mtime_ns
        return durable

    def with_flushes(self, log: Path) -> "Durable":
        """This and what a process flushed since."""
        for line in log.read_text().splitlines() if log.exists() else []:
            inode, what = json.loads(line)
            if isinstance(what, dict):
                self.folders[inode] = {name: (kind, value) for name, (kind, value) in what.items()}
            else:
                self.files[inode] = what[0]
        return self

    def lose(self, folder: Path, random: np.random.Generator | None) -> None:
        """Take away what is not durable: all of it, or with a random generator each thing or not."""

        def lost() -> bool:
            return random is None or bool(random.random() < 0.5)

        durable, now = self.folders.get(str(folder.stat().st_ino), {}), listing_of(folder)
        for name, (kind, value) in durable.items():
            # A name that was taken away or pointed elsewhere after the last flush may still be as it was.
            if kind == "link" and now.get(name) != (kind, value) and lost():
                (folder / name).unlink(missing_ok=True)
                (folder / name).symlink_to(value)
        for name, meant in now.items():
            entry = folder / name
            if durable.get(name) != meant and not entry.is_symlink() and lost():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            elif entry.is_symlink():
                if name not in durable and lost():
                    entry.unlink()
            elif entry.is_dir():
                self.lose(entry, random)
            elif self.files.get(str(entry.stat().st_ino)) != entry.stat().st_mtime_ns and lost():
                os.truncate(entry, 0 if random is None else int(random.integers(entry.stat().st_size + 1)))


def shrink_shards() -> None:
    """4x6 cells are 96 bytes a frame, so 4 frames a chunk and 12 a shard."""
    layout.CHUNK_BYTES, layout.SHARD_BYTES = 384, 1152


def changed_series(frames: int = 60) -> xr.Dataset:
    """The series of the tests with other values in its last frames."""
    series = make_series(frames)
    series["t2m"][frames - 6 :] += 3
    return series


@dataclass(frozen=True)
class Scenario:
    """Something that changes a store, from what was there before.

    Attributes:
        name: new, overwrite, append, replace or resume.
        before: makes what is there before.
        act: what may be interrupted at any point and made again.
    """

    name: str
    before: Callable[[Path], Any]
    act: Callable[[Path], Any]


def _prepared(path: Path) -> None:
    prepare(make_series(50), path, SPLIT)


def _half_built(path: Path) -> None:
    in_child(lambda: _new(path), path.parent, at=70)


def _new(path: Path) -> None:
    prepare(make_series(60), path, SPLIT)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("new", lambda path: None, _new),
        Scenario("overwrite", _prepared, lambda path: prepare(make_series(60, seed=1), path, SPLIT, overwrite=True)),
        Scenario("append", _prepared, lambda path: append(make_series(60).isel(time=slice(44, None)), path)),
        Scenario("replace", _new, lambda path: append(changed_series(), path, replace=True)),
        Scenario("resume", _half_built, _new),
    )
}


def files_of(path: Path) -> dict[str, bytes] | None:
    """Every file of the current version by name; None without a store."""
    if not path.exists():
        return None
    version = (path / ".current").resolve().parent
    return {str(file.relative_to(version)): file.read_bytes() for file in sorted(version.rglob("*")) if file.is_file()}


def tree_of(folder: Path) -> dict[str, bytes | str]:
    """All that is under a folder by name, but for lock files: contents, targets of links, and folders."""
    return {
        str(entry.relative_to(folder)): str(entry.readlink())
        if entry.is_symlink()
        else entry.read_bytes()
        if entry.is_file()
        else "a folder"
        for entry in sorted(folder.rglob("*"))
        if entry.suffix != ".lock"
    }


class Bench:
    """One scenario, undisturbed once for what is to be, then disturbed as often as one likes."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.folder = scenario, folder
        self.origin, undisturbed = folder / "origin", folder / "undisturbed" / "s.zarr"
        (self.origin).mkdir(parents=True)
        scenario.before(self.origin / "s.zarr")
        shutil.copytree(self.origin, undisturbed.parent, symlinks=True)
        self.points = in_child(lambda: scenario.act(undisturbed), undisturbed.parent).points
        self.largest = max(file.stat().st_size for file in undisturbed.parent.rglob("*") if file.is_file())
        self.old, self.new = files_of(self.origin / "s.zarr"), files_of(undisturbed)
        self.old_values = None if self.old is None else open_store(self.origin / "s.zarr").load()
        self.new_values = open_store(undisturbed).load()
        self.origin_tree = tree_of(self.origin)
        for store in (undisturbed, *([] if self.old is None else [self.origin / "s.zarr"])):
            if not validate(store).is_sound:
                raise Violation(str(validate(store)))
        if self.old == self.new or self.points < 10:
            raise Violation(f"{scenario.name} changed nothing or was not watched ({self.points} points)")
        self.trials = 0

    @functools.cached_property
    def seconds(self) -> float:
        """How long the act takes: the middle one of three."""
        lasted = []
        for _ in range(3):
            path, begun = self.fresh(), time.monotonic()
            wait(*start(functools.partial(lambda path: bool(self.scenario.act(path)), path)))
            lasted.append(time.monotonic() - begun)
            shutil.rmtree(path.parent)
        return sorted(lasted)[1]

    def fresh(self) -> Path:
        """A copy of what is there before, for one trial."""
        self.trials += 1
        place = self.folder / f"trial{self.trials}"
        shutil.copytree(self.origin, place, symlinks=True)
        return place / "s.zarr"

    def disturb(self, at: int, fault: int = KILL) -> str:
        """What is left when the act dies or fails at one point, after a look at it and at what a rerun makes of it.

        Raises:
            Violation: naming scenario, point and fault, if a rule does not hold.
        """
        path = self.fresh()
        reader = None if self.old is None else open_store(path)
        ended = in_child(lambda: self.scenario.act(path), path.parent, at=at, fault=fault)
        return self.check(path, reader, ended, f"{self.scenario.name}, point {at}, fault {fault}", fault)

    def kill_after(self, share: float) -> str:
        """What is left when the act is killed after a share of the time that it takes.

        Raises:
            Violation: as `disturb`.
        """
        path = self.fresh()
        reader = None if self.old is None else open_store(path)
        child, reads = start(lambda: bool(self.scenario.act(path)))
        time.sleep(share * self.seconds)
        # It is not waited for yet, so the number is still its own even if it has ended.
        os.kill(child, signal.SIGKILL)
        ended = wait(child, reads)
        return self.check(path, reader, ended, f"{self.scenario.name}, killed after {share:.3f} of its time", KILL)

    def lose_power(self, at: int = -1, *, seed: int | None = None) -> str:
        """What is left when the power goes once the act has ended, or at one of its points.

        Raises:
            Violation: as `disturb`; also if what was acknowledged is not there whole.
        """
        path = self.fresh()
        log = self.folder / f"flushed{self.trials}.log"
        before = Durable.of(path.parent)

        def recorded() -> None:
            record_flushes(path.parent, log)
            self.scenario.act(path)

        ended = in_child(recorded, path.parent, at=at)
        before.with_flushes(log).lose(path.parent, None if seed is None else np.random.default_rng(seed))
        log.unlink(missing_ok=True)
        what = f"{self.scenario.name}, power lost at {at}, seed {seed}"
        return self.check(path, None, ended, what, KILL)

    def check(self, path: Path, reader: xr.Dataset | None, ended: Ended, what: str, fault: int) -> str:
        """How the act ended and what is left, held against the rules; then the act is made again."""
        try:
            left = self._hold(path, reader, ended, fault)
        except Violation as error:
            raise Violation(f"{what}: {error} ({path})") from error
        except Exception as error:
            raise Violation(f"{what}: {type(error).__name__}: {error} ({path})") from error
        shutil.rmtree(path.parent)
        return f"{ended.how}, {left} store left"

    def _hold(self, path: Path, reader: xr.Dataset | None, ended: Ended, fault: int) -> str:
        self._check_error(ended, path, fault)
        left = self._check_whole(path)
        self._check_reader(reader)
        if ended.how == "done" and left != self.new:
            raise Violation("success was reported, but the store is the old one")
        if ended.how == "failed" and "readers see it" in ended.message and left != self.new:
            raise Violation(f"said {ended.message!r}, but the store is not the new one")
        if ended.how == "failed" and "intact" in ended.message and left != self.old:
            raise Violation(f"said {ended.message!r}, but the store is the new one")
        if tree_of(path.parent) == self.origin_tree:
            # To make the act again is then what it was to make it undisturbed.
            return "no" if left is None else "old"
        again = in_child(lambda: self.scenario.act(path), path.parent)
        if again.how != "done" and not (again.kind == ErrorKind.OUTPUT_EXISTS and left == self.new):
            raise Violation(f"a rerun {again.how}: {again.kind} {again.message}")
        if self._check_whole(path) != self.new:
            raise Violation("a rerun ends in other bytes than an undisturbed run")
        if left == self.old:
            self._check_reader(reader)
        litter = {entry.name for entry in path.parent.iterdir()} - {"s.zarr", ".s.zarr.lock"}
        if litter and left != self.new:
            raise Violation(f"a rerun leaves {sorted(litter)}")
        return "new" if left == self.new else "no" if left is None else "old"

    def _check_error(self, ended: Ended, path: Path, fault: int) -> None:
        wanted = {
            KILL: set(),
            **DISK_IS_FULL,
            errno.EIO: {ErrorKind.IO_ERROR},
            errno.EACCES: {ErrorKind.PERMISSION},
        }[fault]
        if ended.how == "killed" and fault != KILL:
            raise Violation("died of an error")
        # Once readers see the new store, a flush that fails is said to be just that.
        told = ended.kind in wanted or (ended.kind == ErrorKind.IO_ERROR and "did not confirm" in ended.message)
        if ended.how == "failed" and not (told and path.name in ended.message):
            raise Violation(f"failed with {ended.kind}: {ended.message}")

    def _check_whole(self, path: Path) -> dict[str, bytes] | None:
        left = files_of(path)
        if left not in (self.old, self.new):
            raise Violation(f"the store is neither the old one nor the new one: {differing(left, self.new)} differ")
        if left is not None:
            # The same bytes are as sound as they were found to be undisturbed.
            expected = self.new_values if left == self.new else self.old_values
            opened = open_store(path).load(scheduler="synchronous")
            if expected is None or not opened.identical(expected):
                raise Violation("values are not those that were committed")
        return left

    def _check_reader(self, reader: xr.Dataset | None) -> None:
        if reader is not None and not reader.copy().load(scheduler="synchronous").identical(self.old_values):
            raise Violation("a reader of the old version reads other values")


FAULTS = (KILL, errno.ENOSPC, errno.EIO, errno.EACCES)


def sample(points: int, count: int, seed: int) -> Iterable[tuple[int, int]]:
    """A seeded sample of points, each with a fault in turn; half of them among the last, where a store is published."""
    random = np.random.default_rng(seed)
    early = random.choice(np.arange(1, points + 1), min(count // 2, points), replace=False)
    late = random.choice(np.arange(max(points - 24, 1), points + 1), min(count - count // 2, points), replace=False)
    return [(int(at), FAULTS[number % 4]) for number, at in enumerate([*early, *late])]


def differing(left: dict[str, bytes] | None, right: dict[str, bytes] | None) -> list[str]:
    """Names of the files that differ."""
    left, right = left or {}, right or {}
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
