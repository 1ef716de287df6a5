"""What lies in raw files beside the series: how values are kept, fields without a time, files beside."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import h5py

from stforecast.sources import cf, grib, taxibj, weatherbench
from stforecast.sources.raw_files import GRIB_SUFFIXES, Location, find_files, hdf5_file, is_url, is_zarr
from stforecast.sources.taxibj_sides import side_files
from stforecast.sources.zarr_stores import absent_chunks


@dataclass(frozen=True)
class Contents:
    """What the first files of a location hold beside a series.

    Attributes:
        kept_as: how each variable's values are kept, e.g. int16, by name.
        static: names of fields without a time.
        beside: files that belong to the series.
        absent: chunks that no file stands for, of how many, by variable; they read as the fill value.
    """

    kept_as: dict[str, str]
    static: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    absent: tuple[tuple[str, int, int], ...] = ()


def contents_of(location: Location, source: str) -> Contents:
    """What a location of a known source holds beside its series.

    Raises:
        StforecastError: what opening its files raises.
    """
    if source == "taxibj":
        return _of_taxibj(Path(location))
    with ExitStack() as stack:
        if source == "weatherbench":
            return _of_weatherbench(Path(location), stack)
        if source == "grib":
            first = find_files(Path(location), suffixes=GRIB_SUFFIXES)[0]
            return _of_opened(grib.open_file(first, stack))
        files: list[Location] = [location] if is_url(location) else list(find_files(Path(location)))
        contents = _of_opened(cf.open_file(file, stack) for file in files[:1])
    return Contents(contents.kept_as, contents.static, absent=_absent(files, contents.kept_as))


def _of_opened(files: Iterable[cf.Opened]) -> Contents:
    kept_as: dict[str, str] = {}
    static: set[str] = set()
    for file in files:
        kept_as |= {name: file.dtype(name) for name in file.names}
        static |= file.static
    return Contents(kept_as, tuple(sorted(static)))


def _of_weatherbench(path: Path, stack: ExitStack) -> Contents:
    contents = _of_opened(cf.open_file(file, stack) for file in weatherbench.first_files(path))
    return Contents(contents.kept_as, tuple(sorted(weatherbench.static_names(path))))


def _of_taxibj(path: Path) -> Contents:
    first = taxibj.period_files(path)[0]
    with hdf5_file(first) as file:
        data = file["data"]
        assert isinstance(data, h5py.Dataset)
        kept_as = dict.fromkeys(taxibj.CHANNELS, str(data.dtype))
    return Contents(kept_as, beside=tuple(file.name for file in side_files(first)))


def _absent(files: Iterable[Location], names: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
    """Chunks that local stores lack, added up over the stores."""
    sums: dict[str, tuple[int, int]] = {}
    for file in files:
        if not is_url(file) and is_zarr(Path(file)):
            for name, (absent, whole) in absent_chunks(Path(file)).items():
                before = sums.get(name, (0, 0))
                sums[name] = before[0] + absent, before[1] + whole
    return tuple((name, *sums[name]) for name in sorted(set(names) & set(sums)))
