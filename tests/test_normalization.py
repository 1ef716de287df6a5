import json

import numpy as np
import pytest
import xarray as xr
from factory import make_series
from hypothesis import given
from hypothesis import strategies as st

from stforecast.errors import StforecastError
from stforecast.normalization import Moments, Normalization, Scaling


@given(cuts=st.lists(st.integers(1, 39), min_size=1, max_size=5, unique=True))
def test_d13_merged_moments_are_those_of_the_whole(cuts: list[int]) -> None:
    # Geopotential: a float32 one-pass variance of such values is negative.
    values = (5.4e5 + np.random.default_rng(0).standard_normal((40, 2, 3, 4))).astype(np.float32)
    first, *rest = np.split(values, sorted(cuts))
    merged = Moments.of(first)
    for block in rest:
        merged = merged.merge(Moments.of(block))
    exact = values.astype(np.float64)
    np.testing.assert_allclose(merged.mean, exact.mean(axis=(0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(merged.standard_deviation, exact.std(axis=(0, 2, 3)), rtol=1e-10)


def fitted(series: xr.Dataset) -> Normalization:
    return Normalization(
        {
            str(name): Scaling.fit(str(name), "z-score", "K", Moments.of(item.to_numpy()))
            for name, item in series.data_vars.items()
        }
    )


@pytest.mark.parametrize("levels", [(), (500.0, 850.0)])
def test_invert_undoes_apply(levels: tuple[float, ...]) -> None:
    series = make_series(levels=levels, variables=("t", "z"))
    normalization = fitted(series)
    scored = normalization.apply(series)
    attrs = {name: series[name].attrs for name in ("t", "z")}
    # float32 resolves 280 K to 3e-5 K.
    xr.testing.assert_allclose(normalization.invert(scored, attrs), series, rtol=0, atol=6e-5)
    assert scored["t"].attrs["units"] == "1"
    assert series["t"].attrs["units"] == "K"
    assert normalization.invert(scored, attrs)["t"].attrs == series["t"].attrs


def test_each_level_is_scored_by_itself() -> None:
    scored = fitted(series := make_series(levels=(500.0, 850.0))).apply(series)["t2m"]
    over = ("time", "latitude", "longitude")
    np.testing.assert_allclose(scored.mean(over), 0, atol=1e-6)
    np.testing.assert_allclose(scored.std(over), 1, atol=1e-6)


def test_chunked_series_stay_lazy_and_equal() -> None:
    series = make_series()
    normalization = fitted(series)
    lazy = normalization.apply(series.chunk(time=7))
    assert lazy["t2m"].chunks is not None
    xr.testing.assert_identical(lazy.compute(), normalization.apply(series))


def test_parameters_survive_their_json() -> None:
    normalization = fitted(series := make_series(levels=(500.0, 850.0)))
    again = Normalization.from_json(normalization.to_json())
    xr.testing.assert_identical(again.apply(series), normalization.apply(series))


def test_a_method_of_a_newer_version_is_named() -> None:
    text = json.dumps({"t2m": {"method": "quantile", "units": "K", "location": 0, "scale": 1}})
    with pytest.raises(StforecastError, match="'quantile' is not known"):
        Normalization.from_json(text)


def test_a_constant_variable_is_refused_by_name() -> None:
    with pytest.raises(StforecastError, match="variable slp is constant"):
        Scaling.fit("slp", "z-score", "Pa", Moments.of(np.full((30, 2, 2), 101_325.1, np.float32)))
