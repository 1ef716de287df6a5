"""Work on shards by dask: one task a shard, whose results do not depend on who does it."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.progress
from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import delayed


@dataclass(frozen=True)
class _Failure:
    """What a task ended in."""

    error: Exception


def run_tasks(tasks: Iterable[Callable[[], Any]], description: str | None, *, stop: Path | None = None) -> list[Any]:
    """What each task returns, in order: on the caller's dask.distributed client if there is one, else on threads.

    Args:
        tasks: callables that read and write their own shard and share nothing.
        description: what a progress bar says; None for no bar.
        stop: a file that the first failure makes, after which no further task begins.

    Raises:
        Exception: the first failure, once no task is at work any more: dask itself would raise at once and leave others
            writing into what the caller then clears away.
    """
    # A partial is opaque to dask: given the Dataset as an argument it would put every chunk into the graph.
    calls = [delayed(functools.partial(_ended, task, stop), pure=False)() for task in tasks]
    if description is None or not calls:
        ends = compute(*calls)
    else:
        with _progress_bar(description, len(calls)):
            ends = compute(*calls)
    for end in ends:
        if isinstance(end, _Failure):
            raise end.error
    return list(ends)


def _ended(task: Callable[[], Any], stop: Path | None) -> Any:
    if stop is not None and stop.exists():
        return None
    try:
        return task()
    except Exception as error:
        if stop is not None:
            stop.touch()
        return _Failure(error)


@contextmanager
def _progress_bar(description: str, total: int) -> Iterator[None]:
    """A bar that every task that dask ends on this machine's threads moves on."""
    with rich.progress.Progress() as bar:
        task = bar.add_task(description, total=total)
        with Callback(posttask=lambda *_: bar.advance(task)):
            yield
