"""A network that corrects a first guess: the mean cycle, a regression on the last anomalies, what time and place say.

Shapes: b samples, t frames of the history, h frames of the horizon, c channels, y rows, x columns, k columns that tell
of a time, p planes that tell of a place.
"""

# ruff: noqa: D102  # what a module's forward returns is the first line of the module

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stforecast.local_time import nonexistent_times
from stforecast.models.tau import TAU, MeanOfMembers
from stforecast.time_axis import Times
from stforecast.time_features import (
    fraction_of_day,
    fraction_of_week,
    fraction_of_year,
    harmonics,
    slots_of_week,
    sun,
    waves,
)

Columns = npt.NDArray[np.float32]

_CALENDAR = 8


@dataclass(frozen=True)
class TimeColumns:
    """Which numbers a network is told of a time: where it is in the mean cycle, and phases of day, week and year.

    Attributes:
        annual: annual harmonics of the cycle.
        diurnal: diurnal harmonics of the cycle.
        slot_seconds: the length of a slot of the week, where the cycle is a mean for each of them; 0 for harmonics.
        time_zone: the zone whose clock the times are of, if it is a city's; times that it skips are marked.
        has_sun: whether the sun's place is told, of times in UTC.
        has_calendar: whether the phases are told.
    """

    annual: int
    diurnal: int
    slot_seconds: int
    time_zone: str = ""
    has_sun: bool = False
    has_calendar: bool = True

    @property
    def cycle(self) -> int:
        """How many columns say where in the cycle a time is."""
        return 1 if self.slot_seconds else (1 + 2 * self.annual) * (1 + 2 * self.diurnal)

    @property
    def table(self) -> int:
        """How many rows a cycle's table has."""
        return 7 * 86400 // self.slot_seconds if self.slot_seconds else self.cycle

    def of(self, times: Times) -> Columns:
        """The columns of any times, (…, k), float32.

        They are the cycle's; if they are told, two waves a day, one a week and one a year, and where the sun is; and 1,
        or 0 for a time that the clock skips.
        """
        flat = times.ravel()
        if self.slot_seconds:
            cycle = slots_of_week(flat, np.timedelta64(self.slot_seconds, "s"))[:, None].astype(np.float64)
        else:
            cycle = harmonics(flat, self.annual, self.diurnal)
        phases = ((fraction_of_day, 2), (fraction_of_week, 1), (fraction_of_year, 1))
        calendar = [waves(fraction(flat), number) for fraction, number in phases] if self.has_calendar else []
        is_shown = np.ones((len(flat), 1))
        if self.time_zone:
            is_shown[np.isin(flat, nonexistent_times(flat, self.time_zone))] = 0
        place_of_sun = [sun(flat)] if self.has_sun else []
        columns = np.concatenate([cycle, *calendar, *place_of_sun, is_shown], axis=1)
        return columns.reshape(*times.shape, -1).astype(np.float32)


class CorrectedFirstGuess(nn.Module):
    """cycle(valid) + regression on the anomalies + correction: (b, t, c, y, x), (b, t + h, k) -> (b, h, c, y, x).

    The network sees t + h frames: the history, and the first guess of what follows. Of each it sees the departure from
    the cycle in units of its usual size in that cell, the cycle itself, the time's columns and the place's planes, and
    of earlier frames that were handed over (a week ago, say) their departures. What it gives is the error of the first
    guess, in units of the size that it had in the training period. It begins at no correction at all.

    Where the sun is told, one plane more is the cosine of its zenith angle, 0 at night.

    Under mixed precision cycle and regression are computed in float32 all the same; only the correction is not.

    A frame at a time that the clock skips has no departure, and where things are counted nothing is forecast for it.

    All tables are buffers, so they are part of the weights. They start empty; see `fill`.

    Args:
        build: makes the network from its history, channels, horizon and output channels.
        columns: what is told of a time.
        history: t.
        horizon: h.
        channels: c.
        is_joint: whether the regression of a channel sees all channels.
        grid: (y, x).
        planes: fixed planes that tell of a place.
        lags: earlier frames that are handed over for each of the t + h.
        embedding: planes that are learnt besides; 0 for a network that does not know one cell from another.
    """

    def __init__(
        self,
        build: Callable[[int, int, int, int], TAU | MeanOfMembers],
        columns: TimeColumns,
        *,
        history: int,
        horizon: int,
        channels: int,
        is_joint: bool,
        grid: tuple[int, int],
        planes: int = 0,
        lags: int = 0,
        embedding: int = 0,
    ) -> None:
        super().__init__()
        self.columns, self.history, self.horizon = columns, history, horizon
        self.register_buffer("cycle", torch.zeros(columns.table, channels, *grid))
        features = history * channels if is_joint else history
        self.is_joint = is_joint
        # Torch gives a network another memory layout only if no tensor of it has five dimensions.
        self.register_buffer("regression", torch.zeros(horizon * features, channels, *grid))
        self.register_buffer("error", torch.ones(horizon, channels, *grid))
        self.register_buffer("spread", torch.ones(channels, *grid))
        self.register_buffer("nothing", torch.full((channels, 1, 1), torch.nan))
        self.register_buffer("planes", torch.zeros(planes, *grid))
        # Of a place: sin φ, cos φ cos λ, cos φ sin λ, with which a sun's columns make the cosine of its zenith angle.
        self.register_buffer("direction", torch.zeros(3, *grid))
        self.embedding = nn.Parameter(0.1 * torch.randn(embedding, *grid)) if embedding else None
        self.calendar = _CALENDAR * columns.has_calendar
        seen = (2 + lags) * channels + self.calendar + columns.has_sun + planes + embedding
        self.network = build(history + horizon, seen, horizon, channels)
        for member in self.network.modules():
            if isinstance(member, TAU):
                for weights in member.dec.readout.parameters():
                    nn.init.zeros_(weights)

    def fill(self, **tables: Columns) -> None:
        """Take the tables of the training period, each of as many values as the buffer of its name."""
        for name, values in tables.items():
            buffer = cast(Tensor, getattr(self, name))
            buffer.copy_(torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(buffer.shape))

    def forward(self, frames: Tensor, times: Tensor, lagged: Tensor | None = None) -> Tensor:
        length = self.history + self.horizon
        is_shown = times[:, :length, -1, None, None, None]
        with _in_full_precision(frames.device.type):
            cycle, spread = self._cycle_at(times[:, :length]), cast(Tensor, self.spread)
            anomalies = (frames - cycle[:, : self.history]) * is_shown[:, : self.history]
            guess = self._guess(anomalies)
        seen = [torch.cat([anomalies, guess], dim=1) / spread, cycle]
        if lagged is not None:
            # A frame that is not there says nothing, as one that is just what the cycle says.
            lagged = lagged[:, :length]
            earlier = (lagged - cycle[:, :, None]) / spread
            seen.append(torch.where(lagged.isnan(), 0.0, earlier).flatten(2, 3))
        b, n, _, y, x = cycle.shape
        calendar = times[:, :length, self.columns.cycle :, None, None]
        seen.append(calendar[:, :, : self.calendar].expand(b, n, self.calendar, y, x))
        if self.columns.has_sun:
            seen.append(self._insolation(calendar[:, :, self.calendar : -1]))
        places = [cast(Tensor, self.planes)] + ([] if self.embedding is None else [self.embedding])
        seen += [some.expand(b, n, *some.shape) for some in places if len(some)]
        correction = cast(Tensor, self.error) * self.network(torch.cat(seen, dim=2))
        output: Tensor = cycle[:, self.history :] + guess + correction
        nothing = cast(Tensor, self.nothing)
        is_nothing = (is_shown[:, self.history :] == 0) & ~nothing.isnan()
        return torch.where(is_nothing, nothing, output)

    def _insolation(self, place_of_sun: Tensor) -> Tensor:
        """The cosine of the sun's zenith angle, 0 at night, (b, n, 4, 1, 1) -> (b, n, 1, y, x)."""
        sine, cosine, hour_sine, hour_cosine = place_of_sun.split(1, dim=2)
        up, prime, ninety = cast(Tensor, self.direction)
        cosine_of_zenith: Tensor = up * sine + cosine * (prime * hour_cosine - ninety * hour_sine)
        return cosine_of_zenith.clamp(min=0)

    def _guess(self, anomalies: Tensor) -> Tensor:
        """The anomalies that the regression makes of those of the history, (b, t, c, y, x) -> (b, h, c, y, x)."""
        regression = cast(Tensor, self.regression).unflatten(0, (self.horizon, -1))
        if self.is_joint:
            return torch.einsum("lfcyx,bfyx->blcyx", regression, anomalies.flatten(1, 2))
        return torch.einsum("lfcyx,bfcyx->blcyx", regression, anomalies)

    def _cycle_at(self, times: Tensor) -> Tensor:
        """The mean cycle at some times, (b, n, k) -> (b, n, c, y, x)."""
        table = cast(Tensor, self.cycle)
        if self.columns.slot_seconds:
            return table[times[..., 0].long()]
        return torch.einsum("bnk,kcyx->bncyx", times[..., : self.columns.cycle], table)


def _in_full_precision(device: str) -> AbstractContextManager[object]:
    """Keeps mixed precision off sums and products whose result is forecast as it is, and not a correction."""
    # Exporters need not know of a context that changes nothing.
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
