"""What became of each run, for people and programs: records, a log of one JSON object a line, and a limit on time."""

import faulthandler
import functools
import importlib.metadata
import json
import logging
import logging.handlers
import os
import platform
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from stforecast.errors import ErrorKind, StforecastError
from stforecast.operations.discretion import Discretion
from stforecast.operations.pipeline import Pipeline
from stforecast.store.versions import recall, remember

log = logging.getLogger("stforecast.operations")

RUNS, LOG = "runs", "log.jsonl"
DEGRADED = 7
# The SHA-256 of each model that was in use, the present one last.
MODELS = ".models.json"
_LARGEST_LOG, _OLD_LOGS = 10 * 2**20, 3
# What a run that does not let itself be stopped gets before the process is ended.
_GRACE_SECONDS = 60


@dataclass(frozen=True)
class Outcome:
    """How a run ended that was not refused.

    Attributes:
        pipeline: its name.
        init: the init time.
        status: "published", "degraded", "done already" or "planned".
        message: the same for people.
        record: what is known of the run.
    """

    pipeline: str
    init: np.datetime64
    status: str
    message: str
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        """The status that the command ends with."""
        return DEGRADED if self.status == "degraded" else 0


class _Lines(logging.Formatter):
    def __init__(self, discretion: Discretion) -> None:
        super().__init__()
        self._discretion = discretion

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        plain = json.loads(json.dumps(said | getattr(record, "facts", {}), default=str))
        return json.dumps(self._discretion.record(plain))


class _Shared(logging.handlers.RotatingFileHandler):
    """A log that several processes write; a run and a retraining may do so for hours beside each other."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write to the log of that name, also where another process has put the one before it aside."""
        with suppress(OSError):
            if self.stream is not None and not os.path.samestat(
                os.fstat(self.stream.fileno()), Path(self.baseFilename).stat()
            ):
                self.stream.close()
                self.stream = None
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        """Let a disk that is full not hide what the run itself says of it."""


def say(event: str, *, level: int = logging.INFO, **facts: object) -> None:
    """Log an event with what is known of it."""
    log.log(level, event, extra={"facts": facts})


@contextmanager
def logged(pipeline: Pipeline) -> Iterator[None]:
    """A block whose events go to the log of a pipeline too; those of other pipelines do not.

    Each line is one JSON object: `time` in UTC, `level`, `event`, and what is known of it.
    """
    folder, name = pipeline.output, pipeline.name
    folder.mkdir(parents=True, exist_ok=True)
    handler = _Shared(folder / LOG, maxBytes=_LARGEST_LOG, backupCount=_OLD_LOGS, delay=True)
    handler.setFormatter(_Lines(Discretion.of(pipeline)))
    handler.addFilter(lambda record: getattr(record, "facts", {}).get("pipeline", name) == name)
    level = log.level
    log.setLevel(min(level or logging.INFO, logging.INFO))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


@contextmanager
def limited(length: timedelta, what: str) -> Iterator[None]:
    """A block that ends with an error after so long, the stacks of all threads on stderr.

    Where the error cannot be raised, since a library does not come back, the process ends a minute later; the system
    then releases its locks. In another thread than the main one nothing limits the block.

    Raises:
        StforecastError: TIMEOUT, saying what took so long.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  as signals call it
        faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)
        raise StforecastError(
            ErrorKind.TIMEOUT, f"{what} took longer than {length}; the stacks above say where it was: raise timeout"
        )

    seconds = length.total_seconds()
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_file(folder: Path, name: str) -> Path:
    """Where the record of the last attempt at an init time lies."""
    return folder / RUNS / f"{name}.json"


def write_run(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Keep the record of the last attempt at an init time."""
    file = run_file(folder, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    remember(file, record)


def read_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of the last attempts, by init time in order."""
    found = sorted((folder / RUNS).glob("*.json")) if (folder / RUNS).is_dir() else []
    return {file.stem: record for file in found if (record := recall(file)) is not None}


def circumstances() -> dict[str, Any]:
    """What a run was made with."""
    return {
        "versions": _versions(),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


@functools.cache
def _versions() -> dict[str, str]:
    packages = ("stforecast", "torch", "numpy", "xarray", "zarr", "dask")
    return {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}
