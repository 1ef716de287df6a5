"""A tiny pipeline with its store and model, what is delivered to it, and a clock that is set by hand."""

import atexit
import shutil
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import yaml
from factory import make_series

import stforecast as stf
from stforecast.operations.cycles import Clock
from stforecast.operations.pipeline import Pipeline, read_pipelines

HISTORY, HORIZON, STEP = 3, 4, timedelta(hours=6)
# What the store has before the first run; the rest is delivered.
PREPARED = 160
SERIES = make_series(240)
TIMES = SERIES["time"].to_numpy()
SPLIT = stf.Split(("2016-01-01", "2016-01-20"), ("2016-01-21", "2016-01-28"), ("2016-01-29", "2016-02-28"))
SMALL = stf.NetworkConfig(hidden_spatial=4, hidden_temporal=8, spatial_layers=2, temporal_layers=2)
SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "input": {"path": "incoming", "arrives_after": "1h"},
    "store": "t2m.zarr",
    "model": "model",
    "output": "forecasts",
    "cycle": "6h",
    # A map takes longer than all the rest.
    "maps": {"leads": []},
}


class SetClock(Clock):
    """A clock that goes only when it is told to, or when someone sleeps."""

    def __init__(self, now: np.datetime64 | datetime) -> None:
        self.set(now)
        self.slept: list[float] = []
        self._ticks = 0.0

    def set(self, now: np.datetime64 | datetime) -> None:
        moment = now if isinstance(now, datetime) else pd.Timestamp(now).to_pydatetime(warn=False)
        self._now = moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def now(self) -> datetime:
        return self._now

    def ticks(self) -> float:
        return self._ticks

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._ticks += seconds
        self._now += timedelta(seconds=seconds)


def clock_of(row: int) -> SetClock:
    """A clock at which the forecast from a frame is due."""
    return SetClock(TIMES[row] + np.timedelta64(65, "m"))


@cache
def prepared() -> Path:
    """A folder with the store and the model, made once a process."""
    folder = Path(mkdtemp(prefix="scheduled-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    stf.prepare(SERIES.isel(time=slice(0, PREPARED)), folder / "t2m.zarr", SPLIT)
    forecaster = stf.fit(
        folder / "t2m.zarr",
        history=HISTORY,
        horizon=HORIZON,
        network=SMALL,
        training=stf.TrainingConfig(epochs=1, batch_size=32),
    )
    forecaster.save(folder / "model")
    return folder


def make_pipeline(folder: Path, **changes: Any) -> Pipeline:
    """A pipeline in a folder, with settings of its own; a section that is given replaces keys of it."""
    shutil.copytree(prepared(), folder, dirs_exist_ok=True, symlinks=True)
    (folder / "incoming").mkdir(exist_ok=True)
    settings = {**SETTINGS}
    for key, value in changes.items():
        known = settings.get(key)
        settings[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(settings))
    (pipeline,) = read_pipelines(folder / "pipeline.yaml")
    return pipeline


def deliver(pipeline: Pipeline, *rows: int, series: xr.Dataset = SERIES, name: str | None = None) -> Path:
    """The file of some frames, put where the pipeline looks."""
    file = Path(pipeline.input.path) / (name or f"t2m_{rows[0]:04d}.nc")
    series.isel(time=list(rows)).to_netcdf(file)
    return file
