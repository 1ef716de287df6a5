import functools
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from dask.callbacks import Callback
from factory import make_city, make_series

from stforecast.errors import ErrorKind, StforecastError
from stforecast.split import Split
from stforecast.store import build, group_of, layout, open_store, prepare, versions
from stforecast.store.layout import Layout
from stforecast.store.tasks import run_tasks


def fractions(series: xr.Dataset) -> Split:
    return Split.by_fraction(series["time"].to_numpy())


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards even for tiny series: 4x6 cells are 96 bytes a frame, so 4 frames a chunk and 12 a shard."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 384)
    monkeypatch.setattr(layout, "SHARD_BYTES", 1152)


@pytest.mark.parametrize("levels", [(), (500.0, 850.0)])
@pytest.mark.parametrize("descending", [False, True])
def test_a_store_gives_back_the_series(tmp_path: Path, levels: tuple[float, ...], descending: bool) -> None:
    series = make_series(levels=levels, descending=descending, variables=("t2m", "u10"))
    opened = prepare(series, tmp_path / "s.zarr", fractions(series))
    for name in ("t2m", "u10"):
        xr.testing.assert_allclose(opened[name].compute(), series[name], rtol=0, atol=6e-5)
        assert opened[name].attrs == series[name].attrs
        assert opened[name].dtype == np.float32
    xr.testing.assert_identical(opened.coords.to_dataset().drop_attrs(deep=False), series.coords.to_dataset())


def test_auxiliary_coordinates_and_the_time_zone_are_kept(tmp_path: Path) -> None:
    city = make_city().assign_coords(latitude=("row", np.linspace(40.8, 40.7, 5), {"units": "degrees_north"}))
    opened = prepare(city, tmp_path / "s.zarr", fractions(city))
    xr.testing.assert_identical(opened.coords.to_dataset().drop_attrs(deep=False), city.coords.to_dataset())
    assert opened["time"].attrs["time_zone"] == "America/New_York"
    assert opened["latitude"].chunks is None


def test_cat_i06_statistics_are_of_the_training_period_alone(tmp_path: Path) -> None:
    series = make_series()
    split = fractions(series)
    changed = series.copy(deep=True)
    changed["t2m"][60:] += 30
    prepare(series, tmp_path / "a.zarr", split)
    prepare(changed, tmp_path / "b.zarr", split)
    one, other = (open_store(tmp_path / name).attrs["normalization"] for name in ("a.zarr", "b.zarr"))
    assert one == other
    train = split.select(series, "train")["t2m"].to_numpy().astype(np.float64)
    score = json.loads(one)["t2m"]
    np.testing.assert_allclose([score["location"], score["scale"]], [train.mean(), train.std()], rtol=1e-12)


def test_b07_i13_the_normalized_store_holds_scores_with_units_1(tmp_path: Path) -> None:
    series = make_series()
    split = fractions(series)
    prepare(series, tmp_path / "s.zarr", split)
    scores = open_store(tmp_path / "s.zarr", normalized=True)
    train = split.select(scores, "train")["t2m"]
    assert scores["t2m"].attrs["units"] == "1"
    np.testing.assert_allclose([float(train.mean()), float(train.std())], [0, 1], atol=1e-5)


def test_any_zarr_reader_opens_the_store_and_sees_what_is_in_it(tmp_path: Path) -> None:
    series = make_series()
    split = fractions(series)
    prepare(series, tmp_path / "s.zarr", split)
    plain = xr.open_zarr(tmp_path / "s.zarr")
    xr.testing.assert_equal(plain["t2m"], open_store(tmp_path / "s.zarr", normalized=True)["t2m"])
    assert Split.from_attrs(plain.attrs) == split
    assert plain["t2m"].attrs["normalization"]["method"] == "z-score"
    assert json.loads(plain.attrs["statistics_period"]) == ["2016-01-01T00:00", "2016-01-14T18:00"]
    time = zarr.open_array(tmp_path / "s.zarr" / "time")
    assert (time.dtype, time.attrs["units"]) == (np.dtype("int64"), "seconds since 1970-01-01")


def test_each_shard_is_one_task(tmp_path: Path) -> None:
    tasks = []

    class Count(Callback):
        def _pretask(self, key, dsk, state) -> None:
            tasks.append(key)

    series = make_series().chunk(time=2)
    with Count():
        prepare(series, tmp_path / "s.zarr", fractions(series))
    layout = Layout.of(series)
    trained = -(-fractions(series).part_rows(series["time"].to_numpy(), "train").stop // layout.shard)
    assert len(tasks) == trained + len(layout.shards) == 12


def test_a_task_leaves_nothing_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = []

    def kept(tasks, *arguments, **options):
        tasks = list(tasks)
        done = run_tasks(tasks, *arguments, **options)
        blocks.extend(task.args[0] for task in tasks)
        return done

    monkeypatch.setattr(build, "run_tasks", kept)
    series = make_series()
    prepare(series.chunk(time=5), tmp_path / "s.zarr", fractions(series), nan="drop")
    assert len(blocks) > 2 * len(Layout.of(series).shards)
    assert all(variable.chunks is not None for block in blocks for variable in block.data_vars.values())


def test_s13_h05_o05_chunks_of_the_input_change_no_byte(tmp_path: Path) -> None:
    series = make_series()
    prepare(series, tmp_path / "a.zarr", fractions(series))
    prepare(series.chunk(time=5, latitude=2), tmp_path / "b.zarr", fractions(series))
    files = [
        {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        for root in (tmp_path / "a.zarr" / ".versions" / "1", tmp_path / "b.zarr" / ".versions" / "1")
    ]
    assert files[0] == files[1]


def test_a_callers_distributed_client_gives_the_same_store(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `distributed` is not installed")
    from on_a_cluster import run

    assert run("client", tmp_path) == "made"
    one, other = (open_store(tmp_path / name).compute() for name in ("a.zarr", "b.zarr"))
    xr.testing.assert_identical(one, other)


def test_shards_cover_every_frame_once() -> None:
    for frames in (1, 11, 12, 13, 80):
        layout = Layout.of(make_series(frames))
        rows = np.concatenate([np.arange(frames)[part] for part in layout.shards])
        np.testing.assert_array_equal(rows, np.arange(frames))
        assert layout.shard % layout.chunk == 0


def spoil(series: xr.Dataset, value: float, row: int) -> xr.Dataset:
    spoiled = series.copy(deep=True)
    spoiled["t2m"][row, 1, 2] = value
    return spoiled


@pytest.mark.parametrize(
    ("make", "kind", "match"),
    [
        (
            lambda: spoil(make_series(), np.nan, 30),
            ErrorKind.NAN,
            "variable t2m has 1 nan .* first at 2016-01-08T12:00",
        ),
        (
            lambda: spoil(make_series(), np.inf, 75),
            ErrorKind.INF,
            "variable t2m has 1 inf .* first at 2016-01-19T18:00",
        ),
        (lambda: make_series(absent=(8,)), ErrorKind.TIME_GAP, "1 gap .*allow_gaps"),
        (lambda: make_series() * 0 + 280, ErrorKind.CONST, "variable t2m is constant"),
    ],
)
def test_d04_d06_i04_a_refused_series_leaves_nothing_behind(tmp_path: Path, make, kind: ErrorKind, match: str) -> None:
    series = make()
    with pytest.raises(StforecastError, match=match) as caught:
        prepare(series, tmp_path / "s.zarr", fractions(series))
    assert caught.value.kind == kind
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_a_split_outside_the_data_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    split = Split(train=("1979", "2015"), validation=("2016", "2016"), test=("2017", "2018"))
    with pytest.raises(StforecastError, match="train period 1979..2015 holds no frame"):
        prepare(make_series(), tmp_path / "s.zarr", split)
    assert list(tmp_path.iterdir()) == []


def test_a_declared_gap_is_kept_as_a_gap(tmp_path: Path) -> None:
    series = make_series(absent=(8, 9))
    opened = prepare(series, tmp_path / "s.zarr", fractions(series), allow_gaps=True)
    np.testing.assert_array_equal(opened["time"], series["time"])
    assert opened.attrs["gaps"] == 1


def test_h04_k13_a_store_is_replaced_only_when_asked_and_open_ones_stay_readable(tmp_path: Path) -> None:
    series, warmer = make_series(), make_series() + 7
    warmer["t2m"].attrs = series["t2m"].attrs
    path = tmp_path / "s.zarr"
    before = prepare(series, path, fractions(series))
    with pytest.raises(StforecastError, match="overwrite=True"):
        prepare(warmer, path, fractions(series))
    after = prepare(warmer, path, fractions(series), overwrite=True)
    xr.testing.assert_allclose(before["t2m"].compute(), series["t2m"], rtol=0, atol=6e-5)
    xr.testing.assert_allclose(after["t2m"].compute(), warmer["t2m"], rtol=0, atol=6e-5)


def test_replacing_a_store_by_one_of_other_variables_leaves_no_stale_name(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    for name in ("t2m", "u10", "v10", "q"):
        series = make_series(variables=(name,))
        prepare(series, path, fractions(series), overwrite=True)
    names = {entry.name for entry in path.iterdir()}
    assert names == {".current", ".versions", "zarr.json", "time", "latitude", "longitude", "q"}
    assert {version.name for version in (path / ".versions").iterdir()} == {"3", "4"}


def test_h11_a_version_in_use_outlives_an_interrupted_publication(tmp_path: Path) -> None:
    series = make_series()
    path = tmp_path / "s.zarr"
    opened = prepare(series, path, fractions(series))
    # A writer that died between putting version 2 in its place and making it current.
    shutil.copytree(path / ".versions" / "1", path / ".versions" / "2")
    prepare(series, path, fractions(series), overwrite=True)
    assert {version.name for version in (path / ".versions").iterdir()} == {"1", "3"}
    xr.testing.assert_allclose(opened["t2m"].compute(), series["t2m"], rtol=0, atol=6e-5)


def test_a_failed_replacement_keeps_the_store_that_was_there(tmp_path: Path) -> None:
    series = make_series()
    path = tmp_path / "s.zarr"
    prepare(series, path, fractions(series))
    with pytest.raises(StforecastError, match="nan"):
        prepare(spoil(series, np.nan, 3), path, fractions(series), overwrite=True)
    xr.testing.assert_allclose(open_store(path)["t2m"].compute(), series["t2m"], rtol=0, atol=6e-5)
    assert not (tmp_path / ".s.zarr.partial").exists()


def test_what_a_killed_build_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".s.zarr.partial" / "t2m").mkdir(parents=True)
    (tmp_path / ".s.zarr.partial" / "t2m" / "half").write_text("x")
    series = make_series()
    prepare(series, tmp_path / "s.zarr", fractions(series))
    assert not (tmp_path / ".s.zarr.partial").exists()
    assert not (tmp_path / "s.zarr" / "t2m" / "half").exists()


def test_h01_a_second_writer_hears_that_the_store_is_busy(tmp_path: Path) -> None:
    series = make_series()
    with (
        versions.lock(tmp_path / "s.zarr"),
        pytest.raises(StforecastError, match="is being written by process") as caught,
    ):
        prepare(series, tmp_path / "s.zarr", fractions(series))
    assert caught.value.kind == ErrorKind.STORE_BUSY


def test_k13_an_unrelated_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "s.zarr" / "thesis.txt").write_text("years of work")
    series = make_series()
    with pytest.raises(StforecastError, match="is not a store that stforecast prepared"):
        prepare(series, tmp_path / "s.zarr", fractions(series), overwrite=True)
    assert (tmp_path / "s.zarr" / "thesis.txt").read_text() == "years of work"


def test_a_store_survives_being_moved_and_copied(tmp_path: Path) -> None:
    series = make_series()
    prepare(series, tmp_path / "s.zarr", fractions(series))
    shutil.copytree(tmp_path / "s.zarr", tmp_path / "copy.zarr", symlinks=True)
    (tmp_path / "s.zarr").rename(tmp_path / "moved.zarr")
    for name in ("copy.zarr", "moved.zarr"):
        xr.testing.assert_allclose(open_store(tmp_path / name)["t2m"].compute(), series["t2m"], rtol=0, atol=6e-5)


def test_g12_s11_a_missing_shard_is_refused_and_nan_for_a_plain_reader(tmp_path: Path) -> None:
    series = make_series()
    prepare(series, tmp_path / "s.zarr", fractions(series))
    (tmp_path / "s.zarr" / "t2m" / "c" / "1" / "0" / "0").unlink()
    with pytest.raises(StforecastError, match="t2m/c/1/0/0 is missing") as caught:
        open_store(tmp_path / "s.zarr")
    assert caught.value.kind == ErrorKind.STORE_INCOMPLETE
    assert np.isnan(xr.open_zarr(tmp_path / "s.zarr")["t2m"][12:24]).all()


def test_g13_s11_a_flipped_bit_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    series = make_series()
    prepare(series, tmp_path / "s.zarr", fractions(series))
    shard = tmp_path / "s.zarr" / "t2m" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StforecastError, match=r"frames of t2m in .*s.zarr cannot be read") as caught:
        open_store(tmp_path / "s.zarr")["t2m"].load()
    assert caught.value.kind == ErrorKind.STORE_CORRUPT


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: None, "there is no store at"),
        (lambda path: path.mkdir(), "is not a store that stforecast prepared"),
        (lambda path: path.write_text("x"), "is not a store that stforecast prepared"),
    ],
)
def test_what_is_no_store_is_refused(tmp_path: Path, make, match: str) -> None:
    make(tmp_path / "s.zarr")
    with pytest.raises(StforecastError, match=match):
        open_store(tmp_path / "s.zarr")


@pytest.mark.parametrize(
    ("spoiled", "match"),
    [
        ('"stforecast_store_version": 9', "has store version 9, this stforecast reads version 1"),
        ('"stforecast_store_version": ', "metadata of .* cannot be read"),
        ('"other": 1, "shape": [100000000000]', "has store version 0"),
    ],
)
def test_b13_g14_k12_other_versions_and_broken_metadata_are_named(tmp_path: Path, spoiled: str, match: str) -> None:
    series = make_series()
    prepare(series, tmp_path / "s.zarr", fractions(series))
    root = tmp_path / "s.zarr" / "zarr.json"
    root.write_text(root.read_text().replace('"stforecast_store_version": 1', spoiled))
    version = root.resolve().parent.parent
    versions.write_manifest(version, {})
    with pytest.raises(StforecastError, match=match):
        open_store(tmp_path / "s.zarr")


def test_k04_names_that_are_no_names_of_files_are_refused(tmp_path: Path) -> None:
    series = make_series().rename(t2m="../t2m")
    with pytest.raises(StforecastError, match="'../t2m' cannot be a name in a store"):
        prepare(series, tmp_path / "s.zarr", fractions(series))
    assert list(tmp_path.iterdir()) == []


def test_attributes_that_json_cannot_hold_become_text(tmp_path: Path) -> None:
    series = make_series().assign_attrs(made=np.datetime64("2016-01-01"), limits=np.array([1.0, 2.0]))
    opened = prepare(series, tmp_path / "s.zarr", fractions(series))
    assert (opened.attrs["made"], opened.attrs["limits"]) == ("2016-01-01", [1.0, 2.0])


def test_g05_s05_too_little_disk_is_said_before_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    series = make_series()
    with pytest.raises(StforecastError, match="may need 8,448 bytes but 10 are free") as caught:
        prepare(series, tmp_path / "s.zarr", fractions(series))
    assert caught.value.kind == ErrorKind.DISK_FULL


def test_no_task_is_at_work_any_more_when_a_failure_is_told(tmp_path: Path) -> None:
    began: list[int] = []

    def work(number: int) -> int:
        began.append(number)
        # Dask begins them in an order of its own.
        if number == began[0]:
            raise StforecastError(ErrorKind.NAN, "the first fails at once")
        time.sleep(0.05)
        (tmp_path / str(number)).touch()
        return number

    with pytest.raises(StforecastError, match="fails at once"):
        run_tasks([functools.partial(work, number) for number in range(40)], None, stop=tmp_path / "stop")
    files = {path.name for path in tmp_path.iterdir()} - {"stop"}
    assert files == {str(number) for number in began[1:]}
    assert len(began) < 40


@pytest.mark.parametrize("normalized", [False, True])
def test_a_series_that_was_opened_is_its_store_until_somebody_changes_it(tmp_path: Path, normalized: bool) -> None:
    series = make_series(variables=("t2m", "u10"))
    prepare(series, tmp_path / "s.zarr", Split.by_fraction(series["time"].to_numpy()))
    opened = open_store(tmp_path / "s.zarr", normalized=normalized)
    group = (tmp_path / "s.zarr" / ".current").resolve()
    assert group_of(opened) == group_of(opened.copy()) == group
    changed = opened.copy()
    changed["t2m"] = opened["u10"]
    for other in (
        opened.isel(time=slice(40)),
        opened.isel(latitude=slice(None, None, -1)),
        opened + 0,
        opened.rename(t2m="t"),
        changed,
        opened.drop_vars(["t2m", "u10"]),
        series,
        opened.load(),
    ):
        assert group_of(other) is None
