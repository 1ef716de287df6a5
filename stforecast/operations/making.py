"""A forecast from what input there is: the model's own, or the first rung of a ladder that holds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from stforecast.baselines import fit_references
from stforecast.errors import ErrorKind, StforecastError
from stforecast.forecaster import OF_ANOTHER_KIND, Forecaster
from stforecast.grid import forecast_variables, times_of
from stforecast.limits import limits_of
from stforecast.operations.archive import with_cycle_times
from stforecast.operations.pipeline import Pipeline, Rung, present_model
from stforecast.pretrained import load_model
from stforecast.split import Split
from stforecast.store import open_store
from stforecast.time_axis import Times, show_step, show_time

MODEL = "model"
# Frames that tell how much a variable varies; a few are as good as all.
_FRAMES_OF_SPREAD = 16


@dataclass(frozen=True)
class Choice:
    """What a forecast is made by.

    Attributes:
        made_by: "model", "model NAME" for another one, or a baseline's name.
        last_frame: the last frame that is seen.
        reason: what was missing; empty where nothing was.
        model: the SHA-256 of the weights; None for a baseline.
    """

    made_by: str
    last_frame: np.datetime64
    reason: str = ""
    model: str | None = None

    @property
    def is_degraded(self) -> bool:
        """Whether it is less than what was wanted."""
        return bool(self.reason)

    def describe(self) -> dict[str, Any]:
        """What a record says of it."""
        return {
            "made_by": self.made_by,
            "last_frame": show_time(self.last_frame),
            "is_degraded": self.is_degraded,
            "reason": self.reason,
            "model": self.model,
        }


Made = tuple[xr.Dataset, Choice]


def missing_frames(times: Times, forecaster: Forecaster, last: np.datetime64, horizon: int) -> tuple[Times, Times]:
    """The frames of the history, and the earlier ones, that a store with these times lacks for a forecast."""
    history, earlier = forecaster.frames_wanted(last, horizon=horizon)
    # What is older than the store never came and never will.
    earlier = earlier[earlier >= times[0]]
    return history[~np.isin(history, times)], earlier[~np.isin(earlier, times)]


def model_of(pipeline: Pipeline, stored: xr.Dataset) -> Forecaster:
    """The model that a pipeline forecasts by.

    Args:
        pipeline: which names it, unless a better one was fitted meanwhile.
        stored: the pipeline's store, which it has to suit.

    Raises:
        StforecastError: CKPT_INCOMPLETE if there is none; CKPT_MISMATCH, saying how, if it is of other data; otherwise
            what `load_model` raises.
    """
    name = present_model(pipeline)
    try:
        forecaster = load_model(name)
    except StforecastError as error:
        if error.kind != ErrorKind.FILE_MISSING:
            raise
        raise StforecastError(ErrorKind.CKPT_INCOMPLETE, str(error)) from error
    try:
        forecaster.check(stored)
    except StforecastError as error:
        # Whatever else is amiss with the store is told where it is read.
        if error.kind in OF_ANOTHER_KIND:
            raise StforecastError(
                ErrorKind.CKPT_MISMATCH, f"the model {name} does not suit {pipeline.store}: {error}"
            ) from error
    return forecaster


@dataclass(frozen=True)
class Ladder:
    """What a forecast can be made from, best first.

    Attributes:
        pipeline: which has the rungs.
        forecaster: the pipeline's own model.
    """

    pipeline: Pipeline
    forecaster: Forecaster

    @property
    def horizon(self) -> int:
        """Steps to forecast."""
        return self.pipeline.horizon or self.forecaster.horizon

    def lacking(self, init: np.datetime64) -> Times:
        """The frames that the store has to get before the forecast of an init time is what it should be."""
        lacking: Times = np.union1d(*self.missing(init))
        return lacking

    def missing(self, init: np.datetime64) -> tuple[Times, Times]:
        """The frames of the history, and the earlier ones, that the store lacks for the forecast of an init time."""
        return missing_frames(self._times(self.pipeline.store), self.forecaster, init, self.horizon)

    def best(self, init: np.datetime64) -> Made | None:
        """The forecast by the model from whole input; None if input is missing."""
        if len(self.lacking(init)):
            return None
        return self._by_model(self.forecaster, self.pipeline.store, Choice(MODEL, init), init)

    def lower(self, init: np.datetime64) -> Made | None:
        """The forecast by the first rung that holds; None if none does."""
        lacking = self.lacking(init)
        reason = f"{len(lacking)} frame(s) did not come in time, the first of {show_time(lacking[0])}"
        for rung in (_TOLD_LESS, *self.pipeline.fallback):
            made = self._by(rung, init, reason)
            if made is not None:
                return made
        return None

    def _by(self, rung: Rung, init: np.datetime64, reason: str) -> Made | None:
        store = rung.store or self.pipeline.store
        times = self._times(store)
        if rung.baseline is not None:
            last = next((last for last in self._back(init, rung) if last in times), None)
            return None if last is None else self._by_baseline(rung.baseline, store, last, init, reason)
        forecaster = self.forecaster if rung.model is None else load_model(rung.model)
        for last in self._back(init, rung):
            history, earlier = missing_frames(times, forecaster, last, self._reach(init, last, forecaster))
            if not len(history):
                if len(earlier) and last == init:
                    reason = f"{reason}; it sees {len(earlier)} earlier frame(s) less"
                return self._by_model(forecaster, store, Choice(rung.label, last, reason), init)
        return None

    def _back(self, init: np.datetime64, rung: Rung) -> Iterator[np.datetime64]:
        """The last frames that a rung may see, newest first."""
        step = self.forecaster.step
        for back in range(int(np.timedelta64(rung.within) / step) + 1):
            yield init - back * step

    def _reach(self, init: np.datetime64, last: np.datetime64, forecaster: Forecaster) -> int:
        """The steps from the last frame to the end of a forecast."""
        return int((init - last) / forecaster.step) + self.horizon

    def _by_model(self, forecaster: Forecaster, store: Path, choice: Choice, init: np.datetime64) -> Made:
        horizon, interval = self._reach(init, choice.last_frame, forecaster), self.pipeline.interval
        if choice.is_degraded and (forecaster.calibration is None or horizon > forecaster.horizon):
            # Bounds are calibrated for the lead times that the model was fitted on.
            interval = None
        forecast = forecaster.predict(
            open_store(store),
            init_times=[choice.last_frame],
            horizon=horizon,
            interval=interval,
            refuse="drift" if self.pipeline.checks.drift else "impossible",
        )
        choice = replace(choice, model=forecaster.weights_hash())
        return _as_of(init, forecast, choice), choice

    def _by_baseline(self, name: str, store: Path, last: np.datetime64, init: np.datetime64, reason: str) -> Made:
        series = open_store(store)
        horizon = self._reach(init, last, self.forecaster)
        training = series.sel(time=slice(*Split.from_attrs(series.attrs).train))
        baseline = fit_references([name], training, horizon=horizon)[name]
        forecast = within_limits(baseline.predict(series, init_times=[last], horizon=horizon).load())
        flags = np.zeros((1, forecast.sizes["lead_time"]), np.uint8)
        forecast = forecast.assign_coords(quality_flag=(("init_time", "lead_time"), flags))
        choice = Choice(name, last, reason)
        return _as_of(init, forecast, choice), choice

    def _times(self, store: Path) -> Times:
        return times_of(open_store(store))


# The history is there, and some of the frames from earlier days are not.
_TOLD_LESS = Rung.model_construct()


def _as_of(init: np.datetime64, forecast: xr.Dataset, choice: Choice) -> xr.Dataset:
    """A forecast from the last frame as one of an init time: its lead times begin there."""
    behind = (init - choice.last_frame).astype("timedelta64[ns]")
    kept = forecast.isel(lead_time=np.flatnonzero(forecast["lead_time"].to_numpy() > behind))
    shifted = kept.assign_coords(
        init_time=np.array([init], "datetime64[ns]"),
        lead_time=kept["lead_time"].to_numpy() - behind,
        last_frame=("init_time", np.array([choice.last_frame], "datetime64[ns]")),
    )
    attrs = {"made_by": choice.made_by} | ({"comment": f"degraded: {choice.reason}"} if choice.is_degraded else {})
    return with_cycle_times(shifted.assign_attrs(attrs), forecast["valid_time"].attrs)


def within_limits(forecast: xr.Dataset) -> xr.Dataset:
    """A forecast whose values are at the bounds of what its variables can be where they were beyond.

    Values that were normalized and came back are off by the rounding of float32: no vehicles become less than none, and
    readers who go by `valid_min` take that for missing.
    """
    limited = {str(name): variable.clip(*limits_of(variable), keep_attrs=True) for name, variable in forecast.items()}
    return forecast.assign(limited)


def spread_of(store: Path) -> dict[str, float]:
    """The standard deviation of each variable over cells and some frames of the training period, by name."""
    series = open_store(store)
    training = series.sel(time=slice(*Split.from_attrs(series.attrs).train))
    rows = np.unique(np.linspace(0, training.sizes["time"] - 1, _FRAMES_OF_SPREAD).astype(int))
    return {str(name): float(variable.isel(time=rows).std()) for name, variable in training.data_vars.items()}


def jumps(forecast: xr.Dataset, before: xr.Dataset, spread: Mapping[str, float]) -> dict[str, float]:
    """How far a forecast lies from the one before at the valid times that both have, in standard deviations, by name.

    The root mean square over cells, of the valid time where it is largest; nothing where they share none.
    """
    far: dict[str, float] = {}
    new, old = (one.isel(init_time=0).swap_dims(lead_time="valid_time") for one in (forecast, before))
    shared = np.intersect1d(new["valid_time"], old["valid_time"])
    if not len(shared):
        return far
    for name in forecast_variables(forecast):
        if name in before and name in spread:
            apart: npt.NDArray[Any] = (
                new[name].sel(valid_time=shared).drop_vars("lead_time").to_numpy()
                - old[name].sel(valid_time=shared).drop_vars("lead_time").transpose(*new[name].dims).to_numpy()
            )
            far[str(name)] = float(np.sqrt(np.square(apart).reshape(len(shared), -1).mean(1)).max() / spread[str(name)])
    return far


def check_jump(far: Mapping[str, float], limit: float, before: np.datetime64, length: np.timedelta64) -> None:
    """Refuse a forecast that lies too far from the one before.

    Raises:
        StforecastError: OUTPUT_INVALID, naming the variable and how far.
    """
    for name, distance in far.items():
        if not distance <= limit:
            raise StforecastError(
                ErrorKind.OUTPUT_INVALID,
                f"the forecast of {name} is {distance:.2f} standard deviations away from that of {show_time(before)}, "
                f"{show_step(length)} before, where both speak of the same times; wanted {limit:g} at most: look at "
                "both, or raise checks.jump",
            )


def use_threads(number: int) -> None:
    """Compute with so many threads: the last digits of a forecast depend on it."""
    torch.set_num_threads(number)
