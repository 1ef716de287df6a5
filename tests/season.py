"""A season of scheduled runs, played twice: undisturbed, and against what deliveries, disks, clocks and processes do.

Deliveries and faults follow from a seed. Time is that of a clock which is set by hand, in parts of a cycle: a frame is
there after 5 of 36, the run begins after 6.5 and waits for 4 at most. What each run has to come to is told from when
frames arrived, by rules that are written down here once more; forecasts are held against those of the undisturbed
season to the byte.
"""

import errno
import functools
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pandas as pd
import xarray as xr
import yaml
from crash import KILL, Ended, Violation, numbered, start, wait

import stforecast as stf
from stforecast.cli import _unwound
from stforecast.errors import ErrorKind, StforecastError
from stforecast.forecaster import Forecaster
from stforecast.operations.archive import Archive
from stforecast.operations.cycles import Clock, name_of
from stforecast.operations.journal import read_runs
from stforecast.operations.pipeline import Pipeline, read_pipelines
from stforecast.operations.running import missed_lately, run, run_missed
from stforecast.sources.raw_files import check_file
from stforecast.store import open_store, validate
from stforecast.store.versions import lock

PARTS, RUN_AT, WAIT = 36, 6.5, 4.0
# How old the last frame may be, in cycles, that the model and the baseline of the ladder see.
MODEL_BACK, BASELINE_BACK = 2, 4
KEPT, CAUGHT_UP, OUTAGE = 80, 12, 7
NOBODY = 65534
LATE = {ErrorKind.INPUT_LATE, ErrorKind.INPUT_STALE, ErrorKind.INPUT_INCOMPLETE}
GOOD = {"whole", "netcdf3", "summed"}
EXIT_OF = {"published": 0, "done already": 0, "degraded": 7}


@dataclass(frozen=True)
class Season:
    """What is played.

    Attributes:
        name: what the pipeline is called.
        series: all frames.
        first: the row of the first init time; the store has all frames before it.
        cycles: how many init times follow on it.
        length: between two of them, which is the step of the series.
        model: a fitted model, which sees `history` frames and forecasts `horizon`.
        split: of the store.
        zone: whose clock the series is on.
        revisions: what becomes of frames that come again with other values.
        maps: each so many cycles one draws a map; 0 for none.
    """

    name: str
    series: xr.Dataset
    first: int
    cycles: int
    length: timedelta
    model: Forecaster
    split: stf.Split
    zone: str = "UTC"
    revisions: str = "keep"

    @property
    def times(self) -> np.ndarray:
        return self.series["time"].to_numpy()

    @property
    def history(self) -> int:
        return self.model.history

    @property
    def horizon(self) -> int:
        return self.model.horizon

    def seconds(self, parts: float) -> float:
        """So many parts of a cycle."""
        return parts * self.length.total_seconds() / PARTS

    def moment(self, parts: float) -> datetime:
        """The time in UTC so long after the first init time."""
        begun = pd.Timestamp(self.times[self.first]).tz_localize(self.zone).tz_convert("UTC")
        return (begun + pd.Timedelta(seconds=self.seconds(parts))).to_pydatetime()

    def make(self, folder: Path, incoming: Path) -> Pipeline:
        """A pipeline in a folder, its store and its model."""
        folder.mkdir(parents=True, exist_ok=True)
        stf.prepare(self.series.isel(time=slice(0, self.first)), folder / "store.zarr", self.split)
        self.model.save(folder / "model")
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(self.settings(incoming)))
        return self.pipeline(folder)

    def pipeline(self, folder: Path) -> Pipeline:
        """The pipeline that was made in a folder."""
        return read_pipelines(folder / "pipeline.yaml")[0]

    def settings(self, incoming: Path) -> dict[str, Any]:
        def length(parts: float) -> str:
            return f"{self.seconds(parts):.0f}s"

        return {
            "name": self.name,
            "input": {"path": str(incoming), "arrives_after": length(6), "revisions": self.revisions},
            "store": "store.zarr",
            "model": "model",
            "output": "forecasts",
            "cycle": length(PARTS),
            "deadline": length(WAIT),
            "fallback": [
                {"within": length(MODEL_BACK * PARTS)},
                {"baseline": "persistence", "within": length(BASELINE_BACK * PARTS)},
            ],
            "retention": length(KEPT * PARTS),
            "maps": {"leads": []},
        }


# --- The plan


@dataclass(frozen=True)
class Delivery:
    """What is put where the pipeline looks.

    Attributes:
        at: when, in parts of a cycle since the first init time.
        file: its name.
        rows: of the series.
        how: whole, or in which way not.
    """

    at: float
    file: str
    rows: tuple[int, ...]
    how: str


DELIVERIES = (
    "late",
    "too late",
    "never",
    "duplicate",
    "stale",
    "cut",
    "flipped",
    "nan",
    "celsius",
    "metres",
    "html",
    "revised",
    "reordered",
    "part",
    "growing",
    "several in one",
    "netcdf3",
    "sum late",
)
FAULTS = (
    "killed at any time",
    "killed at a change of the disk",
    "ENOSPC at a change of the disk",
    "EIO at a change of the disk",
    "EACCES at a change of the disk",
    "limit on the size of files",
    "disk full",
    "no permission",
    "two at once",
    "SIGTERM",
    "clock stopped for a cycle",
    "clock stopped while waiting",
    "clock went back",
    "clock at 1970",
    "clock went forward by cycles",
    "clock went forward by a year",
    "killed, tried again a cycle later",
    "model damaged, then mended",
    "store busy",
    "made anew (--force)",
    "reader killed",
)


@dataclass(frozen=True)
class Plan:
    """What happens in a season.

    Attributes:
        kinds: how the frame of each cycle is delivered.
        faults: what happens to the run of each cycle; "" for nothing.
        deliveries: in order of time.
        arrives: when each frame is there whole, by row.
    """

    kinds: list[str]
    faults: list[str]
    deliveries: list[Delivery]
    arrives: dict[int, float]

    @classmethod
    def of(
        cls,
        season: Season,
        seed: int,
        *,
        share: float = 0.45,
        outages: int = 6,
        faults_of: tuple[str, ...] = FAULTS,
    ) -> "Plan":
        """One that follows from a seed, in which about so many cycles have a fault of each sort."""
        random = np.random.default_rng(seed)
        kinds = _drawn(random, DELIVERIES, season.cycles, share)
        faults = _drawn(random, faults_of, season.cycles, share)
        deliveries: list[Delivery] = []
        for begin in np.linspace(0, season.cycles, outages + 2).astype(int)[1:-1].tolist():
            for cycle in range(begin, begin + OUTAGE + 1):
                # No rung of the ladder holds for the last ones, which are made when all frames come at once.
                kinds[cycle] = "outage" if cycle < begin + OUTAGE else ""
                faults[cycle] = ""
                back = (begin + OUTAGE - 1) * PARTS + 20.0 + cycle - begin
                if cycle < begin + OUTAGE:
                    deliveries.append(Delivery(back, _file_of(season, cycle), (season.first + cycle,), "whole"))
        for cycle, kind in enumerate(kinds):
            if kind == "revised" and season.revisions == "replace":
                # What is made later would be made of other frames.
                faults[cycle] = ""
            before = kinds[max(cycle - 3, 0) : cycle]
            if season.revisions == "replace" and kind in ("stale", "several in one") and "revised" in before:
                # These would bring back what was revised.
                kind = kinds[cycle] = ""
            if kind != "outage":
                deliveries += _deliveries(season, cycle, kind, random)
        deliveries.sort(key=lambda one: one.at)
        arrives: dict[int, float] = {}
        for one in deliveries:
            if one.how in GOOD:
                for row in one.rows:
                    arrives.setdefault(row, one.at)
        return cls(kinds, faults, deliveries, arrives)


def _drawn(random: np.random.Generator, kinds: tuple[str, ...], cycles: int, share: float) -> list[str]:
    """A kind for each of some cycles and "" for the others; all kinds equally often, in a random order."""
    number = round(share * cycles)
    some = [kind for _ in range(-(-number // len(kinds))) for kind in random.permutation(kinds).tolist()][:number]
    places = np.sort(random.choice(cycles, number, replace=False)).tolist()
    drawn = [""] * cycles
    for place, kind in zip(places, some, strict=True):
        drawn[place] = kind
    return drawn


def _file_of(season: Season, cycle: int) -> str:
    return f"{season.name}_{name_of(season.times[season.first + cycle])}.nc"


def _deliveries(season: Season, cycle: int, kind: str, random: np.random.Generator) -> list[Delivery]:
    """What comes of the frame of a cycle, and when."""
    row, file, begun = season.first + cycle, _file_of(season, cycle), float(cycle * PARTS)
    in_time = float(random.uniform(7, 9.5))
    mended = in_time if random.random() < 2 / 3 else float(random.uniform(13, 30))

    def one(at: float, how: str, *, name: str = file, rows: tuple[int, ...] = (row,)) -> Delivery:
        return Delivery(begun + at, name, rows, how)

    if kind == "":
        return [one(5, "whole")]
    if kind in ("late", "too late", "reordered"):
        return [one({"late": in_time, "too late": random.uniform(13, 30), "reordered": PARTS + 5.5}[kind], "whole")]
    if kind == "never":
        return []
    if kind == "duplicate":
        again = [one(at, "whole", name=f"again{number}_{file}") for number, at in enumerate((5.2, 20.0))]
        return [one(5, "whole"), *again]
    if kind == "stale":
        return [one(5, "whole", rows=(row - 1,)), one(mended, "whole")]
    if kind == "revised":
        return [one(5, "whole"), one(PARTS + 4, "revised", name=f"revised_{file}")]
    if kind == "several in one":
        return [one(5, "whole", rows=tuple(range(row - 3, row + 1)))]
    if kind == "netcdf3":
        return [one(5, "netcdf3")]
    if kind in ("flipped", "sum late"):
        return [one(5, kind), one(mended, "summed")]
    # Cut, with NaN, in other units, an error page, or still being written.
    return [one(5, kind), one(mended, "whole")]


# --- Deliveries and the clock


class Deliverer:
    """Who puts files where a pipeline looks; what was put there already is noted in a folder."""

    def __init__(self, season: Season, plan: Plan, incoming: Path, done: Path) -> None:
        self.season, self.plan, self.incoming, self.done = season, plan, incoming, done
        self._past = 0
        for folder in (incoming, done):
            folder.mkdir(parents=True, exist_ok=True)

    def deliver(self, until: float) -> None:
        """Put there what is due."""
        for number, one in enumerate(self.plan.deliveries[self._past :], self._past):
            if one.at > until:
                return
            self._past = number
            mark = self.done / str(number)
            if not mark.exists():
                self._put(one)
                mark.touch()

    def _put(self, one: Delivery) -> None:
        target = self.incoming / one.file
        content = self._content(one)
        sums, sound = target.with_name(f"{target.name}.sha256"), hashlib.sha256(content).hexdigest()
        part = target.with_name(f"{target.name}.part")
        if one.how in ("flipped", "summed", "sum late"):
            named = hashlib.sha256(b"another file").hexdigest() if one.how == "sum late" else sound
            sums.write_text(f"{named}  {target.name}\n")
        if one.how == "flipped":
            place = len(content) * 4 // 5
            content = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
        elif one.how in ("cut", "part", "growing"):
            content = content[: len(content) * 2 // 3]
        elif one.how == "html":
            content = b"<html>502 Bad Gateway</html>"
        if one.how == "growing" or (one.how == "whole" and self._grows(one)):
            # In its place, as by one who writes on.
            target.write_bytes(content)
        elif not target.exists() or target.read_bytes() != content:
            part.write_bytes(content)
            if one.how != "part":
                # As by one who copies files with their times.
                os.utime(part, (1e9, 1e9))
                part.replace(target)

    def _grows(self, one: Delivery) -> bool:
        return any(other.how == "growing" and other.file == one.file for other in self.plan.deliveries)

    def _content(self, one: Delivery) -> bytes:
        frames = self.season.series.isel(time=list(one.rows)).copy(deep=True)
        for variable in frames.data_vars.values():
            if one.how == "nan":
                variable[-1, 0, 0] = np.nan
            elif one.how == "celsius":
                variable -= 273.15
            elif one.how == "metres":
                variable.attrs["units"] = "m"
            elif one.how == "revised":
                variable += 1.0
        temporary = self.incoming / f".{one.file}.{os.getpid()}"
        frames.to_netcdf(temporary, format="NETCDF3_64BIT" if one.how == "netcdf3" else "NETCDF4")
        content = temporary.read_bytes()
        temporary.unlink()
        return content


class PlayedClock(Clock):
    """What time it is by a clock that may be wrong, while time goes on and deliveries come."""

    def __init__(self, deliverer: Deliverer, true: float, shown: float | datetime | None = None) -> None:
        self.deliverer, self.true, self._shown = deliverer, true, shown

    def now(self) -> datetime:
        if isinstance(self._shown, datetime):
            return self._shown
        return self.deliverer.season.moment(self.true if self._shown is None else self._shown)

    def ticks(self) -> float:
        return self.deliverer.season.seconds(self.true)

    def sleep(self, seconds: float) -> None:
        # As on a machine that is busy: who sleeps, wakes later. It spares looking in every ten seconds.
        self.true += 1.0
        self.deliverer.deliver(self.true)


# --- What has to come of it

Choice = tuple[str, int]


def expected(season: Season, plan: Plan, row: int, until: float) -> Choice | None:
    """What a forecast from a row is made by, and the last row that it sees, of what is there until a time."""

    def there(frame: int) -> bool:
        return 0 <= frame < season.first or plan.arrives.get(frame, np.inf) <= until

    for back in range(MODEL_BACK + 1):
        if all(there(row - back - number) for number in range(season.history)):
            return "model", row - back
    for back in range(BASELINE_BACK + 1):
        if there(row - back):
            return "persistence", row - back
    return None


def check_version(version: Path, init: np.datetime64, horizon: int) -> tuple[dict[str, Any], bytes]:
    """The record and the bytes of a published forecast that is whole and is what it is called.

    Raises:
        Violation: saying what is not.
    """
    record, content = json.loads((version / "run.json").read_text()), (version / "forecast.nc").read_bytes()
    check_forecast(content, record, horizon)
    if np.datetime64(record["init"]) != init:
        raise Violation(f"{version.name} is of {record['init']}")
    return record, content


def check_forecast(content: bytes, record: Mapping[str, Any], horizon: int) -> None:
    """Hold the bytes of a forecast against its record.

    Raises:
        Violation: if they are not the ones that were published, or not of all lead times.
    """
    if hashlib.sha256(content).hexdigest() != record["forecast"]["sha256"]:
        raise Violation(f"the forecast of {record['init']} has another SHA-256 than its record says")
    with netCDF4.Dataset("in memory", memory=content) as file:
        for name in record["forecast"]["variables"]:
            values = np.ma.filled(file[name][:], np.nan)
            if values.shape[1] != horizon or not np.isfinite(values).all():
                raise Violation(f"the forecast of {record['init']} is not whole")


# --- Readers


def read_on(output: Path, horizon: int, stop: Path, found: Path, seed: int) -> None:
    """Read the newest forecast and the archive again and again, and write down how often and what was wrong."""
    random, counts, wrong, newest = np.random.default_rng(seed), Counter[str](), [], ""
    held: xr.Dataset | None = None
    while not stop.exists():
        try:
            if (output / "latest").exists():
                newest = _read_latest(output, horizon, newest, counts)
                if random.random() < 0.1:
                    _read_archive(output, horizon, random, counts)
                if held is None and random.random() < 0.02:
                    held = stf.open_forecasts(output)
                elif held is not None and random.random() < 0.01:
                    _check_finite(held.load(), "an archive that was held open")
                    counts["archives held open, then read whole"] += 1
                    held.close()
                    held = None
        except Exception as error:
            wrong.append(f"a reader: {type(error).__name__}: {error}")
        found.write_text(json.dumps({"counts": counts, "wrong": wrong}))
        time.sleep(0.2)
    if held is not None:
        held.close()


def _read_latest(output: Path, horizon: int, newest: str, counts: Counter[str]) -> str:
    """The name of the newest forecast, which was read whole."""
    for _ in range(5):
        name = str((output / "latest").readlink())
        content = (output / "latest" / "forecast.nc").read_bytes()
        record = json.loads((output / "latest" / "run.json").read_text())
        # Between two openings another may have been published.
        if str((output / "latest").readlink()) == name and len(content) == record["forecast"]["bytes"]:
            break
    if name < newest:
        raise Violation(f"latest went back from {newest} to {name}")
    if name_of(np.datetime64(record["init"])) != name:
        raise Violation(f"latest is called {name} and is of {record['init']}")
    check_forecast(content, record, horizon)
    counts["readings of latest"] += 1
    return name


def _read_archive(output: Path, horizon: int, random: np.random.Generator, counts: Counter[str]) -> None:
    with stf.open_forecasts(output) as opened:
        inits = opened["init_time"].to_numpy()
        if (np.diff(inits) <= np.timedelta64(0)).any() or opened.sizes["lead_time"] != horizon:
            raise Violation(f"the archive has init times {inits} and {opened.sizes['lead_time']} lead times")
        one = opened.isel(init_time=[-1, int(random.integers(len(inits)))]).load()
        _check_finite(one, "a forecast of the archive")
    counts["openings of the archive"] += 1


def _check_finite(forecasts: xr.Dataset, what: str) -> None:
    if not all(np.isfinite(variable).all() for variable in forecasts.data_vars.values()):
        raise Violation(f"{what} has NaN")


class Readers:
    """One process that reads all the time, which may be killed and is then followed by another."""

    def __init__(self, output: Path, horizon: int, folder: Path) -> None:
        self.output, self.horizon, self.folder = output, horizon, folder
        folder.mkdir(exist_ok=True)
        self._stop = folder / "stop"
        self._running: tuple[int, int] | None = None

    def begin(self) -> None:
        self._stop.unlink(missing_ok=True)
        number = len(list(self.folder.glob("*.json")))
        found = self.folder / f"{number}.json"
        found.write_text(json.dumps({"counts": {}, "wrong": []}))
        self._running = start(lambda: read_on(self.output, self.horizon, self._stop, found, number))

    def kill(self) -> None:
        assert self._running is not None
        os.kill(self._running[0], signal.SIGKILL)
        wait(*self._running)
        # What it was writing down at that moment is lost with it.
        for file in self.folder.glob("*.json"):
            with suppress(ValueError):
                json.loads(file.read_text())
                continue
            file.write_text(json.dumps({"counts": {}, "wrong": []}))

    def end(self) -> tuple[Counter[str], list[str]]:
        """How often was read, and what was wrong."""
        assert self._running is not None
        self._stop.touch()
        ended = wait(*self._running, limit=120)
        counts, wrong = Counter[str](), [] if ended.how == "done" else [f"the reader {ended}"]
        for file in sorted(self.folder.glob("*.json")):
            said = json.loads(file.read_text())
            counts.update(said["counts"])
            wrong += said["wrong"]
        return counts, wrong


# --- A disk of its own, which can be full


class Disk:
    """A file system in memory whose size can be set; an ordinary folder where none may be mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.is_small = os.path.ismount(folder) or self._mount("size=1g")

    def _mount(self, options: str) -> bool:
        if shutil.which("mount") is None:
            return False
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True).returncode == 0

    @contextmanager
    def nearly_full(self, pages: int) -> Iterator[None]:
        """A block in which so many pages are left."""
        self._mount(f"remount,size={shutil.disk_usage(self.folder).used + 4096 * pages}")
        try:
            yield
        finally:
            self._mount("remount,size=1g")

    def close(self) -> None:
        """Take it away, with all that is on it."""
        if os.path.ismount(self.folder):
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


# --- The play


@dataclass
class Attempt:
    """One start of a run, or of two at once.

    Attributes:
        row: of the init time.
        ended: how.
        seconds: how long it took.
        killed_by: the signal, if one killed it.
    """

    row: int
    ended: Ended
    seconds: float
    killed_by: int = signal.SIGKILL

    @property
    def status(self) -> str:
        return str(self.ended.result["status"]) if self.ended.how == "done" else self.ended.kind

    @property
    def exit_status(self) -> int:
        """What the command would end with."""
        if self.ended.how == "killed":
            return 128 + self.killed_by
        if self.ended.how == "done":
            return EXIT_OF[self.status]
        if self.ended.kind == "SystemExit":
            return int(self.ended.message)
        return ErrorKind(self.ended.kind).exit_status if self.ended.kind in set(ErrorKind) else 1


@dataclass
class Entry:
    """What came of one cycle.

    Attributes:
        cycle: which.
        delivery: how its frame was delivered.
        fault: what happened to its run.
        ends: what the attempts came to, with their exit statuses.
        violations: what broke a rule.
    """

    cycle: int
    delivery: str
    fault: str
    ends: list[tuple[str, int]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


class Play:
    """A season that is played in a folder; what was interrupted goes on where it was.

    Attributes:
        season: what is played.
        plan: what happens.
        entries: what came of the cycles so far.
    """

    def __init__(self, season: Season, plan: Plan, folder: Path, *, seed: int = 0, maps_every: int = 0) -> None:
        self.season, self.plan, self.folder, self.seed, self.maps_every = season, plan, folder, seed, maps_every
        folder.mkdir(parents=True, exist_ok=True)
        # A run that may write nowhere else is tried as nobody, who has to come this far.
        folder.chmod(0o755)
        self._ledger = folder / "ledger.jsonl"
        self.disk = Disk(folder / "disk")
        self._calm = self.disk.folder / "undisturbed"
        self.place, self.incoming = self.disk.folder / "pipeline", folder / "incoming"
        self._made_file = folder / "made.json"
        if not (self.place / "pipeline.yaml").exists():
            # What lay on a disk that went with the machine is played anew.
            for name in ("incoming", "delivered", "undisturbed_incoming", "undisturbed_delivered", "readers"):
                shutil.rmtree(folder / name, ignore_errors=True)
            self._ledger.unlink(missing_ok=True)
            self._made_file.unlink(missing_ok=True)
            season.make(self.place, self.incoming)
        self._deliverer = Deliverer(season, plan, self.incoming, folder / "delivered")
        self.pipeline = season.pipeline(self.place)
        self.archive = Archive(self.pipeline.output)
        lines = self._ledger.read_text().splitlines() if self._ledger.exists() else []
        self.entries = [Entry(**json.loads(line)) for line in lines]
        self._made: dict[str, str] = json.loads(self._made_file.read_text()) if self._made_file.exists() else {}
        self._seen: dict[int, str] = {}
        self._points, self._typical = 60, 1.0
        self._looked_into: set[Path] = set()

    # The undisturbed season

    def undisturbed(self, *, say: Callable[[str], None] = lambda text: None) -> None:
        """Play the season with every frame in time and nothing amiss, and keep the sums of its forecasts."""
        season, incoming = self.season, self.folder / "undisturbed_incoming"
        # Frames that are revised, and taken so, are no disturbance.
        kinds = ["revised" if season.revisions == "replace" and kind == "revised" else "" for kind in self.plan.kinds]
        calm = [_deliveries(season, cycle, kind, np.random.default_rng(0)) for cycle, kind in enumerate(kinds)]
        flat = [one for some in calm for one in some]
        plan = Plan([], [], sorted(flat, key=lambda one: one.at), {})
        deliverer = Deliverer(season, plan, incoming, self.folder / "undisturbed_delivered")
        if not (self._calm / "pipeline.yaml").exists():
            season.make(self._calm, incoming)
        pipeline = season.pipeline(self._calm).model_copy(update={"retention": None})
        archive = Archive(pipeline.output)
        for cycle in range(len(archive.inits()), season.cycles):
            at = cycle * PARTS + RUN_AT
            deliverer.deliver(at)
            outcome = run(pipeline, clock=PlayedClock(deliverer, at))
            if (outcome.status, outcome.init) != ("published", season.times[season.first + cycle]):
                raise Violation(f"undisturbed: {outcome.message}")
            if [text for text in outcome.record["warnings"] if not text.startswith("INPUT_CHANGED")]:
                raise Violation(f"undisturbed: {outcome.record['warnings']}")
            if cycle % 100 == 0:
                say(f"undisturbed: {cycle} of {season.cycles}")

    @functools.cached_property
    def _calm_store(self) -> xr.Dataset:
        return open_store(self._calm / "store.zarr").load(scheduler="synchronous")

    def _calm_forecast(self, row: int) -> bytes:
        return (self._calm / "forecasts" / name_of(self.season.times[row]) / "forecast.nc").read_bytes()

    # The disturbed one

    def play(self, *, say: Callable[[str], None] = lambda text: None) -> tuple[Counter[str], list[str]]:
        """Play what is left of the season; how often readers read, and what was wrong beyond single cycles."""
        self._seen = {self._row(init): self._version(init) for init in self.archive.inits()}
        readers = Readers(self.pipeline.output, self.season.horizon, self.folder / "readers")
        readers.begin()
        self._readers, settled = readers, []
        try:
            for cycle in range(len(self.entries), self.season.cycles):
                entry = self._cycle(cycle)
                self.entries.append(entry)
                with self._ledger.open("a") as ledger:
                    ledger.write(json.dumps(vars(entry)) + "\n")
                self._made_file.write_text(json.dumps(self._made))
                for violation in entry.violations:
                    say(violation)
                if cycle % 50 == 0:
                    say(f"disturbed: {cycle} of {self.season.cycles}")
            try:
                self._settle()
            except Violation as violation:
                settled.append(f"after the last cycle: {violation}")
        finally:
            counts, wrong = readers.end()
        return counts, wrong + settled + self._at_the_end()

    def choices(self) -> dict[str, int]:
        """How many forecasts are the undisturbed ones, degraded, and were never made."""
        made = Counter(self._made.values())
        return {"whole": made["whole"], "degraded": made["degraded"], "none": self.season.cycles - made.total()}

    def _row(self, init: np.datetime64) -> int:
        return int(np.searchsorted(self.season.times, init))

    def _version(self, init: np.datetime64) -> str:
        version = self.archive.version(init)
        assert version is not None
        return version.name

    def _cycle(self, cycle: int) -> Entry:
        entry = Entry(cycle, self.plan.kinds[cycle], self.plan.faults[cycle])
        self._entry = entry
        random = np.random.default_rng([self.seed, cycle])
        at, row = cycle * PARTS + RUN_AT, self.season.first + cycle
        try:
            if cycle and self.plan.faults[cycle - 1] == "killed, tried again a cycle later":
                at = self._recover(row - 1, at)
            else:
                self._catch_up(row, at)
            at = self._disturbed(entry.fault, row, at, random)
            if at is not None:
                self._recover(row, at, pipeline=self._with_maps(cycle))
        except Violation as violation:
            entry.violations.append(f"cycle {cycle} ({entry.delivery or '-'}, {entry.fault or '-'}): {violation}")
            # What is wrong once is told once.
            self._seen |= {self._row(init): self._version(init) for init in self.archive.inits()}
        return entry

    def _with_maps(self, cycle: int) -> Pipeline:
        if not self.maps_every or cycle % self.maps_every:
            return self.pipeline
        return self.pipeline.model_copy(update={"maps": self.pipeline.maps.model_copy(update={"leads": None})})

    # Single attempts

    def _act(
        self,
        at: float,
        *,
        shown: float | datetime | None = None,
        init: int | None = None,
        force: bool = False,
        pipeline: Pipeline | None = None,
        before: Callable[[], None] = lambda: None,
        fails_at: tuple[int, int] = (-1, KILL),
    ) -> Callable[[], dict[str, Any]]:
        """One start of a run, for a child."""

        def act() -> dict[str, Any]:
            clock = PlayedClock(self._deliverer, at, shown)
            before()
            points = numbered(self.place, *fails_at)
            with _unwound():
                outcome = run(
                    pipeline or self.pipeline,
                    init=None if init is None else self.season.times[init],
                    force=force,
                    clock=clock,
                )
            return {"status": outcome.status, "init": name_of(outcome.init), "points": points(), "true": clock.true}

        return act

    def _begin(self, at: float) -> None:
        self._deliverer.deliver(at)
        # To look into a file each child starts a process, which takes as long as half a run. That a file was looked
        # into and is sound is known to children of one who did.
        for file in self.incoming.glob("*.nc"):
            if file not in self._looked_into and int(at) % 5:
                self._looked_into.add(file)
                with suppress(StforecastError, OSError):
                    check_file(file)

    def _attempt(
        self,
        row: int,
        at: float,
        *,
        kinds: set[str] = frozenset(),  # type: ignore[assignment]
        interrupt: tuple[int, float] | None = None,
        **options: Any,
    ) -> Attempt:
        """One start whose init time is that of a row, and what came of it, held against the rules.

        Args:
            row: of the init time.
            at: when.
            kinds: of faults that it may end with.
            interrupt: a signal, and after how many seconds it comes.
            options: see `_act`.
        """
        self._begin(at)
        begun = time.monotonic()
        child, pipe = start(self._act(at, **options))
        if interrupt is not None:
            time.sleep(interrupt[1])
            # It is not waited for yet, so the number is still its own even if it has ended.
            os.kill(child, interrupt[0])
        ended = wait(child, pipe, limit=300)
        killed_by = signal.SIGKILL if interrupt is None else interrupt[0]
        attempt = Attempt(row, ended, time.monotonic() - begun, killed_by)
        self._note(attempt)
        self._hold(attempt, at + WAIT, kinds)
        return attempt

    def _note(self, attempt: Attempt) -> None:
        ended = attempt.ended
        how = attempt.status if ended.how != "killed" else "killed"
        self._entry.ends.append(("interrupted" if ended.kind == "SystemExit" else how, attempt.exit_status))

    def _hold(self, attempt: Attempt, until: float, kinds: set[str]) -> None:
        """Hold one attempt against the rules.

        Raises:
            Violation: if one does not hold.
        """
        ended, row = attempt.ended, attempt.row
        wanted = expected(self.season, self.plan, row, until)
        was_there = row in self._seen
        became = self._look({row: wanted})
        allowed = set(kinds) | (LATE if wanted is None else set())
        if ended.how == "killed":
            if "killed" not in kinds:
                raise Violation("a run died")
            return
        if ended.how == "failed":
            if ended.kind not in allowed:
                raise Violation(f"a run failed with {ended.kind}: {ended.message}")
            told_so = "readers see it" in ended.message
            if row in became and not told_so and ended.kind != "SystemExit":
                raise Violation(f"a run that failed published: {ended.message}")
            return
        if ended.result["init"] != name_of(self._time(row)):
            raise Violation(f"a run made {ended.result['init']} in place of {name_of(self._time(row))}")
        status = self._status(row, wanted)
        if attempt.status != status and not (was_there and attempt.status == "done already"):
            raise Violation(f"a run ended {attempt.status} and should be {status}")
        if row not in self._seen:
            raise Violation(f"a run said {attempt.status}, and {name_of(self._time(row))} is not there")

    def _status(self, row: int, wanted: Choice | None) -> str:
        if wanted is None:
            return "refused"
        return "published" if wanted == ("model", row) else "degraded"

    def _time(self, row: int) -> np.datetime64:
        times = self.season.times
        return times[row] if row < len(times) else times[-1] + (row - len(times) + 1) * (times[1] - times[0])

    def _look(self, wanted: Mapping[int, Choice | None]) -> set[int]:
        """The rows whose forecast is new, each of which is what it has to be; all others are as they were.

        Raises:
            Violation: saying what is not.
        """
        inits = self.archive.inits()
        versions = {self._row(init): self._version(init) for init in inits}
        new = {row for row, version in versions.items() if self._seen.get(row) != version}
        newest = max(versions, default=0)
        lost = {row for row in self._seen if row not in versions and row >= newest - KEPT}
        if lost:
            raise Violation(f"{sorted(map(name_of, map(self._time, lost)))} were published and are gone")
        self._seen = versions
        for row in sorted(new):
            if row not in wanted:
                raise Violation(f"{versions[row]} was published and nobody asked for it")
            self._check_new(row, wanted[row])
        return new

    def _check_new(self, row: int, wanted: Choice | None) -> None:
        season, init = self.season, self._time(row)
        record, content = check_version(self.archive.folder / ".versions" / self._seen[row], init, season.horizon)
        if wanted is None:
            raise Violation(f"{name_of(init)} was published from nothing: {record['choice']}")
        choice = record["choice"]
        made = choice["made_by"], self._row(np.datetime64(choice["last_frame"]))
        if made != wanted or choice["is_degraded"] != (wanted != ("model", row)):
            raise Violation(f"{name_of(init)} is made by {made}, wanted {wanted}: {choice}")
        self._made[str(row)] = "degraded" if choice["is_degraded"] else "whole"
        if not choice["is_degraded"]:
            if content != self._calm_forecast(row):
                raise Violation(f"{name_of(init)} has other bytes than in the undisturbed season")
            return
        if not choice["reason"]:
            raise Violation(f"{name_of(init)} is degraded for no reason")
        seen = range(wanted[1] - season.history + 1, wanted[1] + 1)
        kinds = {self.plan.kinds[one - season.first] for one in seen if one >= season.first}
        if season.revisions == "keep" or "revised" not in kinds:
            self._check_degraded(content, row, *wanted)

    def _check_degraded(self, content: bytes, row: int, made_by: str, last: int) -> None:
        """Hold a degraded forecast against what its rung gives of the undisturbed store."""
        back, store = row - last, self._calm_store
        with netCDF4.Dataset("in memory", memory=content) as file:
            for name in map(str, self.season.series.data_vars):
                found = np.ma.filled(file[name][0], np.nan)
                if made_by == "persistence":
                    truth = store[name].sel(time=self._time(last))
                    least = truth.attrs.get("valid_min", -np.inf)
                    should = np.broadcast_to(truth.to_numpy().clip(least), found.shape)
                else:
                    horizon = self.season.horizon + back
                    whole = self.season.model.predict(store, init_times=[self._time(last)], horizon=horizon)
                    should = whole[name].to_numpy()[0, back:]
                if not np.array_equal(found, should):
                    raise Violation(f"{name} of {name_of(self._time(row))} is not what {made_by} gives")

    # What happens

    def _recover(self, row: int, at: float, *, pipeline: Pipeline | None = None) -> float:
        """The next scheduled start, undisturbed; when it is over.

        Raises:
            Violation: if it does not come to what it has to by itself.
        """
        was_there = row in self._seen
        attempt = self._attempt(row, at, init=row, pipeline=pipeline)
        if attempt.ended.how == "done":
            if not was_there and pipeline is None:
                self._points = max(attempt.ended.result["points"], 30)
                self._typical = 0.7 * self._typical + 0.3 * attempt.seconds
            at = attempt.ended.result["true"]
            self._check_tidy(row, attempt.status)
        else:
            at += WAIT
        return at + 0.5

    def _check_tidy(self, row: int, status: str) -> None:
        """Nothing lies about behind a run that published, and the record of the init time says what came of it."""
        output = self.pipeline.output
        litter = [str(file.relative_to(output)) for file in (*output.glob("**/.*.tmp"), *output.glob(".*.new"))]
        litter += [name for name in (".staging",) if (output / name).exists()]
        if litter and status != "done already":
            raise Violation(f"{litter} lie about")
        kept = read_runs(output).get(name_of(self._time(row)))
        if kept is None or kept["status"] not in ("published", "degraded"):
            raise Violation(f"the record of {name_of(self._time(row))} says {kept and kept['status']}")

    def _catch_up(self, row: int, at: float) -> None:
        """Make up for init times that were missed and whose frames are there now."""
        missed = [late for late in range(max(row - CAUGHT_UP, self.season.first), row) if late not in self._seen]
        if not any(expected(self.season, self.plan, late, at) == ("model", late) for late in missed):
            return
        self._begin(at)

        def act() -> list[tuple[str, str]]:
            clock = PlayedClock(self._deliverer, at)
            inits = missed_lately(self.pipeline, CAUGHT_UP + 1, clock=clock)
            # The present init time is made by itself, and what was before the season is of no concern.
            inits = inits[(inits < self._time(row)) & (inits >= self._time(self.season.first))]
            made = run_missed(self.pipeline, inits, deadline=timedelta(0), clock=clock)
            return [
                ("", str(one.kind)) if isinstance(one, StforecastError) else (name_of(one.init), one.status)
                for one in made
            ]

        ended = wait(*start(act), limit=300)
        if ended.how != "done":
            raise Violation(f"--catch-up {ended}")
        wanted = {late: expected(self.season, self.plan, late, at) for late in missed}
        self._look(wanted)
        should = [self._status(late, choice) for late, choice in wanted.items()]
        found = ["refused" if status in LATE else status for _, status in ended.result]
        if found != should:
            raise Violation(f"--catch-up gave {ended.result}, wanted {should}")
        for _, status in ended.result:
            self._entry.ends.append((f"caught up: {status}", EXIT_OF.get(status, 75)))

    def _disturbed(self, fault: str, row: int, at: float, random: np.random.Generator) -> float | None:
        """Let a fault happen; when the next start is, or None if nobody starts again in this cycle.

        Raises:
            Violation: if a rule does not hold already.
        """
        moment = float(random.uniform(0, self._typical))
        point = int(random.integers(1, self._points + 1))
        if fault == "":
            return at
        if fault in _PLAIN:
            return self._plain(fault, row, at, moment, point, random)
        if fault.startswith("clock"):
            return self._by_clock(fault, row, at, random)
        if fault == "two at once":
            return self._two(row, at, moment)
        if fault == "no permission":
            return self._without_permission(row, at, random)
        if fault == "made anew (--force)":
            at = self._recover(row, at)
            self._seen.pop(row, None)
            again = self._attempt(row, at, init=row, force=True)
            return float(again.ended.result["true"]) + 0.5 if again.ended.how == "done" else at + WAIT + 0.5
        if fault == "reader killed":
            self._readers.kill()
            self._readers.begin()
            return at
        if fault == "store busy":
            with lock(self.pipeline.store):
                self._attempt(row, at, kinds={ErrorKind.STORE_BUSY})
            return at + WAIT + 0.5
        assert fault == "model damaged, then mended"
        weights = self.place / "model" / "weights.safetensors"
        sound = weights.read_bytes()
        weights.write_bytes(sound[:-9] + bytes([sound[-9] ^ 1]) + sound[-8:])
        try:
            self._attempt(row, at, kinds={ErrorKind.CKPT_CORRUPT})
        finally:
            weights.write_bytes(sound)
        return at + WAIT + 0.5

    def _plain(
        self, fault: str, row: int, at: float, moment: float, point: int, random: np.random.Generator
    ) -> float | None:
        """Faults that one attempt meets and the next one does not."""
        if fault == "killed at any time":
            self._attempt(row, at, kinds={"killed"}, interrupt=(signal.SIGKILL, moment))
        elif fault == "killed, tried again a cycle later":
            self._attempt(row, at, kinds={"killed"}, interrupt=(signal.SIGKILL, moment))
            return None
        elif fault == "SIGTERM":
            self._attempt(row, at, kinds={"SystemExit", "killed"}, interrupt=(signal.SIGTERM, moment))
        elif fault == "killed at a change of the disk":
            self._attempt(row, at, kinds={"killed"}, fails_at=(point, KILL))
        elif fault in _ERRORS:
            number, kinds = _ERRORS[fault]
            self._attempt(row, at, kinds=kinds, fails_at=(point, number))
        elif fault == "limit on the size of files":
            size = int(random.integers(1, 2 ** int(random.integers(4, 18))))
            limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
            self._attempt(row, at, kinds={ErrorKind.DISK_FULL, ErrorKind.IO_ERROR}, before=limit)
        elif self.disk.is_small:
            with self.disk.nearly_full(int(random.integers(0, 60))):
                self._attempt(row, at, kinds={ErrorKind.DISK_FULL, ErrorKind.IO_ERROR})
        return at + WAIT + 0.5

    def _by_clock(self, fault: str, row: int, at: float, random: np.random.Generator) -> float | None:
        """Clocks that show another time than it is."""
        first = self.season.first
        if fault == "clock stopped for a cycle" and row > first:
            # It is made up for in the next cycle.
            self._attempt(row - 1, at, shown=at - PARTS)
            return None
        if fault == "clock stopped while waiting":
            self._attempt(row, at, shown=at)
        elif fault == "clock went back":
            back = int(random.integers(1, 8))
            if row - back >= first:
                self._attempt(row - back, at, shown=at - back * PARTS)
        elif fault == "clock at 1970":
            attempt = self._attempt(-1, at, shown=datetime.fromisoformat("1970-01-01T12:00+00:00"), kinds=LATE)
            if attempt.ended.how != "failed":
                raise Violation(f"a clock at 1970: {attempt.ended}")
        elif fault == "clock went forward by cycles":
            ahead = int(random.integers(1, 4))
            if row + ahead < first + self.season.cycles:
                self._attempt(row + ahead, at, shown=at + ahead * PARTS)
        elif fault == "clock went forward by a year":
            shown = self.season.moment(at) + timedelta(days=366)
            attempt = self._attempt(-1, at, shown=shown, kinds=LATE)
            if attempt.ended.how != "failed":
                raise Violation(f"a clock a year ahead: {attempt.ended}")
        return at + WAIT + 0.5

    def _two(self, row: int, at: float, moment: float) -> float:
        self._begin(at)
        one = start(self._act(at))
        time.sleep(moment / 2)
        both = [Attempt(row, wait(*child, limit=300), 0.0) for child in (one, start(self._act(at)))]
        for attempt in both:
            self._note(attempt)
        if all(attempt.status == ErrorKind.RUN_ACTIVE for attempt in both):
            raise Violation("two runs kept each other away")
        # Who heard that another one runs, or that all is done, has nothing more to be held against.
        for attempt in sorted(both, key=lambda one: one.status in (ErrorKind.RUN_ACTIVE, "done already")):
            self._hold(attempt, at + WAIT, {ErrorKind.RUN_ACTIVE})
        return at + WAIT + 0.5

    def _without_permission(self, row: int, at: float, random: np.random.Generator) -> float:
        """One folder that may not be written; as root, in a child that is nobody."""
        output, store = self.pipeline.output, self.pipeline.store
        is_root = os.geteuid() == 0
        some = [self.place, output, output / ".versions", output / "runs"]
        # Nobody may not be allowed to start the process that looks into files, which comes before the store.
        some += [] if is_root else [store, store / ".versions"]
        some = [folder for folder in some if folder.is_dir()]
        forbidden = some[int(random.integers(len(some)))]

        def as_nobody() -> None:
            if is_root:
                os.setegid(NOBODY)
                os.seteuid(NOBODY)

        if is_root:
            for entry in (self.folder / "delivered", self.incoming, self.place, *self.place.rglob("*")):
                os.chown(entry, NOBODY, NOBODY, follow_symlinks=False)
            os.chown(forbidden, 0, 0)
        mode = forbidden.stat().st_mode
        forbidden.chmod(0o555)
        try:
            self._attempt(row, at, kinds={ErrorKind.PERMISSION}, before=as_nobody)
        finally:
            forbidden.chmod(mode)
        return at + WAIT + 0.5

    # The end

    def _settle(self) -> None:
        """Let all that is delivered come in: one more run, behind the last cycle, of the last init time."""
        cycles = self.season.cycles
        self._entry = Entry(cycles, "", "")
        at = (cycles + 1) * PARTS + RUN_AT
        self._catch_up(self.season.first + cycles, at)
        self._seen.pop(self.season.first + cycles - 1, None)
        self._attempt(self.season.first + cycles - 1, at, init=self.season.first + cycles - 1, force=True)

    def _at_the_end(self) -> list[str]:
        """What is not as it should be when all is over and nobody reads any more."""
        wrong = []
        output, season = self.pipeline.output, self.season
        self.archive.sweep()
        versions = {entry.name for entry in (output / ".versions").iterdir()}
        if versions != set(self._seen.values()):
            wrong.append(f"{sorted(versions ^ set(self._seen.values()))} are versions that nobody sees")
        if list((output / ".readers").iterdir()):
            wrong.append("files of readers are left")
        left = {entry.name for entry in self.place.iterdir()} - {
            "store.zarr", "model", "forecasts", "pipeline.yaml", ".store.zarr.lock", ".forecasts.lock",
            ".store.zarr.holder", ".forecasts.holder",
        }  # fmt: skip
        if left:
            wrong.append(f"{sorted(left)} lie beside the pipeline")
        if not validate(self.pipeline.store).is_sound:
            wrong.append(str(validate(self.pipeline.store)))
        stored, calm = open_store(self.pipeline.store).load(scheduler="synchronous"), self._calm_store
        never = [row for row in range(season.first, season.first + season.cycles) if row not in self.plan.arrives]
        wanted = np.delete(season.times[: season.first + season.cycles], never)
        if not np.array_equal(stored["time"], wanted):
            wrong.append(f"the store differs in {np.setxor1d(stored['time'], wanted)}")
        elif not stored.equals(calm.sel(time=wanted)):
            wrong.append("the store has other values than the undisturbed one")
        for row, version in self._seen.items():
            record, content = check_version(output / ".versions" / version, self._time(row), season.horizon)
            if not record["choice"]["is_degraded"] and content != self._calm_forecast(row):
                wrong.append(f"{version} is not what it was")
        return wrong

    def close(self) -> None:
        """Take the disk away."""
        self.disk.close()


_ERRORS = {
    "ENOSPC at a change of the disk": (errno.ENOSPC, {ErrorKind.DISK_FULL, ErrorKind.IO_ERROR}),
    "EIO at a change of the disk": (errno.EIO, {ErrorKind.IO_ERROR}),
    "EACCES at a change of the disk": (errno.EACCES, {ErrorKind.PERMISSION, ErrorKind.IO_ERROR}),
}
_PLAIN = {
    "killed at any time",
    "killed, tried again a cycle later",
    "SIGTERM",
    "killed at a change of the disk",
    "limit on the size of files",
    "disk full",
    *_ERRORS,
}
