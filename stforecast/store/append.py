"""New frames for a store that is there: at its end, into its gaps, or in the place of others."""

import functools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import check_finite, check_series, on_grid_of, times_of
from stforecast.limits import check_range
from stforecast.normalization import Normalization, Values
from stforecast.split import Split
from stforecast.store.build import check_space, errors_named, make_store
from stforecast.store.layout import Layout, in_store_order, read_shard, shard_file, write_template
from stforecast.store.reading import open_both
from stforecast.store.shards import write_shard
from stforecast.store.tasks import run_tasks
from stforecast.store.versions import (
    GROUP,
    Files,
    current_version,
    lock,
    publish,
    read_manifest,
    staging_of,
    write_manifest,
)
from stforecast.time_axis import Times, check_gaps, find_gaps, show_time


@dataclass(frozen=True)
class Appended:
    """What an append did.

    Attributes:
        path: the store.
        added: how many frames are new.
        replaced: how many took the place of others.
        unchanged: how many were there already, to the last bit.
        end: the last frame that the store now has.
    """

    path: Path
    added: int
    replaced: int
    unchanged: int
    end: np.datetime64

    def __str__(self) -> str:
        if not self.added and not self.replaced:
            return f"{self.path} has all {self.unchanged} frames already, to {show_time(self.end)}: nothing to do"
        return (
            f"{self.path}: {self.added} added, {self.replaced} replaced, {self.unchanged} there already; now to "
            f"{show_time(self.end)}"
        )


def append(
    series: xr.Dataset,
    path: str | Path,
    *,
    allow_gaps: bool = False,
    allow_late: bool = False,
    replace: bool = False,
    refit: bool = False,
) -> Appended:
    """What became of the frames of a series when they were put into a store.

    Frames that are there already with the same values are left alone, so a rerun changes nothing. The statistics stay
    those of the training period that the store was made with, and so does the split; `refit` makes the store anew, with
    statistics of its training period as it is now. Readers see the store before or after, nothing between; shards that
    did not change are shared between both versions.

    Args:
        series: (time, [level,] Y, X), the store's variables in its units on its grid; latitude and longitude may be in
            another order or convention.
        path: a store that `prepare` made.
        allow_gaps: declares that frames between the store's last and the first new one may be absent.
        allow_late: declares that frames may go between others, into a gap.
        replace: whether frames with other values take the place of those that are there.
        refit: whether the statistics are taken anew.

    Raises:
        StforecastError: FILE_MISSING or FILE_FORMAT without a store; VAR_MISSING, CHANNELS, UNITS or GRID_SHAPE if the
            series is not like the store's; TIME_FREQ for another step; CONFLICT, naming variable and timestamp, for
            other values without `replace`; TIME_GAP or TIME_ORDER for gaps and late frames that are not declared; NAN,
            INF or RANGE; STORE_BUSY; DISK_FULL.
    """
    path = Path(path)
    with lock(path):
        stored, physical = open_both(path)
        new = _like_store(series, physical)
        normalization = Normalization.from_json(stored.attrs["normalization"])
        times, fresh = stored["time"].to_numpy(), times_of(new)
        same = _unchanged(new, stored, normalization, replace=replace)
        late = fresh[~np.isin(fresh, times) & (fresh < times[-1])]
        _check_axis(times, fresh, late, stored, allow_gaps=allow_gaps, allow_late=allow_late)
        changed = ~np.isin(fresh, fresh[same])
        added = int((~np.isin(fresh, times)).sum())
        outcome = Appended(path, added, int(changed.sum()) - added, int(same.sum()), max(times[-1], fresh[-1]))
        if not changed.any():
            return outcome
        frames = new.isel(time=np.flatnonzero(changed))
        if refit:
            _refit(path, frames, physical)
        else:
            _merge(path, frames, stored, physical, normalization)
    return outcome


def _like_store(series: xr.Dataset, physical: xr.Dataset) -> xr.Dataset:
    """The new frames, loaded, on the store's grid and with its variables, checked as `prepare` would."""
    check_series(series, allow_gaps=True, step=np.timedelta64(physical.attrs["step_seconds"], "s"))
    ordered = in_store_order(series)
    new = on_grid_of(ordered, physical, name="the series").assign_coords(_time_coordinates(ordered)).load()
    lacking = [name for name in _time_coordinates(physical) if name not in new.coords]
    if lacking:
        raise StforecastError(
            ErrorKind.VAR_MISSING,
            f"the store has {', '.join(lacking)} (time) beside its variables, the new frames do not",
        )
    for name, variable in new.data_vars.items():
        check_finite(variable)
        check_range(variable.assign_attrs(physical[name].attrs))
    return new


def _time_coordinates(series: xr.Dataset) -> dict[str, xr.DataArray]:
    """What a series says of each time beside its variables, such as holidays."""
    return {
        str(name): coordinate.reset_coords(drop=True)
        for name, coordinate in series.coords.items()
        if "time" in coordinate.dims and name != "time"
    }


def _unchanged(new: xr.Dataset, stored: xr.Dataset, normalization: Normalization, *, replace: bool) -> Values:
    """Which of the new frames are in the store with the same values, (time,)."""
    times, fresh = stored["time"].to_numpy(), times_of(new)
    there = np.isin(fresh, times)
    same = there.copy()
    rows = np.searchsorted(times, fresh[there])
    for name in new.data_vars:
        ours = stored[name].isel(time=rows).transpose("time", ...).to_numpy()
        theirs = normalization.variables[str(name)].apply(new[name].transpose(*stored[name].dims).to_numpy()[there])
        equal = (ours.view(np.int32) == theirs.view(np.int32)).all(axis=tuple(range(1, ours.ndim)))
        if not equal.all() and not replace:
            first = fresh[there][~equal][0]
            raise StforecastError(
                ErrorKind.CONFLICT,
                f"variable {name} has other values at {show_time(first)} and {int((~equal).sum()) - 1} later frames "
                "than the store; pass replace=True (--replace) to put them in its place",
            )
        same[there] &= equal
    return same


def _check_axis(
    times: Times, fresh: Times, late: Times, stored: xr.Dataset, *, allow_gaps: bool, allow_late: bool
) -> None:
    step = np.timedelta64(stored.attrs["step_seconds"], "s")
    off = (fresh - times[0]) % step != np.timedelta64(0)
    if off.any():
        raise StforecastError(
            ErrorKind.TIME_FREQ,
            f"{show_time(fresh[off][0])} is between two steps of the store, which has one every {step} from "
            f"{show_time(times[0])}",
        )
    if len(late) and not allow_late:
        raise StforecastError(
            ErrorKind.TIME_ORDER,
            f"{len(late)} frame(s) come late, the first {show_time(late[0])}, before the store's last "
            f"{show_time(times[-1])}; pass allow_late=True (--allow-late) to put them into its gaps",
        )
    if not allow_gaps:
        behind = np.concatenate([times[-1:], fresh[fresh > times[-1]]])
        check_gaps(behind, step, name="the store with the new frames")


def _merge(path: Path, new: xr.Dataset, stored: xr.Dataset, physical: xr.Dataset, normalization: Normalization) -> None:
    """Publish a version with the new frames among the stored ones; shards that stay the same are linked."""
    before, staging = current_version(path), staging_of(path)
    times = np.union1d(stored["time"].to_numpy(), new["time"].to_numpy())
    merged = _template(physical, new, times)
    layout = Layout.of(merged)
    size = sum(4 * variable.size for variable in new.data_vars.values())
    needed = check_space(
        path, size + len(new.data_vars) * layout.shard * 4 * max(v[0].size for v in new.data_vars.values())
    )
    shutil.rmtree(staging, ignore_errors=True)
    with errors_named(path, staging, needed):
        write_template(staging / GROUP, merged, layout, normalization)
        kept = _link_unchanged(before, staging, stored, new, layout)
        tasks = [
            functools.partial(_write_merged, number, layout, times[rows], stored, new, before, staging, normalization)
            for number, rows in enumerate(layout.shards)
            if number not in kept
        ]
        known: Files = {}
        for files in run_tasks(tasks, None):
            known |= files
        manifest = read_manifest(before)
        known |= {name: manifest[name] for files in kept.values() for name in files}
        write_manifest(staging, known)
        publish(staging, path)


def _template(physical: xr.Dataset, new: xr.Dataset, times: Times) -> xr.Dataset:
    """A series of the right shape, dimensions, coordinates and attributes, whose values are never looked at."""
    variables = {
        name: (variable.dims, np.broadcast_to(np.float32(0), (len(times), *variable.shape[1:])), variable.attrs)
        for name, variable in physical.data_vars.items()
    }
    coordinates = {name: coord.variable for name, coord in physical.coords.items() if "time" not in coord.dims}
    for name, coordinate in _time_coordinates(physical).items():
        newer = _time_coordinates(new)[name]
        older = coordinate.isel(time=np.flatnonzero(~np.isin(coordinate["time"], newer["time"])))
        both = np.concatenate([older.to_numpy(), newer.to_numpy()])
        order = np.argsort(np.concatenate([older["time"].to_numpy(), newer["time"].to_numpy()]))
        coordinates[name] = xr.Variable("time", both[order], coordinate.attrs)
    attrs = {key: value for key, value in physical.attrs.items() if key != "normalization"}
    step = np.timedelta64(attrs["step_seconds"], "s")
    attrs["gaps"] = len(find_gaps(times, step))
    time = xr.Variable("time", times, physical["time"].attrs)
    return xr.Dataset(variables, {**coordinates, "time": time}, attrs)


def _link_unchanged(
    before: Path, staging: Path, stored: xr.Dataset, new: xr.Dataset, layout: Layout
) -> dict[int, list[str]]:
    """Hard links to the shards before the first new frame: their rows and values are the same in both versions."""
    first = int(np.searchsorted(stored["time"].to_numpy(), new["time"].to_numpy()[0]))
    old_frames = stored.sizes["time"]
    kept: dict[int, list[str]] = {}
    for number, rows in enumerate(layout.shards):
        if rows.stop > min(first, old_frames):
            break
        kept[number] = [shard_file(variable, str(name), number) for name, variable in stored.data_vars.items()]
        for name in kept[number]:
            (staging / GROUP / name).parent.mkdir(parents=True, exist_ok=True)
            # Zarr replaces files by a rename and never writes into one, so a shared file never changes.
            os.link(before / GROUP / name, staging / GROUP / name)
    return kept


def _write_merged(
    number: int,
    layout: Layout,
    times: Times,
    stored: xr.Dataset,
    new: xr.Dataset,
    before: Path,
    staging: Path,
    normalization: Normalization,
) -> Files:
    """Write one shard of stored and new frames in order of time."""
    old_times, new_times = stored["time"].to_numpy(), new["time"].to_numpy()
    from_new = np.isin(times, new_times)
    files: Files = {}
    for name, variable in stored.data_vars.items():
        values = np.empty((len(times), *variable.shape[1:]), np.float32)
        if not from_new.all():
            old_rows = np.searchsorted(old_times, times[~from_new])
            block = read_shard(before / GROUP, str(name), slice(int(old_rows[0]), int(old_rows[-1]) + 1))
            values[~from_new] = block[old_rows - old_rows[0]]
        if from_new.any():
            frames = new[name].isel(time=np.searchsorted(new_times, times[from_new])).transpose(*variable.dims)
            values[from_new] = normalization.variables[str(name)].apply(frames.to_numpy())
        file = shard_file(variable, str(name), number)
        files[file] = write_shard(staging / GROUP / file, values, layout.chunk, layout.shard)
    return files


def _refit(path: Path, new: xr.Dataset, physical: xr.Dataset) -> None:
    """Make the store, whose lock the caller has, anew of its own frames and the new ones."""
    attrs: Sequence[str] = ("normalization", "split", "statistics_period", "step_seconds", "gaps")
    kept = physical.isel(time=np.flatnonzero(~np.isin(physical["time"].to_numpy(), new["time"].to_numpy())))
    methods = {
        name: scaling.method
        for name, scaling in Normalization.from_json(physical.attrs["normalization"]).variables.items()
    }
    whole = xr.concat(
        [kept, new],
        "time",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="override",
    ).sortby("time")
    whole = whole.drop_attrs(deep=False).assign_attrs(
        {key: value for key, value in physical.attrs.items() if key not in attrs}
    )
    for name in whole.data_vars:
        whole[name].attrs = dict(physical[name].attrs)
    split = Split.from_attrs(physical.attrs)
    make_store(whole, path, split, method=methods, allow_gaps=True, overwrite=True, is_locked=True)
