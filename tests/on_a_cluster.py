"""What needs a dask cluster, in a process of its own: one that fails to close is taken for the caller's ever after."""

import subprocess
import sys
from pathlib import Path

import distributed
import numpy as np
import trials
import xarray as xr
from crash import shrink_shards
from factory import make_series

from stforecast.fitting import fit
from stforecast.networks import NetworkConfig
from stforecast.prediction import predict
from stforecast.split import Split
from stforecast.store import prepare
from stforecast.training import TrainingConfig


def run(what: str, folder: Path) -> str:
    """What the process said last."""
    command = [sys.executable, __file__, what, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip().splitlines()[-1]


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


def forecast_by_a_client(folder: Path) -> None:
    """The same forecasts without a client, lazily by a client's worker, and onto the disk by it."""
    series = make_series()
    network = NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2)
    model = fit(series, history=4, horizon=3, network=network, training=TrainingConfig(epochs=1))
    options = {"init_times": series["time"].to_numpy()[[20, 40, 60]], "horizon": 7}
    expected = predict(series, model, **options)
    lazy = series.chunk(time=10)
    with distributed.Client(n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        xr.testing.assert_allclose(predict(lazy, model, memory_limit=1, **options).compute(), expected, rtol=1e-6)
        written = predict(lazy, model, memory_limit=1, output=folder / "f.zarr", **options)
        xr.testing.assert_allclose(written, expected, rtol=1e-6)
        told = client.run(lambda: "torch" in sys.modules)
        assert all(told.values()), "the worker made no forecast"
        print("made")  # noqa: T201


if __name__ == "__main__":
    {"workers": lose_workers, "client": prepare_by_a_client, "forecast": forecast_by_a_client}[sys.argv[1]](
        Path(sys.argv[2])
    )
