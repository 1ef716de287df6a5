"""Work on shards by dask: one task a shard, whose results do not depend on who does it."""

import functools
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.progress
from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import delayed

from stforecast.errors import ErrorKind, StforecastError


@dataclass(frozen=True)
class _Failure:
    """What a task ended in."""

    error: Exception


def run_tasks(
    tasks: Iterable[Callable[[], Any]],
    description: str | None,
    *,
    stop: Path | None = None,
    blocks: Sequence[str] | None = None,
    threads: int | None = None,
) -> list[Any]:
    """What each task returns, in order: on the caller's dask.distributed client if there is one, else on threads.

    Args:
        tasks: callables that read and write their own shard and share nothing.
        description: what a progress bar says; None for no bar.
        stop: a file that the first failure makes, after which no further task begins.
        blocks: what each task works on, for an error that no task lives to tell; their numbers by default.
        threads: how many of them work at once, where there is no client; as dask is configured by default.

    Raises:
        StforecastError: WORKER_LOST, naming the block, if every worker of a cluster that took up a task died.
        Exception: the first failure, once no task is at work any more: dask itself would raise at once and leave others
            writing into what the caller then clears away.
    """
    # A partial is opaque to dask: given the Dataset as an argument it would put every chunk into the graph.
    name = uuid.uuid4().hex
    begun = None if stop is None or not _has_cluster() else stop.with_name(f"{stop.name}.begun")
    calls = [
        delayed(functools.partial(_ended, task, stop, name, begun and begun.with_suffix(f".{number}")), pure=False)()
        for number, task in enumerate(tasks)
    ]
    options = {} if threads is None else {"num_workers": threads}
    try:
        if description is None or not calls:
            ends = compute(*calls, **options)
        else:
            with _progress_bar(description, len(calls)):
                ends = compute(*calls, **options)
    except BaseException as error:
        # Interrupted, or a worker was lost: threads of ours may still be at work.
        if stop is not None and stop.parent.is_dir():
            stop.touch()
        _wait_for_threads(name)
        # Told by its name: distributed is an extra, and nobody who has a cluster lacks it.
        if type(error).__name__ != "KilledWorker":
            raise
        number = [call.key for call in calls].index(error.task)  # type: ignore[attr-defined]
        if begun is not None:
            number = max(range(len(calls)), key=lambda some: _times_begun(begun.with_suffix(f".{some}")))
        raise StforecastError(
            ErrorKind.WORKER_LOST,
            f"every worker that took up {blocks[number] if blocks else f'block {number}'} died, most likely for lack "
            "of memory; give the workers more memory or fewer threads, then make the same call again",
        ) from error
    for end in ends:
        if isinstance(end, _Failure):
            raise end.error
    return list(ends)


def _has_cluster() -> bool:
    """Whether the caller has a client of dask.distributed, which then does the work."""
    distributed = sys.modules.get("distributed")
    # Another thread may be importing it just now, and it may not be called before.
    if distributed is None or not hasattr(distributed, "get_client"):
        return False
    try:
        distributed.get_client()
    except ValueError:
        return False
    return True


def _times_begun(mark: Path) -> int:
    """How often a task was begun and not ended: dask blames whatever waited at a worker that died, too."""
    return mark.stat().st_size if mark.exists() else 0


def _ended(task: Callable[[], Any], stop: Path | None, name: str, begun: Path | None) -> Any:
    if stop is not None and stop.exists():
        return None
    if begun is not None:
        with begun.open("ab") as mark:
            mark.write(b".")
    with _at_work_changed:
        _at_work[name] += 1
    try:
        return task()
    except Exception as error:
        if stop is not None:
            stop.touch()
        return _Failure(error)
    finally:
        if begun is not None:
            begun.unlink(missing_ok=True)
        with _at_work_changed:
            _at_work[name] -= 1
            _at_work_changed.notify_all()


# How many tasks of each call threads of this process have in hand.
_at_work: Counter[str] = Counter()
_at_work_changed = threading.Condition()


def _wait_for_threads(name: str) -> None:
    """Return once no thread of this process works on a task of that call: each has one shard to end."""
    with _at_work_changed:
        _at_work_changed.wait_for(lambda: _at_work[name] == 0)


@contextmanager
def _progress_bar(description: str, total: int) -> Iterator[None]:
    """A bar that every task that dask ends on this machine's threads moves on."""
    with rich.progress.Progress() as bar:
        task = bar.add_task(description, total=total)
        with Callback(posttask=lambda *_: bar.advance(task)):
            yield
