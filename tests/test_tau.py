"""TAU against its published table of weights, a NumPy reference of its blocks, and the laws of its rollout."""

import copy
import io
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from stforecast.errors import ErrorKind, StforecastError
from stforecast.models.tau import (
    TAU,
    DilatedDepthwise,
    DropPath,
    MeanOfMembers,
    MixMlp,
    ResidualToLastFrame,
    SpatialLayer,
    TemporalAttention,
    TemporalAttentionModule,
    TemporalBlock,
    drop_path_rates,
    rollout,
)

Array = npt.NDArray[np.float64]

TAXIBJ = {"history": 4, "channels": 2}
T2M = {"history": 12, "channels": 1}
CONFIGURATIONS = {
    "4x2x32x32": TAXIBJ,
    "12x1x32x64": T2M,
    "12x1x128x256": T2M | {"spatial_layers": 4},
    "4x12x32x64": {"history": 4, "channels": 12},
    "equal widths": {"history": 8, "channels": 3},
}
SMALL = {"history": 3, "channels": 2, "hidden_spatial": 4, "hidden_temporal": 16, "temporal_layers": 3}


def small(**sizes: float) -> TAU:
    """A small network in evaluation, with normalization statistics and scales that make each weight felt."""
    torch.manual_seed(0)
    network = TAU(**(SMALL | sizes)).eval()
    for name, tensor in network.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
        if "layer_scale" in name:
            tensor.uniform_(0.3, 0.6)
    return network


def frames_of(b: int = 2, t: int = 3, c: int = 2, y: int = 8, x: int = 12, *, seed: int = 0) -> Tensor:
    return torch.randn(b, t, c, y, x, generator=torch.Generator().manual_seed(seed))


def published_shapes(
    history: int, channels: int, *, spatial_layers: int = 2, temporal_layers: int = 8
) -> dict[str, tuple[int, ...]]:
    """The table of the published state dict for hidden_spatial 32 and hidden_temporal 256, key by key."""
    outside, hidden = history * 32, 256
    shapes: dict[str, tuple[int, ...]] = {}

    def add(key: str, weight: tuple[int, ...], *, bias: bool = True) -> None:
        shapes[f"{key}.weight"] = weight
        if bias:
            shapes[f"{key}.bias"] = weight[:1]

    for layer in range(spatial_layers):
        add(f"enc.enc.{layer}.conv.conv", (32, channels if layer == 0 else 32, 3, 3))
        add(f"enc.enc.{layer}.conv.norm", (32,))
        if layer in (0, 2):
            add(f"dec.dec.{layer}.conv.conv.0", (128, 32, 3, 3))
        else:
            add(f"dec.dec.{layer}.conv.conv", (32, 32, 3, 3))
        add(f"dec.dec.{layer}.conv.norm", (32,))
    add("dec.readout", (channels, 32, 1, 1))
    for i in range(temporal_layers):
        d = outside if i == 0 else hidden
        block, unit = f"hid.enc.{i}.block", f"hid.enc.{i}.block.attn.spatial_gating_unit"
        shapes |= {f"{block}.layer_scale_1": (d,), f"{block}.layer_scale_2": (d,)}
        for norm in ("norm1", "norm2"):
            add(f"{block}.{norm}", (d,))
            shapes |= {f"{block}.{norm}.running_mean": (d,), f"{block}.{norm}.running_var": (d,)}
            shapes[f"{block}.{norm}.num_batches_tracked"] = ()
        add(f"{block}.attn.proj_1", (d, d, 1, 1))
        add(f"{block}.attn.proj_2", (d, d, 1, 1))
        add(f"{unit}.conv0", (d, 1, 5, 5))
        add(f"{unit}.conv_spatial", (d, 1, 7, 7))
        add(f"{unit}.conv1", (d, d, 1, 1))
        add(f"{unit}.fc.0", (16, d), bias=False)
        add(f"{unit}.fc.2", (d, 16), bias=False)
        add(f"{block}.mlp.fc1", (8 * d, d, 1, 1))
        add(f"{block}.mlp.dwconv.dwconv", (8 * d, 1, 3, 3))
        add(f"{block}.mlp.fc2", (d, 8 * d, 1, 1))
    if outside != hidden:
        add("hid.enc.0.reduction", (hidden, outside, 1, 1))
        add(f"hid.enc.{temporal_layers - 1}.reduction", (outside, hidden, 1, 1))
    return shapes


# ---- weights


@pytest.mark.parametrize("sizes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_keys_and_shapes_are_the_published_ones(sizes: dict[str, int]) -> None:
    with torch.device("meta"):
        result = {name: tuple(tensor.shape) for name, tensor in TAU(**sizes).state_dict().items()}
    assert result == published_shapes(**sizes)


@pytest.mark.parametrize(
    ("name", "tensors"), [("4x2x32x32", 262), ("12x1x32x64", 262), ("12x1x128x256", 278), ("equal widths", 258)]
)
def test_number_of_tensors(name: str, tensors: int) -> None:
    with torch.device("meta"):
        assert len(TAU(**CONFIGURATIONS[name]).state_dict()) == tensors


@pytest.mark.parametrize(("sizes", "parameters"), [(TAXIBJ, 9_545_442), (T2M, 12_219_553)])
def test_number_of_parameters_is_the_published_one(sizes: dict[str, int], parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in TAU(**sizes).parameters()) == parameters


def test_weights_of_the_published_table_load_strictly() -> None:
    sizes = {"history": 2, "channels": 1, "temporal_layers": 2}
    state = {
        name: torch.tensor(7) if name.endswith("tracked") else torch.rand(shape)
        for name, shape in published_shapes(**sizes).items()
    }
    network = TAU(**sizes)
    network.load_state_dict(state, strict=True)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("width", "squeezed"), [(48, 12), (64, 16), (128, 16), (256, 16), (320, 16), (384, 16), (512, 16)]
)
def test_squeezed_width_is_the_width_over_the_reduction(width: int, squeezed: int) -> None:
    with torch.device("meta"):
        unit = TemporalAttentionModule(width)
    assert unit.fc[0].weight.shape == (squeezed, width)


def test_mlp_ratio_is_the_inside_of_the_mlps_over_their_width() -> None:
    blocks = [stage.block for stage in small(mlp_ratio=2.5).hid.enc]
    assert [block.mlp.fc1.weight.shape[:2] for block in blocks] == [(30, 12), (40, 16), (40, 16)]


def test_dropout_of_the_mlps_is_on_in_training_only() -> None:
    network, frames = small(drop=0.5, drop_path=0.0), frames_of()
    assert torch.equal(network(frames), network(frames))
    network.train()
    assert not torch.equal(network(frames), network(frames))


def test_weights_start_as_published() -> None:
    torch.manual_seed(0)
    network = TAU(history=4, channels=2, temporal_layers=2)
    state = network.state_dict()
    block = "hid.enc.1.block"

    for key in ("enc.enc.1.conv.conv", "dec.dec.0.conv.conv.0", "dec.dec.1.conv.conv"):
        assert state[f"{key}.weight"].std().item() == pytest.approx(0.02, rel=0.05)
        assert not state[f"{key}.bias"].any()
    for key, fan_out in (("fc1", 8 * 256), ("dwconv.dwconv", 9), ("fc2", 256)):
        assert state[f"{block}.mlp.{key}.weight"].std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        assert not state[f"{block}.mlp.{key}.bias"].any()
    for key, fan_in in (("proj_1", 256), ("proj_2", 256), ("spatial_gating_unit.conv0", 25)):
        for what in ("weight", "bias"):
            values = state[f"{block}.attn.{key}.{what}"]
            assert values.abs().max().item() == pytest.approx(1 / math.sqrt(fan_in), rel=0.05)
            assert values.std().item() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.15)
    for scale in ("layer_scale_1", "layer_scale_2"):
        assert (state[f"{block}.{scale}"] == 0.01).all()


# ---- blocks against NumPy


def convolve_pointwise(a: Array, convolution: nn.Conv2d) -> Array:
    weight, bias = parameters(convolution)
    return np.einsum("bdyx,ed->beyx", a, weight[:, :, 0, 0]) + bias[:, None, None]


def convolve_depthwise(a: Array, convolution: nn.Conv2d, *, dilation: int = 1) -> Array:
    """Each channel by its own kernel, the grid amid zeros: shifted copies, added up."""
    weight, bias = parameters(convolution)
    size = weight.shape[-1]
    reach = dilation * (size // 2)
    padded = np.pad(a, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    y, x = a.shape[2:]
    result = np.zeros_like(a) + bias[:, None, None]
    for row in range(size):
        for column in range(size):
            moved = padded[:, :, row * dilation : row * dilation + y, column * dilation : column * dilation + x]
            result += weight[:, 0, row, column][:, None, None] * moved
    return result


def parameters(convolution: nn.Conv2d) -> tuple[Array, Array]:
    assert convolution.bias is not None
    return convolution.weight.detach().double().numpy(), convolution.bias.detach().double().numpy()


def gelu(a: Array) -> Array:
    return a / 2 * (1 + np.vectorize(math.erf)(a / math.sqrt(2)))


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def attention(z: Array, module: TemporalAttention) -> Array:
    unit = module.spatial_gating_unit
    a = gelu(convolve_pointwise(z, module.proj_1))
    static = convolve_depthwise(convolve_depthwise(a, unit.conv0), unit.conv_spatial, dilation=3)
    static = convolve_pointwise(static, unit.conv1)
    squeeze, excite = (unit.fc[layer].weight.detach().double().numpy() for layer in (0, 2))
    dynamic = sigmoid(np.maximum(a.mean((2, 3)) @ squeeze.T, 0) @ excite.T)
    return convolve_pointwise(dynamic[:, :, None, None] * static * a, module.proj_2) + z


def mlp(z: Array, module: MixMlp) -> Array:
    inside = convolve_depthwise(convolve_pointwise(z, module.fc1), module.dwconv.dwconv)
    return convolve_pointwise(gelu(inside), module.fc2)


def normalized(x: Array, norm: nn.BatchNorm2d) -> Array:
    mean, variance, weight, bias = (
        tensor.detach().double().numpy()[:, None, None]
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def group_normalized(x: Array, norm: nn.GroupNorm) -> Array:
    n, d, rows, columns = x.shape
    groups = x.reshape(n, 2, -1)
    groups = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    weight, bias = (tensor.detach().double().numpy()[:, None, None] for tensor in (norm.weight, norm.bias))
    return groups.reshape(n, d, rows, columns) * weight + bias


def a_latent(d: int, *, seed: int = 1) -> Tensor:
    return torch.randn(2, d, 11, 13, generator=torch.Generator().manual_seed(seed))


def assert_equals_numpy(result: Tensor, expected: Array) -> None:
    # float32 sums of some hundred terms of order one
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_temporal_attention_equals_its_numpy_reference() -> None:
    torch.manual_seed(2)
    module = TemporalAttention(12)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.4, 0.4)
    z = a_latent(12)
    assert_equals_numpy(module(z), attention(z.double().numpy(), module))


def test_mlp_equals_its_numpy_reference() -> None:
    torch.manual_seed(2)
    module = MixMlp(6, 48, drop=0.0)
    nn.init.uniform_(module.dwconv.dwconv.bias)
    z = a_latent(6)
    assert_equals_numpy(module(z), mlp(z.double().numpy(), module))


def test_block_equals_its_numpy_reference() -> None:
    block = small().hid.enc[1].block
    assert isinstance(block, TemporalBlock)
    x = a_latent(16)
    scale_1, scale_2 = (scale.detach().double().numpy()[:, None, None] for scale in block.parameters(recurse=False))
    attended = x.double().numpy()
    attended = attended + scale_1 * attention(normalized(attended, block.norm1), block.attn)
    expected = attended + scale_2 * mlp(normalized(attended, block.norm2), block.mlp)
    assert_equals_numpy(block(x), expected)


def test_pixels_are_shuffled_before_norm_and_activation() -> None:
    torch.manual_seed(3)
    layer = SpatialLayer(4, 6, grow=2)
    nn.init.uniform_(layer.conv.norm.weight)
    images = a_latent(4)
    convolved = layer.conv.conv[0](images).detach().double().numpy()  # (2, 6·2·2, 11, 13)
    grown = convolved.reshape(2, 6, 2, 2, 11, 13).transpose(0, 1, 4, 2, 5, 3).reshape(2, 6, 22, 26)
    inside = group_normalized(grown, layer.conv.norm)
    assert_equals_numpy(layer(images), inside * sigmoid(inside))


def test_static_attention_reaches_11_cells_each_way_and_no_further() -> None:
    unit = TemporalAttentionModule(4)
    for convolution in (unit.conv0, unit.conv_spatial, unit.conv1):
        nn.init.ones_(convolution.weight)
    a = torch.zeros(1, 4, 41, 41, requires_grad=True)
    unit.conv1(unit.conv_spatial(unit.conv0(a)))[0, 0, 20, 20].backward()
    expected = torch.zeros(41, 41, dtype=torch.bool)
    expected[20 - 11 : 20 + 12, 20 - 11 : 20 + 12] = True
    assert a.grad is not None
    assert torch.equal(a.grad[0, 0] != 0, expected)


# ---- the dilated convolution by coarser grids


@pytest.mark.parametrize(("y", "x"), [(16, 16), (16, 32), (33, 59), (16, 12), (7, 8), (2, 1), (1, 1), (9, 9)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["plain", "channels last"])
def test_dilated_convolution_equals_torchs_and_keeps_the_layout(y: int, x: int, layout: torch.memory_format) -> None:
    torch.manual_seed(4)
    module = DilatedDepthwise(6, 7, dilation=3)
    a = torch.randn(2, 6, y, x).contiguous(memory_format=layout)
    result = module(a)
    assert result.is_contiguous(memory_format=layout)
    torch.testing.assert_close(result, module._torchs(a), rtol=1e-6, atol=1e-6)


def test_gradients_of_the_dilated_convolution_equal_torchs() -> None:
    torch.manual_seed(4)
    module = DilatedDepthwise(6, 7, dilation=3)
    a = torch.randn(2, 6, 11, 13, requires_grad=True)
    variables = (a, module.weight, module.bias)
    result, expected = (
        torch.autograd.grad(forward(a).square().sum(), variables) for forward in (module, module._torchs)
    )
    for one, other in zip(result, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)  # float32 sums of 286 terms of order ten


def test_other_precisions_take_torchs_own_dilated_convolution() -> None:
    module, a = DilatedDepthwise(4, 7, dilation=3).double(), torch.randn(1, 4, 9, 8, dtype=torch.float64)
    assert torch.equal(module(a), module._torchs(a))


@pytest.mark.parametrize("training", [False, True])
def test_layout_of_the_weights_changes_nothing_but_rounding(training: bool) -> None:
    frames = frames_of(b=4, y=7, x=12)
    expected = small(drop_path=0.0).train(training)(frames)
    result = small(drop_path=0.0).train(training).to(memory_format=torch.channels_last)(frames)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


# ---- the whole network


def test_network_is_encoder_translator_decoder_with_time_major_channels() -> None:
    network, frames = small(), frames_of()
    latents, skips = zip(*(network.enc(frames[:, t]) for t in range(3)), strict=True)
    latent = network.hid(torch.cat(latents, dim=1))  # channel t·hidden + h
    expected = [network.dec(latent[:, 4 * t : 4 * t + 4], skip) for t, skip in enumerate(skips)]
    torch.testing.assert_close(network(frames), torch.stack(expected, dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spatial_layers", [2, 4])
def test_first_layer_of_the_encoder_joins_before_the_last_of_the_decoder(spatial_layers: int) -> None:
    network, images = small(spatial_layers=spatial_layers), frames_of()[:, 0]
    latent, skip = network.enc(images)
    assert torch.equal(skip, network.enc.enc[0](images))
    for layer in network.dec.dec[:-1]:
        latent = layer(latent)
    expected = network.dec.readout(network.dec.dec[-1](latent + skip))
    assert torch.equal(network.dec(*network.enc(images)), expected)


@pytest.mark.parametrize("spatial_layers", [2, 4])
def test_latent_grid_is_halved_by_every_second_layer(spatial_layers: int) -> None:
    latent, skip = small(spatial_layers=spatial_layers).enc(frames_of()[:, 0])
    shrinkage = 2 ** (spatial_layers // 2)
    assert latent.shape == (2, 4, 8 / shrinkage, 12 / shrinkage)
    assert skip.shape == (2, 4, 8, 12)


@pytest.mark.parametrize(("y", "x"), [(25, 53), (33, 59), (7, 8), (1, 2)])
@pytest.mark.parametrize("spatial_layers", [2, 4])
def test_odd_grids_are_continued_by_their_edges_and_cut_back(y: int, x: int, spatial_layers: int) -> None:
    network, frames = small(spatial_layers=spatial_layers), frames_of(y=y, x=x)
    shrinkage = 2 ** (spatial_layers // 2)
    rows = torch.arange(math.ceil(y / shrinkage) * shrinkage).clamp(max=y - 1)
    columns = torch.arange(math.ceil(x / shrinkage) * shrinkage).clamp(max=x - 1)
    result = network(frames)
    assert result.shape == frames.shape
    assert torch.equal(result, network(frames[..., rows[:, None], columns])[..., :y, :x])


def test_frames_need_not_be_contiguous() -> None:
    network, frames = small(), frames_of()
    assert torch.equal(network(frames.transpose(0, 1).contiguous().transpose(0, 1)), network(frames))


def test_evaluation_is_deterministic_and_the_same_however_a_batch_is_split() -> None:
    network, frames = small(drop=0.5, drop_path=0.5), frames_of(b=5)
    whole = network(frames)
    assert torch.equal(network(frames), whole)
    split = torch.cat([network(frames[:2]), network(frames[2:])])
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-6)  # float32: convolutions sum in another order


def test_gradient_reaches_every_weight_and_the_frames() -> None:
    # Six samples, for with two the few ReLUs of a squeeze this narrow may all be off.
    network, frames = small(drop_path=0.0).train(), frames_of(b=6).requires_grad_()
    network(frames).square().sum().backward()
    assert frames.grad is not None
    assert frames.grad.flatten(1).any(dim=1).all()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_network_compiles_without_a_graph_break() -> None:
    network, frames = small(), frames_of(y=7)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(frames), network(frames))


def test_bfloat16_autocast_gives_about_the_float32_result() -> None:
    network, frames = small(), frames_of()
    with torch.autocast("cpu", torch.bfloat16):
        result = network(frames)
    expected = network(frames)
    assert (result.float() - expected).abs().max() < 0.05 * expected.abs().max()  # bfloat16 keeps 8 bits


# ---- stochastic depth


def test_drop_path_rates_are_the_published_schedule() -> None:
    expected = [0.01, 0.0229, 0.0357, 0.0486, 0.0614, 0.0743, 0.0871, 0.1]
    np.testing.assert_allclose(drop_path_rates(0.1, 8), expected, rtol=0, atol=5e-5)
    assert drop_path_rates(0.1, 8)[-1] == 0.1


def test_blocks_have_the_scheduled_rates() -> None:
    network = small(temporal_layers=4, drop_path=0.2)
    rates = [module.rate for module in network.modules() if isinstance(module, DropPath)]
    assert rates == drop_path_rates(0.2, 4)


def test_without_drop_path_training_is_deterministic() -> None:
    assert drop_path_rates(0.0, 8) == [0.0] * 8
    network, frames = small(drop_path=0.0).train(), frames_of()
    assert torch.equal(network(frames), network(frames))


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop_path, branch = DropPath(0.25).train(), torch.ones(4000, 2, 3, 1)
    result = drop_path(branch)
    assert torch.equal(result, result[:, :1, :1].expand_as(result))
    values = result[:, 0, 0, 0]
    assert set(values.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (values == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)  # four standard errors
    assert torch.equal(drop_path.eval()(branch), branch)


def test_the_two_branches_of_a_block_are_dropped_independently() -> None:
    torch.manual_seed(0)
    block = TemporalBlock(4, 8, drop=0.0, drop_path=0.5)
    for norm in (block.norm1, block.norm2):
        norm.eval()
    x = torch.ones(200, 4, 2, 2)
    kinds = {tuple(sample.flatten().tolist()) for sample in block(x)}
    assert len(kinds) == 4


# ---- rollout


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_rollout_within_the_history_is_a_slice_of_one_call(horizon: int) -> None:
    network, frames = small(), frames_of()
    assert torch.equal(rollout(network, frames, horizon), network(frames)[:, :horizon])


@pytest.mark.parametrize("horizon", [4, 6, 8])
def test_rollout_feeds_whole_previous_outputs(horizon: int) -> None:
    network, frames = small(), frames_of()
    first = network(frames)
    second = network(first)
    third = network(second)
    expected = torch.cat([first, second, third], dim=1)[:, :horizon]
    assert torch.equal(rollout(network, frames, horizon), expected)


def test_frames_that_were_never_fitted_are_not_used() -> None:
    # Counts on from the last frame for three frames, then gives what it never learnt.
    def network(history: torch.Tensor) -> torch.Tensor:
        learnt = history[:, -1:] + torch.arange(1.0, 4.0)[None, :, None, None, None]
        return torch.cat([learnt, torch.full_like(history[:, :2], torch.nan)], dim=1)

    frames = torch.arange(5.0).reshape(1, 5, 1, 1, 1)
    assert rollout(network, frames, 8, fitted_horizon=3).flatten().tolist() == [5, 6, 7, 8, 9, 10, 11, 12]
    assert torch.equal(
        rollout(lambda history: history + 5, frames, 12, fitted_horizon=9),
        rollout(lambda history: history + 5, frames, 12),
    )


def test_rollout_calls_the_network_no_more_than_it_must() -> None:
    calls = 0

    def network(frames: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return frames

    rollout(network, frames_of(), 6)
    assert calls == 2


def test_gradient_flows_through_all_calls_of_a_rollout() -> None:
    frames = frames_of().requires_grad_()
    rollout(lambda history: 2 * history, frames, 9)[:, -3:].sum().backward()
    assert frames.grad is not None
    assert (frames.grad == 8).all()


@pytest.mark.parametrize("circular", [False, True])
def test_a_network_may_be_sent_to_another_process(circular: bool) -> None:
    network, frames, sent = small(circular=circular), frames_of(y=6, x=12), io.BytesIO()
    torch.save(network, sent)
    sent.seek(0)
    for again in (torch.load(sent, weights_only=False), copy.deepcopy(network)):
        torch.testing.assert_close(again(frames), network(frames), rtol=0, atol=0)


def test_a_circular_network_turns_with_the_globe() -> None:
    network, frames = small(circular=True), frames_of(y=6, x=12)
    for columns in (2, 6, 10):
        turned = network(frames.roll(columns, -1)).roll(-columns, -1)
        torch.testing.assert_close(turned, network(frames), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(small()(frames.roll(2, -1)).roll(-2, -1), small()(frames), atol=1e-3)
    assert network.state_dict().keys() == small().state_dict().keys()
    with pytest.raises(StforecastError, match="wants a multiple of that many columns, not 11"):
        network(frames[..., :11])


@pytest.mark.parametrize("horizon", [1, 2, 3, 5])
def test_as_many_frames_come_out_as_are_asked_for(horizon: int) -> None:
    network = small(horizon=horizon, output_channels=1)
    assert network(frames_of()).shape == (2, horizon, 1, 8, 12)
    assert small(horizon=3).state_dict().keys() == small().state_dict().keys()


def test_members_forecast_their_mean() -> None:
    members, frames = [small(drop=rate / 10) for rate in range(3)], frames_of()
    for seed, member in enumerate(members):
        torch.manual_seed(seed)
        nn.init.normal_(member.dec.readout.weight)
    network = MeanOfMembers(members).eval()
    singles = [member(frames) for member in members]
    assert not torch.allclose(singles[0], singles[1])
    torch.testing.assert_close(network(frames), sum(singles) / 3)


@pytest.mark.parametrize("b", [1, 2, 3, 7])
def test_in_training_each_sample_is_one_members(b: int) -> None:
    members = [small(drop_path=0.0) for _ in range(3)]
    for seed, member in enumerate(members):
        torch.manual_seed(seed)
        nn.init.normal_(member.dec.readout.weight)
    network, frames = MeanOfMembers(members).train(), frames_of(b)
    # What a member makes of its samples has no part in those of the others, be it by a gradient.
    forecast = rollout(network, frames, 5)
    parts = zip(members, frames.tensor_split(3), strict=True)
    expected = [rollout(member, part, 5) for member, part in parts if len(part)]
    torch.testing.assert_close(forecast, torch.cat(expected))
    forecast[:1].sum().backward()
    touched = [any(weights.grad is not None for weights in member.parameters()) for member in members]
    assert touched[0]
    assert all((weights.grad is None or not weights.grad.any()) for weights in members[1].parameters())


def test_residual_adds_the_last_frame_to_each() -> None:
    network, frames = small(), frames_of()
    residual = ResidualToLastFrame(network)
    assert residual.network is network
    assert torch.equal(residual(frames), network(frames) + frames[:, 2:3])


def test_residual_of_nothing_is_persistence_over_the_whole_rollout() -> None:
    frames = frames_of()
    result = rollout(ResidualToLastFrame(SmallestNetwork()), frames, 7)
    assert torch.equal(result, frames[:, -1:].expand(-1, 7, -1, -1, -1))


class SmallestNetwork(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return torch.zeros_like(frames)


# ---- faults


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"history": 0}, "history must be at least 1, not 0"),
        ({"channels": 0}, "channels must be at least 1, not 0"),
        ({"hidden_spatial": 2}, "hidden_spatial must be even and at least 4, not 2"),
        ({"hidden_spatial": 33}, "hidden_spatial must be even and at least 4, not 33"),
        ({"hidden_temporal": 3}, "hidden_temporal must be at least 4, not 3"),
        ({"spatial_layers": 0}, "spatial_layers must be even and at least 2, not 0"),
        ({"spatial_layers": 3}, "spatial_layers must be even and at least 2, not 3"),
        ({"temporal_layers": 1}, "temporal_layers must be at least 2, not 1"),
        ({"mlp_ratio": 1.0}, "mlp_ratio must be above 1, not 1.0"),
        ({"mlp_ratio": math.nan}, "mlp_ratio must be above 1, not nan"),
        ({"drop": 1.0}, "drop must be at least 0 and below 1, not 1.0"),
        ({"drop_path": -0.1}, "drop_path must be at least 0 and below 1, not -0.1"),
    ],
)
def test_impossible_sizes_are_refused_by_name(sizes: dict[str, float], message: str) -> None:
    with pytest.raises(StforecastError, match=message) as caught:
        TAU(**(SMALL | sizes))
    assert caught.value.kind == ErrorKind.ARGUMENT


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((3, 2, 8, 8), ErrorKind.SHAPE, r"\(batch, time, channel, y, x\), not of shape \(3, 2, 8, 8\)"),
        ((1, 4, 2, 8, 8), ErrorKind.SHAPE, "history of 3 frames but 4 came"),
        ((1, 3, 1, 8, 8), ErrorKind.CHANNELS, r"2 channel\(s\) but 1 came"),
    ],
)
def test_frames_of_another_shape_are_refused(shape: tuple[int, ...], kind: ErrorKind, message: str) -> None:
    with pytest.raises(StforecastError, match=message) as caught:
        small()(torch.zeros(shape))
    assert caught.value.kind == kind


def test_a_horizon_below_one_is_refused() -> None:
    with pytest.raises(StforecastError, match="horizon must be at least 1, not 0") as caught:
        rollout(small(), frames_of(), 0)
    assert caught.value.kind == ErrorKind.ARGUMENT
