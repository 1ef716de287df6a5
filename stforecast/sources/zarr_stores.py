"""Zarr stores, on this machine or behind a URL: opened without their values, and only if that is safe."""

import importlib
import re
import warnings
from pathlib import Path
from typing import Any

import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources.probe import LONGEST_AXIS
from stforecast.sources.raw_files import Location, in_one_line, is_url

# Who reads a protocol; fsspec's own messages name them in prose.
_PACKAGES = {
    "abfs": "adlfs",
    "az": "adlfs",
    "gcs": "gcsfs",
    "gs": "gcsfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
    "sftp": "paramiko",
    "ssh": "paramiko",
}
# What turns bytes into numbers and does nothing else; codecs of Python objects (pickle, json2, msgpack2) are not here.
_CODECS = frozenset(
    {
        *("bytes", "transpose", "sharding_indexed", "crc32c", "blosc", "gzip", "zstd", "vlen-utf8"),
        *("zlib", "bz2", "lz4", "lzma", "shuffle", "delta", "astype", "fixedscaleoffset", "quantize", "bitround"),
        *("packbits", "adler32", "crc32", "fletcher32", "jenkins_lookup3", "zfpy", "pcodec"),
    }
)
_KINDS = "biufSUmMT"  # numbers, texts and times
_LARGEST_CHUNK = 4 * 2**30  # bytes: all of a chunk is held to read a value of it


def open_store(location: Location) -> xr.Dataset:
    """All of a zarr store, axes read and other values not, times as the numbers they are.

    Args:
        location: a folder, or a URL that fsspec reads (gs://, s3://, https://, …).

    Raises:
        StforecastError: what `check_store` raises.
    """
    check_store(location)
    options: dict[str, Any] = {"chunks": None, "cache": False, "decode_times": False, "decode_timedelta": False}
    try:
        with warnings.catch_warnings():
            # Two fill values are right, as in netCDF; and xarray says so when metadata are not consolidated.
            warnings.simplefilter("ignore", xr.SerializationWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.filterwarnings("ignore", message="Object at .* is not recognized")
            opened = xr.open_dataset(str(location), engine="zarr", consolidated=_consolidated(location), **options)
            # Axes are needed anyway; metadata that do not fit their bytes are told here and not in the middle of work.
            axes = {name: opened[name].load() for name, variable in opened.variables.items() if variable.ndim == 1}
            return opened.assign(axes)
    except Exception as error:  # damaged metadata raise whatever the line that meets them raises
        raise StforecastError(
            ErrorKind.FILE_FORMAT, f"{location} cannot be read: {in_one_line(error)}; fetch the store anew"
        ) from error


def _consolidated(location: Location) -> bool | None:
    """Whether to read a store's collected metadata: they may be older than the store.

    Over a network, where folders cannot always be listed, they are read where they are there.
    """
    return None if is_url(location) else False


def array_names(location: Location) -> frozenset[str]:
    """The names of a store's arrays.

    Raises:
        StforecastError: what `check_store` raises.
    """
    return frozenset(name for name, _ in _arrays(location))


def check_store(location: Location) -> None:
    """Refuse a zarr store that is none, whose values are no plain numbers, or that would not fit into memory.

    Raises:
        StforecastError: FILE_MISSING, IO_ERROR or FILE_FORMAT, naming the store; FILE_UNSAFE_ZARR or FILE_TOO_LARGE,
            naming the array; ARGUMENT for a URL that nothing here reads, naming the package to install.
    """
    for name, array in _arrays(location):
        codecs = _codecs(array)
        unknown = sorted(codecs - _CODECS)
        is_text = array.dtype.kind == "O" and "vlen-utf8" in codecs
        if unknown or (array.dtype.kind not in _KINDS and not is_text):
            came = f"goes through the codec {', '.join(unknown)}" if unknown else f"holds {array.dtype} values"
            raise StforecastError(
                ErrorKind.FILE_UNSAFE_ZARR,
                f"{location}: {name} {came}, wanted plain numbers; write the store anew with blosc, zstd or gzip",
            )
        if array.ndim == 1 and array.size > LONGEST_AXIS:
            raise _too_large(location, name, f"{array.size} values on one axis")
        chunk = array.dtype.itemsize
        for length in array.chunks:
            chunk *= length
        if chunk > _LARGEST_CHUNK:
            raise _too_large(location, name, f"chunks of {chunk} bytes")


def _too_large(location: Location, name: str, what: str) -> StforecastError:
    return StforecastError(
        ErrorKind.FILE_TOO_LARGE, f"{location}: {name} declares {what}, which is not read; write the store anew"
    )


def _arrays(location: Location) -> list[tuple[str, Any]]:
    import zarr  # here, as it takes longer than opening a netCDF file

    if is_url(location):
        _check_protocol(str(location))
    try:
        with warnings.catch_warnings():
            # Other files may lie in a store's folder.
            warnings.filterwarnings("ignore", message="Object at .* is not recognized")
            group = zarr.open_group(str(location), mode="r", use_consolidated=_consolidated(location))
            return list(group.arrays())
    except FileNotFoundError as error:
        kind = ErrorKind.FILE_MISSING if is_url(location) else ErrorKind.FILE_FORMAT
        raise StforecastError(kind, f"{location}: there is no zarr group; check the path") from error
    except OSError as error:
        raise StforecastError(ErrorKind.IO_ERROR, f"{location} cannot be reached: {in_one_line(error)}") from error
    except Exception as error:  # damaged metadata raise whatever the line that meets them raises
        # What zarr itself says of arrays of Python objects (pickle, json2, msgpack2, or no codec at all).
        kind = ErrorKind.FILE_UNSAFE_ZARR if "object_codec_id" in str(error) else ErrorKind.FILE_FORMAT
        raise StforecastError(
            kind, f"{location} is not a zarr group that can be read: {in_one_line(error)}; wanted plain numbers"
        ) from error


def _codecs(array: Any) -> set[str]:
    """What the values of an array go through, by the names that zarr's two formats give them."""
    metadata = array.metadata
    if metadata.zarr_format == 2:
        return {codec.codec_id for codec in [*(metadata.filters or ()), metadata.compressor] if codec is not None}
    return _inner_codecs(codec.to_dict() for codec in metadata.codecs)


def _inner_codecs(codecs: Any) -> set[str]:
    names = set()
    for codec in codecs:
        names.add(str(codec["name"]).removeprefix("numcodecs."))
        configuration = codec.get("configuration", {})
        names |= _inner_codecs([*configuration.get("codecs", ()), *configuration.get("index_codecs", ())])
    return names


def _check_protocol(url: str) -> None:
    if "::" in url:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{url} joins protocols, which zarr does not read; give the plain URL of the store"
        )
    protocol = re.split("://", url)[0]
    fsspec = importlib.import_module("fsspec")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = _PACKAGES.get(protocol, in_one_line(error))
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{url} is read by the package {package}; install it: pip install {package}"
        ) from error
    except ValueError as error:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{url}: nothing reads '{protocol}://'; wanted gs://, s3://, https:// or a local path"
        ) from error


def absent_chunks(path: Path) -> dict[str, tuple[int, int]]:
    """Chunks of a local store that no file stands for, and how many there should be, by array with values that lack.

    They read as the fill value. zarr leaves out chunks that hold nothing else, and a writer that was stopped leaves out
    the rest.
    """
    counts = {}
    for name, array in _arrays(path):
        absent = array.nchunks - array.nchunks_initialized
        if absent:
            counts[name] = (absent, array.nchunks)
    return counts
