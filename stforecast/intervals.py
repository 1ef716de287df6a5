"""Split-conformal prediction intervals: how far truth lies from a forecast, by lead, cell and time of the forecast."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stforecast.baselines import annual_harmonics, diurnal_harmonics
from stforecast.channels import Frames
from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import sha256
from stforecast.time_axis import Times
from stforecast.time_features import fraction_of_day, fraction_of_week, harmonics, waves

Floats = npt.NDArray[np.float64]
# Times that are forecast, (init_time, lead_time), and truth minus forecast, (init_time, lead_time, channel, y, x).
Errors = tuple[Times, Frames]

# Init times that errors are taken of; more would make neither the size nor the quantiles much surer.
MOST_INIT_TIMES = 1000
# How many forecasts of the days before an init time, one a day, tell how large errors are just now.
RECENT_FORECASTS = 10
# The power of their mean error that the usual error is multiplied by. Among 0, 1/4, … 1 it made the coverage of
# seasons (daily pressure) and months (6-hourly temperature) most alike both in training and in validation, at the cost
# of up to 1 % of the interval score; on days of taxi flows 1 did in training and 0 in validation.
_POWER = 0.75
# Of a cell's mean error: the least usual error that a season or an hour can have.
_LEAST = 0.2
# How much a cell's cycle of the error is drawn to the mean cycle of all cells: half and half.
_SHRINKAGE = 1.0
# Scores are kept of at most as many cells as this many values allow, 256 MB.
_MOST_SCORES = 2**26
_SATURDAY = 5 / 7

Bound = Literal["lower", "upper"]
BOUNDS: tuple[Bound, Bound] = ("lower", "upper")


@dataclass(frozen=True)
class ErrorCycle:
    """What of a time tells how large errors usually are.

    Attributes:
        annual: harmonics of the year.
        diurnal: harmonics of the day.
        is_weekly: whether weekends have a level, and a course of the day, of their own.
    """

    annual: int
    diurnal: int
    is_weekly: bool

    def of(self, times: Times) -> Floats:
        """Columns (…, column) of times (…); the first is one."""
        flat = times.ravel()
        columns = [harmonics(flat, self.annual, 0), waves(fraction_of_day(flat), self.diurnal)]
        if self.is_weekly:
            at_weekend = (fraction_of_week(flat) >= _SATURDAY - 1e-9)[:, None].astype(np.float64)
            columns += [at_weekend, at_weekend * waves(fraction_of_day(flat), self.diurnal)]
        joined = np.concatenate(columns, axis=1)
        return joined.reshape(*times.shape, joined.shape[1])

    @classmethod
    def candidates(cls, times: Times, step: np.timedelta64) -> "list[ErrorCycle]":
        """The cycles that a training period, (time,), can show, the simplest first."""
        annual, diurnal = min(annual_harmonics(times), 1), min(diurnal_harmonics(times, step), 3)
        cycles = [cls(annual, 0, False), cls(annual, diurnal, False), cls(annual, diurnal, True)]
        return [cycle for row, cycle in enumerate(cycles) if cycle not in cycles[:row]]


@dataclass(frozen=True, eq=False)
class UsualError:
    """How large the error of a forecast usually is, normalized, by lead time, cell and time that is forecast.

    The absolute errors of each cell and lead time are regressed on the columns of a cycle; the coefficients of a cell,
    relative to its mean, are averaged with those of all cells.

    Attributes:
        cycle: what of a time tells of errors.
        mean: the mean absolute error, (lead_time, channel, y, x), float32.
        course: coefficients of the columns, relative to the mean, (lead_time, column, channel, y, x), float16.
    """

    cycle: ErrorCycle
    mean: Frames = field(repr=False)
    course: npt.NDArray[np.float16] = field(repr=False)

    @classmethod
    def of(cls, errors: Iterable[Errors], candidates: "list[ErrorCycle]", late_from: np.datetime64) -> "UsualError":
        """The usual error in blocks of errors; values that are not finite are left out.

        Args:
            errors: of the training period, block by block.
            candidates: cycles to choose from. The one is taken whose regression, on what is valid before `late_from`,
                is nearest to what is valid from then on.
            late_from: where the late part of the training period begins.
        """
        (*_, widest) = candidates
        early, late = _Sums(), _Sums()
        for times, misses in errors:
            is_late = times[:, -1] >= late_from
            for part, some in ((early, ~is_late), (late, is_late)):
                part.add(widest.of(times[some]), np.abs(misses[some].astype(np.float64)))
        both = early + late
        mean = both.mean()
        chosen = widest
        if early.count and late.count:
            distances = [late.distance(early.solve(mean, _columns(cycle, widest)), mean) for cycle in candidates]
            chosen = candidates[int(np.argmin(distances))]
        course = both.solve(mean, _columns(chosen, widest))[:, _columns(chosen, widest)]
        return cls(chosen, mean.astype(np.float32), course.astype(np.float16))

    def at(self, times: Times, leads: slice) -> Frames:
        """The usual error of forecasts of times (init_time, lead_time), (init_time, lead_time, channel, y, x).

        Args:
            times: the times that are forecast.
            leads: which lead times, by position.
        """
        columns = self.cycle.of(times).astype(np.float32)
        course = self.course[leads].astype(np.float32)
        relative = np.einsum("blk,lkcyx->blcyx", columns, course, optimize=True)
        usual: Frames = np.maximum(relative, np.float32(_LEAST)) * self.mean[leads]
        return usual

    @property
    def horizon(self) -> int:
        """How many lead times there are."""
        return int(self.mean.shape[0])

    def relative(self, errors: Frames, times: Times, leads: slice) -> Frames:
        """The mean over the cells of errors relative to the usual ones, (init_time, lead_time, channel).

        What is not finite counts as usual.

        Args:
            errors: (init_time, lead_time, channel, y, x).
            times: the times that are forecast, (init_time, lead_time).
            leads: which lead times, by position.
        """
        sizes = (np.abs(errors) / self.at(times, leads)).mean(axis=(3, 4))
        return np.where(np.isfinite(sizes), sizes, np.float32(1))


def _columns(cycle: ErrorCycle, widest: ErrorCycle) -> npt.NDArray[np.intp]:
    """Where the columns of a cycle stand among those of the widest one."""
    whole = 1 + 2 * cycle.annual + 2 * cycle.diurnal * (1 + cycle.is_weekly) + cycle.is_weekly
    assert cycle.annual == widest.annual
    return np.arange(whole)


@dataclass
class _Sums:
    """Normal equations of absolute errors on columns, by lead time: the columns are the same for all cells."""

    products: Any = 0.0  # (lead_time, column, column)
    moments: Any = 0.0  # (lead_time, column, channel, y, x)
    count: int = 0

    def add(self, columns: Floats, sizes: Floats) -> None:
        """Add columns (init_time, lead_time, column) and errors (init_time, lead_time, channel, y, x)."""
        is_known = np.asarray(np.isfinite(sizes).all(axis=(2, 3, 4)))
        columns = np.where(is_known[..., None], columns, 0.0)
        sizes = np.where(is_known[..., None, None, None], sizes, 0.0)
        self.products = self.products + np.einsum("blk,blm->lkm", columns, columns)
        self.moments = self.moments + np.einsum("blk,blcyx->lkcyx", columns, sizes, optimize=True)
        self.count += len(columns)

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(self.products + other.products, self.moments + other.moments, self.count + other.count)

    def mean(self) -> Floats:
        """The mean size, (lead_time, channel, y, x), of at least a thousandth of that of all cells."""
        counts = np.maximum(self.products[:, 0, 0], 1)[:, None, None, None]
        mean: Floats = self.moments[:, 0] / counts
        least = np.maximum(1e-3 * mean.mean(axis=(2, 3), keepdims=True), 1e-12)
        floored: Floats = np.maximum(mean, least)
        return floored

    def solve(self, mean: Floats, columns: npt.NDArray[np.intp]) -> Floats:
        """Coefficients relative to the mean, (lead_time, column, channel, y, x), 0 for columns that are not asked."""
        relative = self.moments[:, columns] / mean[:, None]
        shared = relative.mean(axis=(3, 4), keepdims=True)
        relative = (relative + _SHRINKAGE * shared) / (1 + _SHRINKAGE)
        products = self.products[:, columns[:, None], columns]
        # Columns that never vary, such as the second harmonic of a day of four frames, are left out by the ridge.
        ridge = 1e-6 * np.maximum(products[:, :1, :1], 1) * np.eye(len(columns))
        solved = np.linalg.solve(products + ridge, relative.reshape(*relative.shape[:2], -1))
        coefficients: Floats = np.zeros_like(self.moments)
        coefficients[:, columns] = solved.reshape(relative.shape)
        return coefficients

    def distance(self, coefficients: Floats, mean: Floats) -> float:
        """The mean square distance of some coefficients from these errors, but for what is the same for all."""
        again = np.einsum("lkcyx,lkm,lmcyx->", coefficients, self.products, coefficients, optimize=True)
        return float(again - 2 * np.einsum("lkcyx,lkcyx->", coefficients, self.moments / mean[:, None], optimize=True))


@dataclass(frozen=True, eq=False)
class Calibration:
    """How many usual errors truth lay from the forecasts of the validation period.

    Split-conformal intervals with a score that is weighted locally (Lei et al. 2018, doi:10.1080/01621459.2017.1307116,
    section 5.2): `|truth - forecast|` / usual error. The usual error is that of the training period by lead time, cell,
    season and hour, times a power of how large the errors of the ten days before the init time were.

    Of n init times the interval for a share p reaches to the score at which the share of cells below it, averaged over
    init times, is ceil((n + 1) p) / n. Were the init times of validation and of the forecast exchangeable, a cell of
    the forecast would lie inside with a probability of at least p, on average over the cells of a frame; with a single
    cell this is the split-conformal interval of Vovk, Gammerman and Shafer (2005, doi:10.1007/b106715). But times
    depend on each other and years differ, so coverage is measured, see docs/intervals.md, and not guaranteed.

    Attributes:
        usual: how large errors usually are, learnt from the training period.
        scores: the score at the shares 1 / n, …, n / n of the pool, (lead_time, channel, n), float32.
        power: the usual error is multiplied by this power of how large the errors of the days before the init time
            were relative to it.
    """

    usual: UsualError
    scores: Frames = field(repr=False)
    power: float

    @classmethod
    def of(cls, usual: UsualError, errors: Iterable[tuple[Times, Frames, Frames]]) -> "Calibration":
        """The calibration by blocks of errors of the validation period; what is not finite counts as infinitely far.

        Args:
            usual: how large errors usually are.
            errors: valid times and errors, as in `Errors`, and the relative size of those of the days before,
                (init_time, lead_time, channel).
        """
        leads, channels, y, x = usual.mean.shape
        blocks: list[Frames] = []
        before: list[Frames] = []
        kept: npt.NDArray[np.intp] | None = None
        for times, misses, recent in errors:
            before.append(recent)
            if kept is None:
                most = max(_MOST_SCORES // (MOST_INIT_TIMES * leads * channels), 1)
                # On large grids some cells stand for all.
                kept = np.sort(np.random.default_rng(0).permutation(y * x)[:most])
            with np.errstate(invalid="ignore"):
                far = np.abs(misses) / usual.at(times, slice(0, leads))
            blocks.append(np.nan_to_num(far.reshape(*far.shape[:3], -1)[..., kept], nan=np.inf, posinf=np.inf))
        weights = np.concatenate(before) ** np.float32(_POWER)
        return cls(usual, pooled_quantiles(np.concatenate(blocks) / weights[..., None]), _POWER)

    @property
    def count(self) -> int:
        """How many init times it is made of."""
        return int(self.scores.shape[-1])

    @property
    def horizon(self) -> int:
        """How many lead times it is made for."""
        return int(self.scores.shape[0])

    def check(self, interval: float, horizon: int) -> None:
        """Refuse an interval that it cannot give.

        Raises:
            StforecastError: ARGUMENT, naming what it can give.
        """
        if not 0 < interval < 1:
            raise StforecastError(ErrorKind.ARGUMENT, f"interval must be between 0 and 1, as 0.9, not {interval:g}")
        if horizon > self.horizon:
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"the model's intervals are calibrated for {self.horizon} lead times but {horizon} are wanted; "
                f"calibrate it for more: forecaster.calibrated(store, horizon={horizon})",
            )
        if rank(interval, self.count) > self.count:
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"an interval of {interval:g} wants more than the {self.count} init times that the model is calibrated "
                f"on, which give {self.count / (self.count + 1):.4g} at most; ask for less, or calibrate it on a store "
                "with a longer validation period: forecaster.calibrated(store)",
            )

    def radius(self, interval: float, times: Times, leads: slice, recent: Frames) -> Frames:
        """How far the interval reaches from the forecast, (init_time, lead_time, channel, y, x), normalized.

        Args:
            interval: the share of truth that is to lie within.
            times: the times that are forecast, (init_time, lead_time).
            leads: which lead times, by position.
            recent: the relative size of the errors of the days before, (init_time, lead_time, channel).
        """
        reach = self.scores[leads, :, rank(interval, self.count) - 1]
        radius: Frames = self.usual.at(times, leads) * (reach * recent ** np.float32(self.power))[..., None, None]
        return radius

    def digest(self) -> str:
        """A sum that tells calibrations apart."""
        arrays = b"".join(array.tobytes() for array in self.to_arrays().values())
        return sha256(json.dumps(self.to_json()).encode() + arrays)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that `from_arrays` reads, by name."""
        return {"mean": self.usual.mean, "course": self.usual.course, "scores": self.scores}

    def to_json(self) -> dict[str, Any]:
        """The plain values that `from_arrays` reads."""
        cycle = self.usual.cycle
        columns = {"annual": cycle.annual, "diurnal": cycle.diurnal, "is_weekly": cycle.is_weekly}
        return columns | {"power": self.power}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], described: Mapping[str, Any]) -> "Calibration":
        """The calibration of which `to_arrays` and `to_json` were written."""
        cycle = ErrorCycle(described["annual"], described["diurnal"], described["is_weekly"])
        return cls(UsualError(cycle, arrays["mean"], arrays["course"]), arrays["scores"], described["power"])


def rank(interval: float, count: int) -> int:
    """Which of the sorted scores of some init times bounds an interval; above their count there is none.

    >>> rank(0.9, 99), rank(0.9, 9), rank(0.95, 9)
    (90, 9, 10)
    """
    # 0.9 times 10 is 9.000000000000002 in some products.
    return max(math.ceil((count + 1) * interval - 1e-9), 1)


def pooled_quantiles(scores: Frames) -> Frames:
    """The least scores at or below which shares 1 / n, …, n / n of a pool are, (lead_time, channel, n).

    Args:
        scores: (init_time, lead_time, channel, cell), where n is the number of init times.
    """
    count, leads, channels, cells = scores.shape
    quantiles = np.empty((leads, channels, count), np.float32)
    for lead, channel in np.ndindex(leads, channels):
        pool = np.sort(scores[:, lead, channel], axis=None)
        quantiles[lead, channel] = pool[cells - 1 :: cells]
    return quantiles


def bound_name(name: str, bound: Bound) -> str:
    """What a bound of a variable's interval is called.

    >>> bound_name("t2m", "lower")
    't2m_lower'
    """
    return f"{name}_{bound}"


def bound_attrs(name: str, attrs: Mapping[Any, Any], bound: Bound, interval: float) -> dict[Any, Any]:
    """The attributes of a bound of a variable's interval, from those of the variable."""
    kept = {key: attrs[key] for key in ("units", "valid_min", "valid_max", "valid_range") if key in attrs}
    called = attrs.get("long_name", name)
    return kept | {
        "long_name": f"{bound} bound of the {interval:.12g} interval of {called}",
        "interval": interval,
        "interval_of": name,
    }
