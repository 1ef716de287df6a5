import copy
import itertools
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from crash import start, wait
from factory import make_series
from torch import nn

import stforecast as stf
from stforecast import prediction
from stforecast.errors import ErrorKind, StforecastError
from stforecast.fitting import fit
from stforecast.forecaster import Forecaster
from stforecast.guards import MEAN_DRIFT, NOT_FINITE, OUT_OF_RANGE, VARIANCE_DRIFT, Envelope
from stforecast.networks import NetworkConfig
from stforecast.prediction import _blocks, predict
from stforecast.pretrained import load_model
from stforecast.split import Split
from stforecast.store import prepare
from stforecast.training import TrainingConfig

SMALL = NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2, drop_path=0.0)
GUIDED = replace(SMALL, first_guess="regression", lags=("1D",))
FRAME = 2 * 4 * 6
# Of what a value takes while it is made, room for this many frames.
ROOM = 20 * FRAME


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    series = make_series(120, variables=("t2m", "u10"))
    path = tmp_path_factory.mktemp("stores") / "s.zarr"
    prepare(series, path, Split.by_fraction(series["time"].to_numpy()))
    return path


@pytest.fixture(scope="module", params=[SMALL, GUIDED], ids=["last frame", "guided, with lags"])
def forecaster(store: Path, request: pytest.FixtureRequest) -> Forecaster:
    return fit(store, history=4, horizon=3, network=request.param, training=TrainingConfig(epochs=1, batch_size=8))


@pytest.fixture(scope="module")
def series(store: Path) -> xr.Dataset:
    return stf.open_store(store).load()


INITS = [20, 21, 22, 40, 60, 90]


@pytest.mark.parametrize("room", [1, 8, 14, 1000], ids=lambda room: f"{room} frames")
def test_a_lazy_forecast_is_the_one_in_memory_whatever_the_blocks(
    store: Path, series: xr.Dataset, forecaster: Forecaster, room: int
) -> None:
    init_times = series["time"].to_numpy()[INITS]
    expected = predict(series, forecaster, init_times=init_times, horizon=7)
    lazy = predict(stf.open_store(store), forecaster, init_times=init_times, horizon=7, memory_limit=room * ROOM)
    assert all(variable.chunks is not None for variable in lazy.data_vars.values())
    assert expected["t2m"].chunks is None
    computed = lazy.compute()
    xr.testing.assert_allclose(computed, expected, rtol=1e-6)
    assert computed.attrs == expected.attrs
    for name in (*computed.data_vars, *computed.coords):
        assert computed[name].attrs == expected[name].attrs, name
        assert computed[name].dtype == expected[name].dtype, name


def test_l04_blocks_cover_all_and_take_no_more_than_they_may(series: xr.Dataset, forecaster: Forecaster) -> None:
    plan = forecaster.plan(series, init_times=series["time"].to_numpy()[20:90], horizon=20)
    for limit in (1, 5 * ROOM, 25 * ROOM, 60 * ROOM, 10**9):
        seen = np.zeros((70, 20), int)
        for inits, parts in _blocks(plan, limit):
            for leads in parts:
                assert leads.start % forecaster.horizon == 0
                seen[inits, leads] += 1
                values = (inits.stop - inits.start) * (leads.stop - leads.start) * plan.frame_size
                # One call of the network for one init time is the least there is.
                least = forecaster.horizon * plan.frame_size
                assert values <= max(limit // 20, least)
        assert (seen == 1).all()


def test_a_part_of_a_lazy_forecast_reads_only_its_own_frames(
    store: Path, series: xr.Dataset, forecaster: Forecaster
) -> None:
    spoiled = series.copy(deep=True)
    spoiled["t2m"][30:50] = np.nan
    init_times = series["time"].to_numpy()[[20, 60]]
    lazy = predict(
        spoiled.chunk(time=10), forecaster, init_times=[init_times[0], series["time"].to_numpy()[40]], memory_limit=1
    )
    xr.testing.assert_allclose(
        lazy.isel(init_time=[0]).compute(), predict(series, forecaster, init_times=init_times[:1]), rtol=1e-6
    )
    with pytest.raises(StforecastError, match="variable t2m has .* nan"):
        lazy.compute()


@pytest.mark.parametrize("room", [1, 14, 1000], ids=lambda room: f"{room} frames")
@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_a_forecast_on_the_disk_is_the_one_in_memory(
    tmp_path: Path, series: xr.Dataset, forecaster: Forecaster, room: int, suffix: str
) -> None:
    init_times = series["time"].to_numpy()[INITS]
    expected = predict(series, forecaster, init_times=init_times, horizon=7)
    path = tmp_path / f"forecast.{suffix}"
    written = predict(series, forecaster, init_times=init_times, horizon=7, output=path, memory_limit=room * ROOM)
    xr.testing.assert_allclose(written, expected, rtol=1e-6)
    xr.testing.assert_allclose(stf.open_forecast(path), expected, rtol=1e-6)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, f".{path.name}.lock"}
    again = stf.write_forecast(expected, tmp_path / f"again.{suffix}")
    xr.testing.assert_identical(stf.open_forecast(again).load(), expected)


@pytest.mark.parametrize("after", [1, 3, 6])
def test_g04_a_forecast_that_was_killed_goes_on_where_it_was(
    tmp_path: Path, store: Path, series: xr.Dataset, forecaster: Forecaster, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    forecaster.save(tmp_path / "model")
    output, init_times = tmp_path / "forecast.zarr", series["time"].to_numpy()[[20, 40, 60]]
    options = {"init_times": init_times, "horizon": 10, "output": output, "memory_limit": 2 * 3 * ROOM}

    def killed() -> None:
        numbers, remember = itertools.count(1), prediction.remember

        def killing(*arguments: object, **more: object) -> None:
            if next(numbers) > after:
                os.kill(os.getpid(), signal.SIGKILL)
            remember(*arguments, **more)

        prediction.remember = killing
        predict(stf.open_store(store), Forecaster.load(tmp_path / "model"), **options)

    assert wait(*start(killed)).how == "killed"
    assert not output.exists()
    kept = len(list((tmp_path / ".forecast.zarr.partial").glob("*-*.json")))
    assert kept >= after - 2
    expected = predict(series, forecaster, init_times=init_times, horizon=10)
    made = []
    original = stf.forecaster.Plan.forecast
    monkeypatch.setattr(
        stf.forecaster.Plan, "forecast", lambda *args, **options: made.append(1) or original(*args, **options)
    )
    written = predict(stf.open_store(store), Forecaster.load(tmp_path / "model"), **options)
    xr.testing.assert_allclose(written, expected, rtol=1e-6)
    # Three init times in four parts each.
    assert len(made) == 12 - kept


def test_blocks_of_other_frames_are_made_anew(
    tmp_path: Path, series: xr.Dataset, forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_times = series["time"].to_numpy()[[20, 60]]
    options = {"init_times": init_times, "output": tmp_path / "f.zarr", "memory_limit": 1}
    broken = series.copy(deep=True)
    broken["t2m"][58] = np.nan
    with pytest.raises(StforecastError, match="variable t2m has 24 nan"):
        predict(broken, forecaster, **options)
    mended = series.copy(deep=True)
    mended["t2m"][19] += 1
    written = predict(mended, forecaster, **options)
    xr.testing.assert_allclose(written, predict(mended, forecaster, init_times=init_times), rtol=1e-6)


def test_forecasts_that_are_written_in_threads_leave_dask_as_it_was(
    tmp_path: Path, series: xr.Dataset, forecaster: Forecaster
) -> None:
    before = copy.deepcopy(dask.config.config)
    with ThreadPoolExecutor(4) as threads:
        for number in range(8):
            threads.submit(predict, series, forecaster, output=tmp_path / f"{number}.zarr")
    assert len(list(tmp_path.glob("[0-9].zarr"))) == 8
    assert dask.config.config == before


def test_an_output_is_not_overwritten_and_named_before_the_work(
    tmp_path: Path, series: xr.Dataset, forecaster: Forecaster
) -> None:
    (tmp_path / "f.zarr").mkdir()
    with pytest.raises(StforecastError, match="is there already") as caught:
        predict(series, forecaster, output=tmp_path / "f.zarr")
    assert caught.value.kind == ErrorKind.OUTPUT_EXISTS
    with pytest.raises(StforecastError, match="forecasts are written as .zarr or .nc, not as f.grib"):
        predict(series, forecaster, output=tmp_path / "f.grib")
    with pytest.raises(StforecastError, match="memory_limit must be at least 1 byte, not 0"):
        predict(series, forecaster, memory_limit=0)


def test_a_name_that_is_no_model_is_told_with_those_that_are(series: xr.Dataset) -> None:
    with pytest.raises(
        StforecastError, match="there is no packaged model 'wether', nor a folder of that name; packaged are"
    ):
        predict(series, "wether")


def test_without_a_model_that_fits_each_packaged_one_says_why(series: xr.Dataset) -> None:
    with pytest.raises(StforecastError, match="no packaged model fits the dataset:") as caught:
        predict(series)
    for name in stf.packaged_models():
        assert f"\n  {name}: " in str(caught.value)
    assert "stforecast.fit(dataset, preset='weather')" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"backend": "bogus"}, "backend must be one of"),
        ({"refuse": "bogus"}, "refuse must be one of"),
        ({"horizon": 1.5}, "horizon must be a whole number, not 1.5"),
        ({"horizon": "24h"}, "horizon must be a whole number, not '24h'"),
    ],
)
def test_what_is_asked_for_of_lazy_data_is_checked_at_once(
    series: xr.Dataset, forecaster: Forecaster, options: dict, match: str
) -> None:
    with pytest.raises(StforecastError, match=match):
        predict(series.chunk(time=10), forecaster, **options)


def test_what_is_amiss_with_data_of_a_packaged_model_is_said_itself() -> None:
    model = load_model("north-atlantic-pressure")
    times = np.arange(40) * np.timedelta64(1, "D") + np.datetime64("2010-01-01", "ns")
    values = np.full((40, *model.grid.shape), 101_300, np.float32)
    pressure = xr.Dataset(
        {"slp": (("time", "lat", "lon"), values, {"units": "Pa"})},
        {"time": times, "lat": model.grid.y, "lon": model.grid.x},
    )
    with pytest.raises(StforecastError, match="not increasing: .*sortby"):
        predict(pressure.isel(time=slice(None, None, -1)))
    with pytest.raises(StforecastError, match="init time 2030-01-01T00:00 is not a frame"):
        predict(pressure, init_times="2030-01-01")


# ---- what a forecast is held against


class Adds(nn.Module):
    """The last frame, and something more at each step of the three."""

    def __init__(self, more: float, factor: float = 1.0) -> None:
        super().__init__()
        self.more, self.factor = more, factor

    def forward(self, frames: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        last = frames[:, -1:]
        steps = torch.arange(1, 4)[None, :, None, None, None]
        mean = last.mean((-1, -2), keepdim=True)
        return mean + (last - mean) * self.factor**steps + self.more * steps


def drifting(forecaster: Forecaster, *args: float) -> Forecaster:
    return replace(forecaster, network=Adds(*args))


def flags(forecaster: Forecaster, series: xr.Dataset) -> list[int]:
    forecast = forecaster.predict(series, refuse="nothing")
    assert forecast["quality_flag"].attrs["flag_meanings"] == "not_finite out_of_range mean_drift variance_drift"
    return forecast["quality_flag"].to_numpy()[0].tolist()


def test_what_is_wrong_with_a_lead_is_on_the_forecast(series: xr.Dataset, forecaster: Forecaster) -> None:
    assert flags(drifting(forecaster, 0.0), series) == [0, 0, 0]
    assert flags(drifting(forecaster, 0.7), series) == [0, MEAN_DRIFT, MEAN_DRIFT]
    assert flags(drifting(forecaster, 0.0, 1.9), series) == [0, VARIANCE_DRIFT, VARIANCE_DRIFT]
    assert flags(drifting(forecaster, 0.0, 0.4), series)[1:] == [VARIANCE_DRIFT, VARIANCE_DRIFT]
    # Some six kelvin a deviation and 280 on average: above 350 is what cannot be.
    both = MEAN_DRIFT | OUT_OF_RANGE
    assert flags(drifting(forecaster, 10.0), series) == [MEAN_DRIFT, both, both]
    assert flags(drifting(forecaster, float("nan")), series) == [NOT_FINITE] * 3


@pytest.mark.parametrize(
    ("network", "refuse", "match"),
    [
        (
            (float("nan"),),
            "impossible",
            "forecast of t2m from 2016-01-30T18:00 has values that are not finite, the first",
        ),
        ((10.0,), "impossible", "has values that cannot be, the first at lead 12 h"),
        (
            (0.7,),
            "drift",
            "has a mean over the cells that is far from any of the training period, the first at lead 12 h",
        ),
        ((0.0, 1.9), "drift", "varies far more, or far less, than in the training period, the first at lead 12 h"),
    ],
)
def test_d10_an_output_that_cannot_be_is_refused(
    series: xr.Dataset, forecaster: Forecaster, network: tuple[float, ...], refuse: str, match: str
) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        drifting(forecaster, *network).predict(series, refuse=refuse)
    assert caught.value.kind == ErrorKind.OUTPUT_INVALID
    with pytest.raises(StforecastError, match="refuse must be one of nothing, impossible, drift, not 'all'"):
        forecaster.predict(series, refuse="all")


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_d10_an_output_that_cannot_be_is_not_published(
    tmp_path: Path, series: xr.Dataset, forecaster: Forecaster, suffix: str
) -> None:
    path = tmp_path / f"forecast.{suffix}"
    if suffix == "nc":
        predict(series, forecaster, output=path)
    before = path.read_bytes() if suffix == "nc" else None
    with pytest.raises(StforecastError, match="has values that are not finite") as caught:
        predict(series, drifting(forecaster, float("nan")), output=path)
    assert caught.value.kind == ErrorKind.OUTPUT_INVALID
    assert (path.read_bytes() if path.exists() else None) == before


def test_the_envelope_is_that_of_the_training_period(store: Path, forecaster: Forecaster) -> None:
    scores = stf.open_store(store, normalized=True)
    train = scores.isel(time=forecaster.split.part_rows(scores["time"].to_numpy(), "train"))
    means = train.mean(("latitude", "longitude"))
    assert forecaster.envelope is not None
    for channel, name in enumerate(("t2m", "u10")):
        ends = [float(means[name].min()), float(means[name].max())]
        np.testing.assert_allclose(forecaster.envelope.mean[channel], ends, atol=1e-6)
    halves = [
        Envelope.of(train.isel(time=some).to_array().transpose("time", ...).to_numpy())
        for some in (slice(30), slice(30, None))
    ]
    np.testing.assert_allclose(halves[0].merge(halves[1]).mean, forecaster.envelope.mean, atol=1e-6)


def kelvin_called_celsius(series: xr.Dataset) -> xr.Dataset:
    return series.assign(t2m=(series["t2m"] + 0).assign_attrs(units="degC"))


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (kelvin_called_celsius, ErrorKind.RANGE, "variable t2m in K should be 150 to 350 but has"),
        (
            lambda s: s.assign(u10=((s["u10"] - 290) / 6).assign_attrs(units="K")),
            ErrorKind.STATS,
            "variable u10 is .* standard deviations away .* or are normalized already",
        ),
    ],
)
def test_u03_u05_values_that_their_units_belie_are_refused(
    series: xr.Dataset, forecaster: Forecaster, change, kind: ErrorKind, match: str
) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        forecaster.predict(change(series))
    assert caught.value.kind == kind


def test_u01_units_go_out_as_they_came_in(series: xr.Dataset, forecaster: Forecaster) -> None:
    celsius = series.assign(t2m=(series["t2m"] - 273.15).assign_attrs(series["t2m"].attrs, units="degC"))
    expected, forecast = (forecaster.predict(some) for some in (series, celsius))
    assert forecast["t2m"].attrs["units"] == "degC"
    np.testing.assert_allclose(forecast["t2m"] + 273.15, expected["t2m"], atol=2e-4)
