"""One attempt at an init time: find input, store it, forecast, check, publish, score what came true, clean up."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from stforecast import plot
from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import faults_named
from stforecast.forecaster import Forecaster
from stforecast.forecasts import open_forecast, write_forecast
from stforecast.grid import check_forecast, forecast_variables
from stforecast.local_time import nonexistent_times
from stforecast.operations.archive import FORECAST, RECORD, Archive, clear_unfinished, describe, oldest_kept
from stforecast.operations.cycles import Clock, name_of, store_of
from stforecast.operations.discretion import Discretion
from stforecast.operations.intake import INTAKE, Intake, pending, take_in
from stforecast.operations.journal import (
    DEGRADED,
    MODELS,
    RUNS,
    Outcome,
    circumstances,
    read_runs,
    run_file,
    say,
    write_run,
)
from stforecast.operations.making import Choice, Ladder, Made, check_jump, jumps, model_of, spread_of, use_threads
from stforecast.operations.monitoring import WEBHOOK_SECONDS, post, write_metrics
from stforecast.operations.page import PAGE, newest_maps, status_page, write_page
from stforecast.operations.pipeline import Pipeline
from stforecast.operations.scoring import score_due
from stforecast.operations.skill import SCORES
from stforecast.operations.status import FAILED, RUNNING, Status
from stforecast.operations.status import status as status_of
from stforecast.store.versions import current_version, recall, remember
from stforecast.time_axis import Times, show_time

# Deliveries are looked for this often while a run waits for them.
_POLL_SECONDS = 10.0


def carry_out(attempt: "Attempt", archive: Archive, wait: timedelta) -> Outcome:
    """Make an init time, and keep a record of how that ended."""
    pipeline, init = attempt.pipeline, attempt.init
    say("begun", pipeline=pipeline.name, init=show_time(init))
    try:
        with faults_named(pipeline.output):
            attempt.write(RUNNING)
            use_threads(pipeline.threads)
            made = _made(attempt, wait)
            staged = _staged(attempt, archive, *made)
            with attempt.stage("publish"):
                archive.publish(init, staged)
    except BaseException as error:
        attempt.fail(error)
        _tell(attempt, FAILED, error)
        raise
    choice = made[1]
    status = "degraded" if choice.is_degraded else "published"
    say(status, pipeline=pipeline.name, init=show_time(init), made_by=choice.made_by, reason=choice.reason)
    # What is published is published, also where this run comes to grief or is stopped while it clears away.
    attempt.keep(status)
    _afterwards(attempt, archive)
    attempt.keep(status)
    _tell(attempt, status)
    message = f"{pipeline.name}: the forecast of {show_time(init)} is published in {pipeline.output / name_of(init)}"
    if choice.is_degraded:
        message += f", degraded: made by {choice.made_by} from {show_time(choice.last_frame)}, as {choice.reason}"
    return Outcome(pipeline.name, init, status, message, attempt.record(status))


class Attempt:
    """One attempt at an init time, and what is known of it so far."""

    def __init__(self, pipeline: Pipeline, init: np.datetime64, time_zone: str | None, clock: Clock) -> None:
        self.pipeline, self.init, self.clock = pipeline, init, clock
        self._time_zone = time_zone
        self._discretion = Discretion.of(pipeline)
        self.intake = Intake()
        self.choice: Choice | None = None
        self.checks: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._timings: dict[str, float] = {}
        self._started = clock.now()
        self._error: dict[str, str] | None = None
        before = recall(run_file(pipeline.output, name_of(init)))
        self._number = 1 + (0 if before is None else int(before["attempt"]))
        # A file is looked at once, and what was amiss with it is still why this init time lacks it.
        is_anew = before is None or before["status"] in ("published", "degraded")
        self._refused_before: list[dict[str, str]] = [] if is_anew else before["input"]["refused"]

    @property
    def refused(self) -> list[dict[str, str]]:
        """What was refused in this and in earlier attempts, but for files that have come anew since."""
        taken = {name for one in self.intake.files for name in one["file"].split(", ")}
        return [*(one for one in self._refused_before if one["file"] not in taken), *self.intake.refused]

    def may_come(self, lacking: Times) -> Times:
        """Those of some frames that a provider could deliver: not those of an hour that the clock leaves out."""
        if self._time_zone is None:
            return lacking
        shown: Times = lacking[~np.isin(lacking, nonexistent_times(lacking, self._time_zone))]
        return shown

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A part of the run whose time is kept."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._timings[name] = round(self._timings.get(name, 0.0) + time.monotonic() - started, 3)

    def warn(self, text: str) -> None:
        """Tell of something that stops nothing."""
        self.warnings.append(text)
        say("warning", level=logging.WARNING, pipeline=self.pipeline.name, init=show_time(self.init), reason=text)

    def fail(self, error: BaseException) -> None:
        """Keep what ended the run."""
        kind = error.kind if isinstance(error, StforecastError) else type(error).__name__
        if isinstance(error, SystemExit | KeyboardInterrupt):
            kind = ErrorKind.INTERRUPTED
        self._error = {"kind": str(kind), "message": str(error)}
        say("failed", level=logging.ERROR, pipeline=self.pipeline.name, init=show_time(self.init), **self._error)
        self.keep("failed")

    def keep(self, status: str) -> None:
        """Keep the record if that can be."""
        try:
            self.write(status)
        except OSError as fault:
            # The disk may be what failed; the first fault is the one to tell.
            say("no record", level=logging.WARNING, pipeline=self.pipeline.name, reason=str(fault))

    def write(self, status: str) -> None:
        """Keep the record."""
        write_run(self.pipeline.output, name_of(self.init), self.record(status))

    def record(self, status: str) -> dict[str, Any]:
        """What is known and may be told, as JSON has it.

        The same keys are in runs/INIT.json, the last attempt at an init time, and in INIT/run.json, beside the forecast
        that it published. The latter is written before it is published, so the time of that and of what follows is only
        in the former. Moments are UTC; init times and frames are on the clock of the series.

        pipeline: its name.
        init: the init time.
        time_zone: the clock of the series; null for UTC.
        status: "running", "published", "degraded" or "failed".
        attempt: which one at this init time it was, from 1.
        started: when it began.
        process: while it runs, the number of its process.
        ended: when it ended.
        error: `kind` and `message` of what ended it; null if it published.
        choice: what the forecast was made by: `made_by`, `last_frame`, `is_degraded`, `reason`, and `model`, the
            SHA-256 of its weights; null if it did not come to that.
        input: what came: `files` that were read, each with `file`, its name below the input, `bytes`, `sha256`, and its
            `first` and `last` frame; the number of frames that were `added` and `replaced`; files or frames that were
            `refused`, with kind and reason, of an attempt that failed also those of the attempts before it; files
            `waiting` to be complete; what came again with other values, `changed`.
        checks: what the forecast passed; of jump, how far it is from the one before, in standard deviations.
        warnings: what stopped nothing.
        seconds: how long each part took.
        versions: of the packages that it was made with.
        peak_memory_bytes: the most that the process held.
        forecast: in INIT/run.json, the `file` with its `bytes` and `sha256`, its `variables` and `lead_seconds`.
        """
        if status == RUNNING:
            ended: dict[str, Any] = {"process": os.getpid()}
        else:
            ended = {"ended": self.clock.now().isoformat(timespec="seconds")}
        known = {
            "pipeline": self.pipeline.name,
            "init": show_time(self.init),
            "time_zone": self._time_zone,
            "status": status,
            "attempt": self._number,
            "started": self._started.isoformat(timespec="seconds"),
            **ended,
            "error": self._error,
            "choice": None if self.choice is None else self.choice.describe(),
            "input": {
                "files": self.intake.files,
                "added": self.intake.added,
                "replaced": self.intake.replaced,
                "refused": self.refused if status in ("running", "failed") else self.intake.refused,
                "waiting": self.intake.waiting,
                "changed": self.intake.changed,
            },
            "checks": self.checks,
            "warnings": self.warnings,
            "seconds": self._timings,
            **circumstances(),
        }
        told: dict[str, Any] = self._discretion.record(known)
        return told


def _made(attempt: Attempt, wait: timedelta) -> Made:
    """The forecast, from whole input if that comes in time."""
    pipeline, init = attempt.pipeline, attempt.init
    forecaster = model_of(pipeline, store_of(pipeline))
    _note_model(attempt, forecaster)
    ladder = Ladder(pipeline, forecaster)
    with attempt.stage("input"):
        lacking = _gather(attempt, ladder, wait)
    with attempt.stage("forecast"):
        made = ladder.best(init) if not len(lacking) else ladder.lower(init)
    if made is None:
        raise _late(attempt, lacking)
    attempt.choice = made[1]
    return made


def _gather(attempt: Attempt, ladder: Ladder, wait: timedelta) -> Times:
    """The frames that are still missing when all have come, or the deadline has."""
    pipeline, clock = attempt.pipeline, attempt.clock
    until = clock.ticks() + wait.total_seconds()
    stores = sorted({pipeline.store, *(rung.store for rung in pipeline.fallback if rung.store is not None)})
    places = [
        (pipeline.input, store, pipeline.output / INTAKE)
        if store == pipeline.store
        else (
            pipeline.input.model_copy(update={"variables": None}),
            store,
            pipeline.output / f".intake-{number}.json",
        )
        for number, store in enumerate(stores)
    ]
    before = Archive(pipeline.output).before(attempt.init)
    seen: list[Path] = []
    told: Times | None = None
    while True:
        # Others may let a store grow too. Opening one takes longer than to see that nothing is new.
        if seen != [current_version(store) for store in stores] or any(
            pending(source, notes) for source, _, notes in places
        ):
            for source, store, notes in places:
                came = take_in(source, store, notes)
                if store == pipeline.store:
                    attempt.intake = attempt.intake.merge(came)
            seen = [current_version(store) for store in stores]
            history, earlier = ladder.missing(attempt.init)
            lacking: Times = np.union1d(history, earlier)
            # For a frame from days ago that never came the runs waited that had it in their history.
            recent = earlier if before is None else earlier[earlier > before]
            awaited = len(attempt.may_come(np.union1d(history, recent)))
        left = until - clock.ticks()
        if not awaited or left <= 0:
            break
        if told is None or not np.array_equal(told, lacking):
            missing = [show_time(time) for time in lacking]
            say("waiting", pipeline=pipeline.name, init=show_time(attempt.init), missing=missing)
            told = lacking
        clock.sleep(min(_POLL_SECONDS, left))
    for text in attempt.intake.changed:
        attempt.warn(f"{ErrorKind.INPUT_CHANGED}: {text}; it was {_DONE_WITH[pipeline.input.revisions]}")
    for one in attempt.intake.refused:
        attempt.warn(f"{one['kind']}: {one['file']} was refused: {one['reason']}")
    return lacking


_DONE_WITH = {"keep": "left as it was forecast from", "replace": "replaced"}


def _late(attempt: Attempt, lacking: Times) -> StforecastError:
    """The fault that input is missing and no fallback holds."""
    intake, pipeline = attempt.intake, attempt.pipeline
    first = ", ".join(show_time(time) for time in lacking[:3])
    missing = (
        f"{len(lacking)} frame(s) are missing in {pipeline.input.path} ({first}{', …' if len(lacking) > 3 else ''})"
    )
    if intake.waiting:
        one = intake.waiting[-1]
        missing += f"; {one['file']} is there and waits, as it {one['reason']}"
    held = "; no fallback holds" if pipeline.fallback else "; the pipeline has no fallback"
    if attempt.refused:
        one = attempt.refused[-1]
        return StforecastError(
            ErrorKind.INPUT_INCOMPLETE,
            f"the forecast of {show_time(attempt.init)} was not made: {missing}, and {one['file']} was refused as "
            f"{one['kind']} ({one['reason']}){held}; deliver it anew",
        )
    if intake.files and not intake.added:
        return StforecastError(
            ErrorKind.INPUT_STALE,
            f"the forecast of {show_time(attempt.init)} was not made: {missing}; what came last, "
            f"{intake.files[-1]['file']}, has only frames that were there already{held}",
        )
    return StforecastError(
        ErrorKind.INPUT_LATE,
        f"the forecast of {show_time(attempt.init)} was not made: {missing}{held}; run it again when they have come, "
        "or wait longer for them (--deadline)",
    )


def _note_model(attempt: Attempt, forecaster: Forecaster) -> None:
    """Remember which models were in use, and tell of one that was in use before another."""
    file, digest = attempt.pipeline.output / MODELS, forecaster.weights_hash()
    used: list[str] = recall(file) or []
    if digest in used[:-1] and used[-1] != digest:
        attempt.warn(
            f"{ErrorKind.CKPT_ROLLBACK}: the model is one that was in use before ({digest[:12]}), the last one was "
            f"{used[-1][:12]}"
        )
    if not used or used[-1] != digest:
        remember(file, [*used, digest])


def _staged(attempt: Attempt, archive: Archive, forecast: xr.Dataset, choice: Choice) -> Path:
    """A folder with all that is going to be published, checked and read back."""
    pipeline, init = attempt.pipeline, attempt.init
    with attempt.stage("check"):
        _check(attempt, archive, forecast)
    staged = archive.stage(init)
    with attempt.stage("write"):
        write_forecast(forecast, staged / FORECAST)
        _check_written(forecast, staged / FORECAST)
    with attempt.stage("draw"):
        try:
            _draw(pipeline, forecast, staged / "maps")
        except (StforecastError, OSError) as error:
            if isinstance(error, OSError) or error.kind == ErrorKind.DISK_FULL:
                raise
            # A picture is worth less than the forecast that it is of.
            attempt.warn(f"a map was not drawn: {error}")
    status = "degraded" if choice.is_degraded else "published"
    record = attempt.record(status) | {"forecast": describe(forecast, staged / FORECAST)}
    (staged / RECORD).write_text(json.dumps(record, indent=1))
    return staged


def _check(attempt: Attempt, archive: Archive, forecast: xr.Dataset) -> None:
    """What a forecast has to pass; impossible values and drift were told when it was made."""
    pipeline, init = attempt.pipeline, attempt.init
    check_forecast(forecast)
    for name in forecast_variables(forecast):
        if not np.isfinite(forecast[name].to_numpy()).all():
            raise StforecastError(ErrorKind.OUTPUT_INVALID, f"the forecast of {name} has values that are not finite")
    attempt.checks = {"finite": True, "range": True, "drift": pipeline.checks.drift}
    before = archive.before(init)
    if pipeline.checks.jump is None or before is None:
        return
    assert attempt.choice is not None
    try:
        chosen = archive.record(before)["choice"]
        if attempt.choice.is_degraded or chosen["is_degraded"]:
            # What is made otherwise may well differ; that it is, is told.
            attempt.checks["jump"] = "not compared: one of both is degraded"
            return
        if attempt.choice.model != chosen["model"]:
            # Or a better model that is new would be refused for as long as the forecasts before it reach.
            attempt.checks["jump"] = "not compared: the one before is of another model"
            return
        with archive.forecast(before) as opened:
            old = opened.load()
    except (StforecastError, OSError, RuntimeError) as error:
        if isinstance(error, StforecastError) and error.kind == ErrorKind.TIMEOUT:
            raise
        # Damage to a forecast that is published stops none after it.
        attempt.checks["jump"] = "not compared: the forecast before cannot be read"
        attempt.warn(f"the forecast of {show_time(before)} cannot be compared with: {error}")
        return
    far = jumps(forecast, old, spread_of(pipeline.store))
    attempt.checks["jump"] = {name: round(distance, 4) for name, distance in far.items()}
    check_jump(far, pipeline.checks.jump, before, init - before)


def _check_written(forecast: xr.Dataset, file: Path) -> None:
    with open_forecast(file) as written:
        for name in (*forecast.data_vars, "quality_flag", "last_frame", "valid_time"):
            if not np.array_equal(written[name].to_numpy(), forecast[name].to_numpy()):
                raise StforecastError(
                    ErrorKind.READBACK, f"{file} does not hold the values of {name} that were written; check the disk"
                )


def _draw(pipeline: Pipeline, forecast: xr.Dataset, folder: Path) -> None:
    leads = forecast["lead_time"].to_numpy()
    wanted = leads[-1:] if pipeline.maps.leads is None else np.array(pipeline.maps.leads, "timedelta64[ns]")
    for name in pipeline.maps.variables or map(str, forecast_variables(forecast)):
        for lead in wanted:
            figure = plot.forecast_map(forecast, variable=name, lead_time=lead)
            plot.save(figure, folder / f"{name}_{int(lead / np.timedelta64(1, 'h')):03d}h.png")


def _afterwards(attempt: Attempt, archive: Archive) -> None:
    """What has to do with the published forecast and cannot take it back: scores, and clearing away."""
    pipeline = attempt.pipeline
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("score", lambda: score_due(pipeline, archive)),
        ("clean", lambda: _clean(pipeline, archive)),
    )
    for name, step in steps:
        with attempt.stage(name):
            try:
                step()
            except Exception as error:  # whatever it is, the forecast stays published
                attempt.warn(f"{name}: {error}")


def _tell(attempt: Attempt, status: str, error: BaseException | None = None) -> None:
    """Tell those who watch how a run ended; a fault in that changes nothing of it."""
    pipeline, monitor = attempt.pipeline, attempt.pipeline.monitor
    is_stopped = isinstance(error, SystemExit | KeyboardInterrupt)

    @cache
    def stands() -> Status:
        return replace(status_of(pipeline, clock=attempt.clock), active="")

    def page() -> None:
        maps = {pipeline.name: newest_maps(pipeline.output, stands())}
        write_page(pipeline.output / PAGE, status_page([stands()], maps))

    steps: dict[str, Callable[[], object]] = {"status page": page}
    if monitor.prometheus is not None:
        file, exit_status = monitor.prometheus, _exit_status(status, error)
        steps["prometheus"] = lambda: write_metrics(file, stands(), attempt.record(status), exit_status)
    if monitor.webhook is not None:
        webhook, seconds = monitor.webhook, _STOPPED_SECONDS if is_stopped else WEBHOOK_SECONDS
        # First, so that the page tells of its fault.
        steps = {"webhook": lambda: post(webhook, attempt.record(status), seconds=seconds), **steps}
    for name, step in steps.items():
        try:
            step()
        except Exception as fault:  # whatever it is: the forecast is published, or the run failed, all the same
            attempt.warn(f"{name}: {fault}")
            attempt.keep(status)


# Who stops a run waits for it, and kills it before long.
_STOPPED_SECONDS = 3.0


def _exit_status(status: str, error: BaseException | None) -> int:
    """The status that the command ends with."""
    if isinstance(error, StforecastError):
        return error.kind.exit_status
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    if error is not None:
        return ErrorKind.INTERRUPTED.exit_status if isinstance(error, KeyboardInterrupt) else 1
    return DEGRADED if status == "degraded" else 0


def _clean(pipeline: Pipeline, archive: Archive) -> None:
    """Delete forecasts and records that are older than they are to be kept, counted from the newest."""
    inits = archive.inits()
    if pipeline.retention is not None:
        oldest = oldest_kept(inits[-1], pipeline.retention)
        for init in inits[inits < oldest]:
            archive.retire(init)
            say("retired", pipeline=pipeline.name, init=show_time(init))
        for name in read_runs(pipeline.output):
            if name < name_of(oldest):
                run_file(pipeline.output, name).unlink(missing_ok=True)
    for name in (RUNS, SCORES):
        clear_unfinished(pipeline.output / name)
    archive.sweep()
