"""Published forecasts: each init time is there whole or not at all, and goes when nobody reads it any more.

20180601T1200 -> .versions/20180601T1200.1      forecast.nc, run.json, maps/
latest -> 20180601T1200
.readers/                                       a locked file for each open reader
"""

import fcntl
import json
import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.delayed import delayed

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import confirm, link_to, make_durable, sha256, sync
from stforecast.forecasts import open_forecast
from stforecast.grid import with_forecast_times
from stforecast.operations.cycles import init_of, name_of
from stforecast.sources.selection import period_bounds
from stforecast.store.versions import recall, remember
from stforecast.time_axis import Times, show_time

FORECAST, RECORD, LATEST = "forecast.nc", "run.json", "latest"
_VERSIONS, _READERS, _STAGING, _RETIRED = ".versions", ".readers", ".staging", ".retired.json"


@dataclass(frozen=True)
class Archive:
    """The forecasts of a pipeline.

    Only one process at a time may change it: who holds the pipeline's lock.

    Attributes:
        folder: where they lie.
    """

    folder: Path

    def inits(self) -> Times:
        """The init times that are published, in order, (init_time,)."""
        if not self.folder.is_dir():
            return np.empty(0, "datetime64[ns]")
        found = [init_of(entry.name) for entry in self.folder.iterdir() if entry.is_symlink()]
        inits: Times = np.array(sorted(init for init in found if init is not None), "datetime64[ns]")
        return inits

    def holds(self, init: np.datetime64) -> bool:
        """Whether an init time is published."""
        return (self.folder / name_of(init)).is_symlink()

    def absent(self, wanted: Times) -> Times:
        """Those of some init times, (init_time,), that are not published."""
        absent: Times = wanted[~np.isin(wanted, self.inits())]
        return absent

    def version(self, init: np.datetime64) -> Path | None:
        """The folder of an init time as it is now, which stays what it is when the init time is made anew.

        None if it is not published, or not any more.
        """
        try:
            return self.folder / (self.folder / name_of(init)).readlink()
        except FileNotFoundError:
            return None

    def record(self, init: np.datetime64) -> dict[str, Any]:
        """The record of the run that published an init time."""
        return _read_record(self._version(init))

    def forecast(self, init: np.datetime64) -> xr.Dataset:
        """The forecast of an init time, lazily."""
        return open_forecast(self._version(init) / FORECAST)

    def _version(self, init: np.datetime64) -> Path:
        version = self.version(init)
        if version is None:
            raise StforecastError(ErrorKind.FILE_MISSING, f"{self.folder} has no forecast of {show_time(init)}")
        return version

    def before(self, init: np.datetime64) -> np.datetime64 | None:
        """The published init time before another one."""
        earlier = self.inits()
        earlier = earlier[earlier < init]
        return earlier[-1] if len(earlier) else None

    def stage(self, init: np.datetime64) -> Path:
        """An empty folder in which an init time is made; what a run that was killed left of others is cleared."""
        staging = self.folder / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        (staging / name_of(init)).mkdir(parents=True)
        return staging / name_of(init)

    def publish(self, init: np.datetime64, staged: Path) -> None:
        """Put a staged init time where readers see it, in one step, durably; `latest` follows.

        Raises:
            StforecastError: IO_ERROR if it is published, and the disk did not confirm it or `latest` does not follow.
        """
        name, versions = name_of(init), self.folder / _VERSIONS
        versions.mkdir(exist_ok=True)
        make_durable(staged)
        taken = [int(entry.name.rpartition(".")[2]) for entry in versions.glob(f"{name}.*") if entry.is_dir()]
        version = versions / f"{name}.{1 + max(taken, default=0)}"
        staged.rename(version)
        sync(versions)
        link_to(self.folder / name, Path(_VERSIONS) / version.name)
        try:
            self.settle()
        except OSError as error:
            raise StforecastError(
                ErrorKind.IO_ERROR,
                f"{self.folder / name} is published and readers see it, but {LATEST} could not be moved to it "
                f"({error}); the next run does that",
            ) from error
        confirm(self.folder, self.folder / name)

    def settle(self) -> None:
        """Let `latest` be the newest init time: a run that was killed may have come to publish and no further."""
        inits = self.inits()
        if len(inits) and not _leads_to(self.folder / LATEST, name_of(inits[-1])):
            link_to(self.folder / LATEST, Path(name_of(inits[-1])))

    def retire(self, init: np.datetime64) -> None:
        """Take an init time out of sight; it is gone when nobody reads it any more, see `sweep`."""
        (self.folder / name_of(init)).unlink()

    def sweep(self) -> int:
        """How many versions that are out of sight were deleted: those that no reader has open that could see them.

        Who opens the archive later cannot see them; those who have it open now are noted when this is first found, and
        waited for.
        """
        shutil.rmtree(self.folder / _STAGING, ignore_errors=True)
        versions = self.folder / _VERSIONS
        for folder in (self.folder, versions):
            clear_unfinished(folder)
        reading = _live_readers(self.folder / _READERS)
        if not versions.is_dir():
            return 0
        seen = {self._version(init).name for init in self.inits()}
        hidden = [entry for entry in versions.iterdir() if entry.is_dir() and entry.name not in seen]
        deleted = 0
        if hidden:
            # Should the power go, no link may come back to a version that is gone.
            sync(self.folder)
        for version in hidden:
            note = version.with_name(version.name + _RETIRED)
            known = recall(note)
            waited_for = set(known["readers"]) & reading if known is not None else reading
            if waited_for:
                if known is None:
                    remember(note, {"readers": sorted(waited_for)})
                continue
            shutil.rmtree(version, ignore_errors=True)
            note.unlink(missing_ok=True)
            deleted += 1
        return deleted


def oldest_kept(newest: np.datetime64, retention: timedelta) -> np.datetime64:
    """The oldest init time that is kept as long as another one is the newest."""
    oldest: np.datetime64 = newest - np.timedelta64(retention)
    return oldest


def clear_unfinished(folder: Path) -> None:
    """Delete what processes that were killed had begun to write into a folder; others must not write there now."""
    for pattern in (".*.tmp", ".*.new"):
        for begun in folder.glob(pattern):
            begun.unlink(missing_ok=True)


def open_forecasts(path: str | Path, *, period: tuple[str, str] | None = None) -> xr.Dataset:
    """All forecasts that a pipeline has published, lazily, as one Dataset (init_time, lead_time, [level,] Y, X).

    Values are backed by dask, an init time a chunk. Where forecasts differ in variables or lead times, those that one
    lacks are NaN in it. Coordinates by init_time say where it came from: `choice`, what it was made by; `last_frame`,
    the last frame that was seen, which is the init time itself unless input was late; and `is_degraded`. What is open
    stays readable: a pipeline deletes an init time only when nobody has it open. `close` lets it go, and so does the
    end of the process.

    Args:
        path: the `output` folder of a pipeline.
        period: first and last init time, e.g. ("2018-06", "2018-07-15"); all by default.

    Raises:
        StforecastError: FILE_MISSING if there is no forecast; EMPTY_SELECTION if none is of the period; STORE_CORRUPT,
            naming the init time, if one is not as it was published, some of it when its values are read.
    """
    archive = Archive(Path(path))
    # Before the links are looked at: what goes out of sight from now on waits for this reader.
    reader = _Reader.of(archive.folder)
    inits = archive.inits()
    if not len(inits):
        raise StforecastError(ErrorKind.FILE_MISSING, f"there are no published forecasts in {path}; check the path")
    if period is not None:
        start, end = period_bounds(period)
        chosen = inits[(inits >= start) & (inits <= end)]
        if not len(chosen):
            raise StforecastError(
                ErrorKind.EMPTY_SELECTION,
                f"no forecast of {path} begins in {period[0]}..{period[1]}; they run from {show_time(inits[0])} to "
                f"{show_time(inits[-1])}",
            )
        inits = chosen
    published = [_Published.of(version, init) for init in inits if (version := archive.version(init)) is not None]
    opened = _joined(published, reader)
    opened.set_close(reader.close)
    return opened


@dataclass(frozen=True)
class _Published:
    """One published forecast, by its record.

    Attributes:
        folder: its version.
        init: its init time.
        record: of its run.
    """

    folder: Path
    init: np.datetime64
    record: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path, init: np.datetime64) -> "_Published":
        """One of a version, which has to be as large as it was."""
        record, file = _read_record(folder), folder / FORECAST
        if not file.is_file() or file.stat().st_size != record["forecast"]["bytes"]:
            there = f"has {file.stat().st_size:,} bytes" if file.is_file() else "is missing"
            raise StforecastError(
                ErrorKind.STORE_CORRUPT,
                f"the forecast of {show_time(init)} is damaged: {file} {there}, wanted "
                f"{record['forecast']['bytes']:,}; make it anew with stforecast run --init {show_time(init)} --force",
            )
        return cls(folder, init, record)

    @property
    def lead_times(self) -> npt.NDArray[np.timedelta64]:
        """Its lead times, (lead_time,)."""
        return np.array(self.record["forecast"]["lead_seconds"], "timedelta64[s]").astype("timedelta64[ns]")

    def read(self, name: str, leads: npt.NDArray[np.timedelta64], reader: "_Reader") -> npt.NDArray[Any]:
        """The values of a variable at some lead times, (1, lead_time, …), NaN where it has none.

        The reader is only held, so that it lives as long as what may still be read.
        """
        assert reader is not None
        file = self.folder / FORECAST
        content = file.read_bytes()
        if sha256(content) != self.record["forecast"]["sha256"]:
            raise StforecastError(
                ErrorKind.STORE_CORRUPT,
                f"the forecast of {show_time(self.init)} is damaged: {file} has another SHA-256 than when it was "
                f"published; make it anew with stforecast run --init {show_time(self.init)} --force",
            )
        with open_forecast(file) as forecast:
            values: npt.NDArray[Any] = forecast[name].reindex(lead_time=leads).to_numpy()
        return values


def _joined(published: list[_Published], reader: "_Reader") -> xr.Dataset:
    """Published forecasts along init_time."""
    leads = np.unique(np.concatenate([one.lead_times for one in published]))
    wanted: dict[str, xr.DataArray] = {}
    # The newest forecast that has a variable says what it is like.
    for one in reversed(published):
        if set(one.record["forecast"]["variables"]) - set(wanted):
            with open_forecast(one.folder / FORECAST) as forecast:
                first = forecast.isel(init_time=0, lead_time=0, drop=True).load()
            wanted |= {str(name): first[name] for name in first.data_vars if name not in wanted}
            wanted.setdefault("quality_flag", forecast["quality_flag"].isel(init_time=0, lead_time=0, drop=True))
            attrs = forecast.attrs
            time_attrs = forecast["valid_time"].attrs

    def along(name: str, like: xr.DataArray, missing: float) -> xr.Variable:
        shape, rows = (1, len(leads), *like.shape), []
        for one in published:
            if name == "quality_flag" or name in one.record["forecast"]["variables"]:
                values = delayed(one.read, pure=False)(name, leads, reader)
                rows.append(da.from_delayed(values, shape, like.dtype))
            else:
                rows.append(da.full(shape, missing, like.dtype, chunks=shape))
        return xr.Variable(("init_time", "lead_time", *like.dims), da.concatenate(rows), like.attrs)

    # A flag of a lead time that is not there is not read by anyone: its values are NaN.
    flags = along("quality_flag", wanted.pop("quality_flag").astype(np.float32), np.nan)
    variables = {name: (along(name, like, np.nan)) for name, like in wanted.items()}
    choices = [one.record["choice"] for one in published]
    coords = {
        name: coordinate
        for like in wanted.values()
        for name, coordinate in like.coords.items()
        if name not in ("init_time", "lead_time", "valid_time", "quality_flag")
    }
    whole = xr.Dataset(
        variables,
        {
            **coords,
            "init_time": [one.init for one in published],
            "lead_time": leads,
            "quality_flag": flags,
            "choice": ("init_time", np.array([choice["made_by"] for choice in choices])),
            "last_frame": ("init_time", np.array([choice["last_frame"] for choice in choices], "datetime64[ns]")),
            "is_degraded": ("init_time", np.array([choice["is_degraded"] for choice in choices])),
        },
        attrs,
    )
    zone = {key: value for key, value in time_attrs.items() if key == "time_zone"}
    return with_cycle_times(whole, zone)


def with_cycle_times(forecast: xr.Dataset, time_attrs: Mapping[Any, Any]) -> xr.Dataset:
    """A forecast with the attributes of its times, whose init time is the run's and not always the last frame seen."""
    labelled = with_forecast_times(forecast, time_attrs=time_attrs)
    labelled["init_time"].attrs["long_name"] = "init time of the run"
    labelled["lead_time"].attrs["long_name"] = "time since the init time"
    labelled["last_frame"].attrs = {"long_name": "last frame seen"}
    return labelled


class _Reader:
    """Who has the archive open: a file that is locked as long as it is, however the process ends."""

    def __init__(self, file: Path | None, descriptor: int | None) -> None:
        self._file = file
        self.close: Callable[[], None] = weakref.finalize(self, _let_go, file, descriptor, os.getpid())

    @classmethod
    def of(cls, folder: Path) -> "_Reader":
        """A reader of an archive; one that cannot be noted, since the disk is not its to write, reads all the same."""
        file = folder / _READERS / uuid.uuid4().hex
        try:
            while folder.is_dir():
                file.parent.mkdir(exist_ok=True)
                descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o644)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if file.exists():
                    return cls(file, descriptor)
                # A sweep took it for one of a process that died, before it was locked.
                os.close(descriptor)
        except OSError:
            pass
        return cls(None, None)

    def __reduce__(self) -> tuple[Callable[[], "_Reader"], tuple[()]]:
        # A worker of a cluster reads for the process that opened the archive, which holds it.
        return _Reader._elsewhere, ()

    @staticmethod
    def _elsewhere() -> "_Reader":
        return _Reader(None, None)


def _let_go(file: Path | None, descriptor: int | None, process: int) -> None:
    if file is not None and descriptor is not None:
        # A forked child has the lock as well, and its parent may go on reading.
        if process == os.getpid():
            with suppress(OSError):
                file.unlink(missing_ok=True)
        os.close(descriptor)


def _live_readers(folder: Path) -> set[str]:
    """The names of readers that live; files of others are cleared."""
    live = set()
    for file in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            # To lock a file one need not be allowed to write it: it may be another user's.
            descriptor = os.open(file, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                live.add(file.name)
            else:
                file.unlink(missing_ok=True)
            finally:
                os.close(descriptor)
    return live


def describe(forecast: xr.Dataset, file: Path) -> dict[str, Any]:
    """What a record says of a forecast's file, by which the archive is opened without opening each."""
    content = file.read_bytes()
    leads: Iterable[int] = (forecast["lead_time"].to_numpy() // np.timedelta64(1, "s")).tolist()
    return {
        "file": file.name,
        "bytes": len(content),
        "sha256": sha256(content),
        "variables": [str(name) for name in forecast.data_vars],
        "lead_seconds": list(leads),
    }


def _read_record(version: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((version / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise StforecastError(
            ErrorKind.STORE_CORRUPT,
            f"{version / RECORD} cannot be read ({error}); make the forecast anew with stforecast run --init "
            f"{version.name.partition('.')[0]} --force",
        ) from error
    return record


def _leads_to(link: Path, name: str) -> bool:
    return link.is_symlink() and str(link.readlink()) == name
