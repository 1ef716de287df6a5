"""Published checkpoints: any container, any configuration, the published numbers; hostile and damaged files by name."""

import argparse
import io
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from factory import make_city, make_series
from published_tau import PublishedTAU, draw, published_loss

from stforecast.errors import ErrorKind, StforecastError
from stforecast.forecaster import Forecaster
from stforecast.models.losses import forecast_loss
from stforecast.models.openstl import Checkpoint
from stforecast.models.tau import TAU, DropPath
from stforecast.split import Split
from stforecast.store import prepare

Weights = dict[str, torch.Tensor]

# Frames, channels, and a grid small enough for a test, of the configurations that OpenSTL publishes.
CONFIGURATIONS = {
    "TaxiBJ": ((4, 2), {}, (32, 32)),
    "t2m 5.625": ((12, 1), {}, (16, 12)),
    "t2m 1.40625": ((12, 1), {"N_S": 4}, (16, 32)),
    "mv": ((4, 12), {}, (16, 12)),
    "equal widths": ((8, 3), {}, (16, 12)),
}
SMALL = {"hid_S": 4, "hid_T": 16, "N_T": 3}


def published(shape: tuple[int, int] = (3, 2), **sizes: Any) -> PublishedTAU:
    network = PublishedTAU(shape, **(sizes or SMALL)).eval()
    draw(network)
    return network


def bare(state: Weights) -> Any:
    return state


def with_ddp(state: Weights) -> Any:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def latest(state: Weights) -> Any:
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}
    optimizer = {"state": moments, "param_groups": [{"lr": 5e-4, "betas": (0.9, 0.999), "params": [0]}]}
    return {"epoch": 50, "optimizer": optimizer, "state_dict": state, "scheduler": {"last_epoch": 50}}


def lightning(state: Weights) -> Any:
    return {
        "epoch": 49,
        "global_step": 7,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.1), "path": "x"}},
        "hyper_parameters": {
            "in_shape": [3, 2, 8, 12],
            "metrics": ["mse", "mae"],
            "drop_path": 0.1,
            "test_mean": np.full((1, 1, 2, 1, 1), 280.0, np.float32),
            "test_std": np.float64(12.0),
        },
    }


CONTAINERS = {"bare": bare, "DDP": with_ddp, "latest.pth": latest, "Lightning": lightning}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(content: Any) -> Path:
        torch.save(content, tmp_path / "checkpoint.pth")
        return tmp_path / "checkpoint.pth"

    return written


# ---- parity


@pytest.mark.parametrize(("shape", "sizes", "grid"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_published_weights_give_the_published_numbers(
    shape: tuple[int, int], sizes: dict[str, int], grid: tuple[int, int], write: Any
) -> None:
    reference = published(shape, **(sizes or {"N_S": 2}))
    checkpoint = Checkpoint.read(write(reference.state_dict()))
    network = TAU(**asdict(checkpoint.sizes)).eval()
    network.load_state_dict(checkpoint.weights, strict=True)
    frames = torch.randn(2, *shape, *grid, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference(frames)
        assert expected.std() > 0.1  # or else anything would be equal
        torch.testing.assert_close(network(frames), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("length", [2, 4, 12])
def test_the_loss_is_the_published_one(scale: float, length: int) -> None:
    generator = torch.Generator().manual_seed(2)
    prediction, target = (scale * torch.randn(3, length, 2, 8, 6, generator=generator) for _ in range(2))
    expected = published_loss(prediction.double(), target.double()).item()
    assert forecast_loss(prediction, target).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_gradients_of_loss_and_network_are_the_published_ones() -> None:
    reference = published(drop_path=0.01, **SMALL)  # even steps from 0.01: all rates are that
    network = TAU(history=3, channels=2, hidden_spatial=4, hidden_temporal=16, temporal_layers=3).eval()
    network.load_state_dict(reference.state_dict())
    frames, target = torch.randn(2, 2, 3, 2, 8, 12, generator=torch.Generator().manual_seed(3))
    forecast_loss(network(frames), target).backward()
    published_loss(reference(frames), target).backward()
    expected = dict(reference.named_parameters())
    for name, parameter in network.named_parameters():
        wanted = expected[name].grad
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item() + 1e-8)


def test_parity_keeps_the_stochastic_depth_that_a_drop_path_of_zero_has_in_the_published_code() -> None:
    def rates(*, parity: bool) -> list[float]:
        sizes = {"hidden_spatial": 4, "hidden_temporal": 16, "temporal_layers": 3}
        network = TAU(history=3, channels=2, drop_path=0.0, parity=parity, **sizes)
        return [module.rate for module in network.modules() if isinstance(module, DropPath)]

    assert rates(parity=True) == pytest.approx([0.01, 0.005, 0.0])
    assert rates(parity=False) == [0.0, 0.0, 0.0]


# ---- containers


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_every_container_gives_the_same_weights(container: Any, write: Any) -> None:
    state = published().state_dict()
    checkpoint = Checkpoint.read(write(container(state)))
    assert set(checkpoint.weights) == set(state)
    for name, tensor in checkpoint.weights.items():
        assert torch.equal(tensor, state[name])


def test_the_old_format_of_torch_and_half_precision_are_read(tmp_path: Path) -> None:
    state = {
        name: value.half() if value.is_floating_point() else value for name, value in published().state_dict().items()
    }
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    checkpoint = Checkpoint.read(tmp_path / "old.pth")
    assert all(torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in checkpoint.weights.items())


def test_sizes_are_read_off_the_shapes(write: Any) -> None:
    sizes = {"hid_S": 6, "hid_T": 24, "N_S": 4, "N_T": 5, "mlp_ratio": 2.5}
    result = asdict(Checkpoint.read(write(published((5, 3), **sizes).state_dict())).sizes)
    assert result == {
        "history": 5,
        "channels": 3,
        "hidden_spatial": 6,
        "hidden_temporal": 24,
        "spatial_layers": 4,
        "temporal_layers": 5,
        "mlp_ratio": 2.5,
    }


# ---- a forecaster


def split_of(series: xr.Dataset) -> Split:
    return Split.by_fraction(series["time"].to_numpy())


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_an_imported_forecaster_forecasts_what_the_published_network_gives(container: Any, write: Any) -> None:
    reference, series = published(), make_series(variables=("u10", "other", "t2m"), shape=(8, 12))
    statistics = {"t2m": (280.0, 12.0), "u10": (290.0, 9.0)}
    forecaster = Forecaster.from_openstl(
        write(container(reference.state_dict())),
        series=series.isel(time=slice(2)),
        variables=["t2m", "u10"],
        statistics=statistics,
        split=split_of(series),
    )
    forecast = forecaster.predict(series)
    normalized = [(series[name][-3:].to_numpy() - mean) / scale for name, (mean, scale) in statistics.items()]
    with torch.no_grad():
        expected = reference(torch.from_numpy(np.stack(normalized, axis=1)[None]).float())[0]
    assert (forecaster.history, forecaster.horizon) == (3, 3)
    for channel, (name, (mean, scale)) in enumerate(statistics.items()):
        np.testing.assert_allclose(forecast[name][0], expected[:, channel] * scale + mean, rtol=0, atol=1e-3)


def test_a_prepared_store_says_all_that_a_checkpoint_lacks(write: Any, tmp_path: Path) -> None:
    series = make_series(variables=("t2m", "u10"))
    stored = prepare(series, tmp_path / "s.zarr", split_of(series))
    path = write(published().state_dict())
    forecaster = Forecaster.from_openstl(path, series=tmp_path / "s.zarr", horizon=2)
    assert forecaster.horizon == 2
    assert forecaster.normalization.to_json() == stored.attrs["normalization"]
    forecaster.save(tmp_path / "model")
    loaded = Forecaster.load(tmp_path / "model")
    assert loaded.training["imported_from"] == "checkpoint.pth"
    assert loaded.config == forecaster.config
    xr.testing.assert_identical(loaded.predict(stored), forecaster.predict(stored))


def test_statistics_may_be_given_by_level(write: Any) -> None:
    series = make_series(variables=("t",), levels=(500.0, 850.0))
    options = {"series": series, "split": split_of(series)}
    path = write(published().state_dict())
    one = Forecaster.from_openstl(path, statistics={"t": (280.0, 9.0)}, **options)
    each = Forecaster.from_openstl(path, statistics={"t": ([280.0, 280.0], [9.0, 9.0])}, **options)
    xr.testing.assert_identical(one.predict(series), each.predict(series))


def test_flows_scaled_to_one_are_counts_again(write: Any) -> None:
    city = make_city(shape=(8, 6))
    forecaster = Forecaster.from_openstl(
        write(published().state_dict()),
        series=city,
        statistics=dict.fromkeys(("inflow", "outflow"), (0, 1292)),
        split=split_of(city),
    )
    forecast = forecaster.predict(city)
    assert forecast["inflow"].attrs["units"] == "1"
    assert (forecast["inflow"] >= 0).all()


# ---- faults


class Payload:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch stolen",)


def refused(path: Path, kind: ErrorKind, message: str) -> None:
    with pytest.raises(StforecastError, match=message) as caught:
        Checkpoint.read(path)
    assert caught.value.kind == kind


@pytest.mark.parametrize("zipped", [True, False])
def test_m01_j01_a_payload_is_not_run_but_named(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": published().state_dict(), "hyper_parameters": Payload()}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "bad.pth", ErrorKind.CKPT_UNSAFE, "bad.pth asks for posix.system, which is not made")
    assert not (tmp_path / "stolen").exists()


def test_m01_j01_a_bare_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # posix.system("touch stolen") in pickle's first protocol.
    (tmp_path / "bad.pth").write_bytes(b"cposix\nsystem\n(S'touch stolen'\ntR.")
    with pytest.raises(StforecastError, match="bad.pth") as caught:
        Checkpoint.read(tmp_path / "bad.pth")
    assert caught.value.kind in (ErrorKind.CKPT_UNSAFE, ErrorKind.CKPT_CORRUPT)
    assert not (tmp_path / "stolen").exists()


def test_other_objects_are_refused_with_a_way_out(write: Any) -> None:
    path = write({"state_dict": published().state_dict(), "hyper_parameters": argparse.Namespace(lr=1)})
    refused(path, ErrorKind.CKPT_UNSAFE, r"argparse.Namespace.*torch.save\(checkpoint\['state_dict'\]")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_j03_a_cut_file_is_refused(part: float, zipped: bool, tmp_path: Path) -> None:
    torch.save(published().state_dict(), tmp_path / "cut.pth", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(len(content) * part)])
    refused(tmp_path / "cut.pth", ErrorKind.CKPT_CORRUPT, "cut.pth is (cut or damaged|no whole file of torch)")


def test_m02_j04_a_flipped_bit_is_noticed(write: Any) -> None:
    path = write(published().state_dict())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    path.write_bytes(content)
    refused(path, ErrorKind.CKPT_CORRUPT, "its checksum differs|cut or damaged")


def test_a_compressed_archive_is_not_unpacked(write: Any) -> None:
    path = write(published().state_dict())
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for member in archive.infolist():
            other.writestr(member.filename, archive.read(member))
    path.write_bytes(packed.getvalue())
    refused(path, ErrorKind.CKPT_UNSAFE, "is compressed, which torch never writes")


def test_j05_keys_that_do_not_fit_are_listed(write: Any) -> None:
    state = published().state_dict()
    del state["dec.readout.bias"]
    state["hid.enc.1.block.mlp.fc3.weight"] = torch.zeros(2)
    state["hid.enc.2.block.mlp.fc2.bias"] = torch.zeros(2)
    message = (
        "lacks dec.readout.bias; it has hid.enc.1.block.mlp.fc3.weight besides; "
        r"hid.enc.2.block.mlp.fc2.bias is \(2,\) instead of \(16,\)"
    )
    refused(write(state), ErrorKind.CKPT_MISMATCH, message)


def test_gsta_is_told_from_tau(write: Any) -> None:
    state = {name: value for name, value in published().state_dict().items() if ".fc." not in name}
    refused(write(state), ErrorKind.CKPT_MISMATCH, r"spatial_gating_unit.fc.0.weight.*may be gSTA's \(SimVPv2\)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"layer.weight": torch.zeros(2)}, "no TAU of OpenSTL's: 'enc.enc.0.conv.conv.weight' is missing"),
        ({"epoch": 3, "weights": torch.zeros(1)}, "no state dict: epoch are no tensors"),
        ([torch.zeros(1)], "holds a list, wanted a state dict"),
        ({}, "holds a dict, wanted a state dict"),
    ],
)
def test_what_is_no_state_dict_of_tau_is_refused(content: Any, message: str, write: Any) -> None:
    refused(write(content), ErrorKind.CKPT_MISMATCH, message)


def test_weights_that_are_not_finite_are_refused(write: Any) -> None:
    state = published().state_dict()
    state["dec.readout.bias"][0] = torch.nan
    refused(write(state), ErrorKind.CKPT_CORRUPT, "dec.readout.bias has values that are not finite")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "none.pth", ErrorKind.FILE_MISSING, "there is no file .*none.pth")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"variables": ["t2m"]}, ErrorKind.STATS, "statistics are of t2m, u10, wanted of t2m"),
        ({"variables": ["t2m", "v10"]}, ErrorKind.CHANNELS, "the series has no v10; it has t2m, u10"),
        (
            {"variables": ["t2m"], "statistics": {"t2m": (280, 9)}},
            ErrorKind.CHANNELS,
            r"has 2 channel\(s\) but t2m make 1; name those",
        ),
        ({"statistics": None}, ErrorKind.ARGUMENT, r"the series has no statistics; pass statistics=\{name"),
        ({"statistics": {}}, ErrorKind.STATS, "statistics are of nothing, wanted of t2m, u10"),
        (
            {"statistics": {"t2m": (280, 0), "u10": (280, 9)}},
            ErrorKind.STATS,
            "of t2m are 280.0 and 0.0, wanted finite",
        ),
        ({"statistics": {"t2m": ([1, 2], 9), "u10": (280, 9)}}, ErrorKind.STATS, r"of t2m have shapes \(2,\) and \(\)"),
        ({"split": None}, ErrorKind.ARGUMENT, "split"),
        ({"horizon": 0}, ErrorKind.ARGUMENT, "horizon must be at least 1, not 0"),
    ],
)
def test_what_a_user_leaves_out_is_asked_for(
    options: dict[str, Any], kind: ErrorKind, message: str, write: Any
) -> None:
    series = make_series(variables=("t2m", "u10"))
    given = {"series": series, "statistics": {"t2m": (280, 9), "u10": (290, 9)}, "split": split_of(series)}
    with pytest.raises(StforecastError, match=message) as caught:
        Forecaster.from_openstl(write(published().state_dict()), **(given | options))
    assert caught.value.kind == kind
