"""What is normal at a time: a climatology or a historical average, on the cells of a forecast."""

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.baselines import Climatology, Cycle, HistoricalAverage
from stforecast.grid import Grid, find_dims
from stforecast.plot.fields import Values, at_level

Normal = Climatology | HistoricalAverage | xr.Dataset


def normal_of(forecast: xr.Dataset, normal: Normal) -> Cycle:
    """What is normal of a forecast's variables, on its grid.

    Args:
        forecast: the variables that are asked for.
        normal: a climatology or an average; or a training period, a series (time, [level,] Y, X), of which a
            climatology is fitted on a geographic grid, else an average.

    Raises:
        StforecastError: VAR_MISSING, UNITS, GRID_SHAPE or CHANNELS if it does not match.
    """
    if isinstance(normal, xr.Dataset):
        names = [name for name in forecast.data_vars if name in normal.data_vars]
        training = normal[names] if names else normal
        normal = Climatology.fit(training) if Grid.of(forecast).is_geographic else HistoricalAverage.fit(training)
    return normal.on(forecast)


def normal_at(
    normal: Cycle, forecast: xr.Dataset, name: str, times: npt.NDArray[np.datetime64], level: float | None
) -> Values:
    """What is normal of a variable at some times, (time, Y, X) in the order of the forecast's cells."""
    table = (normal.coefficients if isinstance(normal, Climatology) else normal.means)[name]
    dims = [dim for dim in table.dims if dim in forecast[name].dims]
    at_times = normal.at(name, times.astype("datetime64[ns]"))
    labels = {dim: forecast[dim].variable for dim in dims if dim in forecast.coords}
    usual = at_level(xr.Dataset({name: (("time", *dims), at_times)}, labels), name, level)
    values: Values = usual.transpose("time", *find_dims(forecast, "Y", "X")).to_numpy()
    return values
