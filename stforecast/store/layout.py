"""What a store looks like on the disk: chunks and shards over time, arrays, codecs and metadata."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
import zarr.codecs

from stforecast.grid import axis_of, find_dims
from stforecast.limits import unpacked_attrs
from stforecast.normalization import Normalization, Values
from stforecast.store.shards import ZSTD_LEVEL

STORE_VERSION = 1
# A window of some ten frames should read few and small chunks; a task should write few and large files.
CHUNK_BYTES = 256 * 2**10
SHARD_BYTES = 16 * 2**20
TIME_ENCODING = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}


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
        """Chunks and shards of about CHUNK_BYTES and SHARD_BYTES of the largest variable.

        They follow from the size of a frame alone, so that a store that grows keeps its chunks and shards.
        """
        frames = series.sizes["time"]
        frame_bytes = max(4 * variable.size // frames for variable in series.data_vars.values())
        chunk = max(CHUNK_BYTES // frame_bytes, 1)
        return cls(frames, chunk, chunk * max(SHARD_BYTES // (chunk * frame_bytes), 1))

    @property
    def shards(self) -> list[slice]:
        """The rows of each shard, in order of time."""
        return [slice(row, min(row + self.shard, self.frames)) for row in range(0, self.frames, self.shard)]


def in_store_order(series: xr.Dataset) -> xr.Dataset:
    """The series with dimensions (time, [level,] Y, X), called time and level, and no inherited encodings."""
    time, y, x = find_dims(series, "T", "Y", "X")
    names = {time: "time"} | {str(dim): "level" for dim in series.dims if axis_of(series, dim) == "Z"}
    ordered = series.rename({old: new for old, new in names.items() if old != new}).transpose("time", ..., y, x)
    # Without its encoding a variable no longer tells that its limits are packed.
    limits = {name: variable.assign_attrs(unpacked_attrs(variable)) for name, variable in ordered.data_vars.items()}
    return ordered.assign(limits).assign_coords(time=ordered["time"].astype("datetime64[ns]")).drop_encoding()


def write_template(group: Path, series: xr.Dataset, layout: Layout, normalization: Normalization) -> None:
    """Everything of a store but its frames: coordinates, metadata, and arrays of NaN that no file stands for yet."""
    coordinates = series.coords.to_dataset().load(scheduler="synchronous").assign_attrs(plain(series.attrs))
    encoding: dict[Any, Any] = {name: {"compressors": _codecs()} for name in coordinates.variables}
    for name, coordinate in coordinates.variables.items():
        if "time" in coordinate.dims:
            encoding[name]["chunks"] = coordinate.shape
        if coordinate.dtype.kind == "U":
            # Text of a fixed length is in no version of Zarr's specification, and zarr warns of it.
            coordinates[name] = coordinate.astype(object)
    encoding["time"] |= TIME_ENCODING
    coordinates.to_zarr(group, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    opened = zarr.open_group(group, mode="r+", zarr_format=3)
    for name, variable in series.data_vars.items():
        rest = variable.shape[1:]
        opened.create_array(
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
            # What is said of physical values (units, valid range) would be false of scores, so it stands apart.
            attributes={
                "units": "1",
                "long_name": f"{variable.attrs.get('long_name', name)}, normalized",
                "normalized": normalization.variables[str(name)].method,
                "normalization": normalization.variables[str(name)].to_attrs(),
                "physical": plain(variable.attrs),
            },
        )
    consolidate(group)


def _codecs() -> list[zarr.codecs.ZstdCodec]:
    # The checksum finds a flipped bit when the chunk is read; without it zstd decodes most of them into wrong numbers.
    return [zarr.codecs.ZstdCodec(level=ZSTD_LEVEL, checksum=True)]


def plain(attrs: dict[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON holds them."""
    listed = {
        str(key): value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for key, value in attrs.items()
    }
    return {key: value if _is_json(value) else str(value) for key, value in listed.items()}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def consolidate(group: Path, first: Iterable[str] = ()) -> None:
    """One root metadata file that names every array, so that a reader lists no folder; in this order, then sorted."""
    names = dict.fromkeys([*first, *sorted(entry.name for entry in group.iterdir() if entry.is_dir())])
    root = json.loads((group / "zarr.json").read_text())
    members = {name: json.loads((group / name / "zarr.json").read_text()) for name in names}
    # Written here because zarr's own function warns that consolidated metadata is not in the v3 specification yet.
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": members}
    (group / "zarr.json").write_text(json.dumps(root, indent=2))


def read_shard(group: Path, name: str, rows: slice) -> Values:
    """The normalized frames of some rows of a variable."""
    array = zarr.open_group(group, mode="r", zarr_format=3)[name]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[rows])


def shard_file(variable: xr.DataArray, name: str, number: int) -> str:
    """Where the shard of that number of a variable lies in the group, by Zarr's default chunk keys."""
    return "/".join([name, "c", str(number), *("0" for _ in variable.dims[1:])])
