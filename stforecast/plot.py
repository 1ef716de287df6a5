"""Maps of forecasts beside the truth and curves of skill: figures drawn without pyplot and without a network."""

import errno
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import cartopy.crs as ccrs
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from cartopy.feature import ShapelyFeature
from cartopy.io.shapereader import BasicReader
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, MultipleLocator

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import replacing
from stforecast.grid import Grid, Positions, axis_of, cell_bounds, check_forecast, find_dims
from stforecast.time_axis import show_time
from stforecast.verification import units_of

Instant = str | datetime | np.datetime64
Duration = str | timedelta | np.timedelta64
Values = npt.NDArray[np.float64]


def comparison(
    forecast: xr.Dataset,
    truth: xr.Dataset,
    *,
    variable: str | None = None,
    init_time: Instant | None = None,
    lead_time: Duration | None = None,
    level: float | None = None,
) -> Figure:
    """Forecast, truth and error side by side, for one init and lead time.

    Forecast and truth share one colour scale; that of the error is symmetric about zero. Cells without a value are
    grey. The figure is known to nobody else: it is released with its last reference.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        truth: a series (time, [level,] Y, X) on the forecast's cells in any order.
        variable: the first by default.
        init_time: the last by default.
        lead_time: the last by default; text as in "24h".
        level: the first by default, where the variable has levels.

    Raises:
        StforecastError: what `check_forecast` refuses; VAR_MISSING, EMPTY_SELECTION or ARGUMENT for what the forecast
            does not hold; TIME_RANGE, naming both, if the truth lacks the valid time; GRID_SHAPE, UNITS or DIMS if the
            truth does not match; NAN if there is nothing to draw; INF; DIMS for an ensemble.
    """
    frame = _frame(_field(forecast, variable, level), init_time, lead_time)
    grid = Grid.of(forecast)
    predicted = _values(frame, f"the forecast {_when(frame)}")
    observed = _values(_truth_of(frame, truth, grid), f"the truth at {_show(frame['valid_time'])}")
    error = predicted - observed
    if np.isnan(error).all():
        raise StforecastError(
            ErrorKind.NAN, f"no cell of {frame.name} has a value both in the forecast {_when(frame)} and in the truth"
        )
    canvas = _canvas_of(forecast, grid)
    figure, panel = _new_panels(canvas, 3)
    shared = _Colours.of(frame, predicted, observed)
    first = _draw(panel[0], canvas, predicted, shared)
    _draw(panel[1], canvas, observed, shared)
    last = _draw(panel[2], canvas, error, _Colours.about_zero("RdBu_r", error))
    for axes, heading in zip(panel, ("Forecast", "Truth", "Error: forecast minus truth"), strict=True):
        axes.set_title(_title(heading, frame, grid), fontsize=9)
    _colour_bar(figure, first, panel[:2], _label(frame), share=2 / 3)
    _colour_bar(figure, last, panel[2:], f"error [{_units(frame)}]", share=1 / 3)
    figure.suptitle(_name(frame), fontsize=14)
    _explain_gaps(figure, error)
    return figure


def forecast_map(
    forecast: xr.Dataset,
    *,
    variable: str | None = None,
    init_time: Instant | None = None,
    lead_time: Duration | None = None,
    level: float | None = None,
) -> Figure:
    """A map of the forecast for one init and lead time.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        variable: the first by default.
        init_time: the last by default.
        lead_time: the last by default; text as in "24h".
        level: the first by default, where the variable has levels.

    Raises:
        StforecastError: what `check_forecast` refuses; VAR_MISSING, EMPTY_SELECTION or ARGUMENT for what the forecast
            does not hold; NAN if there is nothing to draw; INF; DIMS for an ensemble.
    """
    return _forecast_panels(forecast, [_frame(_field(forecast, variable, level), init_time, lead_time)])


def panels(
    forecast: xr.Dataset,
    *,
    variable: str | None = None,
    init_time: Instant | None = None,
    lead_times: Sequence[Duration] | None = None,
    level: float | None = None,
) -> Figure:
    """Maps of one forecast at several lead times, in reading order and on one colour scale.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        variable: the first by default.
        init_time: the last by default.
        lead_times: by default all, or six from the first to the last, evenly chosen.
        level: the first by default, where the variable has levels.

    Raises:
        StforecastError: as `forecast_map`; ARGUMENT for no lead time at all.
    """
    field = _field(forecast, variable, level)
    leads: Sequence[Duration] = _evenly(field["lead_time"].to_numpy(), 6) if lead_times is None else lead_times
    if len(leads) == 0:
        raise StforecastError(ErrorKind.ARGUMENT, "lead_times is empty; name at least one, e.g. ['24h']")
    return _forecast_panels(forecast, [_frame(field, init_time, lead) for lead in leads])


def skill_curve(
    scores: xr.Dataset,
    *,
    variable: str | None = None,
    metric: str = "rmse",
    level: float | None = None,
    reference: str | None = None,
) -> Figure:
    """A line of one metric over lead time for the forecast and each of its references, with a band of confidence.

    Bands are drawn where the scores have intervals.

    Args:
        scores: variables (source, metric, lead_time[, level]) with `units`, as `stforecast.evaluate` gives them; of
            scores by region, season or hour select one first.
        variable: the first by default.
        metric: one of the scores' metrics.
        level: the first by default, where the variable has levels.
        reference: draw the skill against this one in place of the metric itself; the scores then need intervals.

    Raises:
        StforecastError: VAR_MISSING, ARGUMENT or EMPTY_SELECTION for what the scores do not hold; DIMS for scores of
            several regions, seasons or hours; NAN if they hold no value of this metric.
    """
    if reference is not None:
        scores = _against(scores, reference)
    curve, band = _curve_of(scores, variable, metric, level)
    unit, length = _lead_unit(curve["lead_time"].to_numpy().max())
    lead_time = curve["lead_time"].to_numpy() / length
    figure = _new_figure((8.5, 4.5))
    axes = figure.subplots()
    for number, source in enumerate(curve["source"].to_numpy()):
        if curve.sel(source=source).isnull().all():
            continue  # the climatology has no anomaly correlation
        line = _LINES[number % len(_LINES)]
        if band is not None:
            lower, upper = band.sel(source=source).to_numpy()
            axes.fill_between(lead_time, lower, upper, color=line[0], alpha=0.18, linewidth=0, zorder=2)
        _draw_line(axes, lead_time, curve.sel(source=source).to_numpy(), str(source), line)
    word = _metric_word(metric)
    told = f": {word}" if reference is None else f"\nskill in {word} against {_plain(reference)}"
    axes.set_title(f"{_name(curve)}{told} by lead time", fontsize=12)
    axes.set_xlabel(f"lead time [{unit}]")
    axes.set_ylabel(f"{word} [{_raised(units_of(metric, _given_units(curve)))}]" if reference is None else "skill")
    axes.set_xlim(0, lead_time.max() * 1.03)
    axes.xaxis.set_major_locator(MultipleLocator(_tick_spacing(unit, lead_time)))
    if metric == "bias" or reference is not None:
        axes.axhline(0, color="0.3", linewidth=0.9, zorder=1)
    elif metric.split(":")[0] in _FROM_ZERO:
        axes.set_ylim(bottom=0)
    _lighten(axes)
    figure.legend(loc="outside right upper", frameon=False)
    if band is not None:
        figure.supxlabel(
            f"bands: {scores.attrs['confidence']:.0%} confidence, {scores.attrs['bootstrap']}", fontsize=8, color="0.3"
        )
    return figure


def score_card(card: xr.Dataset) -> Figure:
    """How much better or worse than a reference the forecast is: a coloured cell for each row and lead time.

    Blue is better, red is worse, with white at no difference and the same depth on both sides; a dot marks what the
    interval tells apart from chance. Each cell tells its relative difference in %.

    Args:
        card: from `stforecast.verification.score_card`.

    Raises:
        StforecastError: NAN if the card has no value.
    """
    values = card["relative_difference"].to_numpy()
    if not np.isfinite(values).any():
        raise StforecastError(ErrorKind.NAN, "every relative difference of the card is NaN; there is nothing to draw")
    rows, columns = values.shape
    most = max(float(np.nanmax(np.abs(values))), 1.0)
    figure = _new_figure((2.6 + 0.62 * max(columns, 6), 1.9 + 0.34 * max(rows, 2)))
    axes = figure.subplots()
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values),
        cmap=colormaps["RdBu_r"].with_extremes(bad=_NO_VALUE),
        vmin=-most,
        vmax=most,
        edgecolors="white",
        linewidth=1.2,
    )
    decimals = 1 if most < 20 else 0
    for row, column in np.ndindex(rows, columns):
        value = round(float(values[row, column]), decimals)
        if np.isfinite(value):
            ink = "white" if abs(value) > 0.6 * most else "0.15"  # dark cells have white letters
            words = f"{value:+.{decimals}f}" if value else "0"
            axes.text(column + 0.5, row + 0.5, words, ha="center", va="center", fontsize=8, color=ink)
            if card["significance"].to_numpy()[row, column]:
                axes.plot(column + 0.88, row + 0.22, ".", color=ink, markersize=4)
    unit, length = _lead_unit(card["lead_time"].to_numpy().max())
    axes.set_xticks(np.arange(columns) + 0.5, [f"{lead:g}" for lead in card["lead_time"].to_numpy() / length])
    axes.set_yticks(np.arange(rows) + 0.5, [_plain(str(label)) for label in card["row"].to_numpy()])
    axes.invert_yaxis()
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"lead time [{unit}]")
    axes.set_title(
        f"{_metric_word(card.attrs['metric'])} of the forecast relative to {_plain(card.attrs['reference'])}"
    )
    _colour_bar(figure, mesh, [axes], "relative difference [%]: below 0 is better", share=1)
    figure.supxlabel(
        f"dots: the {card.attrs['confidence']:.0%} interval leaves out 0 ({card.attrs['bootstrap']})",
        fontsize=8,
        color="0.3",
    )
    return figure


def training_curve(record: Mapping[str, Any]) -> Figure:
    """The training and the validation loss by epoch, on a logarithmic axis, with the epoch whose weights were kept.

    Args:
        record: what `Forecaster.training` holds: training_loss, validation_loss and best_epoch.
    """
    figure = _new_figure((8.5, 4.5))
    axes = figure.subplots()
    epochs = np.arange(1, len(record["training_loss"]) + 1)
    for name, line in zip(("training_loss", "validation_loss"), _LINES, strict=False):
        _draw_line(axes, epochs.astype(np.float64), np.asarray(record[name]), name.replace("_", " "), line)
    best = record["best_epoch"]
    axes.plot(best + 1, record["validation_loss"][best], "o", color="0.2", markersize=9, fillstyle="none", label="kept")
    axes.set_yscale("log")
    axes.set_title("Loss by epoch", fontsize=12)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss [normalized units]")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _lighten(axes)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """The path of the picture, which is written whole or not at all; the parent folder is made.

    Args:
        figure: any figure of this module.
        path: ends in .png, .pdf or .svg, which chooses the format.

    Raises:
        StforecastError: ARGUMENT for another ending; DISK_FULL, and what was at `path` before stays.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"pictures are written as {', '.join(_SUFFIXES)}: {path} should end in one of these"
        )
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, bbox_inches="tight", pad_inches=0.15)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StforecastError(
            ErrorKind.DISK_FULL, f"there is no room for {path} ({error.strerror}); free some or choose another place"
        ) from error
    return path


_SUFFIXES = (".pdf", ".png", ".svg")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


# Choosing what is drawn.


def _field(forecast: xr.Dataset, variable: str | None, level: float | None) -> xr.DataArray:
    """One variable (init_time, lead_time, Y, X) of a forecast."""
    check_forecast(forecast)
    field = _at_level(forecast, _variable_of(forecast, variable, "forecast"), level)
    dims = ("init_time", "lead_time", *find_dims(forecast, "Y", "X"))
    extra = [str(dim) for dim in field.dims if dim not in dims]
    if extra:
        raise StforecastError(
            ErrorKind.DIMS,
            f"variable {field.name} has the dimension {extra[0]} beside {dims}; a map shows one field: select from it "
            f"or take its mean, e.g. forecast.mean('{extra[0]}', keep_attrs=True)",
        )
    return field.transpose(*dims)


def _variable_of(dataset: xr.Dataset, variable: str | None, what: str) -> str:
    names = [str(name) for name in dataset.data_vars]
    if variable is None and names:
        return names[0]
    if variable is None or variable not in names:
        raise StforecastError(ErrorKind.VAR_MISSING, f"the {what} has no variable {variable or ''}, it has {names}")
    return variable


def _at_level(dataset: xr.Dataset, variable: str, level: float | None) -> xr.DataArray:
    """The variable without its level dimension, if it has one; the level stays as the scalar coordinate `level`."""
    field = dataset[variable]
    dims = [dim for dim in field.dims if axis_of(dataset, dim) == "Z"]
    if not dims:
        if level is not None:
            raise StforecastError(ErrorKind.ARGUMENT, f"variable {variable} has no levels; leave level={level:g} out")
        return field
    levels = dataset[dims[0]].to_numpy()
    found = np.flatnonzero(np.isclose(levels, levels[0] if level is None else level))
    if not len(found):
        raise StforecastError(
            ErrorKind.EMPTY_SELECTION, f"variable {variable} has no level {level:g}, it has {levels.tolist()}"
        )
    field = field.isel({dims[0]: int(found[0])})
    return field.rename({dims[0]: "level"}) if dims[0] in field.coords else field


def _frame(field: xr.DataArray, init_time: Instant | None, lead_time: Duration | None) -> xr.DataArray:
    """The field (Y, X) of one init and lead time, with both and the valid time as scalar coordinates."""
    zone = str(field["init_time"].attrs.get("time_zone", "UTC"))
    row = _position(field["init_time"], init_time, lambda text: _instant(text, zone), "'2016-01-31T18:00'")
    column = _position(field["lead_time"], lead_time, _duration, "'24h'")
    return field.isel(init_time=row, lead_time=column)


def _instant(text: Instant, zone: str) -> np.datetime64:
    """The instant on the axis's clock; text without an offset is on that clock already."""
    instant = pd.Timestamp(text)
    return (instant if instant.tz is None else instant.tz_convert(zone).tz_localize(None)).to_numpy()


def _duration(text: Duration) -> np.timedelta64:
    return pd.Timedelta(text).to_numpy()


def _position(axis: xr.DataArray, wanted: Any, parse: Callable[[Any], Any], example: str) -> int:
    """Where a time stands on an axis, the last place for None."""
    if wanted is None:
        return axis.size - 1
    try:
        value = parse(wanted)
    except (ValueError, TypeError) as error:
        raise StforecastError(ErrorKind.ARGUMENT, f"{axis.name} {wanted!r} is not one; write e.g. {example}") from error
    found = np.flatnonzero(axis.to_numpy() == value)
    if not len(found):
        raise StforecastError(
            ErrorKind.EMPTY_SELECTION,
            f"the forecast has no {axis.name} {wanted}, it has {axis.size} from {_show(axis[0])} to {_show(axis[-1])}",
        )
    return int(found[0])


def _evenly(values: npt.NDArray[Any], count: int) -> list[Any]:
    """At most so many of the values, from the first to the last."""
    return list(values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)])


def _truth_of(frame: xr.DataArray, truth: xr.Dataset, grid: Grid) -> xr.DataArray:
    """What the series holds at the frame's valid time and level, (Y, X) in the order of the forecast's grid."""
    variable = _variable_of(truth, str(frame.name), "truth")
    units = truth[variable].attrs.get("units")
    if units != frame.attrs["units"]:
        raise StforecastError(
            ErrorKind.UNITS,
            f"variable {variable} is in {frame.attrs['units']} in the forecast but {units} in the truth; convert one",
        )
    snapshot = _snapshot(truth, frame)
    level = float(frame["level"]) if "level" in frame.coords else None
    if level is None and any(axis_of(truth, dim) == "Z" for dim in snapshot[variable].dims):
        raise StforecastError(
            ErrorKind.DIMS, f"variable {variable} has levels in the truth but not in the forecast; select one of them"
        )
    found = Grid.of(truth)
    rows, columns = grid.positions_in(found)
    observed = _at_level(snapshot, variable, level).transpose(found.y_name, found.x_name)
    return observed[rows][:, columns]


def _snapshot(truth: xr.Dataset, frame: xr.DataArray) -> xr.Dataset:
    """The series at the frame's valid time."""
    (time,) = find_dims(truth, "T")
    times = truth[time].to_numpy()
    found = np.flatnonzero(times == frame["valid_time"].to_numpy())
    if not len(found):
        held = f"has {_show(truth[time][0])} to {_show(truth[time][-1])}" if len(times) else "is empty"
        raise StforecastError(
            ErrorKind.TIME_RANGE,
            f"the forecast is valid at {_show(frame['valid_time'])}, which the truth lacks: it {held}; choose another "
            "init_time or lead_time, or give the truth of that time",
        )
    return truth.isel({time: int(found[0])})


def _values(frame: xr.DataArray, what: str) -> Values:
    values = frame.to_numpy().astype(np.float64)
    if np.isnan(values).all():
        raise StforecastError(
            ErrorKind.NAN, f"variable {frame.name} of {what} is NaN everywhere; there is nothing to draw"
        )
    if np.isinf(values).any():
        raise StforecastError(ErrorKind.INF, f"variable {frame.name} of {what} has infinite values; mask or mend them")
    return values


def _curve_of(
    scores: xr.Dataset, variable: str | None, metric: str, level: float | None
) -> tuple[xr.DataArray, xr.DataArray | None]:
    """One metric (source, lead_time) of one variable, and its interval (source, bound, lead_time) if it has one."""
    name = _variable_of(scores, variable, "Dataset of scores")
    curve = _at_level(scores, name, level)
    if set(curve.dims) != {"source", "metric", "lead_time"}:
        groups = [str(dim) for dim in curve.dims if dim in ("region", "season", "hour")]
        mend = f": select one {groups[0]}, e.g. scores.isel({groups[0]}=0)" if groups else ""
        raise StforecastError(
            ErrorKind.DIMS,
            f"variable {curve.name} has dimensions {tuple(map(str, curve.dims))}; scores have (source, metric, "
            f"lead_time[, level]), as stforecast.evaluate gives them{mend}",
        )
    metrics = [str(name) for name in scores["metric"].to_numpy()]
    if metric not in metrics:
        raise StforecastError(ErrorKind.ARGUMENT, f"the scores have no metric {metric}, they have {metrics}")
    curve = curve.sel(metric=metric).transpose("source", "lead_time")
    if curve.isnull().all():
        raise StforecastError(ErrorKind.NAN, f"every {metric} of {curve.name} is NaN; there is no curve to draw")
    if f"{name}_interval" not in scores.coords:
        return curve, None
    band = _at_level(scores.reset_coords(f"{name}_interval"), f"{name}_interval", level).sel(metric=metric)
    return curve, band.transpose("source", "bound", "lead_time")


def _against(scores: xr.Dataset, reference: str) -> xr.Dataset:
    """The skill against a reference in the place of the scores, of the sources that are not it."""
    names = [str(name) for name in scores.data_vars]
    known = [] if f"{names[0]}_skill" not in scores.coords else scores["reference"].to_numpy().tolist()
    if reference not in known:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"the scores have no skill against {reference}, they have {known}; evaluate with reference= and "
            "confidence=0.95",
        )
    others = [source for source in scores["source"].to_numpy() if source != reference]
    chosen = scores.sel(reference=reference, source=others)
    gained = {name: chosen[f"{name}_skill"].variable.copy() for name in names}
    for name, variable in gained.items():
        variable.attrs = {**scores[name].attrs, "units": "1"}
    bands = {f"{name}_interval": chosen[f"{name}_skill_interval"].variable for name in names}
    axes = {dim: chosen[dim] for dim in chosen.dims if dim in chosen.coords}
    return xr.Dataset(gained, axes | bands, scores.attrs)


# Words.


def _name(field: xr.DataArray) -> str:
    """What a field is, in words: its long name, else its CF name, else its own, with its level."""
    name = str(field.attrs.get("long_name") or field.attrs.get("standard_name", field.name)).replace("_", " ")
    if "level" not in field.coords:
        return name
    level = field["level"]
    units = level.attrs.get("units")
    return f"{name} at {float(level):g} {units}" if units else f"{name} at level {float(level):g}"


def _units(field: xr.DataArray) -> str:
    return _raised(_given_units(field))


def _given_units(field: xr.DataArray) -> str:
    return str(field.attrs.get("units", "1"))


def _raised(units: str) -> str:
    """Units with their powers above the line."""
    return re.sub(r"(?<=[A-Za-z])(?:\*\*|\^)?(-?\d+)", lambda power: power[1].translate(_SUPERSCRIPT), units)


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _metric_word(metric: str) -> str:
    """What a metric is called in a title: RMSE, MAPE of 10 or more."""
    name, *numbers = metric.split(":")
    word = name if name == "bias" else name.upper()
    return f"{word} {_SAID_OF_METRIC[name].format(*numbers)}" if numbers and name in _SAID_OF_METRIC else word


_SAID_OF_METRIC = {
    "mape": "of {} or more",
    "psnr": "with a range of {}",
    "ssim": "with a range of {}",
    "fss": "above {0} in {1}x{1} cells",
}


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _label(field: xr.DataArray) -> str:
    return f"{_name(field)} [{_units(field)}]"


def _title(heading: str, frame: xr.DataArray, grid: Grid, longest: np.timedelta64 | None = None) -> str:
    """What stands above a panel: heading and units, the valid time with its zone, the init and lead time.

    Lead times are told in the unit that suits the longest beside it.
    """
    zone = frame["valid_time"].attrs.get("time_zone", "UTC" if grid.is_geographic else "")
    valid = f"valid {_show(frame['valid_time'])} {zone}".rstrip()
    lead = _show(frame["lead_time"], longest)
    return f"{heading} [{_units(frame)}]\n{valid}\ninit {_show(frame['init_time'])}, lead {lead}"


def _when(frame: xr.DataArray) -> str:
    return f"from {_show(frame['init_time'])} at lead {_show(frame['lead_time'])}"


def _show(time: xr.DataArray, longest: np.timedelta64 | None = None) -> str:
    """An instant or a duration as one reads it."""
    value: Any = time.to_numpy()[()]
    if isinstance(value, np.timedelta64):
        unit, length = _lead_unit(value if longest is None else longest)
        return f"{value / length:g} {unit}"
    return show_time(value).replace("T", " ") if isinstance(value, np.datetime64) else str(value)


def _lead_unit(longest: np.timedelta64) -> tuple[str, np.timedelta64]:
    """The unit that lead times up to the longest are told in, and its length."""
    if longest <= np.timedelta64(2, "h"):
        return "min", np.timedelta64(1, "m")
    if longest <= np.timedelta64(10, "D"):
        return "h", np.timedelta64(1, "h")
    return "d", np.timedelta64(1, "D")


# Colours.


@dataclass(frozen=True)
class _Colours:
    """A colour map and the values at its two ends."""

    name: str
    low: float
    high: float

    @classmethod
    def of(cls, frame: xr.DataArray, *values: Values) -> "_Colours":
        """The colours that suit a variable, over the range of all the values."""
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        palette = _palette_of(frame)
        if palette.anchor == "about zero":
            return cls.about_zero(palette.name, *values)
        if palette.anchor == "from zero" and low >= 0:
            return cls(palette.name, 0.0, high or 1.0)
        return cls(palette.name, low, high) if low < high else cls(palette.name, low - 0.5, high + 0.5)

    @classmethod
    def about_zero(cls, name: str, *values: Values) -> "_Colours":
        """A diverging colour map with zero in its middle."""
        most = float(np.nanmax(np.abs(values))) or 1.0
        return cls(name, -most, most)


@dataclass(frozen=True)
class _Palette:
    """The colour map of a kind of variable, told by CF standard name, by name or by units."""

    name: str
    anchor: Literal["data", "from zero", "about zero"]
    standard_names: str
    names: frozenset[str]
    units: frozenset[str] = frozenset()


_PALETTES = (
    _Palette(
        "PuOr_r",
        "about zero",
        r"(eastward|northward|upward|x|y)_wind|vorticity|divergence|tendency|anomaly",
        frozenset(
            {"u", "v", "w", "u10", "v10", "vo", "uwnd", "vwnd", "10m_u_component_of_wind", "10m_v_component_of_wind"}
        ),
    ),
    _Palette(
        "YlGnBu",
        "from zero",
        r"precipitation|rainfall|snowfall|humidity|cloud",
        frozenset({"tp", "pr", "precip", "total_precipitation", "tcc", "q", "r", "rh"}),
        frozenset({"kg m-2 s-1", "mm/day", "mm d-1", "mm h-1", "mm"}),
    ),
    _Palette(
        "magma_r",
        "from zero",
        r"number_of|count",
        frozenset({"inflow", "outflow", "flow", "count", "counts", "demand"}),
        frozenset({"vehicles", "trips", "count", "counts"}),
    ),
    _Palette(
        "plasma",
        "data",
        r"temperature",
        frozenset({"t", "t2m", "air", "sst", "skt"}),
        frozenset({"K", "degK", "kelvin", "degC", "degree_Celsius", "celsius", "°C"}),
    ),
)
_OTHER = _Palette("viridis", "data", "", frozenset())


def _palette_of(frame: xr.DataArray) -> _Palette:
    standard_name, units = str(frame.attrs.get("standard_name", "")), str(frame.attrs.get("units", ""))
    for palette in _PALETTES:
        if re.search(palette.standard_names, standard_name) or frame.name in palette.names or units in palette.units:
            return palette
    return _OTHER


# Where a grid's cells lie on paper.


@dataclass(frozen=True)
class _Canvas:
    """A panel's plane and the cells on it, from west to east and in increasing y.

    Attributes:
        kind: a map with coastlines; a city in degrees; a city in rows from the north; any other plane.
        x_bounds: of the cells, (x + 1,); on a map in degrees east of its central longitude.
        y_bounds: of the cells, (y + 1,).
        rows: where the cells' rows stand in the data.
        columns: where their columns do; on the globe one may be there twice, at both edges.
        x_label: what stands below the axis of a plane.
        y_label: what stands beside it.
        stretch: length on paper of a unit of y, in units of x.
        centre: the central longitude of a map.
    """

    kind: Literal["globe", "region", "city", "rows", "plane"]
    x_bounds: Values
    y_bounds: Values
    rows: Positions
    columns: Positions
    x_label: str = ""
    y_label: str = ""
    stretch: float = 1.0
    centre: float = 0.0

    @property
    def is_map(self) -> bool:
        """Whether coastlines belong on it."""
        return self.kind in ("globe", "region")

    @property
    def projection(self) -> Any:
        """The map's projection, None for a plane."""
        if self.kind == "globe":
            # Areas on paper are as those on Earth, as in the scores.
            return ccrs.EqualEarth(central_longitude=self.centre)
        return ccrs.PlateCarree(central_longitude=self.centre) if self.kind == "region" else None

    @property
    def shape(self) -> float:
        """Height of the domain on paper over its width."""
        if self.kind == "globe":
            return 0.49
        return float(np.ptp(self.y_bounds) / np.ptp(self.x_bounds) * self.stretch)

    @property
    def is_narrow(self) -> bool:
        """Whether a panel as wide as its title is wider than the domain."""
        return self.shape > _TALLEST

    def panel_size(self, count: int) -> tuple[float, float]:
        """Width and height in inches of one of so many panels, with its title and labels."""
        width = float(np.clip(4.4 / self.shape, 3.3, 4.6)) * (1.7 if count == 1 else 1.0)
        return width, width * float(np.clip(self.shape, 0.2, _TALLEST)) + 0.95


_TALLEST = 2.5


def _canvas_of(dataset: xr.Dataset, grid: Grid) -> _Canvas:
    if grid.is_geographic:
        return _map_canvas(grid)
    latitude, longitude = _degrees(dataset, grid.y_name, "latitude"), _degrees(dataset, grid.x_name, "longitude")
    if latitude is not None and longitude is not None:
        x, y = _Axis.of(longitude.to_numpy()), _Axis.of(latitude.to_numpy())
        stretch = 1 / np.cos(np.deg2rad(latitude.mean().item()))
        x_label, y_label = f"longitude{_caveat(longitude)}", f"latitude{_caveat(latitude)}"
        return _Canvas("city", x.bounds, y.bounds, y.positions, x.positions, x_label, y_label, float(stretch))
    x, y = _Axis.of(grid.x), _Axis.of(grid.y)
    if _has_values(dataset, grid):
        x_label, y_label = (_label(dataset[name]) for name in (grid.x_name, grid.y_name))
        return _Canvas("plane", x.bounds, y.bounds, y.positions, x.positions, x_label, y_label)
    return _Canvas(
        "rows", x.bounds, y.bounds, y.positions, x.positions, "column (west to east)", "row (north to south)"
    )


@dataclass(frozen=True)
class _Axis:
    """Increasing bounds of cells, (n + 1,), and where the cells stand in the data, (n,)."""

    bounds: Values
    positions: Positions

    @classmethod
    def of(cls, centres: Values) -> "_Axis":
        positions = np.argsort(centres)
        return cls(cell_bounds(centres[positions]), positions)

    @classmethod
    def around_globe(cls, longitude: Values) -> "_Axis":
        """From 180 degrees west to 180 degrees east: the column that lies across that seam is there on both sides."""
        east = (longitude + 180) % 360 - 180
        positions = np.argsort(east)
        middle = (east[positions][1:] + east[positions][:-1]) / 2
        seam = (east[positions][0] + east[positions][-1]) / 2  # the bound between last and first, modulo 180
        bounds = np.concatenate([[-180.0], middle, [180.0]])
        if np.isclose(seam, 0, atol=1e-4):
            return cls(bounds, positions)
        if seam < 0:
            return cls(np.insert(bounds, -1, 180.0 + seam), np.append(positions, positions[0]))
        return cls(np.insert(bounds, 1, -180.0 + seam), np.insert(positions, 0, positions[-1]))


def _map_canvas(grid: Grid) -> _Canvas:
    y = _Axis.of(grid.y)
    latitudes = y.bounds.clip(-90, 90)
    # Stretched so that the map is true to scale at its middle latitude, unlike a plain latitude-longitude plot.
    stretch = float(1 / np.cos(np.deg2rad((latitudes[0] + latitudes[-1]) / 2)))
    if grid.spans_globe:
        x = _Axis.around_globe(grid.x)
        kind: Literal["globe", "region"] = "globe" if np.ptp(latitudes) > 150 else "region"
        return _Canvas(kind, x.bounds, latitudes, y.positions, x.positions, stretch=stretch)
    x = _Axis.of(grid.x)
    centre = float(x.bounds[0] + x.bounds[-1]) / 2
    return _Canvas("region", x.bounds - centre, latitudes, y.positions, x.positions, stretch=stretch, centre=centre)


def _degrees(dataset: xr.Dataset, dim: str, standard_name: str) -> xr.DataArray | None:
    """The latitudes of rows or the longitudes of columns, where a coordinate beside the dimension has them."""
    for name, coordinate in dataset.coords.items():
        if coordinate.dims == (dim,) and standard_name in (name, coordinate.attrs.get("standard_name")):
            degrees: xr.DataArray = coordinate.astype(np.float64).compute()
            return degrees
    return None


def _caveat(coordinate: xr.DataArray) -> str:
    """What to say of coordinates that their source calls approximate."""
    return " (approximate)" if str(coordinate.attrs.get("comment", "")).startswith("approximate") else ""


def _has_values(dataset: xr.Dataset, grid: Grid) -> bool:
    """Whether the axes of a plane are measured (kilometres, say) and not counted."""
    return all(name in dataset.coords and "units" in dataset[name].attrs for name in (grid.y_name, grid.x_name))


# Drawing.


def _forecast_panels(forecast: xr.Dataset, frames: Sequence[xr.DataArray]) -> Figure:
    grid = Grid.of(forecast)
    fields = [_values(frame, f"the forecast {_when(frame)}") for frame in frames]
    colours = _Colours.of(frames[0], *fields)
    canvas = _canvas_of(forecast, grid)
    figure, panel = _new_panels(canvas, len(frames))
    longest: np.timedelta64 = np.max([frame["lead_time"].to_numpy() for frame in frames])
    is_alone = len(frames) == 1
    heading = f"Forecast: {_name(frames[0])}" if is_alone else "Forecast"
    for axes, frame, values in zip(panel, frames, fields, strict=True):
        mesh = _draw(axes, canvas, values, colours)
        axes.set_title(_title(heading, frame, grid, longest), fontsize=11 if is_alone else 9)
    _colour_bar(figure, mesh, panel, _label(frames[0]), share=1)
    if not is_alone:
        figure.suptitle(_name(frames[0]), fontsize=14)
    _explain_gaps(figure, *fields)
    return figure


_Layout = Literal["compressed", "constrained"]


def _new_figure(size: tuple[float, float], layout: _Layout = "constrained") -> Figure:
    # Not pyplot's: it would keep every figure until it is closed, and choose a backend.
    figure = Figure(figsize=size, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _new_panels(canvas: _Canvas, count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, in as many rows as bring it closest to the shape of a slide."""
    width, height = canvas.panel_size(count)
    columns = _columns(count, width, height)
    rows = -(-count // columns)
    # Compressed, narrow domains would move together until their titles overlap.
    layout: _Layout = "constrained" if canvas.is_narrow else "compressed"
    figure = _new_figure((columns * width, rows * height + 1.0), layout)
    grid = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": canvas.projection})
    panel = list(grid.flat)
    for axes in panel[count:]:
        axes.remove()
    for number, axes in enumerate(panel[:count]):
        is_left, is_bottom = number % columns == 0, number + columns >= count
        if canvas.is_map:
            _lay_out_map(axes, canvas, is_left=is_left, is_bottom=is_bottom)
        else:
            _lay_out_plane(axes, canvas, is_left=is_left, is_bottom=is_bottom)
    return figure, panel[:count]


def _columns(count: int, width: float, height: float) -> int:
    """How many panels stand in a row so that the sheet is like a slide and has few empty places."""

    def cost(columns: int) -> float:
        rows = -(-count // columns)
        return abs(float(np.log(columns * width / (rows * height) * 9 / 16))) + (rows * columns - count) / count

    return count if count <= 3 else min(range(2, count + 1), key=cost)


def _lay_out_map(axes: Any, canvas: _Canvas, *, is_left: bool, is_bottom: bool) -> None:
    if canvas.kind == "globe":
        axes.set_global()
    else:
        box = [canvas.x_bounds[0], canvas.x_bounds[-1], canvas.y_bounds[0], canvas.y_bounds[-1]]
        axes.set_extent(box, crs=canvas.projection)
        axes.set_aspect(canvas.stretch)
    lines, dotted = _borders()
    axes.add_feature(_outlines(), edgecolor="black", linewidth=0.8, path_effects=[_HALO])
    axes.add_feature(lines, edgecolor="0.15", linewidth=0.5, path_effects=[_HALO])
    axes.add_feature(dotted, edgecolor="0.15", linewidth=0.5, linestyle=":")
    sides = {"left": "y"} if is_left else {}
    grid_lines = axes.gridlines(
        draw_labels=sides | ({"bottom": "x"} if is_bottom else {}),
        xlocs=_meridians(canvas) if canvas.kind == "region" else None,
        x_inline=False,
        y_inline=False,
        color="0.35",
        linewidth=0.4,
        linestyle=":",
        alpha=0.7,
    )
    grid_lines.xlabel_style = grid_lines.ylabel_style = {"size": 8}


def _meridians(canvas: _Canvas) -> Values:
    """Longitudes to label, -180..180; cartopy's own choice leaves out those beyond the dateline."""
    west, east = canvas.x_bounds[[0, -1]] + canvas.centre
    longitude = np.asarray(MaxNLocator(6, steps=[1, 2, 3, 6, 10]).tick_values(west, east))
    return (longitude + 180) % 360 - 180


_HALO = withStroke(linewidth=1.8, foreground="white", alpha=0.5)


def _lay_out_plane(axes: Axes, canvas: _Canvas, *, is_left: bool, is_bottom: bool) -> None:
    axes.set_aspect(canvas.stretch)
    axes.set_xlim(canvas.x_bounds[0], canvas.x_bounds[-1])
    axes.set_ylim(canvas.y_bounds[0], canvas.y_bounds[-1])
    axes.tick_params(labelsize=8, labelleft=is_left, labelbottom=is_bottom)
    axes.set_xlabel(canvas.x_label if is_bottom else "", fontsize=9)
    axes.set_ylabel(canvas.y_label if is_left else "", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=canvas.kind == "rows", min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=canvas.kind == "rows", min_n_ticks=1))
    if canvas.kind == "rows":
        axes.invert_yaxis()
    if canvas.kind == "city":
        axes.xaxis.set_major_formatter(lambda degrees, _: _show_degrees(degrees, "EW"))
        axes.yaxis.set_major_formatter(lambda degrees, _: _show_degrees(degrees, "NS"))
        _draw_scale_bar(axes, canvas)


def _show_degrees(degrees: float, letters: str) -> str:
    return f"{abs(degrees):g}°{letters[0] if degrees >= 0 else letters[1]}"


def _draw_scale_bar(axes: Axes, canvas: _Canvas) -> None:
    """A bar of a round number of kilometres, at most a third of the panel."""
    km_per_degree = _KM_PER_DEGREE / canvas.stretch
    width = float(np.ptp(canvas.x_bounds))
    most = width * km_per_degree / 3
    decade = 10.0 ** np.floor(np.log10(most))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= most)
    left, bottom = canvas.x_bounds[0] + 0.06 * width, canvas.y_bounds[0] + 0.06 * np.ptp(canvas.y_bounds)
    right = left + length / km_per_degree
    effects = [withStroke(linewidth=5, foreground="white")]
    axes.plot([left, right], [bottom, bottom], color="black", linewidth=2.5, path_effects=effects, label="scale bar")
    axes.annotate(
        f"{length:g} km",
        ((left + right) / 2, bottom),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )


_KM_PER_DEGREE = 111.195  # of a great circle on a sphere of radius 6371 km


def _draw(axes: Axes, canvas: _Canvas, values: Values, colours: _Colours) -> QuadMesh:
    # The cells are in degrees east of the map's centre, so that none is cut where longitudes wrap.
    transform = {"transform": ccrs.PlateCarree(central_longitude=canvas.centre)} if canvas.is_map else {}
    return axes.pcolormesh(
        canvas.x_bounds,
        canvas.y_bounds,
        np.ma.masked_invalid(values[np.ix_(canvas.rows, canvas.columns)]),
        cmap=colormaps[colours.name].with_extremes(bad=_NO_VALUE),
        vmin=colours.low,
        vmax=colours.high,
        rasterized=True,
        **transform,
    )


_NO_VALUE = "0.72"


def _colour_bar(figure: Figure, mesh: QuadMesh, panel: Sequence[Axes], label: str, *, share: float) -> None:
    """A bar below some panels, which take that share of the figure's width."""
    length = 0.8 * share * figure.get_figwidth()  # inches
    bar = figure.colorbar(
        mesh, ax=list(panel), location="bottom", shrink=0.8, aspect=length / 0.14, pad=0.15 / figure.get_figheight()
    )
    bar.set_label(label, fontsize=10)
    bar.ax.tick_params(labelsize=8)
    bar.locator = MaxNLocator(7)
    bar.update_ticks()


def _explain_gaps(figure: Figure, *values: Values) -> None:
    if np.isnan(values).any():
        figure.supxlabel("grey cells have no value", fontsize=8, color="0.3")


@cache
def _outlines() -> Any:
    """Coastlines and the shores of lakes."""
    shapes = [record.geometry for name in ("coastline", "lakes") for record in _records(name)]
    return ShapelyFeature(shapes, ccrs.PlateCarree(), facecolor="none")


@cache
def _borders() -> tuple[Any, Any]:
    """International borders, and those that are disputed or not defined."""
    records = _records("admin_0_boundary_lines_land")
    is_settled = [str(record.attributes["featurecla"]).startswith("International") for record in records]
    settled = [record.geometry for record, settled in zip(records, is_settled, strict=True) if settled]
    disputed = [record.geometry for record, settled in zip(records, is_settled, strict=True) if not settled]
    plate = ccrs.PlateCarree()
    return ShapelyFeature(settled, plate, facecolor="none"), ShapelyFeature(disputed, plate, facecolor="none")


def _records(name: str) -> list[Any]:
    """The features of one of the shipped Natural Earth files."""
    with as_file(files("stforecast").joinpath("natural_earth")) as folder:
        reader = BasicReader(folder / f"ne_110m_{name}.shp")
        records = list(reader.records())
        reader.close()
    return records


# Okabe and Ito's colours, which colour-blind eyes tell apart (doi:10.1038/nmeth.1618); the markers tell them apart too.
_LINES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#000000", "P"),
    ("#56B4E9", "X"),
)


def _draw_line(axes: Axes, lead_time: Values, scores: Values, source: str, line: tuple[str, str]) -> None:
    colour, marker = line
    is_forecast = source == "forecast"
    axes.plot(
        lead_time,
        scores,
        label=source.replace("_", " "),
        color=colour,
        marker=marker,
        markersize=8 if is_forecast else 5,
        linewidth=3 if is_forecast else 1.4,
        zorder=3 if is_forecast else 4,  # thick below thin, so that equal scores show both
    )


def _lighten(axes: Axes) -> None:
    """A pale grid behind the lines, and no frame above and to the right."""
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# A correlation or a ratio in dB would lie flat below the upper edge.
_FROM_ZERO = ("mae", "rmse", "mape", "mse")


def _tick_spacing(unit: str, lead_time: Values) -> float:
    """The smallest spacing that is natural in the unit, not below the step, and needs at most nine ticks."""
    longest = float(lead_time.max())
    least = max(longest / 9, float(lead_time[0]))
    steps = {"min": (5, 10, 15, 30), "h": (1, 2, 3, 6, 12, 24, 48), "d": (1, 2, 5, 10, 30)}[unit]
    return next((step for step in steps if step >= least), float(np.ceil(least)))
