"""A build that is interrupted, shared or asked for another method; and what a whole check of a store finds."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series

from stforecast.errors import ErrorKind, StforecastError
from stforecast.limits import check_range, limits_of
from stforecast.split import Split
from stforecast.store import append, layout, open_store, prepare, validate
from stforecast.store.build import Build


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """4x6 cells are 96 bytes a frame, so 4 frames a chunk and 12 a shard."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 384)
    monkeypatch.setattr(layout, "SHARD_BYTES", 1152)


def fractions(series: xr.Dataset) -> Split:
    return Split.by_fraction(series["time"].to_numpy())


def files_of(path: Path) -> dict[str, bytes]:
    group = (path / ".current").resolve().parent
    return {str(file.relative_to(group)): file.read_bytes() for file in sorted(group.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("method", ["z-score", "min-max", "log1p", "tendency"])
def test_every_method_gives_the_series_back(tmp_path: Path, method: str) -> None:
    series = make_city(120)
    opened = prepare(series, tmp_path / "s.zarr", fractions(series), method=method)
    for name in series.data_vars:
        xr.testing.assert_allclose(opened[name].compute(), series[name], rtol=1e-6, atol=1e-5)
    assert validate(tmp_path / "s.zarr").is_sound


def test_each_method_is_the_formula_over_the_training_period(tmp_path: Path) -> None:
    series = make_city(120)
    methods = {"inflow": "min-max", "outflow": "tendency"}
    split = fractions(series)
    prepare(series, tmp_path / "s.zarr", split, method=methods)
    scaling = json.loads(open_store(tmp_path / "s.zarr").attrs["normalization"])
    train = split.select(series, "train").astype(np.float64)
    least, greatest = float(train["inflow"].min()), float(train["inflow"].max())
    assert (scaling["inflow"]["location"], scaling["inflow"]["scale"]) == (least, greatest - least)
    changes = train["outflow"].diff("time")
    np.testing.assert_allclose(scaling["outflow"]["location"], train["outflow"].mean())
    np.testing.assert_allclose(scaling["outflow"]["scale"], np.sqrt((changes**2).mean()), rtol=1e-12)


def test_a_tendency_counts_no_change_across_a_gap(tmp_path: Path) -> None:
    series = make_series(80, absent=(20, 21, 22, 23, 24))
    series["t2m"][20:] += 15
    split = fractions(series)
    prepare(series, tmp_path / "s.zarr", split, method="tendency", allow_gaps=True)
    scale = json.loads(open_store(tmp_path / "s.zarr").attrs["normalization"])["t2m"]["scale"]
    train = split.select(series, "train")["t2m"].astype(np.float64)
    changes = train.diff("time").to_numpy()[np.diff(train["time"]) == np.timedelta64(6, "h")]
    np.testing.assert_allclose(scale, np.sqrt((changes**2).mean()), rtol=1e-10)


def test_log1p_refuses_what_is_below_zero(tmp_path: Path) -> None:
    series = make_city()
    series["inflow"].attrs.pop("valid_min")
    series["inflow"][3, 1, 2] = -2
    with pytest.raises(
        StforecastError, match="inflow in 1 should be 0 or more.*first -2 at 2016-01-04T01:30, row 1"
    ) as caught:
        prepare(series, tmp_path / "s.zarr", fractions(series), method="log1p")
    assert caught.value.kind == ErrorKind.RANGE


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "rank"}, "unknown method 'rank' for t2m; there are z-score"),
        ({"method": {"t": "z-score"}}, "a method is given for t, but the series has t2m"),
        ({"part": (0, 3)}, "part 0/3 is none"),
        ({"part": (4, 3)}, "part 4/3 is none"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: dict, match: str) -> None:
    series = make_series()
    with pytest.raises(StforecastError, match=match):
        prepare(series, tmp_path / "s.zarr", fractions(series), **options)
    assert list(tmp_path.iterdir()) == []


def test_frames_with_nan_are_dropped_when_that_is_asked_for(tmp_path: Path) -> None:
    series = make_series()
    series["t2m"][[3, 40], 1, 2] = np.nan
    opened = prepare(series, tmp_path / "s.zarr", fractions(series), nan="drop")
    expected = series.isel(time=[row for row in range(80) if row not in (3, 40)])
    np.testing.assert_array_equal(opened["time"], expected["time"])
    xr.testing.assert_allclose(opened["t2m"].compute(), expected["t2m"], rtol=0, atol=6e-5)
    assert opened.attrs["gaps"] == 2


def test_limits_of_values_that_xarray_unpacked_are_unpacked_too(tmp_path: Path) -> None:
    """The limits of packed integers stay what they are in the file, as CF has them."""
    pressure = make_series(variables=("slp",)) + 101_000
    pressure["slp"].attrs |= {"units": "Pa", "valid_range": np.array([-20_000, 15_000], np.int16)}
    packing = {"dtype": "int16", "scale_factor": 1.0, "add_offset": 100_000.0, "_FillValue": np.int16(-32_768)}
    pressure.to_netcdf(tmp_path / "slp.nc", encoding={"slp": packing})
    with xr.open_dataset(tmp_path / "slp.nc") as opened:
        assert limits_of(opened["slp"]) == (80_000, 115_000)
        prepare(opened, tmp_path / "s.zarr", fractions(opened))


def test_text_beside_the_frames_is_kept_without_a_warning(tmp_path: Path) -> None:
    versions = ("time", np.where(np.arange(80) < 70, "0001", "0005"), {"long_name": "experiment version"})
    series = make_series().assign_coords(expver=versions)
    prepare(series.isel(time=slice(75)), tmp_path / "s.zarr", fractions(series.isel(time=slice(75))))
    append(series.isel(time=slice(72, 80)), tmp_path / "s.zarr")
    with open_store(tmp_path / "s.zarr") as stored:
        assert stored["expver"].to_numpy().tolist() == series["expver"].to_numpy().tolist()


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_o05_parts_in_any_order_make_the_same_store(tmp_path: Path, order: tuple[int, ...]) -> None:
    series = make_series()
    prepare(series, tmp_path / "whole.zarr", fractions(series))
    for number in order:
        prepare(series, tmp_path / "parts.zarr", fractions(series), part=(number, 3))
        assert not (tmp_path / "parts.zarr").exists()
    prepare(series, tmp_path / "parts.zarr", fractions(series))
    assert files_of(tmp_path / "parts.zarr") == files_of(tmp_path / "whole.zarr")


@pytest.mark.parametrize("before", ["nothing", "a build of another series"])
def test_parts_may_begin_at_the_same_moment(tmp_path: Path, before: str) -> None:
    series = make_series()
    prepare(series, tmp_path / "whole.zarr", fractions(series))
    if before != "nothing":
        prepare(make_series(seed=1), tmp_path / "parts.zarr", fractions(series), part=(1, 3))

    def make(number: int) -> None:
        prepare(series, tmp_path / "parts.zarr", fractions(series), part=(number, 8))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(make, range(1, 9)))
    prepare(series, tmp_path / "parts.zarr", fractions(series))
    assert files_of(tmp_path / "parts.zarr") == files_of(tmp_path / "whole.zarr")


def test_the_last_call_does_what_parts_left_undone(tmp_path: Path) -> None:
    series = make_series()
    prepare(series, tmp_path / "whole.zarr", fractions(series))
    prepare(series, tmp_path / "parts.zarr", fractions(series), part=(2, 3))
    prepare(series, tmp_path / "parts.zarr", fractions(series))
    assert files_of(tmp_path / "parts.zarr") == files_of(tmp_path / "whole.zarr")


def test_parts_need_data_that_can_be_told_to_be_the_same(tmp_path: Path) -> None:
    series = make_series().chunk(time=5)
    with pytest.raises(StforecastError, match="parts of a build need data that each process can tell"):
        prepare(series, tmp_path / "s.zarr", fractions(series), part=(1, 2))


@pytest.mark.parametrize("done", [0, 1, 4, 6])
def test_s15_cat_i01_an_interrupted_build_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = make_series()
    prepare(series, tmp_path / "whole.zarr", fractions(series))
    written = []

    def interrupted(self: Build, numbers, normalization, progress: bool) -> None:
        original(self, list(numbers)[:done], normalization, progress)
        written.extend(list(numbers)[:done])
        raise KeyboardInterrupt

    original = Build._write
    monkeypatch.setattr(Build, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(series, tmp_path / "s.zarr", fractions(series))
    left = []
    monkeypatch.setattr(
        Build, "_write", lambda self, numbers, *rest: (left.extend(numbers), original(self, numbers, *rest))[0]
    )
    prepare(series, tmp_path / "s.zarr", fractions(series))
    assert sorted(written + left) == list(range(7))
    assert files_of(tmp_path / "s.zarr") == files_of(tmp_path / "whole.zarr")


def interrupted_build(series: xr.Dataset, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Build) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Build, "written", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(series, path, fractions(series))


def test_a_damaged_shard_of_an_interrupted_build_is_written_anew(tmp_path: Path, monkeypatch) -> None:
    series = make_series()
    interrupted_build(series, tmp_path / "s.zarr", monkeypatch)
    shard = tmp_path / ".s.zarr.partial" / "store" / "t2m" / "c" / "2" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:100])
    prepare(series, tmp_path / "s.zarr", fractions(series))
    assert validate(tmp_path / "s.zarr").is_sound
    xr.testing.assert_allclose(open_store(tmp_path / "s.zarr")["t2m"].compute(), series["t2m"], rtol=0, atol=6e-5)


@pytest.mark.parametrize("change", ["values", "attrs", "method"])
def test_an_interrupted_build_of_something_else_is_not_gone_on_with(tmp_path: Path, monkeypatch, change: str) -> None:
    series = make_series()
    interrupted_build(series, tmp_path / "s.zarr", monkeypatch)
    other = series.copy(deep=True)
    if change == "values":
        other["t2m"][0] += 1
    if change == "attrs":
        other["t2m"].attrs["long_name"] = "something else"
    method = "min-max" if change == "method" else "z-score"
    prepare(other, tmp_path / "s.zarr", fractions(series), method=method)
    prepare(other, tmp_path / "whole.zarr", fractions(series), method=method)
    assert files_of(tmp_path / "s.zarr") == files_of(tmp_path / "whole.zarr")


PREPARE = """
import sys
import xarray as xr
import stforecast as stf
from stforecast.store import layout
layout.CHUNK_BYTES, layout.SHARD_BYTES = 384, 1152
series = xr.open_dataset(sys.argv[1]).load()
print("begin", flush=True)
stf.prepare(series, sys.argv[2], stf.Split.by_fraction(series["time"].to_numpy()), overwrite=len(sys.argv) > 3)
"""


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2])
def test_g01_cat_m03_a_killed_build_leaves_no_store_and_the_next_one_is_whole(tmp_path: Path, delay: float) -> None:
    series = make_series()
    series.to_netcdf(tmp_path / "raw.nc")
    path = tmp_path / "s.zarr"
    with subprocess.Popen([sys.executable, "-c", PREPARE, tmp_path / "raw.nc", path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        os.kill(child.pid, signal.SIGKILL)
    if path.exists():
        assert validate(path).is_sound
    prepare(series, path, fractions(series), overwrite=True)
    assert validate(path).is_sound
    xr.testing.assert_allclose(open_store(path)["t2m"].compute(), series["t2m"], rtol=0, atol=6e-5)


def test_a_sound_store_is_said_to_be_sound(tmp_path: Path) -> None:
    series = make_series()
    prepare(series, tmp_path / "s.zarr", fractions(series))
    found = validate(tmp_path / "s.zarr")
    assert found.is_sound
    assert str(found).endswith("s.zarr is sound: 15 files with their checksums, 80 frames")


def damage(path: Path, name: str, how: str) -> None:
    file = path / name
    content = bytearray(file.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif how == "cut":
        file.write_bytes(content[:-1])
    else:
        file.unlink()


@pytest.mark.parametrize("name", ["t2m/c/3/0/0", "time/c/0", "latitude/c/0", "t2m/zarr.json"])
@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("flip", ErrorKind.STORE_CORRUPT, "was changed"),
        ("cut", ErrorKind.STORE_CORRUPT, "bytes instead of"),
        ("remove", ErrorKind.STORE_INCOMPLETE, "is missing"),
    ],
)
def test_g12_g13_g14_g16_damage_is_found_in_every_file(tmp_path: Path, name: str, how: str, kind, words: str) -> None:
    series = make_series()
    prepare(series, tmp_path / "s.zarr", fractions(series))
    damage(tmp_path / "s.zarr", name, how)
    found = validate(tmp_path / "s.zarr")
    assert [fault[0] for fault in found.faults] == [kind]
    assert found.faults[0][1].startswith(name)
    assert words in str(found)
    if how != "flip":
        with pytest.raises(StforecastError, match=words):
            open_store(tmp_path / "s.zarr")


def test_cat_i08_statistics_that_are_not_of_the_training_frames_are_found(tmp_path: Path) -> None:
    series = make_series()
    prepare(series, tmp_path / "s.zarr", fractions(series))
    group = (tmp_path / "s.zarr" / ".current").resolve()
    import zarr

    from stforecast.store.versions import write_manifest

    zarr.open_group(group, mode="r+")["t2m"][:] = 1.5
    write_manifest(group.parent, {})
    found = validate(tmp_path / "s.zarr")
    assert [kind for kind, _ in found.faults] == [ErrorKind.STATS_STALE]


def field(values: list[float], **attrs: object) -> xr.DataArray:
    array = np.broadcast_to(np.asarray(values, np.float32)[:, None, None], (len(values), 2, 2)).copy()
    series = make_series(len(values), shape=(2, 2))["t2m"].copy(data=array)
    series.attrs.update(attrs)
    return series


@pytest.mark.parametrize(
    ("variable", "match"),
    [
        (
            field([280, 281, -9999, 282]),
            "first -9999 at 2016-01-01T12:00, latitude -60, longitude 0; it looks like a fill",
        ),
        (field([1, 2, -9999, 3], units="1").rename("x"), "x in 1 .* first -9999 .* looks like a fill value"),
        (field([1, 2, 9.96921e36], units="1").rename("x"), "x in 1 .* looks like a fill value"),
        (field([15, 16, 17.5]), "t2m in K should be 150 to 350 but has 12 value.s. outside, the first 15"),
        (field([280, 281, 282], units="degC"), "t2m in degC should be -123.15 to 76.85 but has 12 .* the first 280"),
        (field([280, 281], units="Fahrenheit"), "t2m in Fahrenheit should be -189.67 to 170.33 but .* the first 280"),
        (field([1e5, 1.01e5], units="hPa").rename("msl"), "msl in hPa should be 800 to 1150 but .* the first 100000"),
        (field([5, -1, 7], units="1", valid_range=[0, 9]), "should be 0 to 9 but has 4 value.s. outside, the first -1"),
        (field([5, 2e5, 7], units="1").rename("inflow"), "inflow in 1 should be 0 to 100000 but .* the first 200000"),
        (field([5, -1, 7], units="1", valid_min=0), "should be 0 to inf but has 4 value.s. outside, the first -1"),
    ],
)
def test_b05_d05_d12_u03_values_that_cannot_be_are_named(variable: xr.DataArray, match: str) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        check_range(variable)
    assert caught.value.kind == ErrorKind.RANGE


@pytest.mark.parametrize(
    "variable",
    [
        field([280, 281, 282]),
        field([-60, 0, 50], units="degrees_Celsius"),
        field([870, 1013, 1085], units="mb").rename("msl"),
        field([-9999, -5000, 0, 5000, 9999], units="1").rename("x"),
        field([-999, -998, -997], units="m").rename("depth"),
        field([5e5, 5.1e5], units="m2 s-2").rename("z"),
    ],
)
def test_values_that_can_be_are_let_through(variable: xr.DataArray) -> None:
    check_range(variable)
