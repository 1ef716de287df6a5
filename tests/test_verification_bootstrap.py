"""Intervals: they cover what they should, they are paired, and the same seed gives the same."""

import numpy as np
import pytest
import xarray as xr
from factory import make_series

from stforecast.baselines import Persistence
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import with_forecast_times
from stforecast.verification import evaluate, usual_block_length
from stforecast.verification.bootstrap import Bootstrap

SERIES = make_series(200)
INITS = SERIES["time"].to_numpy()[40:160]
FORECAST = Persistence().predict(SERIES, init_times=INITS, horizon=4)
OPTIONS = {"confidence": 0.9, "resamples": 200}


def autoregressive(rng: np.random.Generator, coefficient: float, shape: tuple[int, ...]) -> np.ndarray:
    """AR(1) series with variance 1 along the first axis."""
    values = rng.standard_normal(shape)
    for row in range(1, len(values)):
        values[row] = coefficient * values[row - 1] + np.sqrt(1 - coefficient**2) * values[row]
    return values


def errors_on_one_cell(errors: np.ndarray) -> tuple[xr.Dataset, xr.Dataset]:
    """A forecast of one step that errs by (init_time, level), and the truth, which is 0."""
    inits, levels = errors.shape
    times = np.datetime64("2016-01-01", "ns") + np.arange(inits + 1) * np.timedelta64(1, "D")
    coords = {
        "level": ("level", np.arange(float(levels)), {"axis": "Z"}),
        "latitude": ("latitude", [45.0], {"units": "degrees_north"}),
        "longitude": ("longitude", [0.0], {"units": "degrees_east"}),
    }
    dims = ("level", "latitude", "longitude")
    truth = xr.Dataset(
        {"t": (("time", *dims), np.zeros((inits + 1, levels, 1, 1)), {"units": "K"})}, coords | {"time": times}
    )
    values = errors[:, None, :, None, None]
    forecast = xr.Dataset(
        {"t": (("init_time", "lead_time", *dims), values, {"units": "K"})},
        coords | {"init_time": times[:-1], "lead_time": [np.timedelta64(1, "D").astype("m8[ns]")]},
    )
    return with_forecast_times(forecast, time_attrs={}), truth


@pytest.mark.parametrize("coefficient", [0.0, 0.7])
def test_intervals_hold_the_skill_of_autoregressive_errors_as_often_as_they_say(coefficient: float) -> None:
    rng = np.random.default_rng(1)
    series, inits = 400, 600
    shared, own, other = (autoregressive(rng, coefficient, (inits, series)) for _ in range(3))
    # Variances of 0.8² + 0.6² = 1 and 1.25²: the skill is 1 - 1 / 1.25.
    forecast, truth = errors_on_one_cell(0.8 * shared + 0.6 * own)
    reference, _ = errors_on_one_cell(1.25 * (0.8 * shared + 0.6 * other))
    length = 1 if coefficient == 0 else 12
    scores = evaluate(
        forecast,
        truth,
        reference={"old": reference},
        confidence=0.9,
        resamples=300,
        block_length=length,
        metrics="rmse",
    )
    lower, upper = scores["t_skill_interval"].sel(source="forecast", reference="old").squeeze()
    covered = float(((lower <= 0.2) & (upper >= 0.2)).mean())
    # Two standard errors of 400 series are 0.03; blocks, which forget what is alike across their ends, lack some 0.04.
    least = 0.86 if coefficient == 0 else 0.82
    assert least <= covered <= 0.94
    lower, upper = scores["t_interval"].sel(source="forecast").squeeze()
    assert least <= float(((lower <= 1) & (upper >= 1)).mean()) <= 0.94
    if coefficient:
        # Init times that are drawn one by one forget that neighbours are alike.
        alone = evaluate(forecast, truth, confidence=0.9, resamples=300, block_length=1, metrics="rmse")
        lower, upper = alone["t_interval"].squeeze()
        assert float(((lower <= 1) & (upper >= 1)).mean()) < 0.75


def test_equal_sources_have_no_skill_and_no_doubt() -> None:
    scores = evaluate(FORECAST, SERIES, reference={"same": FORECAST, "yesterday": Persistence()}, **OPTIONS)
    np.testing.assert_array_equal(scores["t2m_skill"].sel(source="forecast", metric=["mae", "rmse"]), 0)
    np.testing.assert_array_equal(scores["t2m_skill_interval"].sel(source="forecast", metric=["mae", "rmse"]), 0)
    assert scores["t2m_skill"].sel(metric="bias").isnull().all()


def test_skill_is_the_share_of_the_error_that_is_gone_and_lies_in_its_interval() -> None:
    scores = evaluate(FORECAST, SERIES, reference=["same_time_yesterday"], **OPTIONS)
    assert scores["t2m_skill"].dims == ("source", "reference", "metric", "lead_time")
    assert scores["t2m_skill_interval"].dims == ("bound", "source", "reference", "metric", "lead_time")
    assert scores["t2m_interval"].dims == ("bound", "source", "metric", "lead_time")
    rmse = scores["t2m"].sel(metric="rmse")
    skill = scores["t2m_skill"].sel(metric="rmse", reference="same_time_yesterday")
    np.testing.assert_allclose(skill, 1 - rmse / rmse.sel(source="same_time_yesterday"))
    for values, interval in ((skill, "t2m_skill_interval"), (rmse, "t2m_interval")):
        at = {"metric": "rmse"} | ({"reference": "same_time_yesterday"} if "skill" in interval else {})
        lower, upper = scores[interval].sel(at)
        assert ((lower <= values) & (values <= upper)).all()
    plain = evaluate(FORECAST, SERIES, reference=["same_time_yesterday"])
    xr.testing.assert_identical(scores["t2m"].reset_coords(drop=True), plain["t2m"].reset_coords(drop=True))


def test_skill_of_what_is_best_at_one_is_the_share_of_the_way_there() -> None:
    scores = evaluate(FORECAST, SERIES, reference=["same_time_yesterday"], metrics=["fss:284:3"], **OPTIONS)
    found = scores["t2m"].isel(metric=0)
    expected = (found - found[1]) / (1 - found[1])
    np.testing.assert_allclose(scores["t2m_skill"].isel(metric=0, reference=0), expected)


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    first, second, third = (
        evaluate(FORECAST, SERIES, reference=["same_time_yesterday"], seed=seed, **OPTIONS) for seed in (3, 3, 4)
    )
    xr.testing.assert_identical(first, second)
    assert (first["t2m_interval"] != third["t2m_interval"]).any()
    assert first.attrs["bootstrap"] == "paired moving blocks of 5 init times, 200 resamples, seed 3"


def test_resamples_are_made_of_whole_blocks() -> None:
    draws = Bootstrap(0.9, 7, 50, 0).draws(30)
    assert draws.shape == (50, 30)
    np.testing.assert_array_equal(draws.sum(axis=1), 30)
    # 30 = 4 · 7 + 2: four whole blocks and the beginning of a fifth.
    whole = Bootstrap(0.9, 30, 5, 0).draws(30)
    np.testing.assert_array_equal(whole, 1)


def test_intervals_come_by_level_region_and_season() -> None:
    series = make_series(120, levels=(850.0, 500.0))
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[20:100], horizon=2)
    regions = {"north": (slice(0, 90), slice(None)), "south": (slice(-90, 0), slice(None))}
    options = OPTIONS | {"reference": ["same_time_yesterday"], "metrics": ["rmse", "mae"]}
    scores = evaluate(forecast, series, by=["hour"], regions=regions, **options)
    assert scores["t2m_skill_interval"].dims == (
        "bound",
        "source",
        "reference",
        "metric",
        "lead_time",
        "level",
        "region",
        "hour",
    )
    cut = {"latitude": slice(0, 90)}
    alone = evaluate(forecast.sel(cut).sel(level=[500.0]), series.sel(cut), by=["hour"], **options)
    for name in ("t2m_skill", "t2m_skill_interval", "t2m_interval", "t2m"):
        np.testing.assert_allclose(scores[name].sel(region="north", level=[500.0]), alone[name])


def test_groups_that_no_resample_has_are_nan() -> None:
    scores = evaluate(FORECAST, SERIES, reference=["same_time_yesterday"], by=["season"], **OPTIONS)
    assert scores["t2m_skill_interval"].sel(season=["MAM", "JJA", "SON"]).isnull().all()
    assert scores["t2m_skill_interval"].sel(season="DJF", metric="rmse").notnull().all()


def test_blocks_are_as_long_as_errors_are_alike() -> None:
    daily = np.arange(400) * np.timedelta64(1, "D") + np.datetime64("2016-01-01", "ns")
    assert usual_block_length(daily, np.array([1], "m8[D]")) == 8  # the cube root of 400 is 7.4
    assert usual_block_length(daily, np.array([1, 10], "m8[D]")) == 10
    assert usual_block_length(daily[::2], np.array([1, 30], "m8[D]")) == 15
    half_hourly = np.arange(864) * np.timedelta64(30, "m") + np.datetime64("2016-03-12", "ns")
    assert usual_block_length(half_hourly, np.array([30, 240], "m8[m]")) == 48  # a day
    assert usual_block_length(daily[:12], np.array([1, 10], "m8[D]")) == 3
    assert usual_block_length(daily[:1], np.array([1, 10], "m8[D]")) == 1


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"confidence": 95}, ErrorKind.ARGUMENT, "confidence lies between 0 and 1, as 0.95, and is not 95"),
        ({"confidence": 0.9, "block_length": 0}, ErrorKind.ARGUMENT, "blocks of at least 1 init time"),
        ({"confidence": 0.9, "resamples": 0}, ErrorKind.ARGUMENT, "at least 1 resample, not 5 and 0"),
        ({"confidence": 0.9, "block_length": 121}, ErrorKind.TIME_SHORT, "too few for an interval by blocks of 121"),
    ],
)
def test_intervals_that_cannot_be_are_refused(options: dict, kind: ErrorKind, match: str) -> None:
    with pytest.raises(StforecastError, match=match) as error:
        evaluate(FORECAST, SERIES, **options)
    assert error.value.kind == kind


def test_a_few_forecasts_make_no_interval() -> None:
    with pytest.raises(StforecastError, match=r"7 init time\(s\) are too few .* wanted 8 or more"):
        evaluate(FORECAST.isel(init_time=slice(7)), SERIES, confidence=0.9)
