"""The loss that TAU is fitted with: mean square error and differential divergence (arXiv:2206.12126)."""

from typing import Literal

from torch import Tensor, nn

from stforecast.errors import ErrorKind, StforecastError

Reduction = Literal["mean", "sum"]


def forecast_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.1,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Mean square error + alpha · `differential_divergence`, a float32 scalar.

    `reduction` is the divergence's alone; the square error is always the mean over all elements. Were it summed too,
    the ratio of the two would be that of "mean" again, and the best learning rate would hang on the size of the grid.

    For small errors that are unrelated from frame to frame, the divergence adds alpha / temperature² = 10 times the
    square error with "sum", the paper's formula, so alpha may want to be smaller there. The published code, "mean",
    divides that by the number of values in a frame: 0.5 % for 2 × 32 × 32, next to nothing on larger grids.

    Args:
        prediction: normalized frames, (b, t, c, y, x), the whole rollout.
        target: what they should be, the same shape.
        alpha: weight of the divergence; 0 is the plain mean square error.
        reduction: of the divergence.
        weight: of each square error, of mean 1 and of a shape that broadcasts to (t, c, y, x): of cells (y, 1), of
            lead times (t, 1, 1, 1), or of both (t, 1, y, 1); all alike by default.

    Raises:
        StforecastError: what `differential_divergence` refuses.
    """
    divergence = differential_divergence(prediction, target, reduction=reduction)
    return square_error(prediction, target, weight) + alpha * divergence


def square_error(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean square error, a float32 scalar, weighted by `weight` as in `forecast_loss`, if given."""
    if weight is None:
        return nn.functional.mse_loss(prediction.float(), target.float())
    return (weight * (prediction.float() - target.float()).square()).mean()


def differential_divergence(
    prediction: Tensor,
    target: Tensor,
    *,
    reduction: Reduction = "mean",
    temperature: float = 0.1,
    epsilon: float = 1e-12,
) -> Tensor:
    """How differently prediction and target distribute their changes from frame to frame, a float32 scalar.

    With P and Q the softmax over the n = c·y·x values of a frame of (frame[t + 1] - frame[t]) / temperature, of the
    prediction and of the target, it is the Kullback-Leibler divergence

        sum over the n values of P · log(P / (Q + epsilon) + epsilon)

    averaged over samples and steps: "sum", the paper's formula; "mean", the published code, divides it by n as well.
    It is computed in float32 whatever the inputs, for epsilon is 0 in float16. Two frames or fewer have divergence 0.

    Args:
        prediction: normalized frames, (b, t, c, y, x).
        target: what they should be, the same shape.
        reduction: over the n values of a frame.
        temperature: by what the changes are divided.
        epsilon: what keeps the quotient and its logarithm finite.

    Raises:
        StforecastError: SHAPE if the shapes differ or are not (b, t, c, y, x); ARGUMENT for another reduction.
    """
    if prediction.ndim != 5 or prediction.shape != target.shape:
        raise StforecastError(
            ErrorKind.SHAPE,
            "prediction and target must both be (batch, time, channel, y, x), not of shapes "
            f"{tuple(prediction.shape)} and {tuple(target.shape)}",
        )
    if reduction not in ("mean", "sum"):
        raise StforecastError(ErrorKind.ARGUMENT, f"reduction must be 'mean' or 'sum', not {reduction!r}")
    if prediction.shape[1] <= 2:
        return prediction[:, :0].float().sum()  # 0, and a part of the graph
    p, q = (_changes(frames).div(temperature).softmax(dim=-1) for frames in (prediction, target))
    divergence = p * (p / (q + epsilon) + epsilon).log()  # (b, t - 1, n)
    return divergence.mean() if reduction == "mean" else divergence.sum(dim=-1).mean()


def _changes(frames: Tensor) -> Tensor:
    """Frame less the one before, (b, t - 1, c·y·x), in float32."""
    return frames.float().diff(dim=1).flatten(start_dim=2)
