"""Curves of skill and of losses, and score cards."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, NullLocator

from stforecast.errors import ErrorKind, StforecastError
from stforecast.plot.canvas import NO_VALUE
from stforecast.plot.fields import Values, at_level, variable_of
from stforecast.plot.pictures import LINES, colour_bar, lighten, new_figure
from stforecast.plot.words import given_units, lead_unit, metric_word, name_of, plain, raised
from stforecast.verification import units_of


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
    unit, length = lead_unit(curve["lead_time"].to_numpy().max())
    lead_time = curve["lead_time"].to_numpy() / length
    figure = new_figure((8.5, 4.5))
    axes = figure.subplots()
    for number, source in enumerate(curve["source"].to_numpy()):
        if curve.sel(source=source).isnull().all():
            continue  # the climatology has no anomaly correlation
        line = LINES[number % len(LINES)]
        if band is not None:
            lower, upper = band.sel(source=source).to_numpy()
            axes.fill_between(lead_time, lower, upper, color=line[0], alpha=0.18, linewidth=0, zorder=2)
        _draw_line(axes, lead_time, curve.sel(source=source).to_numpy(), str(source), line)
    word = metric_word(metric)
    told = f": {word}" if reference is None else f"\nskill in {word} against {plain(reference)}"
    axes.set_title(f"{name_of(curve)}{told} by lead time", fontsize=12)
    axes.set_xlabel(f"lead time [{unit}]")
    axes.set_ylabel(f"{word} [{raised(units_of(metric, given_units(curve)))}]" if reference is None else "skill")
    axes.set_xlim(0, lead_time.max() * 1.03)
    axes.xaxis.set_major_locator(MultipleLocator(tick_spacing(unit, lead_time)))
    if metric == "bias" or reference is not None:
        axes.axhline(0, color="0.3", linewidth=0.9, zorder=1)
    elif metric.split(":")[0] in _FROM_ZERO:
        axes.set_ylim(bottom=0)
    lighten(axes)
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
    figure = new_figure((2.6 + 0.62 * max(columns, 6), 1.9 + 0.34 * max(rows, 2)))
    axes = figure.subplots()
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values),
        cmap=colormaps["RdBu_r"].with_extremes(bad=NO_VALUE),
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
    unit, length = lead_unit(card["lead_time"].to_numpy().max())
    axes.set_xticks(np.arange(columns) + 0.5, [f"{lead:g}" for lead in card["lead_time"].to_numpy() / length])
    axes.set_yticks(np.arange(rows) + 0.5, [plain(str(label)) for label in card["row"].to_numpy()])
    axes.invert_yaxis()
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"lead time [{unit}]")
    axes.set_title(f"{metric_word(card.attrs['metric'])} of the forecast relative to {plain(card.attrs['reference'])}")
    colour_bar(figure, mesh, [axes], "relative difference [%]: below 0 is better", share=1)
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
    figure = new_figure((8.5, 4.5))
    axes = figure.subplots()
    epochs = np.arange(1, len(record["training_loss"]) + 1)
    for name, line in zip(("training_loss", "validation_loss"), LINES, strict=False):
        _draw_line(axes, epochs.astype(np.float64), np.asarray(record[name]), name.replace("_", " "), line)
    best = record["best_epoch"]
    axes.plot(best + 1, record["validation_loss"][best], "o", color="0.2", markersize=9, fillstyle="none", label="kept")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 10 * low:  # within one power of ten plain numbers are read more easily
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(lambda loss, _: f"{loss:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("Loss by epoch", fontsize=12)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss [normalized units]")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lighten(axes)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _curve_of(
    scores: xr.Dataset, variable: str | None, metric: str, level: float | None
) -> tuple[xr.DataArray, xr.DataArray | None]:
    """One metric (source, lead_time) of one variable, and its interval (source, bound, lead_time) if it has one."""
    name = variable_of(scores, variable, "Dataset of scores")
    curve = at_level(scores, name, level)
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
    band = at_level(scores.reset_coords(f"{name}_interval"), f"{name}_interval", level).sel(metric=metric)
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


# A correlation or a ratio in dB would lie flat below the upper edge.
_FROM_ZERO = ("mae", "rmse", "mape", "mse")


def tick_spacing(unit: str, lead_time: Values) -> float:
    """The smallest spacing that is natural in the unit, not below the step, and needs at most nine ticks."""
    longest = float(lead_time.max())
    least = max(longest / 9, float(lead_time[0]))
    steps = {"min": (5, 10, 15, 30), "h": (1, 2, 3, 6, 12, 24, 48), "d": (1, 2, 5, 10, 30)}[unit]
    return next((step for step in steps if step >= least), float(np.ceil(least)))
