from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from factory import make_city, make_series, make_times

from stforecast import baselines
from stforecast.baselines import (
    Baseline,
    Climatology,
    DampedAnomalyPersistence,
    HistoricalAverage,
    LaggedRegression,
    Persistence,
    SeasonalPersistence,
    fit_references,
    on_grid_of,
)
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import check_forecast

HOUR = np.timedelta64(1, "h")
DAY = np.timedelta64(1, "D")
FITTED = ("climatology", "historical_average", "damped_anomaly_persistence")
NAMES = ("persistence", "same_time_yesterday", "same_time_last_week", *FITTED)


def cells_of(values: np.ndarray, times: np.ndarray) -> xr.Dataset:
    """A series of `x` in one row of cells from values (time,) or (time, column)."""
    frames = np.asarray(values, np.float64).reshape(len(times), 1, -1)
    grid = make_series(2, shape=(1, frames.shape[2])).drop_vars(["t2m", "time"])
    return grid.assign(x=(("time", "latitude", "longitude"), frames, {"units": "K"})).assign_coords(time=times)


def gappy() -> xr.Dataset:
    """Eighteen days of 6-hourly frames, five of them absent, with some NaNs and a cell that has nothing else."""
    series = make_series(72, absent=(20, 21, 22, 50, 68)).astype(np.float64)
    values = series["t2m"].to_numpy().copy()
    values[np.random.default_rng(1).random(values.shape) < 0.02] = np.nan
    values[:, 0, 0] = np.nan
    return series.assign(t2m=series["t2m"].copy(data=values))


def frame(series: xr.Dataset, time: np.datetime64) -> np.ndarray:
    """The frame at a time, NaN where there is none."""
    there = series["t2m"].to_numpy()[series["time"].to_numpy() == time]
    return there[0] if len(there) else np.full(series["t2m"].shape[1:], np.nan)


def fit_all(series: xr.Dataset, names: tuple[str, ...] = NAMES) -> dict[str, Baseline]:
    return fit_references(names, series, horizon=6)


def fraction_of_year(times: np.ndarray) -> np.ndarray:
    index = pd.DatetimeIndex(times)
    length = np.where(index.is_leap_year, 366, 365)
    return ((index.day_of_year - 1 + index.hour / 24) / length).to_numpy()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "series",
    [
        make_series(60, levels=(850.0, 500.0), descending=True),
        make_series(60, variables=("t", "q")).rename(time="valid_time", latitude="lat").transpose("lat", ...),
        make_city(96).assign_coords(latitude=("row", np.linspace(40.8, 40.7, 5), {"units": "degrees_north"})),
    ],
    ids=["levels", "transposed", "city"],
)
def test_a_baseline_keeps_the_contract_and_the_labels_of_the_series(series: xr.Dataset, name: str) -> None:
    (time,) = {"time", "valid_time"} & set(series.dims)
    forecast = fit_all(series)[name].predict(series, horizon=3)
    check_forecast(forecast)
    step = series[time].to_numpy()[1] - series[time].to_numpy()[0]
    np.testing.assert_array_equal(forecast["init_time"], series[time].to_numpy()[-1:])
    np.testing.assert_array_equal(forecast["lead_time"], step * np.arange(1, 4))
    labels = forecast.isel(init_time=0, lead_time=0).drop_vars(["init_time", "lead_time", "valid_time"])
    expected = series.isel({time: -1}).drop_vars(time)
    xr.testing.assert_identical(labels.coords.to_dataset().drop_attrs(deep=False), expected.coords.to_dataset())
    for variable in series.data_vars:
        assert forecast[variable].attrs == series[variable].attrs
        assert forecast[variable].dtype == np.float32
        assert forecast[variable].dims[:2] == ("init_time", "lead_time")
        assert set(labels[variable].dims) == set(expected[variable].dims)


def test_a_forecast_keeps_the_citys_time_zone() -> None:
    forecast = Persistence().predict(make_city(), horizon=1)
    assert forecast["init_time"].attrs["time_zone"] == forecast["valid_time"].attrs["time_zone"] == "America/New_York"


def test_the_series_itself_is_left_as_it_was() -> None:
    series = gappy()
    before = series.copy(deep=True)
    for baseline in fit_all(series).values():
        baseline.predict(series, horizon=2)
    xr.testing.assert_identical(series, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_persistence_is_the_last_frame(dtype: type) -> None:
    series = gappy().astype(dtype)
    inits = series["time"].to_numpy()[[3, 18, 40]]
    forecast = Persistence().predict(series, init_times=inits, horizon=3)
    expected = np.stack([np.stack([frame(series, init)] * 3) for init in inits])
    assert forecast["t2m"].dtype == dtype
    np.testing.assert_array_equal(forecast["t2m"], expected)


def test_counts_become_floats_so_that_absent_frames_can_be_nan() -> None:
    series = make_city(60).astype(np.int16)
    assert Persistence().predict(series, horizon=1)["inflow"].dtype == np.float32


@pytest.mark.parametrize("period", [6 * HOUR, DAY, 3 * DAY])
def test_seasonal_persistence_takes_the_latest_whole_period_that_is_known(period: np.timedelta64) -> None:
    series = gappy()
    inits = make_times(72)[[0, 5, 21, 24, 60]]
    forecast = SeasonalPersistence(period).predict(series, init_times=inits, horizon=15)
    for init, ahead in zip(inits, forecast["t2m"].to_numpy(), strict=True):
        for lead in range(15):
            time = init + (lead + 1) * 6 * HOUR
            while time > init:
                time = time - period
            np.testing.assert_array_equal(ahead[lead], frame(series, time))


def test_a_frame_in_a_gap_or_before_the_start_makes_the_forecast_nan() -> None:
    series = make_series(40, absent=(20,))
    first, gap = make_times(40)[[0, 20]]
    expected = {
        "persistence": [True, True, False],
        "damped_anomaly_persistence": [True, True, False],
        "same_time_yesterday": [True, False, False],
        "same_time_last_week": [True, True, True],
        "climatology": [False, False, False],
        "historical_average": [False, False, False],
    }
    for name, baseline in fit_all(series).items():
        forecast = baseline.predict(series, init_times=[first - 6 * HOUR, gap, gap + 6 * HOUR], horizon=1)["t2m"]
        assert forecast.isnull().any(("lead_time", "latitude", "longitude")).to_numpy().tolist() == expected[name]
        assert forecast.isnull().all(("lead_time", "latitude", "longitude")).to_numpy().tolist() == expected[name]


def test_historical_average_is_the_mean_of_its_weekday_and_slot() -> None:
    series = gappy()
    forecast = HistoricalAverage.fit(series).predict(series, init_times="2016-01-08", horizon=28)
    seen = series["time"].to_index()
    for valid, result in zip(forecast["valid_time"].to_numpy()[0], forecast["t2m"].to_numpy()[0], strict=True):
        time = pd.Timestamp(valid)
        hour, day = seen.hour == time.hour, seen.day_of_week == time.day_of_week
        for y, x in np.ndindex(result.shape):
            values = series["t2m"].to_numpy()[hour & day, y, x]
            if not np.isfinite(values).any():  # 22 and 50 are a week apart, and both absent
                values = series["t2m"].to_numpy()[hour, y, x]
            values = values[np.isfinite(values)]
            np.testing.assert_allclose(result[y, x], values.mean() if len(values) else np.nan)


def test_an_unseen_slot_falls_back_on_its_mean_over_all_days_else_on_nan() -> None:
    # Monday to Wednesday, 6-hourly, never at 18 h, so each day has three frames.
    times = make_times(12, start="2016-01-04")
    times = times[times.astype("M8[h]").astype(int) % 24 != 18]
    series = cells_of(np.arange(9), times)
    fitted = HistoricalAverage.fit(series)
    behind = fitted.predict(series, horizon=6)["x"].squeeze()
    # Wednesday 18 h is unseen; Thursday 0, 6 and 12 h are the means of (0, 3, 6), (1, 4, 7) and (2, 5, 8).
    np.testing.assert_array_equal(behind, [np.nan, 3, 4, 5, np.nan, 3])
    tuesday = fitted.predict(series, init_times=times[2], horizon=4)["x"].squeeze()
    np.testing.assert_array_equal(tuesday, [np.nan, 3, 4, 5])


def test_historical_average_of_daily_frames_is_the_mean_of_the_weekday() -> None:
    series = cells_of(np.arange(21), make_times(21, step="1D", start="2016-01-04"))
    forecast = HistoricalAverage.fit(series).predict(series, horizon=7)
    np.testing.assert_array_equal(forecast["x"].squeeze(), np.arange(7) + 7)


def cycles(times: np.ndarray) -> np.ndarray:
    """Two annual harmonics, a diurnal one, and their product, (time, column)."""
    year, day = 2 * np.pi * fraction_of_year(times), 2 * np.pi * (times - times.astype("M8[D]")) / DAY
    one = 280 + 10 * np.cos(year) + 3 * np.sin(2 * year) + (2 + np.sin(year)) * np.cos(day)
    other = 270 - 4 * np.sin(year) + np.cos(2 * year) * np.sin(day)
    return np.stack([one, other], axis=1)


def test_c10_climatology_recovers_a_cycle_of_its_harmonics_behind_the_fit_and_over_29_february() -> None:
    times = make_times(4 * 900, start="2014-03-05")
    series = cells_of(cycles(times), times)
    training = series.isel(time=slice(4 * 400))  # until April 2015
    inits = times[[4 * 500, 4 * 721 + 3, -100]]
    forecast = Climatology.fit(training).predict(series, init_times=inits, horizon=40)
    assert "2016-02-29" in forecast["valid_time"].to_numpy().astype("M8[D]").astype(str)
    for result, valid in zip(forecast["x"].to_numpy(), forecast["valid_time"].to_numpy(), strict=True):
        np.testing.assert_allclose(result[:, 0], cycles(valid), rtol=0, atol=1e-7)  # normal equations square rounding


def test_c10_a_date_has_the_same_climatology_in_every_year_to_within_a_day() -> None:
    times = make_times(6 * 365, step="1D", start="2011-01-01")
    # A sawtooth has no short harmonics, so whatever moves by a day with 29 February is the phase alone.
    fitted = Climatology.fit(cells_of(fraction_of_year(times), times))
    days = np.array([f"{year}-{day}" for year in range(2011, 2025) for day in ("01-01", "07-01", "12-31")], "M8[ns]")
    values = fitted.at("x", days).reshape(14, 3)
    steepest = np.abs(np.diff(fitted.at("x", times).ravel())).max()
    assert np.ptp(values[:, 0]) < 1e-12
    assert (np.ptp(values, axis=0) <= 1.01 * steepest).all()


def test_climatology_is_least_squares_on_the_frames_that_each_cell_has() -> None:
    series = gappy()
    fitted = Climatology.fit(series)
    hours = 2 * np.pi * (series["time"].to_numpy() - series["time"].to_numpy().astype("M8[D]")) / DAY
    design = np.stack([np.ones_like(hours)] + [f(k * hours) for k in (1, 2) for f in (np.cos, np.sin)], axis=1)
    result, values = fitted.at("t2m", series["time"].to_numpy()), series["t2m"].to_numpy()
    assert (fitted.annual, fitted.diurnal) == (0, 2)
    for y, x in np.ndindex(values.shape[1:]):
        there = np.isfinite(values[:, y, x])
        if not there.any():
            assert np.isnan(result[:, y, x]).all()
            continue
        solution = np.linalg.lstsq(design[there], values[there, y, x], rcond=1e-10)[0]
        np.testing.assert_allclose(result[:, y, x], design @ solution, atol=1e-8)


@pytest.mark.parametrize(
    ("frames", "step", "annual", "diurnal"),
    [(299, "1D", 0, 0), (300, "1D", 1, 0), (365, "1D", 2, 0), (40, "6h", 0, 2), (96, "30m", 0, 4), (20, "1h", 0, 0)],
)
def test_harmonics_that_the_training_part_cannot_determine_are_left_out(
    frames: int, step: str, annual: int, diurnal: int
) -> None:
    fitted = Climatology.fit(make_series(frames, step=step, shape=(1, 2)))
    assert (fitted.annual, fitted.diurnal) == (annual, diurnal)


def test_a_step_that_does_not_divide_a_day_has_no_diurnal_harmonics() -> None:
    assert Climatology.fit(make_series(40, step="5h")).diurnal == 0


def test_one_winter_does_not_determine_the_year_however_often_it_comes() -> None:
    times = make_times(3000, step="1D", start="2001-01-01")
    winters = times[(times.astype("M8[M]").astype(int) % 12) < 2]
    assert Climatology.fit(cells_of(np.arange(len(winters)), winters)).annual == 0


def autoregressive(coefficient: float, frames: int, columns: int, step: str) -> xr.Dataset:
    noise = np.random.default_rng(2).standard_normal((frames, columns))
    values = noise.copy()
    for row in range(1, frames):
        values[row] = coefficient * values[row - 1] + noise[row]
    return cells_of(values, make_times(frames, step=step))


def test_the_damping_of_an_autoregressive_process_is_its_coefficient_to_the_lead() -> None:
    series = autoregressive(0.8, 1400, 30, "5h")  # 291 days, so that the cycle is a constant
    damping = DampedAnomalyPersistence.fit(series, horizon=5).damping["x"].mean(("latitude", "longitude"))
    # Over 42,000 pairs; the mean that is fitted too takes some (1 + 3 φ) / 1400 = 0.0024 away.
    np.testing.assert_allclose(damping, 0.8 ** np.arange(1, 6), atol=0.015)


def test_damped_anomaly_persistence_is_the_regression_over_pairs_of_frames_that_are_there() -> None:
    series = gappy()
    fitted = DampedAnomalyPersistence.fit(series, horizon=4)
    times, inits = series["time"].to_numpy(), make_times(72)[[19, 23, 60]]
    cycle = dict(zip(make_times(80), fitted.cycle.at("t2m", make_times(80)), strict=True))
    anomaly = {time: frame(series, time) - cycle[time] for time in make_times(80)}
    forecast = fitted.predict(series, init_times=inits, horizon=4)["t2m"].to_numpy()
    for lead in range(4):
        later = (lead + 1) * 6 * HOUR
        pairs = np.stack([(anomaly[time], anomaly[time + later]) for time in times])
        pairs = np.where(np.isfinite(pairs).all(axis=1, keepdims=True), pairs, 0.0)
        squares = np.square(pairs[:, 0]).sum(axis=0)
        damping = (pairs[:, 0] * pairs[:, 1]).sum(axis=0) / np.where(squares > 0, squares, 1.0)
        for row, init in enumerate(inits):
            expected = cycle[init + later] + damping * anomaly[init]
            np.testing.assert_allclose(forecast[row, lead], expected, rtol=1e-10)


def test_damped_anomaly_persistence_of_a_pure_cycle_is_the_cycle() -> None:
    times = make_times(4 * 30)
    series = cells_of(280 + 5 * np.cos(np.arange(120) * np.pi / 2), times)
    result = DampedAnomalyPersistence.fit(series.isel(time=slice(80)), horizon=3).predict(
        series, init_times=times[90], horizon=3
    )
    np.testing.assert_allclose(result["x"].squeeze(), series["x"].squeeze()[91:94], atol=1e-9)


def test_traffic_departs_from_weekdays_and_weather_from_seasons() -> None:
    times = make_times(24 * 28, step="1h", start="2016-01-04")
    is_weekend = np.arange(len(times)) // 24 % 7 >= 5
    noise = np.random.default_rng(3).standard_normal(len(times))
    traffic = cells_of(np.where(is_weekend, 20.0, 60.0) + noise, times)
    assert isinstance(DampedAnomalyPersistence.fit(traffic, horizon=1).cycle, HistoricalAverage)
    times = make_times(365, step="1D")
    weather = cells_of(15 * np.cos(2 * np.pi * fraction_of_year(times)) + noise[:365], times)
    assert isinstance(DampedAnomalyPersistence.fit(weather, horizon=1).cycle, Climatology)


def test_damped_anomalies_stay_in_the_valid_range() -> None:
    city = make_city(96) * 1.0
    city["inflow"].attrs = {"units": "1", "valid_min": 0}
    city["outflow"].attrs = {"units": "1"}
    fitted = DampedAnomalyPersistence.fit(city, horizon=1)
    low = city.copy(deep=True) - 500
    for name in low.data_vars:
        low[name].attrs = city[name].attrs
    kept = replace(fitted, damping=xr.ones_like(fitted.damping))
    forecast = kept.predict(low, horizon=1)
    assert forecast["inflow"].min() == 0
    assert forecast["outflow"].min() < 0


@pytest.mark.parametrize("name", FITTED)
def test_fitting_in_blocks_is_fitting_as_a_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    series = gappy()
    whole = fit_all(series, (name,))[name].predict(series, horizon=6)
    chunked = series.chunk(time=7)
    monkeypatch.setattr(baselines, "BLOCK_BYTES", 16 * 24 * 8)  # 16 frames of 4x6 cells, 14 of them in chunks of 7
    assert [part.stop for part in baselines.blocks_of(chunked["t2m"], "time")] == [14, 28, 42, 56, 67]
    for held in (series, chunked):
        blocks = fit_all(held, (name,))[name].predict(held, horizon=6)
        xr.testing.assert_allclose(blocks, whole, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_latitude_and_longitude_may_run_another_way_than_in_the_fit(name: str) -> None:
    training, series = make_series(60), make_series(70)
    other = series.rename(latitude="lat").isel(lat=slice(None, None, -1)).roll(longitude=2, roll_coords=True)
    west = other.assign_coords(longitude=((other["longitude"] + 180) % 360 - 180).assign_attrs(units="degrees_east"))
    west = west.sortby("longitude").astype(np.float32)
    fitted = fit_all(training)[name]
    expected = fitted.predict(series, horizon=3).sel(longitude=west["longitude"].to_numpy() % 360)
    result = fitted.predict(west, horizon=3)
    np.testing.assert_array_equal(
        result["t2m"].to_numpy(), expected["t2m"].isel(latitude=slice(None, None, -1)).to_numpy()
    )


def test_levels_are_matched_by_label() -> None:
    series = make_series(60, levels=(850.0, 500.0, 250.0))
    forecast = Climatology.fit(series).predict(series.sel(level=[250.0, 850.0]), horizon=1)
    expected = Climatology.fit(series).predict(series, horizon=1).sel(level=[250.0, 850.0])
    xr.testing.assert_identical(forecast, expected)


def with_units(units: str) -> xr.Dataset:
    series = make_series(60)
    series["t2m"].attrs = {"units": units}
    return series


def test_another_spelling_of_the_units_is_no_difference() -> None:
    fitted = Climatology.fit(with_units("K"))
    assert fitted.predict(with_units("degK"), horizon=1)["t2m"].attrs["units"] == "degK"


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize(
    ("series", "kind", "match"),
    [
        (make_series(60).rename(t2m="z"), ErrorKind.VAR_MISSING, "lacks z; it has t2m"),
        (with_units("degC"), ErrorKind.UNITS, "t2m in 'K' but 'degC' was wanted"),
        (make_series(60, shape=(4, 7)), ErrorKind.GRID_SHAPE, "wanted the grid 4x7 .* but the data have 4x6"),
        (make_series(60, levels=(500.0,)), ErrorKind.CHANNELS, "only one of them has levels"),
    ],
)
def test_a_series_unlike_the_one_of_the_fit_is_refused(
    name: str, series: xr.Dataset, kind: ErrorKind, match: str
) -> None:
    fitted = fit_all(make_series(60))[name]
    with pytest.raises(StforecastError, match=match) as error:
        fitted.predict(series, horizon=1)
    assert error.value.kind == kind


def test_a_level_that_was_not_fitted_is_refused() -> None:
    fitted = Climatology.fit(make_series(60, levels=(850.0, 500.0)))
    with pytest.raises(StforecastError, match=r"the climatology lacks level\(s\) \[250.0\]; it has \[850.0, 500.0\]"):
        fitted.predict(make_series(60, levels=(850.0, 250.0)), horizon=1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "kind", "match"),
    [
        ({"horizon": 0}, ErrorKind.ARGUMENT, "horizon must be at least 1 step, not 0"),
        (
            {"horizon": 1, "init_times": "2016-02-01"},
            ErrorKind.TIME_RANGE,
            "init time 2016-02-01T00:00 is behind the series, which runs from 2016-01-01T00:00 to 2016-01-15T18:00",
        ),
        (
            {"horizon": 1, "init_times": "2016-01-02T03:00"},
            ErrorKind.TIME_FREQ,
            "init time 2016-01-02T03:00 is between two steps of the series, which has one every 6 h",
        ),
        ({"horizon": 1, "init_times": ["2016-01-03", "2016-01-02"]}, ErrorKind.TIME_ORDER, "init_times is not incre"),
        ({"horizon": 1, "init_times": "tomorrow?"}, ErrorKind.ARGUMENT, "init_times 'tomorrow.' are not times"),
        ({"horizon": 1, "init_times": []}, ErrorKind.ARGUMENT, "init_times is empty"),
    ],
)
def test_times_that_cannot_be_forecast_are_refused(
    name: str, arguments: dict[str, object], kind: ErrorKind, match: str
) -> None:
    series = make_series(60)
    baseline = fit_all(series)[name]
    with pytest.raises(StforecastError, match=match) as error:
        baseline.predict(series, **arguments)
    assert error.value.kind == kind


def test_a_horizon_beyond_the_fitted_damping_is_refused() -> None:
    series = make_series(60)
    fitted = DampedAnomalyPersistence.fit(series, horizon=2)
    with pytest.raises(StforecastError, match="fitted for lead times 6 h to 12 h but 6 h to 18 h are wanted"):
        fitted.predict(series, horizon=3)
    with pytest.raises(StforecastError, match="horizon must be at least 1 step, not -1"):
        DampedAnomalyPersistence.fit(series, horizon=-1)


def test_periods_that_are_no_whole_steps_are_refused() -> None:
    with pytest.raises(StforecastError, match="period must be above zero"):
        SeasonalPersistence(np.timedelta64(0, "h"))
    with pytest.raises(StforecastError, match="a period of 1 d is not a whole number of the series' steps of 5 h"):
        SeasonalPersistence(DAY).predict(make_series(20, step="5h"), horizon=1)


def test_historical_average_refuses_a_step_that_does_not_divide_a_day() -> None:
    with pytest.raises(StforecastError, match="needs a step that divides a day, not 5 h"):
        HistoricalAverage.fit(make_series(20, step="5h"))


def test_references_are_built_by_name_and_unknown_names_list_the_known() -> None:
    series = make_series(60)
    assert list(fit_all(series)) == list(NAMES)
    assert fit_references("persistence", horizon=1) == {"persistence": Persistence()}
    with pytest.raises(StforecastError, match=r"unknown reference.* climate; there are persistence, same_time_yest"):
        fit_references(["persistence", "climate"], series, horizon=1)
    with pytest.raises(StforecastError, match="climatology is fitted on a training part; pass training="):
        fit_references(["climatology"], horizon=1)


def test_on_grid_of_loads_nothing() -> None:
    chunked = make_series(10).chunk(time=2)
    flipped = on_grid_of(chunked.rename(latitude="lat"), make_series(10, descending=True), name="it")
    assert flipped["t2m"].chunks is not None
    xr.testing.assert_equal(flipped, make_series(10, descending=True))


def city_with_a_blizzard() -> tuple[xr.Dataset, xr.Dataset]:
    """Eight weeks of a weekly cycle, and the same with a day on which nothing moves."""
    city = make_city(48 * 56)
    is_weekend = city["time"].dt.dayofweek >= 5
    for name in city.data_vars:
        city[name] = xr.where(is_weekend, 0.3, 1.0).astype("float32") * city[name].assign_attrs(city[name].attrs)
        city[name].attrs = {"units": "1", "valid_min": 0}
    blizzard = city.copy(deep=True)
    for name in blizzard.data_vars:
        blizzard[name][48 * 10 : 48 * 11] = 0
    return city, blizzard


def test_an_odd_day_has_no_part_in_a_robust_average() -> None:
    city, blizzard = city_with_a_blizzard()
    robust = HistoricalAverage.fit(blizzard, robust=True).means
    spared = HistoricalAverage.fit(city.isel(time=np.r_[: 48 * 10, 48 * 11 : 48 * 56])).means
    xr.testing.assert_allclose(robust, spared)
    assert not np.allclose(robust["inflow"], HistoricalAverage.fit(blizzard).means["inflow"], rtol=0.01)
    xr.testing.assert_allclose(HistoricalAverage.fit(city, robust=True).means, HistoricalAverage.fit(city).means)


def test_robust_averages_leave_nans_out() -> None:
    city = make_city(48 * 28)
    without = city.copy(deep=True)
    without["inflow"][5] = np.nan
    without["outflow"][:, 2, 1] = np.nan
    averages, whole = (HistoricalAverage.fit(some, robust=True).means for some in (without, city))
    assert np.isnan(averages["outflow"][..., 2, 1]).all()
    assert not np.isnan(averages["outflow"].where(averages["outflow"].row != 2, drop=True)).any()
    others = [slot for slot in range(48) if slot != 5]
    xr.testing.assert_allclose(averages["inflow"].isel(slot=others), whole["inflow"].isel(slot=others))


@pytest.mark.parametrize("frames", [24 * 8, 24 * 9, 24 * 16, 24 * 28])
def test_a_series_that_repeats_itself_has_its_cycle_as_robust_average(frames: int) -> None:
    city = make_city(48 * 7)
    repeated = city.isel(time=np.arange(2 * frames) % (48 * 7)).assign_coords(
        time=("time", make_times(2 * frames, step="30m", start="2016-01-04"), city["time"].attrs)
    )
    averages = HistoricalAverage.fit(repeated, robust=True)
    np.testing.assert_allclose(averages.at("inflow", city["time"].to_numpy()), city["inflow"], rtol=1e-6)
    fitted = LaggedRegression.fit(repeated, horizon=2, history=2, robust=True)
    assert np.isfinite(fitted.error["inflow"]).all()


def test_on_days_that_mostly_keep_to_the_cycle_the_others_are_left_out() -> None:
    quiet = make_city(48 * 28)
    for name in quiet:
        quiet[name][:] = quiet[name][:48].to_numpy()[np.arange(48 * 28) % 48]
    blizzard = quiet.copy(deep=True)
    blizzard["inflow"][48 * 9 : 48 * 10] = 0
    xr.testing.assert_allclose(
        HistoricalAverage.fit(blizzard, robust=True).means, HistoricalAverage.fit(quiet, robust=True).means
    )


def test_what_only_odd_days_have_shown_is_kept() -> None:
    # Its nights were recorded on the one day of the blizzard alone.
    city = make_city(48 * 28)
    city["inflow"][48 * 9 : 48 * 10] = 500
    rows = np.arange(48 * 28)
    city = city.isel(time=(rows % 48 >= 10) | (rows // 48 == 9))
    averages = HistoricalAverage.fit(city, robust=True).means
    assert np.isfinite(averages["inflow"]).all()


def test_a_regression_on_one_frame_is_damped_anomaly_persistence() -> None:
    series = make_series(300, seed=3)
    regression = LaggedRegression.fit(series, horizon=3, history=1)
    damped = DampedAnomalyPersistence.fit(series, horizon=3)
    # One has the pairs of whole windows, the other all pairs; and the weakest ridge is not none.
    np.testing.assert_allclose(regression.coefficients["t2m"].isel(feature=0), damped.damping["t2m"], atol=0.02)


def test_a_regression_finds_the_coefficients_of_an_autoregressive_process() -> None:
    rng = np.random.default_rng(0)
    values = np.zeros((4000, 2, 3))
    for row in range(2, 4000):
        values[row] = 1.2 * values[row - 1] - 0.5 * values[row - 2] + rng.standard_normal((2, 3))
    series = make_series(4000, shape=(2, 3))
    series["t2m"] = series["t2m"].copy(data=(280 + values).astype(np.float32))
    fitted = LaggedRegression.fit(series, horizon=2, history=4)
    one = fitted.coefficients["t2m"].isel(lead_time=0).mean(["latitude", "longitude"])
    np.testing.assert_allclose(one, [0, 0, -0.5, 1.2], atol=0.03)
    two = fitted.coefficients["t2m"].isel(lead_time=1).mean(["latitude", "longitude"])
    np.testing.assert_allclose(two, [0, 0, -0.6, 1.2**2 - 0.5], atol=0.04)
    np.testing.assert_allclose(fitted.error["t2m"].isel(lead_time=0), 1, atol=0.05)


@pytest.mark.parametrize("levels", [(), (500.0, 850.0)])
def test_a_regression_sees_all_channels_where_they_are_few(levels: tuple[float, ...]) -> None:
    series = make_series(300, variables=("t2m", "u10"), levels=levels)
    fitted = LaggedRegression.fit(series, horizon=2, history=3)
    assert fitted.is_joint
    assert fitted.coefficients.sizes["feature"] == 3 * 2 * max(len(levels), 1)
    forecast = fitted.predict(series, init_times=series["time"].to_numpy()[[50, 60]], horizon=2)
    check_forecast(forecast)
    truth = series.sel(time=forecast["valid_time"])
    persistence = Persistence().predict(series, init_times=forecast["init_time"].to_numpy(), horizon=2)
    for name in series.data_vars:
        dims = forecast[name].dims
        errors = [
            np.abs(some[name].transpose(*dims) - truth[name].transpose(*dims)).mean()
            for some in (forecast, persistence)
        ]
        assert errors[0] < 0.5 * errors[1]
    own = LaggedRegression.fit(series, horizon=2, history=20)
    assert own.is_joint == (not levels and 20 * 2 <= 48)


@pytest.mark.parametrize("levels", [(), (500.0, 850.0)])
def test_the_order_of_variables_and_levels_changes_no_regression(levels: tuple[float, ...]) -> None:
    series = make_series(120, variables=("t2m", "u10"), levels=levels)
    noise = 9 * np.random.default_rng(0).standard_normal(series["u10"].shape)
    series["u10"] = series["u10"].copy(data=(280 + noise).astype(np.float32))
    fitted = LaggedRegression.fit(series, horizon=2, history=3)
    forecast = fitted.predict(series, horizon=2)
    turned = series[["u10", "t2m"]]
    turned = turned.isel(level=[1, 0]) if levels else turned
    other = fitted.predict(turned, horizon=2)
    assert list(other.data_vars) == ["u10", "t2m"]
    other = other.isel(level=[1, 0]) if levels else other
    xr.testing.assert_allclose(other[["t2m", "u10"]], forecast)


def test_a_regression_on_all_channels_says_which_one_it_misses() -> None:
    series = make_series(60, variables=("t2m", "u10"))
    fitted = LaggedRegression.fit(series, horizon=2, history=2)
    with pytest.raises(StforecastError, match="sees all of them, but the series lacks u10") as raised:
        fitted.predict(series[["t2m"]], horizon=2)
    assert raised.value.kind is ErrorKind.CHANNELS
    series = make_series(60, levels=(500.0, 850.0))
    fitted = LaggedRegression.fit(series, horizon=2, history=2)
    with pytest.raises(StforecastError, match=r"lacks t2m at level 850\.0"):
        fitted.predict(series.sel(level=[500.0]), horizon=2)


def test_a_regression_needs_windows_and_knows_its_lead_times() -> None:
    with pytest.raises(StforecastError, match="wants 4 windows without a gap in the training part, which has 3"):
        LaggedRegression.fit(make_series(20), horizon=10, history=8)
    fitted = LaggedRegression.fit(make_series(60), horizon=2)
    with pytest.raises(StforecastError, match="fitted for 2 lead times but 3 are wanted"):
        fitted.predict(make_series(60), horizon=3)


def test_nan_is_to_a_regression_as_a_frame_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    # One ridge, because all cells together choose among several.
    monkeypatch.setattr(baselines, "_RIDGES", (0.01,))
    series = autoregressive(0.8, 1400, 6, "5h")  # 291 days, so that the cycle is a constant
    rows = np.sort(np.random.default_rng(5).choice(1400, 40, replace=False))
    spoiled = series.copy(deep=True)
    spoiled["x"][rows, 0, 2] = np.nan
    whole, with_nan, without = (
        LaggedRegression.fit(some, horizon=2, history=3) for some in (series, spoiled, series.drop_isel(time=rows))
    )
    for name in ("coefficients", "error", "spread"):
        found, absent, known = (getattr(some, name)["x"] for some in (with_nan, without, whole))
        np.testing.assert_allclose(found[..., 2], absent[..., 2], rtol=1e-9)
        others = [0, 1, 3, 4, 5]
        np.testing.assert_array_equal(found[..., others], known[..., others])
        assert not np.array_equal(found[..., 2], known[..., 2])


@pytest.mark.parametrize("variables", [("t2m",), ("t2m", "u10")])
@pytest.mark.parametrize("seen", [0, 6])
def test_a_cell_that_is_hardly_ever_seen_keeps_to_its_cycle(variables: tuple[str, ...], seen: int) -> None:
    series = make_series(200, variables=variables)
    series["t2m"][seen:, 0, 0] = np.nan
    fitted = LaggedRegression.fit(series, horizon=2, history=3)
    assert (fitted.coefficients["t2m"][..., 0, 0] == 0).all()
    assert (fitted.coefficients["t2m"][..., 1, 1] != 0).all()
    forecast = fitted.predict(series, horizon=2)["t2m"].to_numpy()
    assert np.isnan(forecast[..., 0, 0]).all()
    assert np.isfinite(forecast).sum() == forecast.size - 2


def test_a_blizzard_does_not_make_the_rule_of_a_robust_regression() -> None:
    city, blizzard = city_with_a_blizzard()
    clean = LaggedRegression.fit(city, horizon=2, history=4, robust=True).coefficients["inflow"]
    robust, plain = (
        LaggedRegression.fit(blizzard, horizon=2, history=4, robust=flag).coefficients["inflow"]
        for flag in (True, False)
    )
    assert float(np.abs(robust - clean).mean()) < 0.5 * float(np.abs(plain - clean).mean())
