"""One scheduled run that dies, fails or loses what was not flushed at any change of the disk, and the run after it."""

import errno
import functools
import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from crash import DISK_IS_FULL, FAULTS, KILL, Durable, Ended, Violation, in_child, record_flushes, start, wait
from scheduled import HORIZON, TIMES, clock_of, deliver, make_pipeline
from season import check_version
from trials import Tally, lose_power

import stforecast as stf
from stforecast.errors import ErrorKind
from stforecast.operations.archive import Archive
from stforecast.operations.cycles import name_of
from stforecast.operations.journal import read_runs
from stforecast.operations.pipeline import Pipeline, read_pipelines
from stforecast.operations.running import run
from stforecast.store import open_store, validate

# The run that is disturbed takes in two frames, publishes, scores the first init time and retires it with the second.
OLD, NEW = (157, 158), 161
_WANTED = {
    KILL: set(),
    **DISK_IS_FULL,
    errno.EIO: {ErrorKind.IO_ERROR},
    errno.EACCES: {ErrorKind.PERMISSION},
}


class RunBench:
    """A pipeline with two forecasts and two new frames, run undisturbed once and then as often as one likes.

    Attributes:
        points: how many changes of the disk the run makes.
        trials: how many there were.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.trials = folder, 0
        self.origin = folder / "origin"
        pipeline = make_pipeline(self.origin, retention="12h", checks={"jump": 3})
        for row in OLD:
            run(pipeline, init=TIMES[row], clock=clock_of(row))
        deliver(pipeline, NEW - 1, NEW)
        place = self._fresh()
        ended = in_child(lambda: self._run(place), place)
        self.points = ended.points
        version = Archive(self._of(place).output).version(TIMES[NEW])
        if version is None or self.points < 50:
            raise Violation(f"the undisturbed run changed nothing or was not watched: {ended}")
        self.sums = {row: _sum_of(Archive(self._of(self.origin).output), row) for row in OLD}
        self.sums[NEW] = _sum_of(Archive(self._of(place).output), NEW)
        self.store = open_store(place / "t2m.zarr").load(scheduler="synchronous")
        self.listing = _listing(place)
        if (place / "forecasts" / "scores" / f"{name_of(TIMES[OLD[0]])}.json").read_text() == "":
            raise Violation("the undisturbed run scored nothing")

    @functools.cached_property
    def seconds(self) -> float:
        """How long the run takes: the middle one of three."""
        lasted = []
        for _ in range(3):
            place, begun = self._fresh(), time.monotonic()
            wait(*start(lambda place=place: bool(self._run(place))))
            lasted.append(time.monotonic() - begun)
            shutil.rmtree(place)
        return sorted(lasted)[1]

    def _fresh(self) -> Path:
        self.trials += 1
        place = self.folder / f"trial{self.trials}"
        shutil.copytree(self.origin, place, symlinks=True)
        return place

    def _of(self, place: Path) -> Pipeline:
        return read_pipelines(place / "pipeline.yaml")[0]

    def _run(self, place: Path) -> Any:
        return run(self._of(place), init=TIMES[NEW], clock=clock_of(NEW))

    def disturb(self, at: int, fault: int = KILL) -> str:
        """What is left when the run dies or fails at a change of the disk, and when the next one is over.

        Raises:
            Violation: naming point and fault, if a rule does not hold.
        """
        place = self._fresh()
        ended = in_child(lambda: self._run(place), place, at=at, fault=fault)
        return self._check(place, ended, f"point {at}, fault {fault}", fault)

    def kill_after(self, share: float) -> str:
        """What is left when the run is killed after a share of the time that it takes.

        Raises:
            Violation: as `disturb`.
        """
        place = self._fresh()
        child, pipe = start(lambda: bool(self._run(place)))
        time.sleep(share * self.seconds)
        # It is not waited for yet, so the number is still its own even if it has ended.
        os.kill(child, signal.SIGKILL)
        return self._check(place, wait(child, pipe), f"killed after {share:.3f} of its time", KILL)

    def lose_power(self, at: int = -1, *, seed: int | None = None) -> str:
        """What is left when the power goes once the run has said that it is done, or at one of its points.

        Raises:
            Violation: as `disturb`; also if what was acknowledged is not there whole.
        """
        place = self._fresh()
        log = self.folder / f"flushed{self.trials}.log"
        before = Durable.of(place)

        def recorded() -> None:
            record_flushes(place, log)
            self._run(place)

        ended = in_child(recorded, place, at=at)
        before.with_flushes(log).lose(place, None if seed is None else np.random.default_rng(seed))
        log.unlink(missing_ok=True)
        return self._check(place, ended, f"power lost at {at}, seed {seed}", KILL)

    def _check(self, place: Path, ended: Ended, what: str, fault: int) -> str:
        try:
            left = self._hold(place, ended, fault)
        except Violation as error:
            raise Violation(f"{what}: {error} ({place})") from error
        except Exception as error:
            raise Violation(f"{what}: {type(error).__name__}: {error} ({place})") from error
        shutil.rmtree(place)
        return f"{ended.how}, {left} seen"

    def _hold(self, place: Path, ended: Ended, fault: int) -> str:
        archive = Archive(self._of(place).output)
        told_so = "readers see it" in ended.message
        if ended.how == "failed":
            # Once readers see a forecast or a store, what fails behind it is said to be just that.
            if ended.kind not in _WANTED[fault] and not (ended.kind == ErrorKind.IO_ERROR and told_so):
                raise Violation(f"failed with {ended.kind}: {ended.message}")
        elif ended.how == "killed" and fault != KILL:
            raise Violation("died of an error")
        is_new = self._check_readers(archive)
        if ended.how == "done" and not is_new:
            raise Violation("said that it published, and did not")
        if ended.how == "failed" and is_new and not told_so:
            raise Violation(f"said {ended.message!r}, and the forecast is published")
        stored = open_store(place / "t2m.zarr").load(scheduler="synchronous")
        if not stored.equals(self.store.isel(time=slice(0, stored.sizes["time"]))):
            raise Violation("the store has other values than were delivered")
        again = wait(*start(lambda: self._run(place).status))
        wanted = {"done already"} if is_new else {"published"}
        if again.how != "done" or again.result not in wanted:
            raise Violation(f"the next run {again}")
        if not self._check_readers(archive):
            raise Violation("the next run published nothing")
        self._check_end(place, archive)
        return "the new forecast" if is_new else "the old ones"

    def _check_readers(self, archive: Archive) -> bool:
        """Whether the new forecast is seen; those before it are, unless it is, and all are whole."""
        inits = {int(np.searchsorted(TIMES, init)) for init in archive.inits()}
        is_new = NEW in inits
        if not inits <= {*OLD, NEW} or (not is_new and inits != set(OLD)):
            raise Violation(f"forecasts of rows {inits} are seen")
        for row in inits:
            version = archive.version(TIMES[row])
            assert version is not None
            _, content = check_version(version, TIMES[row], HORIZON)
            if hashlib.sha256(content).hexdigest() != self.sums[row]:
                raise Violation(f"the forecast of row {row} has other bytes than undisturbed")
        newest = name_of(TIMES[max(inits)])
        latest = str((archive.folder / "latest").readlink())
        if latest != newest and not (is_new and latest == name_of(TIMES[OLD[-1]])):
            raise Violation(f"latest is {latest}, the newest is {newest}")
        # Where the run came to retire what `latest` still leads to, nobody could read it.
        if not (archive.folder / "latest" / "forecast.nc").is_file():
            raise Violation("latest leads nowhere")
        with stf.open_forecasts(archive.folder) as opened:
            opened.load(scheduler="synchronous")
        return is_new

    def _check_end(self, place: Path, archive: Archive) -> None:
        """After the next run all is as without a fault; what lies about, the next one that publishes clears away."""
        stored = open_store(place / "t2m.zarr").load(scheduler="synchronous")
        if not stored.equals(self.store) or not validate(place / "t2m.zarr").is_sound:
            raise Violation("the store is not what it is undisturbed")
        kept = read_runs(archive.folder)[name_of(TIMES[NEW])]
        if kept["status"] != "published":
            raise Violation(f"the record of the run says {kept['status']}")
        if str((archive.folder / "latest").readlink()) != name_of(TIMES[NEW]):
            raise Violation("latest does not lead to the new forecast")
        if self.trials % 4:
            return
        forced = wait(*start(lambda: run(self._of(place), init=TIMES[NEW], force=True, clock=clock_of(NEW)).status))
        if forced.how != "done" or forced.result != "published":
            raise Violation(f"to make it anew {forced}")
        version = archive.version(TIMES[NEW])
        assert version is not None
        if json.loads((version / "run.json").read_text())["forecast"]["sha256"] != self.sums[NEW]:
            raise Violation("made anew it has other bytes")
        differ = _listing(place) ^ self.listing
        if any(warning.startswith("score: ") for warning in kept["warnings"]):
            # A score that could not be written is told of; it holds up neither the forecast nor the clearing away.
            differ -= {f"forecasts/scores/{name_of(TIMES[OLD[0]])}.json"}
        if differ:
            raise Violation(f"{sorted(differ)} lie about, or are gone")


def _sum_of(archive: Archive, row: int) -> str:
    return str(archive.record(TIMES[row])["forecast"]["sha256"])


def _listing(place: Path) -> set[str]:
    """What lies where, but for the numbers of versions and of what a store links to them, and lock files."""
    found = set()
    for entry in (*place.iterdir(), *(place / "forecasts").rglob("*")):
        name = str(entry.relative_to(place))
        if entry.suffix not in (".lock", ".holder") and "/.readers/" not in f"{name}/":
            head, dot, tail = name.partition(f".versions/{name_of(TIMES[NEW])}.")
            found.add(head + dot + tail.partition("/")[2] if dot else name)
    return found


def run_points(folder: Path, share: int, shares: int, *, seed: int = 0) -> Tally:
    """Every change of the disk that a run makes, or one share of them, with two faults each: a kill and another."""
    bench, tally = RunBench(folder), Tally()
    for at in range(1 + share, bench.points + 1, shares):
        for fault in (KILL, FAULTS[1 + (at + seed) % 3]):
            tally.hold(lambda at=at, fault=fault: bench.disturb(at, fault))
    tally.notes.append(f"One run changes the disk {bench.points} times.")
    return tally


def run_kills(folder: Path, count: int, seed: int) -> Tally:
    """Kills at times drawn evenly over what a run takes."""
    bench, tally, random = RunBench(folder), Tally(), np.random.default_rng(seed)
    for share in random.uniform(0, 1, count):
        tally.hold(lambda share=share: bench.kill_after(share))
    return tally


def run_power_losses(folder: Path, count: int, seed: int) -> Tally:
    """Power lost after a run has said that it published, which must be there, and at points before."""
    return lose_power(RunBench(folder), count, seed)
