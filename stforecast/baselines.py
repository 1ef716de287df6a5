"""Simple forecasts that a network has to beat: persistence, climatology, historical average, damped anomalies."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Positions, axis_of, check_series, find_dims, on_grid_of, times_of, with_forecast_times
from stforecast.time_axis import Times, parse_times, show_step, show_time
from stforecast.time_features import DAY, harmonics, slots_of_week

Floats = npt.NDArray[np.float64]
Leads = npt.NDArray[np.timedelta64]

BLOCK_BYTES = 64 * 2**20  # of float64 values read at once; bounds memory, whatever the length of the series


class Baseline(Protocol):
    """Whatever makes a forecast out of a series, without a network."""

    def predict(self, series: xr.Dataset, *, init_times: npt.ArrayLike | None = None, horizon: int) -> xr.Dataset:
        """A forecast (init_time, lead_time, [level,] Y, X) with the series' own names, grid order, units and attrs.

        A frame that the forecast needs and the series has not got (in a gap, before the start) makes it NaN for that
        init and lead time. The forecast is held in memory.

        Args:
            series: (time, [level,] Y, X), gaps allowed.
            init_times: the last frame that each forecast may use; the last frame of the series by default.
            horizon: how many steps of the series to forecast.

        Raises:
            StforecastError: what `check_series` raises; ARGUMENT if the horizon is below 1; TIME_ORDER for init times
                that do not increase; TIME_FREQ for one between two steps; TIME_RANGE for one behind the series.
        """
        ...


@dataclass(frozen=True)
class Persistence:
    """The last frame, for every lead time.

    Examples:
        >>> import pandas as pd
        >>> frames = np.arange(8.0)[:, None, None] + np.full((2, 3), 280.0)
        >>> series = xr.Dataset(
        ...     {"t2m": (("time", "lat", "lon"), frames, {"units": "K"})},
        ...     coords={"time": pd.date_range("2020", periods=8), "lat": [50.0, 40.0], "lon": [0.0, 10.0, 20.0]},
        ... )
        >>> forecast = Persistence().predict(series, init_times=["2020-01-03"], horizon=2)
        >>> forecast["t2m"].sel(lat=50, lon=0).values
        array([[282., 282.]])
    """

    def predict(self, series: xr.Dataset, *, init_times: npt.ArrayLike | None = None, horizon: int) -> xr.Dataset:
        """A forecast as `Baseline.predict` describes it."""
        inits, leads, _ = _forecast_times(series, init_times, horizon)
        return frames_at(series, np.repeat(inits[:, None], len(leads), axis=1), inits, leads, source="persistence")


@dataclass(frozen=True)
class SeasonalPersistence:
    """The latest frame at or before the init time that is whole periods before the valid time.

    Attributes:
        period: a whole number of steps, e.g. a day ("same time yesterday") or a week.

    Examples:
        >>> SeasonalPersistence(np.timedelta64(7, "D"))
        SeasonalPersistence(period=np.timedelta64(7,'D'))
    """

    period: np.timedelta64

    def __post_init__(self) -> None:
        if not self.period > np.timedelta64(0):
            raise StforecastError(ErrorKind.ARGUMENT, f"period must be above zero, not {self.period}")

    def predict(self, series: xr.Dataset, *, init_times: npt.ArrayLike | None = None, horizon: int) -> xr.Dataset:
        """A forecast as `Baseline.predict` describes it.

        Raises:
            StforecastError: TIME_FREQ as well if the period is not a whole number of steps.
        """
        inits, leads, step = _forecast_times(series, init_times, horizon)
        if self.period % step != np.timedelta64(0):
            raise StforecastError(
                ErrorKind.TIME_FREQ,
                f"a period of {show_step(self.period)} is not a whole number of the series' steps of {show_step(step)}",
            )
        back = -(-leads // self.period) * self.period
        wanted = inits[:, None] + (leads - back)[None, :]
        return frames_at(series, wanted, inits, leads, source=f"persistence of {show_step(self.period)}")


@dataclass(frozen=True, eq=False)
class Climatology:
    """The mean seasonal and diurnal cycle of each cell, as harmonics fitted by least squares.

    Two annual harmonics, up to four diurnal ones where the step divides a day, and all products of both, so that the
    diurnal cycle changes with the season. What the training part cannot determine is left out: annual harmonics need
    300 days of the year to have been seen (the first) or 365 (the second), diurnal ones a day; below, the seasonal
    cycle is a constant.

    Attributes:
        coefficients: (harmonic, [level,] Y, X), float64, with the units of the series.
        annual: how many annual harmonics.
        diurnal: how many diurnal harmonics.
    """

    coefficients: xr.Dataset = field(repr=False)
    annual: int
    diurnal: int

    name: ClassVar[str] = "climatology"

    @staticmethod
    def fit(series: xr.Dataset) -> "Climatology":
        """The climatology of a training part, (time, [level,] Y, X).

        It is read in blocks of time, so it may be larger than memory. NaNs are left out cell by cell; a cell with fewer
        values than harmonics gets NaN.

        Raises:
            StforecastError: what `check_series` raises.
        """
        return _fit_climatology(series, check_series(series, allow_gaps=True))

    def predict(self, series: xr.Dataset, *, init_times: npt.ArrayLike | None = None, horizon: int) -> xr.Dataset:
        """A forecast as `Baseline.predict` describes it; it needs no frames, so it has no NaNs where the fit has none.

        Raises:
            StforecastError: VAR_MISSING, UNITS or GRID_SHAPE as well, if the series is not like the one of the fit.
        """
        return _predict_cycle(self, series, init_times, horizon)

    def on(self, series: xr.Dataset) -> "Climatology":
        """The same climatology in the order and with the names of a series' grid."""
        return Climatology(on_grid_of(self.coefficients, series, name=f"the {self.name}"), self.annual, self.diurnal)

    def at(self, name: str, times: Times) -> Floats:
        """The cycle of a variable at any times, (time, [level,] y, x)."""
        columns = harmonics(times, self.annual, self.diurnal)
        return np.tensordot(columns, self.coefficients[name].to_numpy(), axes=1)


@dataclass(frozen=True, eq=False)
class HistoricalAverage:
    """The mean of each cell for each weekday and slot of the day, on the series' own clock.

    A slot that no day of that weekday has seen falls back on its mean over all days, else it is NaN.

    Attributes:
        means: (weekday, slot, [level,] Y, X), float64, weekday 0 Monday, with the units of the series.
        slot_length: the length of a slot: the step of the series, at most a day.
    """

    means: xr.Dataset = field(repr=False)
    slot_length: np.timedelta64

    name: ClassVar[str] = "historical average"

    @staticmethod
    def fit(series: xr.Dataset, *, robust: bool = False) -> "HistoricalAverage":
        """The averages of a training part, (time, [level,] Y, X), read in blocks of time; NaNs are left out.

        Args:
            series: the training part.
            robust: whether to leave out odd days, such as a blizzard's or a holiday: those that depart from the medians
                of their weekday more than twice as far as days usually do. On less than three weeks there is no telling
                which day is odd, so none is left out.

        Raises:
            StforecastError: what `check_series` raises; TIME_FREQ if the step neither divides a day nor is whole days.
        """
        step = check_series(series, allow_gaps=True)
        if not _has_slots(step):
            raise StforecastError(
                ErrorKind.TIME_FREQ,
                f"a historical average needs a step that divides a day, not {show_step(step)}; resample the series",
            )
        return _fit_average(series, step, robust=robust)

    def predict(self, series: xr.Dataset, *, init_times: npt.ArrayLike | None = None, horizon: int) -> xr.Dataset:
        """A forecast as `Baseline.predict` describes it; it needs no frames of the series.

        Raises:
            StforecastError: VAR_MISSING, UNITS or GRID_SHAPE as well, if the series is not like the one of the fit.
        """
        return _predict_cycle(self, series, init_times, horizon)

    def on(self, series: xr.Dataset) -> "HistoricalAverage":
        """The same averages in the order and with the names of a series' grid."""
        return HistoricalAverage(on_grid_of(self.means, series, name=f"the {self.name}"), self.slot_length)

    def at(self, name: str, times: Times) -> Floats:
        """The average of a variable at any times, (time, [level,] y, x)."""
        means: Floats = self.means[name].to_numpy()
        rows = slots_of_week(times, self.slot_length)
        values: Floats = means.reshape(-1, *means.shape[2:])[rows]
        return values


Cycle = Climatology | HistoricalAverage


@dataclass(frozen=True, eq=False)
class DampedAnomalyPersistence:
    """The mean cycle at the valid time, plus the last frame's departure from it, damped the more the longer the lead.

    forecast = cycle(valid) + damping(lead) · (frame(init) - cycle(init)), where the damping of each cell and lead time
    is the regression through the origin of later anomalies on earlier ones in the training part: for an AR(1) process
    with coefficient φ it is φ**lead, and the forecast is the best there is. It is cut at CF's valid_min and valid_max
    where the series states them.

    Attributes:
        cycle: Climatology or HistoricalAverage, whichever forecasts the last quarter of the training part better when
            fitted on the rest: weather has seasons, traffic has weekdays.
        damping: (lead_time, [level,] Y, X), float64; 0 where no anomaly was ever seen.
        spread: the root of the mean square anomaly of the training part, ([level,] Y, X), float64.
    """

    cycle: Cycle
    damping: xr.Dataset = field(repr=False)
    spread: xr.Dataset = field(repr=False)

    @staticmethod
    def fit(series: xr.Dataset, *, horizon: int) -> "DampedAnomalyPersistence":
        """The cycle and the damping of a training part, (time, [level,] Y, X), for lead times of 1..horizon steps.

        It is read in blocks of time. Pairs of frames with a gap between them are used where both frames are there.

        Raises:
            StforecastError: what `check_series` raises; ARGUMENT if the horizon is below 1.
        """
        step = check_series(series, allow_gaps=True)
        _check_horizon(horizon)
        cycle = _best_cycle(series, step)
        leads = step * np.arange(1, horizon + 1)
        fitted = {name: _damping(series, str(name), cycle, leads) for name in series.data_vars}
        damping = _tables(series, ("lead_time",), {name: some for name, (some, _) in fitted.items()})
        spread = _tables(series, (), {name: some for name, (_, some) in fitted.items()})
        return DampedAnomalyPersistence(cycle, damping.assign_coords(lead_time=leads), spread)

    def predict(self, series: xr.Dataset, *, init_times: npt.ArrayLike | None = None, horizon: int) -> xr.Dataset:
        """A forecast as `Baseline.predict` describes it.

        Raises:
            StforecastError: ARGUMENT as well if a lead time was not fitted; VAR_MISSING, UNITS or GRID_SHAPE if the
                series is not like the one of the fit.
        """
        inits, leads, _ = _forecast_times(series, init_times, horizon)
        fitted = self.damping["lead_time"].to_numpy()
        if not np.isin(leads, fitted).all():
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"the damping is fitted for lead times {show_step(fitted[0])} to {show_step(fitted[-1])} but "
                f"{show_step(leads[0])} to {show_step(leads[-1])} are wanted; fit it with a longer horizon",
            )
        cycle, last = self.cycle.on(series), frames_at(series, inits[:, None], inits, leads[:1], source="")
        damping = on_grid_of(self.damping, series, name="the damping").sel(lead_time=leads)
        values = {}
        for name, variable in series.data_vars.items():
            anomaly = last[name].to_numpy() - _cycle_at(cycle, str(name), inits[:, None])
            damped = _cycle_at(cycle, str(name), inits[:, None] + leads) + damping[name].to_numpy() * anomaly
            values[name] = _within_valid_range(damped, variable.attrs)
        return _forecast(series, values, inits, leads, source=f"{cycle.name} and damped anomaly persistence")


@dataclass(frozen=True, eq=False)
class LaggedRegression:
    """The mean cycle at the valid time, plus a regression on the last departures from it, for each cell and lead time.

    The departures of the last frames, of all variables where they are few, are weighted by ridge regression through the
    origin. How strong the ridge is follows from the last quarter of the training part, forecast by the rest. The
    forecast is cut at CF's valid_min and valid_max where the series states them.

    Attributes:
        cycle: Climatology or HistoricalAverage, as for `DampedAnomalyPersistence`.
        coefficients: (lead_time, feature, [level,] Y, X), float64; features are the frames of the history, the oldest
            first, and within each the channels, all of them or the own.
        error: the root mean square error in the training part, (lead_time, [level,] Y, X).
        spread: the root of the mean square anomaly of the training part, ([level,] Y, X).
        history: how many frames it sees.
        is_joint: whether every channel sees all channels, or only itself.
    """

    cycle: Cycle
    coefficients: xr.Dataset = field(repr=False)
    error: xr.Dataset = field(repr=False)
    spread: xr.Dataset = field(repr=False)
    history: int
    is_joint: bool

    @staticmethod
    def fit(series: xr.Dataset, *, horizon: int, history: int = 8, robust: bool = False) -> "LaggedRegression":
        """The regression of a training part, (time, [level,] Y, X), for lead times of 1..horizon steps.

        It is read in blocks of time. Windows with a gap in them are left out, and so are, cell by cell, those in which
        a channel that the regression sees is NaN. A cell with less than four whole windows keeps to its cycle.

        Args:
            series: the training part.
            horizon: how many steps to forecast.
            history: how many frames to see.
            robust: where the cycle is one of weekdays, leave out odd days from it, and weight a window the less the
                further its day departs from it, so that a blizzard does not make the rule.

        Raises:
            StforecastError: what `check_series` raises; ARGUMENT if horizon or history is below 1; TIME_SHORT without
                four windows.
        """
        step = check_series(series, allow_gaps=True)
        for name, value in (("horizon", horizon), ("history", history)):
            if value < 1:
                raise StforecastError(ErrorKind.ARGUMENT, f"{name} must be at least 1 step, not {value}")
        return _fit_regression(series, step, horizon, history, robust)

    def predict(self, series: xr.Dataset, *, init_times: npt.ArrayLike | None = None, horizon: int) -> xr.Dataset:
        """A forecast as `Baseline.predict` describes it.

        Raises:
            StforecastError: ARGUMENT as well if a lead time was not fitted; VAR_MISSING, UNITS, GRID_SHAPE or CHANNELS
                if the series is not like the one of the fit. A regression on all channels wants all of them, in any
                order.
        """
        inits, leads, step = _forecast_times(series, init_times, horizon)
        fitted = self.coefficients.sizes["lead_time"]
        if horizon > fitted:
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"the regression is fitted for {fitted} lead times but {horizon} are wanted; fit it with a longer "
                "horizon",
            )
        cycle = self.cycle.on(series)
        coefficients = on_grid_of(self.coefficients, series, name="the regression")
        if self.is_joint:
            coefficients = coefficients.isel(feature=self._features_of(series))
        times = inits[:, None] + step * np.arange(1 - self.history, 1)
        seen = frames_at(series, times, inits, step * np.arange(1, self.history + 1), source="")
        anomalies = _channels({name: seen[name].to_numpy() - _cycle_at(cycle, str(name), times) for name in seen})
        weights = _channels({name: values.to_numpy() for name, values in coefficients.items()})[:horizon]
        guess = _regressed(weights, anomalies, is_joint=self.is_joint)
        values, first = {}, 0
        for name, variable in series.data_vars.items():
            own = seen[name].to_numpy()
            count = own.shape[2] if own.ndim == 5 else 1
            departure = guess[:, :, first : first + count].reshape(len(inits), horizon, *own.shape[2:])
            first += count
            known = _cycle_at(cycle, str(name), inits[:, None] + leads) + departure
            values[name] = _within_valid_range(known, variable.attrs)
        return _forecast(series, values, inits, leads, source=f"{cycle.name} and regression on the last anomalies")

    def _features_of(self, series: xr.Dataset) -> Positions:
        """The features of a regression on all channels, in the order in which a series has the channels."""
        fitted, there = _names_of_channels(self.coefficients), _names_of_channels(series)
        missing = [" at level ".join(map(str, channel)) for channel in fitted if channel not in there]
        if missing:
            raise StforecastError(
                ErrorKind.CHANNELS,
                f"the regression of each channel sees all of them, but the series lacks {', '.join(missing)}; pass all "
                "that it was fitted on",
            )
        order = np.array([fitted.index(channel) for channel in there])
        features: Positions = (np.arange(self.history)[:, None] * len(fitted) + order).ravel()
        return features


def fit_references(names: Sequence[str], training: xr.Dataset | None = None, *, horizon: int) -> dict[str, Baseline]:
    """Baselines by their names, fitted on the training part.

    Args:
        names: any of persistence, same_time_yesterday, same_time_last_week, climatology, historical_average,
            damped_anomaly_persistence, lagged_regression.
        training: (time, [level,] Y, X), the frames that may be learnt from and no others; the first three need none.
        horizon: the most steps that will be forecast.

    Raises:
        StforecastError: ARGUMENT for an unknown name, or without a training part for one that needs it; what the fits
            raise.

    Examples:
        >>> sorted(fit_references(["persistence", "same_time_yesterday"], horizon=4))
        ['persistence', 'same_time_yesterday']
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    known = {**_UNFITTED, **_FITTED}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"unknown reference(s) {', '.join(unknown)}; there are {', '.join(known)}"
        )
    return {name: _UNFITTED[name] if name in _UNFITTED else _fit(name, training, horizon) for name in names}


def needs_training(names: Sequence[str]) -> bool:
    """Whether any of these names is of a baseline that is fitted on a training part."""
    return not set((names,) if isinstance(names, str) else names).isdisjoint(_FITTED)


_UNFITTED: dict[str, Baseline] = {
    "persistence": Persistence(),
    "same_time_yesterday": SeasonalPersistence(DAY),
    "same_time_last_week": SeasonalPersistence(7 * DAY),
}
_FITTED: dict[str, Callable[[xr.Dataset, int], Baseline]] = {
    "climatology": lambda training, _: Climatology.fit(training),
    "historical_average": lambda training, _: HistoricalAverage.fit(training),
    "damped_anomaly_persistence": lambda training, horizon: DampedAnomalyPersistence.fit(training, horizon=horizon),
    "lagged_regression": lambda training, horizon: LaggedRegression.fit(training, horizon=horizon),
}


def _fit(name: str, training: xr.Dataset | None, horizon: int) -> Baseline:
    if training is None:
        raise StforecastError(ErrorKind.ARGUMENT, f"the reference {name} is fitted on a training part; pass training=")
    return _FITTED[name](training, horizon)


def frames_at(series: xr.Dataset, wanted: Times, inits: Times, leads: Leads, *, source: str) -> xr.Dataset:
    """A forecast whose values are the frames of the series at wanted times, NaN where there is no such frame.

    Args:
        series: (time, [level,] Y, X).
        wanted: which frame stands for each init and lead time, (init_time, lead_time).
        inits: init times, (init_time,).
        leads: lead times, (lead_time,).
        source: how the forecast was made, for its attributes.
    """
    (time,) = find_dims(series, "T")
    times = times_of(series)
    rows = np.searchsorted(times, wanted).clip(max=len(times) - 1)
    is_there = times[rows] == wanted
    needed, where = np.unique(rows[is_there], return_inverse=True)
    values = {}
    for name, variable in series.data_vars.items():
        frames = _ordered(variable.isel({time: needed}), time).to_numpy()
        taken = np.full(wanted.shape + frames.shape[1:], np.nan, dtype=np.result_type(frames.dtype, np.float32))
        taken[is_there] = frames[where]
        values[name] = taken
    return _forecast(series, values, inits, leads, source=source)


def _ordered(variable: xr.DataArray, time: str) -> xr.DataArray:
    """A variable as (time, [level,] Y, X), whatever the order in which it is held."""
    y, x = find_dims(variable.to_dataset(name="variable"), "Y", "X")
    return variable.transpose(time, ..., y, x)


def _check_horizon(horizon: int) -> None:
    if horizon < 1:
        raise StforecastError(ErrorKind.ARGUMENT, f"horizon must be at least 1 step, not {horizon}")


def _forecast_times(
    series: xr.Dataset, init_times: npt.ArrayLike | None, horizon: int
) -> tuple[Times, Leads, np.timedelta64]:
    """Init times (init_time,), lead times (lead_time,) and the series' step."""
    step = check_series(series, allow_gaps=True)
    _check_horizon(horizon)
    times = times_of(series)
    inits = times[-1:] if init_times is None else parse_times(init_times, name="init_times")
    if inits[-1] > times[-1]:
        raise StforecastError(
            ErrorKind.TIME_RANGE,
            f"init time {show_time(inits[-1])} is behind the series, which runs from {show_time(times[0])} to "
            f"{show_time(times[-1])}",
        )
    between = (inits - times[0]) % step != np.timedelta64(0)
    if between.any():
        raise StforecastError(
            ErrorKind.TIME_FREQ,
            f"init time {show_time(inits[between][0])} is between two steps of the series, which has one every "
            f"{show_step(step)} from {show_time(times[0])}",
        )
    return inits, step * np.arange(1, horizon + 1), step


def _forecast(
    series: xr.Dataset, values: dict[Any, npt.NDArray[Any]], inits: Times, leads: Leads, *, source: str
) -> xr.Dataset:
    """A forecast with the labels of a series around values (init_time, lead_time, [level,] y, x)."""
    (time,) = find_dims(series, "T")
    variables = {}
    for name, variable in series.data_vars.items():
        inner = _ordered(variable, time).dims[1:]
        dtype = np.result_type(variable.dtype, np.float32)
        exact = values[name].astype(dtype, copy=False)
        variables[name] = xr.Variable(("init_time", "lead_time", *inner), exact, dict(variable.attrs))
    coords = {name: coord.variable for name, coord in series.coords.items() if time not in coord.dims}
    forecast = xr.Dataset(
        variables, coords | {"init_time": inits, "lead_time": leads}, {"source": f"stforecast baseline: {source}"}
    )
    return with_forecast_times(forecast, time_attrs=series[time].attrs)


def _within_valid_range(values: npt.NDArray[Any], attrs: dict[str, Any]) -> npt.NDArray[Any]:
    low, high = (float(attrs.get(name, bound)) for name, bound in (("valid_min", -np.inf), ("valid_max", np.inf)))
    return values.clip(low, high) if np.isfinite([low, high]).any() else values


def _predict_cycle(cycle: Cycle, series: xr.Dataset, init_times: npt.ArrayLike | None, horizon: int) -> xr.Dataset:
    inits, leads, _ = _forecast_times(series, init_times, horizon)
    cycle = cycle.on(series)
    values = {name: _cycle_at(cycle, str(name), inits[:, None] + leads) for name in series.data_vars}
    return _forecast(series, values, inits, leads, source=cycle.name)


def _cycle_at(cycle: Cycle, name: str, times: Times) -> Floats:
    """The cycle at (init_time, lead_time), each time computed once."""
    unique, where = np.unique(times, return_inverse=True)
    values: Floats = cycle.at(name, unique)[where.reshape(times.shape)]
    return values


def _tables(series: xr.Dataset, dims: tuple[str, ...], tables: dict[Any, Floats]) -> xr.Dataset:
    """Fitted values (*dims, [level,] y, x) with the labels of the series that they were fitted on."""
    (time,) = find_dims(series, "T")
    coords = {name: coord.variable for name, coord in series.coords.items() if name in coord.dims and name != time}
    variables = {
        name: xr.Variable((*dims, *_ordered(series[name], time).dims[1:]), values, dict(series[name].attrs))
        for name, values in tables.items()
    }
    return xr.Dataset(variables, coords)


def blocks_of(variable: xr.DataArray, dim: str) -> Iterator[slice]:
    """Rows along a dimension that are read at once: whole chunks, of about `BLOCK_BYTES` of float64 together."""
    size = variable.sizes[dim]
    length = BLOCK_BYTES // (8 * max(variable.size // size, 1))
    chunk = max(variable.chunksizes.get(dim, (1,)))
    length = max(length // chunk, 1) * chunk
    for start in range(0, size, length):
        yield slice(start, min(start + length, size))


def _read(variable: xr.DataArray, time: str, rows: slice) -> Floats:
    """Rows of a variable, (time, [level,] y, x), float64."""
    values: Floats = _ordered(variable.isel({time: rows}), time).to_numpy().astype(np.float64)
    return values


def annual_harmonics(times: Times) -> int:
    """How many annual harmonics the frames determine.

    Judged on the 120 days behind many fits to daily pressure and 6-hourly temperature: on 300 days, one harmonic
    more than halves the error on temperature and costs 0.3 % on pressure; from 365 days on, a second one costs at
    most 1.1 % and gains up to 1.5 %; on 200 days, two double the error.
    """
    seen = np.unique(times.astype("datetime64[D]") - times.astype("datetime64[Y]").astype("datetime64[D]"))
    return int(len(seen) >= 300) + int(len(seen) >= 365)


def diurnal_harmonics(times: Times, step: np.timedelta64) -> int:
    """Up to four, so that features of three hours are resolved; none where the step or the length shows no day."""
    if DAY % step != np.timedelta64(0) or times[-1] - times[0] + step < DAY:
        return 0
    return min(4, int(DAY / step) // 2)


def _fit_climatology(series: xr.Dataset, step: np.timedelta64) -> Climatology:
    (time,) = find_dims(series, "T")
    times = times_of(series)
    annual, diurnal = annual_harmonics(times), diurnal_harmonics(times, step)
    columns = harmonics(times, annual, diurnal)
    tables = {name: _least_squares(series[name], time, columns) for name in series.data_vars}
    return Climatology(_tables(series, ("harmonic",), tables), annual, diurnal)


def _least_squares(variable: xr.DataArray, time: str, columns: Floats) -> Floats:
    """Coefficients (harmonic, [level,] y, x) from normal equations that are summed up block by block."""
    shape = _ordered(variable, time).shape[1:]
    cells = int(np.prod(shape))
    moments, counts = np.zeros((columns.shape[1], cells)), np.zeros(cells, np.intp)
    for rows in blocks_of(variable, time):
        values = _read(variable, time, rows).reshape(-1, cells)
        missing = np.isnan(values)
        counts += (~missing).sum(axis=0)
        moments += columns[rows].T @ np.where(missing, 0.0, values)
    normal = columns.T @ columns
    solved = np.linalg.pinv(normal, rcond=1e-10, hermitian=True) @ moments
    gappy = np.flatnonzero((counts >= columns.shape[1]) & (counts < len(columns)))
    size = max(BLOCK_BYTES // normal.nbytes, 1)
    for start in range(0, len(gappy), size):
        cells_here = gappy[start : start + size]
        own = normal - _missing_products(variable, time, columns, cells_here)
        inverse = np.linalg.pinv(own, rcond=1e-10, hermitian=True)
        solved[:, cells_here] = np.einsum("cij,jc->ic", inverse, moments[:, cells_here])
    solved[:, counts < min(columns.shape[1], len(columns))] = np.nan
    return solved.reshape(-1, *shape)


def _missing_products(variable: xr.DataArray, time: str, columns: Floats, cells: Positions) -> Floats:
    """What each cell's missing frames had contributed to the normal matrix, (cell, harmonic, harmonic)."""
    number = columns.shape[1]
    products = np.zeros((len(cells), number * number))
    for rows in blocks_of(variable, time):
        values = _read(variable, time, rows)
        missing = np.isnan(values.reshape(len(values), -1)[:, cells])
        some = missing.any(axis=1)
        here = columns[rows][some]
        products += missing[some].T.astype(np.float64) @ (here[:, :, None] * here[:, None, :]).reshape(-1, number**2)
    return products.reshape(-1, number, number)


def _has_slots(step: np.timedelta64) -> bool:
    return bool(DAY % step == np.timedelta64(0) or step % DAY == np.timedelta64(0))


def _fit_average(series: xr.Dataset, step: np.timedelta64, *, robust: bool = False) -> HistoricalAverage:
    (time,) = find_dims(series, "T")
    slot_length = min(step, DAY.astype(step.dtype))
    rows = slots_of_week(times_of(series), slot_length)
    slots = int(DAY / slot_length)
    tables = {name: _slot_means(series[name], time, rows, slots) for name in series.data_vars}
    if robust and times_of(series)[-1] - times_of(series)[0] + step >= _LEAST_FOR_ODD_DAYS:
        medians = {name: _slot_medians(series[name], time, rows, means) for name, means in tables.items()}
        typical = HistoricalAverage(_tables(series, ("weekday", "slot"), medians), slot_length)
        is_usual = _day_weights(series, typical) >= _LEAST_USUAL
        usual = {name: series[name].isel({time: is_usual}) for name in series.data_vars}
        without = {name: _slot_means(some, time, rows[is_usual], slots) for name, some in usual.items()}
        # What was seen on odd days alone is known from nothing else.
        tables = {name: np.where(np.isnan(without[name]), means, without[name]) for name, means in tables.items()}
    return HistoricalAverage(_tables(series, ("weekday", "slot"), tables), slot_length)


def _slot_means(variable: xr.DataArray, time: str, rows: Positions, slots: int) -> Floats:
    """Means (weekday, slot, [level,] y, x)."""
    shape = _ordered(variable, time).shape[1:]
    sums, counts = np.zeros((7 * slots, *shape)), np.zeros((7 * slots, *shape))
    for block in blocks_of(variable, time):
        values = _read(variable, time, block)
        order = np.argsort(rows[block], kind="stable")
        present, starts = np.unique(rows[block][order], return_index=True)
        is_there = ~np.isnan(values[order])
        sums[present] += np.add.reduceat(np.where(is_there, values[order], 0.0), starts, axis=0)
        counts[present] += np.add.reduceat(is_there, starts, axis=0, dtype=np.float64)
    sums, counts = sums.reshape(7, slots, *shape), counts.reshape(7, slots, *shape)
    means = _mean(sums.sum(axis=0), counts.sum(axis=0), otherwise=np.array(np.nan))
    return _mean(sums, counts, otherwise=means)


def _slot_medians(variable: xr.DataArray, time: str, rows: Positions, means: Floats) -> Floats:
    """Medians (weekday, slot, [level,] y, x), a few rows of the grid at a time; the means where nothing was seen."""
    medians = means.reshape(-1, *means.shape[2:]).copy()
    ordered = _ordered(variable, time)
    y = ordered.dims[-2]
    at_once = max(BLOCK_BYTES // (8 * max(ordered.size // ordered.sizes[y], 1)), 1)
    for first in range(0, ordered.sizes[y], at_once):
        some = slice(first, first + at_once)
        values = ordered.isel({y: some}).to_numpy().astype(np.float64)
        for slot in np.unique(rows):
            of_slot = values[rows == slot]
            is_seen = ~np.isnan(of_slot).all(axis=0)
            medians[slot, ..., some, :][is_seen] = np.nanmedian(of_slot[:, is_seen], axis=0)
    return medians.reshape(means.shape)


def _mean(sums: Floats, counts: Floats, *, otherwise: Floats) -> Floats:
    means: Floats = np.divide(sums, counts, out=np.broadcast_to(otherwise, sums.shape).copy(), where=counts > 0)
    return means


def _best_cycle(series: xr.Dataset, step: np.timedelta64, *, robust: bool = False) -> Cycle:
    """The cycle of a training part, of the kind that does better in its last quarter when fitted on the rest.

    Weekdays must lower the mean squared error by a tenth: on weather both are equally wrong while the first three
    quarters are too short to show the seasons, and there the seasons are to be had with the whole part.
    """
    (time,) = find_dims(series, "T")
    times = times_of(series)
    first = int(np.searchsorted(times, times[0] + (times[-1] - times[0]) // 4 * 3))
    if not _has_slots(step) or first == 0:
        return _fit_climatology(series, step)
    early, late = series.isel({time: slice(first)}), series.isel({time: slice(first, None)})
    seasonal, weekly = _fit_climatology(early, step), _fit_average(early, step)
    ratios = [_error_ratio(late, str(name), weekly, seasonal) for name in series.data_vars]
    is_weekly = np.mean(ratios) < 0.9
    return _fit_average(series, step, robust=robust) if is_weekly else _fit_climatology(series, step)


def _error_ratio(series: xr.Dataset, name: str, first: Cycle, second: Cycle) -> float:
    """The mean squared error of one cycle over that of another, where both are finite; 1 if neither errs."""
    (time,) = find_dims(series, "T")
    times, squares = times_of(series), np.zeros(2)
    for rows in blocks_of(series[name], time):
        values = _read(series[name], time, rows)
        errors = np.stack([values - cycle.at(name, times[rows]) for cycle in (first, second)])
        squares += np.square(errors[:, np.isfinite(errors).all(axis=0)]).sum(axis=1)
    return float(squares[0] / squares[1]) if squares[1] > 0 else 1.0


def _damping(series: xr.Dataset, name: str, cycle: Cycle, leads: Leads) -> tuple[Floats, Floats]:
    """Regression of later anomalies on earlier ones through the origin, (lead_time, [level,] y, x); their spread."""
    (time,) = find_dims(series, "T")
    times = times_of(series)
    shape = (len(leads), *_ordered(series[name], time).shape[1:])
    products, squares = np.zeros(shape), np.zeros(shape)
    power, count = np.zeros(shape[1:]), np.zeros(shape[1:])
    for rows in blocks_of(series[name], time):
        behind = int(np.searchsorted(times, times[rows.stop - 1] + leads[-1], side="right"))
        here = times[rows.start : behind]
        anomalies = _read(series[name], time, slice(rows.start, behind)) - cycle.at(name, here)
        own = anomalies[: rows.stop - rows.start]
        power += np.square(np.where(np.isnan(own), 0.0, own)).sum(axis=0)
        count += (~np.isnan(own)).sum(axis=0)
        for row, lead in enumerate(leads):
            earlier, later = _pairs(here, times[rows], lead)
            product = anomalies[earlier] * anomalies[later]
            is_whole = np.isfinite(product)
            products[row] += np.where(is_whole, product, 0.0).sum(axis=0)
            squares[row] += np.where(is_whole, np.square(anomalies[earlier]), 0.0).sum(axis=0)
    damping: Floats = np.divide(products, squares, out=np.zeros(shape), where=squares > 0)
    return damping, np.sqrt(_mean(power, count, otherwise=np.array(0.0)))


def _pairs(times: Times, origins: Times, lead: np.timedelta64) -> tuple[Positions, Positions]:
    """Rows of `times` that are `lead` apart: the first ones among its beginning `origins`, and the later ones."""
    later = np.searchsorted(times, origins + lead).clip(max=len(times) - 1)
    is_there = times[later] == origins + lead
    return np.flatnonzero(is_there), later[is_there]


# With more features than these, a channel sees only its own lags: normal equations grow with their square.
_MOST_FEATURES = 48
_FEWEST_WINDOWS = 4
# A day's weight, see `_day_weights`, is this where it departs twice as far as the median day does.
_LEAST_USUAL = 1 / (1 + 2**2)
# Of two days of a weekday both are as far from their median.
_LEAST_FOR_ODD_DAYS = 21 * DAY
_TINY = 1e-300
_RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def _channels(values: dict[Any, Floats]) -> Floats:
    """Values (a, b, [level,] y, x) of all variables as (a, b, channel, y, x), float64."""
    blocks = [some if some.ndim == 5 else some[:, :, None] for some in values.values()]
    return np.concatenate(blocks, axis=2).astype(np.float64, copy=False)


def _names_of_channels(series: xr.Dataset) -> list[tuple[Any, ...]]:
    """The name of each channel in order, with its level if it has one."""
    names: list[tuple[Any, ...]] = []
    for name, variable in series.data_vars.items():
        level = next((dim for dim in variable.dims if axis_of(series, dim) == "Z"), None)
        names += [(name,)] if level is None else [(name, value) for value in series[level].to_numpy().tolist()]
    return names


def _regressed(weights: Floats, anomalies: Floats, *, is_joint: bool) -> Floats:
    """Departures (init, lead, channel, y, x) by coefficients (lead, feature, channel, y, x) of a history."""
    if is_joint:
        b, t, c, y, x = anomalies.shape
        joint: Floats = np.einsum("lfcyx,bfyx->blcyx", weights, anomalies.reshape(b, t * c, y, x))
        return joint
    own: Floats = np.einsum("lfcyx,bfcyx->blcyx", weights, anomalies)
    return own


@dataclass
class _Normal:
    """Normal equations of each group of cells: a group is a cell, or a channel of a cell.

    Attributes:
        features: (group, feature, feature), sums of products.
        products: (group, feature, target).
        squares: (group, target).
        windows: how many there are, (group,).
        count: the sum of their weights, (group,).
    """

    features: Floats
    products: Floats
    squares: Floats
    windows: Floats
    count: Floats

    @classmethod
    def empty(cls, groups: int, features: int, targets: int) -> "_Normal":
        products = np.zeros((groups, features, targets))
        squares, windows, count = np.zeros((groups, targets)), np.zeros(groups), np.zeros(groups)
        return cls(np.zeros((groups, features, features)), products, squares, windows, count)

    def add(self, seen: Floats, wanted: Floats, weights: Floats) -> None:
        """Windows' features (window, feature, group), targets (window, target, group) and weights (window,).

        A window that is not finite as a whole is left out of its group.
        """
        is_whole = np.isfinite(np.concatenate([seen, wanted], axis=1)).all(axis=1)
        if not is_whole.all():
            seen, wanted = (np.where(is_whole[:, None], some, 0.0) for some in (seen, wanted))
        root = np.sqrt(weights)[:, None, None]
        a, b = (np.ascontiguousarray((some * root).transpose(2, 1, 0)) for some in (seen, wanted))
        self.features += a @ a.transpose(0, 2, 1)
        self.products += a @ b.transpose(0, 2, 1)
        self.squares += np.square(b).sum(axis=2)
        self.windows += is_whole.sum(axis=0)
        self.count += weights @ is_whole

    def __add__(self, other: "_Normal") -> "_Normal":
        both = (self.features + other.features, self.products + other.products, self.squares + other.squares)
        return _Normal(*both, self.windows + other.windows, self.count + other.count)

    def solve(self, ridge: float) -> Floats:
        """Coefficients (group, feature, target) with a ridge in units of each feature's variance."""
        variance = np.maximum(np.einsum("gff->gf", self.features), 1e-12 * self.count[:, None] + 1e-300)
        scale = np.sqrt(variance)
        scaled = self.features / scale[:, :, None] / scale[:, None, :]
        scaled += (ridge + 1e-9) * np.eye(scaled.shape[1])
        solved: Floats = np.linalg.solve(scaled, self.products / scale[:, :, None]) / scale[:, :, None]
        return solved

    def error(self, coefficients: Floats) -> Floats:
        """The mean square error of some coefficients on these windows, (group, target)."""
        fitted = np.einsum("gft,gft->gt", coefficients, self.products)
        again = np.einsum("gft,gfk,gkt->gt", coefficients, self.features, coefficients, optimize=True)
        squares: Floats = np.maximum(self.squares - 2 * fitted + again, 0) / np.maximum(self.count, 1e-300)[:, None]
        return squares


def _fit_regression(
    series: xr.Dataset, step: np.timedelta64, horizon: int, history: int, robust: bool
) -> LaggedRegression:
    (time,) = find_dims(series, "T")
    times, names = times_of(series), list(series.data_vars)
    cycle = _best_cycle(series, step, robust=robust)
    length = history + horizon
    starts = np.arange(len(times) - length + 1)
    starts = starts[times[starts + length - 1] - times[starts] == (length - 1) * step]
    if len(starts) < _FEWEST_WINDOWS:
        raise StforecastError(
            ErrorKind.TIME_SHORT,
            f"a regression on {history} frames for {horizon} steps wants {_FEWEST_WINDOWS} windows without a gap in "
            f"the training part, which has {len(starts)}; take a shorter history or horizon",
        )
    shapes = {name: _ordered(series[name], time).shape[1:] for name in names}
    channels = sum(shape[0] if len(shape) == 3 else 1 for shape in shapes.values())
    y, x = next(iter(shapes.values()))[-2:]
    is_joint = history * channels <= _MOST_FEATURES
    groups, targets = (y * x, horizon * channels) if is_joint else (channels * y * x, horizon)
    features = history * channels if is_joint else history
    is_weighted = robust and isinstance(cycle, HistoricalAverage)
    by_day = _day_weights(series, cycle) if is_weighted else None
    early, late = (_Normal.empty(groups, features, targets) for _ in range(2))
    power, seen, late_from = np.zeros((channels, y, x)), np.zeros((channels, y, x)), starts[len(starts) * 3 // 4]
    # A few windows at a time: each holds all its frames.
    at_once = min(max(BLOCK_BYTES // (8 * length * channels * y * x), 1), 64)
    largest = max((series[name] for name in names), key=lambda variable: variable.size)
    for rows in blocks_of(largest, time):
        own = starts[(starts >= rows.start) & (starts < rows.stop)]
        behind = min(rows.stop + length - 1, len(times))
        here = times[rows.start : behind]
        read = {
            name: (_read(series[name], time, slice(rows.start, behind)) - cycle.at(str(name), here))[:, None]
            for name in names
        }
        anomalies = _channels(read)[:, 0]
        own_frames = anomalies[: rows.stop - rows.start]
        is_there = np.isfinite(own_frames)
        power += np.square(own_frames, out=np.zeros_like(own_frames), where=is_there).sum(axis=0)
        seen += is_there.sum(axis=0)
        for part, some in ((early, own[own < late_from]), (late, own[own >= late_from])):
            for first in range(0, len(some), at_once):
                chosen = some[first : first + at_once] - rows.start
                windows = anomalies[chosen[:, None] + np.arange(length)]
                weights = np.ones(len(chosen)) if by_day is None else by_day[chosen + rows.start + history]
                part.add(_grouped(windows[:, :history], is_joint), _grouped(windows[:, history:], is_joint), weights)
    errors = [late.error(early.solve(ridge)).sum() for ridge in _RIDGES]
    both = early + late
    solved = both.solve(_RIDGES[int(np.argmin(errors))])
    solved[both.windows < _FEWEST_WINDOWS] = 0
    error = np.sqrt(both.error(solved))
    shape = (features, horizon, channels, y, x)
    if is_joint:
        solved = solved.reshape(y, x, features, horizon, channels).transpose(3, 2, 4, 0, 1)
        error = error.reshape(y, x, horizon, channels).transpose(2, 3, 0, 1)
    else:
        solved = solved.reshape(channels, y, x, features, horizon).transpose(4, 3, 0, 1, 2)
        error = error.reshape(channels, y, x, horizon).transpose(3, 0, 1, 2)
    assert solved.shape == (shape[1], shape[0], *shape[2:])
    spread = np.sqrt(_mean(power, seen, otherwise=np.array(0.0)))
    leads = {"lead_time": step * np.arange(1, horizon + 1)}
    return LaggedRegression(
        cycle,
        _tables(series, ("lead_time", "feature"), _by_variable(solved, shapes)).assign_coords(leads),
        _tables(series, ("lead_time",), _by_variable(error, shapes)).assign_coords(leads),
        _tables(series, (), _by_variable(spread, shapes)),
        history,
        is_joint,
    )


def _grouped(frames: Floats, is_joint: bool) -> Floats:
    """Frames (window, frame, channel, y, x) as (window, feature, group)."""
    n, t, c = frames.shape[:3]
    return frames.reshape(n, t * c, -1) if is_joint else frames.reshape(n, t, -1)


def _by_variable(values: Floats, shapes: dict[Any, tuple[int, ...]]) -> dict[Any, Floats]:
    """Values (…, channel, y, x) by variable, (…, [level,] y, x)."""
    found, first = {}, 0
    for name, shape in shapes.items():
        count = shape[0] if len(shape) == 3 else 1
        some = values[..., first : first + count, :, :]
        found[name] = some if len(shape) == 3 else some[..., 0, :, :]
        first += count
    return found


def _day_weights(series: xr.Dataset, cycle: Cycle) -> Floats:
    """The weight of each frame, by how far its day departs from the cycle: a half where it does so by the median.

    NaNs are left out.

    Days, and not frames, because what makes a day unlike others lasts for hours.
    """
    (time,) = find_dims(series, "T")
    times = times_of(series)
    squares, counts = np.zeros(len(times)), np.zeros(len(times))
    for name in series.data_vars:
        own = np.zeros(len(times))
        for rows in blocks_of(series[name], time):
            anomalies = _read(series[name], time, rows) - cycle.at(str(name), times[rows])
            over, is_there = tuple(range(1, anomalies.ndim)), ~np.isnan(anomalies)
            sums = np.where(is_there, np.square(anomalies), 0.0).sum(axis=over)
            own[rows] = _mean(sums, is_there.sum(axis=over).astype(np.float64), otherwise=np.array(np.nan))
        is_seen = ~np.isnan(own)
        squares[is_seen] += own[is_seen] / max(own[is_seen].mean() if is_seen.any() else 0.0, _TINY)
        counts += is_seen
    _, day = np.unique(times.astype("datetime64[D]"), return_inverse=True)
    sums, seen = (np.bincount(day, some).astype(np.float64) for some in (squares, counts))
    by_day = _mean(sums, seen, otherwise=np.array(0.0))
    median = float(np.median(by_day[seen > 0])) if seen.any() else 0.0
    # Where most days do not depart at all, a half is still the weight of those.
    weights: Floats = ((median + _TINY) / (by_day + median + 2 * _TINY))[day]
    return weights
