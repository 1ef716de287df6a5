"""What needs a dask cluster, in a process of its own: one that fails to close is taken for the caller's ever after."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import distributed
import numpy as np
import pytest
import trials
import xarray as xr
from crash import shrink_shards
from factory import make_series

from stforecast.split import Split
from stforecast.store import prepare

# Each worker imports this file anew, so what takes seconds to import is imported by those alone who need it.


def run(what: str, folder: Path) -> str:
    """What the process said last.

    One cluster in some dozens does not come back from the death of a worker: its nanny says that it starts another, and
    nothing follows. That is dask's, and there is no deadline here to hide it from a user; what is tried is tried once
    more then.
    """
    command = [sys.executable, __file__, what, str(folder)]
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        # A session of its own, so that no worker outlives a cluster that hangs.
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            try:
                said, told = process.communicate(timeout=150)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                continue
        assert process.returncode == 0, told[-4000:]
        return said.strip().splitlines()[-1]
    raise AssertionError(f"{what}: two clusters hung for 150 s")


def lose_workers(folder: Path) -> None:
    """One worker lost, and all; small shards, as in the other trials."""
    shrink_shards()
    tally = trials.lost_workers(folder, 1)
    assert not tally.violations, tally.violations
    print(sum(tally.outcomes.values()))  # noqa: T201


def prepare_by_a_client(folder: Path) -> None:
    """The same store twice, made without a client and by a client's worker."""
    shrink_shards()
    series = make_series()
    split = Split.by_fraction(np.asarray(series["time"]))
    prepare(series, folder / "a.zarr", split)
    with distributed.Client(n_workers=1, threads_per_worker=1, dashboard_address=None, processes=False):
        prepare(series.chunk(time=5), folder / "b.zarr", split)
        print("made")  # noqa: T201


def work_apart(folder: Path) -> None:
    """Scheduled runs, then forecasts, by a scheduler and two workers that stand apart: as they are without them."""
    with standing_apart(folder) as address:
        run_pipelines(folder, address)
        forecast_lazily(folder, address)
    print("made")  # noqa: T201


def run_pipelines(folder: Path, address: str) -> None:
    """The same run without a cluster, on one in this process, and on one that stands apart."""
    from scheduled import HORIZON, PREPARED, deliver, make_pipeline

    from stforecast.operations.archive import Archive

    plain, local, apart = (folder / name for name in ("plain", "local", "apart"))
    for place in (plain, local, apart):
        pipeline = make_pipeline(place, scores={"references": ["persistence", "climatology"]})
        deliver(pipeline, *range(PREPARED, PREPARED + HORIZON + 1))
    inits = ("--backfill", "2016-02-10T00:00..2016-02-10T06:00")
    stforecast(plain, *inits)
    with distributed.LocalCluster(  # type: ignore[no-untyped-call]  # it has no types
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
    ) as cluster:
        stforecast(local, *inits, "--scheduler", cluster.scheduler_address)
    stforecast(apart, *inits, "--scheduler", address)
    assert loaded(address, "stforecast.store.tasks"), "no worker did anything"
    expected = files_of(plain)
    assert len(Archive(plain / "forecasts").inits()) == 2
    assert any(name.startswith("scores/") for name in expected)
    for place in (local, apart):
        assert files_of(place) == expected


def forecast_lazily(folder: Path, address: str) -> None:
    """The same forecasts without a client, lazily by a client's workers, and onto the disk by them."""
    from scheduled import SERIES, prepared

    from stforecast.forecaster import Forecaster
    from stforecast.prediction import predict

    model = Forecaster.load(prepared() / "model")
    options = {"init_times": SERIES["time"].to_numpy()[[20, 40, 60]], "horizon": 7}
    expected = predict(SERIES, model, **options)
    lazy = SERIES.chunk(time=10)
    assert not loaded(address, "torch")
    with distributed.Client(address):
        xr.testing.assert_allclose(predict(lazy, model, memory_limit=1, **options).compute(), expected, rtol=1e-6)
        written = predict(lazy, model, memory_limit=1, output=folder / "f.zarr", **options)
        xr.testing.assert_allclose(written, expected, rtol=1e-6)
    assert loaded(address, "torch"), "no worker made a forecast"


def loaded(address: str, module: str) -> bool:
    """Whether one of the two workers at an address has loaded a module."""
    with distributed.Client(address) as client:
        told = client.run(lambda: module in sys.modules)
    assert len(told) == 2, told
    return any(told.values())


def stforecast(folder: Path, *arguments: str) -> None:
    """Call the command on a folder's pipeline."""
    from stforecast import cli

    sys.argv = ["stforecast", "run", str(folder / "pipeline.yaml"), *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0


@contextmanager
def standing_apart(folder: Path) -> Iterator[str]:
    """The address of `dask scheduler`, with two of `dask worker`: processes of their own, as on a cluster."""
    file, dask = folder / "scheduler.json", [sys.executable, "-m", "dask"]
    quiet = ["--no-dashboard", "--scheduler-file", str(file)]
    begun = [subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *quiet])]
    try:
        for number in range(2):
            own = ["--nthreads", "1", "--no-nanny", "--local-directory", str(folder / str(number))]
            begun.append(subprocess.Popen([*dask, "worker", "--host", "127.0.0.1", *own, *quiet]))
        with distributed.Client(scheduler_file=str(file), timeout=120) as client:
            client.wait_for_workers(2, timeout=120)
            address = str(client.scheduler.address)
        yield address
    finally:
        for process in reversed(begun):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                # A worker may wait for ever for what it said to a client that has gone.
                process.kill()
                process.wait()


def files_of(folder: Path) -> dict[str, bytes]:
    """What readers get: forecasts, scores and the store, each file's content."""
    roots = {"store": folder / "t2m.zarr" / ".current", "scores": folder / "forecasts" / "scores"}
    files = {
        f"{name}/{file.relative_to(root.resolve())}": file.read_bytes()
        for name, root in roots.items()
        for file in root.resolve().rglob("*")
        if file.is_file()
    }
    forecasts = folder / "forecasts"
    return files | {file.parent.name: file.read_bytes() for file in forecasts.glob("*T*/forecast.nc")}


if __name__ == "__main__":
    acts = {
        "workers": lose_workers,
        "client": prepare_by_a_client,
        "apart": work_apart,
    }
    acts[sys.argv[1]](Path(sys.argv[2]))
