"""Frames that come later: appended, appended again, late, in conflict, or asked to replace."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series
from hypothesis import given, settings
from hypothesis import strategies as st

from stforecast.errors import ErrorKind, StforecastError
from stforecast.split import Split
from stforecast.store import append, layout, open_store, prepare, validate


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """4x6 cells are 96 bytes a frame, so 4 frames a chunk and 12 a shard."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 384)
    monkeypatch.setattr(layout, "SHARD_BYTES", 1152)


SPLIT = Split(
    train=("2016-01-01", "2016-01-08"), validation=("2016-01-09", "2016-01-10"), test=("2016-01-11", "2016-01-31")
)


def store_of(series: xr.Dataset, path: Path) -> Path:
    prepare(series, path, SPLIT, allow_gaps=True)
    return path


def files_of(path: Path) -> dict[str, bytes]:
    group = (path / ".current").resolve()
    return {str(file.relative_to(group)): file.read_bytes() for file in sorted(group.rglob("*")) if file.is_file()}


def rows(series: xr.Dataset, *numbers: int) -> xr.Dataset:
    return series.isel(time=list(numbers))


@settings(deadline=None, max_examples=12)
@given(first=st.integers(45, 70), second=st.integers(0, 14))
def test_appending_in_two_steps_is_preparing_the_whole(tmp_path_factory, first: int, second: int) -> None:
    folder = tmp_path_factory.mktemp("stores")
    series = make_series(80)
    whole = store_of(series, folder / "whole.zarr")
    grown = store_of(series.isel(time=slice(first)), folder / "grown.zarr")
    append(series.isel(time=slice(first, first + second + 1)), grown, allow_gaps=True)
    if first + second + 1 < 80:
        append(series.isel(time=slice(first + second + 1, 80)), grown)
    assert files_of(grown) == files_of(whole)


def test_of_two_writers_at_once_no_frame_is_lost(tmp_path: Path) -> None:
    series = make_series(60, absent=(20, 21))
    path = store_of(series.isel(time=slice(50)), tmp_path / "s.zarr")
    late = make_series(60).isel(time=slice(20, 22))

    def put(frames: xr.Dataset, **options: bool) -> xr.Dataset | None:
        try:
            append(frames, path, **options)
        except StforecastError as error:
            if error.kind != ErrorKind.STORE_BUSY:
                raise
            return None
        return frames

    with ThreadPoolExecutor(2) as threads:
        works = [
            threads.submit(put, late, allow_late=True, refit=True),
            threads.submit(put, series.isel(time=slice(50, 55))),
        ]
        put_in = [work.result() for work in works]
    with open_store(path) as stored:
        times = stored["time"].to_numpy()
    assert any(frames is not None for frames in put_in)
    for frames in put_in:
        assert frames is None or np.isin(frames["time"].to_numpy(), times).all()
    assert not validate(path).faults


def test_c07_s07_the_same_frames_again_change_nothing_and_say_so(tmp_path: Path) -> None:
    series = make_series(60)
    path = store_of(series, tmp_path / "s.zarr")
    before = (path / ".current").readlink()
    outcome = append(series.isel(time=slice(50, 60)), path)
    assert (outcome.added, outcome.replaced, outcome.unchanged) == (0, 0, 10)
    assert str(outcome).endswith("has all 10 frames already, to 2016-01-15T18:00: nothing to do")
    assert (path / ".current").readlink() == before


def test_frames_that_overlap_are_added_where_they_are_new(tmp_path: Path) -> None:
    series = make_series(70)
    path = store_of(series.isel(time=slice(60)), tmp_path / "s.zarr")
    outcome = append(series.isel(time=slice(55, 70)), path)
    assert (outcome.added, outcome.replaced, outcome.unchanged) == (10, 0, 5)
    xr.testing.assert_allclose(open_store(path)["t2m"].compute(), series["t2m"], rtol=0, atol=6e-5)


def test_one_frame_is_enough(tmp_path: Path) -> None:
    series = make_series(61)
    path = store_of(series.isel(time=slice(60)), tmp_path / "s.zarr")
    assert append(rows(series, 60), path).added == 1
    assert validate(path).is_sound


def test_statistics_and_split_stay_and_shards_that_stay_the_same_are_shared(tmp_path: Path) -> None:
    series = make_series(70)
    path = store_of(series.isel(time=slice(60)), tmp_path / "s.zarr")
    before = open_store(path)
    shard = path / "t2m" / "c" / "2" / "0" / "0"
    inode = shard.stat().st_ino
    append(series.isel(time=slice(60, 70)), path)
    after = open_store(path)
    assert after.attrs["normalization"] == before.attrs["normalization"]
    assert after.attrs["split"] == before.attrs["split"]
    assert shard.stat().st_ino == inode
    # Whoever had the store open goes on reading what was there.
    xr.testing.assert_allclose(before["t2m"].compute(), series["t2m"][:60], rtol=0, atol=6e-5)


def test_refit_takes_the_statistics_anew(tmp_path: Path) -> None:
    series = make_series(60)
    late = rows(series, *range(8))
    path = store_of(series.isel(time=slice(8, 60)), tmp_path / "s.zarr")
    append(late, path, allow_late=True, refit=True)
    whole = store_of(series, tmp_path / "whole.zarr")
    refitted, expected = open_store(path), open_store(whole)
    xr.testing.assert_allclose(refitted["t2m"].compute(), expected["t2m"].compute(), rtol=0, atol=1e-4)
    assert validate(path).is_sound


def test_s08_late_frames_go_into_their_gap_when_that_is_declared(tmp_path: Path) -> None:
    series = make_series(60)
    path = store_of(series.isel(time=[*range(30), *range(33, 60)]), tmp_path / "s.zarr")
    with pytest.raises(
        StforecastError, match=r"3 frame.s. come late, the first 2016-01-08T12:00.*allow_late"
    ) as caught:
        append(rows(series, 30, 31, 32), path)
    assert caught.value.kind == ErrorKind.TIME_ORDER
    append(rows(series, 30, 31, 32), path, allow_late=True)
    opened = open_store(path)
    np.testing.assert_array_equal(opened["time"], series["time"])
    xr.testing.assert_allclose(opened["t2m"].compute(), series["t2m"], rtol=0, atol=6e-5)
    assert opened.attrs["gaps"] == 0


def test_c07_s07_other_values_are_a_conflict_until_replacement_is_asked_for(tmp_path: Path) -> None:
    series = make_series(60)
    path = store_of(series, tmp_path / "s.zarr")
    revised = rows(series, 57, 58, 59)
    revised["t2m"][1:] += 1
    with pytest.raises(
        StforecastError, match=r"t2m has other values at 2016-01-15T12:00 and 1 later.*replace"
    ) as caught:
        append(revised, path)
    assert caught.value.kind == ErrorKind.CONFLICT
    outcome = append(revised, path, replace=True)
    assert (outcome.added, outcome.replaced, outcome.unchanged) == (0, 2, 1)
    stored = open_store(path)["t2m"]
    np.testing.assert_allclose(stored[-3:], revised["t2m"], atol=6e-5)
    np.testing.assert_allclose(stored[:-3], series["t2m"][:57], atol=6e-5)
    assert validate(path).is_sound


def test_c02_s08_a_gap_behind_the_store_is_declared(tmp_path: Path) -> None:
    series = make_series(70)
    path = store_of(series.isel(time=slice(60)), tmp_path / "s.zarr")
    with pytest.raises(StforecastError, match="1 gap .* 2 missing between 2016-01-15T18:00 and 2016-01-16T12:00"):
        append(series.isel(time=slice(62, 70)), path)
    append(series.isel(time=slice(62, 70)), path, allow_gaps=True)
    assert open_store(path).attrs["gaps"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.isel(latitude=slice(None, None, -1)),
        lambda s: s.transpose("longitude", "latitude", "time"),
        lambda s: s.rename(latitude="lat", longitude="lon", time="valid_time"),
        lambda s: s.assign(t2m=s["t2m"].assign_attrs(units="degK")),
        lambda s: s.chunk(time=2),
    ],
    ids=["flipped", "transposed", "renamed", "degK", "lazy"],
)
def test_s09_frames_held_in_another_way_are_the_same_frames(tmp_path: Path, change) -> None:
    series = make_series(70)
    path = store_of(series.isel(time=slice(60)), tmp_path / "s.zarr")
    append(change(series.isel(time=slice(60, 70))), path)
    xr.testing.assert_allclose(open_store(path)["t2m"].compute(), series["t2m"], rtol=0, atol=6e-5)


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (lambda s: s.rename(t2m="t"), ErrorKind.VAR_MISSING, "t2m"),
        (lambda s: s.assign(t2m=s["t2m"].assign_attrs(units="degC")), ErrorKind.UNITS, "t2m in 'degC'"),
        (lambda s: s.isel(latitude=slice(3)), ErrorKind.GRID_SHAPE, "wanted the grid 4x6"),
        (lambda s: s.assign_coords(latitude=s["latitude"] + 0.3), ErrorKind.GRID_SHAPE, "wanted the grid 4x6"),
        (lambda s: s.isel(time=slice(None, None, -1)), ErrorKind.TIME_ORDER, "not increasing"),
        (lambda s: s.assign_coords(time=s["time"] + np.timedelta64(1, "h")), ErrorKind.TIME_FREQ, "between two steps"),
        (lambda s: s.where(s["time"] > s["time"][2]), ErrorKind.NAN, "nan"),
        (lambda s: s.assign(t2m=s["t2m"] - 270), ErrorKind.UNITS, "no units"),
        (
            lambda s: s.assign(t2m=(s["t2m"] - 270).assign_attrs(units="K")),
            ErrorKind.RANGE,
            "t2m in K should be 150 to",
        ),
    ],
)
def test_s09_g19_u02_what_does_not_belong_into_the_store_is_refused_by_name(
    tmp_path: Path, change, kind, match: str
) -> None:
    series = make_series(70)
    path = store_of(series.isel(time=slice(60)), tmp_path / "s.zarr")
    before = files_of(path)
    with xr.set_options(keep_attrs=False), pytest.raises(StforecastError, match=match) as caught:
        append(change(series.isel(time=slice(60, 70))), path)
    assert caught.value.kind == kind
    assert files_of(path) == before
    assert not (tmp_path / ".s.zarr.partial").exists()


def test_what_is_said_of_each_time_grows_with_the_store(tmp_path: Path) -> None:
    city = make_city(96).assign_coords(holiday=("time", np.arange(96) % 2, {"units": "1"}))
    path = tmp_path / "s.zarr"
    prepare(city.isel(time=slice(80)), path, Split.by_fraction(city["time"].to_numpy()[:80]))
    with pytest.raises(StforecastError, match="the store has holiday"):
        append(city.isel(time=slice(80, 96)).drop_vars("holiday"), path)
    append(city.isel(time=slice(80, 96)), path)
    np.testing.assert_array_equal(open_store(path)["holiday"], city["holiday"])


def test_there_must_be_a_store(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match="there is no store at"):
        append(make_series(), tmp_path / "s.zarr")
