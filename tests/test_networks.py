"""What a network is told besides its history: the first guess is the reference, and no frame comes from the future."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from factory import make_city, make_series, make_times
from hypothesis import given, settings
from hypothesis import strategies as st

import stforecast as stf
from stforecast.baselines import LaggedRegression
from stforecast.errors import ErrorKind, StforecastError
from stforecast.fitting import fit
from stforecast.forecaster import Forecaster
from stforecast.grid import Grid
from stforecast.models.first_guess import CorrectedFirstGuess, TimeColumns
from stforecast.models.tau import TAU, MeanOfMembers
from stforecast.networks import Context, NetworkConfig, _direction
from stforecast.split import Split
from stforecast.store import layout, prepare
from stforecast.training import TrainingConfig

STEP = np.timedelta64(6, "h")
GUIDED = NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2, drop_path=0.0, first_guess="regression")
SHORT = TrainingConfig(epochs=1, batch_size=16)


def prepared(series: xr.Dataset, path: Path, **options: object) -> xr.Dataset:
    return prepare(series, path, Split.by_fraction(series["time"].to_numpy()), **options).load()


def a_corrected_guess(columns: TimeColumns, **sizes: object) -> CorrectedFirstGuess:
    def build(*numbers: int) -> TAU:
        named = dict(zip(("history", "channels", "horizon", "output_channels"), numbers, strict=True))
        return TAU(**named, hidden_spatial=4, hidden_temporal=8, temporal_layers=2)

    return CorrectedFirstGuess(build, columns, **sizes)


def without_correction(forecaster: Forecaster) -> Forecaster:
    network = forecaster.network
    assert isinstance(network, CorrectedFirstGuess)
    for weights in network.network.dec.readout.parameters():
        torch.nn.init.zeros_(weights)
    return forecaster


@pytest.mark.parametrize("first_guess", ["none", "last_frame", "regression"])
def test_members_differ_and_come_back_from_a_file(tmp_path: Path, first_guess: stf.networks.FirstGuess) -> None:
    stored = prepared(make_series(120), tmp_path / "s.zarr")
    config = replace(GUIDED, first_guess=first_guess, members=3)
    forecaster = fit(stored, history=3, horizon=2, network=config, training=SHORT)
    forecast = forecaster.predict(stored)
    inside = forecaster.network.get_submodule("" if first_guess == "none" else "network")
    assert isinstance(inside, MeanOfMembers)
    singles = []
    for member in inside.members:
        alone = copy.deepcopy(forecaster.network)
        alone_inside = alone.get_submodule("" if first_guess == "none" else "network")
        alone_inside.members = torch.nn.ModuleList([member])
        singles.append(replace(forecaster, network=alone).predict(stored)["t2m"].to_numpy())
    assert len({single.tobytes() for single in singles}) == 3
    np.testing.assert_allclose(forecast["t2m"], np.mean(singles, axis=0), rtol=1e-6)
    loaded = Forecaster.load(forecaster.save(tmp_path / "model"))
    assert loaded.config == config
    xr.testing.assert_identical(loaded.predict(stored), forecast)


@pytest.mark.parametrize("kind", ["weather", "city"])
def test_without_a_correction_the_cycle_is_the_reference(tmp_path: Path, kind: str) -> None:
    series = make_city(800) if kind == "city" else make_series(200)
    stored = prepared(series, tmp_path / "s.zarr")
    config = replace(GUIDED, first_guess="cycle")
    forecaster = without_correction(fit(stored, history=3, horizon=2, network=config, training=SHORT))
    forecast = forecaster.predict(stored, init_times=forecaster.init_times(stored, part="test"))
    train = stored.isel(time=forecaster.split.part_rows(stored["time"].to_numpy(), "train"))
    cycle = LaggedRegression.fit(train, horizon=2, history=3, robust=True).cycle
    for name in forecast.data_vars:
        expected = [cycle.at(str(name), times) for times in forecast["valid_time"].to_numpy()]
        np.testing.assert_allclose(forecast[name], np.clip(expected, 0, None), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("tells", "columns", "planes"),
    [(("calendar", "sun", "places"), 13, 2), (("calendar", "sun"), 13, 0), (("calendar", "places"), 9, 2), ((), 1, 0)],
)
def test_a_network_is_told_what_its_configuration_says(
    tmp_path: Path, tells: tuple[stf.networks.Told, ...], columns: int, planes: int
) -> None:
    stored = prepared(make_series(120), tmp_path / "s.zarr")
    height = np.add.outer(np.arange(len(stored["latitude"])), np.arange(len(stored["longitude"]))).astype(float)
    stored = stored.assign_coords(orography=(("latitude", "longitude"), height))
    forecaster = fit(stored, history=3, horizon=2, network=replace(GUIDED, tells=tells), training=SHORT)
    assert forecaster.shape.columns is not None
    told = forecaster.shape.columns.of(stored["time"].to_numpy()).shape[1] - forecaster.shape.columns.cycle
    assert (told, len(forecaster.shape.planes)) == (columns, planes)
    loaded = Forecaster.load(forecaster.save(tmp_path / "model"))
    assert loaded.config.tells == tells
    xr.testing.assert_identical(loaded.predict(stored), forecaster.predict(stored))


@pytest.mark.parametrize("kind", ["weather", "levels", "city"])
def test_without_a_correction_the_forecast_is_the_regression_reference(tmp_path: Path, kind: str) -> None:
    series = make_city(800) if kind == "city" else make_series(200, levels=(500.0, 850.0) if kind == "levels" else ())
    stored = prepared(series, tmp_path / "s.zarr")
    forecaster = without_correction(fit(stored, history=3, horizon=2, network=GUIDED, training=SHORT))
    init_times = forecaster.init_times(stored, part="test")
    forecast = forecaster.predict(stored, init_times=init_times)
    train = stored.isel(time=forecaster.split.part_rows(stored["time"].to_numpy(), "train"))
    reference = LaggedRegression.fit(train, horizon=2, history=3, robust=True).predict(
        stored, init_times=init_times, horizon=2
    )
    for name in forecast.data_vars:
        plain = forecast[name].drop_vars("quality_flag")
        xr.testing.assert_allclose(plain, reference[name], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("kind", "lags"), [("weather", ()), ("weather", ("1D", "30h")), ("city", ("1D", "7D"))])
def test_a_guided_forecast_is_the_same_however_the_caller_holds_the_data(
    tmp_path: Path, kind: str, lags: tuple[str, ...]
) -> None:
    series = make_city(800) if kind == "city" else make_series(200)
    stored = prepared(series, tmp_path / "s.zarr")
    config = replace(GUIDED, lags=lags, embedding=2)
    forecaster = fit(stored, history=3, horizon=2, network=config, training=SHORT)
    init_times = stored["time"].to_numpy()[[60, 100, -1]]
    forecast = forecaster.predict(stored, init_times=init_times, horizon=5)
    assert forecast.sizes["lead_time"] == 5
    loaded = Forecaster.load(forecaster.save(tmp_path / "model"))
    xr.testing.assert_identical(loaded.predict(stored, init_times=init_times, horizon=5), forecast)
    y, x = list(stored.sizes)[1:] if kind == "weather" else ("row", "column")
    turned = stored.isel({y: slice(None, None, -1)}).transpose(x, ..., "time")
    back = forecaster.predict(turned, init_times=init_times, horizon=5).sortby(y)
    for name in forecast.data_vars:
        np.testing.assert_allclose(back[name].transpose(*forecast[name].dims), forecast[name].sortby(y), rtol=1e-5)
    alone = forecaster.predict(stored, init_times=init_times[1:2], horizon=5)
    for name in forecast.data_vars:
        np.testing.assert_allclose(alone[name][0], forecast[name][1], rtol=1e-4)


def test_a_store_by_its_path_and_as_opened_give_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = prepared(make_city(800), tmp_path / "s.zarr")
    config = replace(GUIDED, lags=("1D", "7D"))
    models = [fit(some, history=3, horizon=4, network=config, training=SHORT) for some in (tmp_path / "s.zarr", opened)]
    for name in ("training_loss", "validation_loss"):
        np.testing.assert_allclose(models[0].training[name], models[1].training[name], rtol=1e-4)
    monkeypatch.setattr(layout, "CHUNK_BYTES", 1280)
    monkeypatch.setattr(layout, "SHARD_BYTES", 5120)
    small_shards = tmp_path / "small.zarr"
    prepared(make_city(2000), small_shards)
    with pytest.raises(StforecastError, match="to see frames from 1D, 7D before, which is possible only") as caught:
        fit(small_shards, history=3, horizon=4, network=config, training=SHORT, memory_limit=310_000)
    assert caught.value.kind == ErrorKind.MEMORY_BUDGET


def test_tables_are_the_same_whether_a_store_is_streamed_or_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 1280)
    monkeypatch.setattr(layout, "SHARD_BYTES", 5120)
    # Its first frame stands alone, so no window has it.
    series = make_series(2000, variables=("t2m", "u10"), levels=(500.0, 850.0), absent=(1,))
    prepared(series, tmp_path / "s.zarr", allow_gaps=True)
    models = [
        fit(tmp_path / "s.zarr", history=3, horizon=2, network=GUIDED, training=SHORT, memory_limit=limit)
        for limit in (480_000, None)
    ]
    assert [bool(model.training["streamed_within"]) for model in models] == [True, False]
    streamed, in_memory = (model.network.state_dict() for model in models)
    for name in ("cycle", "regression", "error", "spread", "direction", "planes"):
        torch.testing.assert_close(streamed[name], in_memory[name], rtol=1e-4, atol=1e-5)


def test_frames_behind_the_init_time_change_no_forecast(tmp_path: Path) -> None:
    stored = prepared(make_city(800), tmp_path / "s.zarr")
    config = replace(GUIDED, lags=("30min", "1D"))
    forecaster = fit(stored, history=3, horizon=4, network=config, training=SHORT)
    init = stored["time"].to_numpy()[500]
    spoiled = stored.copy(deep=True)
    for name in spoiled.data_vars:
        spoiled[name][501:] = 1e3
    xr.testing.assert_identical(
        forecaster.predict(spoiled, init_times=init, horizon=9), forecaster.predict(stored, init_times=init, horizon=9)
    )
    # What the network is told of an earlier day is told to it.
    spoiled["inflow"][500 - 48 + 2] = 1e3
    assert not forecaster.predict(spoiled, init_times=init).equals(forecaster.predict(stored, init_times=init))


def test_lags_between_two_steps_are_refused(tmp_path: Path) -> None:
    stored = prepared(make_series(60), tmp_path / "s.zarr")
    config = replace(GUIDED, lags=("1D", "8h", "45min"))
    with pytest.raises(StforecastError, match="lags of 8h, 45min are not whole numbers of the series' steps of 6 h"):
        fit(stored, history=2, horizon=2, network=config, training=SHORT)


def test_d01_a_nan_in_an_earlier_frame_is_refused(tmp_path: Path) -> None:
    stored = prepared(make_city(800), tmp_path / "s.zarr")
    forecaster = fit(stored, history=3, horizon=4, network=replace(GUIDED, lags=("1D",)), training=SHORT)
    spoiled = stored.copy(deep=True)
    spoiled["inflow"][500 - 48 + 2, 1, 1] = np.nan
    with pytest.raises(StforecastError, match="variable inflow has 1 nan") as caught:
        forecaster.predict(spoiled, init_times=stored["time"].to_numpy()[500])
    assert caught.value.kind == ErrorKind.NAN
    forecaster.predict(spoiled, init_times=stored["time"].to_numpy()[600])


@given(
    absent=st.sets(st.integers(0, 59), max_size=20),
    lags=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    history=st.integers(1, 4),
    horizon=st.integers(1, 6),
    first_row=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_earlier_frames_equal_brute_force_on_gappy_axes(
    absent: set[int], lags: list[int], history: int, horizon: int, first_row: int
) -> None:
    times = make_times(60, absent=tuple(absent))
    slots = np.delete(np.arange(60), sorted(absent))
    frames = torch.from_numpy(slots[first_row:].astype(np.float32))[:, None, None, None]
    context = Context(
        times, STEP, history, TimeColumns(0, 0, 6 * 3600), tuple(n * STEP for n in lags), frames, first_row
    )
    length = history + horizon
    starts = np.array([row for row in range(first_row, len(slots) - history + 1) if _is_whole(slots, row, history)])
    columns, lagged = context.of(starts, length)
    assert columns.shape[:2] == (len(starts), length)
    for place, start in enumerate(starts):
        for frame in range(length):
            for number, lag in enumerate(lags):
                slot = slots[start] + frame - lag
                there = slot in slots[first_row:] and slot <= slots[start] + history - 1
                found = lagged[place, frame, number].item()
                assert found == slot if there else np.isnan(found)


def _is_whole(slots: np.ndarray, row: int, history: int) -> bool:
    return bool(slots[row + history - 1] - slots[row] == history - 1)


def test_static_fields_and_places_are_told_and_constants_are_not(tmp_path: Path) -> None:
    series = make_series(120)
    height = np.arange(24.0).reshape(4, 6)
    series = series.assign_coords(
        orography=(("latitude", "longitude"), height, {"units": "m"}),
        land=(("latitude", "longitude"), np.ones((4, 6)), {"units": "1"}),
    )
    stored = prepared(series, tmp_path / "s.zarr")
    forecaster = fit(stored, history=3, horizon=2, network=GUIDED, training=SHORT)
    assert forecaster.shape.planes == ("orography", "sine of latitude")
    planes = forecaster.network.state_dict()["planes"]
    np.testing.assert_allclose(planes[0], (height - height.mean()) / height.std(), rtol=1e-5)
    # They travel with the model: a series without the fields is forecast just as well.
    xr.testing.assert_equal(
        forecaster.predict(stored.drop_vars(["orography", "land"]))["t2m"].drop_vars(
            ["orography", "land"], errors="ignore"
        ),
        forecaster.predict(stored)["t2m"].drop_vars(["orography", "land"]),
    )


def test_where_a_static_field_is_nan_it_says_nothing(tmp_path: Path) -> None:
    height = np.arange(24.0).reshape(4, 6)
    height[height < 9] = np.nan

    def with_field(values: np.ndarray, name: str) -> xr.Dataset:
        fields = {"orography": (("latitude", "longitude"), values, {"units": "m"})}
        return prepared(make_series(120).assign_coords(fields), tmp_path / name)

    forecaster = fit(with_field(height, "s.zarr"), history=3, horizon=2, network=GUIDED, training=SHORT)
    assert forecaster.shape.planes == ("orography", "sine of latitude")
    plane = forecaster.network.state_dict()["planes"][0].numpy()
    known = height[height >= 9]
    np.testing.assert_allclose(plane[height >= 9], (known - known.mean()) / known.std(), rtol=1e-5)
    assert (plane[np.isnan(height)] == 0).all()
    with pytest.warns(UserWarning, match="the static field orography is NaN everywhere, so it is left out"):
        nowhere = fit(
            with_field(np.full((4, 6), np.nan), "n.zarr"), history=3, horizon=2, network=GUIDED, training=SHORT
        )
    assert nowhere.shape.planes == ("sine of latitude",)
    with pytest.raises(StforecastError, match="the static field orography has infinite values") as caught:
        fit(with_field(np.where(height > 9, height, np.inf), "i.zarr"), history=3, horizon=2, network=GUIDED)
    assert caught.value.kind is ErrorKind.INF


def test_weekdays_never_seen_are_forecast_by_the_others_and_times_of_day_are_refused(tmp_path: Path) -> None:
    # From a Saturday to a Thursday, so no validation or test day has a weekday that was learnt from.
    short = make_city(48 * 11).sel(time=slice("2016-01-09", "2016-01-14"))
    split = Split(("2016-01-09", "2016-01-12"), ("2016-01-13", "2016-01-13"), ("2016-01-14", "2016-01-14"))
    # No wave is like it, so the cycle is one of slots.
    slots = np.tile(np.random.default_rng(1).uniform(0, 99, 48), 6).astype(np.float32)
    for name in short.data_vars:
        short[name] = short[name] + xr.DataArray(slots, dims="time")
        short[name].attrs = {"units": "1", "valid_min": 0}
    stored = prepare(short, tmp_path / "s.zarr", split).load()
    forecaster = fit(stored, history=3, horizon=4, network=GUIDED, training=SHORT)
    assert forecaster.shape.columns.slot_seconds == 1800
    assert np.isfinite(forecaster.training["validation_loss"]).all()
    assert np.isfinite(forecaster.predict(stored)["inflow"]).all()
    is_night = short["time"].dt.hour < 6
    in_training = short["time"] < np.datetime64("2016-01-13")
    dark = short.isel(time=np.flatnonzero(~(is_night & in_training)))
    dark = prepare(dark, tmp_path / "d.zarr", split, allow_gaps=True).load()
    with pytest.raises(StforecastError, match="training period has no frame at 00:00, 00:30, … 05:30") as caught:
        fit(dark, history=3, horizon=4, network=GUIDED, training=SHORT)
    assert caught.value.kind is ErrorKind.TIME_SHORT
    # Where no window has them either, they are not missed.
    days = prepare(short.isel(time=np.flatnonzero(~is_night)), tmp_path / "l.zarr", split, allow_gaps=True).load()
    forecaster = fit(days, history=3, horizon=4, network=GUIDED, training=SHORT)
    assert np.isfinite(forecaster.training["validation_loss"]).all()


@pytest.mark.parametrize(("history", "horizon"), [(4, 2), (2, 5), (1, 1)])
@pytest.mark.parametrize("first_guess", ["none", "last_frame", "regression"])
def test_input_and_output_may_differ_in_length(
    tmp_path: Path, history: int, horizon: int, first_guess: stf.networks.FirstGuess
) -> None:
    stored = prepared(make_series(120), tmp_path / "s.zarr")
    config = replace(GUIDED, first_guess=first_guess)
    forecaster = fit(stored, history=history, horizon=horizon, network=config, training=SHORT)
    short, long = (forecaster.predict(stored, horizon=number) for number in (horizon, 2 * horizon + 1))
    xr.testing.assert_allclose(long.isel(lead_time=slice(horizon)), short)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"first_guess": "luck"}, "first_guess must be one of none, last_frame, cycle, regression, not 'luck'"),
        ({"lags": ("1D",)}, "lags and embedding want first_guess='cycle' or 'regression'"),
        ({"members": 0}, "members must be at least 1, not 0"),
        ({"tells": ("calendar", "fortune")}, "tells may hold calendar, sun, places, not 'fortune'"),
        ({"lags": ("soon",), "first_guess": "regression"}, "lags 'soon' is no length of time"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options: dict, match: str) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        NetworkConfig(**options)
    assert caught.value.kind == ErrorKind.ARGUMENT


@pytest.mark.parametrize("is_joint", [False, True])
@pytest.mark.parametrize("columns", [TimeColumns(2, 2, 0), TimeColumns(0, 0, 6 * 3600)], ids=["seasons", "weekdays"])
def test_mixed_precision_leaves_the_first_guess_alone(columns: TimeColumns, is_joint: bool) -> None:
    torch.manual_seed(0)
    network = a_corrected_guess(columns, history=3, horizon=2, channels=2, is_joint=is_joint, grid=(4, 6))
    for name in ("cycle", "regression", "error", "spread"):
        getattr(network, name).uniform_(0.5, 1.5)
    frames, times = torch.randn(2, 3, 2, 4, 6), make_times(6)
    told = torch.from_numpy(columns.of(np.stack([times[:5], times[1:]])))
    with torch.no_grad():
        # A fresh network corrects nothing.
        expected = network(frames, told)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(frames, told)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        network.network.dec.readout.weight.uniform_(-1, 1)
        expected = network(frames, told)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(frames, told)
        assert found.dtype == torch.float32
        assert 1e-4 < (found - expected).abs().max() < 0.3


def test_the_sun_stands_where_it_does() -> None:
    """Noon at the equinox over the equator, midnight there, the polar night, and sunrise in Berlin of the almanac."""
    columns = TimeColumns(0, 0, 86400, has_sun=True)
    network = a_corrected_guess(columns, history=1, horizon=1, channels=1, is_joint=True, grid=(4, 2))
    axes = np.array([-80.0, 0.0, 52.5, 80.0]), np.array([0.0, 13.4])
    grid = Grid("latitude", "longitude", *axes, is_geographic=True)
    network.direction.copy_(torch.from_numpy(_direction(grid)))
    times = np.array(["2016-03-20T12:07", "2016-03-20T00:07", "2016-12-21T12:00", "2016-06-21T02:43"], "datetime64[ns]")
    told = torch.from_numpy(columns.of(times))[:, None, :, None, None]
    insolation = network._insolation(told[:, :, 9:13])[:, 0, 0]
    assert insolation[0, 1, 0] == pytest.approx(1, abs=1e-3)
    assert insolation[1, 1, 0] == 0
    assert insolation[2, 3].max() == 0
    assert insolation[2, 0].min() > 0.4
    # The upper limb rises when the centre is 0.83 degrees below the horizon.
    assert insolation[3, 2, 1] < 0.01
    later = columns.of(times[3:] + np.timedelta64(20, "m"))
    assert network._insolation(torch.from_numpy(later)[:, None, 9:13, None, None])[0, 0, 0, 2, 1] > 0.01


def test_nothing_is_counted_while_the_clock_skips_an_hour(tmp_path: Path) -> None:
    city = make_city(48 * 40)
    city = city.assign_coords(time=city["time"].copy(data=city["time"].to_numpy() + np.timedelta64(40, "D")))
    city["time"].attrs = make_city(2)["time"].attrs
    skipped = np.array(["2016-03-13T02:00", "2016-03-13T02:30"], "datetime64[ns]")
    for name in city.data_vars:
        city[name].loc[{"time": skipped}] = 0
    stored = prepared(city, tmp_path / "s.zarr")
    config = replace(GUIDED, lags=("1D",))
    forecaster = fit(stored, history=3, horizon=4, network=config, training=SHORT)
    forecast = forecaster.predict(stored, init_times="2016-03-13T01:00")
    np.testing.assert_allclose(forecast["inflow"].sel(init_time="2016-03-13T01:00")[1:3], 0, atol=1e-4)
    assert (forecast["inflow"][0, [0, 3]] > 0.5).any()
    # A series on another clock would be taken for other hours.
    moved = stored.assign_coords(time=stored["time"].assign_attrs(time_zone="Europe/Berlin"))
    with pytest.raises(StforecastError, match="on the clock of America/New_York, but the series is on that of Europe"):
        forecaster.predict(moved)
    # What was counted in an hour that was not there says nothing.
    spoiled = stored.copy(deep=True)
    spoiled["inflow"].loc[{"time": skipped}] = 50
    init = ["2016-03-13T03:30", "2016-03-14T01:00"]
    forecasts = [forecaster.predict(some, init_times=init) for some in (spoiled, stored)]
    xr.testing.assert_identical(*forecasts)
