"""New frames on their way from where others deliver them into a pipeline's store."""

import functools
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import on_grid_of, times_of
from stforecast.operations.pipeline import Input
from stforecast.sources import open_dataset
from stforecast.sources.raw_files import (
    GRIB_SUFFIXES,
    HDF5_SUFFIXES,
    NETCDF_SUFFIXES,
    files_below,
    find_files,
    is_url,
    is_zarr,
    sum_file,
)
from stforecast.store import append, open_store
from stforecast.store.layout import in_store_order
from stforecast.store.versions import recall, remember
from stforecast.time_axis import Times, show_time

# In the output, what was looked at.
INTAKE = ".intake.json"
# What is put into the store at once; each time costs a version of it.
_BATCH_BYTES = 2**26
_INPUT_FAULT = 3
_SUFFIXES = NETCDF_SUFFIXES | HDF5_SUFFIXES | GRIB_SUFFIXES

State = dict[str, dict[str, Any]]


@dataclass
class Intake:
    """What came in.

    Attributes:
        added: frames that are new.
        replaced: frames that took the place of others.
        files: what was read, with its size, SHA-256, first and last time.
        refused: files, or frames of them, that are unfit, with kind and reason.
        waiting: files that are still written, or lack variables that others bring, with the reason.
        changed: what came again with other values.
    """

    added: int = 0
    replaced: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    waiting: list[dict[str, str]] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def merge(self, later: "Intake") -> "Intake":
        """Both, one after the other; what waits is what waits in the end."""
        return Intake(
            self.added + later.added,
            self.replaced + later.replaced,
            self.files + later.files,
            self.refused + later.refused,
            later.waiting,
            self.changed + later.changed,
        )


def take_in(source: Input, store: Path, notes: Path) -> Intake:
    """Put what was delivered since the last look into a store.

    Each file is known by its size and times of change, and looked at once; one that changed is looked at again, or
    whose sum beside it did. A file that is unfit stops no other. Frames that are in the store already change nothing;
    with other values they are told of, and kept or replaced as the pipeline says.

    Args:
        source: where frames are delivered.
        store: what they are put into.
        notes: a file that remembers what was looked at.

    Raises:
        StforecastError: what opening the store raises; ARGUMENT, see `check_clock`; STORE_BUSY, DISK_FULL and other
            faults of the store. Faults of the input are in what is returned.
    """
    stored = open_store(store)
    check_clock(source, stored)
    wanted = source.variables or tuple(map(str, stored.data_vars))
    reading = _Reading(source, wanted, stored)
    intake = Intake()
    known: State = recall(notes) or {}
    batch = _Batch(store, source.revisions == "replace", known, intake)
    if is_url(source.path) or is_zarr(Path(source.path)):
        _take_growing(reading, source.path, times_of(stored), batch)
        batch.put()
        return intake
    parts: list[tuple[_Delivery, xr.Dataset]] = []
    for delivery in _deliveries(source.path):
        if delivery.is_known(known):
            continue
        # By the clock that stamps files; a stamp from the future says nothing of when the file was left alone.
        if 0 <= time.time() - delivery.modified < source.settles_after.total_seconds():
            batch.wait(delivery, "was written to a moment ago")
            continue
        try:
            series = reading.series(delivery.path)
            if set(wanted) - set(map(str, series.data_vars)):
                parts.append((delivery, series.load()))
            else:
                batch.take(delivery, series)
                batch.note(delivery, times_of(series))
        except (StforecastError, OSError) as error:
            batch.turn_away(delivery, error)
    _take_joined(parts, wanted, times_of(stored), batch)
    batch.put()
    if intake.files or intake.refused:
        remember(notes, known)
    return intake


def check_clock(source: Input, stored: xr.Dataset) -> None:
    """Refuse settings that would have each delivery refused: a city's clock that is not the store's.

    Raises:
        StforecastError: ARGUMENT, naming both.
    """
    zone = stored["time"].attrs.get("time_zone")
    if source.time_zone is not None and source.time_zone != zone:
        shows = "times in UTC, as files without a city's clock have" if zone is None else f"the clock of {zone}"
        wanted = "leave it out" if zone is None else f"set it to {zone}"
        raise StforecastError(
            ErrorKind.ARGUMENT, f"input.time_zone is {source.time_zone} and the store has {shows}; {wanted}"
        )


def pending(source: Input, notes: Path) -> list[str]:
    """The names of files that `take_in` would look at; what grows, a zarr store or a URL, is always looked at."""
    if is_url(source.path) or is_zarr(Path(source.path)):
        return [source.path]
    known: State = recall(notes) or {}
    return [delivery.name for delivery in _deliveries(source.path) if not delivery.is_known(known)]


@dataclass(frozen=True)
class _Delivery:
    """What others have put where the pipeline looks.

    Attributes:
        path: a file or a zarr store.
        name: what it is called below that place.
        stamp: its bytes, when they were last written, and when that was last told; None for what grows and is looked at
            each time.
    """

    path: Path | str
    name: str
    stamp: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, path: Path, root: Path) -> "_Delivery":
        """A file with its sum, or a zarr store with all its files, as it is now."""
        found = [file.stat() for file in files_below(path)]
        with suppress(FileNotFoundError):
            found.append(sum_file(path).stat())
        stamp = (
            sum(one.st_size for one in found),
            max((one.st_mtime_ns for one in found), default=0),
            # Who copies a file anew may set the first time to what it was, and never this one.
            max((one.st_ctime_ns for one in found), default=0),
        )
        return cls(path, str(path.relative_to(root)), stamp)

    @property
    def modified(self) -> float:
        """When it was last written to, in seconds since 1970."""
        return 0.0 if self.stamp is None else self.stamp[1] / 1e9

    def is_known(self, known: State) -> bool:
        """Whether it was looked at as it is now."""
        note = known.get(self.name)
        return note is not None and tuple(map(note.get, _STAMP)) == self.stamp

    def describe(self) -> dict[str, Any]:
        """What a record says of it."""
        if self.stamp is None:
            return {"file": self.name}
        digest, size = hashlib.sha256(), 0
        for file in files_below(Path(self.path)):
            content = file.read_bytes()
            digest.update(content)
            size += len(content)
        return {"file": self.name, "bytes": size, "sha256": digest.hexdigest()}


_STAMP = ("bytes", "modified_ns", "changed_ns")


@dataclass(frozen=True)
class _Reading:
    """How delivered files are opened.

    Attributes:
        source: what the pipeline says of them.
        wanted: variables of the store.
        stored: the store's series.
    """

    source: Input
    wanted: Sequence[str]
    stored: xr.Dataset

    def series(self, location: Path | str) -> xr.Dataset:
        """The series of a file on the store's grid, of those of the wanted variables that it has.

        What comes from several files is put together, so each has to be like the store by itself.
        """
        found = in_store_order(self._found(location))
        beside = {
            name: coordinate.reset_coords(drop=True)
            for name, coordinate in found.coords.items()
            if "time" in coordinate.dims and name != "time"
        }
        return on_grid_of(found, self.stored[list(found.data_vars)], name="the series").assign_coords(beside)

    def _found(self, location: Path | str) -> xr.Dataset:
        try:
            return self._open(location, self.wanted)
        except StforecastError as error:
            if error.kind != ErrorKind.VAR_MISSING or len(self.wanted) == 1:
                raise
            found = []
            for name in self.wanted:
                try:
                    found.append(self._open(location, [name]))
                except StforecastError as one:
                    if one.kind != ErrorKind.VAR_MISSING:
                        raise
            if not found:
                raise
        return xr.merge(found, join="exact", combine_attrs="override")

    def _open(self, location: Path | str, variables: Sequence[str]) -> xr.Dataset:
        return open_dataset(
            location,
            source=self.source.source,
            variables=variables,
            bounds=self.source.bounds,
            time_zone=self.source.time_zone,
            step=np.timedelta64(self.stored.attrs["step_seconds"], "s"),
        )


class _Batch:
    """Frames of several deliveries that are put into the store together."""

    def __init__(self, store: Path, replace: bool, known: State, intake: Intake) -> None:
        self._store, self._replace, self._known, self._intake = store, replace, known, intake
        self._held: list[tuple[_Delivery, xr.Dataset]] = []
        self._fault: StforecastError | OSError | None = None

    def take(self, delivery: _Delivery, series: xr.Dataset) -> None:
        """Take the frames of a delivery, some at a time if they are many."""
        for block in _blocks(series):
            sound = self._sound(delivery, block.load())
            if not sound.sizes["time"]:
                continue
            if sum(one.nbytes for _, one in self._held) + sound.nbytes > _BATCH_BYTES or not self._fits(sound):
                self.put()
            self._held.append((delivery, sound))

    def note(self, delivery: _Delivery, times: Times) -> None:
        """Remember that a delivery was read."""
        span = {"first": show_time(times[0]), "last": show_time(times[-1])}
        self._intake.files.append(delivery.describe() | span)
        self._remember(delivery)

    def turn_away(self, delivery: _Delivery, error: StforecastError | OSError) -> None:
        """Refuse a delivery, or let it wait, for a fault of its own; any other ends the run.

        Raises:
            StforecastError: the fault, if it is the store's or time is up; nothing is remembered of what was read.
        """
        if error is self._fault or (isinstance(error, StforecastError) and error.kind == ErrorKind.TIMEOUT):
            raise error
        if isinstance(error, StforecastError):
            self.refuse(delivery, error)
        else:
            self.wait(delivery, str(error))

    def refuse(self, delivery: _Delivery, error: StforecastError) -> None:
        """Remember that a delivery is unfit; or look at it again, if it is only being written now."""
        if error.kind.exit_status == ErrorKind.FILE_BUSY.exit_status:
            self.wait(delivery, str(error))
            return
        self._intake.refused.append({"file": delivery.name, "kind": str(error.kind), "reason": str(error)})
        # What is not the file's own fault, as a package that is not installed, is tried again.
        if error.kind.exit_status == _INPUT_FAULT:
            self._remember(delivery)

    def wait(self, delivery: _Delivery, reason: str) -> None:
        """Look at a delivery again next time."""
        self._intake.waiting.append({"file": delivery.name, "reason": reason})

    def _remember(self, delivery: _Delivery) -> None:
        if delivery.stamp is not None:
            self._known[delivery.name] = dict(zip(_STAMP, delivery.stamp, strict=True))

    def put(self) -> None:
        """Put what is held into the store."""
        held, self._held = self._held, []
        if not held:
            return
        try:
            self._append(xr.concat([series for _, series in held], "time", **_PLAINLY).sortby("time"))
        except (StforecastError, OSError) as error:
            if isinstance(error, OSError) or error.kind.exit_status != _INPUT_FAULT:
                self._fault = error
                raise
            if len(held) == 1:
                self.refuse(held[0][0], error)
                return
            for one in held:
                self._held = [one]
                self.put()

    def _append(self, series: xr.Dataset) -> None:
        try:
            done = append(series, self._store, allow_gaps=True, allow_late=True)
        except StforecastError as error:
            if error.kind != ErrorKind.CONFLICT:
                raise
            self._intake.changed.append(str(error).partition(";")[0])
            if self._replace:
                done = append(series, self._store, allow_gaps=True, allow_late=True, replace=True)
            else:
                fresh = ~np.isin(times_of(series), times_of(open_store(self._store)))
                if not fresh.any():
                    return
                done = append(series.isel(time=np.flatnonzero(fresh)), self._store, allow_gaps=True, allow_late=True)
        self._intake.added += done.added
        self._intake.replaced += done.replaced

    def _sound(self, delivery: _Delivery, block: xr.Dataset) -> xr.Dataset:
        """The frames of a block that are whole; the others are refused by themselves."""
        finite = np.ones(block.sizes["time"], bool)
        for variable in block.data_vars.values():
            there = np.isfinite(variable.transpose("time", ...).to_numpy())
            finite &= there.reshape(len(there), -1).all(axis=1)
        if not finite.all():
            broken = times_of(block)[~finite]
            self._intake.refused.append(
                {
                    "file": delivery.name,
                    "kind": str(ErrorKind.NAN),
                    "reason": f"{len(broken)} frame(s) have values that are not finite, the first "
                    f"{show_time(broken[0])}",
                }
            )
        return block.isel(time=np.flatnonzero(finite))

    def _fits(self, series: xr.Dataset) -> bool:
        """Whether frames can stand beside those that are held: the same labels, and times of their own."""
        if not self._held:
            return True
        first = self._held[0][1]
        there = np.concatenate([times_of(one) for _, one in self._held])
        return (
            not np.isin(times_of(series), there).any()
            and set(first.coords) == set(series.coords)
            and all(first[name].dims == series[name].dims for name in first.variables)
            and all(first[dim].equals(series[dim]) for dim in first.dims if dim != "time" and dim in first.coords)
        )


# Coordinates without a time are those of the first file; `append` compares what matters with the store.
_PLAINLY: dict[str, Any] = {
    "data_vars": "minimal",
    "coords": "minimal",
    "compat": "override",
    "join": "exact",
    "combine_attrs": "override",
}


def _take_joined(
    parts: Sequence[tuple[_Delivery, xr.Dataset]], wanted: Sequence[str], stored: Times, batch: _Batch
) -> None:
    """Take the frames for which several deliveries together have all variables; the others wait."""
    having = {name: [series[[name]] for _, series in parts if name in series] for name in wanted}
    if not parts or not all(having.values()):
        whole: Times = np.empty(0, "datetime64[ns]")
    else:
        whole = functools.reduce(
            np.intersect1d, [np.concatenate([times_of(one) for one in some]) for some in having.values()]
        )
    for delivery, series in parts:
        times = times_of(series)
        # Frames of a file that another came for before are in the store already.
        lacking = times[~np.isin(times, whole) & ~np.isin(times, stored)]
        if len(lacking):
            absent = ", ".join(name for name in wanted if name not in series)
            batch.wait(delivery, f"{absent} of {show_time(lacking[0])} did not come yet")
        else:
            batch.note(delivery, times)
    if len(whole):
        joined = [
            xr.concat(some, "time", **_PLAINLY).drop_duplicates("time").sortby("time").sel(time=whole)
            for some in having.values()
        ]
        names = ", ".join(delivery.name for delivery, _ in parts)
        batch.take(_Delivery(names, names), xr.merge(joined, join="exact", combine_attrs="override"))


def _take_growing(reading: _Reading, location: str, stored: Times, batch: _Batch) -> None:
    """Take the frames of a zarr store or URL that are not there yet and not older than the store."""
    delivery = _Delivery(location, location)
    try:
        series = reading.series(location)
        times = times_of(series)
        fresh = np.flatnonzero(~np.isin(times, stored) & (times > stored[0]))
        if len(fresh):
            batch.take(delivery, series.isel(time=fresh))
            batch.note(delivery, times[fresh])
    except (StforecastError, OSError) as error:
        batch.turn_away(delivery, error)


def _blocks(series: xr.Dataset) -> Iterator[xr.Dataset]:
    """Frames of a series, so many at a time as a batch may hold."""
    frames = series.sizes["time"]
    length = max(1, int(_BATCH_BYTES // max(1, series.nbytes // max(1, frames))))
    for row in range(0, frames, length):
        yield series.isel(time=slice(row, row + length))


def _deliveries(path: str) -> Iterator[_Delivery]:
    """What lies where a pipeline looks: files and zarr stores, in order of their names."""
    place = Path(path)
    if place.is_dir():
        root, found = place, list(_files_in(place))
    else:
        root = place.parent
        while {"*", "?"} & set(str(root)):
            root = root.parent
        try:
            found = find_files(place, suffixes=_SUFFIXES)
        except StforecastError as error:
            if error.kind not in (ErrorKind.FILE_MISSING, ErrorKind.FILE_BUSY):
                raise
            found = []
    for file in found:
        # Who delivers may take things away again.
        with suppress(FileNotFoundError):
            yield _Delivery.of(file, root)


def _files_in(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if is_zarr(entry) or (entry.is_file() and entry.suffix in _SUFFIXES):
            yield entry
        elif entry.is_dir():
            yield from _files_in(entry)
