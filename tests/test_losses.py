"""The loss against its formula in NumPy, and the laws of a divergence."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from stforecast.errors import ErrorKind, StforecastError
from stforecast.models.losses import Reduction, differential_divergence, forecast_loss

Array = npt.NDArray[np.float64]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum")


def frames_of(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*(shape or (3, 5, 2, 4, 6)), generator=torch.Generator().manual_seed(seed))


def divergence_of(prediction: Array, target: Array, reduction: Reduction, temperature: float = 0.1) -> float:
    """The published formula, sample by sample and step by step, in float64."""

    def share(frames: Array, b: int, t: int) -> Array:
        change = (frames[b, t + 1] - frames[b, t]).ravel() / temperature
        weight = np.exp(change - change.max())
        return weight / weight.sum()

    steps = [(b, t) for b in range(len(prediction)) for t in range(prediction.shape[1] - 1)]
    total = 0.0
    for b, t in steps:
        p, q = share(prediction, b, t), share(target, b, t)
        terms = p * np.log(p / (q + 1e-12) + 1e-12)
        total += terms.mean() if reduction == "mean" else terms.sum()
    return total / len(steps)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
def test_divergence_equals_its_numpy_reference(reduction: Reduction, scale: float) -> None:
    prediction, target = frames_of(scale=scale), frames_of(seed=1, scale=scale)
    result = differential_divergence(prediction, target, reduction=reduction).item()
    expected = divergence_of(prediction.double().numpy(), target.double().numpy(), reduction)
    # float32: relative to the sum's size, absolute where it nearly cancels
    assert result == pytest.approx(expected, rel=1e-6 if scale < 1 else 5e-6, abs=1e-6)


def test_divergence_is_divided_by_the_temperature_inside_the_softmax() -> None:
    prediction, target = frames_of(), frames_of(seed=1)
    result = differential_divergence(prediction, target, temperature=0.5)
    torch.testing.assert_close(result, differential_divergence(prediction / 5, target / 5))


def test_sum_is_mean_times_the_values_in_a_frame() -> None:
    prediction, target = frames_of(), frames_of(seed=1)
    mean, total = (differential_divergence(prediction, target, reduction=reduction) for reduction in REDUCTIONS)
    torch.testing.assert_close(total, mean * 2 * 4 * 6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_divergence_is_zero_for_equal_changes_whatever_the_level(reduction: Reduction) -> None:
    target = frames_of()
    result = differential_divergence(target + frames_of(3, 1, 2, 4, 6, seed=1), target, reduction=reduction)
    assert abs(result.item()) < 1e-5  # float32 rounding of the changes


def test_a_change_common_to_a_frame_is_not_seen() -> None:
    prediction, target = frames_of(), frames_of(seed=1)
    drift = torch.arange(5.0).reshape(5, 1, 1, 1)
    result = differential_divergence(prediction + drift, target)
    torch.testing.assert_close(result, differential_divergence(prediction, target), rtol=1e-4, atol=0)


def test_divergence_of_a_still_prediction_of_two_cells_is_log_cosh() -> None:
    still, moving = torch.zeros(1, 3, 1, 1, 2), torch.arange(3.0).reshape(1, 3, 1, 1, 1) * torch.tensor([0.2, 0.0])
    # P = (1/2, 1/2) and Q = softmax(2, 0), so sum P log(P / Q) = -log 2 - (log Q1 + log Q2) / 2 = log cosh 1
    result = differential_divergence(still, moving, reduction="sum")
    assert result.item() == pytest.approx(math.log(math.cosh(1.0)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("length", [1, 2])
def test_divergence_of_two_frames_or_fewer_is_zero_and_differentiable(length: int, reduction: Reduction) -> None:
    prediction = frames_of(2, length, 1, 3, 3).requires_grad_()
    result = differential_divergence(prediction, frames_of(2, length, 1, 3, 3, seed=1), reduction=reduction)
    assert result.item() == 0
    assert result.dtype == torch.float32
    result.backward()
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_gradient_equals_that_of_the_formula_through_both_softmaxes() -> None:
    prediction, target = frames_of(1, 3, 1, 2, 2, scale=0.1).requires_grad_(), frames_of(1, 3, 1, 2, 2, seed=1)
    target *= 0.1
    differential_divergence(prediction, target, reduction="sum").backward()
    value = prediction.detach().double().numpy()
    expected = np.empty_like(value)
    for index in np.ndindex(*value.shape):
        step = np.zeros_like(value)
        step[index] = 1e-6
        ahead, behind = (divergence_of(value + sign * step, target.double().numpy(), "sum") for sign in (1, -1))
        expected[index] = (ahead - behind) / 2e-6
    assert prediction.grad is not None
    np.testing.assert_allclose(prediction.grad.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_m06_d08_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    prediction = frames_of(scale=5.0).to(dtype).requires_grad_()
    target = frames_of(seed=1, scale=5.0).to(dtype)
    result = differential_divergence(prediction, target)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, differential_divergence(prediction.float(), target.float()))
    result.backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_m06_d08_autocast_changes_nothing() -> None:
    prediction, target = frames_of(), frames_of(seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        result = forecast_loss(prediction, target)
    assert result.dtype == torch.float32
    assert torch.equal(result, forecast_loss(prediction, target))


def test_changes_that_saturate_the_softmax_leave_loss_and_gradient_finite() -> None:
    prediction = frames_of(scale=100.0).requires_grad_()
    result = forecast_loss(prediction, frames_of(seed=1, scale=100.0), reduction="sum")
    result.backward()
    assert result.isfinite()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_loss_is_mean_square_error_and_alpha_times_divergence(reduction: Reduction) -> None:
    prediction, target = frames_of(), frames_of(seed=1)
    square = float(np.mean((prediction.double().numpy() - target.double().numpy()) ** 2))
    divergence = divergence_of(prediction.double().numpy(), target.double().numpy(), reduction)
    assert forecast_loss(prediction, target, reduction=reduction).item() == pytest.approx(square + 0.1 * divergence)
    result = forecast_loss(prediction, target, alpha=0.3, reduction=reduction).item()
    assert result == pytest.approx(square + 0.3 * divergence)
    assert forecast_loss(prediction, target, alpha=0.0, reduction=reduction).item() == pytest.approx(square)


def test_sum_weighs_ten_times_the_square_error_of_small_white_errors_on_any_grid() -> None:
    for cells in (32, 96):
        target = torch.zeros(2, 5, 1, cells, cells)
        prediction = frames_of(2, 5, 1, cells, cells, scale=0.01)
        square = prediction.square().mean()
        added = forecast_loss(prediction, target, reduction="sum") - square
        assert (added / square).item() == pytest.approx(0.1 / 0.1**2, rel=0.05)


@pytest.mark.parametrize(
    ("shape", "other"), [((2, 4, 1, 3, 3), (2, 4, 1, 3, 1)), ((4, 1, 3, 3), (4, 1, 3, 3)), ((2, 4, 1, 3, 3), (1,))]
)
def test_frames_of_different_or_wrong_shapes_are_refused(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    with pytest.raises(StforecastError, match="prediction and target must both be") as caught:
        forecast_loss(torch.zeros(shape), torch.zeros(other))
    assert caught.value.kind == ErrorKind.SHAPE


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(StforecastError, match="reduction must be 'mean' or 'sum', not 'none'") as caught:
        differential_divergence(frames_of(), frames_of(), reduction="none")  # type: ignore[arg-type]
    assert caught.value.kind == ErrorKind.ARGUMENT
