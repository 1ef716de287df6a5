"""Scheduled runs: which init times are to be made, whether they are there already, and what becomes of several."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import faults_named
from stforecast.operations.archive import Archive
from stforecast.operations.cycles import Clock, cycle_of, name_of
from stforecast.operations.intake import INTAKE, check_clock, pending
from stforecast.operations.journal import Outcome, limited, logged, run_file, say, write_run
from stforecast.operations.pipeline import Pipeline, present_model
from stforecast.operations.status import known_cycle
from stforecast.store import open_store
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
            the deadline and no fallback holds; OUTPUT_INVALID for a forecast that fails a check; TIMEOUT; faults of
            store, model and disk. Nothing is published then.
    """
    clock = clock or Clock()
    # A store that cannot be opened fails the attempt, which then has a record.
    cycle, _ = known_cycle(pipeline)
    init = cycle.due(clock.now(), pipeline.input.arrives_after) if init is None else init
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
        from stforecast.operations.attempt import Attempt, carry_out

        return carry_out(Attempt(pipeline, init, cycle.time_zone, clock), archive, wait)


def plan(pipeline: Pipeline, *, init: np.datetime64 | None = None, clock: Clock | None = None) -> Outcome:
    """What `run` would do, of which nothing is done: no file is opened that was delivered, and nothing is written.

    Args:
        pipeline: as `read_pipelines` gives it.
        init: see `run`.
        clock: see `run`.

    Raises:
        StforecastError: faults of store and model.
    """
    clock = clock or Clock()
    init = cycle_of(pipeline).due(clock.now(), pipeline.input.arrives_after) if init is None else init
    archive = Archive(pipeline.output)
    if archive.holds(init):
        return _done_already(pipeline, init, archive)
    from stforecast.operations.making import Ladder
    from stforecast.pretrained import load_model

    check_clock(pipeline.input, open_store(pipeline.store))
    forecaster = load_model(present_model(pipeline))
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


def missed(pipeline: Pipeline, first: np.datetime64, last: np.datetime64) -> Times:
    """The init times from one to another, both included, that are not published, (init_time,)."""
    return Archive(pipeline.output).absent(cycle_of(pipeline).between(first, last))


def missed_lately(pipeline: Pipeline, number: int, *, clock: Clock | None = None) -> Times:
    """Those of the last so many init times that are not published, (init_time,)."""
    cycle = cycle_of(pipeline)
    due = cycle.due((clock or Clock()).now(), pipeline.input.arrives_after)
    return missed(pipeline, due - (number - 1) * cycle.length, due)


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
