"""What else is to be known of forecasts: how far their intervals can be relied on, and which scales they keep."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, NullLocator

from stforecast.errors import ErrorKind, StforecastError
from stforecast.plot.curves import tick_spacing
from stforecast.plot.fields import Duration, Values, at_level, evenly, lead_at, variable_of
from stforecast.plot.pictures import LINES, lighten, new_figure
from stforecast.plot.words import lead_unit, name_of, raised

# Intervals.


def reliability(
    measured: xr.Dataset | Sequence[xr.Dataset], *, variable: str | None = None, level: float | None = None
) -> Figure:
    """How often truth lay within intervals, against the shares that were asked for, and by lead time.

    On the left a point below the diagonal is an interval that is too narrow; the thick line is of all lead times, each
    weighted by how many init times it has. On the right each share has a line over lead time, beside its own level.

    Args:
        measured: what `stforecast.verification.coverage` gives, (measure, lead_time[, level]), for each share that
            forecasts were made with: [coverage(predict(…, interval=share), truth) for share in (0.5, 0.8, 0.9)].
        variable: the first by default.
        level: the first by default, where the variable has levels.

    Raises:
        StforecastError: VAR_MISSING, ARGUMENT or EMPTY_SELECTION for what they do not hold; ARGUMENT for none, two of
            one share, or other lead times; DIMS for coverage by season or hour; NAN if one has no value.
    """
    given = [measured] if isinstance(measured, xr.Dataset) else list(measured)
    curves = sorted((_coverage_of(one, variable, level) for one in given), key=lambda one: float(one.attrs["interval"]))
    shares = [float(curve.attrs["interval"]) for curve in curves]
    if not curves or len(set(shares)) < len(shares):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"reliability wants coverage of one share or more, each once, not of {shares}"
        )
    if any(not np.array_equal(curve["lead_time"], curves[0]["lead_time"]) for curve in curves):
        raise StforecastError(ErrorKind.ARGUMENT, "the coverages have different lead times; measure them of the same")
    found, sizes = (np.stack([some.to_numpy() for some in part]) for part in (curves, [one["size"] for one in curves]))
    leads: npt.NDArray[np.timedelta64] = curves[0]["lead_time"].to_numpy()
    figure = new_figure((11, 4.9))
    left, right = figure.subplots(1, 2)
    _draw_against_asked(left, np.array(shares), found, sizes, leads)
    _draw_by_lead(right, shares, found, leads)
    figure.suptitle(f"{name_of(curves[0])}: share of truth within the intervals", fontsize=12)
    return figure


def _coverage_of(measured: xr.Dataset, variable: str | None, level: float | None) -> xr.DataArray:
    """The coverage (lead_time,) of one variable, with its sample size as the coordinate size."""
    name = variable_of(measured, variable, "Dataset of coverage")
    curve = at_level(measured, name, level)
    if set(curve.dims) != {"measure", "lead_time"} or "interval" not in curve.attrs:
        groups = [str(dim) for dim in curve.dims if dim in ("season", "hour")]
        mend = f": select one {groups[0]}, e.g. measured.isel({groups[0]}=0)" if groups else ""
        raise StforecastError(
            ErrorKind.DIMS,
            f"variable {name} has dimensions {tuple(map(str, curve.dims))}; coverage has (measure, lead_time[, level]) "
            f"and the attribute interval, as stforecast.verification.coverage gives it{mend}",
        )
    shares = curve.sel(measure="coverage")
    if shares.isnull().all():
        raise StforecastError(ErrorKind.NAN, f"every coverage of {name} is NaN; there is nothing to draw")
    shares = shares.assign_coords(size=("lead_time", measured["sample_size"].to_numpy()))
    return shares.assign_attrs(long_name=str(curve.attrs["long_name"]).rpartition(" of ")[2])


def _draw_against_asked(
    axes: Axes, shares: Values, found: Values, sizes: Values, leads: npt.NDArray[np.timedelta64]
) -> None:
    unit, length = lead_unit(leads.max())
    axes.plot([0, 1], [0, 1], ":", color="0.3", linewidth=1.2, label="as asked for")
    for number, colour in _tones(len(leads), 5):
        told = f"{leads[number] / length:g} {unit}"
        axes.plot(shares, found[:, number], ".-", color=colour, linewidth=1, label=told)
    # A lead time without a sample has NaN.
    overall = np.nansum(found * sizes, axis=1) / np.where(np.isnan(found), 0, sizes).sum(axis=1)
    blue, circle = LINES[0]
    axes.plot(shares, overall, color=blue, marker=circle, markersize=7, linewidth=2.5, label="all lead times", zorder=2)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="share asked for", ylabel="share of truth within")
    lighten(axes)
    axes.legend(loc="upper left", frameon=False, fontsize=8)


def _draw_by_lead(axes: Axes, shares: Sequence[float], found: Values, leads: npt.NDArray[np.timedelta64]) -> None:
    unit, length = lead_unit(leads.max())
    lead_time = leads / length
    for share, values, (colour, marker) in zip(shares, found, cycle(LINES), strict=False):
        axes.axhline(share, color=colour, linestyle=":", linewidth=1.2)
        axes.plot(lead_time, values, color=colour, marker=marker, markersize=5, linewidth=1.8, label=f"{share:.4g}")
    axes.set(xlabel=f"lead time [{unit}]", ylabel="share of truth within", xlim=(0, lead_time.max() * 1.03))
    axes.set_ylim(max(min(float(np.nanmin(found)), shares[0]) - 0.1, 0), 1)
    axes.xaxis.set_major_locator(MultipleLocator(tick_spacing(unit, lead_time)))
    lighten(axes)
    axes.legend(loc="lower right", frameon=False, fontsize=8, ncols=len(shares), title="asked for (dotted)")


def _tones(count: int, most: int) -> list[tuple[int, tuple[float, ...]]]:
    """Positions of at most so many lead times, evenly chosen, each with its colour, from dark to light."""
    chosen = evenly(np.arange(count), most)
    tones = colormaps["viridis"](np.linspace(0.0, 0.85, len(chosen)))
    return [(int(number), tuple(tone)) for number, tone in zip(chosen, tones, strict=True)]


# Scales.


def spectra(
    forecast: xr.Dataset,
    truth: xr.Dataset | None = None,
    *,
    variable: str | None = None,
    level: float | None = None,
    lead_times: Sequence[Duration] | None = None,
) -> Figure:
    """Power by wavelength of a forecast at several lead times and of the truth, and how much of it the forecast keeps.

    Powers are means over the rows by how many waves there are in a row, weighted by the rows' length on Earth; the
    wavelength is that in a row of mean length. The foot tells the shortest wave of the grid, which is two cells long,
    and the shortest one of which a lead time has half of the truth's power: whatever is shorter is blurred (Skamarock
    2004, doi:10.1175/MWR2830.1, reads the resolution of a model from spectra likewise).

    Args:
        forecast: what `stforecast.verification.spectrum` gives of a forecast, (lead_time, [level,] Y, wavenumber); a
            part of the rows may be selected first, e.g. .sel(latitude=slice(60, 30)).
        truth: what it gives of the series, (…, Y, wavenumber); let it be of the times that are forecast, so that both
            see the same weather.
        variable: the first by default.
        level: the first by default, where the variable has levels.
        lead_times: by default the first, the last and those between, five at most.

    Raises:
        StforecastError: VAR_MISSING, ARGUMENT or EMPTY_SELECTION for what the spectra do not hold; DIMS for what is no
            spectrum; UNITS or GRID_SHAPE if the truth does not match; NAN if there is no value.
    """
    power, wavelength = _power_of(forecast, variable, level, "forecast")
    if "lead_time" not in power.dims:
        raise StforecastError(ErrorKind.DIMS, f"the spectrum of {power.name} has no lead_time; give that of a forecast")
    observed = None if truth is None else _power_like(power, wavelength, truth)
    leads = power["lead_time"].to_numpy()
    rows = evenly(np.arange(len(leads)), 5) if lead_times is None else [lead_at(power, lead) for lead in lead_times]
    if not rows:
        raise StforecastError(ErrorKind.ARGUMENT, "lead_times is empty; name at least one, e.g. ['24h']")
    unit, length = lead_unit(leads.max())
    figure = new_figure((8.5, 4.6 if observed is None else 6.8))
    heights = [1] if observed is None else [2, 1]
    above, *below = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    units, kept = str(forecast["wavelength"].attrs["units"]), []
    if observed is not None:
        above.plot(wavelength, observed, color="0.1", linewidth=2.6, label="truth")
        below[0].axhline(1, color="0.1", linewidth=1.2)
        below[0].axhline(0.5, color="0.4", linewidth=1.0, linestyle=":")
        below[0].set_ylabel("share of the\ntruth's power")
    for row, colour in zip(rows, colormaps["viridis"](np.linspace(0, 0.85, len(rows))), strict=True):
        own, told = power.isel(lead_time=row).to_numpy(), f"{leads[row] / length:g} {unit}"
        above.plot(wavelength, own, ".-", color=colour, linewidth=1.4, label=f"forecast, {told}")
        if observed is not None:
            share = np.divide(own, observed, out=np.full(own.shape, np.nan), where=observed > 0)
            below[0].plot(wavelength, share, ".-", color=colour, linewidth=1.4)
            kept.append(f"{_half_kept(wavelength, share, units)} at {told}")
    above.set_title(f"{name_of(power)}: power by wavelength", fontsize=12)
    above.set_yscale("log")
    above.set_ylabel(f"power [{_squared(power.attrs['units'])}]")
    _label_wavelengths(figure.axes[-1], wavelength, units)
    for axes in figure.axes:
        lighten(axes)
    if below:
        below[0].set_ylim(bottom=0)
    figure.legend(loc="outside right upper", frameon=False)
    said = f"shortest wave of the grid: {_round(wavelength[-1])} {units} (two cells)"
    if kept:
        ends = kept if len(kept) < 3 else [kept[0], kept[-1]]
        said += f"; shortest with half of the truth's power: {', '.join(ends)}"
    figure.supxlabel(said, fontsize=8, color="0.3")
    return figure


def _power_of(
    spectrum: xr.Dataset, variable: str | None, level: float | None, what: str
) -> tuple[xr.DataArray, Values]:
    """The mean power over the rows, (…, wavenumber), and the wavelength in a row of mean length, (wavenumber,)."""
    name = variable_of(spectrum, variable, f"spectrum of the {what}")
    if "wavelength" not in spectrum.coords or "wavenumber" not in spectrum[name].dims:
        raise StforecastError(
            ErrorKind.DIMS,
            f"variable {name} of the {what} has dimensions {tuple(map(str, spectrum[name].dims))} and no wavelength; "
            "give what stforecast.verification.spectrum makes of it",
        )
    lengths = spectrum["wavelength"].isel(wavenumber=0).reset_coords(drop=True)
    row = str(lengths.dims[0])
    power = at_level(spectrum, name, level).weighted(lengths).mean(row, keep_attrs=True)
    if power.isnull().all():
        raise StforecastError(ErrorKind.NAN, f"every power of {name} of the {what} is NaN; there is nothing to draw")
    wavelength: Values = spectrum["wavelength"].weighted(lengths).mean(row).to_numpy()
    return power, wavelength


def _power_like(power: xr.DataArray, wavelength: Values, truth: xr.Dataset) -> Values:
    """The truth's power of the same variable and level, (wavenumber,)."""
    name, level = str(power.name), float(power["level"]) if "level" in power.coords else None
    observed, found = _power_of(truth, name, level, "truth")
    if observed.dims != ("wavenumber",):
        raise StforecastError(
            ErrorKind.DIMS,
            f"the spectrum of the truth has {', '.join(map(str, observed.dims[:-1]))} beside rows and waves; give that "
            "of a series",
        )
    if observed.attrs["units"] != power.attrs["units"]:
        raise StforecastError(
            ErrorKind.UNITS,
            f"the power of {name} is in {power.attrs['units']} in the forecast but {observed.attrs['units']} in the "
            "truth; convert one",
        )
    if found.shape != wavelength.shape or not np.allclose(found, wavelength, rtol=1e-3):
        raise StforecastError(
            ErrorKind.GRID_SHAPE,
            f"the waves of the forecast are {_round(wavelength[-1])} long and longer, those of the truth "
            f"{_round(found[-1])}, so they are of other rows or another grid; take both on the same",
        )
    values: Values = observed.to_numpy()
    return values


def _half_kept(wavelength: Values, share: Values, units: str) -> str:
    """The shortest wave of which at least half of the power is there."""
    strong = np.flatnonzero(share >= 0.5)
    return f"{_round(wavelength[strong[-1]])} {units}" if len(strong) else "none"


def _round(length: float) -> str:
    return f"{float(f'{length:.3g}'):g}"


def _squared(units: str) -> str:
    """Units as a spectrum has them, (K)2, as one writes them."""
    root = units.removeprefix("(").removesuffix(")2")
    if root == units:
        return units
    return f"{root}²" if root.isalpha() else f"({raised(root)})²"


def _label_wavelengths(axes: Axes, wavelength: Values, units: str) -> None:
    """A logarithmic axis from long to short waves, with round numbers."""
    axes.set_xscale("log")
    axes.set_xlim(wavelength[0] * 1.05, wavelength[-1] / 1.05)
    ticks = [step * 10.0**power for power in range(-3, 6) for step in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if wavelength[-1] / 1.05 <= tick <= wavelength[0] * 1.05])
    axes.xaxis.set_major_formatter(lambda length, _: f"{length:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"wavelength in a row of mean length [{units}]")
