import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series, make_times
from scores.continuous import interval_score

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.fitting import fit
from stforecast.forecaster import CALIBRATION_FILE, MODEL_FILE, Forecaster
from stforecast.intervals import Calibration, ErrorCycle, UsualError, pooled_quantiles, rank
from stforecast.networks import NetworkConfig
from stforecast.prediction import predict
from stforecast.split import Split
from stforecast.store import prepare
from stforecast.training import TrainingConfig
from stforecast.verification import coverage

SMALL = NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2, drop_path=0.0)
GUIDED = replace(SMALL, first_guess="regression", lags=("1D",))
FRAME = 2 * 4 * 6
FOREVER = ErrorCycle(0, 0, False)
MONDAY = np.datetime64("2016-01-04", "ns")
HOUR = np.timedelta64(1, "h")


def usual_of_one(channels: int, cells: int, leads: int = 1) -> UsualError:
    mean = np.ones((leads, channels, 1, cells), np.float32)
    return UsualError(FOREVER, mean, np.ones((leads, 1, channels, 1, cells), np.float16))


def calibrated_on(errors: np.ndarray) -> Calibration:
    """The calibration of errors (init_time, channel, cell) of one lead time that are usually one."""
    count, channels, cells = errors.shape
    times = (MONDAY + HOUR * np.arange(count))[:, None]
    misses = errors.astype(np.float32)[:, None, :, None, :]
    recent = np.ones((count, 1, channels), np.float32)
    return Calibration.of(usual_of_one(channels, cells), [(times, misses, recent)])


def reach(calibration: Calibration, interval: float) -> np.ndarray:
    """How far an interval reaches in each channel, where errors are usually one."""
    channels = calibration.scores.shape[1]
    recent = np.ones((1, 1, channels), np.float32)
    return calibration.radius(interval, np.array([[MONDAY]]), slice(0, 1), recent)[0, 0, :, 0, 0]


@pytest.mark.parametrize("interval", [0.1, 0.5, 0.8, 0.9, 0.95])
def test_one_cell_gets_the_split_conformal_quantile(interval: float) -> None:
    errors = np.random.default_rng(1).standard_normal((39, 3, 1)).astype(np.float32)
    expected = np.sort(np.abs(errors[:, :, 0]), axis=0)[math.ceil(40 * interval) - 1]
    np.testing.assert_array_equal(reach(calibrated_on(errors), interval), expected)


@pytest.mark.parametrize("interval", [0.05, 0.5, 0.9])
def test_cells_are_pooled_so_that_the_mean_share_below_is_that_of_the_rank(interval: float) -> None:
    errors = np.abs(np.random.default_rng(2).standard_normal((20, 1, 7))).astype(np.float32)
    wanted = math.ceil(21 * interval) / 20
    least = min(score for score in errors.ravel() if (errors <= score).mean(axis=(1, 2)).mean() >= wanted - 1e-12)
    np.testing.assert_array_equal(reach(calibrated_on(errors), interval), [least])


def test_exchangeable_errors_lie_inside_as_often_as_split_conformal_prediction_says() -> None:
    # Over draws of n scores and of one more, the coverage of the k-th score is k / (n + 1), whatever the distribution.
    count, repeats, k = 49, 20_000, 45
    rng = np.random.default_rng(3)
    calibration = calibrated_on(rng.standard_t(3, (count, repeats, 1)))
    is_inside = np.abs(rng.standard_t(3, repeats)) <= reach(calibration, 0.9)
    expected = k / (count + 1)
    assert rank(0.9, count) == k
    assert abs(is_inside.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / repeats)


def test_frames_that_are_exchangeable_are_covered_by_cell_on_average() -> None:
    # Cells of a frame share a size, as neighbours do: only init times are independent.
    count, repeats, cells = 29, 3000, 6
    rng = np.random.default_rng(4)
    errors = rng.standard_normal((count + 1, repeats, cells)) * rng.lognormal(0, 1, (count + 1, repeats, 1))
    shares = (np.abs(errors[-1]) <= reach(calibrated_on(errors[:-1]), 0.8)[:, None]).mean(axis=1)
    error = shares.std() / np.sqrt(repeats)
    assert 0.8 - 4 * error < shares.mean() < 0.8 + 2 / (count + 1) + 4 * error


def test_what_is_not_finite_is_infinitely_far() -> None:
    errors = np.random.default_rng(5).standard_normal((20, 1, 1))
    errors[3] = np.nan
    calibration = calibrated_on(errors)
    known = np.sort(np.abs(np.delete(errors.ravel(), 3))).astype(np.float32)
    assert reach(calibration, 0.5) == known[10]
    assert reach(calibration, 20 / 21) == np.inf


def test_pooled_quantiles_increase() -> None:
    scores = np.random.default_rng(6).random((8, 2, 3, 5)).astype(np.float32)
    quantiles = pooled_quantiles(scores)
    assert quantiles.shape == (2, 3, 8)
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    np.testing.assert_array_equal(quantiles[..., -1], scores.max(axis=(0, 3)))


# ---- how large errors usually are


def drawn_errors(times: np.ndarray, sizes: np.ndarray, cells: int = 12) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(7).standard_normal((len(times), 1, 1, 1, cells))
    return times[:, None], (noise * sizes[:, None, None, None, None]).astype(np.float32)


def test_the_usual_error_follows_the_seasons() -> None:
    times = make_times(4 * 730)
    phase = 2 * np.pi * ((times - times[0]) / np.timedelta64(1, "D")) / 365.25
    sizes = 2 + np.cos(phase)
    errors = drawn_errors(times, sizes)
    candidates = ErrorCycle.candidates(times, times[1] - times[0])
    blocks = [(errors[0][some], errors[1][some]) for some in (slice(0, 1000), slice(1000, None))]
    usual = UsualError.of(blocks, candidates, times[2000])
    assert usual.cycle.annual == 1
    # The mean of the absolute values of a normal distribution.
    expected = sizes * np.sqrt(2 / np.pi)
    result = usual.at(times[:, None], slice(0, 1))[:, 0, 0, 0]
    np.testing.assert_allclose(result / expected[:, None], 1, atol=0.15)


@pytest.mark.parametrize("at_weekends", [1.0, 4.0])
def test_weekends_are_told_apart_where_errors_are(at_weekends: float) -> None:
    times = make_times(24 * 70, step="1h", start="2016-01-04")
    is_weekend = np.arange(len(times)) // 24 % 7 >= 5
    errors = drawn_errors(times, np.where(is_weekend, at_weekends, 1.0))
    usual = UsualError.of([errors], ErrorCycle.candidates(times, HOUR), times[len(times) * 3 // 4])
    result = usual.at(times[:, None], slice(0, 1)).mean(axis=(1, 2, 3, 4))
    if at_weekends > 1:
        assert usual.cycle.is_weekly
    np.testing.assert_allclose(result[is_weekend].mean() / result[~is_weekend].mean(), at_weekends, rtol=0.1)


def test_a_cell_without_errors_still_has_a_size() -> None:
    times = make_times(100)
    errors = drawn_errors(times, np.ones(100))
    errors[1][..., 0] = 0
    usual = UsualError.of([errors], ErrorCycle.candidates(times, times[1] - times[0]), times[75])
    sizes = usual.at(times[:, None], slice(0, 1))
    assert (sizes > 0).all()
    assert np.isfinite(sizes).all()
    assert sizes[..., 0].max() < 0.01 * sizes[..., 1:].min()


# ---- forecasts with bounds


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    series = make_series(240, variables=("t2m", "u10"))
    path = tmp_path_factory.mktemp("stores") / "s.zarr"
    prepare(series, path, Split.by_fraction(series["time"].to_numpy(), validation=0.2))
    return path


@pytest.fixture(scope="module", params=[SMALL, GUIDED], ids=["last frame", "guided, with lags"])
def forecaster(store: Path, request: pytest.FixtureRequest) -> Forecaster:
    return fit(store, history=4, horizon=3, network=request.param, training=TrainingConfig(epochs=1, batch_size=8))


@pytest.fixture(scope="module")
def series(store: Path) -> xr.Dataset:
    return stf.open_store(store).load()


INITS = [20, 21, 60, 90, 200]


def test_bounds_stand_beside_the_forecast_and_leave_it_as_it_is(series: xr.Dataset, forecaster: Forecaster) -> None:
    init_times = series["time"].to_numpy()[INITS]
    plain = predict(series, forecaster, init_times=init_times)
    forecast = predict(series, forecaster, init_times=init_times, interval=0.9)
    assert list(forecast.data_vars) == ["t2m", "u10", "t2m_lower", "u10_lower", "t2m_upper", "u10_upper"]
    xr.testing.assert_allclose(forecast[["t2m", "u10"]], plain, rtol=1e-6)
    for name in ("t2m", "u10"):
        assert (forecast[f"{name}_lower"] < forecast[name]).all()
        assert (forecast[name] < forecast[f"{name}_upper"]).all()
    assert forecast["t2m_lower"].attrs == {
        "units": "K",
        "long_name": "lower bound of the 0.9 interval of variable t2m",
        "interval": 0.9,
        "interval_of": "t2m",
    }
    assert forecast["t2m_lower"].dims == forecast["t2m"].dims


def test_a_larger_share_has_wider_bounds(series: xr.Dataset, forecaster: Forecaster) -> None:
    narrow, middle, wide = (forecaster.predict(series, interval=share) for share in (0.3, 0.6, 0.9))
    for one, other in ((narrow, middle), (middle, wide)):
        assert (other["t2m_lower"] <= one["t2m_lower"]).all()
        assert (other["t2m_upper"] >= one["t2m_upper"]).all()
    assert (wide["t2m_upper"] > narrow["t2m_upper"]).all()


def test_a_shorter_horizon_has_the_bounds_of_the_longer_one(series: xr.Dataset, forecaster: Forecaster) -> None:
    whole = forecaster.predict(series, interval=0.9)
    xr.testing.assert_allclose(
        forecaster.predict(series, horizon=2, interval=0.9), whole.isel(lead_time=slice(2)), rtol=1e-6
    )


def test_how_far_bounds_reach_follows_from_the_errors_of_the_days_before(
    series: xr.Dataset, forecaster: Forecaster
) -> None:
    times, calibration = series["time"].to_numpy(), forecaster.calibration
    assert calibration is not None
    row, scale = 230, json.loads(series.attrs["normalization"])["t2m"]["scale"]
    forecast = forecaster.predict(series, init_times=times[[row]], interval=0.8)
    # Ten forecasts, one a day, the last of which is known whole at the init time.
    before = row - 3 - 4 * np.arange(10)
    earlier = forecaster.predict(series, init_times=times[np.sort(before)])
    truth = np.stack([series["t2m"].to_numpy()[one + 1 : one + 4] for one in np.sort(before)])
    usual = calibration.usual.at(earlier["valid_time"].to_numpy(), slice(0, 3))[:, :, 0]
    sizes = (np.abs(truth - earlier["t2m"].to_numpy()) / scale / usual).mean(axis=(0, 2, 3))
    recent = (10 * sizes + 1) / 11
    now = calibration.usual.at(forecast["valid_time"].to_numpy(), slice(0, 3))[0, :, 0]
    score = calibration.scores[:, 0, math.ceil((calibration.count + 1) * 0.8) - 1]
    expected = now * (score * recent**0.75)[:, None, None] * scale
    for bound, sign in (("upper", 1), ("lower", -1)):
        np.testing.assert_allclose(sign * (forecast[f"t2m_{bound}"] - forecast["t2m"])[0], expected, rtol=2e-3)


def test_bounds_are_wider_after_days_of_large_errors(series: xr.Dataset, forecaster: Forecaster) -> None:
    noise = np.random.default_rng(0).standard_normal((40, 4, 6))
    restless = series.copy(deep=True)
    # Not the last frames, which the forecast begins from.
    restless["t2m"][-50:-10] += 4 * noise
    calm, wide = (forecaster.predict(some, interval=0.9) for some in (series, restless))
    apart = [float((some["t2m_upper"] - some["t2m_lower"]).mean()) for some in (calm, wide)]
    assert apart[1] > 1.5 * apart[0]


def test_without_the_days_before_errors_count_as_usual(series: xr.Dataset, forecaster: Forecaster) -> None:
    last = forecaster.predict(series.isel(time=slice(-4, None)), interval=0.9)
    calibration = forecaster.calibration
    assert calibration is not None
    usual = calibration.usual.at(last["valid_time"].to_numpy(), slice(0, 3))[0, :, 0]
    score = calibration.scores[:, 0, rank(0.9, calibration.count) - 1]
    scale = json.loads(series.attrs["normalization"])["t2m"]["scale"]
    apart = (last["t2m_upper"] - last["t2m_lower"])[0] / 2
    np.testing.assert_allclose(apart, usual * score[:, None, None] * scale, rtol=2e-3)


@pytest.fixture(scope="module")
def further(series: xr.Dataset, forecaster: Forecaster) -> Forecaster:
    return forecaster.calibrated(series, horizon=7)


@pytest.mark.parametrize("room", [1, 14, 1000], ids=lambda room: f"{room} frames")
@pytest.mark.parametrize("how", ["lazy", "zarr", "nc"])
def test_bounds_are_the_same_in_memory_lazily_and_on_the_disk(
    tmp_path: Path, store: Path, series: xr.Dataset, further: Forecaster, room: int, how: str
) -> None:
    options = {"init_times": series["time"].to_numpy()[INITS], "horizon": 7, "interval": 0.8}
    expected = predict(series, further, **options)
    options["memory_limit"] = room * 3 * 20 * FRAME
    if how == "lazy":
        result = predict(stf.open_store(store), further, **options)
        assert all(variable.chunks is not None for variable in result.data_vars.values())
    else:
        result = predict(series, further, output=tmp_path / f"forecast.{how}", **options)
    xr.testing.assert_allclose(result.compute(), expected, rtol=1e-6)
    assert list(result.data_vars) == list(expected.data_vars)
    for name in expected.data_vars:
        assert result[name].attrs == expected[name].attrs, name
        assert result[name].dtype == expected[name].dtype, name
    again = stf.write_forecast(expected, tmp_path / "again.nc")
    xr.testing.assert_identical(stf.open_forecast(again).load(), expected)


def test_an_output_of_another_share_is_another_forecast(
    tmp_path: Path, series: xr.Dataset, forecaster: Forecaster
) -> None:
    path = tmp_path / "f.zarr"
    broken = series.copy(deep=True)
    broken["t2m"][-1] = np.nan
    options = {"init_times": series["time"].to_numpy()[[200, -1]], "output": path, "memory_limit": 1}
    with pytest.raises(StforecastError, match="variable t2m has 24 nan"):
        predict(broken, forecaster, interval=0.5, **options)
    written = predict(series, forecaster, interval=0.8, **options)
    assert written["t2m_lower"].attrs["interval"] == 0.8
    expected = predict(series, forecaster, interval=0.8, init_times=options["init_times"])
    xr.testing.assert_allclose(written, expected, rtol=1e-6)


def test_bounds_are_in_the_callers_terms(series: xr.Dataset, forecaster: Forecaster) -> None:
    expected = forecaster.predict(series, interval=0.9)
    other = series.isel(latitude=slice(None, None, -1)).rename(t2m="air")
    other["air"] = (other["air"] - 273.15).assign_attrs(units="degC", standard_name="air_temperature")
    result = forecaster.predict(other, interval=0.9).isel(latitude=slice(None, None, -1))
    assert result["air_lower"].attrs["units"] == "degC"
    assert result["air_lower"].attrs["interval_of"] == "air"
    for name in ("", "_lower", "_upper"):
        np.testing.assert_allclose(result[f"air{name}"] + 273.15, expected[f"t2m{name}"], rtol=1e-5)


def test_bounds_keep_to_what_values_can_be(tmp_path: Path) -> None:
    city = make_city(480)
    prepare(city, tmp_path / "s.zarr", Split.by_fraction(city["time"].to_numpy()))
    fitted = fit(tmp_path / "s.zarr", history=4, horizon=3, network=SMALL, training=TrainingConfig(epochs=1))
    forecast = fitted.predict(city, init_times=city["time"].to_numpy()[440:470], interval=0.95)
    assert float(forecast["inflow_lower"].min()) == 0
    assert (forecast["inflow_lower"] <= forecast["inflow"]).all()
    assert forecast["inflow_lower"].attrs["valid_min"] == 0


# ---- the model's files


def test_a_calibration_is_saved_by_its_values_however_they_lie_in_memory(
    tmp_path: Path, forecaster: Forecaster
) -> None:
    assert forecaster.calibration is not None
    # Of several columns, because one lies the same way in any order.
    leads, *frame = forecaster.calibration.usual.mean.shape
    course = np.arange(leads * 3 * np.prod(frame), dtype=np.float16).reshape(leads, 3, *frame)
    usual = UsualError(ErrorCycle(1, 0, False), forecaster.calibration.usual.mean, np.asfortranarray(course))
    saved = replace(forecaster, calibration=replace(forecaster.calibration, usual=usual)).save(tmp_path / "model")
    loaded = Forecaster.load(saved).calibration
    assert loaded is not None
    np.testing.assert_array_equal(loaded.usual.course, course)


def test_a_saved_calibration_gives_the_same_bounds(tmp_path: Path, series: xr.Dataset, forecaster: Forecaster) -> None:
    forecaster.save(tmp_path / "model")
    loaded = Forecaster.load(tmp_path / "model")
    xr.testing.assert_identical(loaded.predict(series, interval=0.9), forecaster.predict(series, interval=0.9))
    assert loaded.calibration is not None
    assert forecaster.calibration is not None
    assert loaded.calibration.digest() == forecaster.calibration.digest()


def test_calibrating_again_changes_nothing(store: Path, series: xr.Dataset, forecaster: Forecaster) -> None:
    bare = replace(forecaster, calibration=None)
    from_path, loaded = (bare.calibrated(some, batch_size=8, backend="eager") for some in (store, series))
    assert from_path.calibration is not None
    assert loaded.calibration is not None
    assert from_path.calibration.digest() == loaded.calibration.digest()
    assert forecaster.calibration is not None
    np.testing.assert_allclose(from_path.calibration.scores, forecaster.calibration.scores, rtol=1e-5)
    xr.testing.assert_identical(bare.predict(series), forecaster.predict(series))


def test_a_model_without_calibration_forecasts_but_gives_no_interval(
    tmp_path: Path, series: xr.Dataset, forecaster: Forecaster
) -> None:
    replace(forecaster, calibration=None).save(tmp_path / "model")
    assert not (tmp_path / "model" / CALIBRATION_FILE).exists()
    old = Forecaster.load(tmp_path / "model")
    xr.testing.assert_identical(old.predict(series), forecaster.predict(series))
    with pytest.raises(StforecastError, match="no calibration.*forecaster.calibrated\\(store\\)") as caught:
        predict(series, old, interval=0.9)
    assert caught.value.kind == ErrorKind.CKPT_INCOMPLETE
    assert old.calibrated(series).predict(series, interval=0.9).sizes["lead_time"] == 3


def test_a_damaged_or_missing_calibration_is_told(tmp_path: Path, forecaster: Forecaster) -> None:
    folder = forecaster.save(tmp_path / "model")
    whole = (folder / CALIBRATION_FILE).read_bytes()
    (folder / CALIBRATION_FILE).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StforecastError, match="calibration.safetensors is not what model.json was written") as caught:
        Forecaster.load(folder)
    assert caught.value.kind == ErrorKind.CKPT_CORRUPT
    (folder / CALIBRATION_FILE).unlink()
    with pytest.raises(StforecastError, match="calibration.safetensors is missing; copy all its files"):
        Forecaster.load(folder)
    assert MODEL_FILE in {entry.name for entry in folder.iterdir()}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"interval": 0.0}, "interval must be between 0 and 1, as 0.9, not 0"),
        ({"interval": 90}, "interval must be between 0 and 1, as 0.9, not 90"),
        ({"interval": 0.999}, r"an interval of 0.999 wants more than the 46 init times .* which give 0.9787 at most"),
        ({"interval": 0.9, "horizon": 4}, "calibrated for 3 lead times but 4 are wanted.*calibrated.store, horizon=4"),
    ],
)
def test_what_a_calibration_cannot_give_is_refused(
    series: xr.Dataset, forecaster: Forecaster, options: dict[str, float], match: str
) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        predict(series, forecaster, **options)
    assert caught.value.kind == ErrorKind.ARGUMENT


def test_the_last_share_that_is_given_is_that_of_all_init_times(series: xr.Dataset, forecaster: Forecaster) -> None:
    assert forecaster.calibration is not None
    count = forecaster.calibration.count
    assert np.isfinite(forecaster.predict(series, interval=count / (count + 1))["t2m_upper"]).all()


def test_bounds_that_have_no_name_left_are_refused(series: xr.Dataset, forecaster: Forecaster) -> None:
    with pytest.raises(StforecastError, match="bounds of an interval would be called t2m_lower"):
        forecaster._check_interval(0.9, 3, {"t2m", "t2m_lower"})


# ---- how good they are


def with_bounds(frames: int = 400) -> tuple[xr.Dataset, xr.Dataset]:
    """Truth, and a forecast of it with bounds that are one apart from it, six hours ahead."""
    truth = make_series(frames)
    inits = truth["time"].to_numpy()[100:-2]
    baseline = stf.baselines.Persistence().predict(truth, init_times=inits, horizon=2)
    bounds = {
        f"t2m_{bound}": (baseline["t2m"] + sign).assign_attrs(units="K", interval=0.9, interval_of="t2m")
        for bound, sign in (("lower", -1.0), ("upper", 1.0))
    }
    return truth, baseline.assign(bounds)


@pytest.mark.parametrize("by", [(), ("season",), ("hour",), ("season", "hour")], ids=lambda by: "+".join(by) or "all")
def test_coverage_is_the_share_of_cells_inside(by: tuple[str, ...]) -> None:
    truth, forecast = with_bounds()
    truth["t2m"][150, 2] = np.nan
    result = coverage(forecast, truth, by=by)
    rows = np.searchsorted(truth["time"], forecast["valid_time"])
    actual = xr.DataArray(truth["t2m"].to_numpy()[rows], dims=forecast["t2m"].dims)
    low, high = (forecast[f"t2m_{bound}"].drop_vars(list(forecast.coords)) for bound in ("lower", "upper"))
    measures = {
        "coverage": ((actual >= low) & (actual <= high)).where(actual.notnull()),
        "width": (high - low).where(actual.notnull()),
        "interval_score": interval_score(low, high, actual, 0.9, preserve_dims="all")["total"],
    }
    hours, months = forecast["valid_time"].dt.hour.to_numpy(), forecast["valid_time"].dt.month.to_numpy()
    seasons = np.array(["DJF", "MAM", "JJA", "SON"])[months % 12 // 3]
    for measure, values in measures.items():
        for place in np.ndindex(*(result.sizes[dim] for dim in by)):
            labels = {dim: result[dim].to_numpy()[at] for dim, at in zip(by, place, strict=True)}
            chosen = np.ones(hours.shape, bool)
            for dim, label in labels.items():
                chosen &= (hours if dim == "hour" else seasons) == label
            for lead in range(2):
                found = float(result["t2m"].sel(measure=measure, **labels)[lead])
                own = values.to_numpy()[chosen[:, lead], lead]
                sample = int(result["sample_size"].sel(labels)[lead])
                assert sample == chosen[:, lead].sum()
                np.testing.assert_allclose(found, np.nanmean(own) if own.size else np.nan, rtol=1e-6)
    assert result["t2m"].attrs["interval"] == 0.9


def test_rounding_puts_nothing_outside() -> None:
    truth, forecast = with_bounds()
    rows = np.searchsorted(truth["time"], forecast["valid_time"])
    actual = truth["t2m"].to_numpy()[rows]
    forecast["t2m_upper"].values = actual + 1
    forecast["t2m_lower"].values = actual * np.float32(1 + 2e-7)
    assert (coverage(forecast, truth)["t2m"].sel(measure="coverage") == 1).all()
    forecast["t2m_lower"].values = actual * np.float32(1 + 1e-5)
    assert (coverage(forecast, truth)["t2m"].sel(measure="coverage") == 0).all()


def test_coverage_wants_intervals() -> None:
    truth, forecast = with_bounds()
    with pytest.raises(StforecastError, match="the forecast has no intervals, only t2m; make it with predict"):
        coverage(forecast[["t2m"]], truth)


def test_scores_and_layouts_leave_bounds_aside(series: xr.Dataset, forecaster: Forecaster) -> None:
    init_times = series["time"].to_numpy()[200:220]
    plain, bounded = (forecaster.predict(series, init_times=init_times, interval=share) for share in (None, 0.9))
    scores = stf.evaluate(bounded, series, reference=["persistence"])
    xr.testing.assert_allclose(scores, stf.evaluate(plain, series, reference=["persistence"]), rtol=1e-6)
    assert set(scores.data_vars) == {"t2m", "u10"}
    layout = stf.to_weatherbench2(bounded)
    assert set(layout.data_vars) == set(stf.to_weatherbench2(plain).data_vars)


def test_most_of_the_truth_of_another_period_lies_inside(series: xr.Dataset, forecaster: Forecaster) -> None:
    forecast = forecaster.predict(series, init_times=forecaster.init_times(series, part="test"), interval=0.8)
    shares = coverage(forecast, series).sel(measure="coverage").to_array()
    # Some 45 frames of noise that is the same everywhere, and a network of one epoch that errs alike in both periods.
    assert float(abs(shares - 0.8).max()) < 0.1
