"""Metrics by choice: each against its formula in loops, or against the package scores."""

import itertools
import tracemalloc

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series
from scores.spatial import fss_2d

import stforecast as stf
from stforecast import baselines
from stforecast.baselines import Climatology, Persistence
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid
from stforecast.verification import ACC, FSS, MAPE, PSNR, SSIM, evaluate, frame_sums, metric_of, units_of

SERIES = make_series(68, shape=(14, 16))
INITS = SERIES["time"].to_numpy()[40:60]
FORECAST = Persistence().predict(SERIES, init_times=INITS, horizon=2)


def with_holes(dataset: xr.Dataset, share: float, seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    return dataset.map(lambda variable: variable.where(rng.random(variable.shape) >= share), keep_attrs=True)


def frames_of(forecast: xr.Dataset, truth: xr.Dataset, name: str = "t2m") -> tuple[np.ndarray, np.ndarray]:
    """Forecast and truth (init_time, lead_time, y, x)."""
    valid = forecast["valid_time"].to_numpy()
    observed = truth[name].reindex(time=valid.ravel()).to_numpy().reshape(forecast[name].shape)
    return forecast[name].to_numpy().astype(float), observed.astype(float)


def score(forecast: xr.Dataset, truth: xr.Dataset, metric: object, **options: object) -> np.ndarray:
    """By lead time."""
    return (
        evaluate(forecast, truth, metrics=[metric], **options)["t2m"].sel(source="forecast").isel(metric=0).to_numpy()
    )


def test_metrics_stand_in_the_order_in_which_they_are_asked_for() -> None:
    scores = evaluate(FORECAST, SERIES, metrics=["fss:280:3", MAPE(10), "rmse", "psnr:60"], reference=["persistence"])
    assert scores["metric"].to_numpy().tolist() == ["fss:280:3", "mape:10", "rmse", "psnr:60"]
    assert scores["t2m"].dims == ("source", "metric", "lead_time")
    assert scores.attrs["mape:10"] == "of cells with a truth of 10 or more"
    assert scores.attrs["fss:280:3"] == "of values above 280 in windows of 3x3 cells"
    assert scores.attrs["psnr:60"] == "of each frame, cells alike, data range 60"
    assert "rmse" not in scores.attrs
    usual = evaluate(FORECAST, SERIES, reference=["persistence"]).sel(metric=["rmse"])
    np.testing.assert_array_equal(scores["t2m"].sel(metric=["rmse"]), usual["t2m"])


def test_anomaly_correlation_is_that_of_loops() -> None:
    forecast, truth = with_holes(FORECAST, 0.05), with_holes(SERIES, 0.02, seed=1)
    climatology = Climatology.fit(SERIES.isel(time=slice(40)))
    area = Grid.of(SERIES).cell_area().to_numpy()[:, None]
    predicted, observed = frames_of(forecast, truth)
    by_frame = np.empty((len(INITS), 2))
    for init, lead in itertools.product(range(len(INITS)), range(2)):
        cycle = climatology.at("t2m", forecast["valid_time"].to_numpy()[init, lead][None])[0]
        first, second = predicted[init, lead] - cycle, observed[init, lead] - cycle
        weight = area * np.isfinite(first + second)
        first, second = np.nan_to_num(first), np.nan_to_num(second)
        product, squares = (weight * first * second).sum(), (weight * first**2).sum() * (weight * second**2).sum()
        by_frame[init, lead] = product / np.sqrt(squares)
    result = score(forecast, truth, ACC(), training=SERIES.isel(time=slice(40)))
    np.testing.assert_allclose(result, by_frame.mean(axis=0), rtol=1e-6)
    assert (np.abs(result) < 1).all()


def test_anomalies_of_the_truth_correlate_by_one_and_those_of_the_climatology_not_at_all() -> None:
    right = FORECAST.copy(deep=True)
    right["t2m"].data = frames_of(FORECAST, SERIES)[1]
    mirrored = right.copy(deep=True)
    climatology = Climatology.fit(SERIES)
    cycle = climatology.predict(SERIES, init_times=INITS, horizon=2)
    mirrored["t2m"].data = 2 * cycle["t2m"].to_numpy().astype(float) - right["t2m"].to_numpy()
    references = {"mirrored": mirrored, "climatology": climatology}
    scores = evaluate(right, SERIES, reference=references, metrics=["acc"])["t2m"].isel(metric=0)
    np.testing.assert_allclose(scores.sel(source="forecast"), 1)
    np.testing.assert_allclose(scores.sel(source="mirrored"), -1, rtol=1e-6)
    assert scores.sel(source="climatology").isnull().all()


def test_a_correlation_needs_a_training_part_which_the_split_can_name() -> None:
    with pytest.raises(StforecastError, match="neither the truth nor the forecast carries a split; pass training="):
        evaluate(FORECAST, SERIES, metrics=["acc"])
    split = stf.Split(
        train=("2016-01-01", "2016-01-08"), validation=("2016-01-09", "2016-01-10"), test=("2016-01-11", "2016")
    )
    carrying = SERIES.assign_attrs(split=split.to_json())
    scores = evaluate(FORECAST, carrying, metrics=["acc"])
    assert (scores.attrs["training_start"], scores.attrs["training_end"]) == ("2016-01-01T00:00", "2016-01-08T18:00")
    expected = evaluate(FORECAST, SERIES, metrics=["acc"], training=SERIES.sel(time=slice("2016-01-01", "2016-01-08")))
    xr.testing.assert_allclose(scores, expected)


def test_percentages_are_of_cells_where_enough_is_counted() -> None:
    city = make_city(200, shape=(16, 12))
    forecast = Persistence().predict(city, init_times=city["time"].to_numpy()[100:150], horizon=3)
    predicted, observed = (some[:, :, :, :] for some in frames_of(forecast, city, "inflow"))
    for metric, least in (("mape:10", 10), ("mape", 1), (MAPE(25), 25)):
        result = evaluate(forecast, city, metrics=[metric])["inflow"].isel(source=0, metric=0)
        for lead in range(3):
            counts = observed[:, lead] >= least
            share = np.abs(predicted[:, lead] - observed[:, lead])[counts] / observed[:, lead][counts]
            np.testing.assert_allclose(result[lead], 100 * share.mean())


def test_no_cell_that_counts_is_no_score() -> None:
    assert np.isnan(score(FORECAST, SERIES, "mape:1000")).all()


def test_peak_signal_to_noise_is_averaged_over_frames() -> None:
    predicted, observed = frames_of(FORECAST, SERIES)
    by_frame = 20 * np.log10(50 / np.sqrt(np.square(predicted - observed).mean(axis=(2, 3))))
    np.testing.assert_allclose(score(FORECAST, SERIES, "psnr:50"), by_frame.mean(axis=0), rtol=1e-6)
    right = FORECAST.assign(t2m=FORECAST["t2m"].copy(data=observed))
    assert np.isinf(score(right, SERIES, "psnr:50")).all()


def slow_ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """Of one frame, window by window."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    first, second = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = []
    for row, column in itertools.product(range(x.shape[0] - 10), range(x.shape[1] - 10)):
        a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        covariance = (window * (a - mean_a) * (b - mean_b)).sum()
        luminance = (2 * mean_a * mean_b + first) / (mean_a**2 + mean_b**2 + first)
        found.append(luminance * (2 * covariance + second) / (variance_a + variance_b + second))
    return float(np.mean(found))


def test_structural_similarity_is_the_papers_formula_window_by_window() -> None:
    predicted, observed = frames_of(FORECAST, SERIES)
    expected = [[slow_ssim(predicted[i, k], observed[i, k], 40.0) for k in range(2)] for i in range(len(INITS))]
    np.testing.assert_allclose(score(FORECAST, SERIES, SSIM(40.0)), np.mean(expected, axis=0), rtol=1e-6)
    right = FORECAST.assign(t2m=FORECAST["t2m"].copy(data=observed))
    np.testing.assert_allclose(score(right, SERIES, "ssim:40"), 1)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 14])
def test_fractions_skill_is_that_of_the_package_scores(window: int) -> None:
    predicted, observed = (xr.DataArray(some, dims=("init", "lead", "y", "x")) for some in frames_of(FORECAST, SERIES))
    expected = fss_2d(
        predicted,
        observed,
        event_threshold=284.0,
        window_size=(window, window),
        spatial_dims=("y", "x"),
        preserve_dims=["lead"],
    )
    result = score(FORECAST, SERIES, FSS(284.0, window))
    np.testing.assert_allclose(result, expected)
    assert ((result > 0) & (result <= 1)).all()


def test_frames_with_a_missing_cell_have_no_part_in_what_looks_at_whole_frames() -> None:
    truth = SERIES.copy(deep=True)
    truth["t2m"][45, 3, 4] = np.nan
    whole = [row for row in range(len(INITS)) if row != 4]  # the frame 45 is one step behind init time 4
    for metric in ("ssim:40", "fss:284:3"):
        result = score(FORECAST, truth, metric)
        np.testing.assert_allclose(result[0], score(FORECAST.isel(init_time=whole), SERIES, metric)[0])
        assert result[1] != score(FORECAST.isel(init_time=whole), SERIES, metric)[1]


ALL = ["bias", "mae", "rmse", "acc", "mape:284", "psnr:60", "ssim:60", "fss:284:3"]


@pytest.mark.parametrize("chunks", [None, {"init_time": 4, "latitude": 5}])
def test_metrics_of_blocks_combine_to_those_of_the_whole(
    chunks: dict[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    forecast, truth = FORECAST, with_holes(SERIES, 0.0002, seed=3)
    options = {"metrics": ALL, "training": SERIES, "by": ["hour"], "confidence": 0.9, "resamples": 20}
    whole = evaluate(forecast, truth, reference=["same_time_yesterday"], **options)
    monkeypatch.setattr(baselines, "BLOCK_BYTES", 7 * 2 * 14 * 16 * 8)  # seven init times
    if chunks is not None:
        forecast, truth = forecast.chunk(chunks), truth.chunk(time=7)
    blocks = evaluate(forecast, truth, reference=["same_time_yesterday"], **options)
    xr.testing.assert_allclose(blocks, whole)
    assert blocks.attrs == whole.attrs


def peak_of(forecast: xr.Dataset, truth: xr.Dataset) -> int:
    """Bytes that scoring holds at once, at most."""
    tracemalloc.start()
    evaluate(forecast, truth, reference=["persistence"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_lazy_forecast_is_held_in_memory_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    long = make_series(204, shape=(48, 64))
    forecast = Persistence().predict(long, init_times=long["time"].to_numpy()[:-4], horizon=4).chunk(init_time=10)
    lazy = forecast.map(lambda variable: variable * 1.0, keep_attrs=True)  # made anew whenever a block is read
    peak_of(lazy.isel(init_time=slice(10)), long.chunk(time=50))
    whole = peak_of(lazy, long.chunk(time=50))
    monkeypatch.setattr(baselines, "BLOCK_BYTES", 2**21)  # of 19 · 2**20
    assert peak_of(lazy, long.chunk(time=50)) < whole / 5
    assert lazy["t2m"].chunks is not None


def test_a_published_score_is_a_sum_over_the_frame() -> None:
    city = make_city(200, shape=(5, 4))
    forecast = Persistence().predict(city, init_times=city["time"].to_numpy()[100:150], horizon=4)
    scores = evaluate(forecast, city, reference=["same_time_yesterday"], protocol="openstl")
    assert scores["metric"].to_numpy().tolist() == ["mse", "mae"]
    errors = {name: np.subtract(*frames_of(forecast, city, name)) for name in city.data_vars}
    for name, error in errors.items():
        one = scores[name].sel(source="forecast")
        np.testing.assert_allclose(one.sel(metric="mse"), (error**2).mean(axis=0).sum(axis=(1, 2)))
        np.testing.assert_allclose(one.sel(metric="mae"), np.abs(error).mean(axis=0).sum(axis=(1, 2)))
    stacked = np.stack(list(errors.values()), axis=2)  # (sample, time, channel, y, x)
    published = (stacked**2).mean(axis=(0, 1)).sum(), np.abs(stacked).mean(axis=(0, 1)).sum()
    np.testing.assert_allclose(scores["published"].sel(source="forecast"), published)
    assert scores.attrs["area_weighting"] == "none, as published"
    weather = evaluate(FORECAST, SERIES, protocol="openstl")
    error = np.subtract(*frames_of(FORECAST, SERIES))
    np.testing.assert_allclose(weather["published"].isel(source=0)[0], (error**2).mean(axis=(0, 1)).sum(), rtol=1e-6)


def test_sums_of_a_frame_are_those_of_its_cells() -> None:
    error = np.random.default_rng(0).standard_normal((3, 2, 4, 5))
    np.testing.assert_allclose(frame_sums(error, 2), (error**2).reshape(3, 2, -1).sum(axis=-1))
    np.testing.assert_allclose(frame_sums(error, 1), np.abs(error).reshape(3, 2, -1).sum(axis=-1))


def test_units_of_scores_are_those_of_the_metric() -> None:
    labels = ["bias", "rmse", "acc", "mape:10", "psnr:60", "ssim:60", "fss:1:3", "mse", "crps"]
    assert [units_of(label, "K") for label in labels] == ["K", "K", "1", "%", "dB", "1", "1", "(K)2", "K"]
    assert units_of("mse", "1") == "1"


@pytest.mark.parametrize(
    ("metrics", "match"),
    [
        (["mse"], "unknown metric 'mse'; there are, with numbers as such, bias, mae, rmse, acc, mape"),
        (["ssim"], "unknown metric 'ssim'.* ssim:60"),
        (["fss:300"], "fss:300:3"),
        (["psnr:a"], "'psnr:a' has no number after a colon"),
        ([], r"wanted one or more metrics, each once, not \[\]"),
        (["mae", "mae"], r"each once, not \['mae', 'mae'\]"),
        (["mape:0"], "cells with a truth above 0, not 0"),
        (["ssim:-1"], "data range of ssim must be above 0, not -1"),
        (["psnr:inf"], "data range of psnr must be above 0, not inf"),
        (["fss:300:0"], "at least 1 cell, not 0"),
        (["fss:300:15"], "windows of 15x15 cells but the grid has 14x16"),
    ],
)
def test_metrics_that_mean_nothing_are_refused(metrics: list[str], match: str) -> None:
    with pytest.raises(StforecastError, match=match) as error:
        evaluate(FORECAST, SERIES, metrics=metrics)
    assert error.value.kind == ErrorKind.ARGUMENT


def test_structural_similarity_needs_a_grid_of_one_window() -> None:
    small = make_series(60)
    forecast = Persistence().predict(small, init_times=small["time"].to_numpy()[30:40], horizon=1)
    with pytest.raises(StforecastError, match="ssim looks at windows of 11x11 cells but the grid has 4x6"):
        evaluate(forecast, small, metrics=["ssim:40"])


def test_an_unknown_protocol_or_one_with_metrics_is_refused() -> None:
    with pytest.raises(StforecastError, match="unknown protocol 'simvp'; there is 'openstl'"):
        evaluate(FORECAST, SERIES, protocol="simvp")
    with pytest.raises(StforecastError, match="the protocol names its metrics"):
        evaluate(FORECAST, SERIES, protocol="openstl", metrics=["mae"])


def test_a_metric_by_name_is_the_one_with_its_numbers() -> None:
    assert metric_of("mape:10") == MAPE(10.0)
    assert metric_of("psnr:60") == PSNR(60.0)
    assert metric_of("ssim:60").label == "ssim:60"
    assert evaluate(FORECAST, SERIES, metrics="mae")["metric"].to_numpy().tolist() == ["mae"]
