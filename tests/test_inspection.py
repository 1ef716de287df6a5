"""Inspection: what the data are, in numbers that agree with them, and every fault that they have."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from factory import make_city, make_series
from real_data import REAL_DATA, needs_real_data

from stforecast.errors import ErrorKind, StforecastError
from stforecast.inspection import Inspection, inspect
from stforecast.sources.sample import write_sample
from stforecast.split import Split
from stforecast.store import prepare


def kinds(inspection: Inspection) -> list[ErrorKind]:
    return [fault.kind for fault in inspection.faults]


def warned(inspection: Inspection) -> str:
    return " | ".join(str(warning) for warning in inspection.warnings)


def write(path: Path, series: xr.Dataset, **encoding: dict[str, object]) -> Path:
    series.to_netcdf(path, encoding=encoding)
    return path


# --- Sound data


def test_a_netcdf_file_is_described_in_its_own_numbers(tmp_path: Path) -> None:
    series = make_series(40, variables=("t2m", "d2m"), descending=True)
    packed = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32768}
    path = write(tmp_path / "a.nc", series.assign(height=series["t2m"][0].drop_vars("time")), t2m=packed)
    found = inspect(path)
    assert (found.reader, found.files, found.size_bytes) == ("cf", 1, path.stat().st_size)
    d2m, t2m = found.variables
    assert (t2m.name, t2m.units, t2m.kept_as, d2m.kept_as) == ("t2m", "K", "int16", "float32")
    assert t2m.dims == ("time", "latitude", "longitude")
    assert t2m.shape == (40, 4, 6)
    assert d2m.minimum == float(series["d2m"].min())
    assert d2m.maximum == float(series["d2m"].max())
    assert (d2m.absent, d2m.infinite) == (0, 0)
    assert found.grid is not None
    assert (found.grid.kind, found.grid.shape, found.grid.spans_globe) == ("geographic", (4, 6), True)
    assert found.grid.y == ("latitude", 60.0, -60.0, -40.0)
    assert found.grid.x == ("longitude", 0.0, 300.0, 60.0)
    assert found.time is not None
    assert (found.time.first, found.time.last) == ("2016-01-01T00:00", "2016-01-10T18:00")
    assert (found.time.frames, found.time.step, found.time.gaps) == (40, "6 h", 0)
    assert found.static == ("height",)
    assert found.faults == ()


def test_the_text_says_it_in_words(tmp_path: Path) -> None:
    lines = str(inspect(write(tmp_path / "a.nc", make_series(40, levels=(500, 850))))).splitlines()
    assert lines[0].startswith(f"{tmp_path / 'a.nc'}: CF netCDF or zarr, 1 file(s), ")
    size = "40 time x 2 level x 4 latitude x 6 longitude"
    assert lines[1].startswith(f"  t2m: variable t2m, in K, {size}, kept as float32; 27")
    assert lines[1].endswith(", no NaN")
    assert lines[2:] == [
        "grid: geographic, 4 x 6: latitude -60 to 60 by 40, longitude 0 to 300 by 60, latitude ascending, around the "
        "globe",
        "time: 2016-01-01T00:00 to 2016-01-10T18:00, 40 frames, one in 6 h, no gaps",
        "nothing stands against prepare",
    ]


def test_everything_is_json(tmp_path: Path) -> None:
    series = make_series(40)
    series["t2m"][3] = np.nan
    series["t2m"][4] = np.inf
    found = json.loads(json.dumps(inspect(write(tmp_path / "a.nc", series)).to_dict(), allow_nan=False))
    assert found["variables"][0]["absent"] == 24
    assert found["faults"][0] == {
        "kind": "NAN",
        "message": "variable t2m has 24 nan value(s), the first not finite at 2016-01-01T18:00, latitude -60, "
        "longitude 0; fill them, or drop those frames (--nan drop)",
    }
    assert [fault["kind"] for fault in found["faults"]] == ["NAN", "INF"]


def test_samples_are_told_by_their_providers(tmp_path: Path) -> None:
    write_sample("weather", tmp_path / "weather", years=1, step_hours=24)
    write_sample("traffic", tmp_path / "traffic", days=2)
    (tmp_path / "traffic" / "BJ_Holiday.txt").write_text("20130702\n")
    weather, traffic = inspect(tmp_path / "weather"), inspect(tmp_path / "traffic")
    assert (weather.reader, weather.files, kinds(weather)) == ("weatherbench", 2, [])
    assert [variable.name for variable in weather.variables] == ["t2m", "z"]
    assert (traffic.reader, traffic.beside) == ("taxibj", ("BJ_Holiday.txt",))
    assert traffic.variables[0].kept_as == "float64"
    assert traffic.grid is not None
    assert traffic.grid.kind == "plane"
    assert "row 0 to 31 by 1" in str(traffic)
    assert "on the clock of Asia/Shanghai" in str(traffic)


def test_constants_of_a_tree_are_named(tmp_path: Path) -> None:
    write_sample("weather", tmp_path, years=1, step_hours=24)
    year = xr.open_dataset(tmp_path / "2m_temperature" / "2m_temperature_2016_5.625deg.nc")
    (tmp_path / "constants").mkdir()
    year["t2m"][0].drop_vars("time").to_dataset(name="lsm").to_netcdf(tmp_path / "constants/constants_5.625deg.nc")
    year.close()
    assert inspect(tmp_path, scan=False).static == ("lsm",)


def test_values_are_left_alone_when_they_are_not_asked_for(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = write(tmp_path / "a.nc", make_series(40))
    found = inspect(path, scan=False, progress=lambda done, whole: calls.append((done, whole)))
    assert found.variables[0].minimum is found.variables[0].absent is None
    assert "NaN" not in str(found)
    assert calls == []
    inspect(path, progress=lambda done, whole: calls.append((done, whole)))
    assert calls == [(0, 1), (1, 1)]


def test_blocks_add_up_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stforecast.sources.slabs.CHUNK_BYTES", 7 * 96)
    series = make_series(40)
    series["t2m"][11, 2, 3:5] = np.nan
    series["t2m"][30, 1, 1] = np.nan
    calls: list[tuple[int, int]] = []
    path = write(tmp_path / "a.nc", series)
    found = inspect(path, progress=lambda done, whole: calls.append((done, whole)))
    assert calls[-1] == (6, 6)
    (summary,) = found.variables
    assert (summary.minimum, summary.maximum) == (float(series["t2m"].min()), float(series["t2m"].max()))
    assert summary.absent == 3
    assert "3 nan value(s), the first not finite at 2016-01-03T18:00, latitude 20, longitude 180" in str(found)


# --- Faults, all of them


def test_c02_gaps_are_listed(tmp_path: Path) -> None:
    series = make_series(60, absent=(5, 6, 20, 30, 31, 32, 40))
    found = inspect(write(tmp_path / "a.nc", series))
    assert found.time is not None
    assert (found.time.gaps, found.time.missing, len(found.time.first_gaps)) == (4, 7, 3)
    assert "4 gap(s) with 7 frames absent: 2 missing between 2016-01-02T00:00 and 2016-01-02T18:00; 1" in str(found)
    assert kinds(found) == [ErrorKind.TIME_GAP]


def test_i04_every_fault_is_listed_and_not_only_the_first(tmp_path: Path) -> None:
    series = make_series(60, variables=("t2m", "d2m", "flat", "counts"), absent=(5,))
    series["t2m"][3, 1, 2] = np.nan
    series["d2m"][4, 0, 0] = np.inf
    series["flat"][:] = 7
    series["counts"] = (series["counts"] - 310).assign_attrs(units="1", valid_min=0)
    found = inspect(write(tmp_path / "a.nc", series))
    assert sorted(kinds(found)) == sorted(
        [ErrorKind.TIME_GAP, ErrorKind.NAN, ErrorKind.INF, ErrorKind.CONST, ErrorKind.RANGE]
    )
    assert sum(line.startswith("would stop prepare: ") for line in str(found).splitlines()) == 5
    assert "nothing stands against prepare" not in str(found)


@pytest.mark.parametrize("sentinel", [-9999.0, 9.96921e36, 1e20])
def test_b05_an_undeclared_fill_value_is_named_even_beside_nan(tmp_path: Path, sentinel: float) -> None:
    series = make_series(40)
    series["t2m"][3, 1, 2] = np.nan
    series["t2m"][7, 1, 2] = sentinel
    found = inspect(write(tmp_path / "a.nc", series))
    assert kinds(found) == [ErrorKind.NAN, ErrorKind.RANGE]
    assert "at 2016-01-02T18:00, latitude -20, longitude 120; it looks like a fill value" in found.faults[1].message


def test_d12_negative_counts_are_named(tmp_path: Path) -> None:
    city = make_city(96)
    city["inflow"][5, 1, 2] = -3
    found = inspect(write(tmp_path / "a.nc", city))
    assert kinds(found) == [ErrorKind.RANGE]
    assert "variable inflow in 1 should be 0 to 100000 but has 1 value(s) outside, the first -3" in str(found)


def test_too_few_frames_to_divide_are_named(tmp_path: Path) -> None:
    assert kinds(inspect(write(tmp_path / "a.nc", make_series(2)))) == [ErrorKind.ARGUMENT]


def test_a_folder_with_damaged_files_is_described_by_one_that_is_not(tmp_path: Path) -> None:
    series = make_series(60)
    for number, name in enumerate(("a", "b", "c", "d")):
        write(tmp_path / f"{name}.nc", series.isel(time=slice(15 * number, 15 * number + 15)))
    (tmp_path / "a.nc").write_bytes((tmp_path / "a.nc").read_bytes()[:3000])
    (tmp_path / "c.nc").write_bytes(b"<html>404</html>")
    found = inspect(tmp_path)
    assert kinds(found) == [ErrorKind.FILE_TRUNCATED, ErrorKind.FILE_FORMAT]
    assert found.time is not None
    assert found.time.frames == 15
    assert found.files == 4


def test_damaged_years_of_a_tree_are_all_named(tmp_path: Path) -> None:
    write_sample("weather", tmp_path, years=3, step_hours=24)
    for year in (2016, 2018):
        path = tmp_path / "2m_temperature" / f"2m_temperature_{year}_5.625deg.nc"
        path.write_bytes(path.read_bytes()[:-100])
    found = inspect(tmp_path, scan=False)
    assert kinds(found) == [ErrorKind.FILE_TRUNCATED, ErrorKind.FILE_TRUNCATED]
    assert found.reader == "weatherbench"
    assert found.time is not None


def test_a_file_that_nothing_can_be_made_of_has_its_fault_and_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.nc").write_bytes(b"<html>404</html>")
    found = inspect(tmp_path / "a.nc")
    assert (kinds(found), found.variables, found.size_bytes) == ([ErrorKind.FILE_FORMAT], (), 16)
    assert "would stop prepare" in str(found)


def test_damaged_values_are_named_and_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stforecast.sources.slabs.CHUNK_BYTES", 4 * 600 * 30)
    path = write(tmp_path / "a.nc", make_series(90, shape=(20, 30)), t2m={"zlib": True, "chunksizes": (30, 20, 30)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    found = inspect(path)
    assert kinds(found) == [ErrorKind.FILE_FORMAT]
    assert "t2m of" in found.faults[0].message
    assert found.variables[0].minimum is not None


def test_what_is_not_there_raises(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match="there is no file or folder") as caught:
        inspect(tmp_path / "a.nc")
    assert caught.value.kind == ErrorKind.FILE_MISSING
    with pytest.raises(StforecastError, match="unknown source 'era5'"):
        inspect(write(tmp_path / "a.nc", make_series(4)), source="era5")


# --- What may mislead


def test_b10_a_standard_name_that_contradicts_the_units_is_told(tmp_path: Path) -> None:
    series = make_series(40, variables=("t2m", "r"))
    series["t2m"].attrs |= {"standard_name": "air_temperature", "units": "Pa"}
    series["r"].attrs |= {"standard_name": "Relative Humidity"}
    series["latitude"].attrs = {"standard_name": "latitude"}
    series = series.assign_coords(level=((), 500, {"axis": "X"}))
    series["longitude"].attrs["axis"] = "X"
    found = inspect(write(tmp_path / "a.nc", series))
    text = warned(found)
    assert "t2m has the standard_name air_temperature (in K) but the units 'Pa' (CF 3.1) [CF_CHECK]" in text
    assert "r has the standard_name 'Relative Humidity', which is none by its form (CF 3.3)" in text
    assert "latitude is a latitude but has the units None, wanted degrees_north (CF 4.1)" in text
    assert found.faults == ()


@pytest.mark.parametrize("units", ["K", "degC", "degK"])
def test_units_of_the_right_dimension_are_no_contradiction(tmp_path: Path, units: str) -> None:
    series = make_series(40)
    series["t2m"].attrs |= {"standard_name": "air_temperature", "units": units}
    assert warned(inspect(write(tmp_path / "a.nc", series), scan=False)) == ""


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"frequency": "1hr"}, "the attribute frequency says '1hr' but the time axis steps by 6 h [TIME_FREQ]"),
        ({"frequency": "day"}, "says 'day' but the time axis steps by 6 h"),
        ({"time_coverage_resolution": "PT3H"}, "says 'PT3H' but the time axis steps by 6 h"),
        (
            {"time_coverage_start": "2015-12-01T00:00:00Z"},
            "says '2015-12-01T00:00:00Z' but the time axis has 2016-01-01",
        ),
        ({"time_coverage_end": "2016-12-31"}, "says '2016-12-31' but the time axis has 2016-01-10T18:00"),
    ],
)
def test_b12_claims_that_the_axis_does_not_keep_are_told_with_both(
    tmp_path: Path, attrs: dict[str, str], message: str
) -> None:
    assert message in warned(inspect(write(tmp_path / "a.nc", make_series(40).assign_attrs(attrs)), scan=False))


def test_b12_claims_that_the_axis_keeps_are_not_told(tmp_path: Path) -> None:
    claims = {
        "frequency": "6hr",
        "time_coverage_resolution": "PT6H",
        "time_coverage_start": "2016-01-01",
        "time_coverage_end": "2016-01-10T23:59:59",
    }
    series = make_series(40).assign_attrs(claims)
    series["time"].attrs["delta_t"] = "0000-00-00 06:00:00"
    assert warned(inspect(write(tmp_path / "a.nc", series), scan=False)) == ""
    series["time"].attrs["delta_t"] = "0000-00-01 00:00:00"
    assert "delta_t says" in warned(inspect(write(tmp_path / "b.nc", series), scan=False))
    vague = make_series(40).assign_attrs(frequency="often", time_coverage_start="once", time_coverage_end=3)
    assert warned(inspect(write(tmp_path / "c.nc", vague), scan=False)) == ""


def test_c14_times_that_the_citys_clock_never_shows_are_told(tmp_path: Path) -> None:
    city = make_city(96)
    times = np.datetime64("2016-03-13", "ns") + np.arange(96) * np.timedelta64(30, "m")
    found = inspect(write(tmp_path / "a.nc", city.assign_coords(time=("time", times, city["time"].attrs))))
    message = (
        "2 time(s) that the clock of America/New_York never shows, as it goes forward (2016-03-13T02:00, 2016-03-13T"
    )
    assert message in warned(found)
    autumn = np.datetime64("2016-11-06", "ns") + np.arange(96) * np.timedelta64(30, "m")
    found = inspect(write(tmp_path / "b.nc", city.assign_coords(time=("time", autumn, city["time"].attrs))))
    assert "2 time(s) that the clock of America/New_York shows twice" in warned(found)


def test_chunks_that_are_not_there_are_told(tmp_path: Path) -> None:
    encoding = {"t2m": {"chunks": (10, 4, 6)}}
    make_series(40).to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False, encoding=encoding)
    (tmp_path / "a.zarr" / "t2m" / "2.0.0").unlink()
    assert "t2m: 1 of 4 chunks are not there and read as the fill value" in warned(inspect(tmp_path / "a.zarr"))


# --- Stores and windows


def test_a_prepared_store_tells_its_split_and_statistics(tmp_path: Path) -> None:
    series = make_series(80, levels=(500, 850), absent=(40,))
    split = Split.by_fraction(series["time"].to_numpy())
    prepare(series, tmp_path / "s.zarr", split, allow_gaps=True)
    found = inspect(tmp_path / "s.zarr")
    assert found.reader == "store"
    assert found.faults == ()
    assert found.store is not None
    assert found.store.split == json.loads(split.to_json())
    assert found.store.version == "1"
    assert found.store.normalization["t2m"]["method"] == "z-score"
    assert len(found.store.normalization["t2m"]["location"]) == 2
    np.testing.assert_allclose(found.variables[0].minimum, series["t2m"].min(), atol=1e-4)
    assert found.time is not None
    assert found.time.gaps == 1
    text = str(found)
    assert "train 2016-01-01T00:00..2016-01-14" in text
    assert "t2m by z-score, location 279.991 to 299.991 by level, scale" in text
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_damaged_store_is_said_to_be(tmp_path: Path) -> None:
    series = make_series(80)
    prepare(series, tmp_path / "s.zarr", Split.by_fraction(series["time"].to_numpy()))
    group = (tmp_path / "s.zarr" / ".current").resolve()
    next(file for file in (group / "t2m" / "c").rglob("*") if file.is_file()).unlink()
    found = inspect(tmp_path / "s.zarr")
    assert len(found.faults) == 1
    assert "is damaged: " in str(found)


def test_openstls_windows_are_told_with_what_they_lack(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shapes = {"X_train": (5, 4), "Y_train": (5, 3), "X_test": (2, 4), "Y_test": (2, 3)}
    np.savez(tmp_path / "dataset.npz", **{name: random.random((*shape, 2, 4, 3)) for name, shape in shapes.items()})
    found = inspect(tmp_path / "dataset.npz")
    assert found.reader == "openstl"
    assert [variable.shape[:2] for variable in found.variables] == [(5, 4), (5, 3), (2, 4), (2, 3)]
    assert "lacks: times" in str(found)
    np.savez(tmp_path / "dataset.npz", X_train=np.ones(3), Y_train=np.ones(3))
    assert kinds(inspect(tmp_path / "dataset.npz")) == [ErrorKind.SHAPE]


def test_a_store_behind_a_url_is_not_read_unless_asked(tmp_path: Path) -> None:
    import fsspec

    make_series(40).to_zarr("memory://inspected/a.zarr", zarr_format=2)
    found = inspect("memory://inspected/a.zarr")
    assert (found.files, found.size_bytes, found.variables[0].minimum) == (None, None, None)
    assert inspect("memory://inspected/a.zarr", scan=True).variables[0].absent == 0
    fsspec.filesystem("memory").rm("/inspected", recursive=True)


def test_a_zarr_store_of_nothing_is_a_fault(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    assert kinds(inspect(tmp_path / "a.zarr")) == [ErrorKind.SHAPE]


# --- Real files


@needs_real_data
def test_new_york_and_ncep_are_described() -> None:
    city = inspect(REAL_DATA / "taxinyc", time_zone="America/New_York")
    assert (city.variables[1].maximum, city.variables[1].minimum) == (1518, 0)
    assert kinds(city) == []
    assert "2 time(s) that the clock of America/New_York never shows" in warned(city)
    air = inspect(REAL_DATA / "ncep_air")
    assert (air.variables[0].kept_as, air.variables[0].units, kinds(air)) == ("int16", "degK", [])
