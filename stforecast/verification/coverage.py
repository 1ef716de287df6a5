"""How often truth lies within the bounds of intervals, and how wide these are."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scores.continuous import interval_score

from stforecast.baselines import blocks_of, frames_at
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import check_forecast, check_series, forecast_variables, on_grid_of
from stforecast.verification.evaluation import check_verifiable_dims, valid_times, verifiable
from stforecast.verification.groups import Groups

MEASURES = ("coverage", "width", "interval_score")
Floats = npt.NDArray[np.float64]

# What was normalized and came back, as a store gives it, is off by the rounding of float32: a count of 0 may be -1e-7.
_ROUNDING = 1e-6


def coverage(forecast: xr.Dataset, truth: xr.Dataset, *, by: Sequence[str] = ()) -> xr.Dataset:
    """How good intervals are: for each variable coverage, width and interval score, (measure, lead_time[, …]).

    Coverage is the share of cells and init times where truth lies between the bounds; a rounding error of 1e-6 of the
    largest truth is none outside. Width is the mean distance between them. The interval score adds to the width 2 / (1
    - interval) times the distance of truth that lies outside (Gneiting and Raftery 2007,
    doi:10.1198/016214506000001437); less is better, and who knew the distribution could not do better than its
    quantiles. All cells count alike, as they do in the calibration. NaN in the truth is left out.

    Args:
        forecast: as `predict(…, interval=0.9)` gives it.
        truth: (time, [level,] Y, X) with at least the forecast's variables, on the same cells in any order.
        by: "season" and "hour" of the valid time, as for `evaluate`.

    Returns:
        float64, (measure, lead_time[, level][, season][, hour]); coverage has units 1 and the others those of the
        variable; the attribute interval is the share that was asked for, and sample_size (lead_time[, season][, hour])
        says how many init times have a part. NaN where there is none.

    Raises:
        StforecastError: VAR_MISSING for a forecast without intervals; what `evaluate` refuses of forecast and truth.
    """
    check_forecast(forecast)
    check_verifiable_dims(forecast)
    check_series(truth, allow_gaps=True)
    names = [str(name) for name in forecast_variables(forecast) if _bounds_of(forecast, name)]
    if not names:
        raise StforecastError(
            ErrorKind.VAR_MISSING,
            f"the forecast has no intervals, only {', '.join(map(str, forecast.data_vars))}; make it with "
            "predict(…, interval=0.9)",
        )
    forecast = verifiable(forecast, truth)
    groups = Groups.of(valid_times(forecast), by)
    truth = on_grid_of(truth, forecast[names], name="the truth")
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    sample = np.zeros((forecast.sizes["lead_time"], groups.count))
    largest = max((forecast[name] for name in names), key=lambda variable: variable.size)
    for inits in blocks_of(largest, "init_time"):
        block = forecast.isel(init_time=inits)
        leads = block["lead_time"].to_numpy()
        observed = frames_at(truth, valid_times(block), block["init_time"].to_numpy(), leads, source="truth")
        is_there = np.zeros((block.sizes["init_time"], len(leads)), bool)
        members = groups.number[inits, :, None] == np.arange(groups.count)
        for name in names:
            measured = _measured(block, observed, name)
            sums[name] = sums[name] + np.einsum("bl...m,blg->lg...m", measured, members)
            is_there |= measured[..., -1].reshape(*is_there.shape, -1).any(axis=-1)
        sample += np.einsum("bl,blg->lg", is_there.astype(np.float64), members)
    return _labelled(forecast, sums, sample, groups)


def _bounds_of(forecast: xr.Dataset, name: Hashable) -> tuple[xr.DataArray, xr.DataArray] | None:
    """The lower and the upper bound of a variable."""
    lower, upper = f"{name}_lower", f"{name}_upper"
    if any(bound not in forecast or forecast[bound].attrs.get("interval_of") != name for bound in (lower, upper)):
        return None
    return forecast[lower], forecast[upper]


def _measured(block: xr.Dataset, observed: xr.Dataset, name: str) -> Floats:
    """Sums over the cells of the measures, and how many cells there are, (init_time, lead_time, [level,] measure)."""
    bounds = _bounds_of(block, name)
    assert bounds is not None
    dims = ("init_time", "lead_time", *block[name].dims[2:])
    low, high = (some.reset_coords(drop=True).transpose(*dims).astype(np.float64).compute() for some in bounds)
    actual = observed[name].reset_coords(drop=True).transpose(*dims).astype(np.float64).compute()
    room = _ROUNDING * float(np.nan_to_num(np.abs(actual.to_numpy())).max(initial=0))
    is_there = actual.notnull()
    is_inside = (actual >= low - room) & (actual <= high + room)
    share = float(bounds[0].attrs["interval"])
    # Truth is put in the order of the bounds by on_grid_of, so labels that differ by rounding are no difference.
    scored = interval_score(
        low.drop_vars(low.coords),
        high.drop_vars(high.coords),
        actual.drop_vars(actual.coords),
        interval_range=share,
        preserve_dims="all",
    )["total"].transpose(*dims)
    values = [is_inside, (high - low).where(is_there), scored, is_there]
    summed = [np.nan_to_num(some.to_numpy().astype(np.float64)).sum(axis=(-2, -1)) for some in values]
    return np.stack(summed, axis=-1)


def _labelled(forecast: xr.Dataset, sums: dict[str, Floats], sample: Floats, groups: Groups) -> xr.Dataset:
    leads, variables = forecast.sizes["lead_time"], {}
    inner = list(groups.labels)
    for name, total in sums.items():
        (*level, _, _) = forecast[name].dims[2:]
        counts = total[..., -1:]
        means = np.divide(total[..., :-1], counts, out=np.full(total[..., :-1].shape, np.nan), where=counts > 0)
        # (lead_time, group, [level,] measure) to (measure, lead_time, [level,] groups…)
        means = np.moveaxis(np.moveaxis(means, -1, 0), 2, -1).reshape(
            len(MEASURES), leads, *(forecast.sizes[dim] for dim in level), *groups.shape
        )
        attrs = {
            "units_of_width": str(forecast[name].attrs["units"]),
            "units": "1",
            "long_name": f"coverage, width and interval score of {name}",
            "interval": forecast[f"{name}_lower"].attrs["interval"],
        }
        variables[name] = xr.Variable(("measure", "lead_time", *level, *inner), means, attrs)
    dims = {dim for variable in variables.values() for dim in variable.dims}
    coords = {name: coord for name, coord in forecast.coords.items() if name in dims and coord.dims == (name,)}
    sizes = sample.reshape(leads, *groups.shape).astype(np.int64)
    return xr.Dataset(
        variables,
        coords | groups.labels | {"measure": list(MEASURES), "sample_size": (("lead_time", *inner), sizes)},
    )
