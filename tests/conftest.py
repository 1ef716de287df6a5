"""One thread for torch: on a busy machine the spin waits of more cost many times what they gain."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import xarray as xr
from factory import make_series

torch.set_num_threads(1)


@pytest.fixture
def series() -> xr.Dataset:
    return make_series()
