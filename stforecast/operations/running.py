"""Scheduled runs: which init times are to be made, whether they are there already, and what becomes of several."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import faults_named
from stforecast.operations.archive import Archive, oldest_kept
from stforecast.operations.cycles import Clock, Cycle, cycle_of, name_of, store_of
from stforecast.operations.intake import INTAKE, check_clock, pending
from stforecast.operations.journal import Outcome, limited, logged, run_file, say, write_run
from stforecast.operations.pipeline import Pipeline
from stforecast.operations.status import known_cycle
from stforecast.store.versions import lock, recall
from stforecast.time_axis import Times, show_time

# The network, and what draws, take seconds to import, and a run that is started often mostly finds its work done. So
# both are imported where work begins.


def run(
    pipeline: Pipeline,
    *,
    init: np.datetime64 | None = None,
    force: bool = False,
    deadline: timedelta | None = None,
    clock: Clock | None = None,
) -> Outcome:
    """What became of one run of a pipeline.

    It may be called at any time by anyone: an init time that is published is left alone, another run of the pipeline is
    refused, and what a run that was killed left behind is cleared. Nothing is visible before all of it is whole.

    Args:
        pipeline: as `read_pipelines` gives it.
        init: the init time; by default the newest whose input is expected to be there.
        force: whether an init time that is published is made anew and takes the place of what is there, in one step.
        deadline: how long to wait for late input; the pipeline's by default.
        clock: what time it is.

    Raises:
        StforecastError: RUN_ACTIVE, naming who runs; INPUT_LATE, INPUT_STALE or INPUT_INCOMPLETE if input is missing at
            the deadline and no fallback holds, INPUT_LATE also for an init time that is still to come; ARGUMENT for one
            that is older than forecasts are kept; OUTPUT_INVALID for a forecast that fails a check; TIMEOUT; faults of
            store, model and disk. Nothing is published then.
    """
    clock = clock or Clock()
    # A store that cannot be opened fails the attempt, which then has a record.
    cycle, _ = known_cycle(pipeline)
    is_asked_for = init is not None
    init = cycle.due(clock.now(), pipeline.input.arrives_after) if init is None else init
    _check_come(init, cycle, clock)
    wait = pipeline.deadline if deadline is None else deadline
    archive = Archive(pipeline.output)
    with (
        faults_named(pipeline.output),
        lock(pipeline.output, busy=ErrorKind.RUN_ACTIVE, doing="run"),
        logged(pipeline),
        limited(pipeline.timeout + wait, f"the run of {show_time(init)}"),
    ):
        archive.settle()
        if archive.holds(init) and not force:
            done = _done_already(pipeline, init, archive)
            _keep_done(pipeline, init, done.record)
            return done
        if is_asked_for:
            _check_kept(pipeline, init, archive)
        from stforecast.operations.attempt import Attempt, carry_out

        return carry_out(Attempt(pipeline, init, cycle.time_zone, clock), archive, wait)


def _check_come(init: np.datetime64, cycle: Cycle, clock: Clock) -> None:
    """Refuse an init time that is still to come: a fallback would make it, and stand in the way of the real one."""
    now = cycle.on_clock(clock.now())
    if init > now:
        raise StforecastError(
            ErrorKind.INPUT_LATE,
            f"{show_time(init)} is still to come, the clock shows {show_time(now)}; run it when it has",
        )


def _check_kept(pipeline: Pipeline, init: np.datetime64, archive: Archive) -> None:
    """Refuse an init time that would be deleted as soon as it was published."""
    published = archive.inits()
    if pipeline.retention is None or not len(published):
        return
    oldest = oldest_kept(published[-1], pipeline.retention)
    if init < oldest:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"{show_time(init)} is before what {pipeline.name} keeps by its retention, from {show_time(oldest)} on; "
            "keep forecasts longer, or write it elsewhere with stforecast predict",
        )


def plan(
    pipeline: Pipeline, *, init: np.datetime64 | None = None, force: bool = False, clock: Clock | None = None
) -> Outcome:
    """What `run` would do, of which nothing is done: no file is opened that was delivered, and nothing is written.

    Args:
        pipeline: as `read_pipelines` gives it.
        init: see `run`.
        force: see `run`.
        clock: see `run`.

    Raises:
        StforecastError: INPUT_LATE and ARGUMENT as `run`; faults of store and model.
    """
    clock = clock or Clock()
    cycle, is_asked_for = cycle_of(pipeline), init is not None
    init = cycle.due(clock.now(), pipeline.input.arrives_after) if init is None else init
    _check_come(init, cycle, clock)
    archive = Archive(pipeline.output)
    if archive.holds(init) and not force:
        return _done_already(pipeline, init, archive)
    if is_asked_for:
        _check_kept(pipeline, init, archive)
    from stforecast.operations.making import Ladder, model_of

    stored = store_of(pipeline)
    check_clock(pipeline.input, stored)
    forecaster = model_of(pipeline, stored)
    ladder = Ladder(pipeline, forecaster)
    lacking, came = ladder.lacking(init), pending(pipeline.input, pipeline.output / INTAKE)
    record = {
        "init": show_time(init),
        "model": str(forecaster),
        "frames_to_come": [show_time(time) for time in lacking],
        "files_to_read": came,
        "fallback": [rung.label for rung in pipeline.fallback],
        "output": str(pipeline.output / name_of(init)),
    }
    message = (
        f"{pipeline.name}: would forecast {ladder.horizon} steps from {show_time(init)} into {record['output']}; "
        f"{len(came)} new file(s) to read, {len(lacking)} frame(s) to come before it"
    )
    return Outcome(pipeline.name, init, "planned", message, record)


def missed(pipeline: Pipeline, first: np.datetime64, last: np.datetime64, *, clock: Clock | None = None) -> Times:
    """The init times from one to another, both included, that are not published, (init_time,).

    Those that are still to come are left out, and those that are older than forecasts are kept.
    """
    cycle, archive = cycle_of(pipeline), Archive(pipeline.output)
    wanted = cycle.between(first, min(last, cycle.on_clock((clock or Clock()).now())))
    if pipeline.retention is not None and len(wanted):
        wanted = wanted[wanted >= oldest_kept(max(wanted[-1], *archive.inits()[-1:]), pipeline.retention)]
    return archive.absent(wanted)


def missed_lately(pipeline: Pipeline, number: int, *, clock: Clock | None = None) -> Times:
    """Those of the last so many init times that are not published, (init_time,)."""
    cycle = cycle_of(pipeline)
    due = cycle.due((clock or Clock()).now(), pipeline.input.arrives_after)
    return missed(pipeline, due - (number - 1) * cycle.length, due, clock=clock)


def run_missed(
    pipeline: Pipeline,
    inits: Times,
    *,
    deadline: timedelta | None = None,
    clock: Clock | None = None,
) -> Iterator[Outcome | StforecastError]:
    """What becomes of several init times, oldest first; one that cannot be made stops no other.

    Only the last one waits for its input, for what is older had its time. Faults that the next init time would meet as
    well end it: of store, model, disk and of another run.
    """
    for init in inits:
        try:
            yield run(pipeline, init=init, deadline=deadline if init == inits[-1] else timedelta(0), clock=clock)
        except StforecastError as error:
            yield error
            if error.kind.exit_status not in _OF_ONE_INIT or error.kind == ErrorKind.STORE_BUSY:
                return


# Input (3), output (6) and what comes later (75) are those of one init time.
_OF_ONE_INIT = (3, 6, 75)


def _done_already(pipeline: Pipeline, init: np.datetime64, archive: Archive) -> Outcome:
    record = archive.record(init)
    say("done already", pipeline=pipeline.name, init=show_time(init))
    by = record["choice"]["made_by"]
    return Outcome(
        pipeline.name,
        init,
        "done already",
        f"{pipeline.name}: the forecast of {show_time(init)} is published already, made by {by}; nothing to do "
        "(--force makes it anew)",
        record,
    )


def _keep_done(pipeline: Pipeline, init: np.datetime64, record: dict[str, Any]) -> None:
    """Let the record of an attempt that was killed as soon as it had published say so."""
    kept = recall(run_file(pipeline.output, name_of(init)))
    if kept is None or kept["status"] not in ("published", "degraded"):
        with suppress(OSError):
            write_run(pipeline.output, name_of(init), record)
