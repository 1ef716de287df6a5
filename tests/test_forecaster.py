import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import xarray as xr
from factory import make_city, make_series, make_times
from torch import nn

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.fitting import fit
from stforecast.forecaster import Forecaster
from stforecast.models.inference import Backend
from stforecast.networks import Context, NetworkConfig
from stforecast.normalization import Normalization
from stforecast.prediction import predict
from stforecast.split import Split
from stforecast.store import layout, prepare
from stforecast.training import TrainingConfig, _Told
from stforecast.windows import WindowLoader, window_starts

SMALL = NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2, drop_path=0.0)
SHORT = TrainingConfig(epochs=2, batch_size=8)


def prepared(series: xr.Dataset, path: Path, **options: bool) -> xr.Dataset:
    return prepare(series, path, Split.by_fraction(series["time"].to_numpy()), **options)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    series = make_series(variables=("t2m", "u10"))
    return prepared(series, tmp_path_factory.mktemp("stores") / "s.zarr").load()


@pytest.fixture(scope="module")
def forecaster(stored: xr.Dataset) -> Forecaster:
    return fit(stored, history=4, horizon=3, network=SMALL, training=SHORT)


@pytest.fixture(scope="module")
def repeats(forecaster: Forecaster) -> Forecaster:
    """A forecaster whose network gives its input back, so that every number of a forecast is known."""
    return replace(forecaster, network=nn.Identity())


def test_u06_c17_a_forecast_is_labelled_and_in_physical_units(stored: xr.Dataset, repeats: Forecaster) -> None:
    init_times = stored["time"].to_numpy()[[10, 11, 40]]
    forecast = repeats.predict(stored, init_times=init_times)
    # What the network sees at row 10 are rows 7..10, and it gives them back as leads 1..4, of which 3 are kept.
    expected = np.stack([stored["t2m"].to_numpy()[row - 3 : row] for row in (10, 11, 40)])
    assert forecast["t2m"].dims == ("init_time", "lead_time", "latitude", "longitude")
    np.testing.assert_allclose(forecast["t2m"], expected, atol=6e-5)
    np.testing.assert_array_equal(forecast["valid_time"][:, 1] - forecast["init_time"], np.timedelta64(12, "h"))
    assert forecast["u10"].attrs == stored["u10"].attrs
    for axis in ("latitude", "longitude"):
        xr.testing.assert_identical(forecast[axis].variable, stored[axis].variable)


def test_the_default_init_time_is_the_last_frame(stored: xr.Dataset, forecaster: Forecaster) -> None:
    forecast = forecaster.predict(stored)
    assert forecast.sizes["init_time"] == 1
    assert forecast["init_time"].item() == stored["time"][-1].item()


def test_a_rollout_uses_only_what_was_fitted(stored: xr.Dataset, forecaster: Forecaster) -> None:
    class Counts(nn.Module):
        """Adds one a frame to the last frame for the three fitted frames, and nonsense for the fourth."""

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            ahead = torch.tensor([1.0, 2.0, 3.0, 99.0])[None, :, None, None, None]
            return frames[:, -1:] + ahead

    counts = replace(forecaster, network=Counts())
    scale = json.loads(stored.attrs["normalization"])["t2m"]["scale"]
    forecast = counts.predict(stored, horizon=8)["t2m"][0]
    steps = (forecast - stored["t2m"][-1]).mean(("latitude", "longitude")) / scale
    np.testing.assert_allclose(steps, np.arange(1, 9), rtol=1e-4)


def test_a_longer_horizon_is_a_rollout_and_a_shorter_one_a_slice(stored: xr.Dataset, repeats: Forecaster) -> None:
    whole = repeats.predict(stored, horizon=8)
    a, b, c, d = stored["t2m"].to_numpy()[-4:]
    # Fitted on three frames: of a, b, c, d come a, b, c; then of d, a, b, c come d, a, b; then of c, d, a, b come c, d.
    np.testing.assert_allclose(whole["t2m"][0], np.stack([a, b, c, d, a, b, c, d]), atol=6e-5)
    xr.testing.assert_identical(repeats.predict(stored, horizon=2), whole.isel(lead_time=slice(2)))


@pytest.mark.parametrize("backend", ["eager", "folded"])
def test_a_backend_changes_no_number_beyond_rounding(
    stored: xr.Dataset, forecaster: Forecaster, backend: Backend
) -> None:
    init_times = stored["time"].to_numpy()[10:40]
    expected = forecaster.predict(stored, init_times=init_times, horizon=5)
    result = forecaster.predict(stored, init_times=init_times, horizon=5, backend=backend)
    xr.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("openvino", "nncf")),
    reason="openvino and nncf are not installed",
)
def test_a_forecast_in_8_bits_says_so_and_hardly_depends_on_its_batches(
    stored: xr.Dataset, forecaster: Forecaster
) -> None:
    init_times = stored["time"].to_numpy()[10:40]
    expected = forecaster.predict(stored, init_times=init_times, horizon=5)
    result = forecaster.predict(stored, init_times=init_times, horizon=5, backend="int8")
    spread = float(expected["t2m"].std())
    assert float(np.sqrt(((result - expected)["t2m"] ** 2).mean())) < 0.02 * spread
    assert result.attrs["source"] == f"{expected.attrs['source']}, in 8 bits"
    again = forecaster.predict(stored, init_times=init_times, horizon=5, backend="int8", batch_size=7)
    xr.testing.assert_allclose(again, result, rtol=1e-6)


def flipped(series: xr.Dataset) -> xr.Dataset:
    return series.isel(latitude=slice(None, None, -1))


def rolled(series: xr.Dataset) -> xr.Dataset:
    # By two of six: a roll by half the circle would be its own inverse.
    moved = series.roll(longitude=2, roll_coords=True)
    attrs = series["longitude"].attrs
    return moved.assign_coords(longitude=("longitude", (moved["longitude"].to_numpy() + 120) % 360 - 120, attrs))


@pytest.mark.parametrize(
    "change",
    [
        flipped,
        rolled,
        lambda s: s.transpose("longitude", "time", "latitude"),
        lambda s: s[["u10", "t2m"]],
        lambda s: s.chunk(time=3, latitude=2),
        lambda s: s.rename(latitude="lat", longitude="lon"),
        lambda s: s.astype(np.float64),
    ],
    ids=["latitude", "longitude", "transposed", "variables", "chunks", "names", "float64"],
)
def test_f01_f02_f04_f06_how_the_caller_holds_the_data_changes_no_number(
    stored: xr.Dataset, forecaster: Forecaster, change: Callable[[xr.Dataset], xr.Dataset]
) -> None:
    init_times = stored["time"].to_numpy()[[20, 50]]
    expected = forecaster.predict(stored, init_times=init_times)
    changed = change(stored)
    result = forecaster.predict(changed, init_times=init_times)
    assert set(result["t2m"].dims[2:]) == set(changed["t2m"].dims) - {"time"}
    for name in result["t2m"].dims[2:]:
        np.testing.assert_array_equal(result[name], changed[name])
    back = result.rename({"lat": "latitude", "lon": "longitude"}) if "lat" in result.dims else result
    back = back.assign_coords(longitude=back["longitude"] % 360).sortby(["latitude", "longitude"])
    for name in ("t2m", "u10"):
        np.testing.assert_array_equal(back[name].to_numpy(), expected[name].to_numpy())


def test_init_times_have_whole_history_and_truth(stored: xr.Dataset, forecaster: Forecaster) -> None:
    gappy = stored.isel(time=[row for row in range(80) if row != 30])
    times = gappy["time"].to_numpy()
    init_times = forecaster.init_times(gappy, horizon=3)
    rows = np.searchsorted(times, init_times)
    np.testing.assert_array_equal(rows, [*range(3, 27), *range(33, 76)])


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (3, 6)])
def test_odd_grids_are_forecast_on_their_own_cells(tmp_path: Path, shape: tuple[int, int]) -> None:
    series = prepared(make_series(shape=shape), tmp_path / "s.zarr")
    forecast = fit(series, history=4, horizon=2, network=SMALL, training=SHORT).predict(series)
    assert forecast["t2m"].shape == (1, 2, *shape)


def test_levels_come_back_as_levels(tmp_path: Path) -> None:
    series = prepared(make_series(levels=(500.0, 850.0)), tmp_path / "s.zarr")
    fitted = replace(fit(series, history=4, horizon=2, network=SMALL, training=SHORT), network=nn.Identity())
    forecast = fitted.predict(series.sel(level=[850.0, 500.0]))
    assert forecast["t2m"].dims == ("init_time", "lead_time", "level", "latitude", "longitude")
    xr.testing.assert_allclose(
        forecast["t2m"].isel(init_time=0, lead_time=0, drop=True).sortby("level"),
        series["t2m"].isel(time=-4, drop=True),
        atol=6e-5,
        rtol=0,
    )


@pytest.mark.parametrize(
    "dims", [("time", "latitude", "longitude", "level"), ("level", "time", "latitude", "longitude")]
)
def test_levels_in_any_order_of_dimensions_change_no_number(tmp_path: Path, dims: tuple[str, ...]) -> None:
    # As many levels as rows and as frames in the history, so that a wrong axis would not even fail.
    levels = (500.0, 700.0, 850.0, 1000.0)
    series = prepared(make_series(levels=levels, shape=(4, 4)), tmp_path / "s.zarr").load()
    fitted = fit(series, history=4, horizon=2, network=SMALL, training=SHORT)
    expected = fitted.predict(series.isel(time=slice(-4, None)))
    result = fitted.predict(series.isel(time=slice(-4, None)).transpose(*dims))
    np.testing.assert_array_equal(result["t2m"].transpose(*expected["t2m"].dims), expected["t2m"])
    again = fit(series.transpose(*dims), history=4, horizon=2, network=SMALL, training=SHORT)
    assert again.weights_hash() == fitted.weights_hash()


def test_levels_in_other_units_are_other_levels(tmp_path: Path) -> None:
    series = prepared(make_series(levels=(500.0, 850.0)), tmp_path / "s.zarr").load()
    fitted = fit(series, history=4, horizon=2, network=SMALL, training=SHORT)
    series["level"].attrs["units"] = "Pa"
    with pytest.raises(StforecastError, match=r"t2m lacks the level.s. 500, 850 hPa; it has \[500.0, 850.0\] Pa"):
        fitted.predict(series)


def test_variables_that_the_model_does_not_want_do_no_harm(stored: xr.Dataset, forecaster: Forecaster) -> None:
    more = stored.assign(mask=stored["t2m"][0] * 0, bounds=("time", np.zeros(80)))
    xr.testing.assert_identical(forecaster.predict(more), forecaster.predict(stored))


def test_u06_normalized_data_are_refused_by_fit_and_predict(tmp_path: Path, forecaster: Forecaster) -> None:
    prepared(make_series(variables=("t2m", "u10")), tmp_path / "s.zarr")
    normalized = stf.open_store(tmp_path / "s.zarr", normalized=True)
    for call in (fit, forecaster.predict, lambda series: stf.evaluate(forecaster.predict(series), series)):
        with pytest.raises(StforecastError, match="variable t2m is normalized .z-score., where physical values"):
            call(normalized)
    with pytest.raises(StforecastError, match="variable t2m is normalized"):
        prepare(xr.open_zarr(tmp_path / "s.zarr"), tmp_path / "again.zarr", forecaster.split)


def test_data_in_other_units_than_their_statistics_are_refused(stored: xr.Dataset) -> None:
    celsius = stored.assign(t2m=(stored["t2m"] - 273.15).assign_attrs(stored["t2m"].attrs, units="degC"))
    with pytest.raises(StforecastError, match="variable t2m is in 'degC' but its statistics are in 'K'"):
        fit(celsius, history=4, horizon=2, network=SMALL, training=SHORT)


def test_a_forecast_says_what_split_its_model_was_fitted_by(stored: xr.Dataset, forecaster: Forecaster) -> None:
    assert Split.from_attrs(forecaster.predict(stored).attrs) == forecaster.split


def test_verified_forecasts_are_all_whose_valid_times_lie_in_the_part(
    stored: xr.Dataset, forecaster: Forecaster
) -> None:
    # Rows 64..79 are the test part: three steps ahead, from the last frame before it on.
    times = stored["time"].to_numpy()
    np.testing.assert_array_equal(forecaster.init_times(stored, part="test"), times[63:77])
    np.testing.assert_array_equal(forecaster.init_times(stored, part="test", horizon=1), times[63:79])


@pytest.mark.parametrize("stride", [1, 4])
def test_a_backtest_is_a_forecast_from_each_init_time_of_the_test_period(
    stored: xr.Dataset, forecaster: Forecaster, stride: int
) -> None:
    expected = forecaster.predict(stored, init_times=forecaster.init_times(stored, part="test")[::stride])
    xr.testing.assert_identical(forecaster.backtest(stored, stride=stride), expected)


def test_a_backtest_keeps_its_rhythm_behind_a_gap(stored: xr.Dataset, forecaster: Forecaster) -> None:
    gappy = stored.isel(time=[row for row in range(80) if row != 30])
    inits = forecaster.backtest(gappy, start="2016-01-05", stride=4, horizon=2)["init_time"].to_numpy()
    rows = np.searchsorted(stored["time"].to_numpy(), inits)
    # Rows 29 and 30 have no whole truth, 31 to 33 no whole history.
    np.testing.assert_array_equal(rows, [row for row in range(16, 78, 4) if row not in (28, 32)])


def test_residuals_are_truth_minus_forecast(stored: xr.Dataset, forecaster: Forecaster) -> None:
    forecast = forecaster.backtest(stored, stride=3)
    residuals = forecaster.residuals(stored, stride=3)
    truth = stored.sel(time=forecast["valid_time"]).drop_vars("time")
    for name in ("t2m", "u10"):
        np.testing.assert_allclose(residuals[name] + forecast[name], truth[name], rtol=1e-6)
        assert residuals[name].attrs["units"] == "K"


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"stride": 0}, ErrorKind.ARGUMENT, "stride must be at least 1, not 0"),
        ({"start": "2017"}, ErrorKind.TIME_RANGE, "from 2017-01-01T00:00 on no init time has .* 2016-01-20T00:00"),
    ],
)
def test_a_backtest_of_nothing_is_named(
    stored: xr.Dataset, forecaster: Forecaster, options: dict, kind: ErrorKind, match: str
) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        forecaster.backtest(stored, **options)
    assert caught.value.kind == kind


def test_a_horizon_longer_than_the_part_is_named(stored: xr.Dataset, forecaster: Forecaster) -> None:
    with pytest.raises(
        StforecastError, match="no forecast of 30 steps from 4 frames lies in the test period, which has 16"
    ):
        forecaster.init_times(stored, part="test", horizon=30)
    with pytest.raises(StforecastError, match="horizon must be at least 0, not -1"):
        forecaster.init_times(stored, horizon=-1)


def test_counts_are_never_negative_and_keep_their_clock(tmp_path: Path) -> None:
    city = prepared(make_city(), tmp_path / "s.zarr")
    fitted = fit(city, history=4, horizon=2, network=SMALL, training=SHORT)
    with torch.no_grad():
        for weight in fitted.network.parameters():
            weight.mul_(-3)
    forecast = fitted.predict(city, init_times=fitted.init_times(city))
    assert float(forecast.to_array().min()) == 0
    assert forecast["valid_time"].attrs["time_zone"] == "America/New_York"


def test_training_beats_persistence_on_waves(tmp_path: Path) -> None:
    series = prepared(make_series(200, shape=(6, 12)), tmp_path / "s.zarr")
    fitted = fit(
        series,
        history=4,
        horizon=2,
        network=replace(SMALL, hidden_temporal=16),
        training=TrainingConfig(epochs=10, batch_size=8, learning_rate=3e-3),
    )
    test = fitted.split.select(series, "test")
    forecast = fitted.predict(test, init_times=fitted.init_times(test, horizon=2))
    truth = series["t2m"].sel(time=forecast["valid_time"])
    error = np.sqrt(((forecast["t2m"] - truth) ** 2).mean(("init_time", "latitude", "longitude")))
    last = series["t2m"].sel(time=forecast["init_time"])
    persistence = np.sqrt(((last - truth) ** 2).mean(("init_time", "latitude", "longitude")))
    assert (error < 0.7 * persistence).all()


def test_cat_i07_the_test_period_has_no_part_in_a_fit(tmp_path: Path) -> None:
    series = make_series()
    spoiled = series.copy(deep=True)
    spoiled["t2m"][64:] += 50
    weights = [
        fit(prepared(some, tmp_path / name), history=4, horizon=2, network=SMALL, training=SHORT).weights_hash()
        for name, some in (("a.zarr", series), ("b.zarr", spoiled))
    ]
    assert weights[0] == weights[1]


def test_o06_the_seed_decides_the_weights_and_leaves_the_callers_generator_alone(stored: xr.Dataset) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    hashes = [
        fit(stored, history=4, horizon=2, network=SMALL, training=replace(SHORT, seed=seed)).weights_hash()
        for seed in (1, 1, 2)
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_validation_chooses_the_weights(stored: xr.Dataset) -> None:
    training = fit(
        stored, history=4, horizon=2, network=SMALL, training=replace(SHORT, epochs=4, learning_rate=0.05)
    ).training
    assert training["best_epoch"] == int(np.argmin(training["validation_loss"]))
    assert len(training["training_loss"]) == 4
    assert training["windows"] == {"train": 51, "validation": 3}


def test_the_weights_kept_are_those_of_the_best_epoch(stored: xr.Dataset) -> None:
    # So many epochs that the last is not the best: what is kept must have the best epoch's loss.
    config = TrainingConfig(epochs=25, batch_size=8, learning_rate=0.05)
    fitted = fit(stored, history=4, horizon=2, network=SMALL, training=config)
    assert fitted.training["best_epoch"] < 24
    normalization = Normalization.from_json(stored.attrs["normalization"])
    frames = torch.from_numpy(fitted.channels.stack(normalization.apply(stored)))
    times = stored["time"].to_numpy()
    starts = window_starts(times, fitted.step, 6, part=fitted.split.part_rows(times, "validation"))
    errors = []
    with torch.inference_mode():
        for history, target, _ in WindowLoader(frames, starts, 4, 2, 100):
            errors.append(((fitted.network(history)[:, :2] - target) ** 2).mean().item())
    np.testing.assert_allclose(np.mean(errors), min(fitted.training["validation_loss"]), rtol=1e-5)


def test_each_epoch_takes_the_windows_in_another_order() -> None:
    loader = WindowLoader(torch.zeros(40, 1, 2, 2), np.arange(30), 4, 2, 30, seed=1)
    epochs = _Told(loader, Context(make_times(40), np.timedelta64(6, "h"), 4), 4)
    orders = [next(iter(epochs))[2].tolist() for _ in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert all(sorted(order) == list(range(30)) for order in orders)


def test_saving_and_loading_changes_nothing(tmp_path: Path, stored: xr.Dataset, forecaster: Forecaster) -> None:
    folder = forecaster.save(tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == [
        "calibration.safetensors",
        "model.json",
        "weights.safetensors",
    ]
    loaded = Forecaster.load(folder)
    xr.testing.assert_identical(loaded.predict(stored), forecaster.predict(stored))
    assert loaded.grid == forecaster.grid
    assert (loaded.channels, loaded.split, loaded.config) == (forecaster.channels, forecaster.split, forecaster.config)
    assert (loaded.step, loaded.history, loaded.horizon) == (forecaster.step, forecaster.history, forecaster.horizon)
    assert json.loads(json.dumps(forecaster.training)) == loaded.training
    xr.testing.assert_identical(predict(stored, folder), predict(stored, loaded))


def test_a_model_in_half_precision_takes_half_the_room(
    tmp_path: Path, stored: xr.Dataset, forecaster: Forecaster
) -> None:
    whole, half = forecaster.save(tmp_path / "whole"), forecaster.save(tmp_path / "half", half=True)
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in (half, whole)]
    # Names take the same room in both.
    assert sizes[0] < 0.7 * sizes[1]
    loaded = Forecaster.load(half)
    assert all(value.dtype == torch.float32 for value in loaded.network.parameters())
    assert loaded.weights_hash() == Forecaster.load(half).weights_hash() != forecaster.weights_hash()
    np.testing.assert_allclose(loaded.predict(stored)["t2m"], forecaster.predict(stored)["t2m"], atol=0.05)


def test_an_existing_folder_is_not_overwritten(tmp_path: Path, forecaster: Forecaster) -> None:
    forecaster.save(tmp_path / "model")
    with pytest.raises(StforecastError, match="is there already"):
        forecaster.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("place", [0, 40, 2000, -1])
def test_m02_j04_a_flipped_bit_in_the_weights_is_refused(tmp_path: Path, forecaster: Forecaster, place: int) -> None:
    path = forecaster.save(tmp_path / "model") / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(StforecastError, match=r"weights.safetensors is not what model.json was written with") as caught:
        Forecaster.load(tmp_path / "model")
    assert caught.value.kind == ErrorKind.CKPT_CORRUPT


@pytest.mark.parametrize(
    ("spoil", "kind", "match"),
    [
        (
            lambda text: text.replace('"units": "K"', '"units": "degC"'),
            ErrorKind.CKPT_CORRUPT,
            "was changed after it was written",
        ),
        (lambda text: text[:-40], ErrorKind.CKPT_CORRUPT, "is not a whole description"),
        (lambda text: "[]", ErrorKind.CKPT_CORRUPT, "is not a whole description"),
        (
            lambda text: text.replace('"stforecast_model_version": 2', '"stforecast_model_version": 7'),
            ErrorKind.STORE_VERSION,
            "has model version 7, this stforecast reads version 2",
        ),
    ],
)
def test_b13_j03_j04_a_changed_description_is_refused(
    tmp_path: Path, forecaster: Forecaster, spoil, kind: ErrorKind, match: str
) -> None:
    path = forecaster.save(tmp_path / "model") / "model.json"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(StforecastError, match=match) as caught:
        Forecaster.load(tmp_path / "model")
    assert caught.value.kind == kind


def resigned(path: Path, change: Callable[[dict], None]) -> None:
    """Change a description and sign it anew, as a tool that knows the format would."""
    described = json.loads(path.read_text())
    described.pop("sha256")
    change(described)
    path.write_text(json.dumps(described | {"sha256": stf.forecaster._digest(described)}))


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (lambda d: d.pop("normalization"), ErrorKind.CKPT_INCOMPLETE, "lacks or misstates 'normalization'"),
        (lambda d: d.pop("grid"), ErrorKind.CKPT_INCOMPLETE, "lacks or misstates 'grid'"),
        (
            lambda d: d["network"].update(hidden_temporal=12),
            ErrorKind.CKPT_MISMATCH,
            "do not fit the network .* Unexpected key.*enc.1.reduction.weight.* size mismatch for .*enc.0.reduction",
        ),
        (
            lambda d: d["network"].update(temporal_layers=3),
            ErrorKind.CKPT_MISMATCH,
            "do not fit the network .* Missing key.*enc.2.reduction.weight.* Unexpected key.*enc.1.reduction.weight",
        ),
    ],
)
def test_j05_j07_a_description_that_does_not_fit_is_refused(
    tmp_path: Path, forecaster: Forecaster, change, kind: ErrorKind, match: str
) -> None:
    resigned(forecaster.save(tmp_path / "model") / "model.json", change)
    with pytest.raises(StforecastError, match=match) as caught:
        Forecaster.load(tmp_path / "model")
    assert caught.value.kind == kind


def test_j09_what_was_checked_is_what_is_used(
    tmp_path: Path, stored: xr.Dataset, forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = forecaster.save(tmp_path / "model"), safetensors.torch.load

    def replaced_meanwhile(content: bytes) -> dict[str, torch.Tensor]:
        # The sum was compared already when the weights are parsed.
        (folder / "weights.safetensors").write_bytes(b"of another model")
        return read(content)

    monkeypatch.setattr(safetensors.torch, "load", replaced_meanwhile)
    assert Forecaster.load(folder).weights_hash() == forecaster.weights_hash()
    with pytest.raises(StforecastError, match="is not what model.json was written with"):
        Forecaster.load(folder)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match="nowhere is no saved forecaster: model.json is missing"):
        Forecaster.load(tmp_path / "nowhere")


def nan_at(series: xr.Dataset, row: int) -> xr.Dataset:
    spoiled = series.copy(deep=True)
    spoiled["u10"][row, 1, 2] = np.nan
    return spoiled


@pytest.mark.parametrize(
    ("change", "options", "kind", "match"),
    [
        (lambda s: s[["t2m"]], {}, ErrorKind.CHANNELS, "the model wants t2m, u10 but the series lacks u10"),
        (lambda s: s.isel(latitude=slice(3)), {}, ErrorKind.GRID_SHAPE, "wanted the grid 4x6 .* but the data have 3x6"),
        (lambda s: s.isel(time=slice(None, None, 2)), {}, ErrorKind.TIME_FREQ, "steps by 6 h but the series by 12 h"),
        (lambda s: s.isel(time=slice(3)), {}, ErrorKind.TIME_SHORT, "needs 4 frames up to .* the series has 3"),
        (
            lambda s: s.isel(time=[*range(77), 78, 79]),
            {},
            ErrorKind.TIME_GAP,
            "history of init time 2016-01-20T18:00 has 1 gap",
        ),
        (lambda s: s, {"init_times": "2016-03-01"}, ErrorKind.TIME_RANGE, "init time 2016-03-01T00:00 is not a frame"),
        (lambda s: s, {"init_times": "2016-01-05T01"}, ErrorKind.TIME_RANGE, "2016-01-05T01:00 is not a frame"),
        (lambda s: s, {"init_times": "soon"}, ErrorKind.ARGUMENT, "init_times 'soon' are not times"),
        (
            lambda s: s,
            {"init_times": ["2016-01-05", "2016-01-05"]},
            ErrorKind.TIME_DUPLICATE,
            "init_times has 1 duplicate",
        ),
        (lambda s: s, {"horizon": 0}, ErrorKind.ARGUMENT, "horizon must be at least 1, not 0"),
        (lambda s: nan_at(s, 78), {}, ErrorKind.NAN, "variable u10 has 1 nan .* at 2016-01-20T12:00, latitude -20"),
        (lambda s: s.assign(u10=s["u10"].assign_attrs(units="m")), {}, ErrorKind.UNITS, "variable u10 is in 'm'"),
    ],
)
def test_i11_c02_d01_f03_f06_p06_u01_a_series_unlike_the_models_is_refused_by_name(
    stored: xr.Dataset, forecaster: Forecaster, change, options: dict, kind: ErrorKind, match: str
) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        forecaster.predict(change(stored), **options)
    assert caught.value.kind == kind


@pytest.mark.parametrize("given", [None, {}, "series.nc", np.zeros((80, 4, 6)), make_series()["t2m"]], ids=type)
def test_p05_what_is_no_dataset_is_a_type_error(forecaster: Forecaster, given: object) -> None:
    with pytest.raises(TypeError, match=f"wanted an xarray.Dataset, got {type(given).__name__}; a DataArray has"):
        predict(given, forecaster)


def with_time(series: xr.Dataset, times: np.ndarray, **attrs: str) -> xr.Dataset:
    return series.assign_coords(time=("time", times, {"standard_name": "time"} | attrs))


def with_value(series: xr.Dataset, value: float) -> xr.Dataset:
    spoiled = series.copy(deep=True)
    spoiled["u10"][78, 1, 2] = value
    return spoiled


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (lambda s: s.expand_dims(member=3), ErrorKind.DIMS, r"variable t2m has dimensions \('member', 'time'"),
        (lambda s: s.drop_vars("latitude"), ErrorKind.SHAPE, "latitude of the series have no coordinates.* 4x6"),
        (
            lambda s: s.rename(latitude="a", longitude="b").drop_vars(["a", "b"]),
            ErrorKind.DIMS,
            r"wanted one latitude \(Y\) dimension among \['a', 'b', 'time'\]",
        ),
        (lambda s: s.drop_vars("time"), ErrorKind.TIME_UNITS, "time has no times"),
        (lambda s: s.assign(u10=s["u10"].astype(str)), ErrorKind.SHAPE, "variable u10 is <U"),
        (lambda s: s.isel(latitude=slice(0)), ErrorKind.SHAPE, r"latitude has shape \(0,\)"),
        (lambda s: s.isel(time=slice(0)), ErrorKind.TIME_SHORT, "the model needs 4 frames: time has 0 frame"),
        (lambda s: s.isel(time=[79]), ErrorKind.TIME_SHORT, "the model needs 4 frames: time has 1 frame"),
        (
            lambda s: with_time(s, np.arange(80.0) * 6, units="hours"),
            ErrorKind.TIME_UNITS,
            "time holds float64 values .the first is 0.0, and its units are 'hours'., not times",
        ),
        (
            lambda s: s.isel(time=[*range(80), 79]),
            ErrorKind.TIME_DUPLICATE,
            "1 duplicate timestamp .2016-01-20T18:00.",
        ),
        (
            lambda s: s.isel(time=slice(None, None, -1)),
            ErrorKind.TIME_ORDER,
            "2016-01-20T12:00 follows 2016-01-20T18:00 at row 1",
        ),
        (
            lambda s: s.isel(time=[*range(0, 60, 2), *range(60, 80)]),
            ErrorKind.TIME_FREQ,
            "steps by 12 h but 2016-01-16T06:00 comes 6 h after",
        ),
        (
            lambda s: with_value(s, np.inf),
            ErrorKind.INF,
            "variable u10 has 1 inf .* at 2016-01-20T12:00, latitude -20, longitude 120",
        ),
        (
            lambda s: with_value(s, 1e20),
            ErrorKind.RANGE,
            "variable u10 .* the first 1e.20 at 2016-01-20T12:00, latitude -20, longitude 120; it looks like a fill",
        ),
    ],
)
def test_a08_b01_c01_c03_c05_d04_d05_p05_p06_what_is_no_series_is_not_forecast_from(
    stored: xr.Dataset, forecaster: Forecaster, change, kind: ErrorKind, match: str
) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        predict(change(stored), forecaster)
    assert caught.value.kind == kind


def test_l05_memory_that_a_forecast_cannot_get_is_named(stored: xr.Dataset, forecaster: Forecaster) -> None:
    class Greedy(nn.Module):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return frames + torch.empty(2**50)

    match = r"there is too little memory \(.*\): lower batch_size \(16\)"
    with pytest.raises(StforecastError, match=match) as caught:
        replace(forecaster, network=Greedy()).predict(stored)
    assert caught.value.kind == ErrorKind.MEMORY_BUDGET


def test_a_nan_that_no_forecast_sees_does_no_harm(stored: xr.Dataset, forecaster: Forecaster) -> None:
    init_times = stored["time"].to_numpy()[[10, 70]]
    xr.testing.assert_identical(
        forecaster.predict(nan_at(stored, 40), init_times=init_times), forecaster.predict(stored, init_times=init_times)
    )


def test_d10_an_output_that_is_not_finite_is_never_given(stored: xr.Dataset, forecaster: Forecaster) -> None:
    class Broken(nn.Module):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return frames / 0

    match = "forecast of t2m from 2016-01-20T18:00 has values that are not finite, the first at lead 6 h"
    with pytest.raises(StforecastError, match=match) as caught:
        replace(forecaster, network=Broken()).predict(stored)
    assert caught.value.kind == ErrorKind.OUTPUT_INVALID


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"history": 60}, "train period has no whole window: a history of 60 and a horizon of 3 need 63 frames 6 h"),
        ({"history": 7}, "validation period has no whole window: .* it holds 8 frames from 2016-01-15T00:00"),
        ({"history": 500}, "train period has no whole window"),
    ],
)
def test_too_few_frames_for_one_window_are_named(stored: xr.Dataset, options: dict, match: str) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        fit(stored, horizon=3, network=SMALL, training=SHORT, **options)
    assert caught.value.kind == ErrorKind.TIME_SHORT


def test_m05_d09_a_loss_that_is_not_finite_stops_with_epoch_and_windows(stored: xr.Dataset) -> None:
    with pytest.raises(
        StforecastError, match="loss became nan in epoch 0, batch .* begin at 2016-01-.*learning_rate"
    ) as caught:
        fit(
            stored,
            history=4,
            horizon=3,
            network=SMALL,
            training=TrainingConfig(epochs=3, batch_size=8, learning_rate=1e38, gradient_clip=1e38),
        )
    assert caught.value.kind == ErrorKind.TRAIN_DIVERGED


@pytest.fixture
def long_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of many small shards."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 384)
    monkeypatch.setattr(layout, "SHARD_BYTES", 1536)
    prepared(make_series(800), tmp_path / "long.zarr")
    return tmp_path / "long.zarr"


def test_i12_a_store_larger_than_the_limit_is_learnt_from_as_a_stream(long_store: Path) -> None:
    def fitted(memory_limit: int | None) -> Forecaster:
        config = TrainingConfig(epochs=2, batch_size=8)
        return fit(long_store, history=2, horizon=1, network=SMALL, training=config, memory_limit=memory_limit)

    whole, streamed = fitted(None), fitted(52_000)
    assert whole.training["streamed_within"] == {}
    assert streamed.training["streamed_within"] == {"train": 39_000, "validation": 13_000}
    assert streamed.training["windows"] == whole.training["windows"]
    # The windows are the same; only the order in which they come is another.
    np.testing.assert_allclose(streamed.training["training_loss"], whole.training["training_loss"], rtol=0.1)
    np.testing.assert_allclose(streamed.training["validation_loss"], whole.training["validation_loss"], rtol=0.1)


def test_a_stream_that_is_gone_on_with_is_read_within_the_same_memory(long_store: Path, tmp_path: Path) -> None:
    def fitted(folder: str, memory_limit: int | None) -> Forecaster:
        config = TrainingConfig(epochs=1, batch_size=8)
        options = {"history": 2, "horizon": 1, "network": SMALL, "training": config}
        return fit(long_store, run=tmp_path / folder, memory_limit=memory_limit, **options)

    streamed, other = fitted("run", 52_000), fitted("other", 60_000)
    assert streamed.weights_hash() != other.weights_hash()
    again = fitted("run", None)
    assert again.training["streamed_within"] == {"train": 39_000, "validation": 13_000}
    assert again.weights_hash() == streamed.weights_hash()
    with pytest.raises(StforecastError, match="streamed within train was 39000, now 45000") as caught:
        fitted("run", 60_000)
    assert caught.value.kind == ErrorKind.RESUME_MISMATCH


def test_a_store_that_was_opened_is_learnt_from_as_its_path_is(long_store: Path, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=1, batch_size=8)
    options = {"history": 2, "horizon": 1, "network": SMALL, "training": config}
    for folder, limit in (("streamed", 52_000), ("whole", None)):
        options |= {"run": tmp_path / folder, "memory_limit": limit}
        by_path, opened = (fit(some, **options) for some in (long_store, stf.open_store(long_store)))
        assert bool(opened.training["streamed_within"]) == (limit is not None)
        assert opened.weights_hash() == by_path.weights_hash()


def test_a_part_of_a_stores_variables_is_learnt_by_itself(tmp_path: Path) -> None:
    opened = prepared(make_series(variables=("t2m", "u10")), tmp_path / "s.zarr")
    forecaster = fit(opened[["u10"]], history=2, horizon=1, network=SMALL, training=SHORT)
    assert list(forecaster.predict(opened).data_vars) == ["u10"]
    assert set(forecaster.normalization.variables) == {"u10"}


def test_l01_data_that_do_not_fit_in_memory_are_refused_with_what_to_do(long_store: Path) -> None:
    options = {"history": 2, "horizon": 1, "network": SMALL, "training": SHORT}
    with pytest.raises(StforecastError, match=r"take 61,440 bytes, more than the 9,999 .* pass the path") as caught:
        fit(stf.open_store(long_store).isel(latitude=slice(None, None, -1)), memory_limit=9_999, **options)
    assert caught.value.kind == ErrorKind.MEMORY_BUDGET
    with pytest.raises(StforecastError, match="memory limit of .* is too little"):
        fit(long_store, memory_limit=9_999, **options)


@pytest.mark.parametrize("name", ["history", "horizon"])
def test_lengths_below_one_are_refused_before_the_fit(stored: xr.Dataset, name: str) -> None:
    with pytest.raises(StforecastError, match=f"{name} must be at least 1, not 0"):
        fit(stored, **{name: 0})


def test_a_dataset_without_a_store_is_fitted_on_as_its_store_is(tmp_path: Path) -> None:
    series = make_series()
    split = Split.by_fraction(series["time"].to_numpy())
    options = {"history": 4, "horizon": 3, "network": SMALL, "training": SHORT}
    by_store = fit(prepare(series, tmp_path / "s.zarr", split), **options)
    renamed = series.rename(time="valid_time", latitude="lat").astype(np.float64).chunk(valid_time=10)
    for direct in (fit(series, **options), fit(renamed, split=split, **options)):
        assert direct.split == split
        np.testing.assert_allclose(direct.predict(series)["t2m"], by_store.predict(series)["t2m"], rtol=1e-5)
    assert "split" not in series.attrs


def constant(series: xr.Dataset) -> xr.Dataset:
    return series.assign(t2m=(series["t2m"] * 0 + 280).assign_attrs(units="K"))


@pytest.mark.parametrize(
    ("change", "options", "kind", "match"),
    [
        (lambda s: s.isel(time=[*range(40), *range(41, 80)]), {}, ErrorKind.TIME_GAP, "1 gap"),
        (lambda s: s.where(s["time"] != s["time"][5]), {}, ErrorKind.NAN, "variable t2m has .* nan"),
        (constant, {}, ErrorKind.CONST, "variable t2m is constant over the training period"),
        (lambda s: s, {"memory_limit": 100}, ErrorKind.MEMORY_BUDGET, "make a store of it with stforecast.prepare"),
        (lambda s: s.drop_attrs(), {}, ErrorKind.UNITS, "variable t2m has no units"),
    ],
)
def test_a_dataset_that_cannot_be_fitted_on_is_refused_by_name(
    change: Callable[[xr.Dataset], xr.Dataset], options: dict, kind: ErrorKind, match: str
) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        fit(change(make_series()), history=4, horizon=2, network=SMALL, training=SHORT, **options)
    assert caught.value.kind == kind


def test_a_store_has_its_own_split(stored: xr.Dataset) -> None:
    other = Split.by_fraction(stored["time"].to_numpy(), train=0.6)
    with pytest.raises(StforecastError, match="is a store's and has its split"):
        fit(stored, split=other, history=4, horizon=2, network=SMALL, training=SHORT)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"epochs": 1.5}, "epochs must be a whole number, not 1.5"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"divergence_reduction": "max"}, "must be 'mean' or 'sum', not 'max'"),
    ],
)
def test_a_training_configuration_that_cannot_be_is_refused(options: dict, match: str) -> None:
    with pytest.raises(StforecastError, match=match):
        TrainingConfig(**options)
