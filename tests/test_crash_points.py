"""A store whose writer dies or fails at any change of the disk: the old one or the new one, and a rerun mends it."""

import errno
from pathlib import Path

import pytest
from crash import SCENARIOS, SPLIT, Bench, in_child, sample, shrink_shards
from factory import make_series

from stforecast.errors import ErrorKind, StforecastError
from stforecast.store import append, layout, open_store, prepare
from stforecast.store.versions import lock


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", layout.CHUNK_BYTES)
    monkeypatch.setattr(layout, "SHARD_BYTES", layout.SHARD_BYTES)
    shrink_shards()


@pytest.mark.parametrize("name", SCENARIOS)
def test_s01_s02_s03_s05_s15_g01_g02_g03_g05_g10_a_writer_may_die_or_fail_anywhere(tmp_path: Path, name: str) -> None:
    bench = Bench(SCENARIOS[name], tmp_path / name)
    for at, fault in sample(bench.points, 8, seed=len(name)):
        bench.disturb(at, fault)


def test_g01_what_a_killed_writer_left_in_the_staging_is_not_published(tmp_path: Path) -> None:
    series, path = make_series(60), tmp_path / "s.zarr"
    (tmp_path / ".s.zarr.partial").mkdir()
    for at in (40, 60, 80):
        assert in_child(lambda: prepare(series, path, SPLIT), tmp_path, at=at).how == "killed"
    prepare(series, path, SPLIT)
    prepare(series, tmp_path / "whole.zarr", SPLIT)
    names = [sorted(str(f.relative_to(p)) for f in p.rglob("*")) for p in (path, tmp_path / "whole.zarr")]
    assert names[0] == names[1]


def test_h04_h11_a_dead_writers_version_does_not_push_out_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    series = make_series(60)
    prepare(series.isel(time=slice(50)), path, SPLIT)
    reader = open_store(path)
    (path / ".versions" / "2").mkdir()
    append(series.isel(time=slice(50, 60)), path)
    assert sorted(version.name for version in (path / ".versions").iterdir()) == ["1", "3"]
    assert reader.load().sizes["time"] == 50


def test_h04_s11_frames_of_a_version_that_is_gone_are_an_error_and_not_nan(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    prepare(make_series(50), path, SPLIT)
    reader = open_store(path)
    append(make_series(55).isel(time=slice(50, 55)), path)
    append(make_series(60).isel(time=slice(55, 60)), path)
    with pytest.raises(StforecastError, match="t2m are missing in .*open it again") as caught:
        reader.load()
    assert caught.value.kind is ErrorKind.STORE_INCOMPLETE


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize(("fault", "kind"), [(errno.ENOSPC, "DISK_FULL"), (errno.EIO, "IO_ERROR")])
def test_g05_g10_a_lock_that_cannot_be_made_is_named(tmp_path: Path, at: int, fault: int, kind: str) -> None:
    path = tmp_path / "s.zarr"

    def locked() -> None:
        with lock(path):
            pass

    ended = in_child(locked, tmp_path, at=at, fault=fault)
    assert ended.how == "done" or (ended.kind == kind and "s.zarr" in ended.message)
