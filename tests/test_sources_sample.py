"""Generated data: in the providers' layouts, labelled, the same for the same seed, and worth learning from."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources import open_dataset
from stforecast.sources.sample import write_sample
from stforecast.time_axis import find_gaps, time_step


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weather")
    write_sample("weather", folder, years=2)
    return folder


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traffic")
    write_sample("traffic", folder, days=28)
    return folder


def rmse(error: np.ndarray) -> float:
    return float(np.sqrt((error**2).mean()))


def test_weather_is_a_tree_of_weatherbench(weather: Path) -> None:
    files = sorted(str(path.relative_to(weather)) for path in weather.rglob("*") if path.is_file())
    assert files == [
        f"{name}/{name}_{year}_5.625deg.nc" for name in ("2m_temperature", "geopotential_500") for year in (2016, 2017)
    ]
    series = open_dataset(weather)
    assert {name: variable.attrs["units"] for name, variable in series.items()} == {"t2m": "K", "z": "m**2 s**-2"}
    assert dict(series.sizes) == {"time": (366 + 365) * 4, "lat": 32, "lon": 64}
    assert (series["lat"][0], series["lat"][-1], series["lon"][-1]) == (-87.1875, 87.1875, 354.375)
    assert "Generated" in series.attrs["title"]
    assert find_gaps(series["time"].to_numpy(), np.timedelta64(6, "h")) == []


def test_traffic_is_in_the_layout_of_taxibj(traffic: Path) -> None:
    assert sorted(path.name for path in traffic.iterdir()) == ["BJ13_M32x32_T30_InOut.h5", "BJ14_M32x32_T30_InOut.h5"]
    with h5py.File(traffic / "BJ13_M32x32_T30_InOut.h5") as file:
        assert file["date"][0] == b"2013070101"
        assert file["date"].dtype == "S10"
        assert file["data"].dtype == np.float64
        assert "Generated" in file.attrs["title"]
    series = open_dataset(traffic)
    times = series["time"].to_numpy()
    assert time_step(times) == np.timedelta64(30, "m")
    assert 0.05 < 1 - len(times) / (2 * 28 * 48) < 0.1  # 7 % absent, as in BJ16
    assert len(find_gaps(times, np.timedelta64(30, "m"))) > 5
    values = series.to_dataarray().to_numpy()
    assert (values == values.round()).all()
    assert values.min() == 0
    assert 500 < values.max() < 3000


@pytest.mark.parametrize(("kind", "sizes"), [("weather", {"years": 1, "step_hours": 24}), ("traffic", {"days": 3})])
def test_the_seed_decides_every_value(tmp_path: Path, kind: str, sizes: dict[str, int]) -> None:
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        write_sample(kind, tmp_path / name, seed=seed, **sizes)
    first, again, other = (open_dataset(tmp_path / name).compute() for name in ("first", "again", "other"))
    xr.testing.assert_identical(first, again)
    assert not first.equals(other)


def test_writing_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    paths = write_sample("traffic", tmp_path, periods=1, days=2)
    assert write_sample("traffic", tmp_path, periods=1, days=2) == paths == list(tmp_path.iterdir())


def test_waves_travel_so_that_following_them_beats_persistence_and_climatology(weather: Path) -> None:
    z = open_dataset(weather)["z"].sel(lat=47.8125).to_numpy()
    anomaly = z - z.mean(axis=1, keepdims=True)
    train, test, lead = anomaly[:1460], anomaly[1464:], 8  # 2 days
    # A turn and a fading of each zonal wave, learned on the first year.
    waves = np.fft.rfft(train, axis=1)
    factor = (waves[:-lead].conj() * waves[lead:]).sum(0) / (np.abs(waves[:-lead]) ** 2).sum(0)
    forecast = np.fft.irfft(np.fft.rfft(test[:-lead], axis=1) * factor, n=64, axis=1)
    skilled = rmse(forecast - test[lead:])
    assert skilled < 0.6 * rmse(test[:-lead] - test[lead:])
    assert skilled < 0.8 * rmse(test[lead:])


def test_temperature_knows_latitude_season_and_hour(weather: Path) -> None:
    t2m = open_dataset(weather)["t2m"].compute()
    by_latitude = t2m.mean(("time", "lon"))
    assert by_latitude.sel(lat=0, method="nearest") > by_latitude.sel(lat=85, method="nearest") + 30
    north = t2m.sel(lat=slice(30, 70)).mean(("lat", "lon"))
    assert north.sel(time="2016-07").mean() > north.sel(time="2016-01").mean() + 5
    hours = t2m.sel(lat=slice(-20, 20), lon=0).mean("lat").groupby("time.hour").mean()
    assert int(hours.idxmax()) == 12
    assert 220 < float(t2m.min()) < float(t2m.max()) < 325


def test_weather_goes_on_over_new_year(weather: Path) -> None:
    z = open_dataset(weather)["z"].to_numpy()
    steps = np.sqrt((np.diff(z, axis=0) ** 2).mean((1, 2)))
    assert steps[366 * 4 - 1] < 1.3 * np.median(steps)


def test_commuters_fill_the_centre_in_the_morning_and_leave_it_at_night(traffic: Path) -> None:
    series = open_dataset(traffic).compute()
    times = series["time"]
    workday = series.isel(time=(times.dt.dayofweek < 5).to_numpy())
    centre = workday.isel(row=slice(14, 18), column=slice(14, 18)).mean(("row", "column"))
    morning, evening = ((centre["time"].dt.hour == hour).to_numpy() for hour in (7, 18))
    assert centre["inflow"][morning].mean() > 1.4 * centre["outflow"][morning].mean()
    assert centre["outflow"][evening].mean() > 1.4 * centre["inflow"][evening].mean()
    weekend = series.isel(time=((times.dt.dayofweek >= 5) & (times.dt.hour == 8)).to_numpy())
    assert weekend["inflow"].mean() < 0.5 * workday["inflow"][(workday["time"].dt.hour == 8).to_numpy()].mean()


def test_now_and_the_usual_together_beat_either(traffic: Path) -> None:
    series = open_dataset(traffic)["inflow"].compute()
    times, values = series["time"].to_numpy(), series.to_numpy()
    hour_of_week = ((times - np.datetime64("2013-07-01")) // np.timedelta64(30, "m") % 336).astype(int)
    usual = np.stack([values[hour_of_week == slot].mean(0) for slot in range(336)])[hour_of_week]
    consecutive = np.diff(times) == np.timedelta64(30, "m")
    before, after = values[:-1][consecutive], values[1:][consecutive]
    usual_before, usual_after = usual[:-1][consecutive], usual[1:][consecutive]
    skilled = rmse(usual_after * (before + 3) / (usual_before + 3) - after)
    assert skilled < 0.7 * rmse(before - after)
    assert skilled < 0.8 * rmse(usual_after - after)


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        ("rain", {}, "unknown sample 'rain'; there are weather, traffic"),
        ("weather", {"years": 0}, "wanted years from 1 to 200, got 0"),
        ("weather", {"step_hours": 7}, "wanted step_hours that divide a day, got 7"),
        ("traffic", {"periods": 5}, "wanted periods from 1 to 4, got 5"),
        ("traffic", {"days": 300}, "wanted days from 1 to 240, got 300"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, kind: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(StforecastError, match=message) as caught:
        write_sample(kind, tmp_path, **sizes)
    assert caught.value.kind == ErrorKind.ARGUMENT
