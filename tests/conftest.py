"""One thread for torch: on a busy machine the spin waits of more cost many times what they gain."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import xarray as xr
from factory import make_series
from hypothesis import settings

torch.set_num_threads(1)
# A suite that a shell started in the background ignores SIGINT, which tests send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes says more about who else is on the machine than about the code.
settings.register_profile("stforecast", deadline=None)
settings.load_profile("stforecast")


@pytest.fixture
def series() -> xr.Dataset:
    return make_series()
