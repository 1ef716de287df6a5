"""How a pipeline stands: how old its newest forecast is, what is missing, how runs ended, how good forecasts were."""

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from stforecast.errors import ErrorKind, StforecastError
from stforecast.operations.archive import Archive
from stforecast.operations.cycles import Clock, Cycle, cycle_of, name_of
from stforecast.operations.discretion import Discretion
from stforecast.operations.journal import MODELS, RUNS
from stforecast.operations.pipeline import Pipeline, present_model
from stforecast.operations.skill import skill
from stforecast.store.versions import holder_of, recall
from stforecast.time_axis import Times, show_time

RUNNING, KILLED, FAILED = "running", "killed", "failed"
# More of them are counted and not listed.
_RUNS_LISTED, _GAPS_LISTED = 10, 20
# Eleven years of hours: gaps are looked for no further back.
_MOST_CYCLES = 100_000


@dataclass(frozen=True)
class Attempt:
    """How the last attempt at an init time ended.

    Attributes:
        init: the init time.
        status: "published", "degraded" or "failed"; "running", or "killed" if it says so and nobody runs any more.
        attempt: which one it was.
        started: when, in UTC.
        ended: when; None if it did not.
        kind: the kind of error; None without one.
        message: what the error said, or why the forecast is degraded; empty otherwise.
        warnings: what stopped nothing.
        seconds: how long it worked, the time of waiting for input included.
    """

    init: str
    status: str
    attempt: int
    started: str
    ended: str | None
    kind: str | None
    message: str
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Gap:
    """An init time that should be published and is not.

    Attributes:
        init: the init time.
        kind: the kind of error that ended the last attempt at it, "killed" or "running"; None if there was none.
    """

    init: str
    kind: str | None


@dataclass(frozen=True)
class Status:
    """How a pipeline stood at a moment.

    Times of day are UTC; init times are on the clock of the series, as everywhere.

    Attributes:
        pipeline: its name.
        now: when this was found.
        time_zone: the clock of init times; None for UTC.
        due: the init time that should be published by now, or is being made.
        newest: the newest that is; None without any.
        oldest: the oldest that is kept.
        published: how many are.
        age: how long ago the newest init time was; None without any.
        limit: how old it may be.
        choice: what the newest was made by, as its record says.
        gaps: the newest of the init times since the oldest that are not published, oldest first; `due` is not among
            them.
        gap_count: how many there are.
        catch_up: the number with which `stforecast run --catch-up` makes all that are listed, and `due` if it lacks; 0
            if nothing does.
        active: the process that runs now, as "process 4711 on host"; empty without one.
        runs: the last attempts, newest first.
        last_success: when the last attempt ended that published something; None if that is not known.
        days: how many days before the newest init time the next two look back.
        recent: forecasts of these days: how many there are, and how many are degraded.
        skill: the errors of those that have come true, see `stforecast.operations.skill`; empty without any.
        model: name and SHA-256 of the model in use, and those that were in use before.
        disk_bytes: what the files of output and store take, and what is free beside them.
        faults: what is wrong with the pipeline as it stands, in words.
    """

    pipeline: str
    now: datetime
    time_zone: str | None
    due: np.datetime64
    newest: np.datetime64 | None
    oldest: np.datetime64 | None
    published: int
    age: timedelta | None
    limit: timedelta
    choice: Mapping[str, Any] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    gap_count: int = 0
    catch_up: int = 0
    active: str = ""
    runs: tuple[Attempt, ...] = ()
    last_success: str | None = None
    days: int = 0
    recent: Mapping[str, int] = field(default_factory=dict)
    skill: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    disk_bytes: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    @property
    def is_stale(self) -> bool:
        """Whether the newest forecast is older than it may be, or there is none."""
        return self.age is None or self.age > self.limit

    @property
    def stale_from(self) -> datetime | None:
        """From when on it is, if nothing newer comes; None without a forecast."""
        return None if self.age is None else self.now - self.age + self.limit

    @property
    def state(self) -> str:
        """The worst of "stale", "failing" (the last run failed or was killed), "degraded" (the newest) and "fresh"."""
        if self.is_stale:
            return "stale"
        ended = [run for run in self.runs if run.status != RUNNING]
        if ended and ended[0].status in (FAILED, KILLED):
            return "failing"
        return "degraded" if self.choice.get("is_degraded") else "fresh"

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it.

        Keys are those of `Status`, `Attempt` and `Gap`, and `state`, `is_stale` and `stale_from`; lengths of time are
        `age_seconds` and `limit_seconds`, and lead times of `skill` are texts of seconds.
        """
        plain: dict[str, Any] = {
            "pipeline": self.pipeline,
            "state": self.state,
            "is_stale": self.is_stale,
            "now": _shown(self.now),
            "time_zone": self.time_zone,
            "due": show_time(self.due),
            "newest": None if self.newest is None else show_time(self.newest),
            "oldest": None if self.oldest is None else show_time(self.oldest),
            "published": self.published,
            "age_seconds": None if self.age is None else int(self.age.total_seconds()),
            "limit_seconds": int(self.limit.total_seconds()),
            "stale_from": None if self.stale_from is None else _shown(self.stale_from),
            "choice": dict(self.choice),
            "gaps": [vars(gap) for gap in self.gaps],
            "gap_count": self.gap_count,
            "catch_up": self.catch_up,
            "active": self.active,
            "runs": [vars(run) | {"warnings": list(run.warnings)} for run in self.runs],
            "last_success": self.last_success,
            "days": self.days,
            "recent": dict(self.recent),
            "skill": dict(self.skill),
            "model": dict(self.model),
            "disk_bytes": dict(self.disk_bytes),
            "faults": list(self.faults),
        }
        return plain


def status(pipeline: Pipeline, *, max_delay: timedelta | None = None, clock: Clock | None = None) -> Status:
    """How a pipeline stands now.

    Nothing is written and no lock is taken, so it may be asked at any time, also while a run is active.

    Args:
        pipeline: as `read_pipelines` gives it.
        max_delay: how old the newest forecast may be; the pipeline's `stale_after` by default, and without that two
            cycles beside `input.arrives_after`.
        clock: what time it is.
    """
    now = (clock or Clock()).now().astimezone(UTC)
    cycle, faults = known_cycle(pipeline)
    archive = Archive(pipeline.output)
    inits = archive.inits()
    newest, oldest = (inits[-1], inits[0]) if len(inits) else (None, None)
    due = cycle.due(now, pipeline.input.arrives_after)
    age = None if newest is None else now - cycle.in_utc(newest)
    if age is not None and age < timedelta(0):
        faults.append(f"the newest forecast is of {show_time(inits[-1])}, which is still to come; check the clock")
    active = holder_of(pipeline.output)
    records, absent = _Records(archive, faults), _absent(cycle, inits, due)
    listed = absent[-_GAPS_LISTED:]
    runs = _Runs(pipeline, active)
    lacking = [*listed[:1], *([] if archive.holds(due) else [due])]
    days = pipeline.scores.days
    choice = {} if newest is None else records.choice(newest) or {}
    recent = {} if newest is None else records.counted(inits[inits >= newest - np.timedelta64(days, "D")])
    discretion = Discretion.of(pipeline)
    return Status(
        pipeline=pipeline.name,
        now=now,
        time_zone=cycle.time_zone,
        due=due,
        newest=newest,
        oldest=oldest,
        published=len(inits),
        age=age,
        limit=_limit(pipeline, max_delay),
        choice=discretion.record(choice),
        gaps=tuple(Gap(show_time(init), runs.kind_of(init)) for init in listed),
        gap_count=len(absent),
        catch_up=int((due - lacking[0]) / cycle.length) + 1 if lacking else 0,
        active=active,
        runs=runs.last(_RUNS_LISTED),
        last_success=runs.last_success(),
        days=days,
        recent=recent,
        skill=skill(pipeline, archive),
        model=_model(pipeline),
        disk_bytes=_disk(pipeline),
        faults=tuple(discretion.text(fault) for fault in faults),
    )


def known_cycle(pipeline: Pipeline) -> tuple[Cycle, list[str]]:
    """The init times of a pipeline, and what is wrong with its store: its clock is then told by the last records."""
    try:
        return cycle_of(pipeline), []
    except (StforecastError, OSError) as error:
        if isinstance(error, StforecastError) and error.kind == ErrorKind.ARGUMENT:
            raise
        last = next(iter(_Runs(pipeline, "")), {})
        return Cycle(pipeline.cycle, last.get("time_zone", pipeline.input.time_zone)), [str(error)]


def _limit(pipeline: Pipeline, max_delay: timedelta | None) -> timedelta:
    return max_delay or pipeline.stale_after or 2 * pipeline.cycle + pipeline.input.arrives_after


def _absent(cycle: Cycle, inits: Times, due: np.datetime64) -> Times:
    """The init times between the oldest that is published and the one that is due, without both, that are not."""
    if not len(inits):
        return inits
    wanted = cycle.between(max(inits[0], due - _MOST_CYCLES * cycle.length), due - np.timedelta64(1, "ns"))
    absent: Times = wanted[~np.isin(wanted, inits)]
    return absent


class _Records:
    """What the records of published forecasts say, of those that can be read."""

    def __init__(self, archive: Archive, faults: list[str]) -> None:
        self._archive, self._faults = archive, faults

    def choice(self, init: np.datetime64) -> dict[str, Any] | None:
        """What a forecast was made by; None if its record is damaged, which is told, or was deleted just now."""
        try:
            choice: dict[str, Any] = self._archive.record(init)["choice"]
        except StforecastError as error:
            if error.kind != ErrorKind.FILE_MISSING and str(error) not in self._faults:
                self._faults.append(str(error))
            return None
        return choice

    def counted(self, inits: Times) -> dict[str, int]:
        """How many forecasts there are, and how many of them are degraded."""
        choices = [choice for init in inits if (choice := self.choice(init)) is not None]
        return {"forecasts": len(choices), "degraded": sum(choice["is_degraded"] for choice in choices)}


class _Runs:
    """The records of the last attempts, the one that was written last first."""

    def __init__(self, pipeline: Pipeline, active: str) -> None:
        self._folder, self._active = pipeline.output / RUNS, active
        self._discretion = Discretion.of(pipeline)
        written: list[tuple[int, Path]] = []
        for file in self._folder.glob("*.json"):
            with suppress(FileNotFoundError):
                written.append((file.stat().st_mtime_ns, file))
        self._files = [file for _, file in sorted(written, reverse=True)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for file in self._files:
            record = recall(file)
            if record is not None:
                yield record

    def last(self, number: int) -> tuple[Attempt, ...]:
        """The last so many."""
        return tuple(self._attempt(record) for record, _ in zip(self, range(number), strict=False))

    def last_success(self) -> str | None:
        """When one ended last that published something."""
        return next((one.get("ended") for one in self if one["status"] in ("published", "degraded")), None)

    def kind_of(self, init: np.datetime64) -> str | None:
        """What ended the last attempt at an init time."""
        record = recall(self._folder / f"{name_of(init)}.json")
        if record is None:
            return None
        attempt = self._attempt(record)
        return attempt.kind or attempt.status

    def _attempt(self, record: Mapping[str, Any]) -> Attempt:
        is_killed = record["status"] == RUNNING and not self._active.startswith(f"process {record.get('process')} ")
        choice, error = record["choice"] or {}, record["error"] or {}
        return Attempt(
            init=record["init"],
            status=KILLED if is_killed else record["status"],
            attempt=record["attempt"],
            started=record["started"],
            ended=record.get("ended"),
            kind=error.get("kind"),
            message=self._discretion.text(error.get("message") or choice.get("reason") or ""),
            warnings=tuple(record["warnings"]),
            seconds=round(sum(record["seconds"].values()), 3),
        )


def _model(pipeline: Pipeline) -> dict[str, Any]:
    used: list[str] = recall(pipeline.output / MODELS) or []
    return {
        "name": Path(present_model(pipeline)).name,
        "sha256": used[-1] if used else None,
        "used_before": used[:-1],
    }


def _disk(pipeline: Pipeline) -> dict[str, int]:
    taken = {"output": _bytes_below(pipeline.output), "store": _bytes_below(pipeline.store)}
    place = next(folder for folder in (pipeline.output, *pipeline.output.parents) if folder.is_dir())
    return taken | {"free": shutil.disk_usage(place).free}


def _bytes_below(folder: Path) -> int:
    """The bytes of all files of a folder; versions of a store share most of theirs, which count once."""
    found: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                known = (Path(place) / name).lstat()
                if stat.S_ISREG(known.st_mode):
                    found[known.st_dev, known.st_ino] = known.st_size
    return sum(found.values())


def _shown(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
