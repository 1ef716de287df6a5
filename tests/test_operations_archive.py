"""Forecasts that are published, read while they are replaced, and deleted when nobody reads them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from factory import make_series

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.forecasts import write_forecast
from stforecast.operations.archive import FORECAST, RECORD, Archive, describe, open_forecasts, with_cycle_times
from stforecast.operations.cycles import name_of

SERIES = make_series(40, variables=("t2m", "d2m"))
TIMES = SERIES["time"].to_numpy()


def forecast_from(row: int, *, horizon: int = 3, variables: tuple[str, ...] = ("t2m", "d2m")) -> xr.Dataset:
    made = stf.baselines.Persistence().predict(SERIES[list(variables)], init_times=[TIMES[row]], horizon=horizon)
    made = made.assign_coords(
        quality_flag=(("init_time", "lead_time"), np.zeros((1, horizon), np.uint8)),
        last_frame=("init_time", [TIMES[row]]),
    )
    return with_cycle_times(made, {}).assign_attrs(made_by="persistence")


def publish(archive: Archive, row: int, forecast: xr.Dataset | None = None, *, is_degraded: bool = False) -> None:
    forecast = forecast_from(row) if forecast is None else forecast
    staged = archive.stage(TIMES[row])
    write_forecast(forecast, staged / FORECAST)
    choice = {"made_by": "persistence", "last_frame": str(TIMES[row]), "is_degraded": is_degraded, "reason": ""}
    record = {"init": str(TIMES[row]), "choice": choice, "forecast": describe(forecast, staged / FORECAST)}
    (staged / RECORD).write_text(json.dumps(record))
    archive.publish(TIMES[row], staged)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "forecasts")


def test_the_archive_is_its_forecasts_one_after_the_other(archive: Archive) -> None:
    for row in (12, 10, 11):
        publish(archive, row)
    expected = stf.baselines.Persistence().predict(SERIES, init_times=TIMES[10:13], horizon=3)
    with open_forecasts(archive.folder) as opened:
        assert opened["t2m"].chunks is not None
        for name in ("t2m", "d2m", "init_time", "lead_time", "valid_time"):
            np.testing.assert_array_equal(opened[name], expected[name])
        assert opened["t2m"].attrs["units"] == "K"
        assert list(opened["choice"].to_numpy()) == ["persistence"] * 3
        np.testing.assert_array_equal(opened["last_frame"], TIMES[10:13])
        # What the archive gives is a forecast: it can be scored as it is.
        assert stf.evaluate(opened, SERIES, reference=["persistence"])["t2m"].sizes["lead_time"] == 3


def test_the_archive_is_read_by_many_threads_at_once(archive: Archive) -> None:
    rows = range(8, 24)
    for row in rows:
        publish(archive, row)
    expected = stf.baselines.Persistence().predict(SERIES, init_times=TIMES[rows], horizon=3)
    with open_forecasts(archive.folder) as opened, dask.config.set(scheduler="threads", num_workers=8):
        for _ in range(3):
            np.testing.assert_array_equal(opened[["t2m"]].compute()["t2m"], expected["t2m"])


def test_what_a_forecast_lacks_is_nan_beside_others(archive: Archive) -> None:
    publish(archive, 10, forecast_from(10, horizon=2))
    publish(archive, 11, forecast_from(11, variables=("t2m",)), is_degraded=True)
    with open_forecasts(archive.folder) as opened:
        there = np.isfinite(opened["t2m"]).all(("latitude", "longitude")).to_numpy()
        assert there.tolist() == [[True, True, False], [True, True, True]]
        assert np.isnan(opened["d2m"][1]).all()
        assert opened["is_degraded"].to_numpy().tolist() == [False, True]


def test_a_period_is_asked_for_by_init_times(archive: Archive) -> None:
    for row in range(8):
        publish(archive, row)
    with open_forecasts(archive.folder, period=("2016-01-01T06", "2016-01-01T18")) as opened:
        np.testing.assert_array_equal(opened["init_time"], TIMES[1:4])
    with pytest.raises(StforecastError, match=r"begins in 2017\.\.2018; they run from 2016-01-01T00:00 to") as caught:
        open_forecasts(archive.folder, period=("2017", "2018"))
    assert caught.value.kind == ErrorKind.EMPTY_SELECTION
    with pytest.raises(StforecastError, match="there are no published forecasts"):
        open_forecasts(archive.folder / "elsewhere")


def test_m09_latest_is_the_newest_and_never_goes_back(archive: Archive) -> None:
    for row, newest in ((10, 10), (12, 12), (11, 12)):
        publish(archive, row)
        assert (archive.folder / "latest").readlink() == Path(name_of(TIMES[newest]))
    # A run that was killed between both links leaves the older one, which the next run mends.
    (archive.folder / "latest").unlink()
    (archive.folder / "latest").symlink_to(name_of(TIMES[10]))
    archive.settle()
    assert (archive.folder / "latest").resolve() == archive.version(TIMES[12])


def test_what_a_killed_run_staged_is_seen_by_nobody_and_cleared(archive: Archive) -> None:
    publish(archive, 10)
    (archive.stage(TIMES[11]) / "half").write_text("")
    # And one that was moved into its place, but not linked.
    (archive.folder / ".versions" / f"{name_of(TIMES[12])}.1").mkdir()
    np.testing.assert_array_equal(archive.inits(), TIMES[[10]])
    assert archive.sweep() == 1
    assert sorted(entry.name for entry in (archive.folder / ".versions").iterdir()) == [f"{name_of(TIMES[10])}.1"]
    assert not (archive.folder / ".staging").exists()


def test_an_init_time_goes_when_nobody_reads_it_any_more(archive: Archive) -> None:
    publish(archive, 10)
    publish(archive, 11)
    opened = open_forecasts(archive.folder)
    archive.retire(TIMES[10])
    assert archive.sweep() == 0
    later = open_forecasts(archive.folder)
    assert np.isfinite(opened["t2m"].to_numpy()).all()
    np.testing.assert_array_equal(later["init_time"], TIMES[[11]])
    opened.close()
    # Who opened it afterwards cannot see it and holds nothing up.
    assert archive.sweep() == 1
    assert np.isfinite(later["t2m"].to_numpy()).all()
    assert archive.version(TIMES[10]) is None
    later.close()


def test_a_forked_child_does_not_let_go_what_its_parent_reads(archive: Archive) -> None:
    publish(archive, 10)
    publish(archive, 11)
    with open_forecasts(archive.folder) as opened:
        child = os.fork()
        if not child:
            opened.close()
            os._exit(0)
        os.waitpid(child, 0)
        archive.retire(TIMES[10])
        assert archive.sweep() == 0
        assert np.isfinite(opened["t2m"].to_numpy()).all()
    assert archive.sweep() == 1


def test_a_reader_that_died_holds_nothing_up(archive: Archive) -> None:
    publish(archive, 10)
    publish(archive, 11)
    code = f"import os, stforecast as stf; kept = stf.open_forecasts({str(archive.folder)!r}); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(list((archive.folder / ".readers").iterdir())) == 1
    archive.retire(TIMES[10])
    assert archive.sweep() == 1
    assert not list((archive.folder / ".readers").iterdir())


def test_what_is_still_to_be_computed_keeps_the_archive_open(archive: Archive) -> None:
    publish(archive, 10)
    publish(archive, 11)
    first = open_forecasts(archive.folder)["t2m"].isel(init_time=0)
    archive.retire(TIMES[10])
    assert archive.sweep() == 0
    assert np.isfinite(first.to_numpy()).all()
    del first
    assert archive.sweep() == 1


def test_damage_is_named_with_its_init_time(archive: Archive) -> None:
    publish(archive, 10)
    file = archive.version(TIMES[10]) / FORECAST
    content = file.read_bytes()
    with open_forecasts(archive.folder) as opened:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(StforecastError, match=r"2016-01-03T12:00 is damaged: .* has another SHA-256") as caught:
            opened["t2m"].load()
        assert caught.value.kind == ErrorKind.STORE_CORRUPT
    file.write_bytes(content[:-9])
    with pytest.raises(StforecastError, match=r"has [\d,]+ bytes, wanted .* --init 2016-01-03T12:00 --force"):
        open_forecasts(archive.folder)
    (file.parent / RECORD).write_text("{")
    with pytest.raises(StforecastError, match=r"run\.json cannot be read"):
        open_forecasts(archive.folder)


def test_an_archive_that_cannot_be_written_is_read_all_the_same(archive: Archive) -> None:
    publish(archive, 10)
    # In place of a folder that this user may not write, which root always may.
    (archive.folder / ".readers").write_text("")
    with open_forecasts(archive.folder) as opened:
        assert np.isfinite(opened["t2m"].to_numpy()).all()
