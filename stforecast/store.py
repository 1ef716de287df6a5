"""Normalized Zarr stores: built beside, verified, published in one atomic step, opened in physical units."""

import errno
import functools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import rich.progress
import xarray as xr
import zarr
import zarr.codecs
from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import delayed

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import make_durable, sync
from stforecast.grid import axis_of, check_finite, check_series, find_dims
from stforecast.normalization import Moments, Normalization, Values, ZScore
from stforecast.split import Split, frames_in
from stforecast.time_axis import find_gaps, show_time

STORE_VERSION = 1
# A window of some ten frames should read few and small chunks; a task should write few and large files.
CHUNK_BYTES = 256 * 2**10
SHARD_BYTES = 16 * 2**20
TIME_ENCODING = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}
CURRENT, VERSIONS = ".current", ".versions"


def prepare(
    series: xr.Dataset,
    path: str | Path,
    split: Split,
    *,
    allow_gaps: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """The series, opened from the normalized Zarr store that this makes of it.

    Statistics come from the training period alone, in float64, per variable and level, and lie inside the store with
    the split. Two passes go over the data, each with one dask task per shard, on the caller's dask.distributed client
    where there is one and on threads otherwise. The store is built beside its place and appears there in one step: a
    reader finds the old store or the new one, and a failure leaves nothing.

    Args:
        series: (time, [level,] Y, X) with units, from `open_dataset` or one's own.
        path: where the store is to stand, by custom ending in .zarr.
        split: the periods to train, validate and test on.
        allow_gaps: declares that frames may be absent; no window will cross a gap.
        overwrite: whether to put the new store in the place of one that is there.
        progress: whether to draw progress bars.

    Raises:
        StforecastError: what `check_series` and `Split.rows` refuse; NAN or INF with variable, count and first place;
            CONST for a variable that does not vary; OUTPUT_EXISTS; STORE_BUSY; DISK_FULL.
    """
    path = Path(path)
    step = check_series(series, allow_gaps=allow_gaps)
    series = _in_store_order(series)
    times = series["time"].to_numpy()
    rows = split.rows(times)
    layout = Layout.of(series)
    _check_target(path, series, overwrite=overwrite)
    with _lock(path), _staging(path) as staging:
        normalization = _fit(series, layout, rows["train"], progress=progress)
        attrs = _store_attrs(series, split, step)
        _write_template(series, staging, layout, normalization, attrs)
        _run(
            (
                functools.partial(_write_shard, series.isel(time=part), staging, part, normalization)
                for part in layout.shards
            ),
            "writing the store" if progress else None,
        )
        _consolidate(staging)
        _publish(staging, path)
    return open_store(path)


def open_store(path: str | Path, *, normalized: bool = False) -> xr.Dataset:
    """The series in a store, lazily: in physical units, or as z-scores with units 1.

    The version that is current now is opened and stays readable while newer ones are published. Attributes `split` and
    `normalization` hold the periods and the statistics as JSON.

    Args:
        path: a store that `prepare` made.
        normalized: whether to give the values as stored.

    Raises:
        StforecastError: FILE_MISSING; FILE_FORMAT if it is no store of ours; STORE_VERSION if a newer stforecast wrote
            it; STORE_CORRUPT if its metadata cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise StforecastError(ErrorKind.FILE_MISSING, f"there is no store at {path}; make one with stforecast prepare")
    if not is_store(path):
        raise StforecastError(ErrorKind.FILE_FORMAT, f"{path} is not a store that stforecast prepared")
    try:
        series = xr.open_zarr((path / CURRENT).resolve(), chunks=None, decode_timedelta=True)
    except (OSError, ValueError, KeyError) as error:
        raise StforecastError(ErrorKind.STORE_CORRUPT, f"the metadata of {path} cannot be read: {error}") from error
    version = series.attrs.get("stforecast_store_version", 0)
    if version != STORE_VERSION:
        raise StforecastError(
            ErrorKind.STORE_VERSION,
            f"{path} has store version {version}, this stforecast reads version {STORE_VERSION}; prepare it anew",
        )
    # One dask chunk a shard: one a zarr chunk makes so many tasks that opening alone takes seconds.
    series = series.chunk(time=_shard_frames(series)).assign_coords(series.coords.to_dataset().load().coords)
    normalization = Normalization({str(name): _score(series[name]) for name in series.data_vars})
    series.attrs["normalization"] = normalization.to_json()
    physical = {str(name): variable.attrs.pop("physical") for name, variable in series.data_vars.items()}
    for variable in series.data_vars.values():
        del variable.attrs["normalization"]
    return (series if normalized else normalization.invert(series, physical)).drop_encoding()


def _score(variable: xr.DataArray) -> ZScore:
    return ZScore.from_attrs(variable.attrs["normalization"])


def _shard_frames(series: xr.Dataset) -> int:
    variable = next(iter(series.data_vars.values()))
    return int(variable.encoding["shards"][0])


@dataclass(frozen=True)
class Layout:
    """How the time axis of a store is cut.

    Attributes:
        frames: the length of the time axis.
        chunk: frames a chunk, the unit of reading.
        shard: frames a shard, the unit of writing; a multiple of the chunk.
    """

    frames: int
    chunk: int
    shard: int

    @classmethod
    def of(cls, series: xr.Dataset) -> "Layout":
        """Chunks and shards of about CHUNK_BYTES and SHARD_BYTES of the largest variable."""
        frames = series.sizes["time"]
        frame_bytes = max(4 * variable.size // frames for variable in series.data_vars.values())
        chunk = min(max(CHUNK_BYTES // frame_bytes, 1), frames)
        shard = chunk * max(SHARD_BYTES // (chunk * frame_bytes), 1)
        return cls(frames, chunk, min(shard, -(-frames // chunk) * chunk))

    @property
    def shards(self) -> list[slice]:
        """The rows of each shard, in order of time."""
        return [slice(row, min(row + self.shard, self.frames)) for row in range(0, self.frames, self.shard)]


def _in_store_order(series: xr.Dataset) -> xr.Dataset:
    """The series with dimensions (time, [level,] Y, X) and nothing that a store does not keep."""
    time, y, x = find_dims(series, "T", "Y", "X")
    names = {time: "time"} | {str(dim): "level" for dim in series.dims if axis_of(series, dim) == "Z"}
    kept = series.drop_vars([name for name in series.coords if set(series[name].dims) - set(series.dims)])
    ordered = kept.rename({old: new for old, new in names.items() if old != new}).transpose("time", ..., y, x)
    return ordered.assign_coords(time=ordered["time"].astype("datetime64[ns]")).drop_encoding()


def _check_target(path: Path, series: xr.Dataset, *, overwrite: bool) -> None:
    if path.exists() and not is_store(path):
        raise StforecastError(
            ErrorKind.OUTPUT_EXISTS, f"{path} is there and is not a store that stforecast prepared; choose another path"
        )
    if path.exists() and not overwrite:
        raise StforecastError(
            ErrorKind.OUTPUT_EXISTS, f"{path} is there; pass overwrite=True (--overwrite) to replace it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Normalized weather hardly compresses, so the raw size and a tenth is what a store may need.
    needed = int(1.1 * sum(4 * variable.size for variable in series.data_vars.values()))
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise StforecastError(
            ErrorKind.DISK_FULL, f"{path} may need {needed:,} bytes but {free:,} are free in {path.parent.resolve()}"
        )


def is_store(path: Path) -> bool:
    """Whether a store that `prepare` made stands at `path`."""
    return (path / CURRENT).is_symlink() and (path / VERSIONS).is_dir()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One writer at a time; the kernel releases the lock of a process that died."""
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise StforecastError(ErrorKind.STORE_BUSY, f"another process is writing {path}; wait for it to end") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """An empty folder beside the store; gone after the block unless it was published. A killed build's is cleared."""
    staging = path.with_name(f".{path.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir()
        yield staging
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StforecastError(
                ErrorKind.DISK_FULL, f"the disk is full: {path} was not written and what was there before is intact"
            ) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _run(tasks: Iterable[Callable[[], Any]], description: str | None) -> list[Any]:
    """What each task returns, in order, run by dask; a task reads and writes its own shard and shares nothing."""
    # A partial is opaque to dask: given the Dataset as an argument it would put every chunk into the graph.
    calls = [delayed(task, pure=False)() for task in tasks]
    if description is None:
        return list(compute(*calls))
    with _progress_bar(description, len(calls)):
        return list(compute(*calls))


@contextmanager
def _progress_bar(description: str, total: int) -> Iterator[None]:
    """A bar that every task that dask ends on this machine's threads moves on."""
    with rich.progress.Progress() as bar:
        task = bar.add_task(description, total=total)
        with Callback(posttask=lambda *_: bar.advance(task)):
            yield


def _fit(series: xr.Dataset, layout: Layout, train: slice, *, progress: bool) -> Normalization:
    """The normalization of a series by its training rows, with every value of every row looked at."""
    parts = [_cut(part, train) for part in layout.shards]
    tasks = (
        functools.partial(_shard_moments, series.isel(time=part), inside)
        for part, inside in zip(layout.shards, parts, strict=True)
    )
    moments = _run(tasks, "reading statistics" if progress else None)
    merged: dict[str, Moments] = {}
    # Shards are merged in order of time whoever computed them, so the statistics are the same to the last bit.
    for shard in moments:
        for name, moment in shard.items():
            merged[name] = merged[name].merge(moment) if name in merged else moment
    return Normalization({name: ZScore.fit(name, moment) for name, moment in merged.items()})


def _cut(part: slice, train: slice) -> slice:
    """The rows of a shard, counted from its start, that lie in the training rows."""
    first = min(max(train.start - part.start, 0), frames_in(part))
    return slice(first, max(min(train.stop - part.start, frames_in(part)), first))


def _shard_moments(block: xr.Dataset, train: slice) -> dict[str, Moments]:
    loaded = block.load(scheduler="synchronous")
    moments = {}
    for name, variable in loaded.data_vars.items():
        check_finite(variable)
        if frames_in(train):
            moments[str(name)] = Moments.of(variable.to_numpy()[train])
    return moments


def _store_attrs(series: xr.Dataset, split: Split, step: np.timedelta64) -> dict[str, Any]:
    times = series["time"].to_numpy()
    train = split.rows(times)["train"]
    return series.attrs | {
        "Conventions": "CF-1.11",
        "stforecast_store_version": STORE_VERSION,
        "split": split.to_json(),
        "statistics_period": json.dumps([show_time(times[train.start]), show_time(times[train.stop - 1])]),
        "step_seconds": int(step / np.timedelta64(1, "s")),
        "gaps": len(find_gaps(times, step)),
    }


def _write_template(
    series: xr.Dataset, staging: Path, layout: Layout, normalization: Normalization, attrs: dict[str, Any]
) -> None:
    """Everything of a store but its frames: coordinates, metadata, and arrays of NaN that no file stands for yet."""
    coordinates = series.coords.to_dataset().load(scheduler="synchronous").assign_attrs(attrs)
    encoding: dict[Any, Any] = {name: {"compressors": _codecs()} for name in coordinates.variables}
    encoding["time"] |= TIME_ENCODING | {"chunks": (layout.frames,)}
    coordinates.to_zarr(staging, zarr_format=3, consolidated=False, encoding=encoding)
    group = zarr.open_group(staging, mode="r+", zarr_format=3)
    for name, variable in series.data_vars.items():
        rest = variable.shape[1:]
        group.create_array(
            str(name),
            shape=variable.shape,
            chunks=(layout.chunk, *rest),
            shards=(layout.shard, *rest),
            dtype="float32",
            # A shard that is not there reads as NaN, which every gate refuses, and never as a plausible value.
            fill_value=np.nan,
            compressors=_codecs(),
            dimension_names=[str(dim) for dim in variable.dims],
            config={"write_empty_chunks": True},
            # What is said of physical values (units, valid range) would be false of z-scores, so it stands apart.
            attributes={
                "units": "1",
                "long_name": f"{variable.attrs.get('long_name', name)}, normalized",
                "normalization": normalization.variables[str(name)].to_attrs(),
                "physical": _plain(variable.attrs),
            },
        )


def _codecs() -> list[zarr.codecs.ZstdCodec]:
    # The checksum finds a flipped bit when the chunk is read; without it zstd decodes most of them into wrong numbers.
    return [zarr.codecs.ZstdCodec(level=1, checksum=True)]


def _plain(attrs: dict[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON holds them."""
    return {
        str(key): value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for key, value in attrs.items()
    }


def _write_shard(block: xr.Dataset, staging: Path, rows: slice, normalization: Normalization) -> None:
    """Normalize one shard's frames, write them as whole shards and read them back."""
    loaded = block.load(scheduler="synchronous")
    group = zarr.open_group(staging, mode="r+", zarr_format=3)
    for name, variable in loaded.data_vars.items():
        values = normalization.variables[str(name)].apply(variable.to_numpy())
        array = group[str(name)]
        assert isinstance(array, zarr.Array)
        array[rows] = values
        if not _same_bits(array[rows], values):
            raise StforecastError(ErrorKind.STORE_CORRUPT, f"variable {name} was not read back as it was written")


def _same_bits(read: Any, written: Values) -> bool:
    return np.array_equal(np.asarray(read).view(np.int32), written.view(np.int32))


def _consolidate(staging: Path) -> None:
    """One root metadata file that names every array, so that a reader lists no folder."""
    group = zarr.open_group(staging, mode="r", zarr_format=3)
    root = json.loads((staging / "zarr.json").read_text())
    members = {name: json.loads((staging / name / "zarr.json").read_text()) for name, _ in sorted(group.members())}
    # Written here because zarr's own function warns that consolidated metadata is not in the v3 specification yet.
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": members}
    (staging / "zarr.json").write_text(json.dumps(root, indent=2))


def _publish(staging: Path, path: Path) -> None:
    """Make a verified, staged version current, durably and in one atomic step.

    A store is a folder of immutable versions, a link to the current one, and a link through it for every name in its
    root, so that plain readers open the folder itself.
    """
    names = sorted(entry.name for entry in staging.iterdir())
    make_durable(staging)
    if not path.exists():
        whole = path.with_name(f".{path.name}.whole")
        shutil.rmtree(whole, ignore_errors=True)
        (whole / VERSIONS).mkdir(parents=True)
        staging.rename(whole / VERSIONS / "1")
        _link(whole / CURRENT, Path(VERSIONS) / "1")
        _link_names(whole, names)
        make_durable(whole)
        whole.rename(path)
        sync(path.parent)
        return
    number = 1 + max(int(version.name) for version in (path / VERSIONS).iterdir())
    staging.rename(path / VERSIONS / str(number))
    sync(path / VERSIONS)
    _link_names(path, names)
    previous = (path / CURRENT).readlink()
    _link(path / CURRENT, Path(VERSIONS) / str(number))
    sync(path)
    _retire(path, keep={str(number), previous.name}, names=set(names))


def _link_names(path: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (path / name).is_symlink():
            _link(path / name, Path(CURRENT) / name)


def _link(link: Path, target: Path) -> None:
    """Make or replace a symbolic link atomically."""
    temporary = link.with_name(f"{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _retire(path: Path, *, keep: set[str], names: set[str]) -> None:
    """Drop versions that no reader of the last one needs, and links to names that are no more."""
    for version in (path / VERSIONS).iterdir():
        if version.name not in keep:
            shutil.rmtree(version)
    for entry in path.iterdir():
        if entry.is_symlink() and entry.name != CURRENT and entry.name not in names:
            entry.unlink()
