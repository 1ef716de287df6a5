"""Pipelines run by the clock in one process that stays, for machines without a scheduler of their own."""

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.schedulers import SchedulerNotRunningError
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger

from stforecast.errors import ErrorKind, StforecastError
from stforecast.operations.archive import Archive
from stforecast.operations.cycles import Clock, Cycle, cycle_of
from stforecast.operations.journal import logged, say
from stforecast.operations.pipeline import Pipeline, read_pipelines
from stforecast.operations.retraining import is_due
from stforecast.time_axis import show_time

Tell = Callable[[str], None]

# When an init time is tried again whose input is late, or that another run was busy with.
RETRY_AFTER = timedelta(minutes=10)
_AGAIN = (ErrorKind.INPUT_LATE.exit_status, ErrorKind.RUN_ACTIVE.exit_status)
# A machine that slept, or whose clock was set, is noticed within so many seconds.
_LOOK_SECONDS = 20
# What a run gets to clear what it holds before it is killed.
_GRACE_SECONDS = 8.0


@dataclass(frozen=True)
class Scheduled:
    """A pipeline and what starts it.

    Attributes:
        file: the YAML file.
        pipeline: as it was read.
        cycle: its init times.
    """

    file: Path
    pipeline: Pipeline
    cycle: Cycle

    def due(self, now: datetime) -> np.datetime64:
        """The newest init time whose input is expected to be there."""
        return self.cycle.due(now, self.pipeline.input.arrives_after)

    def next_due(self, now: datetime) -> datetime:
        """When the next one is, in UTC."""
        return self.cycle.next_due(now, self.pipeline.input.arrives_after)

    def outstanding(self, now: datetime) -> list[np.datetime64]:
        """The init times to make, oldest first: of the newest and so many before it as are made up for."""
        due = self.due(now)
        wanted = self.cycle.between(due - self.pipeline.catch_up * self.cycle.length, due)
        return list(Archive(self.pipeline.output).absent(wanted))

    def command(self, verb: str, *options: str) -> list[str]:
        """What `stforecast` is told about this pipeline."""
        return [verb, str(self.file), "--only", self.pipeline.name, *options]


def read_scheduled(files: Sequence[Path]) -> list[Scheduled]:
    """The pipelines of some YAML files.

    Raises:
        StforecastError: what `read_pipelines` refuses; ARGUMENT for two pipelines of one name or one output; faults of
            a store.
    """
    found = [(file.absolute(), pipeline) for file in files for pipeline in read_pipelines(file)]
    for key in ("name", "output"):
        values = [getattr(pipeline, key) for _, pipeline in found]
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise StforecastError(
                ErrorKind.ARGUMENT, f"several pipelines have the {key} {twice[0]}; each wants one of its own"
            )
    return [Scheduled(file, pipeline, cycle_of(pipeline)) for file, pipeline in found]


def upcoming(one: Scheduled, number: int, now: datetime) -> list[tuple[datetime, np.datetime64]]:
    """The next moments at which a pipeline is started, in UTC, each with the init time that is due then."""
    moments: list[tuple[datetime, np.datetime64]] = []
    moment = now
    for _ in range(number):
        moment = one.next_due(moment)
        moments.append((moment, one.due(moment)))
    return moments


class Children:
    """Commands that run in processes of their own, so that a library that crashes ends none but its run."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.is_ending = False

    def run(self, arguments: Sequence[str]) -> int:
        """The exit status of `stforecast ARGUMENTS`; minus the number of the signal that ended it."""
        with self._lock:
            if self.is_ending:
                return -signal.SIGTERM
            # In a session of its own, for Ctrl-C would else reach it as well as what `end` sends.
            child = subprocess.Popen(  # noqa: S603  this very interpreter and package
                [sys.executable, "-m", "stforecast", *arguments], stdin=subprocess.DEVNULL, start_new_session=True
            )
            self._running.add(child)
        try:
            return child.wait()
        finally:
            with self._lock:
                self._running.discard(child)

    def end(self) -> None:
        """Tell all to end, and kill after a while those that do not; no other begins."""
        with self._lock:
            self.is_ending = True
            running = list(self._running)
        for child in running:
            child.terminate()
        until = time.monotonic() + _GRACE_SECONDS
        for child in running:
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()


class Keeper:
    """Keeps one pipeline up with the clock."""

    def __init__(self, one: Scheduled, children: Children, tell: Tell, clock: Clock | None = None) -> None:
        self.one, self.children, self.tell = one, children, tell
        self._clock = clock or Clock()
        # By init time: which one was due when it was tried last.
        self._tried: dict[np.datetime64, np.datetime64] = {}
        self._again: np.datetime64 | None = None

    def keep_up(self) -> bool:
        """Make what is outstanding, oldest first, until nothing is; whether to come back before the next cycle.

        Each init time is tried once as long as the same one is the newest; the newest alone waits for its input, and is
        tried again when this is called again because of it. What comes due while a run goes on follows it.
        """
        again, self._again = self._again, None
        while not self.children.is_ending:
            now = self._clock.now()
            due, outstanding = self.one.due(now), self.one.outstanding(now)
            left = [init for init in outstanding if init == again or self._tried.get(init) != due]
            if not left:
                break
            status = self._make(left[0], waits=left[0] == due and left[0] != again)
            self._tried[left[0]] = due
            again = None if left[0] == again else again
            self._again = due if left[0] == due and status in _AGAIN else None
        return self._again is not None

    def retrain(self) -> None:
        """Fit a new model if one is due."""
        if is_due(self.one.pipeline):
            self._run("retrain", "--if-due")

    def _make(self, init: np.datetime64, *, waits: bool) -> int:
        return self._run("run", "--init", show_time(init), *([] if waits else ["--deadline", "0s"]))

    def _run(self, verb: str, *options: str) -> int:
        started = time.monotonic()
        status = self.children.run(self.one.command(verb, *options))
        seconds = round(time.monotonic() - started, 1)
        told = " ".join([verb, *options])
        with _one_log_at_a_time, logged(self.one.pipeline):
            say("ended", pipeline=self.one.pipeline.name, command=told, exit_status=status, seconds=seconds)
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        self.tell(f"{self.one.pipeline.name}: {told} {how} after {seconds:g} s")
        return status


# A log handler takes all that is said while it is there.
_one_log_at_a_time = threading.Lock()


class _AtCycles(BaseTrigger):  # type: ignore[misc]  # it has no types
    """Fires when another init time is due."""

    def __init__(self, one: Scheduled) -> None:
        self._one = one

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """When that is next, in UTC. What passed since the last time is one firing."""
        return self._one.next_due(max(now, previous_fire_time or now)).astimezone(UTC)


def keep(scheduled: Sequence[Scheduled], *, at_once: int, tell: Tell) -> None:
    """Run pipelines by the clock for good, each when another init time is due, and now what is outstanding.

    Each run is a process of its own. A pipeline never overlaps itself; what came due meanwhile follows. A run whose
    input is late, or that found another one at work, is tried again before long. A model that is due to be fitted anew
    is, one at a time, while forecasts go on. Whatever ends this, SIGTERM as Ctrl-C, tells the runs to end and waits for
    them some seconds.

    Args:
        scheduled: the pipelines.
        at_once: how many of them run at the same time; one that waits for its input counts.
        tell: gets a line for each run that ended.
    """
    # It warns of what is meant to be: a pipeline that is still at work when its next init time comes due.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    children = Children()
    scheduler = BlockingScheduler(
        timezone=UTC,
        executors={"default": ThreadPoolExecutor(at_once), "fits": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
    for one in scheduled:
        keeper = Keeper(one, children, tell)
        # Given now, or what is outstanding would wait for the next init time.
        options = {"trigger": _AtCycles(one), "next_run_time": datetime.now(UTC)}
        scheduler.add_job(_kept_up, args=(scheduler, keeper), id=one.pipeline.name, **options)
        if one.pipeline.retrain is not None:
            # Of its own, so that forecasts go on meanwhile.
            scheduler.add_job(_retrained, args=(keeper,), id=f"{one.pipeline.name} retrain", executor="fits", **options)
    ended = threading.Event()
    threading.Thread(target=_look, args=(scheduler, ended), daemon=True).start()
    try:
        scheduler.start()
    finally:
        ended.set()
        children.end()
        # The threads that waited for runs end with the process; to wait for them here would hold locks that they want.
        with suppress(SchedulerNotRunningError):
            scheduler.shutdown(wait=False)


def _kept_up(scheduler: Any, keeper: Keeper) -> None:
    """One firing of a pipeline's job."""
    name = keeper.one.pipeline.name
    try:
        again = keeper.keep_up()
    except (StforecastError, OSError) as error:
        keeper.tell(f"{name}: {error}")
        again = True
    if again and not keeper.children.is_ending:
        retry = datetime.now(UTC) + RETRY_AFTER
        job = scheduler.get_job(name)
        if job is not None and retry < job.next_run_time:
            job.modify(next_run_time=retry)


def _retrained(keeper: Keeper) -> None:
    """One firing of the job that fits models anew."""
    try:
        keeper.retrain()
    except (StforecastError, OSError) as error:
        keeper.tell(f"{keeper.one.pipeline.name}: {error}")


def _look(scheduler: Any, ended: threading.Event) -> None:
    """Let the scheduler look at the time every few seconds.

    Its own waiting is by a clock that stands still while the machine sleeps, and for as long as the time was when it
    began.
    """
    while not ended.wait(_LOOK_SECONDS):
        for job in scheduler.get_jobs():
            check_next(job, datetime.now(UTC))
        scheduler.wakeup()


def check_next(job: Job, now: datetime) -> None:
    """Let a job not fire later than its trigger says, when the clock was set back."""
    expected = job.trigger.get_next_fire_time(None, now)
    if job.next_run_time is not None and job.next_run_time > expected:
        job.modify(next_run_time=expected)
