"""Scores of forecasts against the truth: by lead time, area-weighted, on a sample that all sources share."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_

import numpy as np
import numpy.typing as npt
import xarray as xr
from scores.continuous import additive_bias, mae, mse

from stforecast.baselines import Baseline, blocks_of, fit_references, frames_at, needs_training
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, axis_of, check_forecast, check_series, find_dims, on_grid_of, times_of
from stforecast.split import Split
from stforecast.time_axis import Times, show_step, show_time

METRICS = ("bias", "mae", "rmse")

Reference = Baseline | xr.Dataset
Floats = npt.NDArray[np.float64]


def evaluate(
    forecast: xr.Dataset,
    truth: xr.Dataset,
    *,
    reference: Sequence[str] | Mapping[str, Reference] = (),
    training: xr.Dataset | None = None,
) -> xr.Dataset:
    """Bias, mean absolute and root mean square error of each variable, (source, metric, lead_time[, level]).

    The mean goes over init times and cells, weighted by the cells' true area; the root is taken after it. A cell of an
    init and lead time counts only where the truth, the forecast and every reference have a value, so all sources are
    judged on the same sample: a frame that the truth lacks, or that a reference would have needed, drops out for all.
    Forecast and truth are read in blocks of init times.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        truth: (time, [level,] Y, X) with at least the forecast's variables, on the same cells in any order; references
            take their frames from it, so let it begin well before the first init time.
        reference: names for `fit_references`, or baselines and other forecasts by names of your own.
        training: the frames that references given by name are fitted on; by default the training period of the split
            that the truth carries.

    Returns:
        float64 in the variables' units: source "forecast", then the references; metric "bias", "mae" and "rmse"; with
        the coordinate sample_size (lead_time), how many init times have a part in the sample. Attributes state the
        weighting, the init times that were verified and the training period.

    Raises:
        StforecastError: what `check_forecast` and `check_series` raise; TIME_RANGE, naming both ranges, if no valid
            time is in the truth; EMPTY_SELECTION if there is no common sample; INF for an infinite value; VAR_MISSING,
            UNITS, GRID_SHAPE or CHANNELS if truth or references do not match the forecast; DIMS for an ensemble;
            TIME_FREQ if a reference cannot step to a lead time; ARGUMENT for an unknown reference, or for one without
            a training part.
    """
    check_forecast(forecast)
    _check_dims(forecast)
    step = check_series(truth, allow_gaps=True)
    forecast = _verifiable(forecast, truth)
    horizon = _horizon(forecast, step) if reference else 0
    references, attrs = _references(forecast, truth, reference, training, horizon)
    truth = on_grid_of(truth, forecast, name="the truth")
    largest = max(forecast.data_vars.values(), key=lambda variable: variable.size)
    with xr.set_options(arithmetic_join="exact"):  # type: ignore[no-untyped-call]  # xarray has no types for it
        blocks = [
            _score_block(forecast.isel(init_time=inits), truth, references, horizon)
            for inits in blocks_of(largest, "init_time")
        ]
    _check_sample(blocks)
    return _combine(blocks, forecast, ("forecast", *references)).assign_attrs(attrs)


def score_table(scores: xr.Dataset, *, metric: str = "rmse") -> str:
    """Scores as Markdown: for each variable and level a table with a row for each lead time, a column for each source.

    Args:
        scores: from `evaluate`.
        metric: "bias", "mae" or "rmse".

    Raises:
        StforecastError: ARGUMENT for another metric.
    """
    if metric not in METRICS:
        raise StforecastError(ErrorKind.ARGUMENT, f"unknown metric {metric!r}; there are {', '.join(METRICS)}")
    tables = []
    for name, variable in scores.sel(metric=metric).data_vars.items():
        title = f"{name} ({variable.attrs['units']}), {metric}"
        (level,) = [dim for dim in variable.dims if dim not in ("source", "lead_time")] or [None]
        if level is None:
            tables.append(_table(title, variable))
        else:
            tables += [_table(f"{title}, {level} {one[level].item():g}", one) for one in variable.transpose(level, ...)]
    return "\n\n".join(tables)


def _table(title: str, values: xr.DataArray) -> str:
    values = values.transpose("lead_time", "source")
    largest = np.nanmax(np.abs(values.to_numpy()), initial=0.0)
    decimals = int(np.clip(3 - np.floor(np.log10(largest)), 0, 9)) if largest > 0 else 3
    header = ["lead time", *map(str, values["source"].to_numpy()), "init times"]
    rows = [
        [show_step(row["lead_time"].to_numpy()), *(f"{value:.{decimals}f}" for value in row.to_numpy()), f"{size}"]
        for row, size in zip(values, values["sample_size"].to_numpy(), strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [":".rjust(width, "-") for width in widths]
    lines = [" | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join([title, "", *(f"| {line} |" for line in (lines[0], " | ".join(rule), *lines[1:]))])


def _check_dims(forecast: xr.Dataset) -> None:
    roles = {dim: axis_of(forecast, dim) for variable in forecast.data_vars.values() for dim in variable.dims}
    extra = [str(dim) for dim, role in roles.items() if role not in ("init_time", "lead_time", "Z", "Y", "X")]
    if extra:
        raise StforecastError(
            ErrorKind.DIMS,
            f"the forecast has the dimension(s) {', '.join(extra)} besides (init_time, lead_time, [level,] Y, X); "
            f"select or average first, e.g. forecast.mean('{extra[0]}', keep_attrs=True)",
        )


def _valid_times(forecast: xr.Dataset) -> Times:
    inits, leads = (forecast[name].to_numpy() for name in ("init_time", "lead_time"))
    valid: Times = (inits[:, None] + leads).astype("datetime64[ns]")
    return valid


def _verifiable(forecast: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """The init times of a forecast that have a valid time in the truth."""
    times, valid = times_of(truth), _valid_times(forecast)
    inits = np.isin(valid, times).any(axis=1)
    if not inits.any():
        ranges = [
            f"{show_time(axis.min())} to {show_time(axis.max())}" if axis.size else "none" for axis in (valid, times)
        ]
        raise StforecastError(
            ErrorKind.TIME_RANGE,
            f"no valid time of the forecast ({ranges[0]}) is a frame of the truth ({ranges[1]}); give truth of the "
            "period that is forecast",
        )
    return forecast.isel(init_time=inits)


def _horizon(forecast: xr.Dataset, step: np.timedelta64) -> int:
    """How many steps of the truth references have to forecast."""
    leads = forecast["lead_time"].to_numpy()
    between = leads % step != np.timedelta64(0)
    if between.any():
        raise StforecastError(
            ErrorKind.TIME_FREQ,
            f"lead time {show_step(leads[between][0])} is not a whole number of the truth's steps of {show_step(step)}"
            ": no reference can forecast it; select the lead times that are, or give no reference",
        )
    return int(leads[-1] // step)


def _references(
    forecast: xr.Dataset,
    truth: xr.Dataset,
    reference: Sequence[str] | Mapping[str, Reference],
    training: xr.Dataset | None,
    horizon: int,
) -> tuple[dict[str, Reference], dict[str, str]]:
    """Baselines, and forecasts on the grid of the one that is scored; and the period that they were fitted on."""
    if not isinstance(reference, Mapping):
        if not needs_training(reference):
            return dict(fit_references(reference, horizon=horizon)), {}
        learnt = on_grid_of(_training(truth, training), forecast, name="the training part")
        times = times_of(learnt)
        attrs = {"training_start": show_time(times[0]), "training_end": show_time(times[-1])}
        return dict(fit_references(reference, learnt, horizon=horizon)), attrs
    if "forecast" in reference:
        raise StforecastError(ErrorKind.ARGUMENT, "'forecast' is what is scored; give the reference another name")
    references: dict[str, Reference] = {}
    for name, source in reference.items():
        if isinstance(source, xr.Dataset):
            check_forecast(source)
            _check_dims(source)
            source = on_grid_of(source, forecast, name=f"the reference {name}")
        references[name] = source
    return references, {}


def _training(truth: xr.Dataset, training: xr.Dataset | None) -> xr.Dataset:
    if training is not None:
        check_series(training, allow_gaps=True)
        return training
    if "split" not in truth.attrs:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            "references are fitted on a training part but the truth carries no split; pass training=, the frames that "
            "the forecaster was trained on",
        )
    (time,) = find_dims(truth, "T")
    return truth.isel({time: Split.from_attrs(truth.attrs).part_rows(times_of(truth), "train")})


@dataclass(frozen=True)
class _Scores:
    """What one block of init times adds to the scores.

    Attributes:
        means: of each variable, the mean bias, absolute and squared error, (source, metric, lead_time, [level]).
        weights: of each variable, the area that they were taken over, (lead_time, [level]).
        scored: which init and lead times have a part in the common sample, (init_time, lead_time).
        present: the sources that have any value.
    """

    means: Mapping[str, Floats]
    weights: Mapping[str, Floats]
    scored: npt.NDArray[np.bool_]
    present: Mapping[str, bool]


def _score_block(forecast: xr.Dataset, truth: xr.Dataset, references: Mapping[str, Reference], horizon: int) -> _Scores:
    sources = {"forecast": forecast} | {
        name: _on_block(name, source, forecast, truth, horizon) for name, source in references.items()
    }
    inits, leads = forecast["init_time"].to_numpy(), forecast["lead_time"].to_numpy()
    observed = frames_at(truth, _valid_times(forecast), inits, leads, source="truth")
    area = _cell_area(forecast)
    means, weights = {}, {}
    scored, present = np.zeros((len(inits), len(leads)), bool), dict.fromkeys(("the truth", *sources), False)
    for name in map(str, forecast.data_vars):
        values = {source: _values(dataset[name], source) for source, dataset in sources.items()}
        actual = _values(observed[name], "the truth")
        has_value = {"the truth": actual.notnull()} | {source: value.notnull() for source, value in values.items()}
        common = reduce(and_, has_value.values())
        kept = ["lead_time", *(dim for dim in common.dims if axis_of(forecast, dim) == "Z")]
        means[name] = np.stack([_mean_errors(value.where(common), actual, area, kept) for value in values.values()])
        weights[name] = xr.dot(common.astype(np.float64), area, dim=_others(common, kept)).transpose(*kept).to_numpy()
        scored |= common.any(_others(common, ("init_time", "lead_time"))).to_numpy()
        present = {source: present[source] or bool(value.any()) for source, value in has_value.items()}
    return _Scores(means, weights, scored, present)


def _on_block(name: str, source: Reference, forecast: xr.Dataset, truth: xr.Dataset, horizon: int) -> xr.Dataset:
    """A reference at the init and lead times of a block, NaN where another forecast has none."""
    inits, leads = forecast["init_time"].to_numpy(), forecast["lead_time"].to_numpy()
    if isinstance(source, xr.Dataset):
        return source.reindex(init_time=inits, lead_time=leads)
    predicted = source.predict(truth, init_times=inits, horizon=horizon).sel(lead_time=leads)
    return on_grid_of(predicted, forecast, name=f"the reference {name}")


def _cell_area(forecast: xr.Dataset) -> xr.DataArray:
    """The grid's areas without labels: those of the data may be float32, and the order is the same."""
    grid = Grid.of(forecast)
    return xr.DataArray(grid.cell_area().to_numpy(), dims=grid.y_name)


def _others(variable: xr.DataArray, kept: Sequence[Hashable]) -> list[Hashable]:
    return [dim for dim in variable.dims if dim not in kept]


def _values(variable: xr.DataArray, source: str) -> xr.DataArray:
    """A variable of a source in memory, (init_time, lead_time, [level,] Y, X), float64."""
    values = variable.reset_coords(drop=True).transpose("init_time", "lead_time", ...).astype(np.float64).compute()
    infinite = np.isinf(values.to_numpy())
    if infinite.any():
        init, lead = (values[dim].to_numpy()[np.nonzero(infinite)[axis][0]] for axis, dim in enumerate(values.dims[:2]))
        raise StforecastError(
            ErrorKind.INF,
            f"variable {variable.name} of {source} has {int(infinite.sum())} infinite value(s), the first at init time "
            f"{show_time(init)}, lead time {show_step(lead)}; mend them, or set them to NaN to leave them out",
        )
    return values


def _mean_errors(source: xr.DataArray, observed: xr.DataArray, area: xr.DataArray, kept: Sequence[Hashable]) -> Floats:
    """The mean bias, absolute and squared error, (metric, lead_time, [level]); NaN where nothing is common."""
    return np.stack(
        [
            score(source, observed, preserve_dims=kept, weights=area).transpose(*kept).to_numpy()
            for score in (additive_bias, mae, mse)
        ]
    )


def _check_sample(blocks: Sequence[_Scores]) -> None:
    if any(block.scored.any() for block in blocks):
        return
    absent = [source for source in blocks[0].present if not any(block.present[source] for block in blocks)]
    which = f"{' and '.join(absent)} alone had none" if absent else "each has some, but at different places"
    raise StforecastError(
        ErrorKind.EMPTY_SELECTION,
        f"wanted a sample on which {', '.join(blocks[0].present)} all have values, but {which}; begin the truth "
        "earlier, so that references have the frames they need, or leave one out",
    )


def _combine(blocks: Sequence[_Scores], forecast: xr.Dataset, sources: Sequence[str]) -> xr.Dataset:
    """The scores of all blocks together."""
    variables = {}
    for name, variable in forecast.data_vars.items():
        weights = np.stack([block.weights[str(name)] for block in blocks])
        sums = np.stack([np.nan_to_num(block.means[str(name)]) for block in blocks]) * weights[:, None, None]
        total = weights.sum(axis=0)
        means = np.divide(sums.sum(axis=0), total, out=np.full(sums.shape[1:], np.nan), where=total > 0)
        # The root comes last: the mean of the blocks' roots would be smaller.
        means[:, METRICS.index("rmse")] = np.sqrt(means[:, METRICS.index("rmse")])
        level = [dim for dim in variable.dims if axis_of(forecast, dim) == "Z"]
        attrs = {key: value for key, value in variable.attrs.items() if key in ("units", "long_name", "standard_name")}
        variables[name] = xr.Variable(("source", "metric", "lead_time", *level), means, attrs)
    scored = np.concatenate([block.scored for block in blocks])
    labels = {name: coord for name, coord in forecast.coords.items() if coord.dims == (name,)}
    coords = {name: coord for name, coord in labels.items() if any(name in item.dims for item in variables.values())}
    inits = forecast["init_time"].to_numpy()[scored.any(axis=1)]
    return xr.Dataset(
        variables,
        coords
        | {
            "source": list(sources),
            "metric": list(METRICS),
            "sample_size": ("lead_time", scored.sum(axis=0), {"long_name": "init times in the sample", "units": "1"}),
        },
        {
            "area_weighting": "area of the cells" if Grid.of(forecast).is_geographic else "none, the grid is a plane",
            "init_time_start": show_time(inits[0]),
            "init_time_end": show_time(inits[-1]),
            "init_time_count": len(inits),
        },
    )
