"""Each backend gives what the network gives, for any sizes; what cannot be is refused by name."""

import importlib.util
import math
import shutil
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stforecast.errors import ErrorKind, StforecastError
from stforecast.models import inference
from stforecast.models.inference import CheckedNetwork, FoldedBlock, Pointwise, folded
from stforecast.models.tau import TAU, DilatedDepthwise, MeanOfMembers, ResidualToLastFrame, rollout

EXPORTS = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}
SMALL = {"history": 3, "channels": 2, "hidden_spatial": 4, "hidden_temporal": 16, "temporal_layers": 3}


def a_network(*, seed: int = 0, **sizes: float) -> TAU:
    """A network in evaluation whose normalizations and scales are far from neutral, so that each fold is felt."""
    torch.manual_seed(seed)
    network = TAU(**(SMALL | sizes)).eval()
    for name, tensor in network.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
        if "layer_scale" in name or name.endswith("norm1.running_mean"):
            tensor.uniform_(-0.6, 0.6)
    return network


def frames_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*(shape or (2, 3, 2, 8, 12)), generator=torch.Generator().manual_seed(seed))


def assert_same(result: Tensor, expected: Tensor) -> None:
    # float32: sums of some hundred terms in another order, relative to the largest value
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5 * max(expected.abs().max().item(), 1.0))


needs = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            any(importlib.util.find_spec(package) is None for package in packages), reason=f"{name} is not installed"
        ),
    )
    for name, packages in EXPORTS.items()
]
needs_int8 = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("openvino", "nncf")),
    reason="openvino and nncf are not installed",
)


# ---- folded


@pytest.mark.parametrize(("y", "x"), [(8, 12), (33, 59), (16, 12), (7, 5), (2, 2), (1, 1)])
@pytest.mark.parametrize("spatial_layers", [2, 4])
def test_the_folded_network_equals_the_network_on_any_grid(y: int, x: int, spatial_layers: int) -> None:
    network, frames = a_network(spatial_layers=spatial_layers), frames_of(3, 3, 2, y, x)
    with torch.no_grad():
        assert_same(folded(network)(frames), network(frames))


@settings(max_examples=25, deadline=None)
@given(
    history=st.integers(1, 5),
    channels=st.integers(1, 4),
    hidden_spatial=st.sampled_from([4, 6, 8]),
    hidden_temporal=st.sampled_from([8, 16, 24]),
    temporal_layers=st.integers(2, 4),
    mlp_ratio=st.sampled_from([1.5, 4.0, 8.0]),
    batch=st.integers(1, 9),
    grid=st.tuples(st.integers(1, 21), st.integers(1, 21)),
    seed=st.integers(0, 100),
)
def test_the_folded_network_equals_the_network_of_any_size(
    batch: int, grid: tuple[int, int], seed: int, **sizes: float
) -> None:
    network = a_network(seed=seed, **sizes)
    frames = frames_of(batch, int(sizes["history"]), int(sizes["channels"]), *grid, seed=seed)
    with torch.no_grad():
        assert_same(folded(network)(frames), network(frames))


def test_folding_loses_nothing_in_float64() -> None:
    network, frames = a_network().double(), frames_of().double()
    with torch.no_grad():
        torch.testing.assert_close(folded(network)(frames), network(frames), rtol=1e-12, atol=1e-12)


def test_folding_needs_no_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_has_onednn", lambda: False)
    with torch.no_grad():
        assert_same(folded(a_network())(frames_of()), a_network()(frames_of()))


@pytest.mark.parametrize("has_onednn", [True, False])
def test_a_folded_network_goes_round_the_globe_like_its_network(
    has_onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_onednn:
        monkeypatch.setattr(inference, "_has_onednn", lambda: False)
    network, frames = a_network(circular=True), frames_of(2, 3, 2, 6, 16)
    with torch.no_grad():
        result = folded(network)(frames)
        assert_same(result, network(frames))
        assert_same(folded(network)(frames.roll(4, -1)), result.roll(4, -1))


def test_folding_draws_no_random_numbers() -> None:
    network = a_network()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    folded(network)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_block_and_every_reduction_is_folded_and_the_network_stays_as_it_was() -> None:
    network = a_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    made = folded(ResidualToLastFrame(network))
    assert sum(isinstance(module, FoldedBlock) for module in made.modules()) == 3
    assert sum(isinstance(module, Pointwise) for module in made.modules()) == 3  # two reductions and the readout
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_frames_are_not_written_to() -> None:
    network, frames = a_network(), frames_of()
    before = frames.clone()
    with torch.inference_mode():
        folded(network)(frames)
    assert torch.equal(frames, before)


def test_a_network_that_is_no_tau_is_left_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)).eval()
    images = frames_of(2, 3, 5, 6)
    with torch.no_grad():
        assert_same(folded(network)(images), network(images))


# ---- any backend


@pytest.mark.parametrize("backend", ["eager", "folded", *needs])
def test_backends_give_what_the_network_gives_for_mixed_batches(backend: inference.Backend) -> None:
    network = ResidualToLastFrame(a_network())
    run = CheckedNetwork(network, backend)
    with torch.inference_mode():
        for b in (2, 1, 11, 8):
            frames = frames_of(b, 3, 2, 7, 12, seed=b)
            assert_same(run(frames), network(frames))
            assert_same(rollout(run, frames, 5), rollout(network, frames, 5))
    assert run.backend == backend


@pytest.mark.parametrize("backend", ["folded", *needs])
def test_backends_give_the_mean_of_members(backend: inference.Backend) -> None:
    network = ResidualToLastFrame(MeanOfMembers(a_network(seed=seed) for seed in range(3)).eval())
    run = CheckedNetwork(network, backend)
    with torch.inference_mode():
        frames = frames_of(11, 3, 2, 8, 12)
        assert_same(run(frames), network(frames))
    assert run.backend == backend


@pytest.mark.parametrize("backend", needs)
def test_exports_keep_the_plain_dilated_convolution(backend: inference.Backend) -> None:
    made = inference._for_export(a_network())
    assert not any(isinstance(module, DilatedDepthwise) for module in made.modules())
    with torch.no_grad():
        assert_same(made(frames_of()), a_network()(frames_of()))


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler, with which torch.compile works here")
def test_a_compiled_network_takes_batches_of_any_size_and_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_SAMPLES_AT_ONCE", 2)
    # That a TAU compiles whole is another test; each of its kernels takes a second.
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 2, 1)).eval()
    checked = CheckedNetwork(network, "compiled")
    compiled = torch._dynamo.utils.counters["stats"]
    frames = frames_of(5, 3, 8, 12)
    with torch.inference_mode():
        assert_same(checked(frames[:3]), network(frames[:3]))
        once = compiled["unique_graphs"]
        assert checked.backend == "compiled"
        for size in (5, 2, 1):
            assert_same(checked(frames[:size]), network(frames[:size]))
    assert compiled["unique_graphs"] == once
    assert_same(checked(frames), network(frames))


def test_bfloat16_is_close_and_its_output_float32() -> None:
    network, frames = a_network(), frames_of(11, 3, 2, 8, 12)
    checked = CheckedNetwork(network, "bfloat16")
    with torch.inference_mode():
        expected, found = network(frames), checked(frames)
    assert (checked.backend, found.dtype) == ("bfloat16", torch.float32)
    apart = (found - expected).square().mean().sqrt()
    assert 1e-4 * expected.std() < apart < inference.COARSE_TOLERANCE * expected.std()


def test_the_choice_follows_the_amount_of_work() -> None:
    assert inference._chosen(1, "cpu") == "eager"
    assert inference._chosen(64, "cpu") == "folded"
    assert inference._chosen(10_000, "cpu") == "folded"
    assert inference._chosen(10_000, "cuda") == "eager"


def test_a_network_that_gives_nan_is_no_fault_of_the_backend() -> None:
    network, frames = a_network(), frames_of()
    network.dec.readout.bias.data[:] = math.nan
    with torch.inference_mode():
        assert CheckedNetwork(network, "folded")(frames).isnan().all()


# ---- int8


@needs_int8
def test_8_bits_follow_the_network_on_samples_of_any_number_and_order(capsys: pytest.CaptureFixture[str]) -> None:
    # What it corrects the last frame by has the size that training begins with; weights drawn at random bear no 8 bits.
    torch.manual_seed(0)
    members = MeanOfMembers([TAU(**SMALL), TAU(**SMALL)])
    network, frames = ResidualToLastFrame(members).eval(), frames_of(40, 3, 2, 7, 12)
    examples = (frames_of(16, 3, 2, 7, 12, seed=1),)
    runs = [CheckedNetwork(network, "int8", examples=examples) for _ in range(2)]
    with torch.inference_mode():
        expected, first = network(frames), runs[0](frames)
        other = torch.cat([runs[1](some) for some in frames.flip(0).split(3)]).flip(0)
    assert runs[0].backend == "int8"
    apart = (first - expected).square().mean().sqrt()
    assert 1e-4 * expected.std() < apart < inference.COARSE_TOLERANCE * expected.std()
    assert_same(other, first)  # the examples calibrate, whatever comes first
    assert capsys.readouterr().out == ""
    assert sys.modules.get("openvino_telemetry") is None


@needs_int8
def test_8_bits_of_a_network_without_a_tau_are_refused() -> None:
    with pytest.raises(StforecastError, match="backend 'int8' fails with ValueError") as caught:
        CheckedNetwork(nn.Conv2d(3, 3, 1), "int8")(frames_of(2, 3, 4, 4))
    assert caught.value.kind == ErrorKind.BACKEND


@pytest.mark.parametrize(("factor", "is_kept"), [(1.015, True), (1.025, False)])
def test_8_bits_are_refused_beyond_2_percent_of_the_spread(
    factor: float, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "check_backend", lambda backend, device: None)
    monkeypatch.setitem(inference._PREPARATIONS, "int8", lambda network, inputs: lambda frames: factor * frames)
    run, frames = CheckedNetwork(nn.Identity(), "int8"), frames_of()
    frames -= frames.mean()
    if is_kept:
        assert_same(run(frames), factor * frames)
        return
    with pytest.raises(StforecastError, match=r"differs by 2\.5% of the output's spread, more than 2%") as caught:
        run(frames)
    assert caught.value.kind == ErrorKind.BACKEND


class Wrong(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return frames * 1.01


class Fails(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        raise RuntimeError("no such operator\nwith much detail")


class Cut(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return frames[:, :1]


FAULTS = [
    (Wrong, r"backend 'folded' differs by 0\.\d+ where values reach"),
    (Fails, r"backend 'folded' fails with RuntimeError: .*no such operator"),
    (Cut, r"backend 'folded' gives \(2, 1, 2, 8, 12\) instead of \(2, 3, 2, 8, 12\)"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_backend_that_differs_is_refused_where_it_was_asked_for(
    fault: type[nn.Module], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(inference._PREPARATIONS, "folded", lambda network, inputs: fault())
    with pytest.raises(StforecastError, match=message) as caught:
        CheckedNetwork(nn.Identity(), "folded")(frames_of())
    assert caught.value.kind == ErrorKind.BACKEND


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_backend_that_differs_is_replaced_where_it_was_chosen(
    fault: type[nn.Module], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(inference._PREPARATIONS, "folded", lambda network, inputs: fault())
    run, frames = CheckedNetwork(nn.Identity(), samples=100), frames_of()
    with pytest.warns(RuntimeWarning, match=message + ".*the network itself is used"):
        assert torch.equal(run(frames), frames)
    assert torch.equal(run(frames), frames)  # and says so once
    assert run.backend == "eager"


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(
        StforecastError, match="one of eager, folded, openvino, onnx, int8, compiled, bfloat16, not"
    ) as caught:
        CheckedNetwork(nn.Identity(), "tensorrt")  # type: ignore[arg-type]
    assert caught.value.kind == ErrorKind.ARGUMENT


@pytest.mark.parametrize("backend", ["openvino", "onnx", "int8"])
def test_a_backend_that_is_not_installed_says_how_to_get_it(
    backend: inference.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StforecastError, match=rf"not installed: pip install 'stforecast\[{backend}\]'") as caught:
        CheckedNetwork(nn.Identity(), backend)
    assert caught.value.kind == ErrorKind.BACKEND


def test_a_backend_for_a_cpu_is_refused_elsewhere() -> None:
    with pytest.raises(StforecastError, match="computes on a CPU, the network is on meta") as caught:
        CheckedNetwork(nn.Linear(2, 2, device="meta"), "folded")
    assert caught.value.kind == ErrorKind.BACKEND
