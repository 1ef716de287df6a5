"""A forecast from a store that is ten times the memory that its process may take: python benchmarks/capped_forecast.py.

The store and the model are made first, then a process of its own forecasts under the kernel's limit RLIMIT_DATA. It is
told how many bytes of data it may take beyond what it holds after a few forecasts: libraries, threads, the network's
own buffers. A process that needed more would end in an error.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import dask
import numpy as np
import xarray as xr

import stforecast as stf
from stforecast.store import layout

SHAPE = (32, 64)


def main() -> None:
    """Make the store and the model, or forecast from them under a limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cap", type=int, default=64 * 2**20, help="bytes of data above the start")
    parser.add_argument("--folder", type=Path, help="where store and model are (the process under the limit)")
    options = parser.parse_args()
    if options.folder is not None:
        capped(options.folder, options.cap)
        return
    with tempfile.TemporaryDirectory() as folder:
        size = make(Path(folder), options.cap)
        started = time.monotonic()
        command = [sys.executable, __file__, "--folder", folder, "--cap", str(options.cap)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()  # noqa: S603  # our own
        print(
            f"| store, MB | allowed above the start, MB | seconds | |\n|---|---|---|---|\n"
            f"| {size / 1e6:.0f} | {options.cap / 1e6:.0f} | {time.monotonic() - started:.0f} | {said} |"
        )


def make(folder: Path, cap: int) -> int:
    """A store of ten times the cap, and a small model of it; the bytes of the store's values."""
    # One shard is what is read at a time.
    layout.SHARD_BYTES = 2**20
    frames = 10 * cap // (4 * SHAPE[0] * SHAPE[1]) + 1
    rng = np.random.default_rng(0)
    hours = np.datetime64("2000-01-01", "ns") + np.arange(frames) * np.timedelta64(1, "h")
    latitude, longitude = np.linspace(-87, 87, SHAPE[0]), np.arange(SHAPE[1]) * 360 / SHAPE[1]
    wave = 10 * np.sin(np.deg2rad(longitude)[None, None] - 0.1 * np.arange(frames)[:, None, None])
    values = (280 + wave + rng.standard_normal((frames, *SHAPE))).astype(np.float32)
    series = xr.Dataset(
        {"t2m": (("time", "latitude", "longitude"), values, {"units": "K"})},
        {"time": hours, "latitude": latitude, "longitude": longitude},
    )
    prepared = stf.prepare(series, folder / "store.zarr", stf.Split.by_fraction(hours))
    network = stf.NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2)
    small = series.isel(time=slice(200))
    model = stf.fit(small, history=4, horizon=3, network=network, training=stf.TrainingConfig(epochs=1))
    model.save(folder / "model")
    return prepared["t2m"].nbytes


def capped(folder: Path, cap: int) -> None:
    """Forecast from every eighth frame of the store under a limit."""
    # The stacks of the threads that flush files to the disk count as data, 8 MiB each by default.
    threading.stack_size(2**18)
    series, forecaster = stf.open_store(folder / "store.zarr"), stf.Forecaster.load(folder / "model")
    init_times = forecaster.init_times(series, horizon=0)[::8]
    memory_limit = cap // 8
    with dask.config.set(num_workers=1):
        stf.predict(series, forecaster, init_times=init_times[:40], output=folder / "a.zarr", memory_limit=memory_limit)
        limit = data_bytes() + cap
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        stf.predict(series, forecaster, init_times=init_times, output=folder / "b.zarr", memory_limit=memory_limit)
    print(f"{len(init_times):,} forecasts of {forecaster.horizon} steps, from every eighth frame")


def data_bytes() -> int:
    """What the kernel counts against RLIMIT_DATA."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
