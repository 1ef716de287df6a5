"""Confidence intervals by a paired moving-block bootstrap over init times."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stforecast.errors import ErrorKind, StforecastError
from stforecast.time_axis import Times
from stforecast.time_features import DAY
from stforecast.verification.metrics import Floats, Metric

# Below, blocks are too few to say how much chance there is in a score.
_LEAST_INITS = 8


@dataclass(frozen=True)
class Bootstrap:
    """How scores are resampled: blocks of neighbouring init times are drawn with replacement (Künsch 1989).

    All sources get the same draws, so what is common to them (a hard week) cancels in their difference.

    Attributes:
        confidence: the share of the interval, between 0 and 1.
        block_length: of the blocks, in init times.
        resamples: how many draws.
        seed: what the draws follow from.
    """

    confidence: float
    block_length: int
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise StforecastError(
                ErrorKind.ARGUMENT, f"confidence lies between 0 and 1, as 0.95, and is not {self.confidence:g}"
            )
        if self.block_length < 1 or self.resamples < 1:
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"wanted blocks of at least 1 init time and at least 1 resample, not {self.block_length} and "
                f"{self.resamples}",
            )

    def draws(self, inits: int) -> Floats:
        """How often each init time is in each resample, (resample, init_time).

        Raises:
            StforecastError: TIME_SHORT for fewer than eight init times, or than a block has.
        """
        length = self.block_length
        if inits < max(_LEAST_INITS, length):
            raise StforecastError(
                ErrorKind.TIME_SHORT,
                f"{inits} init time(s) are too few for an interval by blocks of {length}; wanted "
                f"{max(_LEAST_INITS, length)} or more: forecast from more init times, or leave confidence out",
            )
        rng = np.random.default_rng(self.seed)
        counts = np.zeros((self.resamples, inits))
        blocks = -(-inits // length)
        for row in range(self.resamples):
            starts = rng.integers(0, inits - length + 1, blocks)
            drawn = (starts[:, None] + np.arange(length)).ravel()[:inits]
            counts[row] = np.bincount(drawn, minlength=inits)
        return counts


def usual_block_length(inits: Times, leads: npt.NDArray[np.timedelta64]) -> int:
    """How many init times a block has unless told: those within the longest lead time or a day.

    Forecasts that begin within a lead time of each other see the same weather, and those of one day the same weekday,
    so their errors are alike. At least the cube root of their number, the order that blocks must grow with (Künsch
    1989, doi:10.1214/aos/1176347265; Wilks 1997, doi:10.1175/1520-0442(1997)010<0065:RHTFAF>2.0.CO;2), and at most a
    quarter of the init times: fewer blocks would make no interval.

    Examples:
        Six-hourly forecasts of three days:

        >>> inits = np.datetime64("2020-01-01T00") + np.arange(240) * np.timedelta64(6, "h")
        >>> usual_block_length(inits, np.arange(1, 13) * np.timedelta64(6, "h"))
        12
    """
    number = len(inits)
    if number < 2:
        return 1
    spacing = np.median(np.diff(inits.astype("datetime64[ns]")).astype(np.int64))
    alike = np.maximum(leads.max(), DAY).astype("timedelta64[ns]").astype(np.int64)
    return max(1, min(max(int(np.ceil(alike / spacing)), int(np.ceil(number ** (1 / 3)))), number // 4))


def skill(score: Floats, reference: Floats, metric: Metric) -> Floats:
    """The share of the reference's distance to a perfect score that is gone: 1 - rmse / rmse of the reference.

    NaN for a metric that has no perfect score, and where the reference is perfect.
    """
    if metric.perfect is None:
        return np.full(np.broadcast_shapes(score.shape, reference.shape), np.nan)
    behind = reference - metric.perfect
    gained: Floats = np.divide(
        reference - score,
        behind,
        out=np.full(np.broadcast_shapes(score.shape, behind.shape), np.nan),
        where=behind != 0,
    )
    return gained


@dataclass(frozen=True)
class Intervals:
    """Lower and upper bounds.

    Attributes:
        of_scores: (bound, metric, source, …).
        of_skill: (bound, metric, source, reference, …).
    """

    of_scores: Floats
    of_skill: Floats


def intervals(
    sums: Floats, weights: Floats, draws: Floats, metrics: Sequence[Metric], references: int, confidence: float
) -> Intervals:
    """Percentile intervals of the scores, and of the skill of all sources against the last so many of them.

    Args:
        sums: of each frame, (metric, source, init_time, …).
        weights: likewise.
        draws: as `Bootstrap.draws` gives them, (resample, init_time).
        metrics: what is scored.
        references: how many of the sources, at their end, are references.
        confidence: the share of the interval.
    """
    with np.errstate(invalid="ignore"):  # a ratio of a perfect frame is infinite
        drawn, total = (np.moveaxis(np.tensordot(draws, some, axes=(1, 2)), 0, 2) for some in (sums, weights))
    means = np.divide(drawn, total, out=np.full(drawn.shape, np.nan), where=total > 0)
    ends = (1 - confidence) / 2, (1 + confidence) / 2
    of_scores, of_skill = [], []
    for metric, mean in zip(metrics, means, strict=True):
        scores = metric.score(mean)  # (source, resample, …)
        of_scores.append(_quantiles(scores, ends))
        against = scores[len(scores) - references :]
        of_skill.append(_quantiles(np.moveaxis(skill(scores[:, None], against[None], metric), 2, 1), ends))
    return Intervals(np.stack(of_scores, axis=1), np.stack(of_skill, axis=1))


def _quantiles(values: Floats, ends: tuple[float, float]) -> Floats:
    """Quantiles along the second axis, (2, first, …); NaN where no value is finite."""
    finite = np.isfinite(values)
    is_empty = ~finite.any(axis=1, keepdims=True)
    found: Floats = np.nanquantile(np.where(finite, values, np.where(is_empty, 0.0, np.nan)), ends, axis=1)
    return np.where(np.squeeze(is_empty, axis=1), np.nan, found)
