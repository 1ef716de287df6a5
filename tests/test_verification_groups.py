"""Scores by region, season and hour: each is that of the same frames and cells alone."""

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series

from stforecast.baselines import Persistence
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid
from stforecast.verification import evaluate, region_masks, score_table

YEAR = make_series(400, shape=(8, 12), step="24h", absent=(100, 101))
TIMES = YEAR["time"].to_numpy()
FORECAST = Persistence().predict(YEAR, init_times=TIMES[5:380], horizon=3)
DAY = make_series(80, shape=(8, 12), step="3h")
OF_A_DAY = Persistence().predict(DAY, init_times=DAY["time"].to_numpy()[10:70], horizon=3)


def test_seasons_are_those_of_the_valid_time() -> None:
    scores = evaluate(FORECAST, YEAR, reference=["persistence"], by=["season"])
    assert scores["t2m"].dims == ("source", "metric", "lead_time", "season")
    assert scores["season"].to_numpy().tolist() == ["DJF", "MAM", "JJA", "SON"]
    months = {"DJF": (12, 1, 2), "MAM": (3, 4, 5), "JJA": (6, 7, 8), "SON": (9, 10, 11)}
    month = YEAR["time"].dt.month
    for season, own in months.items():
        truth = YEAR.isel(time=month.isin(own).to_numpy())
        expected = evaluate(FORECAST, truth)
        result = scores.sel(season=season, source=["forecast"])
        np.testing.assert_allclose(result["t2m"], expected["t2m"])
        np.testing.assert_array_equal(result["sample_size"], expected["sample_size"])


def test_groups_and_regions_together_make_up_the_whole() -> None:
    halves = {"south": (slice(-90, 0), slice(None)), "north": (slice(0, 90), slice(None))}
    scores = evaluate(OF_A_DAY, DAY, by=["season", "hour"], regions=halves)
    assert scores["t2m"].dims == ("source", "metric", "lead_time", "region", "season", "hour")
    assert scores["hour"].to_numpy().tolist() == [0, 3, 6, 9, 12, 15, 18, 21]
    assert scores["region"].to_numpy().tolist() == ["south", "north"]
    assert scores.attrs["clock"] == "season and hour of the valid time, UTC"
    whole = evaluate(OF_A_DAY, DAY)["t2m"].sel(metric="bias")
    # Both halves have the same area, so only the number of init times weighs.
    sums = scores["t2m"].sel(metric="bias").mean("region") * scores["sample_size"].isel(region=0)
    np.testing.assert_allclose(
        sums.sum(["season", "hour"]) / scores["sample_size"].isel(region=0).sum(["season", "hour"]), whole, atol=1e-9
    )
    assert scores["t2m"].sel(season="JJA").isnull().all()
    assert (scores["sample_size"].sum(["season", "hour"]).isel(region=0) == 60).all()


def test_hours_are_those_of_the_citys_clock() -> None:
    city = make_city(200)
    forecast = Persistence().predict(city, init_times=city["time"].to_numpy()[100:196], horizon=2)
    scores = evaluate(forecast, city, by="hour")
    assert scores.attrs["clock"] == "season and hour of the valid time, America/New_York"
    assert scores["hour"].to_numpy().tolist() == list(range(24))
    valid = forecast["valid_time"].isel(lead_time=1).to_numpy()
    rush = forecast.isel(init_time=np.flatnonzero(valid.astype("M8[h]").astype(int) % 24 == 8), lead_time=[1])
    expected = evaluate(rush, city)["inflow"]
    np.testing.assert_allclose(scores["inflow"].sel(hour=8).isel(lead_time=[1]), expected)


def test_a_region_is_scored_as_the_data_cut_to_it() -> None:
    box = {"box": (slice(-30, 40), slice(60, 180))}
    scores = evaluate(FORECAST, YEAR, regions=box)
    # Outer bounds of a cut are extrapolated, and here rows are evenly spaced, so areas agree.
    cut = {"latitude": slice(-30, 40), "longitude": slice(60, 180)}
    expected = evaluate(FORECAST.sel(cut), YEAR.sel(cut))
    np.testing.assert_allclose(scores["t2m"].sel(region="box"), expected["t2m"])


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("west", [0.0, -180.0])
def test_f12_regions_are_cut_by_label_whatever_the_order_and_across_the_seam(descending: bool, west: float) -> None:
    longitude = west + np.arange(0, 360, 30.0)
    dataset = xr.Dataset(coords={"lat": np.arange(-60, 61, 20.0), "lon": longitude})
    dataset = dataset.isel(lat=slice(None, None, -1)) if descending else dataset
    for slices, rows, columns in (
        ((slice(0, 40), slice(330, 30)), {0, 20, 40}, {330, 0, 30}),
        ((slice(40, 0), slice(-30, 30)), {0, 20, 40}, {330, 0, 30}),
        ((slice(None, -35), slice(150, 210)), {-60, -40}, {150, 180, 210}),
        ((slice(60, None), slice(0, 360)), {60}, set(range(0, 360, 30))),
        ((slice(None), slice(-180, 180)), set(range(-60, 61, 20)), set(range(0, 360, 30))),
    ):
        mask = region_masks(dataset, {"box": slices})["box"]
        assert set(dataset["lat"].to_numpy()[mask.any(axis=1)].tolist()) == rows
        assert {value % 360 for value in dataset["lon"].to_numpy()[mask.any(axis=0)].tolist()} == columns
        assert mask.sum() == len(rows) * len(columns)


def test_a_mask_is_matched_by_label() -> None:
    rng = np.random.default_rng(0)
    land = xr.DataArray(
        rng.random((8, 12)) > 0.4, dims=("latitude", "longitude"), coords=YEAR.isel(time=0).drop_vars("time").coords
    )
    flipped = land.isel(latitude=slice(None, None, -1)).roll(longitude=6, roll_coords=True).transpose()
    flipped = flipped.assign_coords(longitude=(flipped["longitude"] + 180) % 360 - 180)
    np.testing.assert_array_equal(region_masks(FORECAST, {"land": flipped})["land"], land)
    scores = evaluate(FORECAST, YEAR, regions={"land": flipped, "sea": ~land})
    for name, mask in (("land", land), ("sea", ~land)):
        np.testing.assert_allclose(scores["t2m"].sel(region=name), evaluate(FORECAST.where(mask), YEAR)["t2m"])


def test_a_region_of_a_city_is_cut_by_rows_and_columns() -> None:
    city = make_city(60)
    forecast = Persistence().predict(city, init_times=city["time"].to_numpy()[20:50], horizon=1)
    scores = evaluate(forecast, city, regions={"corner": (slice(0, 1), slice(2, 3))})
    expected = evaluate(forecast.isel(row=[0, 1], column=[2, 3]), city.isel(row=[0, 1], column=[2, 3]))
    np.testing.assert_allclose(scores["inflow"].sel(region="corner"), expected["inflow"])


def test_levels_regions_and_seasons_have_tables_of_their_own() -> None:
    series = make_series(60, levels=(850.0, 500.0))
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[30:50], horizon=1)
    scores = evaluate(forecast, series, by=["hour"], regions={"north": (slice(0, 90), slice(None))}, metrics=["mape"])
    assert scores["t2m"].dims == ("source", "metric", "lead_time", "level", "region", "hour")
    titles = [line for line in score_table(scores, metric="mape").splitlines() if line and not line.startswith("|")]
    assert len(titles) == 8
    assert titles[0] == "t2m (%), mape, level 850, north, hour 0"


@pytest.mark.parametrize(
    ("regions", "kind", "match"),
    [
        ({"pole": (slice(80, 90), slice(None))}, ErrorKind.EMPTY_SELECTION, "region pole has no cell of the grid 8x12"),
        ({"a": "europe"}, ErrorKind.ARGUMENT, "region a must be two slices.* not str"),
        ({"a": (30, 60)}, ErrorKind.ARGUMENT, "must be two slices"),
        (
            {
                "a": xr.DataArray(
                    np.ones((3, 4), bool), coords={"lat": [0, 1, 2], "lon": [0, 1, 2, 3]}, dims=("lat", "lon")
                )
            },
            ErrorKind.GRID_SHAPE,
            "the mask of region a: wanted the grid 8x12",
        ),
    ],
)
def test_regions_that_are_none_are_refused(regions: dict, kind: ErrorKind, match: str) -> None:
    with pytest.raises(StforecastError, match=match) as error:
        evaluate(FORECAST, YEAR, regions=regions)
    assert error.value.kind == kind


@pytest.mark.parametrize("by", [["month"], ["season", "season"]])
def test_groups_that_mean_nothing_are_refused(by: list[str]) -> None:
    with pytest.raises(StforecastError, match="told apart by season or hour, each once"):
        evaluate(FORECAST, YEAR, by=by)


def test_a_mask_keeps_the_order_of_the_grid() -> None:
    masks = region_masks(FORECAST, {"all": (slice(None), slice(None))})
    assert masks["all"].shape == Grid.of(FORECAST).shape
    assert masks["all"].all()
