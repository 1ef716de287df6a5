"""Work on shards by dask: one task a shard, whose results do not depend on who does it."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import rich.progress
from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import delayed

Task = functools.partial[Any]


def run_tasks(tasks: Iterable[Callable[[], Any]], description: str | None) -> list[Any]:
    """What each task returns, in order: on the caller's dask.distributed client if there is one, else on threads.

    Args:
        tasks: callables that read and write their own shard and share nothing.
        description: what a progress bar says; None for no bar.
    """
    # A partial is opaque to dask: given the Dataset as an argument it would put every chunk into the graph.
    calls = [delayed(task, pure=False)() for task in tasks]
    if description is None or not calls:
        return list(compute(*calls))
    with _progress_bar(description, len(calls)):
        return list(compute(*calls))


@contextmanager
def _progress_bar(description: str, total: int) -> Iterator[None]:
    """A bar that every task that dask ends on this machine's threads moves on."""
    with rich.progress.Progress() as bar:
        task = bar.add_task(description, total=total)
        with Callback(posttask=lambda *_: bar.advance(task)):
            yield
