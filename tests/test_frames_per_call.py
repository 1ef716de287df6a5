"""A forecaster whose network gives fewer frames a call than it is fitted to forecast."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.models.tau import frames_of_calls

SMALL = stf.NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2, drop_path=0.0)
SHORT = stf.TrainingConfig(epochs=2, batch_size=8)
CORRECTS = replace(SMALL, first_guess="regression", lags=("1D",), frames_per_call=2)


@pytest.fixture(scope="module")
def series() -> xr.Dataset:
    return make_series(160, variables=("t2m", "u10"))


def fitted(series: xr.Dataset, network: stf.NetworkConfig, horizon: int = 5, **training: int) -> stf.Forecaster:
    return stf.fit(series, history=4, horizon=horizon, network=network, training=replace(SHORT, **training))


@pytest.fixture(scope="module")
def by_twos(series: xr.Dataset) -> stf.Forecaster:
    """Five frames by calls of two."""
    return fitted(series, CORRECTS)


def put_behind(series: xr.Dataset, forecast: xr.Dataset) -> xr.Dataset:
    """A series that goes on with the frames of a forecast."""
    frames = forecast.isel(init_time=0)[list(series.data_vars)].swap_dims(lead_time="valid_time")
    frames = frames.drop_vars([name for name in frames.coords if name not in (*series.coords, "valid_time")])
    return xr.concat([series, frames.rename(valid_time="time")], "time", combine_attrs="override")


@pytest.mark.parametrize("network", [replace(SMALL, frames_per_call=2), replace(CORRECTS, lags=())])
def test_a_call_sees_the_output_of_the_calls_before_it(series: xr.Dataset, network: stf.NetworkConfig) -> None:
    forecaster = fitted(series, network)
    assert (forecaster.horizon, forecaster.frames_per_call) == (5, 2)
    known = series.isel(time=slice(0, 150))
    whole = forecaster.predict(known)
    assert whole.sizes["lead_time"] == 5
    first = forecaster.predict(known, horizon=2)
    second = forecaster.predict(put_behind(known, first), horizon=2)
    for name in ("t2m", "u10"):
        np.testing.assert_allclose(whole[name][:, :2], first[name], rtol=1e-6)
        np.testing.assert_allclose(whole[name][:, 2:4], second[name], rtol=1e-5)


def test_validation_judges_all_lead_times(series: xr.Dataset, by_twos: stf.Forecaster) -> None:
    inits = by_twos.init_times(series, part="validation")
    # The weights were chosen by windows that lie in the validation period whole.
    inits = inits[inits >= np.datetime64(by_twos.split.validation[0]) + 3 * by_twos.step]
    assert len(inits) == by_twos.training["windows"]["validation"]
    forecast = by_twos.predict(series, init_times=inits)
    rows = np.searchsorted(series["time"], forecast["valid_time"])
    errors = [
        (forecast[name].to_numpy() - series[name].to_numpy()[rows]) / by_twos.normalization.variables[name].scale
        for name in ("t2m", "u10")
    ]
    assert np.square(errors).mean() == pytest.approx(min(by_twos.training["validation_loss"]), rel=1e-4)


def test_windows_are_as_long_as_the_calls_that_they_are_learnt_by(series: xr.Dataset) -> None:
    windows = [fitted(series, CORRECTS, rollout_steps=steps).training["windows"] for steps in (1, 2)]
    assert windows[0]["train"] == windows[1]["train"] + 2
    assert (
        windows[0]["validation"] == windows[1]["validation"] == fitted(series, SMALL).training["windows"]["validation"]
    )


def test_more_than_it_is_fitted_to_forecast_is_all_at_once(series: xr.Dataset) -> None:
    hashes = {fitted(series, replace(SMALL, frames_per_call=n), horizon=3).weights_hash() for n in (None, 3, 7)}
    assert len(hashes) == 1


def test_it_is_saved_with_the_model_and_made_in_parts_to_the_same_values(
    tmp_path: Path, series: xr.Dataset, by_twos: stf.Forecaster
) -> None:
    again = stf.Forecaster.load(by_twos.save(tmp_path / "model"))
    assert (again.horizon, again.frames_per_call) == (5, 2)
    inits = by_twos.init_times(series, part="test")[:6]
    whole = by_twos.predict(series, init_times=inits, horizon=7, interval=None)
    parts = stf.predict(series, again, init_times=inits, horizon=7, memory_limit=2_000)
    for name in ("t2m", "u10"):
        np.testing.assert_allclose(parts[name].to_numpy(), whole[name], rtol=1e-5)
    bounded = stf.predict(series, again, init_times=inits, interval=0.9)
    assert bool((bounded["t2m_lower"] <= bounded["t2m"]).all() & (bounded["t2m"] <= bounded["t2m_upper"]).all())


def test_the_frames_wanted_are_those_of_whole_calls(by_twos: stf.Forecaster) -> None:
    init = np.datetime64("2018-02-01", "ns")
    history, earlier = by_twos.frames_wanted(init)
    assert len(history) == 4
    # A day before each of the history and of six frames ahead; of these none from behind the init time.
    wanted = init + by_twos.step * np.arange(-3, 7) - np.timedelta64(24, "h")
    assert set(earlier) == set(wanted[wanted <= init]) - set(history)


def test_what_lies_behind_the_horizon_of_a_whole_call_is_never_seen(
    series: xr.Dataset, by_twos: stf.Forecaster
) -> None:
    spoiled = series.copy(deep=True)
    init = series["time"].to_numpy()[140]
    for name in spoiled.data_vars:
        spoiled[name][141:] = np.nan
    honest, same = (by_twos.predict(some, init_times=[init]) for some in (series, spoiled))
    xr.testing.assert_identical(honest, same)


def test_a_city_s_week_is_known_for_whole_calls() -> None:
    city = make_city(21 * 48)
    forecaster = stf.fit(
        city, history=4, horizon=5, network=replace(SMALL, first_guess="cycle", frames_per_call=4), training=SHORT
    )
    forecast = forecaster.predict(city)
    assert forecast.sizes["lead_time"] == 5
    assert all(np.isfinite(values).all() for values in forecast.data_vars.values())


def test_no_frame_a_call_is_refused() -> None:
    with pytest.raises(StforecastError, match="frames_per_call must be at least 1, not 0") as caught:
        stf.NetworkConfig(frames_per_call=0)
    assert caught.value.kind == ErrorKind.ARGUMENT


def test_frames_of_calls_are_the_least_multiple_that_reaches() -> None:
    for horizon in range(1, 20):
        for at_once in range(1, 20):
            frames = frames_of_calls(horizon, at_once)
            assert frames % at_once == 0
            assert horizon <= frames < horizon + at_once
