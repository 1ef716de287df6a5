"""Scores of forecasts against the truth, on a sample that all sources share."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add, and_
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.baselines import Baseline, Climatology, blocks_of, fit_references, frames_at, needs_training
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import (
    Grid,
    axis_of,
    check_forecast,
    check_series,
    find_dims,
    forecast_variables,
    on_grid_of,
    times_of,
)
from stforecast.split import Split
from stforecast.time_axis import Times, show_step, show_time
from stforecast.verification.bootstrap import Bootstrap, Intervals, intervals, skill, usual_block_length
from stforecast.verification.groups import Groups, Mask, Region, region_masks
from stforecast.verification.metrics import (
    METRICS,
    Floats,
    Metric,
    Sample,
    SummedMAE,
    SummedMSE,
    metrics_of,
)

Reference = Baseline | xr.Dataset


def evaluate(
    forecast: xr.Dataset,
    truth: xr.Dataset,
    *,
    reference: Sequence[str] | Mapping[str, Reference] = (),
    training: xr.Dataset | None = None,
    metrics: Sequence[str | Metric] = METRICS,
    by: Sequence[str] = (),
    regions: Mapping[str, Region] | None = None,
    confidence: float | None = None,
    block_length: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    protocol: Literal["openstl"] | None = None,
) -> xr.Dataset:
    """Scores of each variable, (source, metric, lead_time[, level][, region][, season][, hour]).

    The mean goes over init times and cells, weighted by the cells' true area; the root of the mean square error is
    taken after it. A cell of an init and lead time counts only where the truth, the forecast and every reference have a
    value, so all sources are judged on the same sample: a frame that the truth lacks, or that a reference would have
    needed, drops out for all. Forecast and truth are read in blocks of init times, so they may be larger than memory.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        truth: (time, [level,] Y, X) with at least the forecast's variables and cells, in any order, in its units;
            references take their frames from it, so let it begin well before the first init time.
        reference: names for `fit_references`, or baselines and other forecasts by names of your own.
        training: the frames that references given by name, and the climatology of acc, are fitted on; by default the
            training period of the split that the truth carries, or the forecast.
        metrics: names or metrics of `stforecast.verification`: bias, mae, rmse; acc; mape or mape:10, of cells with a
            truth of 10 or more; psnr:60 and ssim:60 with the data range; fss:300:3 with threshold and window.
        by: "season" and "hour": of the valid time, on the clock of its axis, which is the city's where it has the
            attribute time_zone, else UTC.
        regions: as for `region_masks`: slices of latitude and longitude, or masks, by name.
        confidence: the share of the interval, as 0.95; nothing is resampled without it.
        block_length: of the resampled blocks, in init times; `usual_block_length` by default.
        resamples: how many there are.
        seed: what they follow from.
        protocol: "openstl" for the mse and mae that it publishes of TaxiBJ: sums over a frame's cells in place of
            means, unweighted, of frames without a missing cell. Published numbers are of flows scaled to [0, 1]; scale
            forecast and truth alike to compare.

    Returns:
        float64 in the variables' units, or those that `verification.units_of` tells. The first source is "forecast",
        then come the references. The coordinate sample_size (lead_time[, region][, season][, hour]) is how many init
        times have a part in the sample. Attributes state weighting, verified init times, training period and the
        metrics' numbers.

        With `confidence` each variable, here t2m, has as coordinates t2m_interval (bound, source, metric, …), t2m_skill
        (source, reference, metric, …), which is 1 - rmse / rmse of the reference and likewise for other metrics, and
        t2m_skill_interval (bound, source, reference, metric, …), by a paired moving-block bootstrap over init times.

        With the protocol the coordinate published (source, metric) is what OpenSTL prints: the sum over all variables
        and levels, averaged over lead times.

    Raises:
        StforecastError: what `check_forecast` and `check_series` raise; TIME_RANGE, naming both ranges, if no valid
            time is in the truth; EMPTY_SELECTION if there is no common sample or a region has no cell; INF for an
            infinite value; VAR_MISSING, UNITS, GRID_SHAPE or CHANNELS if truth or references do not match the forecast;
            DIMS for an ensemble; TIME_FREQ if a reference cannot step to a lead time; TIME_SHORT if init times are too
            few for an interval; ARGUMENT for an unknown reference, metric or group, or without a training part.

    Examples:
        A frame that is one kelvin warmer each day, forecast by the frame of the init time:

        >>> import pandas as pd
        >>> from stforecast.baselines import Persistence
        >>> frames = np.arange(8.0)[:, None, None] + np.full((2, 3), 280.0)
        >>> series = xr.Dataset(
        ...     {"t2m": (("time", "lat", "lon"), frames, {"units": "K"})},
        ...     coords={"time": pd.date_range("2020", periods=8), "lat": [50.0, 40.0], "lon": [0.0, 10.0, 20.0]},
        ... )
        >>> forecast = Persistence().predict(series, init_times=series["time"][:4], horizon=3)
        >>> scores = evaluate(forecast, series)
        >>> scores["t2m"].sel(source="forecast", metric=["bias", "rmse"]).values
        array([[-1., -2., -3.],
               [ 1.,  2.,  3.]])
    """
    for name, given, opener in (
        ("forecast", forecast, "open_forecast"),
        ("truth", truth, "open_store or open_dataset"),
    ):
        if not isinstance(given, xr.Dataset):
            raise TypeError(f"{name} must be an xarray.Dataset, not {type(given).__name__}; open a path by {opener}")
    check_forecast(forecast)
    check_verifiable_dims(forecast)
    forecast = forecast[forecast_variables(forecast)]
    step = check_series(truth, allow_gaps=True)
    chosen = _metrics(metrics, protocol)
    for metric in chosen:
        metric.check(Grid.of(forecast).shape)
    masks = None if regions is None else region_masks(forecast, regions)
    forecast = verifiable(forecast, truth)
    groups = Groups.of(valid_times(forecast), by)
    bootstrap = _bootstrap(forecast, confidence, block_length, resamples, seed)
    draws = bootstrap.draws(forecast.sizes["init_time"]) if bootstrap else None
    horizon = _horizon(forecast, step) if reference else 0
    references, attrs = _references(forecast, truth, reference, training, horizon)
    climatology = None
    if any(metric.wants_climatology for metric in chosen):
        climatology, learnt = _climatology(forecast, truth, training, references)
        attrs |= learnt
    truth = on_grid_of(truth, forecast, name="the truth")
    plan = _Plan(truth, references, horizon, chosen, masks, climatology, groups, keeps_frames=draws is not None)
    largest = max(forecast.data_vars.values(), key=lambda variable: variable.size)
    blocks = [plan.score(forecast, inits) for inits in blocks_of(largest, "init_time")]
    _check_sample(blocks)
    scores = _combine(blocks, forecast, plan)
    if protocol is not None:
        scores = _with_published(scores)
    if draws is not None and bootstrap is not None:
        scores = _with_intervals(scores, blocks, plan, draws, bootstrap)
    return scores.assign_attrs(attrs)


def _metrics(names: Sequence[str | Metric], protocol: str | None) -> list[Metric]:
    if protocol is None:
        return metrics_of(names)
    if protocol != "openstl":
        raise StforecastError(ErrorKind.ARGUMENT, f"unknown protocol {protocol!r}; there is 'openstl', or none")
    if tuple(names) != METRICS:
        raise StforecastError(ErrorKind.ARGUMENT, "the protocol names its metrics; leave metrics out")
    return [SummedMSE(), SummedMAE()]


def _bootstrap(
    forecast: xr.Dataset, confidence: float | None, block_length: int | None, resamples: int, seed: int
) -> Bootstrap | None:
    if confidence is None:
        return None
    if block_length is None:
        block_length = usual_block_length(forecast["init_time"].to_numpy(), forecast["lead_time"].to_numpy())
    return Bootstrap(confidence, block_length, resamples, seed)


def check_verifiable_dims(forecast: xr.Dataset) -> None:
    """Refuse an ensemble, and any other dimension besides those of a single forecast.

    Raises:
        StforecastError: DIMS, naming them.
    """
    roles = {dim: axis_of(forecast, dim) for variable in forecast.data_vars.values() for dim in variable.dims}
    extra = [str(dim) for dim, role in roles.items() if role not in ("init_time", "lead_time", "Z", "Y", "X")]
    if extra:
        raise StforecastError(
            ErrorKind.DIMS,
            f"the forecast has the dimension(s) {', '.join(extra)} besides (init_time, lead_time, [level,] Y, X); "
            f"select or average first, e.g. forecast.mean('{extra[0]}', keep_attrs=True)",
        )


def valid_times(forecast: xr.Dataset) -> Times:
    """The times that are forecast, (init_time, lead_time)."""
    inits, leads = (forecast[name].to_numpy() for name in ("init_time", "lead_time"))
    valid: Times = (inits[:, None] + leads).astype("datetime64[ns]")
    return valid


def verifiable(forecast: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """The init times of a forecast that have a valid time in the truth."""
    times, valid = times_of(truth), valid_times(forecast)
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
        learnt = on_grid_of(_training(truth, training, forecast), forecast, name="the training part")
        return dict(fit_references(reference, learnt, horizon=horizon)), _period(learnt)
    if "forecast" in reference:
        raise StforecastError(ErrorKind.ARGUMENT, "'forecast' is what is scored; give the reference another name")
    references: dict[str, Reference] = {}
    for name, source in reference.items():
        if isinstance(source, xr.Dataset):
            check_forecast(source)
            check_verifiable_dims(source)
            source = on_grid_of(source, forecast, name=f"the reference {name}")
        references[name] = source
    return references, {}


def _climatology(
    forecast: xr.Dataset, truth: xr.Dataset, training: xr.Dataset | None, references: Mapping[str, Reference]
) -> tuple[Climatology, dict[str, str]]:
    """What anomalies are taken from, on the forecast's grid, and the period that it was fitted on, where that is known.

    A climatology that is among the references serves for both.
    """
    fitted = next((source for source in references.values() if isinstance(source, Climatology)), None)
    if fitted is not None:
        return fitted.on(forecast), {}
    learnt = on_grid_of(_training(truth, training, forecast), forecast, name="the training part")
    return Climatology.fit(learnt), _period(learnt)


def _period(learnt: xr.Dataset) -> dict[str, str]:
    times = times_of(learnt)
    return {"training_start": show_time(times[0]), "training_end": show_time(times[-1])}


def _training(truth: xr.Dataset, training: xr.Dataset | None, forecast: xr.Dataset) -> xr.Dataset:
    """The training part that was given, else that of the truth's split, or of the forecast's model's."""
    if training is not None:
        check_series(training, allow_gaps=True)
        return training
    attrs = truth.attrs if "split" in truth.attrs else forecast.attrs
    if "split" not in attrs:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            "references are fitted on a training part but neither the truth nor the forecast carries a split; pass "
            "training=, the frames that the forecaster was trained on",
        )
    (time,) = find_dims(truth, "T")
    return truth.isel({time: Split.from_attrs(attrs).part_rows(times_of(truth), "train")})


@dataclass(frozen=True)
class _Block:
    """What one block of init times adds to the scores.

    Attributes:
        sums: of each variable, (metric, source, region, group, lead_time, [level]).
        weights: likewise, what the sums are divided by.
        frames: where they are kept, the sums and weights of each frame, (metric, source, init_time, region, lead_time,
            [level]).
        scored: which init and lead times have a part in the common sample, (region, init_time, lead_time).
        groups: the group of each, (init_time, lead_time).
        present: the sources that have any value.
    """

    sums: Mapping[str, Floats]
    weights: Mapping[str, Floats]
    frames: Mapping[str, tuple[Floats, Floats]]
    scored: Mask
    groups: npt.NDArray[np.intp]
    present: Mapping[str, bool]


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is scored, how, and against what."""

    truth: xr.Dataset
    references: Mapping[str, Reference]
    horizon: int
    metrics: Sequence[Metric]
    regions: Mapping[str, Mask] | None
    climatology: Climatology | None
    groups: Groups
    keeps_frames: bool

    @property
    def sources(self) -> list[str]:
        """What is scored, in order."""
        return ["forecast", *self.references]

    def labelled(
        self, values: npt.NDArray[Any], first: Sequence[str], level: Sequence[Hashable], attrs: Mapping[Any, Any]
    ) -> xr.Variable:
        """Values (…, region, group, lead_time, [level]) as (…, lead_time, [level], [region], [season], [hour]).

        Of the first dimensions source comes before metric, and bounds before both.
        """
        count, shape = len(first), self.groups.shape
        values = values.reshape(*values.shape[: count + 1], *shape, *values.shape[count + 2 :])
        found = xr.Variable([*first, "region", *self.groups.labels, "lead_time", *level], values, dict(attrs))
        if self.regions is None:
            found = found.isel(region=0)
        order = [dim for dim in ("bound", "source", "reference", "metric") if dim in first]
        return found.transpose(*order, "lead_time", *level, ..., *self.groups.labels)

    def score(self, forecast: xr.Dataset, inits: slice) -> _Block:
        """The sums of a block of init times of the forecast."""
        block = forecast.isel(init_time=inits)
        sources = {"forecast": block} | {
            name: _on_block(name, source, block, self.truth, self.horizon) for name, source in self.references.items()
        }
        init_times, leads = block["init_time"].to_numpy(), block["lead_time"].to_numpy()
        observed = frames_at(self.truth, valid_times(block), init_times, leads, source="truth")
        groups = self.groups.number[inits]
        sums, weights, frames = {}, {}, {}
        scored = np.zeros((1 if self.regions is None else len(self.regions), *groups.shape), bool)
        present = dict.fromkeys(("the truth", *sources), False)
        for name in map(str, block.data_vars):
            values = {source: _values(dataset[name], source) for source, dataset in sources.items()}
            actual = _values(observed[name], "the truth")
            # Labels that differ would drop cells from the arithmetic below without a word.
            xr.align(actual, *values.values(), join="exact", copy=False)
            has_value = {"the truth": actual.notnull()} | {source: one.notnull() for source, one in values.items()}
            sample = self._sample(block, name, actual, reduce(and_, has_value.values()))
            common = [value.where(sample.common) for value in values.values()]
            parts = [[metric.parts(value, sample) for value in common] for metric in self.metrics]
            # (metric, source, part, region, init_time, …) -> (part, metric, source, init_time, region, …)
            by_frame = np.moveaxis(np.asarray(parts, np.float64), (2, 4), (0, 3))
            sums[name], weights[name] = (_grouped(one, groups, self.groups.count) for one in by_frame)
            if self.keeps_frames:
                frames[name] = by_frame[0], by_frame[1]
            scored |= sample.area.reshape(*scored.shape, -1).any(axis=-1)
            present = {source: present[source] or bool(value.any()) for source, value in has_value.items()}
        return _Block(sums, weights, frames, scored, groups, present)

    def _sample(self, block: xr.Dataset, name: str, actual: xr.DataArray, common: xr.DataArray) -> Sample:
        """What is scored of one variable."""
        grid = Grid.of(block)
        regions = np.ones((1, *grid.shape), bool) if self.regions is None else np.stack(list(self.regions.values()))
        # Without labels: those of the data may be float32, and the order is the same.
        area = regions * grid.cell_area().to_numpy()[:, None]
        weights = xr.DataArray(area, dims=("region", grid.y_name, grid.x_name))
        return Sample(actual, common, weights, self._cycle(block, name, actual))

    def _cycle(self, block: xr.Dataset, name: str, actual: xr.DataArray) -> xr.DataArray | None:
        """The climatology at the valid times, in the order of the truth."""
        if self.climatology is None:
            return None
        valid = valid_times(block)
        values = self.climatology.at(name, valid.ravel())
        order = ("init_time", "lead_time", *self.climatology.coefficients[name].dims[1:])
        cycle = xr.DataArray(values.reshape(*valid.shape, *values.shape[1:]), dims=order)
        return cycle.transpose(*actual.dims).assign_coords(actual.coords)


def _grouped(frames: Floats, groups: npt.NDArray[np.intp], count: int) -> Floats:
    """Sums over the init times of each group, (metric, source, region, group, lead_time, [level])."""
    sums = []
    for number in range(count):
        # (init_time, 1, lead_time, [1])
        is_in = (groups == number)[:, None]
        is_in = is_in.reshape(*is_in.shape, *(1,) * (frames.ndim - 5))
        sums.append(np.where(is_in, frames, 0.0).sum(axis=2))
    return np.stack(sums, axis=3)


def _on_block(name: str, source: Reference, forecast: xr.Dataset, truth: xr.Dataset, horizon: int) -> xr.Dataset:
    """A reference at the init and lead times of a block, NaN where another forecast has none."""
    inits, leads = forecast["init_time"].to_numpy(), forecast["lead_time"].to_numpy()
    if isinstance(source, xr.Dataset):
        return source.reindex(init_time=inits, lead_time=leads)
    predicted = source.predict(truth, init_times=inits, horizon=horizon).sel(lead_time=leads)
    return on_grid_of(predicted, forecast, name=f"the reference {name}")


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


def _check_sample(blocks: Sequence[_Block]) -> None:
    if any(block.scored.any() for block in blocks):
        return
    absent = [source for source in blocks[0].present if not any(block.present[source] for block in blocks)]
    which = f"{' and '.join(absent)} alone had none" if absent else "each has some, but at different places"
    raise StforecastError(
        ErrorKind.EMPTY_SELECTION,
        f"wanted a sample on which {', '.join(blocks[0].present)} all have values, but {which}; begin the truth "
        "earlier, so that references have the frames they need, or leave one out",
    )


def _combine(blocks: Sequence[_Block], forecast: xr.Dataset, plan: _Plan) -> xr.Dataset:
    """The scores of all blocks together."""
    variables = {}
    for name, variable in forecast.data_vars.items():
        # The root comes last: the mean of the blocks' roots would be smaller.
        means = _divided(*(sum(some) for some in _sums_of(blocks, str(name))))
        scores = np.stack([metric.score(mean) for metric, mean in zip(plan.metrics, means, strict=True)])
        level = [dim for dim in variable.dims if axis_of(forecast, dim) == "Z"]
        attrs = {key: value for key, value in variable.attrs.items() if key in ("units", "long_name", "standard_name")}
        variables[name] = plan.labelled(scores, ("metric", "source"), level, attrs)
    scored = np.concatenate([block.scored for block in blocks], axis=1)
    sizes = np.stack(
        [(scored & (plan.groups.number == number)).sum(axis=1) for number in range(plan.groups.count)], axis=1
    )
    size_attrs = {"long_name": "init times in the sample", "units": "1"}
    coords = {name: coord for name, coord in forecast.coords.items() if coord.dims == (name,)}
    used = {dim for variable in variables.values() for dim in variable.dims}
    by_name = {} if plan.regions is None else {"region": list(plan.regions)}
    inits = forecast["init_time"].to_numpy()[scored.any(axis=(0, 2))]
    zone = forecast["init_time"].attrs.get("time_zone", "UTC")
    return xr.Dataset(
        variables,
        {name: coord for name, coord in coords.items() if name in used}
        | {
            "source": plan.sources,
            "metric": [metric.label for metric in plan.metrics],
            "sample_size": plan.labelled(sizes, (), [], size_attrs),
        }
        | by_name
        | plan.groups.labels,
        {
            "area_weighting": "area of the cells" if Grid.of(forecast).is_geographic else "none, the grid is a plane",
            "init_time_start": show_time(inits[0]),
            "init_time_end": show_time(inits[-1]),
            "init_time_count": len(inits),
        }
        | {metric.label: metric.note for metric in plan.metrics if metric.note}
        | ({"clock": f"season and hour of the valid time, {zone}"} if plan.groups.labels else {}),
    )


def _sums_of(blocks: Sequence[_Block], name: str) -> tuple[Iterator[Floats], Iterator[Floats]]:
    return (block.sums[name] for block in blocks), (block.weights[name] for block in blocks)


def _divided(sums: Any, weights: Any) -> Floats:
    """Quotients, NaN where the weight is 0."""
    means: Floats = np.divide(sums, weights, out=np.full(np.shape(sums), np.nan), where=weights > 0)
    return means


def _with_published(scores: xr.Dataset) -> xr.Dataset:
    """The scores with the one number of each source and metric that OpenSTL prints."""
    by_variable = [
        variable.sum([dim for dim in variable.dims if axis_of(scores, dim) == "Z"], skipna=False)
        for variable in scores.data_vars.values()
    ]
    total = reduce(add, by_variable).mean("lead_time", skipna=False).variable
    total.attrs = {"long_name": "sum over the variables, averaged over lead times, as OpenSTL prints it"}
    return scores.assign_coords(published=total).assign_attrs(protocol="openstl", area_weighting="none, as published")


def _with_intervals(
    scores: xr.Dataset, blocks: Sequence[_Block], plan: _Plan, draws: Floats, bootstrap: Bootstrap
) -> xr.Dataset:
    """The scores with skill and intervals as coordinates."""
    coords: dict[str, Any] = {"bound": ["lower", "upper"]}
    if plan.references:
        coords["reference"] = list(plan.references)
    skilled = ("metric", "source", "reference")
    for name in map(str, scores.data_vars):
        level = [dim for dim in scores[name].dims if axis_of(scores, dim) == "Z"]
        found = _intervals_of(name, blocks, plan, draws, bootstrap.confidence)
        coords[f"{name}_interval"] = plan.labelled(found.of_scores, ("bound", "metric", "source"), level, {})
        if plan.references:
            gained, attrs = _skill_of(name, blocks, plan), {"units": "1"}
            coords[f"{name}_skill"] = plan.labelled(gained, skilled, level, attrs)
            coords[f"{name}_skill_interval"] = plan.labelled(found.of_skill, ("bound", *skilled), level, attrs)
    return scores.assign_coords(coords).assign_attrs(
        confidence=bootstrap.confidence,
        bootstrap=f"paired moving blocks of {bootstrap.block_length} init times, {bootstrap.resamples} resamples, "
        f"seed {bootstrap.seed}",
    )


def _skill_of(name: str, blocks: Sequence[_Block], plan: _Plan) -> Floats:
    """Skill of all sources against each reference, (metric, source, reference, region, group, lead_time, [level])."""
    means = _divided(*(sum(some) for some in _sums_of(blocks, name)))
    gained = []
    for metric, mean in zip(plan.metrics, means, strict=True):
        score = metric.score(mean)
        gained.append(skill(score[:, None], score[None, 1:], metric))
    return np.stack(gained)


def _intervals_of(name: str, blocks: Sequence[_Block], plan: _Plan, draws: Floats, confidence: float) -> Intervals:
    """Intervals (bound, metric, source, [reference,] region, group, lead_time, [level])."""
    sums, weights = (np.concatenate([block.frames[name][part] for block in blocks], axis=2) for part in (0, 1))
    shape = plan.groups.count, sums.shape[4]
    found = []
    # One lead time of one group after the other, or all resamples of all of them would be held at once.
    for group, lead in np.ndindex(shape):
        is_in = (plan.groups.number[:, lead] == group).reshape(-1, *(1,) * (sums.ndim - 4))
        here, over = (np.where(is_in, one[:, :, :, :, lead], 0.0) for one in (sums, weights))
        found.append(intervals(here, over, draws, plan.metrics, len(plan.references), confidence))
    of_scores = np.stack([one.of_scores for one in found]).reshape(*shape, *found[0].of_scores.shape)
    of_skill = np.stack([one.of_skill for one in found]).reshape(*shape, *found[0].of_skill.shape)
    return Intervals(np.moveaxis(of_scores, (0, 1), (4, 5)), np.moveaxis(of_skill, (0, 1), (5, 6)))
