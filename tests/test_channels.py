import numpy as np
import pytest
import xarray as xr
from factory import make_series

from stforecast.channels import Channels


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
