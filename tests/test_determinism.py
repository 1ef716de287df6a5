"""What decides the last digits of a forecast: batches, threads, instruction set and device, and how far each goes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from factory import make_series
from torch import nn

import stforecast as stf
from stforecast import training
from stforecast.fitting import fit
from stforecast.forecaster import Forecaster
from stforecast.networks import NetworkConfig
from stforecast.split import Split
from stforecast.training import TrainingConfig

SMALL = NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2, drop_path=0.0, first_guess="regression")
ONE_EPOCH = TrainingConfig(epochs=1, batch_size=8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # About zero, so that float32 holds far more digits than are asked for.
    series = make_series(120, shape=(6, 8)) - 280
    series["t2m"].attrs["units"] = "m s-1"
    path = tmp_path_factory.mktemp("stores") / "s.zarr"
    stf.prepare(series.rename(t2m="u10"), path, Split.by_fraction(series["time"].to_numpy()))
    return path


@pytest.fixture(scope="module")
def series(store: Path) -> xr.Dataset:
    return stf.open_store(store).load()


@pytest.fixture(scope="module")
def forecaster(store: Path) -> Forecaster:
    return fit(store, history=4, horizon=3, network=SMALL, training=ONE_EPOCH)


def forecast_of(forecaster: Forecaster, series: xr.Dataset, batch_size: int = 16) -> np.ndarray:
    init_times = forecaster.init_times(series)
    return forecaster.predict(series, init_times=init_times, horizon=6, batch_size=batch_size)["u10"].to_numpy()


def deviations(one: np.ndarray, other: np.ndarray, series: xr.Dataset) -> float:
    """How far two forecasts are apart at most, in standard deviations of the series."""
    return float(np.abs(one.astype(np.float64) - other).max() / series["u10"].std())


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_o02_batches_change_no_forecast(forecaster: Forecaster, series: xr.Dataset, batch_size: int) -> None:
    result = forecast_of(forecaster, series, batch_size)
    assert deviations(result, forecast_of(forecaster, series), series) <= 1e-5


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_o01_threads_change_no_forecast_and_are_told(
    forecaster: Forecaster, series: xr.Dataset, request: pytest.FixtureRequest
) -> None:
    # Threads that wait for each other on a busy machine take their time, so the work is little.
    init_times = series["time"].to_numpy()[10::30]
    expected = forecaster.predict(series, init_times=init_times)
    request.getfixturevalue("two_threads")
    result = forecaster.predict(series, init_times=init_times)
    assert deviations(result["u10"].to_numpy(), expected["u10"].to_numpy(), series) <= 1e-5
    if not torch.cuda.is_available():
        assert result.attrs["computed_on"].endswith("), 2 threads")


ELSEWHERE = """
import sys
import numpy as np, torch
import stforecast as stf

store, model, output = sys.argv[1:]
torch.set_num_threads(1)
series, forecaster = stf.open_store(store).load(), stf.Forecaster.load(model)
forecast = forecaster.predict(series, init_times=forecaster.init_times(series), horizon=6)
np.save(output, forecast["u10"].to_numpy())
print(forecast.attrs["computed_on"])
"""

# What torch, oneDNN and MKL take as they are told, whatever the processor could do.
PLAIN = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}


@pytest.mark.parametrize(
    ("environment", "name", "bound"),
    [
        pytest.param(PLAIN, "cpu (DEFAULT), 1 thread", 1e-5, id="o03 plain instructions"),
        pytest.param(
            {"CUDA_VISIBLE_DEVICES": ""},
            "cpu ",
            1e-3,
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
            id="o04 without the GPU",
        ),
    ],
)
def test_o03_o04_instruction_sets_and_devices_change_no_forecast_and_are_told(
    tmp_path: Path,
    store: Path,
    forecaster: Forecaster,
    series: xr.Dataset,
    environment: dict[str, str],
    name: str,
    bound: float,
) -> None:
    if "ATEN_CPU_CAPABILITY" in environment and torch.cuda.is_available():
        pytest.skip("forecasts are made on the GPU here")
    forecaster.save(tmp_path / "model")
    command = [sys.executable, "-c", ELSEWHERE, *map(str, (store, tmp_path / "model", tmp_path / "there.npy"))]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment).stdout
    assert said.startswith(name)
    assert deviations(np.load(tmp_path / "there.npy"), forecast_of(forecaster, series), series) <= bound
    assert forecaster.predict(series).attrs["computed_on"] != said.strip()


def test_o04_convolutions_are_in_float32_and_not_in_tf32(forecaster: Forecaster, series: xr.Dataset) -> None:
    seen = []

    def note() -> None:
        seen.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))

    class Notes(nn.Module):
        def forward(self, frames: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            note()
            return frames

    class NotesInFit(training.Callback):
        def on_before_zero_grad(self, *_: object) -> None:
            note()

    replace(forecaster, network=Notes()).predict(series.isel(time=slice(20)))
    forecasts = len(seen)
    fit(
        series,
        history=4,
        horizon=3,
        network=replace(SMALL, first_guess="last_frame"),
        training=ONE_EPOCH,
        lightning={"callbacks": [NotesInFit()]},
    )
    assert 0 < forecasts < len(seen)
    assert set(seen) == {(False, "highest")}
    assert torch.backends.cudnn.allow_tf32
