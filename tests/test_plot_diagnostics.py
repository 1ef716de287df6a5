"""Diagnostics: the reliability of intervals and the scales that forecasts keep are drawn as they were measured."""

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series
from numpy.testing import assert_allclose
from test_plot_courses import legend_of, lines_of

from stforecast import plot
from stforecast.baselines import Persistence
from stforecast.errors import ErrorKind, StforecastError
from stforecast.verification import coverage, spectrum

TRUTH = make_series(120, shape=(4, 16))


def forecast_with_bounds(share: float, *, truth: xr.Dataset = TRUTH, horizon: int = 3) -> xr.Dataset:
    """Persistence, with bounds the wider the larger the share."""
    forecast = Persistence().predict(truth, init_times=truth["time"].to_numpy()[10:100], horizon=horizon)
    names = list(forecast.data_vars)
    for name in names:
        for bound, sign in (("lower", -1.0), ("upper", 1.0)):
            attrs = {"units": "K", "interval": share, "interval_of": name}
            forecast[f"{name}_{bound}"] = (forecast[name] + 6 * share * sign).assign_attrs(attrs)
    return forecast


def measured(*shares: float, **options: object) -> list[xr.Dataset]:
    return [coverage(forecast_with_bounds(share, **options), TRUTH) for share in shares]


def test_reliability_is_coverage_against_the_share_asked_for() -> None:
    given = measured(0.9, 0.5, 0.8)
    figure = plot.reliability(given)
    left, right = figure.axes
    lines = lines_of(left)
    expected = np.array([given[row]["t2m"].sel(measure="coverage") for row in (1, 2, 0)])
    for number, told in enumerate(("6 h", "12 h", "18 h")):
        assert_allclose(lines[told].get_xdata(), [0.5, 0.8, 0.9])
        assert_allclose(lines[told].get_ydata(), expected[:, number])
    assert_allclose(lines["all lead times"].get_ydata(), expected.mean(axis=1))
    assert_allclose(lines["as asked for"].get_xdata(), lines["as asked for"].get_ydata())
    assert (left.get_xlim(), left.get_ylim()) == ((0, 1), (0, 1))
    assert left.get_xlabel() == "share asked for"
    by_lead = lines_of(right)
    assert list(by_lead) == ["0.5", "0.8", "0.9"]
    for line, values in zip(by_lead.values(), expected, strict=True):
        assert_allclose(line.get_xdata(), [6, 12, 18])
        assert_allclose(line.get_ydata(), values)
    dotted = [np.asarray(line.get_ydata())[0] for line in right.lines if line.get_linestyle() == ":"]
    assert_allclose(dotted, [0.5, 0.8, 0.9])
    assert right.get_xlabel() == "lead time [h]"
    assert figure.get_suptitle() == "t2m: share of truth within the intervals"


def test_lead_times_count_by_how_many_init_times_they_have() -> None:
    (one,) = measured(0.5)
    one["t2m"].loc[{"measure": "coverage"}] = [0.2, 0.8, np.nan]
    one["sample_size"].values[:] = [30, 10, 0]
    left, _ = plot.reliability(one).axes
    assert_allclose(lines_of(left)["all lead times"].get_ydata(), [0.35])


def test_reliability_of_a_level() -> None:
    truth = make_series(120, shape=(4, 16), levels=(500.0, 850.0))
    given = coverage(forecast_with_bounds(0.8, truth=truth), truth)
    figure = plot.reliability(given, level=850)
    assert figure.get_suptitle() == "t2m at 850 hPa: share of truth within the intervals"
    expected = given["t2m"].sel(measure="coverage", level=850)
    assert_allclose(lines_of(figure.axes[1])["0.8"].get_ydata(), expected)


def test_reliability_that_cannot_be_drawn_is_refused() -> None:
    (one,) = measured(0.8)
    by_hour = coverage(forecast_with_bounds(0.5), TRUTH, by=["hour"])
    for given, keywords, kind, words in (
        ([], {}, ErrorKind.ARGUMENT, r"of one share or more, each once, not of \[\]"),
        ([one, one], {}, ErrorKind.ARGUMENT, r"each once, not of \[0.8, 0.8\]"),
        ([one, *measured(0.5, horizon=2)], {}, ErrorKind.ARGUMENT, "different lead times"),
        (one, {"variable": "z"}, ErrorKind.VAR_MISSING, "the Dataset of coverage has no variable z"),
        (by_hour, {}, ErrorKind.DIMS, r"select one hour, e.g. measured.isel\(hour=0\)"),
        (TRUTH, {}, ErrorKind.DIMS, "and the attribute interval"),
        (one.where(False), {}, ErrorKind.NAN, "every coverage of t2m is NaN"),
    ):
        with pytest.raises(StforecastError, match=words) as refused:
            plot.reliability(given, **keywords)
        assert refused.value.kind == kind


def blurring(series: xr.Dataset = TRUTH, *, rounds: int = 2) -> tuple[xr.Dataset, xr.Dataset]:
    """Spectra of a forecast that is the more blurred the longer the lead time, and of the truth."""
    name = next(iter(series.data_vars))
    sharp = Persistence().predict(series, init_times=series["time"].to_numpy()[2:], horizon=rounds + 1)
    blurred, parts = sharp, []
    x = sharp[name].dims[-1]
    with xr.set_options(keep_attrs=True):
        for lead in range(rounds + 1):
            parts.append(blurred.isel(lead_time=[lead]))
            shifted = [blurred.roll({x: by}, roll_coords=False) for by in (-1, 1)]
            blurred = (blurred * 2 + shifted[0] + shifted[1]) / 4
    forecast = xr.concat(parts, "lead_time")
    return spectrum(forecast), spectrum(series.isel(time=slice(2, None)))


def test_spectra_are_means_of_the_rows_weighted_by_their_length() -> None:
    forecast, truth = blurring()
    figure = plot.spectra(forecast, truth)
    above, below = figure.axes
    lines = lines_of(above)
    assert list(lines) == ["truth", "forecast, 6 h", "forecast, 12 h", "forecast, 18 h"] == legend_of(figure)
    length = np.cos(np.deg2rad(TRUTH["latitude"]))
    around = 40030.17 * float((length**2).sum() / length.sum())
    for told, power in (("truth", truth["t2m"]), ("forecast, 12 h", forecast["t2m"][1])):
        assert_allclose(lines[told].get_xdata(), around / np.arange(1, 9), rtol=1e-6)
        assert_allclose(lines[told].get_ydata(), (power * length).sum("latitude") / length.sum())
    shares = [line.get_ydata() for line in below.lines if line.get_marker() == "."]
    # A blur of a quarter, a half and a quarter multiplies the wave that fits k times into 16 cells by cos²(πk/16).
    for rounds, share in enumerate(shares):
        expected = np.cos(np.pi * np.arange(1, 8) / 16) ** (4 * rounds)
        assert_allclose(share[:-1], expected, rtol=1e-5, atol=1e-6)  # of values in float32
    assert above.get_ylabel() == "power [K²]"
    assert below.get_xlabel() == "wavelength in a row of mean length [km]"
    assert above.get_title() == "variable t2m: power by wavelength"
    assert above.get_yscale() == above.get_xscale() == "log"
    west, east = above.get_xlim()
    assert west > around > around / 8 > east  # long waves on the left


def test_the_foot_tells_the_shortest_wave_and_what_is_blurred() -> None:
    forecast, truth = blurring()
    around = float(truth["wavelength"].weighted(truth["wavelength"][:, 0]).mean("latitude")[0])
    foot = plot.spectra(forecast, truth).get_supxlabel()
    shortest = float(f"{around / 8:.3g}")
    assert foot.startswith(
        f"shortest wave of the grid: {shortest:g} km (two cells); shortest with half of the truth's "
    )
    kept = next(k for k in range(8, 0, -1) if np.cos(np.pi * k / 16) ** 8 >= 0.5)
    assert foot.endswith(f"power: {shortest:g} km at 6 h, {float(f'{around / kept:.3g}'):g} km at 18 h")
    without = plot.spectra(forecast)
    assert without.get_supxlabel() == f"shortest wave of the grid: {shortest:g} km (two cells)"
    assert len(without.axes) == 1


def test_spectra_of_a_city_are_in_cells_and_lead_times_can_be_chosen() -> None:
    forecast, truth = blurring(make_city(20, shape=(5, 8)))
    figure = plot.spectra(forecast, truth, variable="outflow", lead_times=["90min"])
    assert legend_of(figure) == ["truth", "forecast, 90 min"]
    assert figure.axes[0].get_ylabel() == "power [1]"
    assert figure.axes[1].get_xlabel() == "wavelength in a row of mean length [cells]"
    assert_allclose(lines_of(figure.axes[0])["truth"].get_ydata(), truth["outflow"].mean("row"))


def test_spectra_of_winds_and_levels_have_their_units() -> None:
    series = make_series(20, shape=(4, 8), levels=(500.0, 850.0))
    series["t2m"].attrs["units"] = "m s**-1"
    forecast, truth = blurring(series)
    figure = plot.spectra(forecast, truth.isel(level=[1, 0]), level=850)
    assert figure.axes[0].get_ylabel() == "power [(m s⁻¹)²]"
    assert figure.axes[0].get_title() == "variable t2m at 850 hPa: power by wavelength"
    first = next(line for line in figure.axes[1].lines if line.get_marker() == ".")
    assert_allclose(first.get_ydata(), 1, rtol=1e-6)


def test_spectra_that_cannot_be_drawn_are_refused() -> None:
    forecast, truth = blurring()
    other_units = truth.assign(t2m=truth["t2m"].assign_attrs(units="(degC)2"))
    for given, keywords, kind, words in (
        (TRUTH, {}, ErrorKind.DIMS, "no wavelength; give what stforecast.verification.spectrum makes"),
        (truth, {}, ErrorKind.DIMS, "the spectrum of t2m has no lead_time; give that of a forecast"),
        (forecast, {"variable": "z"}, ErrorKind.VAR_MISSING, "no variable z"),
        (forecast, {"lead_times": ["7h"]}, ErrorKind.EMPTY_SELECTION, "no lead_time 7h"),
        (forecast, {"lead_times": []}, ErrorKind.ARGUMENT, "lead_times is empty"),
        (forecast, {"truth": forecast}, ErrorKind.DIMS, "the truth has lead_time beside rows and waves"),
        (forecast, {"truth": other_units}, ErrorKind.UNITS, r"\(K\)2 in the forecast but \(degC\)2 in the truth"),
        (forecast, {"truth": truth.isel(latitude=[0, 1, 3])}, ErrorKind.GRID_SHAPE, "of other rows or another grid"),
        (forecast.where(False), {}, ErrorKind.NAN, "every power of t2m of the forecast is NaN"),
    ):
        with pytest.raises(StforecastError, match=words) as refused:
            plot.spectra(given, **keywords)
        assert refused.value.kind == kind
