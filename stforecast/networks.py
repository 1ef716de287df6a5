"""Which network is built for which data, and what it is told beside the frames of its history."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from torch import nn

from stforecast.baselines import Climatology, LaggedRegression
from stforecast.channels import Channels
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, find_dims
from stforecast.local_time import nonexistent_times
from stforecast.models.first_guess import Columns, CorrectedFirstGuess, TimeColumns
from stforecast.models.tau import TAU, MeanOfMembers, ResidualToLastFrame
from stforecast.normalization import Normalization
from stforecast.time_axis import Times, parse_step
from stforecast.units import canonical_units
from stforecast.windows import Rows

FirstGuess = Literal["none", "last_frame", "cycle", "regression"]
Told = Literal["calendar", "sun", "places"]


@dataclass(frozen=True)
class NetworkConfig:
    """The size of a TAU, and what it is told; the sizes' defaults are those of the published models.

    Attributes:
        hidden_spatial: channels of the encoder and the decoder.
        hidden_temporal: channels of the translator.
        spatial_layers: layers of the encoder, and of the decoder; every second one halves the grid.
        temporal_layers: blocks of the translator.
        mlp_ratio: how much wider the inside of a block's MLP is.
        drop: dropout inside the blocks' MLPs.
        drop_path: stochastic depth of the last block.
        first_guess: what the network's output is added to: "none", as published; the "last_frame"; the mean "cycle" of
            the training period; or the cycle with a "regression" on the anomalies of the history, fitted cell by cell.
            With the last two the network sees anomalies and the cycle, and what it is told besides. See
            `CorrectedFirstGuess` and `LaggedRegression`.
        tells: what a network that sees anomalies is told besides: the "calendar", where the "sun" stands (of
            geographic grids in UTC), and what is known of "places": their fields without a time, and where they are.
        lags: how far back are the earlier frames that the network sees besides, for each frame of history and horizon,
            e.g. ("1D", "7D"). One that is absent, or behind the init time, is left out. With anomalies only.
        frames_per_call: how many frames the network gives at once, and those behind them by further calls on its own
            output; by default as many as it is fitted to forecast.
        members: how many networks of this size are fitted, whose mean is the forecast. In training each window of a
            batch goes to one of them, so they want as many times the epochs and the batch size of one.
        embedding: planes that are learnt, by which the network can tell cells apart. With anomalies only.
        circular: whether the first and the last column are neighbours; by default where the grid spans the globe. The
            published network has it False.
        parity: whether oddities of the published code are kept, see `TAU`.

    Examples:
        >>> small = NetworkConfig(hidden_spatial=8, hidden_temporal=48, first_guess="regression", lags=("1D", "7D"))
        >>> small.sees_anomalies, small.members
        (True, 1)
    """

    hidden_spatial: int = 32
    hidden_temporal: int = 256
    spatial_layers: int = 2
    temporal_layers: int = 8
    mlp_ratio: float = 8.0
    drop: float = 0.0
    drop_path: float = 0.1
    first_guess: FirstGuess = "last_frame"
    tells: tuple[Told, ...] = get_args(Told)
    lags: tuple[str, ...] = ()
    embedding: int = 0
    frames_per_call: int | None = None
    members: int = 1
    circular: bool | None = None
    parity: bool = False

    def __post_init__(self) -> None:
        if self.first_guess not in get_args(FirstGuess):
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"first_guess must be one of {', '.join(get_args(FirstGuess))}, not {self.first_guess!r}",
            )
        unknown = [told for told in self.tells if told not in get_args(Told)]
        if unknown:
            raise StforecastError(
                ErrorKind.ARGUMENT, f"tells may hold {', '.join(get_args(Told))}, not {', '.join(map(repr, unknown))}"
            )
        if not self.sees_anomalies and (self.lags or self.embedding):
            raise StforecastError(ErrorKind.ARGUMENT, "lags and embedding want first_guess='cycle' or 'regression'")
        for name in ("members", "frames_per_call"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise StforecastError(ErrorKind.ARGUMENT, f"{name} must be at least 1, not {number}")
        for lag in self.lags:
            parse_step(lag, name="lags")

    @property
    def sees_anomalies(self) -> bool:
        """Whether the network corrects a first guess that knows the training period."""
        return self.first_guess in ("cycle", "regression")

    @property
    def lag_times(self) -> tuple[np.timedelta64, ...]:
        """The lags as lengths of time."""
        return tuple(parse_step(lag, name="lags") for lag in self.lags)

    def _taus(self, grid: Grid, history: int, channels: int, horizon: int, output_channels: int) -> TAU | MeanOfMembers:
        """The network that forecasts, or the mean of several."""
        sizes = (grid, history, channels, horizon, output_channels)
        return self._tau(*sizes) if self.members == 1 else MeanOfMembers(self._tau(*sizes) for _ in range(self.members))

    def _tau(self, grid: Grid, history: int, channels: int, horizon: int, output_channels: int) -> TAU:
        circular = grid.spans_globe and len(grid.x) % 2 ** (self.spatial_layers // 2) == 0
        return TAU(
            history=history,
            channels=channels,
            horizon=horizon,
            output_channels=output_channels,
            circular=circular if self.circular is None else self.circular,
            hidden_spatial=self.hidden_spatial,
            hidden_temporal=self.hidden_temporal,
            spatial_layers=self.spatial_layers,
            temporal_layers=self.temporal_layers,
            mlp_ratio=self.mlp_ratio,
            drop=self.drop,
            drop_path=self.drop_path,
            parity=self.parity,
        )


@dataclass(frozen=True)
class NetworkShape:
    """What a network has to be built for: all that decides the shapes of its weights, beside its configuration.

    Attributes:
        history: frames that it sees.
        horizon: frames that it gives at once.
        channels: channels of a frame.
        columns: what it is told of a time; None for a network that is told of none.
        planes: what it is told of a place, by name.
        is_joint: whether the regression of a channel sees all channels.
    """

    history: int
    horizon: int
    channels: int
    columns: TimeColumns | None = None
    planes: tuple[str, ...] = ()
    is_joint: bool = False

    def build(self, config: NetworkConfig, grid: Grid) -> nn.Module:
        """A network with fresh weights; its tables are empty."""
        if self.columns is None:
            network = config._taus(grid, self.history, self.channels, self.horizon, self.channels)
            return ResidualToLastFrame(network) if config.first_guess == "last_frame" else network
        return CorrectedFirstGuess(
            lambda *sizes: config._taus(grid, *sizes),
            self.columns,
            history=self.history,
            horizon=self.horizon,
            channels=self.channels,
            is_joint=self.is_joint,
            grid=grid.shape,
            planes=len(self.planes),
            lags=len(config.lags),
            embedding=config.embedding,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads."""
        return asdict(self) | {"planes": list(self.planes)}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "NetworkShape":
        """The shape that `to_json` wrote."""
        columns = described["columns"] and TimeColumns(**described["columns"])
        return cls(**{**described, "columns": columns, "planes": tuple(described["planes"])})


@dataclass(frozen=True)
class Tables:
    """What the training period says: the mean cycle, what follows from anomalies, how large they are, and the places.

    Attributes:
        columns: where in the cycle a time is.
        cycle: (row, channel, y, x), normalized.
        regression: of anomalies on those of the history, (lead, feature, channel, y, x).
        error: the usual size of its error, (lead, channel, y, x), normalized.
        spread: the usual size of an anomaly, (channel, y, x), normalized.
        direction: from the centre of the earth to each cell, (3, y, x); zeros on a plane.
        nothing: what no count at all is, normalized; NaN where nothing is counted, (channel, 1, 1).
        is_joint: whether the regression of a channel sees all channels.
        planes: what is known of each place, by name, (y, x).
    """

    columns: TimeColumns
    cycle: Columns
    regression: Columns
    error: Columns
    spread: Columns
    direction: Columns
    nothing: Columns
    is_joint: bool
    planes: Mapping[str, Columns]

    @classmethod
    def of(
        cls, training: xr.Dataset, normalization: Normalization, channels: Channels, *, history: int, horizon: int
    ) -> "Tables":
        """The tables of a training part, (time, [level,] Y, X), normalized; its fields (Y, X) become planes.

        It is read several times in blocks of time, so it may be larger than memory.

        Raises:
            StforecastError: what `LaggedRegression.fit` raises; INF for a static field that is infinite somewhere.
        """
        guess = LaggedRegression.fit(training, horizon=horizon, history=history, robust=True)
        grid = Grid.of(training)
        zone = str(training["time"].attrs.get("time_zone", ""))
        has_sun = grid.is_geographic and not zone
        if isinstance(guess.cycle, Climatology):
            columns = TimeColumns(guess.cycle.annual, guess.cycle.diurnal, 0, zone, has_sun)
            cycle = _stacked(guess.cycle.coefficients, channels)
        else:
            seconds = int(guess.cycle.slot_length / np.timedelta64(1, "s"))
            columns = TimeColumns(0, 0, seconds, zone, has_sun)
            means = _stacked(guess.cycle.means, channels)
            cycle = means.reshape(-1, *means.shape[-3:])
        spread = _stacked(guess.spread, channels)
        # A cell that never departs from its cycle has no spread to divide by.
        least = 1e-3 * np.sqrt(np.square(spread).mean(axis=(1, 2), keepdims=True)) + 1e-6
        return cls(
            columns=columns,
            cycle=cycle,
            regression=_stacked(guess.coefficients, channels),
            error=_stacked(guess.error, channels),
            spread=np.maximum(spread, least),
            direction=_direction(grid),
            nothing=_nothing(normalization, channels),
            is_joint=guess.is_joint,
            planes=_planes(training),
        )

    def of_config(self, config: NetworkConfig) -> "Tables":
        """What of them a network sees, and is told."""
        has_sun = self.columns.has_sun and "sun" in config.tells
        columns = replace(self.columns, has_sun=has_sun, has_calendar="calendar" in config.tells)
        chosen = replace(self, columns=columns, planes=self.planes if "places" in config.tells else {})
        if config.first_guess == "regression":
            return chosen
        # The cycle alone errs by an anomaly.
        error = np.broadcast_to(self.spread, self.error.shape)
        return replace(chosen, regression=np.zeros_like(self.regression), error=error)

    def lead_weights(self) -> Columns:
        """By what to weight square errors so that all lead times count alike, (lead,), of mean 1."""
        square = np.square(self.error, dtype=np.float64).mean(axis=(1, 2, 3))
        # Of what the first guess knows to the last digit there is nothing to learn.
        inverse = 1 / np.maximum(square, 1e-3 * square.max() + 1e-12)
        weights: Columns = (inverse / inverse.mean()).astype(np.float32)
        return weights

    def check_known(self, times: Times) -> None:
        """Refuse times of which the mean cycle says nothing.

        A slot of the week that was never seen is forecast by the mean over all weekdays. What is left are times of day
        that no day of the training period has.

        Raises:
            StforecastError: TIME_SHORT, naming the times of day.
        """
        if not self.columns.slot_seconds:
            return
        slots = self.columns.of(times)[:, 0].astype(np.intp)
        is_known = np.isfinite(self.cycle.sum(axis=(1, 2, 3)))[slots]
        unknown = np.unique(times[~is_known] - times[~is_known].astype("datetime64[D]")).astype("timedelta64[m]")
        if len(unknown):
            clock = [f"{minutes // 60:02}:{minutes % 60:02}" for minutes in unknown.astype(int).tolist()]
            named = ", ".join(clock) if len(clock) < 5 else f"{clock[0]}, {clock[1]}, … {clock[-1]}"
            raise StforecastError(
                ErrorKind.TIME_SHORT,
                f"the mean cycle is one of times of day, and the training period has no frame at {named}, which occur "
                "in windows of training or validation; take a training period that has them, or "
                "NetworkConfig(first_guess='last_frame')",
            )

    def fill(self, network: nn.Module) -> None:
        """Write them into a network that was built for them."""
        assert isinstance(network, CorrectedFirstGuess)
        shape = (len(self.planes), *self.spread.shape[1:])
        planes = np.stack(list(self.planes.values())) if self.planes else np.zeros(shape, np.float32)
        names = ("cycle", "regression", "error", "spread", "direction", "nothing")
        network.fill(**{name: getattr(self, name) for name in names}, planes=planes)


def _stacked(tables: xr.Dataset, channels: Channels) -> Columns:
    """Tables (…, [level,] y, x) as (…, channel, y, x)."""
    blocks = []
    for item in channels.variables:
        values = tables[item.name].to_numpy().astype(np.float32)
        blocks.append(values if item.levels else np.expand_dims(values, -3))
    return np.concatenate(blocks, axis=-3)


def _nothing(normalization: Normalization, channels: Channels) -> Columns:
    """What no count at all is, normalized, (channel, 1, 1); NaN for what is not counted."""
    values = []
    for item in channels.variables:
        is_counted = item.limits[0] == 0 and canonical_units(item.units) == canonical_units("1")
        zero = np.full((1, *((len(item.levels),) if item.levels else ()), 1, 1), 0.0 if is_counted else np.nan)
        values.append(normalization.variables[item.name].apply(zero).reshape(-1, 1, 1))
    return np.concatenate(values)


def _direction(grid: Grid) -> Columns:
    """The unit vector to each cell, (3, y, x): to the pole, to the prime meridian, and to 90 degrees east."""
    if not grid.is_geographic:
        return np.zeros((3, *grid.shape), np.float32)
    latitude, longitude = np.deg2rad(np.meshgrid(grid.y, grid.x, indexing="ij"))
    level = np.cos(latitude)
    vector = np.stack([np.sin(latitude), level * np.cos(longitude), level * np.sin(longitude)])
    return vector.astype(np.float32)


def _planes(series: xr.Dataset) -> dict[str, Columns]:
    """The static fields of a series, and where its cells are, of mean 0 and deviation 1; constants are left out.

    Where a field is NaN, as that of a coast's height over the sea may be, the network is told its mean.
    """
    y, x = find_dims(series, "Y", "X")
    grid = Grid.of(series)
    fields = {
        str(name): coord.transpose(y, x).to_numpy().astype(np.float64)
        for name, coord in series.coords.items()
        if set(coord.dims) == {y, x} and np.issubdtype(coord.dtype, np.number)
    }
    if grid.is_geographic:
        latitude, longitude = np.deg2rad(np.meshgrid(grid.y, grid.x, indexing="ij"))
        fields["sine of latitude"] = np.sin(latitude)
        if not grid.spans_globe:
            fields["longitude"] = longitude
    found = {}
    for name, values in fields.items():
        is_known = ~np.isnan(values)
        known = values[is_known]
        if not np.isfinite(known).all():
            raise StforecastError(
                ErrorKind.INF, f"the static field {name} has infinite values; correct it, or drop it before the fit"
            )
        if not len(known):
            warnings.warn(f"the static field {name} is NaN everywhere, so it is left out", stacklevel=2)
        elif known.std() > 1e-9 * max(abs(known.mean()), 1e-30):
            found[name] = np.where(is_known, (values - known.mean()) / known.std(), 0.0).astype(np.float32)
    return found


@dataclass(frozen=True)
class Context:
    """What a network is told of windows beside their history: their times, and frames from earlier.

    Attributes:
        times: the axis that windows' rows count on, (time,).
        step: its step.
        history: frames that the network sees.
        columns: what it is told of a time.
        lags: how far back the earlier frames are.
        frames: normalized, (time, channel, y, x), from `first_row` on; None without lags.
        first_row: the row of the first of the frames.
    """

    times: Times
    step: np.timedelta64
    history: int
    columns: TimeColumns | None = None
    lags: tuple[np.timedelta64, ...] = ()
    frames: torch.Tensor | None = None
    first_row: int = 0

    def of(self, starts: Rows, length: int, *, first: int = 0) -> tuple[torch.Tensor, ...]:
        """The columns (window, length, k) and earlier frames (window, length, lag, channel, y, x) of windows.

        Args:
            starts: the windows' first rows, (window,).
            length: frames of history and horizon together; those of the horizon may be behind the axis.
            first: the first of a window's frames that is asked for, where a rollout is gone on with.

        Returns:
            Nothing for a network that is told nothing; an earlier frame that is absent is NaN.
        """
        if self.columns is None:
            return ()
        wanted = self._wanted(starts, first, length)
        columns = torch.from_numpy(self.columns.of(wanted))
        if not self.lags:
            return (columns,)
        assert self.frames is not None
        rows, is_there = self._earlier(wanted, self._last_seen(starts))
        lagged = self.frames[torch.from_numpy(np.where(is_there, rows - self.first_row, 0))]
        lagged[torch.from_numpy(~is_there)] = torch.nan
        return columns, lagged

    def earlier_rows(self, starts: Rows, length: int, *, first: int = 0) -> Rows:
        """The rows of all earlier frames that windows are told of, without those that are absent."""
        if not self.lags:
            return np.empty(0, np.intp)
        rows, is_there = self._earlier(self._wanted(starts, first, length), self._last_seen(starts))
        found: Rows = np.unique(rows[is_there])
        return found

    def _wanted(self, starts: Rows, first: int, length: int) -> Times:
        """The times of windows' frames from the `first` on, (window, length)."""
        wanted: Times = self.times[starts][:, None] + self.step * np.arange(first, first + length)
        return wanted

    def _last_seen(self, starts: Rows) -> Times:
        """The init times of windows, (window,)."""
        last: Times = self.times[starts] + self.step * (self.history - 1)
        return last

    def _earlier(self, wanted: Times, last_seen: Times) -> tuple[Rows, Any]:
        """The rows of the frames that are each lag before some times (window, length), and whether they are there.

        No frame from behind the init time is, however long the horizon.
        """
        earlier = wanted[:, :, None] - np.array(self.lags, "timedelta64[ns]")
        rows = np.searchsorted(self.times, earlier).clip(max=len(self.times) - 1)
        is_there = (self.times[rows] == earlier) & (earlier <= last_seen[:, None, None]) & (rows >= self.first_row)
        if self.columns is not None and self.columns.time_zone:
            # What a file holds for an hour that the clock skipped is no frame.
            is_there &= ~np.isin(earlier, nonexistent_times(np.unique(earlier), self.columns.time_zone))
        return rows, is_there
