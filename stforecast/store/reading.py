"""Opening a store: lazily, in physical units or as it is stored, and checking it whole."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.normalization import Moments, Normalization, Scaling, Values
from stforecast.split import Split
from stforecast.store.layout import STORE_VERSION
from stforecast.store.versions import GROUP, current_version, find_damage
from stforecast.time_axis import check_times, show_time, time_step

# A scheduled run opens its store often; only what a stat call tells is checked then. `validate` reads everything.
_LONGEST_AXIS = 2**31
# Where an opened series notes the names of its lazy arrays, which no other array has and every change gives up.
_LAZY = "stforecast_lazy"
# Coordinates are loaded whole. A static field of the globe at 0.1 degrees has 6 million values.
_LARGEST_COORDINATE = 2**28


def open_store(path: str | Path, *, normalized: bool = False) -> xr.Dataset:
    """The series in a store, lazily: in physical units, or normalized with units 1.

    The version that is current now is opened and stays readable while a newer one is published, until two have been.
    Every file's presence and size, and the content of the metadata, is checked against the store's manifest. Attributes
    `split` and `normalization` hold the periods and the statistics as JSON.

    Args:
        path: a store that `prepare` made.
        normalized: whether to give the values as stored.

    Raises:
        StforecastError: FILE_MISSING; FILE_FORMAT if it is no store of ours; STORE_VERSION if a newer stforecast wrote
            it; STORE_INCOMPLETE or STORE_CORRUPT, naming the file, if one is missing or has another size, or if the
            metadata cannot be read.
    """
    scores, physical = open_both(Path(path))
    return scores if normalized else physical


def open_both(path: Path) -> tuple[xr.Dataset, xr.Dataset]:
    """The series in a store, lazily: as stored, and in physical units; both of the same version.

    Raises:
        StforecastError: what `open_store` raises.
    """
    version = current_version(path)
    try:
        series = _open_version(version, path)
    except (StforecastError, OSError):
        # Writers may have published twice, and retired this version, since the link was looked at.
        if current_version(path) == version:
            raise
        return open_both(path)
    normalization = Normalization({str(name): _scaling(series[name]) for name in series.data_vars})
    series.attrs["normalization"] = normalization.to_json()
    physical = {str(name): variable.attrs.pop("physical") for name, variable in series.data_vars.items()}
    for variable in series.data_vars.values():
        del variable.attrs["normalization"]
    both = series.drop_encoding(), normalization.invert(series, physical).drop_encoding()
    for opened in both:
        # As xarray does: where the values lie. Of a store that is the version that was opened, which never changes.
        opened.encoding["source"] = str(version / GROUP)
        opened.encoding[_LAZY] = {name: variable.data.name for name, variable in opened.data_vars.items()}
    return both


def group_of(series: xr.Dataset) -> Path | None:
    """The Zarr group whose values, normalized, are those of a series that `open_store` opened, if they still are.

    None for a series that was loaded, or of which a variable has been changed, selected from or computed with.
    """
    names = series.encoding.get(_LAZY, {})
    is_untouched = bool(series.data_vars) and all(
        name in names and variable.chunks is not None and variable.data.name == names[name]
        for name, variable in series.data_vars.items()
    )
    return Path(series.encoding["source"]) if is_untouched else None


def _open_version(version: Path, path: Path) -> xr.Dataset:
    faults = find_damage(version, deep=False)
    if faults:
        kind, fault = faults[0]
        raise StforecastError(kind, f"{path} is damaged: {fault}; take a copy of the store, or prepare it anew")
    return _open_group(version / GROUP, path)


class _StoredFrames:
    """A stored array that says which store is damaged when a chunk cannot be read."""

    def __init__(self, group: Path, name: str, path: Path) -> None:
        array = zarr.open_group(group, mode="r", zarr_format=3)[name]
        assert isinstance(array, zarr.Array)
        self.name, self.path = name, path
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim

    def __getitem__(self, index: Any) -> Values:
        try:
            values = np.asarray(self.array[index])
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise StforecastError(
                ErrorKind.STORE_CORRUPT,
                f"frames of {self.name} in {self.path} cannot be read ({error}); stforecast validate says what is "
                "damaged",
            ) from error
        # Zarr reads NaN where a file is gone, and no store holds NaN. A chunk has whole rows of X, so one cell tells.
        if np.isnan(values[..., :1] if values.ndim else values).any():
            raise StforecastError(
                ErrorKind.STORE_INCOMPLETE,
                f"frames of {self.name} are missing in {self.path}; if it was written twice since it was opened, open "
                "it again, else stforecast validate says what is damaged",
            )
        return values


def _open_group(group: Path, path: Path) -> xr.Dataset:
    try:
        _check_metadata(group)
        series = xr.open_zarr(group, chunks=None, decode_timedelta=True)
        version = series.attrs.get("stforecast_store_version", 0)
        # One dask chunk a shard: one a zarr chunk makes so many tasks that opening alone takes seconds.
        shard = int(next(iter(series.data_vars.values())).encoding["shards"][0])
        coordinates = series.coords.to_dataset().load()
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RuntimeError) as error:
        raise StforecastError(
            ErrorKind.STORE_CORRUPT, f"the metadata of {path} cannot be read ({error}); prepare the store anew"
        ) from error
    if version != STORE_VERSION:
        raise StforecastError(
            ErrorKind.STORE_VERSION,
            f"{path} has store version {version}, this stforecast reads version {STORE_VERSION}; prepare it anew",
        )
    check_times(coordinates["time"].to_numpy(), name=f"time of {path}")
    lazy = {
        name: variable.copy(data=_lazy(_StoredFrames(group, str(name), path), shard))
        for name, variable in series.data_vars.items()
    }
    opened: xr.Dataset = series.assign(lazy).assign_coords(coordinates.coords)
    return opened


def _lazy(stored: _StoredFrames, shard: int) -> da.Array:
    lazy: da.Array = da.from_array(stored, (shard, *stored.shape[1:]), name=False, asarray=False, lock=False)
    return lazy


def _check_metadata(group: Path) -> None:
    """Refuse a shape that no data could fill before anything allocates it."""
    root = json.loads((group / "zarr.json").read_text())
    for name, member in root["consolidated_metadata"]["metadata"].items():
        is_loaded = "physical" not in member["attributes"]
        if any(length > _LONGEST_AXIS for length in member["shape"]) or (
            is_loaded and math.prod(member["shape"]) > _LARGEST_COORDINATE
        ):
            raise ValueError(f"{name} declares the shape {member['shape']}")


def _scaling(variable: xr.DataArray) -> Scaling:
    return Scaling.from_attrs(variable.attrs["normalization"])


@dataclass(frozen=True)
class Validation:
    """What a check of a whole store found.

    Attributes:
        path: the store.
        files: how many files were read.
        frames: how many frames it holds.
        faults: what is wrong, with its kind; empty for a sound store.
    """

    path: Path
    files: int
    frames: int
    faults: tuple[tuple[ErrorKind, str], ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def __str__(self) -> str:
        if self.is_sound:
            return f"{self.path} is sound: {self.files} files with their checksums, {self.frames} frames"
        return "\n".join(
            [f"{self.path} has {len(self.faults)} fault(s):", *(f"{fault} [{kind}]" for kind, fault in self.faults)]
        )


def validate(path: str | Path) -> Validation:
    """What a check of every file, the axes, the values and the statistics of a store found.

    Every file is read and its SHA-256 compared with the manifest's; then metadata and axes are opened, and the
    statistics are compared with the stored training frames. Nothing is loaded beyond a shard at a time.

    Raises:
        StforecastError: FILE_MISSING or FILE_FORMAT if there is no store; STORE_CORRUPT if its manifest cannot be read.
    """
    path = Path(path)
    version = current_version(path)
    files = sum(1 for _ in (version / GROUP).rglob("*") if _.is_file())
    faults = find_damage(version, deep=True)
    frames = 0
    if not faults:
        series = open_store(path, normalized=True)
        frames = series.sizes["time"]
        for check in (_check_axes, _check_statistics):
            faults += _faults_of(check, series)
    return Validation(path, files, frames, tuple(faults))


def _faults_of(check: Callable[[xr.Dataset], None], series: xr.Dataset) -> list[tuple[ErrorKind, str]]:
    try:
        check(series)
    except StforecastError as error:
        return [(error.kind, str(error))]
    return []


def _check_axes(series: xr.Dataset) -> None:
    step = time_step(series["time"].to_numpy())
    stated = series.attrs["step_seconds"]
    if step != np.timedelta64(stated, "s"):
        raise StforecastError(ErrorKind.STORE_CORRUPT, f"the axis does not step by the {stated} s that are stated")
    Split.from_attrs(series.attrs).rows(series["time"].to_numpy())


def _check_statistics(series: xr.Dataset) -> None:
    """The training frames' moments are those that each method makes, and every value is finite."""
    split = Split.from_attrs(series.attrs)
    train = split.part_rows(series["time"].to_numpy(), "train")
    normalization = Normalization.from_json(series.attrs["normalization"])
    for name, variable in series.data_vars.items():
        moments: Moments | None = None
        for rows in _blocks(variable):
            values = variable.isel(time=rows).to_numpy()
            if not np.isfinite(values).all():
                where = show_time(series["time"].to_numpy()[rows.start])
                raise StforecastError(ErrorKind.NAN, f"variable {name} is not finite in the block from {where}")
            inside = values[max(train.start - rows.start, 0) : max(train.stop - rows.start, 0)]
            if len(inside):
                moments = Moments.of(inside) if moments is None else moments.merge(Moments.of(inside))
        assert moments is not None
        _compare(str(name), normalization.variables[str(name)].method, moments)


def _blocks(variable: xr.DataArray) -> list[slice]:
    bounds = np.cumsum([0, *variable.chunksizes["time"]]).tolist()
    return [slice(first, behind) for first, behind in pairwise(bounds)]


def _compare(name: str, method: str, moments: Moments) -> None:
    centred, one = (moments.mean, 0.0), (moments.standard_deviation, 1.0)
    expected: dict[str, list[tuple[Any, float]]] = {
        "z-score": [centred, one],
        "log1p": [centred, one],
        "min-max": [(moments.minimum, 0.0), (moments.maximum, 1.0)],
        "tendency": [centred],
    }
    # float32 scores of some 1e8 values average to zero within this.
    if not all(np.allclose(found, wanted, rtol=0, atol=1e-3) for found, wanted in expected[method]):
        raise StforecastError(
            ErrorKind.STATS_STALE,
            f"variable {name} was normalized ({method}) with statistics that are not of its training frames (mean "
            f"{moments.mean}, standard deviation {moments.standard_deviation}), as after an append "
            "into that period; append with refit=True (--refit), or prepare the store anew",
        )
