import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series, make_times
from real_data import REAL_DATA, needs_real_data

from stforecast import baselines
from stforecast.baselines import DampedAnomalyPersistence, Persistence, SeasonalPersistence, fit_references
from stforecast.errors import ErrorKind, StforecastError
from stforecast.split import Split
from stforecast.verification import METRICS, evaluate, score_table

DAY = np.timedelta64(1, "D")


def truth_with_holes(**options: object) -> xr.Dataset:
    """Seventeen days with a gap, with NaNs in some cells."""
    series = make_series(68, absent=(33, 34, 60), **options)
    rng = np.random.default_rng(4)
    return series.map(lambda variable: variable.where(rng.random(variable.shape) > 0.03), keep_attrs=True)


def inits_of(series: xr.Dataset) -> np.ndarray:
    return series["time"].to_numpy()[40:-1]


def test_a_truth_may_reach_further_than_the_forecast() -> None:
    series = make_series(68, shape=(6, 12))
    region = series.isel(latitude=slice(1, 4), longitude=slice(3, 8))
    forecast = Persistence().predict(region, init_times=inits_of(region), horizon=3)
    west = series.assign_coords(longitude=(series["longitude"] + 180) % 360 - 180).sortby("longitude")
    training = region.isel(time=slice(40))
    expected = evaluate(forecast, region, reference=["climatology"], training=training)
    for truth in (series, west, west.isel(latitude=slice(None, None, -1))):
        found = evaluate(forecast, truth, reference=["climatology"], training=training)
        xr.testing.assert_identical(found, expected)


def test_scores_in_threads_leave_xarray_as_it_was() -> None:
    series = make_series(48)
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[40:44], horizon=2)
    before = dict(xr.get_options())
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: evaluate(forecast, series), range(16)))
    for scores in found:
        xr.testing.assert_identical(scores, found[0])
    assert dict(xr.get_options()) == before


def shifted(forecast: xr.Dataset, by: float) -> xr.Dataset:
    return forecast.map(lambda variable: variable + by, keep_attrs=True)


def perfect(series: xr.Dataset, inits: np.ndarray, horizon: int = 3) -> xr.Dataset:
    """A forecast of the truth itself, NaN where there is none."""
    forecast = Persistence().predict(series, init_times=inits, horizon=horizon)
    valid = forecast["valid_time"].to_numpy().ravel()
    for name in series.data_vars:
        forecast[name].data = series[name].reindex(time=valid).to_numpy().reshape(forecast[name].shape)
    return forecast


def slow_scores(sources: dict[str, xr.Dataset], truth: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(source, metric, lead_time) and the sample size, by loops over init times, lead times and cells."""
    first = next(iter(sources.values()))
    area = np.sin(np.deg2rad(truth["latitude"] + 20)) - np.sin(np.deg2rad(truth["latitude"] - 20))
    area = dict(zip(truth["latitude"].to_numpy(), area.to_numpy(), strict=True))
    sums = np.zeros((len(sources), 3, first.sizes["lead_time"]))
    weights, sizes = np.zeros(first.sizes["lead_time"]), np.zeros(first.sizes["lead_time"], int)
    for lead, init in itertools.product(range(len(weights)), range(first.sizes["init_time"])):
        valid = first["valid_time"].to_numpy()[init, lead]
        if valid not in truth["time"].to_numpy():
            continue
        has_part = False
        for latitude, longitude in itertools.product(truth["latitude"].to_numpy(), truth["longitude"].to_numpy()):
            cell = {"latitude": latitude, "longitude": longitude}
            actual = float(truth[name].sel(time=valid, **cell))
            errors = [
                float(source[name].isel(init_time=init, lead_time=lead).sel(cell)) - actual
                for source in sources.values()
            ]
            if np.isfinite(errors).all():
                has_part = True
                weights[lead] += area[latitude]
                for row, error in enumerate(errors):
                    sums[row, :, lead] += area[latitude] * np.array([error, abs(error), error**2])
        sizes[lead] += has_part
    means = sums / weights
    means[:, 2] = np.sqrt(means[:, 2])
    return means, sizes


def test_scores_are_those_of_loops_over_the_common_sample() -> None:
    series = truth_with_holes(shape=(4, 3))
    forecast = shifted(Persistence().predict(series, init_times=inits_of(series), horizon=3), 0.5)
    references = {"yesterday": SeasonalPersistence(DAY), "damped": DampedAnomalyPersistence.fit(series, horizon=3)}
    predicted = {name: one.predict(series, init_times=inits_of(series), horizon=3) for name, one in references.items()}
    scores = evaluate(forecast, series, reference=references)
    expected, sizes = slow_scores({"forecast": forecast} | predicted, series, "t2m")
    assert scores["t2m"].dims == ("source", "metric", "lead_time")
    np.testing.assert_allclose(scores["t2m"], expected, rtol=1e-6)  # float32 data
    np.testing.assert_array_equal(scores["sample_size"], sizes)
    assert scores["source"].to_numpy().tolist() == ["forecast", "yesterday", "damped"]
    assert scores["metric"].to_numpy().tolist() == list(METRICS) == ["bias", "mae", "rmse"]


def test_a_perfect_forecast_has_no_error_and_a_constant_one_its_own() -> None:
    series = truth_with_holes(variables=("t", "q"))
    right, wrong = perfect(series, inits_of(series)), shifted(perfect(series, inits_of(series)), -2.0)
    scores = evaluate(wrong, series, reference={"right": right})
    for name in ("t", "q"):
        np.testing.assert_allclose(scores[name].sel(source="forecast").transpose("lead_time", ...), [[-2, 2, 2]] * 3)
        np.testing.assert_array_equal(scores[name].sel(source="right"), 0)
        assert scores[name].attrs["units"] == "K"


def two_rows(errors: list[float], latitudes: list[float]) -> tuple[xr.Dataset, xr.Dataset]:
    """A forecast of one step that errs by so much in each row of cells, and the truth."""
    series = make_series(4, shape=(2, 3)).assign_coords(latitude=("latitude", latitudes, {"units": "degrees_north"}))
    series["t2m"] = xr.full_like(series["t2m"], 280.0)
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[1], horizon=1)
    forecast["t2m"] = (forecast["t2m"] + xr.DataArray(errors, dims="latitude")).assign_attrs(units="K")
    return forecast, series


def test_rows_are_weighted_by_the_area_between_their_bounds() -> None:
    forecast, truth = two_rows([3.0, 0.0], [0.0, 60.0])
    # Cells reach from -30 to 30 and from 30 to 90 degrees: sin 30 + sin 30 = 1 and sin 90 - sin 30 = 1/2.
    expected = [3 * 2 / 3, 3 * 2 / 3, np.sqrt(9 * 2 / 3)]
    scores = evaluate(forecast, truth)
    np.testing.assert_allclose(scores["t2m"].squeeze(), expected)
    assert scores.attrs["area_weighting"] == "area of the cells"


def test_the_root_comes_after_the_mean() -> None:
    forecast, truth = two_rows([3.0, 1.0], [-30.0, 30.0])
    # Equal areas: the root of (9 + 1) / 2, not the mean of 3 and 1.
    assert evaluate(forecast, truth)["t2m"].sel(metric="rmse").item() == pytest.approx(np.sqrt(5))
    series = make_series(60)
    inits = series["time"].to_numpy()[20:50]
    varying = Persistence().predict(series, init_times=inits, horizon=2)
    each = [evaluate(varying.isel(init_time=[row]), series)["t2m"].sel(metric="rmse") for row in range(30)]
    expected = np.sqrt(np.square(np.stack(each)).mean(axis=0))
    np.testing.assert_allclose(evaluate(varying, series)["t2m"].sel(metric="rmse"), expected)


def test_a_plane_has_equal_weights() -> None:
    city = make_city(96)
    forecast = Persistence().predict(city, init_times=city["time"].to_numpy()[40:90], horizon=2)
    scores = evaluate(forecast, city)
    error = forecast["inflow"].to_numpy()[:, 0] - city["inflow"].to_numpy()[41:91]
    result = scores["inflow"].sel(source="forecast").isel(lead_time=0)
    np.testing.assert_allclose(result, [error.mean(), abs(error).mean(), np.sqrt((error**2).mean())], atol=1e-6)
    assert scores.attrs["area_weighting"] == "none, the grid is a plane"


def test_levels_are_scored_each_for_itself() -> None:
    series = truth_with_holes(levels=(850.0, 500.0))
    forecast = shifted(Persistence().predict(series, init_times=inits_of(series), horizon=2), 1.0)
    scores = evaluate(forecast, series, reference=["same_time_yesterday"])
    assert scores["t2m"].dims == ("source", "metric", "lead_time", "level")
    for level in (850.0, 500.0):
        alone = evaluate(forecast.sel(level=[level]), series.sel(level=[level]), reference=["same_time_yesterday"])
        xr.testing.assert_allclose(scores["t2m"].sel(level=[level]), alone["t2m"])


def test_f07_f09_truth_may_have_other_names_order_precision_and_more_variables_than_the_forecast() -> None:
    series = truth_with_holes(variables=("t", "q"))
    forecast = Persistence().predict(series, init_times=inits_of(series), horizon=3)
    expected = evaluate(forecast[["t"]], series, reference=["persistence", "climatology"], training=series)
    other = series.rename(time="valid_time", latitude="lat", longitude="lon").isel(lat=slice(None, None, -1))
    other = other.transpose("lon", "valid_time", "lat").roll(lon=2, roll_coords=True)
    west = ((other["lon"] + 180) % 360 - 180).assign_attrs(units="degrees_east")
    other = other.assign_coords(lat=other["lat"].astype(np.float32), lon=west).sortby("lon")
    result = evaluate(forecast[["t"]], other, reference=["persistence", "climatology"], training=other)
    xr.testing.assert_allclose(result, expected, rtol=1e-6)
    assert result.attrs == expected.attrs


def test_only_what_every_source_has_is_scored() -> None:
    series = make_series(40)
    inits = series["time"].to_numpy()[10:30]
    forecast = shifted(perfect(series, inits), 1.0)
    other = shifted(forecast, 1.0).isel(init_time=slice(5, None))
    other["t2m"] = other["t2m"].where(other["latitude"] > 0)
    # Where the other forecast has nothing the first is far off, which then must not show.
    wrong = shifted(forecast, 100.0)
    forecast["t2m"] = forecast["t2m"].where(forecast["latitude"] > 0, wrong["t2m"]).assign_attrs(units="K")
    forecast["t2m"][:5] += 1000
    scores = evaluate(forecast, series, reference={"other": other})
    np.testing.assert_allclose(scores["t2m"].sel(metric="rmse"), [[1, 1, 1], [2, 2, 2]], rtol=1e-4)
    assert scores["sample_size"].to_numpy().tolist() == [15, 15, 15]
    assert scores.attrs["init_time_count"] == 15
    assert scores.attrs["init_time_start"] == str(inits[5].astype("M8[m]"))
    assert scores.attrs["init_time_end"] == str(inits[-1].astype("M8[m]"))


def test_the_sample_shrinks_where_the_truth_ends() -> None:
    series = make_series(30)
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[20:], horizon=4)
    scores = evaluate(forecast, series)
    assert scores["sample_size"].to_numpy().tolist() == [9, 8, 7, 6]
    assert scores.attrs["init_time_count"] == 9


def test_lead_times_that_another_forecast_lacks_are_nan_for_all() -> None:
    series = make_series(40)
    inits = series["time"].to_numpy()[10:30]
    forecast = Persistence().predict(series, init_times=inits, horizon=3)
    scores = evaluate(forecast, series, reference={"short": forecast.isel(lead_time=slice(2))})
    assert scores["t2m"].isnull().all(("source", "metric")).to_numpy().tolist() == [False, False, True]
    assert scores["sample_size"].to_numpy().tolist() == [20, 20, 0]


def test_some_lead_times_are_scored_as_among_all() -> None:
    series = make_series(60)
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[30:50], horizon=4)
    reference = {"cycle": DampedAnomalyPersistence.fit(series, horizon=4)}
    whole = evaluate(forecast, series, reference=reference)
    some = evaluate(forecast.isel(lead_time=[1, 3]), series, reference=reference)
    xr.testing.assert_allclose(some, whole.isel(lead_time=[1, 3]))


@pytest.mark.parametrize("chunks", [None, {"init_time": 4, "latitude": 2}])
def test_scores_of_blocks_combine_to_those_of_the_whole(
    chunks: dict[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = truth_with_holes(variables=("t", "q"))
    forecast = Persistence().predict(series, init_times=inits_of(series), horizon=3)
    whole = evaluate(forecast, series, reference=["same_time_yesterday", "climatology"], training=series)
    monkeypatch.setattr(baselines, "BLOCK_BYTES", 5 * 3 * 24 * 8)  # five init times
    if chunks is not None:
        forecast, series = forecast.chunk(chunks), series.chunk(time=7)
    blocks = evaluate(forecast, series, reference=["same_time_yesterday", "climatology"], training=series)
    # Blocks move the last bits of the fit, and so here and there a float32 of the climatology.
    xr.testing.assert_allclose(blocks, whole, rtol=1e-6, atol=1e-6)
    assert blocks.attrs == whole.attrs


def test_references_are_fitted_on_the_training_period_of_the_truths_split() -> None:
    series = make_series(100)
    split = Split(
        train=("2016-01-01", "2016-01-15"), validation=("2016-01-16", "2016-01-17"), test=("2016-01-18", "2016")
    )
    carrying = series.assign_attrs(split=split.to_json())
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[70:90], horizon=2)
    names = ["persistence", "historical_average", "damped_anomaly_persistence"]
    training = series.sel(time=slice("2016-01-01", "2016-01-15"))
    assert json.loads(carrying.attrs["split"])["train"] == ["2016-01-01", "2016-01-15"]
    scores = evaluate(forecast, carrying, reference=names)
    xr.testing.assert_identical(scores, evaluate(forecast, series, reference=names, training=training))
    fitted = fit_references(names, training, horizon=2)
    xr.testing.assert_allclose(scores, evaluate(forecast, series, reference=fitted))
    assert (scores.attrs["training_start"], scores.attrs["training_end"]) == ("2016-01-01T00:00", "2016-01-15T18:00")


def test_references_that_learn_nothing_need_no_training_part() -> None:
    series = make_series(60)
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[30:50], horizon=2)
    scores = evaluate(forecast, series, reference="persistence")
    np.testing.assert_array_equal(scores["t2m"].sel(source="persistence"), scores["t2m"].sel(source="forecast"))
    assert evaluate(forecast, series)["source"].to_numpy().tolist() == ["forecast"]


def test_paths_are_told_how_to_be_opened() -> None:
    with pytest.raises(TypeError, match="forecast must be an xarray.Dataset, not str; open a path by open_forecast"):
        evaluate("forecast.nc", make_series())


def test_inputs_are_left_as_they_were() -> None:
    series = truth_with_holes()
    forecast = Persistence().predict(series, init_times=inits_of(series), horizon=3)
    before = series.copy(deep=True), forecast.copy(deep=True)
    evaluate(forecast, series, reference=["persistence", "climatology"], training=series)
    xr.testing.assert_identical(series, before[0])
    xr.testing.assert_identical(forecast, before[1])


SERIES = make_series(60)
FORECAST = Persistence().predict(SERIES, init_times=SERIES["time"].to_numpy()[30:50], horizon=2)


def in_units(dataset: xr.Dataset, units: str) -> xr.Dataset:
    return dataset.assign(t2m=dataset["t2m"].assign_attrs(units=units))


@pytest.mark.parametrize(
    ("truth", "kind", "match"),
    [
        (
            make_series(60).assign_coords(time=make_times(60, start="2017-05-01")),
            ErrorKind.TIME_RANGE,
            r"no valid time of the forecast \(2016-01-08T18:00 to 2016-01-13T18:00\) is a frame of the truth "
            r"\(2017-05-01T00:00 to 2017-05-15T18:00\)",
        ),
        (
            make_series(60, shape=(4, 8)),
            ErrorKind.GRID_SHAPE,
            "the truth: wanted the grid 4x6 .* but the data have 4x8",
        ),
        (in_units(SERIES, "degC"), ErrorKind.UNITS, "the truth has t2m in 'degC' but 'K' was wanted"),
        (SERIES.rename(t2m="t"), ErrorKind.VAR_MISSING, "the truth lacks t2m; it has t"),
        (make_series(60, levels=(500.0,)), ErrorKind.CHANNELS, "the truth has t2m with dimensions .* only one of them"),
        (SERIES.assign(t2m=SERIES["t2m"].drop_attrs(deep=False)), ErrorKind.UNITS, "variable t2m has no units"),
    ],
    ids=["disjoint times", "grid", "units", "variable", "level", "no units"],
)
def test_i10_f03_f08_truth_that_does_not_match_the_forecast_is_refused(
    truth: xr.Dataset, kind: ErrorKind, match: str
) -> None:
    with pytest.raises(StforecastError, match=match) as error:
        evaluate(FORECAST, truth, reference=["persistence"])
    assert error.value.kind == kind


@pytest.mark.parametrize(
    ("reference", "kind", "match"),
    [
        (["climatology"], ErrorKind.ARGUMENT, "neither the truth nor the forecast carries a split; pass training="),
        (["weather"], ErrorKind.ARGUMENT, "unknown reference.* weather; there are persistence"),
        ({"forecast": Persistence()}, ErrorKind.ARGUMENT, "'forecast' is what is scored; give the reference another"),
        (
            {"old": in_units(FORECAST, "degC")},
            ErrorKind.UNITS,
            "the reference old has t2m in 'degC' but 'K' was wanted",
        ),
        ({"old": FORECAST.isel(longitude=slice(4))}, ErrorKind.GRID_SHAPE, "the reference old: wanted the grid 4x6"),
        ({"old": SERIES}, ErrorKind.DIMS, "a forecast has the coordinates init_time"),
        (
            {"old": SeasonalPersistence(np.timedelta64(400, "D"))},
            ErrorKind.EMPTY_SELECTION,
            "wanted a sample on which the truth, forecast, old all have values, but old alone had none",
        ),
        (
            {"west": FORECAST.where(FORECAST["longitude"] < 180), "east": FORECAST.where(FORECAST["longitude"] >= 180)},
            ErrorKind.EMPTY_SELECTION,
            "each has some, but at different places",
        ),
    ],
)
def test_references_that_cannot_be_scored_are_refused(reference: object, kind: ErrorKind, match: str) -> None:
    with pytest.raises(StforecastError, match=match) as error:
        evaluate(FORECAST, SERIES, reference=reference)
    assert error.value.kind == kind


def test_a_split_whose_training_period_is_cut_off_is_refused() -> None:
    split = Split(train=("2015-01-01", "2015-06-30"), validation=("2015-07", "2015-12"), test=("2016", "2016"))
    truth = SERIES.assign_attrs(split=split.to_json())
    with pytest.raises(StforecastError, match=r"train period 2015-01-01..2015-06-30 holds no frame; the data run from"):
        evaluate(FORECAST, truth, reference=["climatology"])


def test_an_infinite_value_is_refused_and_not_left_out() -> None:
    forecast = FORECAST.copy(deep=True)
    forecast["t2m"][3, 1, 0, 0] = np.inf
    with pytest.raises(
        StforecastError, match=r"t2m of forecast has 1 infinite .* init time 2016-01-09T06:00, lead time 12"
    ):
        evaluate(forecast, SERIES)
    truth = SERIES.copy(deep=True)
    truth["t2m"][40] = -np.inf
    with pytest.raises(StforecastError, match="t2m of the truth has 48 infinite"):
        evaluate(FORECAST, truth)


def test_an_ensemble_is_refused() -> None:
    ensemble = FORECAST.expand_dims(member=[0, 1])
    with pytest.raises(StforecastError, match=r"dimension\(s\) member besides .* forecast.mean\('member', keep_attrs"):
        evaluate(ensemble, SERIES)


def test_a_lead_time_between_the_truths_steps_needs_no_reference() -> None:
    daily = SERIES.isel(time=slice(None, None, 4))
    scores = evaluate(FORECAST, daily)
    assert scores["sample_size"].to_numpy().tolist() == [5, 5]
    with pytest.raises(StforecastError, match="lead time 6 h is not a whole number of the truth's steps of 1 d"):
        evaluate(FORECAST, daily, reference=["persistence"])


def test_a_table_has_a_row_for_each_lead_time_and_a_column_for_each_source() -> None:
    scores = evaluate(
        shifted(perfect(SERIES, SERIES["time"].to_numpy()[30:50]), 2.0), SERIES, reference=["persistence"]
    )
    scores["t2m"].loc[{"source": "persistence", "metric": "mae"}] = [1.0, 10.25, np.nan]
    assert score_table(scores, metric="mae").splitlines() == [
        "t2m (K), mae",
        "",
        "| lead time | forecast | persistence | init times |",
        "| --------: | -------: | ----------: | ---------: |",
        "|       6 h |     2.00 |        1.00 |         20 |",
        "|      12 h |     2.00 |       10.25 |         20 |",
        "|      18 h |     2.00 |         nan |         20 |",
    ]


def test_tables_come_for_every_variable_and_level_with_decimals_that_fit() -> None:
    series = make_series(60, levels=(850.0, 500.0), variables=("z", "t"))
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[30:50], horizon=1)
    scores = evaluate(shifted(forecast, 50_000.0), series)
    titles = [line for line in score_table(scores, metric="bias").splitlines() if line and not line.startswith("|")]
    assert titles == [f"{name} (K), bias, level {level}" for name in ("z", "t") for level in (850, 500)]
    assert " 50000 |" in score_table(scores)
    with pytest.raises(StforecastError, match="unknown metric 'mse'; there are bias, mae, rmse"):
        score_table(scores, metric="mse")


def real_scores(path: str, names: tuple[str, ...]) -> xr.Dataset:
    """Scores of 1 to 8 steps on all frames of the last fifth, by references fitted on the first 70 %.

    Init times may lie before it, so that each lead time has the same valid times.
    """
    from stforecast import sources

    series = sources.open_dataset(REAL_DATA / path).load()
    times = series["time"].to_numpy()
    first = int(0.8 * len(times))
    references = fit_references(names, series.isel(time=slice(int(0.7 * len(times)))), horizon=8)
    predicted = {
        name: reference.predict(series, init_times=times[first - 8 : -1], horizon=8)
        for name, reference in references.items()
    }
    scores = evaluate(predicted["persistence"], series.isel(time=slice(first, None)), reference=predicted)
    assert (scores["sample_size"] == len(times) - first).all()
    return scores.sel(metric="rmse")


# What an independent calculation gave for the same frames.
@needs_real_data
def test_references_on_real_temperature_are_as_strong_as_they_are_known_to_be() -> None:
    scores = real_scores("ncep_air", ("persistence", "climatology", "damped_anomaly_persistence"))
    result = scores["air"].isel(lead_time=[0, 3, 7])  # 6, 24 and 48 h
    np.testing.assert_allclose(result.sel(source="persistence"), [2.20, 2.91, 3.76], atol=0.005)
    np.testing.assert_allclose(result.sel(source="climatology"), [3.54, 3.54, 3.54], atol=0.005)
    np.testing.assert_allclose(result.sel(source="damped_anomaly_persistence"), [1.39, 2.66, 3.20], atol=0.005)


@needs_real_data
def test_references_on_real_traffic_are_as_strong_as_they_are_known_to_be() -> None:
    names = (
        "persistence",
        "same_time_yesterday",
        "same_time_last_week",
        "historical_average",
        "damped_anomaly_persistence",
    )
    scores = real_scores("taxinyc/NYC16_M16x12_T30_InOut.h5", names)
    both = np.sqrt((scores["inflow"] ** 2 + scores["outflow"] ** 2) / 2).isel(lead_time=[0, 3])  # 30 min and 2 h
    expected = {
        "persistence": [17.64, 42.88],
        "same_time_yesterday": [34.30, 34.30],
        "same_time_last_week": [18.81, 18.81],
        "historical_average": [16.49, 16.49],  # 16.01 if the validation part is learnt from as well
        "damped_anomaly_persistence": [12.38, 15.53],  # 12.47 and 16.03 if it were not cut at zero
    }
    for name, values in expected.items():
        np.testing.assert_allclose(both.sel(source=name), values, atol=0.006)
