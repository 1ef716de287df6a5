"""Generated raw data in the layouts of WeatherBench and TaxiBJ, to try everything on without a download."""

from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import replacing
from stforecast.netcdf import write_netcdf
from stforecast.sources.sample_traffic import CELLS, counts, present
from stforecast.sources.sample_weather import weather_years
from stforecast.sources.slots import SLOTS_PER_DAY, slots_of

Kind = Literal["weather", "traffic"]

FIRST_YEAR = 2016
LONG_NAMES = {"t2m": "2m_temperature", "z": "geopotential_500"}
# The first days of TaxiBJ's four periods.
PERIODS = {"BJ13": "2013-07-01", "BJ14": "2014-03-01", "BJ15": "2015-03-01", "BJ16": "2015-11-01"}
LONGEST_PERIOD = 240  # days; the third is followed by the fourth after 245


def write_sample(
    kind: Kind,
    folder: str | Path,
    *,
    seed: int = 0,
    years: int = 3,
    step_hours: int = 6,
    periods: int = 2,
    days: int = 45,
) -> list[Path]:
    """The paths of generated raw files, written in a provider's layout and labelled as generated.

    "weather" is a WeatherBench 1 tree at 5.625° with 2m_temperature and geopotential_500: travelling waves on the
    year's and the day's cycle, with red noise. "traffic" is TaxiBJ's HDF5 with commuters, weekends, one storm a period
    and absent slots. The same seed gives the same values.

    Args:
        kind: "weather" or "traffic".
        folder: the root of the tree, or the folder of the periods; made if it is not there. Files of the same names are
            replaced.
        seed: of the random numbers.
        years: weather: how many, from 2016.
        step_hours: weather: hours between frames; WeatherBench itself has 1.
        periods: traffic: how many, up to 4.
        days: traffic: the length of each period.

    Raises:
        StforecastError: ARGUMENT for another kind or a size that cannot be.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = write_sample("weather", folder, years=1, step_hours=24)
        >>> sorted(path.name for path in paths)
        ['2m_temperature_2016_5.625deg.nc', 'geopotential_500_2016_5.625deg.nc']
    """
    if kind not in get_args(Kind):
        raise StforecastError(ErrorKind.ARGUMENT, f"unknown sample '{kind}'; there are {', '.join(get_args(Kind))}")
    for name, size, most in (("years", years, 200), ("periods", periods, len(PERIODS)), ("days", days, LONGEST_PERIOD)):
        if not 1 <= size <= most:
            raise StforecastError(ErrorKind.ARGUMENT, f"wanted {name} from 1 to {most}, got {size}")
    if step_hours < 1 or 24 % step_hours:
        raise StforecastError(ErrorKind.ARGUMENT, f"wanted step_hours that divide a day, got {step_hours}")
    if kind == "weather":
        return _write_weather(Path(folder), seed, years, step_hours)
    return [_write_period(Path(folder), name, days, seed) for name in list(PERIODS)[:periods]]


def _provenance(kind: Kind, seed: int) -> dict[str, str]:
    return {
        "title": f"Generated {kind} in a provider's layout, no observations",
        "source": f"stforecast.write_sample('{kind}', seed={seed})",
    }


def _write_weather(root: Path, seed: int, years: int, step_hours: int) -> list[Path]:
    paths = []
    for year, weather in weather_years(FIRST_YEAR, years, step_hours, seed):
        for name, long_name in LONG_NAMES.items():
            paths.append(root / long_name / f"{long_name}_{year}_5.625deg.nc")
            _write_netcdf(weather[[name]].assign_attrs(_provenance("weather", seed), Conventions="CF-1.6"), paths[-1])
    return sorted(paths)


def _write_netcdf(weather: xr.Dataset, path: Path) -> None:
    encoding: dict[str, dict[str, Any]] = {
        str(name): {"zlib": True, "complevel": 1, "chunksizes": (24, 32, 64)} for name in weather.data_vars
    }
    encoding["time"] = {"dtype": "int32", "units": "hours since 1900-01-01", "calendar": "proleptic_gregorian"}
    with replacing(path) as temporary:
        write_netcdf(weather, temporary, encoding=encoding)


def _write_period(root: Path, name: str, days: int, seed: int) -> Path:
    # The city is the same in all periods; what happens in it is not.
    happenings = np.random.default_rng([seed, list(PERIODS).index(name) + 1])
    slots = days * SLOTS_PER_DAY
    times = np.datetime64(PERIODS[name], "ns") + np.arange(slots) * np.timedelta64(30, "m")
    rows = present(slots, happenings)
    vehicles = counts(times, np.random.default_rng([seed, 0]), happenings)[rows]
    path = root / f"{name}_M{CELLS[0]}x{CELLS[1]}_T30_InOut.h5"
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(_provenance("traffic", seed))
        file.create_dataset("data", data=vehicles, chunks=(min(len(rows), 48), 2, *CELLS), compression=1, shuffle=True)
        file.create_dataset("date", data=slots_of(times[rows]))
    return path
