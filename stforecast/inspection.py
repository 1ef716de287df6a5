"""What lies at a path, in words: its variables, grid, times and gaps, values, and what would stop `prepare`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, find_dims
from stforecast.limits import check_range
from stforecast.sources import infer_source, open_dataset
from stforecast.sources.cf_check import metadata_warnings
from stforecast.sources.contents import Contents, contents_of
from stforecast.sources.openstl import is_openstl, read_windows
from stforecast.sources.raw_files import (
    GRIB_SUFFIXES,
    HDF5_SUFFIXES,
    NETCDF_SUFFIXES,
    Location,
    files_below,
    is_url,
    locate,
)
from stforecast.split import Split
from stforecast.store import is_store, open_store
from stforecast.store.versions import current_version
from stforecast.time_axis import Times, check_gaps, find_gaps, show_step, show_time, time_step

Progress = Callable[[int, int], None]

_READERS = {
    "taxibj": "city flows in TaxiBJ's layout",
    "weatherbench": "a tree of WeatherBench 1",
    "weatherbench2": "a zarr store of WeatherBench 2",
    "grib": "GRIB",
    "cf": "CF netCDF or zarr",
    "store": "a store that stforecast prepared",
    "openstl": "OpenSTL's windows of TaxiBJ",
}
_SUFFIXES = NETCDF_SUFFIXES | HDF5_SUFFIXES | GRIB_SUFFIXES
_SHOWN_GAPS = 3
_MOST_FAULTS = 20


@dataclass(frozen=True)
class Finding:
    """One thing that is amiss.

    Attributes:
        kind: its kind, as errors have it.
        message: one line.
    """

    kind: ErrorKind
    message: str

    def __str__(self) -> str:
        return f"{self.message} [{self.kind}]"


@dataclass(frozen=True)
class VariableSummary:
    """One variable.

    Attributes:
        name: as the series calls it.
        long_name: in words; the name where the data have none.
        units: as the data spell them.
        dims: in the order of a series.
        shape: along them.
        kept_as: how the files keep its values, e.g. int16; a series has float32.
        minimum: the least value; None if no value was read or none is finite.
        maximum: the greatest.
        absent: how many values are NaN; None if they were not read.
        infinite: how many are infinite.
    """

    name: str
    long_name: str
    units: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    kept_as: str
    minimum: float | None = None
    maximum: float | None = None
    absent: int | None = None
    infinite: int | None = None

    def __str__(self) -> str:
        size = " x ".join(f"{length} {dim}" for dim, length in zip(self.dims, self.shape, strict=True))
        text = f"{self.name}: {self.long_name}, in {self.units}, {size}, kept as {self.kept_as}"
        if self.absent is None:
            return text
        ends = "no finite value" if self.minimum is None else f"{self.minimum:g} to {self.maximum:g}"
        infinite = f", {self.infinite:,} infinite" if self.infinite else ""
        return f"{text}; {ends}, {f'{self.absent:,}' if self.absent else 'no'} NaN{infinite}"


@dataclass(frozen=True)
class GridSummary:
    """The horizontal grid.

    Attributes:
        kind: "geographic" or "plane".
        shape: rows and columns.
        y: name, first and last value, and spacing (None where it is not even) of the rows' axis.
        x: the same of the columns' axis.
        spans_globe: whether the last column's neighbour is the first.
    """

    kind: str
    shape: tuple[int, int]
    y: tuple[str, float, float, float | None]
    x: tuple[str, float, float, float | None]
    spans_globe: bool

    @classmethod
    def of(cls, grid: Grid) -> "GridSummary":
        """The summary of a grid."""
        return cls(
            "geographic" if grid.is_geographic else "plane",
            grid.shape,
            _axis(grid.y_name, grid.y),
            _axis(grid.x_name, grid.x),
            grid.spans_globe,
        )

    def __str__(self) -> str:
        rows = ("ascending" if self.y[1] < self.y[2] else "descending") if self.shape[0] > 1 else "one row"
        order = f", latitude {rows}" if self.kind == "geographic" else ""
        globe = ", around the globe" if self.spans_globe else ""
        axes = ", ".join(_show_axis(*axis) for axis in (self.y, self.x))
        return f"{self.kind}, {self.shape[0]} x {self.shape[1]}: {axes}{order}{globe}"


def _axis(name: str, values: np.ndarray[Any, Any]) -> tuple[str, float, float, float | None]:
    spacing = np.diff(values)
    is_even = len(spacing) > 0 and np.allclose(spacing, spacing[0], rtol=1e-3, atol=0)
    return name, float(values[0]), float(values[-1]), float(round(spacing[0], 6)) if is_even else None


def _show_axis(name: str, first: float, last: float, spacing: float | None) -> str:
    return f"{name} {first:g} to {last:g} {'unevenly' if spacing is None else f'by {abs(spacing):g}'}"


@dataclass(frozen=True)
class TimeSummary:
    """The time axis.

    Attributes:
        first: the first frame.
        last: the last.
        frames: how many there are.
        step: how far most neighbours are apart.
        gaps: how many gaps there are.
        missing: how many frames are absent in all of them.
        first_gaps: the first few, in words.
        time_zone: the zone of a local clock; None for UTC or unknown.
    """

    first: str
    last: str
    frames: int
    step: str
    gaps: int
    missing: int
    first_gaps: tuple[str, ...]
    time_zone: str | None

    @classmethod
    def of(cls, times: Times, time_zone: str | None) -> "TimeSummary":
        """The summary of strictly increasing times on one step."""
        step = time_step(times)
        gaps = find_gaps(times, step)
        return cls(
            show_time(times[0]),
            show_time(times[-1]),
            len(times),
            show_step(step),
            len(gaps),
            sum(gap.missing for gap in gaps),
            tuple(str(gap) for gap in gaps[:_SHOWN_GAPS]),
            time_zone,
        )

    def __str__(self) -> str:
        zone = f", on the clock of {self.time_zone}" if self.time_zone else ""
        text = f"{self.first} to {self.last}, {self.frames:,} frames, one in {self.step}{zone}"
        if not self.gaps:
            return f"{text}, no gaps"
        more = "; …" if self.gaps > len(self.first_gaps) else ""
        return f"{text}, {self.gaps} gap(s) with {self.missing:,} frames absent: {'; '.join(self.first_gaps)}{more}"


@dataclass(frozen=True)
class StoreSummary:
    """What a prepared store has beyond its series.

    Attributes:
        version: which of its versions is current.
        format: the version of the layout.
        split: first and last date of each part.
        statistics_period: first and last training frame.
        normalization: method, location and scale of each variable.
    """

    version: str
    format: int
    split: dict[str, list[str]]
    statistics_period: tuple[str, ...]
    normalization: dict[str, dict[str, Any]]

    def __str__(self) -> str:
        split = ", ".join(f"{part} {'..'.join(period)}" for part, period in self.split.items())
        methods = "; ".join(
            f"{name} by {scaling['method']}, location {_show_parameter(scaling['location'])}, scale "
            f"{_show_parameter(scaling['scale'])}"
            for name, scaling in self.normalization.items()
        )
        period = " to ".join(self.statistics_period)
        return f"version {self.version} (format {self.format}), {split}; statistics of {period}: {methods}"


def _show_parameter(value: float | Sequence[float]) -> str:
    values = np.atleast_1d(np.asarray(value, np.float64))
    return f"{values[0]:g}" if values.size == 1 else f"{values.min():g} to {values.max():g} by level"


@dataclass(frozen=True)
class Inspection:
    """What lies at a path. Its text is for people, `to_dict` for programs.

    Attributes:
        path: where.
        reader: the source that reads it, or "store" or "openstl".
        size_bytes: on disk; None elsewhere than on this machine.
        files: how many; None likewise.
        variables: each one's summary; empty if nothing could be opened.
        grid: the horizontal grid, if anything could be opened.
        time: the time axis, if anything could be opened.
        static: names of fields without a time, for `static=[…]`.
        beside: files that belong to the series.
        faults: what would stop `prepare` with its defaults.
        warnings: what would not, and may mislead.
        store: what a prepared store has more.
        lacks: what the data are without, where that is their nature.
    """

    path: str
    reader: str
    size_bytes: int | None = None
    files: int | None = None
    variables: tuple[VariableSummary, ...] = ()
    grid: GridSummary | None = None
    time: TimeSummary | None = None
    static: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    faults: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    store: StoreSummary | None = None
    lacks: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values that JSON holds; what could not be had is None."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def __str__(self) -> str:
        size = "" if self.files is None else f", {self.files:,} file(s), {_show_bytes(self.size_bytes or 0)}"
        lines = [f"{self.path}: {_READERS[self.reader]}{size}"]
        lines += [f"  {variable}" for variable in self.variables]
        for name, what in (
            ("grid", self.grid),
            ("time", self.time),
            ("store", self.store),
            ("static fields", ", ".join(self.static)),
            ("beside", ", ".join(self.beside)),
            ("lacks", self.lacks),
        ):
            lines += [f"{name}: {what}"] if what else []
        # What is wrong with a store stops more than another prepare.
        stops = "is damaged" if self.reader == "store" else "would stop prepare"
        lines += [f"{stops}: {fault}" for fault in self.faults]
        lines += [f"worth knowing: {warning}" for warning in self.warnings]
        if not self.faults and self.store is None and self.lacks is None:
            lines.append("nothing stands against prepare")
        return "\n".join(lines)


def _show_bytes(size: int) -> str:
    for unit, length in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= length:
            return f"{size / length:.3g} {unit}"
    return f"{size} bytes"


def inspect(
    path: str | Path,
    *,
    source: str | None = None,
    variables: Sequence[str] | None = None,
    levels: Sequence[float] | None = None,
    period: tuple[str, str] | None = None,
    time_zone: str | None = None,
    scan: bool | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """What lies at a path: raw data of any source, a prepared store, or OpenSTL's windows.

    Nothing that is amiss with the data raises: it is listed, all of it and not only the first. Values are read in
    blocks of some 32 MiB, one at a time.

    Args:
        path: as `open_dataset` takes it, or a store that `prepare` made.
        source: the layout; told from the content by default.
        variables: their names; all by default.
        levels: values of the level axis; all by default.
        period: first and last time; all by default.
        time_zone: IANA name of a city's clock.
        scan: whether to read every value, for ranges and NaN; by default where the data lie on this machine.
        progress: called with the number of blocks that are read and of all, before the first and after each.

    Raises:
        StforecastError: ARGUMENT for an unknown source or time zone; FILE_MISSING if nothing is there.
    """
    location = locate(path)
    if not is_url(location) and is_store(Path(location)):
        return _inspect_store(Path(location), scan=scan is not False, progress=progress)
    if not is_url(location) and source is None and is_openstl(Path(location)):
        return _inspect_windows(Path(location))
    chosen = {"variables": variables, "levels": levels, "period": period, "time_zone": time_zone}
    scan = not is_url(location) if scan is None else scan
    found = _inspect_raw(location, source, {name: value for name, value in chosen.items() if value is not None})
    series, inspection = found
    if series is None:
        return inspection
    inspection = _describe(inspection, series)
    return _with_values(inspection, series, progress) if scan else inspection


def _inspect_raw(
    location: Location, source: str | None, chosen: dict[str, Any]
) -> tuple[xr.Dataset | None, Inspection]:
    """The series at a location, or the first file's that can be opened, and what stands against opening all."""
    inspection = Inspection(str(location), source or "cf", *_size(location))
    try:
        source = infer_source(location) if source is None else source
        inspection = replace(inspection, reader=source)
        series = open_dataset(location, source=source, **chosen)
    except StforecastError as error:
        if error.kind in (ErrorKind.ARGUMENT, ErrorKind.FILE_MISSING):
            raise
        one, faults = _open_one(location, source, chosen)
        first = Finding(error.kind, str(error))
        return one, replace(inspection, faults=tuple(dict.fromkeys([first, *faults])))
    return series, _with_contents(inspection, contents_of(location, source))


def _open_one(
    location: Location, source: str | None, chosen: dict[str, Any]
) -> tuple[xr.Dataset | None, list[Finding]]:
    """The first file of a location that can be opened by itself, and what stands against the others."""
    if is_url(location) or not Path(location).is_dir():
        return None, []
    series, faults = None, []
    for file in files_below(Path(location)):
        if file.suffix not in _SUFFIXES:
            continue
        try:
            opened = open_dataset(file, source=None if source == "weatherbench" else source, **chosen)
            series = opened if series is None else series
        except StforecastError as error:
            faults.append(Finding(error.kind, str(error)))
        if len(faults) == _MOST_FAULTS:
            break
    return series, faults


def _size(location: Location) -> tuple[int | None, int | None]:
    if is_url(location):
        return None, None
    files = files_below(Path(location))
    return sum(file.stat().st_size for file in files), len(files)


def _with_contents(inspection: Inspection, contents: Contents) -> Inspection:
    kept = [VariableSummary(name, name, "?", (), (), dtype) for name, dtype in contents.kept_as.items()]
    absent = tuple(
        Finding(
            ErrorKind.METADATA,
            f"{name}: {missing} of {whole} chunks are not there and read as the fill value; a writer may have left "
            "them out as empty, or have been stopped",
        )
        for name, missing, whole in contents.absent
    )
    return replace(inspection, static=contents.static, beside=contents.beside, variables=tuple(kept), warnings=absent)


def _describe(inspection: Inspection, series: xr.Dataset) -> Inspection:
    """The inspection with what a series says of itself without its values."""
    kept_as = {variable.name: variable.kept_as for variable in inspection.variables}
    times = series["time"].to_numpy()
    warnings = [Finding(kind, text) for kind, text in metadata_warnings(series)]
    return replace(
        inspection,
        variables=tuple(_summary(name, series[name], kept_as.get(str(name), "?")) for name in series.data_vars),
        grid=GridSummary.of(Grid.of(series)),
        time=TimeSummary.of(times, series["time"].attrs.get("time_zone")),
        faults=(*inspection.faults, *_axis_faults(times)),
        warnings=(*inspection.warnings, *warnings),
    )


def _summary(name: Any, variable: xr.DataArray, kept_as: str) -> VariableSummary:
    return VariableSummary(
        str(name),
        str(variable.attrs.get("long_name", name)),
        str(variable.attrs.get("units")),
        tuple(map(str, variable.dims)),
        variable.shape,
        kept_as,
    )


def _axis_faults(times: Times) -> list[Finding]:
    """What of a time axis `prepare` refuses unless it is declared or divided by hand."""
    checks: list[Callable[[], object]] = [
        lambda: check_gaps(times, time_step(times)),
        lambda: Split.by_fraction(times),
    ]
    return [fault for check in checks for fault in _fault_of(check)]


def _fault_of(check: Callable[[], object]) -> list[Finding]:
    try:
        check()
    except StforecastError as error:
        return [Finding(error.kind, str(error))]
    return []


def _with_values(inspection: Inspection, series: xr.Dataset, progress: Progress | None) -> Inspection:
    """The inspection with every value looked at."""
    blocks = [(str(name), rows) for name, variable in series.data_vars.items() for rows in _blocks(variable)]
    tallies = {str(name): _Tally() for name in series.data_vars}
    for number, (name, rows) in enumerate(blocks):
        if progress is not None:
            progress(number, len(blocks))
        tallies[name] = tallies[name].with_block(series[name].isel(time=rows))
    if progress is not None:
        progress(len(blocks), len(blocks))
    variables = tuple(tallies[variable.name].fill(variable) for variable in inspection.variables)
    faults = [fault for variable in variables for fault in tallies[variable.name].faults_of(variable)]
    return replace(inspection, variables=variables, faults=(*inspection.faults, *faults))


def _blocks(variable: xr.DataArray) -> list[slice]:
    lengths = variable.chunksizes.get("time", (variable.sizes["time"],))
    bounds = np.cumsum([0, *lengths]).tolist()
    return [slice(first, behind) for first, behind in pairwise(bounds)]


@dataclass(frozen=True)
class _Tally:
    """What is known of the values of a variable after some blocks of it."""

    minimum: float = np.inf
    maximum: float = -np.inf
    absent: int = 0
    infinite: int = 0
    first: str = ""
    range_fault: Finding | None = None
    damage: tuple[Finding, ...] = ()

    def with_block(self, block: xr.DataArray) -> "_Tally":
        """The tally after one more block."""
        try:
            loaded = block.load(scheduler="synchronous")
        except StforecastError as error:
            found = Finding(error.kind, str(error))
            return self if found in self.damage else replace(self, damage=(*self.damage, found)[:_MOST_FAULTS])
        values = loaded.to_numpy()
        is_finite = np.isfinite(values)
        is_whole = bool(is_finite.all())
        finite = values if is_whole else values[is_finite]
        infinite = 0 if is_whole else int(np.isinf(values).sum())
        tally = replace(
            self,
            infinite=self.infinite + infinite,
            absent=self.absent + values.size - finite.size - infinite,
            first=self.first or ("" if is_whole else _place(loaded, ~is_finite)),
        )
        if not finite.size:
            return tally
        checked = loaded if is_whole else loaded.copy(data=np.where(is_finite, values, finite[0]))
        return replace(
            tally,
            minimum=min(self.minimum, float(finite.min())),
            maximum=max(self.maximum, float(finite.max())),
            range_fault=self.range_fault or next(iter(_fault_of(lambda: check_range(checked))), None),
        )

    def fill(self, variable: VariableSummary) -> VariableSummary:
        """The summary with what the values are."""
        has_values = self.minimum <= self.maximum
        return replace(
            variable,
            minimum=self.minimum if has_values else None,
            maximum=self.maximum if has_values else None,
            absent=self.absent,
            infinite=self.infinite,
        )

    def faults_of(self, variable: VariableSummary) -> list[Finding]:
        """What of the values `prepare` refuses."""
        faults = [*self.damage]
        for kind, count in ((ErrorKind.NAN, self.absent), (ErrorKind.INF, self.infinite)):
            if count:
                faults.append(
                    Finding(
                        kind,
                        f"variable {variable.name} has {count:,} {kind.lower()} value(s), the first not finite at "
                        f"{self.first}; fill them, or drop those frames (--nan drop)",
                    )
                )
        faults += [] if self.range_fault is None else [self.range_fault]
        if self.minimum == self.maximum:
            faults.append(
                Finding(
                    ErrorKind.CONST,
                    f"variable {variable.name} is {self.minimum:g} everywhere and cannot be normalized; leave it out",
                )
            )
        return faults


def _place(variable: xr.DataArray, is_there: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    index = tuple(int(axis[0]) for axis in np.nonzero(is_there))
    first = variable[index]
    place = [f"{dim} {first[dim].item():g}" for dim in variable.dims[1:] if dim in first.coords]
    return ", ".join([show_time(variable[variable.dims[0]].to_numpy()[index[0]]), *place])


def _inspect_store(path: Path, *, scan: bool, progress: Progress | None) -> Inspection:
    inspection = Inspection(str(path), "store", *_size(path))
    try:
        series = open_store(path)
    except StforecastError as error:
        return replace(inspection, faults=(Finding(error.kind, str(error)),))
    kept = tuple(VariableSummary(str(name), "", "", (), (), "float32, normalized") for name in series.data_vars)
    described = _describe(replace(inspection, variables=kept), series)
    y, x = find_dims(series, "Y", "X")
    static = tuple(str(name) for name in series.coords if set(series[name].dims) == {y, x} and series[name].ndim == 2)
    # Its gaps were declared and it is divided: what would stop another prepare is no fault of a store.
    described = replace(described, static=static, faults=(), store=_store_summary(path, series))
    return _with_values(described, series, progress) if scan else described


def _store_summary(path: Path, series: xr.Dataset) -> StoreSummary:
    return StoreSummary(
        current_version(path).name,
        int(series.attrs["stforecast_store_version"]),
        json.loads(series.attrs["split"]),
        tuple(json.loads(series.attrs["statistics_period"])),
        json.loads(series.attrs["normalization"]),
    )


def _inspect_windows(path: Path) -> Inspection:
    inspection = Inspection(str(path), "openstl", *_size(path))
    summaries: list[VariableSummary] = []
    lacks = None
    try:
        for part in ("train", "test"):
            windows = read_windows(path, part="train" if part == "train" else "test")
            lacks = str(windows.attrs["lacks"])
            for name, variable in windows.data_vars.items():
                summary = replace(_summary(name, variable, "float"), name=f"{part} {name}", long_name=f"{part} windows")
                ends = replace(
                    summary, minimum=float(variable.min()), maximum=float(variable.max()), absent=0, infinite=0
                )
                summaries.append(ends)
    except StforecastError as error:
        inspection = replace(inspection, faults=(Finding(error.kind, str(error)),))
    return replace(inspection, variables=tuple(summaries), lacks=lacks)
