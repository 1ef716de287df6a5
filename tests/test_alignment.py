from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series

from stforecast.alignment import Alignment
from stforecast.channels import Channels
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid
from stforecast.limits import check_range, limits_of
from stforecast.units import Conversion


def aligned(series: xr.Dataset, like: xr.Dataset) -> Alignment:
    return Alignment.of(series, Channels.of(like), Grid.of(like))


def there_and_back(alignment: Alignment) -> dict[str, xr.DataArray]:
    """What a forecast of the model's own frames would look like to the caller."""
    block = alignment.to_model(alignment.found.load())
    frames = alignment.channels.stack(block)[:, None]
    return {
        alignment.names[item.name]: alignment.to_caller(item, values)
        for item, values in alignment.channels.unstack(frames, axis=2)
    }


def upside_down(series: xr.Dataset) -> xr.Dataset:
    return series.isel(latitude=slice(None, None, -1))


def west_first(series: xr.Dataset) -> xr.Dataset:
    moved = series.roll(longitude=2, roll_coords=True)
    west = (moved["longitude"].to_numpy() + 120) % 360 - 120
    return moved.assign_coords(longitude=("longitude", west, series["longitude"].attrs))


def in_celsius(series: xr.Dataset) -> xr.Dataset:
    return series.assign(t=(series["t"].astype(np.float64) - 273.15).assign_attrs(units="celsius"))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s,
        upside_down,
        west_first,
        lambda s: s.sel(level=[850.0, 500.0]),
        lambda s: s[["q", "t"]],
        lambda s: s.transpose("longitude", "level", "time", "latitude"),
        lambda s: s.rename(t="ta", q="specific_humidity", level="plev", latitude="lat"),
        lambda s: s.rename(t="x"),
        in_celsius,
        lambda s: s.assign_coords(level=("level", [50_000.0, 85_000.0], {"units": "Pa", "axis": "Z"})),
    ],
    ids=["same", "latitude", "longitude", "levels", "order", "dims", "names", "standard name", "celsius", "pascal"],
)
def test_what_goes_in_comes_out_again(change: Callable[[xr.Dataset], xr.Dataset]) -> None:
    series = make_series(levels=(500.0, 850.0), variables=("t", "q"))
    series["t"].attrs["standard_name"] = "air_temperature"
    came = change(series)
    alignment = aligned(came, series)
    model = alignment.to_model(alignment.found.load())
    for name in ("t", "q"):
        expected = series[name].transpose("time", "level", "latitude", "longitude").to_numpy()
        _, y, x = alignment.dims
        found = model[name].transpose("time", ..., y, x).to_numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert model[name].attrs["units"] == series[name].attrs["units"]
    back = there_and_back(alignment)
    for name in came.data_vars:
        assert back[str(name)].attrs == came[name].attrs
        assert back[str(name)].dtype == came[name].dtype
        mine = came[name].transpose(alignment.dims[0], ..., *alignment.dims[1:])
        np.testing.assert_allclose(back[str(name)][:, 0].to_numpy(), mine.to_numpy(), rtol=1e-5)


def test_limits_that_a_file_gives_are_converted_with_its_values() -> None:
    model = make_series(variables=("slp",)) + 101_000
    model["slp"].attrs["units"] = "Pa"
    pressure = (model / 100).map(lambda slp: slp, keep_attrs=True)
    pressure["slp"].attrs |= {"units": "hPa", "valid_range": np.array([800.0, 1100.0])}
    block = aligned(pressure, model).to_model(pressure)
    check_range(block["slp"].transpose("time", ...))
    np.testing.assert_allclose(limits_of(block["slp"]), (80_000, 110_000))
    with pytest.raises(StforecastError, match="slp in Pa should be 80000 to 110000"):
        check_range(block["slp"] + 20_000)


@pytest.mark.parametrize("step", [1, -1], ids=["eastward", "westward"])
def test_a_region_across_the_callers_seam_stays_in_one_piece(step: int) -> None:
    """A model of the Atlantic and a globe that begins at Greenwich: neighbours stay neighbours."""
    region = make_series(shape=(4, 9)).assign_coords(longitude=np.arange(-70.0, 11, 10))
    globe = region.assign_coords(longitude=region["longitude"] % 360).sortby("longitude")
    globe = globe.reindex(longitude=np.arange(0.0, 360, 10), fill_value=280.0).isel(longitude=slice(None, None, step))
    alignment = aligned(globe, region)
    (item,) = alignment.channels.variables
    labels = alignment.template(item)["longitude"].to_numpy()
    np.testing.assert_array_equal(labels, np.arange(-70.0, 11, 10)[::step])
    back = there_and_back(alignment)["t2m"][:, 0]
    expected = region["t2m"].isel(longitude=slice(None, None, step)).to_numpy()
    np.testing.assert_allclose(back.to_numpy(), expected, rtol=1e-6)


def test_a_part_of_a_larger_region_is_taken_where_it_is() -> None:
    whole = make_series(shape=(8, 12))
    part = whole.isel(latitude=slice(2, 6), longitude=slice(3, 9))
    alignment = aligned(upside_down(whole), part)
    (forecast,) = there_and_back(alignment).values()
    expected = upside_down(part)["t2m"]
    np.testing.assert_array_equal(forecast[:, 0], expected)
    xr.testing.assert_identical(alignment.template(alignment.channels.variables[0])["latitude"], expected["latitude"])


def test_rows_and_columns_of_another_city_are_no_part() -> None:
    with pytest.raises(StforecastError, match="wanted the grid 2x3 .* but the data have 4x3") as caught:
        aligned(make_city(shape=(4, 3)), make_city(shape=(2, 3)))
    assert caught.value.kind == ErrorKind.GRID_SHAPE


def test_more_variables_and_levels_than_the_model_wants_are_left_out() -> None:
    series = make_series(levels=(500.0, 850.0), variables=("t", "q"))
    alignment = aligned(series, series[["t"]].sel(level=[850.0]))
    assert alignment.to_model(alignment.found.load())["t"].shape == (80, 1, 4, 6)


@pytest.mark.parametrize(
    ("spoil", "kind", "match"),
    [
        (lambda s: s[["q"]], ErrorKind.CHANNELS, "the model wants t, q but the series lacks t; it has q"),
        (lambda s: s.assign(t=s["t"].assign_attrs(units="m")), ErrorKind.UNITS, "variable t is in 'm' but the model"),
        (
            lambda s: s.sel(level=[500.0]),
            ErrorKind.CHANNELS,
            r"variable t lacks the level.s. 850 hPa; it has \[500.0\]",
        ),
        (lambda s: s.sel(level=500.0), ErrorKind.CHANNELS, r"t should have levels \(500.0, 850.0\) but has dimensions"),
        (
            lambda s: s.assign(ta=s["t"], temperature=s["t"]).drop_vars("t"),
            ErrorKind.CHANNELS,
            "where ta and temperature could each be t: rename one",
        ),
        (
            lambda s: s.assign_coords(level=("level", [500.0, 850.0], {"units": "m", "axis": "Z"})),
            ErrorKind.UNITS,
            "levels of t are in 'm' but the model was fitted in 'hPa'",
        ),
    ],
)
def test_f06_u01_a_series_unlike_the_models_is_refused_by_name(
    spoil: Callable[[xr.Dataset], xr.Dataset], kind: ErrorKind, match: str
) -> None:
    series = make_series(levels=(500.0, 850.0), variables=("t", "q"))
    with pytest.raises(StforecastError, match=match) as caught:
        aligned(spoil(series), series)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("units", "wanted", "value", "expected"),
    [
        ("degC", "K", 10.0, 283.15),
        ("degF", "degC", 212.0, 100.0),
        ("degF", "K", -459.67, 0.0),
        ("millibars", "Pa", 1013.25, 101325.0),
        ("kPa", "hPa", 101.325, 1013.25),
        ("kt", "m/s", 3600 / 1852, 1.0),
        ("mm", "m", 1.0, 0.001),
    ],
)
def test_u01_u04_units_are_converted_and_back(units: str, wanted: str, value: float, expected: float) -> None:
    conversion = Conversion.between(units, wanted)
    assert conversion is not None
    values = np.array([value])
    np.testing.assert_allclose(conversion.apply(values), expected, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(conversion.invert(conversion.apply(values)), values, rtol=1e-12)


def test_u04_units_of_other_things_have_no_conversion() -> None:
    assert Conversion.between("K", "Pa") is None
    assert Conversion.between("m**2 s**-2", "m") is None
