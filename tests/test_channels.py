import numpy as np
import pytest
import xarray as xr
from factory import make_series

from stforecast.channels import Channels
from stforecast.errors import StforecastError


def test_channels_are_variables_then_levels_in_order() -> None:
    series = xr.merge([make_series(levels=(500.0, 850.0), variables=("t",)), make_series(variables=("t2m",))])
    channels = Channels.of(series)
    frames = channels.stack(series)
    assert (len(channels), frames.shape) == (3, (80, 3, 4, 6))
    np.testing.assert_array_equal(frames[:, 1], series["t"].sel(level=850))
    np.testing.assert_array_equal(frames[:, 2], series["t2m"])


@pytest.mark.parametrize("levels", [(), (500.0, 850.0, 1000.0)])
def test_unstack_undoes_stack(levels: tuple[float, ...]) -> None:
    series = make_series(levels=levels, variables=("t", "q"))
    channels = Channels.of(series)
    for item, values in channels.unstack(channels.stack(series), axis=1):
        np.testing.assert_array_equal(values, series[item.name])


def test_order_of_variables_levels_and_dims_makes_no_difference() -> None:
    series = make_series(levels=(500.0, 850.0), variables=("t", "q"))
    channels = Channels.of(series)
    other = series[["q", "t"]].sel(level=[850.0, 500.0]).transpose("longitude", "level", "time", "latitude")
    np.testing.assert_array_equal(channels.stack(channels.select(other)), channels.stack(series))


def test_more_variables_and_levels_than_the_model_wants_are_left_out() -> None:
    series = make_series(levels=(500.0, 850.0), variables=("t", "q"))
    channels = Channels.of(series[["t"]].sel(level=[850.0]))
    assert channels.select(series)["t"].shape == (80, 1, 4, 6)


def test_other_spellings_of_a_unit_are_the_same_unit() -> None:
    series = make_series()
    channels = Channels.of(series)
    series["t2m"].attrs["units"] = "degK"
    assert channels.select(series)["t2m"].attrs["units"] == "degK"


def celsius(series: xr.Dataset) -> xr.Dataset:
    return series.assign(t=series["t"].assign_attrs(units="degC"))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda s: s[["q"]], "the model wants t, q but the series lacks t; it has q"),
        (celsius, "variable t is in 'degC' but the model was fitted in 'K'"),
        (lambda s: s.sel(level=[500.0]), r"variable t lacks the level.s. 850; it has \[500.0\]"),
        (lambda s: s.sel(level=500.0), r"variable t should have levels \(500.0, 850.0\) but has dimensions"),
    ],
)
def test_a_series_unlike_the_models_is_refused_by_name(spoil, match: str) -> None:
    series = make_series(levels=(500.0, 850.0), variables=("t", "q"))
    with pytest.raises(StforecastError, match=match):
        Channels.of(series).select(spoil(series))
