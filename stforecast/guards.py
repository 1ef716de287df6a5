"""What a forecast is held against before it is believed: finite, possible, and like what the model was fitted on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.channels import Channels, Frames
from stforecast.errors import ErrorKind, StforecastError
from stforecast.limits import limits_of
from stforecast.time_axis import Times, show_step, show_time

Flags = npt.NDArray[np.uint8]
Values = npt.NDArray[np.floating]

# CF flags, https://cfconventions.org/cf-conventions/cf-conventions.html#flags
NOT_FINITE, OUT_OF_RANGE, MEAN_DRIFT, VARIANCE_DRIFT = 1, 2, 4, 8
_MEANINGS = {
    NOT_FINITE: ("not_finite", "has values that are not finite"),
    OUT_OF_RANGE: ("out_of_range", "has values that cannot be"),
    MEAN_DRIFT: ("mean_drift", "has a mean over the cells that is far from any of the training period"),
    VARIANCE_DRIFT: ("variance_drift", "varies far more, or far less, than in the training period"),
}
Refuse = Literal["nothing", "impossible", "drift"]
_IMPOSSIBLE = NOT_FINITE | OUT_OF_RANGE
_REFUSED: dict[str, int] = {
    "nothing": 0,
    "impossible": _IMPOSSIBLE,
    "drift": _IMPOSSIBLE | MEAN_DRIFT | VARIANCE_DRIFT,
}
# A mean is far if it is outside of those of the training period by more than their whole range and the deviation within
# a frame, a variance if it is this many times above the largest or below the least.
_VARIANCE_FACTOR = 4.0
# Input is refused that is further away than this many standard deviations: another unit, or normalized already.
_FAR_INPUT = 8.0


@dataclass(frozen=True)
class Envelope:
    """Between which values the frames of the training period lay, normalized.

    Attributes:
        mean: the least and the greatest mean over the cells of each channel, (channel, 2).
        variance: the least and the greatest variance over the cells, (channel, 2).
    """

    mean: tuple[tuple[float, float], ...]
    variance: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, frames: Frames) -> "Envelope":
        """The envelope of frames (time, channel, y, x)."""
        means, variances = frames.mean((2, 3), dtype=np.float64), frames.var((2, 3), dtype=np.float64)
        ends = [[(float(some.min()), float(some.max())) for some in values.T] for values in (means, variances)]
        return cls(tuple(ends[0]), tuple(ends[1]))

    def merge(self, other: "Envelope") -> "Envelope":
        """The envelope of the frames of both."""

        def wider(one: tuple[tuple[float, float], ...], two: tuple[tuple[float, float], ...]) -> Any:
            return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, two, strict=True))

        return Envelope(wider(self.mean, other.mean), wider(self.variance, other.variance))

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "Envelope":
        """The envelope out of a description of plain values."""
        return cls(*(tuple((float(a), float(b)) for a, b in described[name]) for name in ("mean", "variance")))

    def flags(self, frames: Frames) -> Flags:
        """MEAN_DRIFT and VARIANCE_DRIFT of frames (…, channel, y, x), (…, channel)."""
        mean, variance = frames.mean((-2, -1), dtype=np.float64), frames.var((-2, -1), dtype=np.float64)
        low, high = np.array(self.mean).T
        least, largest = np.array(self.variance).T
        margin = (high - low) + np.sqrt(largest)
        is_far = (mean < low - margin) | (mean > high + margin)
        is_other = (variance > _VARIANCE_FACTOR * largest) | (variance < least / _VARIANCE_FACTOR)
        flags: Flags = (is_far * MEAN_DRIFT + is_other * VARIANCE_DRIFT).astype(np.uint8)
        return flags

    def check_input(self, frames: Frames, channels: Channels) -> None:
        """Refuse frames (time, channel, y, x) that are unlike any the model was fitted on.

        Raises:
            StforecastError: STATS, naming the variable and how far away it is.
        """
        low, high = np.array(self.mean).T
        spread = np.sqrt(np.array(self.variance)[:, 1] + np.square(high - low) / 12 + 1e-12)
        mean = frames.mean((0, 2, 3), dtype=np.float64)
        apart = np.maximum(np.maximum(low - mean, mean - high), 0) / spread
        if not (apart > _FAR_INPUT).any():
            return
        channel = int(apart.argmax())
        owners = [item for item in channels.variables for _ in range(item.channels)]
        raise StforecastError(
            ErrorKind.STATS,
            f"variable {owners[channel].name} is {apart[channel]:.0f} standard deviations away from all that the model "
            f"was fitted on: its values are not in {owners[channel].units}, or are normalized already; mend their "
            "units, or fit anew",
        )


def flags_of(
    channels: Channels, normalized: Frames, physical: Mapping[str, Values], envelope: Envelope | None
) -> dict[str, Flags]:
    """What is wrong with each variable at each lead of each forecast, (init_time, lead_time); 0 is nothing.

    Args:
        channels: the variables.
        normalized: their values, (init_time, lead_time, channel, y, x).
        physical: the same by variable, in physical units, (init_time, lead_time, [level,] y, x).
        envelope: of the training period, where it is known.
    """
    flags = {}
    drift = np.zeros(normalized.shape[:3], np.uint8)
    if envelope is not None:
        with np.errstate(invalid="ignore", over="ignore"):
            drift = envelope.flags(normalized)
    for item, drifts in channels.unstack(drift, axis=2):
        values = physical[item.name]
        inner = tuple(range(2, values.ndim))
        low, high = limits_of(xr.DataArray(name=item.name, attrs={**item.attrs, "units": item.units}))
        found = ~np.isfinite(values).all(inner) * np.uint8(NOT_FINITE)
        is_outside = np.isfinite(values) & ((values < low) | (values > high))
        found = found | is_outside.any(inner) * np.uint8(OUT_OF_RANGE)
        flags[item.name] = found | (np.bitwise_or.reduce(drifts, axis=2) if item.levels else drifts)
    return flags


FLAG_ATTRS = {
    "standard_name": "quality_flag",
    "long_name": "what is wrong with a forecast at a lead time",
    "flag_masks": np.array(list(_MEANINGS), np.uint8),
    "flag_meanings": " ".join(name for name, _ in _MEANINGS.values()),
}


def as_coordinate(flags: Mapping[str, Flags]) -> xr.Variable:
    """The flags of all variables together, (init_time, lead_time), as CF has them."""
    return xr.Variable(("init_time", "lead_time"), np.bitwise_or.reduce(list(flags.values())), FLAG_ATTRS)


def check_refuse(refuse: str) -> None:
    """Refuse what is no choice of what to refuse.

    Raises:
        StforecastError: ARGUMENT.
    """
    if refuse not in _REFUSED:
        raise StforecastError(ErrorKind.ARGUMENT, f"refuse must be one of {', '.join(_REFUSED)}, not {refuse!r}")


def refuse_flagged(
    flags: Mapping[str, Flags], refuse: Refuse, inits: Times, lead_times: npt.NDArray[np.timedelta64]
) -> None:
    """Refuse a forecast by its flags (init_time, lead_time) of each variable.

    Raises:
        StforecastError: OUTPUT_INVALID, naming variable, init time, lead time and what is wrong.
    """
    check_refuse(refuse)
    for name, every in flags.items():
        some = every & _REFUSED[refuse]
        if not some.any():
            continue
        init, lead = (int(axis[0]) for axis in np.nonzero(some))
        wrong = " and ".join(said for mask, (_, said) in _MEANINGS.items() if some[init, lead] & mask)
        raise StforecastError(
            ErrorKind.OUTPUT_INVALID,
            f"the forecast of {name} from {show_time(inits[init])} {wrong}, the first at lead "
            f"{show_step(lead_times[lead])}; shorten the horizon, fit anew, or take it with its flags by "
            "refuse='nothing'",
        )
