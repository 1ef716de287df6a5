"""Trials of stores and of ingest by the hundred: each gives what came of it and every rule that did not hold."""

import errno
import hashlib
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import dask
import dask.array as da
import h5py
import numpy as np
import xarray as xr
from crash import (
    FAULTS,
    SCENARIOS,
    SPLIT,
    Bench,
    Violation,
    files_of,
    in_child,
    start,
    wait,
)
from factory import make_series

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources import open_dataset
from stforecast.split import Split
from stforecast.store import append, open_store, prepare, validate


@dataclass
class Tally:
    """What came of some trials.

    Attributes:
        outcomes: how many ended in each way.
        violations: what broke a rule, one text each.
        notes: what else there is to say.
        longest_s: the longest that anything took which should be short.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    longest_s: float = 0.0

    def hold(self, trial: Callable[[], str]) -> None:
        """Count how one trial ends."""
        try:
            self.outcomes[trial()] += 1
        except Violation as error:
            self.outcomes["violation"] += 1
            self.violations.append(str(error))

    def add(self, other: "Tally") -> None:
        """Count another's trials too."""
        self.outcomes += other.outcomes
        self.violations += other.violations
        self.longest_s = max(self.longest_s, other.longest_s)
        self.notes += [note for note in other.notes if note not in self.notes]


def crash_points(folder: Path, name: str, share: int, shares: int) -> Tally:
    """Every change of the disk of a scenario, or one share of them, with every fault."""
    bench, tally = Bench(SCENARIOS[name], folder), Tally()
    for at in range(1 + share, bench.points + 1, shares):
        for fault in FAULTS:
            tally.hold(lambda at=at, fault=fault: bench.disturb(at, fault))
    return tally


def random_kills(folder: Path, name: str, count: int, seed: int) -> Tally:
    """Kills at times drawn evenly over what the act takes."""
    bench, tally, random = Bench(SCENARIOS[name], folder), Tally(), np.random.default_rng(seed)
    for share in random.uniform(0, 1, count):
        tally.hold(lambda share=share: bench.kill_after(share))
    return tally


def power_losses(folder: Path, name: str, count: int, seed: int) -> Tally:
    """Power lost after an acknowledged commit, which must be there, and at points before it."""
    return lose_power(Bench(SCENARIOS[name], folder), count, seed)


def lose_power(bench: Any, count: int, seed: int) -> Tally:
    """Power lost after what a bench does was acknowledged, and at points before it."""
    tally, random = Tally(), np.random.default_rng(seed)
    tally.hold(lambda: bench.lose_power())
    for number in range(count // 2):
        tally.hold(lambda number=number: bench.lose_power(seed=number))
    for at in random.integers(1, bench.points + 1, count - count // 2 - 1):
        seed_of = None if random.random() < 0.3 else int(random.integers(2**31))
        tally.hold(lambda at=int(at), seed_of=seed_of: bench.lose_power(at, seed=seed_of))
    return tally


# --- Disks that are full, files that may not be written


def small_files(folder: Path, name: str, count: int, seed: int) -> Tally:
    """A limit on the size of files (ulimit -f), drawn up to the largest file that the act writes."""
    bench, tally, random = Bench(SCENARIOS[name], folder), Tally(), np.random.default_rng(seed)

    def trial(limit: int) -> str:
        path = bench.fresh()

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            bench.scenario.act(path)

        return bench.check(path, None, in_child(limited, path.parent), f"{name}, ulimit {limit}", errno.EFBIG)

    for limit in random.integers(1, bench.largest + 1, count):
        tally.hold(lambda limit=int(limit): trial(limit))
    return tally


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[int], None] | None]:
    """A file system in memory on a folder, and how to give it another size in bytes; None where that is not allowed."""
    folder.mkdir()
    if shutil.which("mount") is None or subprocess.run(_mount(folder, "size=64m"), capture_output=True).returncode:
        yield None
        return

    def resize(size: int) -> None:
        subprocess.run(_mount(folder, f"remount,size={size}"), check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(folder: Path, options: str) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]


def full_disks(folder: Path, name: str, count: int, seed: int) -> Tally:
    """A file system that has so many pages left when the act begins; then it is given more, for the rerun."""
    tally, random = Tally(), np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    bench = Bench(SCENARIOS[name], folder / "bench")
    with small_disk(folder / "disk") as resize:
        if resize is None:
            tally.notes.append("No small file system was filled: this user cannot mount one.")
            return tally

        def trial(pages: int) -> str:
            path = folder / "disk" / "trial" / "s.zarr"
            shutil.copytree(bench.origin, path.parent, symlinks=True)
            used = shutil.disk_usage(folder / "disk").used
            resize(used + 4096 * pages)
            ended = in_child(lambda: bench.scenario.act(path), path.parent)
            resize(2**26)
            return bench.check(path, None, ended, f"{name}, {pages} pages left", errno.ENOSPC)

        for pages in random.integers(1, 70, count):
            tally.hold(lambda pages=int(pages): trial(pages))
            shutil.rmtree(folder / "disk" / "trial", ignore_errors=True)
    return tally


FORBIDDEN = ("parent", "store", "versions", "lock")
NOBODY = 65534


def refused_permissions(name: str) -> Tally:
    """One folder or file of a store at a time that this user may not write; as root, in a child that is nobody."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)
        bench = Bench(SCENARIOS[name], Path(temporary) / "bench")
        for which in FORBIDDEN:
            tally.hold(lambda which=which: _refused(bench, which))
    return tally


def _refused(bench: Bench, which: str) -> str:
    path = bench.fresh()
    lock = path.with_name(f".{path.name}.lock")
    forbidden = {"parent": path.parent, "store": path, "versions": path / ".versions", "lock": lock}[which]
    if which == "lock":
        lock.touch()
    if not forbidden.exists():
        shutil.rmtree(path.parent)
        return "nothing there to forbid"
    is_root = os.geteuid() == 0
    for entry in [path.parent, *path.parent.rglob("*")]:
        if is_root and entry != forbidden:
            os.chown(entry, NOBODY, NOBODY, follow_symlinks=False)
    mode = forbidden.stat().st_mode
    forbidden.chmod(0o444 if which == "lock" else 0o555)

    def act() -> None:
        if is_root:
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        bench.scenario.act(path)

    ended = in_child(act, path.parent)
    forbidden.chmod(mode)
    what = f"{bench.scenario.name}, {which} forbidden"
    if ended.how != "failed" or ended.kind != ErrorKind.PERMISSION:
        raise Violation(f"{what}: {ended}")
    if which != "lock" and str(forbidden.resolve()) not in ended.message:
        raise Violation(f"{what}: {ended.message} does not name {forbidden}")
    if is_root and "user nobody" not in ended.message and str(NOBODY) not in ended.message:
        raise Violation(f"{what}: {ended.message} does not name the user")
    return bench.check(path, None, ended, what, errno.EACCES)


# --- Several at once


def races(folder: Path, rounds: int, seed: int) -> Tally:
    """Rounds of 2 to 8 writers that begin together: the same frames, other frames, or the whole store anew."""
    tally, random = Tally(), np.random.default_rng(seed)
    seeds, end = [0], [44]
    folder.mkdir()
    for number in range(rounds):
        if number % 10 == 0:
            shutil.rmtree(folder)
            folder.mkdir()
            prepare(make_series(44), folder / "s.zarr", SPLIT)
            seeds[0], end[0] = 0, 44
        mode = ("same", "other", "overwrite")[int(random.integers(3))]
        writers = int(random.integers(2, 9))
        tally.hold(lambda m=mode, w=writers: _race(folder / "s.zarr", m, w, seeds, end, tally))
    return tally


def _race(path: Path, mode: str, writers: int, seeds: list[int], end: list[int], tally: Tally) -> str:
    barrier = multiprocessing.get_context("fork").Barrier(writers)
    series, first = make_series(end[0] + 8, seed=seeds[0]), end[0]
    anew = [make_series(44, seed=seeds[0] + 1 + number) for number in range(writers)]

    def write(number: int) -> float:
        """Seconds until it was refused; -1 if it was not."""
        barrier.wait()
        begun = time.monotonic()
        try:
            if mode == "overwrite":
                prepare(anew[number], path, SPLIT, overwrite=True)
            elif mode == "same":
                append(series.isel(time=slice(first, first + 4)), path, allow_gaps=True)
            else:
                append(series.isel(time=[first + number]), path, allow_gaps=True, allow_late=True)
        except StforecastError as error:
            if error.kind is not ErrorKind.STORE_BUSY or "is being written by" not in str(error):
                raise
            return time.monotonic() - begun
        return -1

    ended = [wait(*child) for child in [start(lambda n=n: write(n)) for n in range(writers)]]
    what = f"{writers} writers, {mode}"
    if any(one.how != "done" for one in ended):
        raise Violation(f"{what}: {[one for one in ended if one.how != 'done']}")
    winners = [number for number, one in enumerate(ended) if one.result == -1]
    tally.longest_s = max([tally.longest_s, *(one.result for one in ended)])
    stored = open_store(path).load()
    if not winners or not validate(path).is_sound:
        raise Violation(f"{what}: {len(winners)} winners; {validate(path)}")
    if mode == "overwrite":
        of = [number for number in winners if _holds(stored, anew[number])]
        if not of:
            raise Violation(f"{what}: the store is no winner's")
        seeds[0], end[0] = seeds[0] + 1 + of[0], 44
        return f"{mode}: one store of those that were not refused"
    wanted = [range(first, first + 4)] if mode == "same" else [[first + number] for number in winners]
    missing = {row for rows in wanted for row in rows} - set(np.searchsorted(series["time"], stored["time"]).tolist())
    if missing or not _holds(stored, series.sel(time=stored["time"])):
        raise Violation(f"{what}: frames {sorted(missing)} are lost or values differ")
    end[0] += 8
    return f"{mode}: all frames of those that were not refused"


def _holds(stored: xr.Dataset, series: xr.Dataset) -> bool:
    return stored["t2m"].shape == series["t2m"].shape and bool(abs(stored["t2m"] - series["t2m"]).max() < 1e-3)


def polling(folder: Path, seconds: float, seed: int) -> Tally:
    """A reader that opens and reads a store again and again while it is appended to, replaced and killed at."""
    folder.mkdir()
    path, random, tally = folder / "s.zarr", np.random.default_rng(seed), Tally()
    one, other = make_series(60), make_series(60, seed=1)
    cycle: list[tuple[str, Callable[[Path], Any]]] = [
        ("one", lambda at: prepare(one.isel(time=slice(50)), at, SPLIT, overwrite=True)),
        ("one grown", lambda at: append(one.isel(time=slice(44, None)), at)),
        ("other", lambda at: prepare(other, at, SPLIT, overwrite=True)),
    ]
    known = {}
    for name, act in cycle:
        act(folder / "known.zarr")
        known[_sum_of_store(folder / "known.zarr")] = name
    cycle[0][1](path)
    until = time.monotonic() + seconds
    reader = start(lambda: _poll(path, known, until))
    acts = kills = 0
    while time.monotonic() < until:
        name, act = cycle[(acts + 1) % 3]
        while True:
            child, reads = start(lambda act=act: bool(act(path)))
            if random.random() < 0.5:
                time.sleep(random.uniform(0, 0.3))
                os.kill(child, signal.SIGKILL)
            ended = wait(child, reads)
            if ended.how == "failed":
                tally.violations.append(f"{name}: {ended}")
            kills += ended.how == "killed"
            if known[_sum_of_store(path)] == name:
                break
        acts += 1
    ended = wait(*reader, limit=seconds + 120)
    if ended.how != "done" or not ended.result["seen"]:
        tally.violations.append(f"the reader {ended}")
        return tally
    tally.outcomes["read: one whole state"] = sum(ended.result["seen"].values())
    tally.outcomes["overtaken by two publications, told to open again"] = ended.result["overtaken"]
    tally.violations += ended.result["errors"]
    tally.notes.append(f"A reader polled for {seconds:g} s while {acts} changes were published and {kills} killed.")
    return tally


def _poll(path: Path, known: dict[str, str], until: float) -> dict[str, Any]:
    seen: Counter[str] = Counter()
    errors, overtaken = [], 0
    while time.monotonic() < until:
        before = _version(path)
        try:
            found = _sum_of_store(path)
        except StforecastError as error:
            # A reader that takes longer than two publications is told so; any other error is none of its doing.
            if error.kind is ErrorKind.STORE_INCOMPLETE and _version(path) >= before + 2:
                overtaken += 1
            else:
                errors.append(f"a reader heard {error}")
            continue
        except Exception as error:
            errors.append(f"a reader met {type(error).__name__}: {error}")
            continue
        if found in known:
            seen[known[found]] += 1
        else:
            errors.append("a reader read a state that never was")
    return {"seen": dict(seen), "overtaken": overtaken, "errors": errors}


def _version(path: Path) -> int:
    return int((path / ".current").readlink().parent.name)


def _sum_of_store(path: Path) -> str:
    opened = open_store(path).load()
    found = hashlib.sha256()
    for name in sorted(map(str, opened.variables)):
        found.update(np.ascontiguousarray(opened[name].to_numpy()).tobytes())
    return found.hexdigest()


# --- Damage


def flipped_bits(folder: Path, each: int, seed: int) -> Tally:
    """One bit at a time, in every file of a store: validate notices it, and no reader gets other values."""
    tally, random = Tally(), np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    path = folder / "s.zarr"
    prepare(make_series(60, variables=("t2m", "u10")), path, SPLIT)
    sound = [open_store(path, normalized=normalized).load() for normalized in (False, True)]
    for name in files_of(path) or {}:
        file = (path / ".current").resolve().parent / name
        content = file.read_bytes()
        for bit in random.choice(8 * len(content), min(each, 8 * len(content)), replace=False).tolist():
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            tally.hold(lambda bit=bit, name=name: _noticed(path, sound, f"bit {bit} of {name}"))
        file.write_bytes(content)
    return tally


def _noticed(path: Path, sound: list[xr.Dataset], what: str) -> str:
    try:
        is_sound = validate(path).is_sound
    except StforecastError:
        is_sound = False
    except Exception as error:
        raise Violation(f"{what}: validate raised {type(error).__name__}: {error}") from error
    if is_sound:
        raise Violation(f"{what} was flipped and validate finds nothing")
    told = set()
    for wanted, normalized in zip(sound, (False, True), strict=True):
        try:
            read = open_store(path, normalized=normalized).load()
        except StforecastError:
            told.add("refused at opening or reading")
        except Exception as error:
            raise Violation(f"{what}: reading raised {type(error).__name__}: {error}") from error
        else:
            if not read.identical(wanted):
                raise Violation(f"{what} was flipped and other values are read")
            told.add("noticed by validate, harmless to read")
    return min(told)


def _write_netcdf(path: Path, engine: Literal["netcdf4", "scipy"], **encoding: Any) -> Path:
    make_series(60).to_netcdf(path, engine=engine, encoding={"t2m": encoding} if encoding else None)
    return path


def _write_taxibj(path: Path) -> Path:
    random = np.random.default_rng(0)
    slots = [f"{20130701 + day}{slot:02d}".encode() for day in range(10) for slot in range(1, 49)]
    with h5py.File(path, "w") as file:
        file["data"], file["date"] = random.poisson(30, (480, 2, 5, 4)).astype(float), np.array(slots)
    return path


def _write_zarr(path: Path) -> Path:
    make_series(60).chunk(time=10).to_zarr(path, zarr_format=3, consolidated=False)
    return path


RAW: dict[str, Callable[[Path], Path]] = {
    "netcdf4": lambda folder: _write_netcdf(folder / "a.nc", "netcdf4"),
    "netcdf4 compressed": lambda folder: _write_netcdf(folder / "a.nc", "netcdf4", zlib=True, fletcher32=True),
    "netcdf3": lambda folder: _write_netcdf(folder / "a.nc", "scipy"),
    "taxibj": lambda folder: _write_taxibj(folder / "BJ13_M32x32_T30_InOut.h5"),
    "zarr": lambda folder: _write_zarr(folder / "a.zarr"),
}


def fuzzed(folder: Path, name: str, count: int, seed: int, *, summed: bool) -> Tally:
    """Raw data cut, flipped, overwritten, swapped or deleted, taken in by a child under limits.

    With a sum beside it, damage is refused by name or does no harm; without one, values may differ, but nothing
    crashes, hangs or shows a traceback.
    """
    tally, random = Tally(), np.random.default_rng(seed)
    (folder / "sound").mkdir(parents=True)
    raw = RAW[name](folder / "sound")
    in_child(lambda: _ingest(raw, folder / "sound.zarr"), folder)
    wanted = open_store(folder / "sound.zarr").load()
    for _ in range(count):
        place = folder / "damaged"
        shutil.copytree(folder / "sound", place)
        damaged = place / raw.name
        if summed and damaged.is_file():
            digest = hashlib.sha256(damaged.read_bytes()).hexdigest()
            damaged.with_name(f"{damaged.name}.sha256").write_text(f"{digest}  {damaged.name}\n")
        how = damage(damaged, random)
        tally.hold(lambda how=how, at=damaged: _judge(at, wanted, f"{name}, {how}", summed=summed))
        shutil.rmtree(place)
    return tally


def _ingest(raw: Path, path: Path) -> None:
    series = open_dataset(raw)
    prepare(series, path, Split.by_fraction(series["time"].to_numpy()))


def damage(path: Path, random: np.random.Generator) -> str:
    """How a file, or one file of a folder, was damaged."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    file = files[int(random.integers(len(files)))]
    content = bytearray(file.read_bytes())
    size = len(content)
    how = ("cut", "flip", "overwrite", "swap", "delete")[int(random.choice(5, p=[0.25, 0.3, 0.25, 0.15, 0.05]))]
    at = int(random.integers(size))
    if how == "cut":
        del content[at:]
    elif how == "flip":
        for bit in random.integers(8 * size, size=random.integers(1, 6)).tolist():
            content[bit // 8] ^= 1 << bit % 8
    elif how == "overwrite":
        run = min(int(random.integers(1, 65)), size - at)
        content[at : at + run] = random.bytes(run) if random.random() < 0.5 else bytes(run)
    elif how == "swap" and len(files) > 1:
        other = files[int(random.integers(len(files)))]
        content = bytearray(other.read_bytes())
        other.write_bytes(file.read_bytes())
    elif how == "swap":
        content = content[at:] + content[:at]
    if how == "delete":
        file.unlink()
    else:
        file.write_bytes(content)
    return f"{how} of {file.name} at {at}"


def _judge(raw: Path, wanted: xr.Dataset, what: str, *, summed: bool) -> str:
    path = raw.parent / "s.zarr"

    def act() -> None:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 3 * 2**30, held + 3 * 2**30))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        _ingest(raw, path)

    try:
        ended = in_child(act, raw.parent)
    except Violation as error:
        raise Violation(f"{what}: {error}") from error
    if ended.how == "killed":
        raise Violation(f"{what}: the process died")
    if ended.how == "failed":
        if ended.kind not in set(ErrorKind):
            raise Violation(f"{what}: {ended.kind}: {ended.message}")
        if path.exists():
            raise Violation(f"{what}: refused ({ended.message}), but a store is there")
        return "refused by name"
    if not validate(path).is_sound:
        raise Violation(f"{what}: {validate(path)}")
    if open_store(path).load().drop_attrs().equals(wanted.drop_attrs()):
        return "read, identical"
    if summed and raw.is_file():
        raise Violation(f"{what}: other values were read")
    return "read, other values (nothing beside says what they were)"


# --- Workers that die


def lost_workers(folder: Path, count: int) -> Tally:
    """A dask cluster whose workers are killed in the middle of a shard, some times and then always."""
    import distributed

    folder.mkdir(parents=True, exist_ok=True)
    tally, series = Tally(), make_series(60)
    prepare(series, folder / "whole.zarr", SPLIT)
    wanted = files_of(folder / "whole.zarr")

    @contextmanager
    def cluster() -> Iterator[None]:
        # A new one each time: one whose workers have died ten times may not start another, and its client then waits.
        # Dask gives a task up after three more deaths by default, each of which starts a worker anew, for seconds.
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": 1}),
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as workers,
            distributed.Client(workers),
        ):
            yield

    for number in range(count):
        path, marks = folder / f"once{number}.zarr", folder / f"marks{number}"
        marks.mkdir()
        with cluster():
            prepare(_deadly(series, marks, row=5 + 11 * number % 50, times=1), path, SPLIT)
        tally.hold(lambda path=path, marks=marks: _survived(path, marks, wanted))
    with cluster():
        tally.hold(lambda: _given_up(series, folder))
    return tally


def _deadly(series: xr.Dataset, marks: Path, *, row: int, times: int) -> xr.Dataset:
    """The series, lazy: to load the block with a row kills the process that does it, so many times."""

    def load(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        first, behind = block_info[0]["array-location"][0]
        died = len(list(marks.iterdir()))
        if first <= row < behind and died < times:
            (marks / str(died)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    lazy = da.from_array(series["t2m"].to_numpy(), (4, -1, -1)).map_blocks(load, dtype="float32")
    return series.assign(t2m=series["t2m"].copy(data=lazy))


def _survived(path: Path, marks: Path, wanted: Any) -> str:
    if not list(marks.iterdir()):
        raise Violation("no worker died")
    if files_of(path) != wanted:
        raise Violation("a build that lost a worker ends in other bytes")
    return "one worker killed: completed, identical"


def _given_up(series: xr.Dataset, folder: Path) -> str:
    marks = folder / "always"
    marks.mkdir()
    before = files_of(folder / "whole.zarr")
    try:
        prepare(_deadly(series, marks, row=30, times=99), folder / "whole.zarr", SPLIT, overwrite=True)
    except StforecastError as error:
        named = "t2m from 2016-01-07T00:00 to 2016-01-09T18:00"
        if error.kind is not ErrorKind.WORKER_LOST or named not in str(error):
            raise Violation(f"a task that kills its workers: {error.kind}: {error}") from error
    else:
        raise Violation("a task that always kills its worker was done")
    left = {entry.name for entry in folder.iterdir() if "partial" in entry.name}
    if files_of(folder / "whole.zarr") != before or left:
        raise Violation(f"a task that kills its workers left {left}, or another store")
    return "every worker killed: WORKER_LOST naming the block, store untouched"
