"""GRIB: told and checked without cfgrib, read with it."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from factory import make_series

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources import infer_source, open_dataset
from stforecast.sources.grib import check_messages

HAS_CFGRIB = importlib.util.find_spec("cfgrib") is not None
needs_cfgrib = pytest.mark.skipif(not HAS_CFGRIB, reason="cfgrib is not installed: pip install 'stforecast[grib]'")


def message(length: int, edition: int = 2) -> bytes:
    """The frame of a message: its first section, nothing, and its last."""
    if edition == 1:
        head = b"GRIB" + length.to_bytes(3, "big") + b"\x01" + bytes(8)
    else:
        head = b"GRIB\x00\x00\x00\x02" + length.to_bytes(8, "big")
    return head + bytes(length - len(head) - 4) + b"7777"


def refused(kind: ErrorKind, match: str, path: Path, **options: Any) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        open_dataset(path, **options)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


# --- Without cfgrib


@pytest.mark.parametrize("edition", [1, 2])
@pytest.mark.parametrize("padding", [0, 5, 5000])
def test_whole_messages_are_let_through(tmp_path: Path, edition: int, padding: int) -> None:
    (tmp_path / "a.grib").write_bytes((message(100, edition) + bytes(padding)) * 3)
    check_messages(tmp_path / "a.grib")
    assert infer_source(tmp_path / "a.grib") == "grib"
    assert infer_source(tmp_path) == "grib"


@pytest.mark.parametrize("kept", [20, 104, 250, 299])
@pytest.mark.parametrize("edition", [1, 2])
def test_a01_a_file_cut_in_a_message_is_refused_with_both_sizes(tmp_path: Path, edition: int, kept: int) -> None:
    (tmp_path / "a.grib").write_bytes((message(100, edition) * 3)[:kept])
    start = kept // 100 * 100
    match = rf"a\.grib is cut short: the message at byte {start} declares (100|16) bytes, {kept - start} are there"
    refused(ErrorKind.FILE_TRUNCATED, match, tmp_path / "a.grib")


def test_a_message_without_its_end_and_bytes_between_messages_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.grib").write_bytes(message(100)[:-4] + b"7778" + message(100))
    refused(ErrorKind.FILE_FORMAT, "the message at byte 0 does not end with 7777", tmp_path / "a.grib")
    (tmp_path / "b.grib").write_bytes(message(100) + b"what is this? not a message, surely" + message(100))
    refused(ErrorKind.FILE_FORMAT, r"b\.grib is not a GRIB file: b'what' stands at byte 100", tmp_path / "b.grib")
    (tmp_path / "c.grib").write_bytes(b"<html>404</html>")
    refused(
        ErrorKind.FILE_FORMAT, r"c\.grib is not a GRIB file: .* looks like HTML", tmp_path / "c.grib", source="grib"
    )


@pytest.mark.skipif(HAS_CFGRIB, reason="cfgrib is installed")
def test_without_cfgrib_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.grib").write_bytes(message(100))
    refused(ErrorKind.ARGUMENT, r"a\.grib is GRIB, which cfgrib reads; .*pip install 'stforecast\[grib\]'", tmp_path)


# --- With cfgrib


def write(path: Path, series: xr.Dataset, *, edition: int = 2, step: int = 0) -> None:
    """Each frame and level as a message; t2m and u10 at the surface, t at pressure levels."""
    eccodes = pytest.importorskip("eccodes")
    short_names = {"t2m": "2t", "u10": "10u", "t": "t"}
    with path.open("wb") as file:
        for name, variable in series.data_vars.items():
            levels = variable["level"].to_numpy() if "level" in variable.dims else [None]
            for time in variable["time"].to_numpy():
                for level in levels:
                    place = {} if level is None else {"level": level}
                    frame = variable.sel(time=time, **place)
                    sample = f"regular_ll_{'sfc' if level is None else 'pl'}_grib{edition}"
                    handle = eccodes.codes_grib_new_from_samples(sample)
                    for key, value in keys(frame, time, step).items():
                        eccodes.codes_set(handle, key, value)
                    if level is not None:
                        eccodes.codes_set(handle, "level", int(level))
                    eccodes.codes_set(handle, "shortName", short_names[str(name)])
                    eccodes.codes_set_values(handle, frame.to_numpy().ravel().astype(float))
                    eccodes.codes_write(handle, file)
                    eccodes.codes_release(handle)


def keys(frame: xr.DataArray, time: np.datetime64, step: int) -> dict[str, float]:
    latitude, longitude = frame["latitude"].to_numpy(), frame["longitude"].to_numpy()
    start = time - np.timedelta64(step, "h")
    return {
        "Ni": len(longitude),
        "Nj": len(latitude),
        "latitudeOfFirstGridPointInDegrees": latitude[0],
        "latitudeOfLastGridPointInDegrees": latitude[-1],
        "longitudeOfFirstGridPointInDegrees": longitude[0],
        "longitudeOfLastGridPointInDegrees": longitude[-1],
        "iDirectionIncrementInDegrees": longitude[1] - longitude[0],
        "jDirectionIncrementInDegrees": abs(latitude[1] - latitude[0]),
        "jScansPositively": int(latitude[1] > latitude[0]),
        "dataDate": int(str(start)[:10].replace("-", "")),
        "dataTime": 100 * int(str(start)[11:13]),
        "step": step,
        "bitsPerValue": 24,
    }


def make_fields(frames: int = 6) -> xr.Dataset:
    surface = make_series(frames, variables=("t2m", "u10"), descending=True)
    levels = make_series(frames, levels=(850, 500), descending=True).rename(t2m="t")
    return surface.assign(t=levels["t"])


@needs_cfgrib
@pytest.mark.parametrize("edition", [1, 2])
def test_messages_come_back_as_a_series(tmp_path: Path, edition: int) -> None:
    fields = make_fields()
    write(tmp_path / "a.grib", fields, edition=edition)
    series = open_dataset(tmp_path / "a.grib")
    assert set(series) == {"t", "t2m", "u10"}
    for name in ("t2m", "u10"):
        assert series[name].dims == ("time", "latitude", "longitude")
        np.testing.assert_allclose(
            series[name], fields[name], rtol=0, atol=1e-4
        )  # packed into 24 bits of a range of 50
    np.testing.assert_array_equal(series["time"], fields["time"])
    np.testing.assert_array_equal(series["latitude"], fields["latitude"])
    np.testing.assert_array_equal(series["longitude"], fields["longitude"])
    assert series["t2m"].attrs["units"] == "K"
    assert not [name for name in series["t2m"].attrs if name.startswith("GRIB_")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.grib"]  # and no index beside it
    levels = open_dataset(tmp_path / "a.grib", variables=["t"], levels=[500])
    np.testing.assert_allclose(levels["t"][:, 0], fields["t"].sel(level=500), rtol=0, atol=1e-4)


@needs_cfgrib
def test_files_of_a_folder_follow_each_other(tmp_path: Path) -> None:
    fields = make_fields()[["t2m"]]
    write(tmp_path / "b.grib2", fields.isel(time=slice(4)))
    write(tmp_path / "a.grb", fields.isel(time=slice(4, 6)))
    np.testing.assert_array_equal(open_dataset(tmp_path)["time"], fields["time"])


@needs_cfgrib
def test_frames_stand_at_the_times_that_they_are_valid_at(tmp_path: Path) -> None:
    fields = make_fields()[["t2m"]]
    write(tmp_path / "a.grib", fields, step=6)
    np.testing.assert_array_equal(open_dataset(tmp_path / "a.grib")["time"], fields["time"])


@needs_cfgrib
def test_a_forecast_is_told_from_a_series(tmp_path: Path) -> None:
    fields = make_fields(4)[["t2m"]]
    parts = []
    for step in (0, 6):
        write(tmp_path / "part", fields.assign_coords(time=fields["time"] + np.timedelta64(step, "h")), step=step)
        parts.append((tmp_path / "part").read_bytes())
    (tmp_path / "a.grib").write_bytes(b"".join(parts))
    refused(
        ErrorKind.DIMS, r"a\.grib: this is a forecast, not a series: it has 2 leads along step", tmp_path / "a.grib"
    )


@needs_cfgrib
def test_a_file_that_changes_before_it_is_read_is_busy(tmp_path: Path) -> None:
    write(tmp_path / "a.grib", make_fields()[["t2m"]])
    series = open_dataset(tmp_path / "a.grib")
    (tmp_path / "a.grib").write_bytes(message(100))
    with pytest.raises(StforecastError, match="has changed since it was opened"):
        series.load()
