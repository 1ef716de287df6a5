"""Processes that die or fail at a numbered change of the disk, forked from a warm one so that a trial is cheap."""

import errno
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

    Only for a child: an audit hook cannot be taken away.
    """
    seen = 0
    prefix = str(root)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if not any(str(path).startswith(prefix) for path in _changed(event, arguments)):
            return
        seen += 1
        if seen == at:
            if fault == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(fault, os.strerror(fault), str(arguments[0]))

    sys.addaudithook(hook)
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
            time.sleep(0.001)
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


class Bench:
    """One scenario, undisturbed once for what is to be, then disturbed as often as one likes."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.folder = scenario, folder
        self.origin, undisturbed = folder / "origin", folder / "undisturbed" / "s.zarr"
        (self.origin).mkdir(parents=True)
        scenario.before(self.origin / "s.zarr")
        shutil.copytree(self.origin, undisturbed.parent, symlinks=True)
        started = time.monotonic()
        self.points = in_child(lambda: scenario.act(undisturbed), undisturbed.parent).points
        self.seconds = time.monotonic() - started
        self.old, self.new = files_of(self.origin / "s.zarr"), files_of(undisturbed)
        self.old_values = None if self.old is None else open_store(self.origin / "s.zarr").load()
        self.new_values = open_store(undisturbed).load()
        if self.old == self.new or self.points < 10:
            raise Violation(f"{scenario.name} changed nothing or was not watched ({self.points} points)")
        self.trials = 0

    def fresh(self) -> Path:
        """A copy of what is there before, for one trial."""
        self.trials += 1
        place = self.folder / f"trial{self.trials}"
        shutil.copytree(self.origin, place, symlinks=True)
        return place / "s.zarr"

    def disturb(self, at: int, fault: int = KILL) -> None:
        """Die or fail at one point, and look at what is left and at what a rerun makes of it.

        Raises:
            Violation: naming scenario, point and fault, if a rule does not hold.
        """
        path = self.fresh()
        reader = None if self.old is None else open_store(path)
        ended = in_child(lambda: self.scenario.act(path), path.parent, at=at, fault=fault)
        self.check(path, reader, ended, f"{self.scenario.name}, point {at}, fault {fault}", fault)

    def kill_after(self, seconds: float) -> None:
        """Kill the act after a time, and look.

        Raises:
            Violation: as `disturb`.
        """
        path = self.fresh()
        reader = None if self.old is None else open_store(path)
        child, reads = start(lambda: bool(self.scenario.act(path)))
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        ended = wait(child, reads)
        self.check(path, reader, ended, f"{self.scenario.name}, killed after {seconds:.4f} s", KILL)

    def check(self, path: Path, reader: xr.Dataset | None, ended: Ended, what: str, fault: int) -> None:
        """Hold what is left against the rules, and make the act again."""
        try:
            self._hold(path, reader, ended, fault)
        except Violation as error:
            raise Violation(f"{what}: {error} ({path})") from error
        except Exception as error:
            raise Violation(f"{what}: {type(error).__name__}: {error} ({path})") from error
        shutil.rmtree(path.parent)

    def _hold(self, path: Path, reader: xr.Dataset | None, ended: Ended, fault: int) -> None:
        self._check_error(ended, path, fault)
        left = self._check_whole(path)
        self._check_reader(reader)
        if ended.how == "done" and left != self.new:
            raise Violation("success was reported, but the store is the old one")
        if ended.how == "failed" and "intact" in ended.message and left != self.old:
            raise Violation(f"said {ended.message!r}, but the store is the new one")
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

    def _check_error(self, ended: Ended, path: Path, fault: int) -> None:
        wanted = {
            KILL: set(),
            errno.ENOSPC: {ErrorKind.DISK_FULL},
            errno.EIO: {ErrorKind.IO_ERROR},
            errno.EACCES: {ErrorKind.PERMISSION},
        }[fault]
        if ended.how == "killed" and fault != KILL:
            raise Violation("died of an error")
        if ended.how == "failed" and (ended.kind not in wanted or path.name not in ended.message):
            raise Violation(f"failed with {ended.kind}: {ended.message}")

    def _check_whole(self, path: Path) -> dict[str, bytes] | None:
        left = files_of(path)
        if left not in (self.old, self.new):
            raise Violation(f"the store is neither the old one nor the new one: {differing(left, self.new)} differ")
        if left is not None:
            validation = validate(path)
            if not validation.is_sound:
                raise Violation(str(validation))
            expected = self.new_values if left == self.new else self.old_values
            opened = open_store(path).load()
            if expected is None or not opened.identical(expected):
                raise Violation("values are not those that were committed")
        return left

    def _check_reader(self, reader: xr.Dataset | None) -> None:
        if reader is not None and not reader.copy().load().identical(self.old_values):
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
