"""A forecast that a fitted network can make from a series: known before a value is read, and made in parts."""

import importlib.metadata
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import safetensors.torch
import torch
import xarray as xr
from torch import nn

from stforecast.alignment import Alignment
from stforecast.allocation import keep_freed_memory, memory_named
from stforecast.channels import Channels, Frames
from stforecast.files import sha256
from stforecast.grid import Grid, check_finite, with_forecast_times
from stforecast.guards import Envelope, Refuse, as_coordinate, flags_of, refuse_flagged
from stforecast.intervals import (
    BOUNDS,
    RECENT_FORECASTS,
    Calibration,
    Errors,
    UsualError,
    bound_attrs,
    bound_name,
)
from stforecast.limits import check_range
from stforecast.models.inference import CALIBRATION_SAMPLES, Backend, CheckedNetwork
from stforecast.models.tau import frames_of_calls, rollout
from stforecast.networks import Context, NetworkConfig, NetworkShape
from stforecast.normalization import Normalization
from stforecast.precision import computed_on, without_tf32
from stforecast.split import Split
from stforecast.time_axis import Times
from stforecast.time_features import DAY
from stforecast.windows import Rows

# Backends that round coarsely, which a forecast says of itself.
_ROUNDS = {"int8": "8 bits", "bfloat16": "bfloat16"}
# What the frames of a block may take while a model is calibrated.
_CALIBRATION_BYTES = 2**26


@dataclass(frozen=True)
class Fitted:
    """A fitted network, and what labels, units and statistics its frames had.

    Attributes:
        network: maps normalized frames (batch, time, channel, y, x), and what it is told besides, to later ones.
        config: the network's size and what it is told.
        shape: what it was built for.
        channels: the variables, levels and units that it was fitted on.
        grid: the grid that it was fitted on.
        step: the step between frames.
        history: how many frames it sees.
        horizon: how many it was fitted to forecast; `predict` goes further by a rollout.
        normalization: the statistics of the training period.
        split: the periods it was fitted, chosen and is to be judged on.
        training: how it was fitted: configuration, losses, windows, versions.
        envelope: between which values the training period lay; None if that is not known.
        calibration: how far truth lay from forecasts of the validation period, for intervals; None if not known.
    """

    network: nn.Module = field(repr=False)
    config: NetworkConfig
    shape: NetworkShape
    channels: Channels
    grid: Grid
    step: np.timedelta64
    history: int
    horizon: int
    normalization: Normalization
    split: Split
    training: Mapping[str, Any] = field(repr=False)
    envelope: Envelope | None = field(default=None, repr=False)
    calibration: Calibration | None = field(default=None, repr=False)

    @property
    def frames_per_call(self) -> int:
        """How many frames of a call of the network are used: a published one may give more than it was fitted to."""
        return min(self.shape.horizon, self.horizon)

    def attrs_of(self, series: xr.Dataset) -> dict[str, Any]:
        """The attributes of a forecast that is made of a series."""
        kept = {key: series.attrs[key] for key in ("institution", "references", "license") if key in series.attrs}
        return kept | {
            "Conventions": "CF-1.11",
            "title": f"Forecast of {', '.join(self.channels.names)}",
            "source": f"stforecast {_version()}, TAU, weights {self.weights_hash()[:12]}",
            "stforecast_version": _version(),
            "computed_on": computed_on(),
            "split": self.split.to_json(),
        }

    def weights_hash(self) -> str:
        """The SHA-256 of the weights in float32."""
        return sha256(self.weight_bytes(torch.float32))

    def weight_bytes(self, dtype: torch.dtype) -> bytes:
        """The weights as a file of safetensors, floating numbers in this type."""
        state = {
            name: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
            for name, value in self.network.state_dict().items()
        }
        content: bytes = safetensors.torch.save(state)
        return content


class Plan:
    """A forecast that can be made: everything is checked but the values.

    It is made in parts, some init times and some lead times at once, so that it takes no more memory than is asked for.
    Plans may be handed to other processes, and parts be made by several threads.

    Attributes:
        forecaster: what makes it.
        alignment: how the caller's series is the model's.
        times: the times of the series, (time,).
        init_times: the last frame that each forecast sees, (init_time,).
        horizon: how many steps are forecast.
        interval: the share of truth that is to lie between bounds; None for none.
    """

    def __init__(
        self,
        forecaster: Fitted,
        alignment: Alignment,
        times: Times,
        init_times: Times,
        starts: Rows,
        horizon: int,
        batch_size: int,
        backend: Backend | None,
        interval: float | None = None,
    ) -> None:
        self.forecaster, self.alignment, self.times = forecaster, alignment, times
        self.init_times, self.horizon, self.interval = init_times, horizon, interval
        self._starts, self._batch_size, self._backend = starts, batch_size, backend
        self._network: CheckedNetwork | None = None

    def __getstate__(self) -> dict[str, Any]:
        # What a runtime made of the network belongs to this process.
        return self.__dict__ | {"_network": None}

    @property
    def frame_size(self) -> int:
        """How many values a frame has."""
        return len(self.forecaster.channels) * int(np.prod(self.forecaster.grid.shape))

    @property
    def lead_times(self) -> npt.NDArray[np.timedelta64]:
        """The lead times, (lead_time,)."""
        leads: npt.NDArray[np.timedelta64] = self.forecaster.step.astype("timedelta64[ns]") * np.arange(
            1, self.horizon + 1
        )
        return leads

    def whole(self, refuse: Refuse) -> xr.Dataset:
        """All of the forecast at once, in memory; see `Forecaster.predict`."""
        everything = slice(0, len(self.init_times))
        forecast, _ = self.forecast(everything, self.block(everything).load(), refuse=refuse)
        return forecast

    def block(self, inits: slice, leads: slice | None = None) -> xr.Dataset:
        """The caller's frames, lazily, that some init times need for some lead times."""
        return self.alignment.found.isel({self.alignment.dims[0]: _as_slice(self._rows(inits, leads))})

    def _rows(self, inits: slice, leads: slice | None) -> Rows:
        """The rows of the series that some forecasts and their bounds see, frames of earlier days among them."""
        rows = self._rows_from(self._starts[inits], leads)
        if self._usual is None:
            return rows
        starts, is_there = self._recent_starts(inits, self._usual.horizon)
        return np.union1d(rows, self._rows_with_truth(np.unique(starts[is_there]), self._usual.horizon))

    def _rows_from(self, starts: Rows, leads: slice | None) -> Rows:
        """The rows that forecasts see whose histories begin at some rows."""
        first, length = self._reach(leads)
        earlier = self._context(self.times).earlier_rows(starts, length, first=first)
        rows: Rows = np.union1d(starts[:, None] + np.arange(self.forecaster.history), earlier)
        return rows

    def _rows_with_truth(self, starts: Rows, horizon: int) -> Rows:
        """The rows that forecasts see and those that they forecast."""
        whole = starts[:, None] + np.arange(self.forecaster.history + horizon)
        rows: Rows = np.union1d(self._rows_from(starts, slice(0, horizon)), whole)
        return rows

    @property
    def _usual(self) -> UsualError | None:
        """The usual error, if there are to be bounds."""
        calibration = self.forecaster.calibration
        return None if self.interval is None or calibration is None else calibration.usual

    def _reach(self, leads: slice | None) -> tuple[int, int]:
        """The first frame of a window that a part of a rollout sees, and how many it reaches over."""
        leads = slice(0, self.horizon) if leads is None else leads
        ahead = frames_of_calls(leads.stop - leads.start, self.forecaster.frames_per_call)
        return leads.start, self.forecaster.history + ahead

    def _context(self, times: Times, frames: torch.Tensor | None = None) -> Context:
        model = self.forecaster
        return Context(times, model.step, model.history, model.shape.columns, model.config.lag_times, frames)

    def forecast(
        self,
        inits: slice,
        block: xr.Dataset,
        leads: slice | None = None,
        history: Frames | None = None,
        *,
        refuse: Refuse = "impossible",
    ) -> tuple[xr.Dataset, Frames]:
        """The forecast from some init times for some lead times, and the frames on which it is gone on with.

        Args:
            inits: which init times, by position.
            block: what `block` gives for the same, loaded.
            leads: which lead times, by position; all by default. A part begins where a call of the network does.
            history: what the part before gave, (init_time, history, channel, y, x), normalized; without it the history
                is that of the series.
            refuse: see `Forecaster.predict`.

        Raises:
            StforecastError: what `Forecaster.predict` raises of values.
        """
        model, leads = self.forecaster, slice(0, self.horizon) if leads is None else leads
        assert leads.start % model.frames_per_call == 0
        rows = self._rows(inits, leads)
        frames = self._frames(block)
        output, history = self._output(self._starts[inits], rows, frames, leads, history)
        seen = np.concatenate([history, output], axis=1)[:, -model.history :]
        radius = None
        if self.interval is not None:
            assert model.calibration is not None
            valid = self.init_times[inits, None] + self.lead_times[leads]
            recent = self._recent_of(inits, rows, frames, model.calibration.usual, leads)
            radius = model.calibration.radius(self.interval, valid, leads, recent)
        return self._label(output, radius, inits, leads, refuse), seen

    def parts(self) -> Iterator[slice]:
        """Init times, by position, in parts whose frames take little memory."""
        length = max(_CALIBRATION_BYTES // (8 * self.frame_size * (self.forecaster.history + self.horizon)), 1)
        for row in range(0, len(self.init_times), length):
            yield slice(row, min(row + length, len(self.init_times)))

    def errors(self, inits: slice) -> Errors:
        """The times that are forecast, and truth minus forecast, normalized, of which the truth has to be there.

        Values of the output are not judged.

        Args:
            inits: which init times, by position.
        """
        rows = self._rows_with_truth(self._starts[inits], self.horizon)
        valid = self.init_times[inits, None] + self.lead_times
        return valid, self._misses(self._starts[inits], rows, self._loaded_frames(rows), self.horizon)

    def recent_errors(self, inits: slice, usual: UsualError) -> Frames:
        """How large the errors of the days before each init time were, as `radius` wants it, for all lead times.

        Args:
            inits: which init times, by position.
            usual: what they are compared with.
        """
        starts, is_there = self._recent_starts(inits, usual.horizon)
        rows = self._rows_with_truth(np.unique(starts[is_there]), usual.horizon)
        frames = self._loaded_frames(rows) if len(rows) else np.empty(0, np.float32)
        return self._recent_of(inits, rows, frames, usual, slice(0, usual.horizon))

    def _loaded_frames(self, rows: Rows) -> Frames:
        return self._frames(self.alignment.found.isel({self.alignment.dims[0]: _as_slice(rows)}).load())

    def _recent_of(self, inits: slice, rows: Rows, frames: Frames, usual: UsualError, leads: slice) -> Frames:
        """The mean size of recent errors, relative to the usual one, (init_time, lead_time, channel).

        Args:
            inits: which init times, by position.
            rows: the rows of the series that the frames are.
            frames: normalized, (time, channel, y, x).
            usual: what errors are compared with.
            leads: which lead times, by position.
        """
        starts, is_there = self._recent_starts(inits, usual.horizon)
        needed, where = np.unique(starts[is_there], return_inverse=True)
        sizes = np.ones((*starts.shape, leads.stop - leads.start, len(self.forecaster.channels)), np.float32)
        if len(needed):
            length = self.forecaster.history + usual.horizon
            own = []
            # Errors of a few init times at once: they are as large as frames, and only their means are kept.
            for row in range(0, len(needed), self._batch_size):
                some = needed[row : row + self._batch_size]
                valid = self.times[some[:, None] + np.arange(self.forecaster.history, length)]
                misses = self._misses(some, rows, frames, leads.stop)[:, leads]
                own.append(usual.relative(misses, valid[:, leads], leads))
            sizes[is_there] = np.concatenate(own)[where]
        counts = is_there.sum(axis=1)[:, None, None]
        summed = np.where(is_there[:, :, None, None], sizes, 0).sum(axis=1)
        # As if one more forecast had erred as usual: few errors tell little.
        recent: Frames = ((summed + 1) / (counts + 1)).astype(np.float32)
        return recent

    def _recent_starts(self, inits: slice, horizon: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Where the histories of forecasts of the days before begin, (init_time, day), and whether these can be made.

        The truth of all their lead times is known at the init time.
        """
        model = self.forecaster
        days = max(round(DAY / model.step), 1) * np.arange(RECENT_FORECASTS)
        wanted = self.init_times[inits, None] - model.step * (horizon + model.history - 1 + days)
        starts = np.searchsorted(self.times, wanted)
        behind = starts + model.history + horizon - 1
        last = len(self.times) - 1
        is_whole = self.times[behind.clip(max=last)] - wanted == (model.history + horizon - 1) * model.step
        is_there = (self.times[starts.clip(max=last)] == wanted) & (behind <= last) & is_whole
        return starts, is_there

    def _misses(self, starts: Rows, rows: Rows, frames: Frames, horizon: int) -> Frames:
        """Truth minus forecast (init, lead, channel, y, x), normalized, by frames of some rows of the series."""
        output, _ = self._output(starts, rows, frames, slice(0, horizon))
        first = starts + self.forecaster.history
        return frames[np.searchsorted(rows, first[:, None] + np.arange(horizon))] - output

    def _output(
        self, starts: Rows, rows: Rows, frames: Frames, leads: slice, history: Frames | None = None
    ) -> tuple[Frames, Frames]:
        """Normalized forecasts (init, lead, channel, y, x) by frames of some rows of the series; and their history."""
        begin = np.searchsorted(rows, starts)
        if history is None:
            history = frames[begin[:, None] + np.arange(self.forecaster.history)]
        context = self._context(self.times[rows], torch.from_numpy(frames))
        return self._run(history, begin, context, leads), history

    def _frames(self, block: xr.Dataset) -> Frames:
        """Normalized frames (time, channel, y, x) of the model out of the caller's; refused if they cannot be right."""
        model = self.forecaster
        for variable in block.data_vars.values():
            check_finite(variable)
        aligned = self.alignment.to_model(block)
        for variable in aligned.data_vars.values():
            check_range(variable)
        frames = model.channels.stack(model.normalization.apply(aligned))
        if model.envelope is not None:
            model.envelope.check_input(frames, model.channels)
        return frames

    def _run(self, history: Frames, starts: Rows, context: Context, leads: slice) -> Frames:
        """Normalized forecasts (init, lead, channel, y, x) that follow a history."""
        model, (first, length) = self.forecaster, self._reach(leads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        keep_freed_memory()
        outputs = []
        # One at a time: the network is moved, and computes on all cores as it is.
        remedy = f"lower batch_size ({self._batch_size}) or memory_limit, or forecast from fewer init times at once"
        with _computing, memory_named(remedy), without_tf32(), torch.inference_mode():
            network = self._prepared(device, history, starts, context, leads)
            for row in range(0, len(starts), self._batch_size):
                some = slice(row, row + self._batch_size)
                outputs.append(
                    rollout(
                        network,
                        torch.from_numpy(history[some]).to(device),
                        leads.stop - leads.start,
                        fitted_horizon=model.frames_per_call,
                        context=[told.to(device) for told in context.of(starts[some], length, first=first)],
                    ).cpu()
                )
            model.network.cpu()
        return torch.cat(outputs).numpy()

    def _prepared(
        self, device: torch.device, history: Frames, starts: Rows, context: Context, leads: slice
    ) -> CheckedNetwork:
        model = self.forecaster
        network = model.network.to(device).eval()
        if self._network is None:
            examples = None
            if self._backend == "int8":
                # From all over: the first ones may all be of one night, or of one season.
                count = min(len(starts), 2 * CALIBRATION_SAMPLES)
                some = np.linspace(0, len(starts) - 1, count).round().astype(np.intp)
                told = context.of(starts[some], model.history + model.frames_per_call, first=self._reach(leads)[0])
                examples = (torch.from_numpy(history[some]), *told)
            calls = math.ceil(self.horizon / model.frames_per_call)
            self._network = CheckedNetwork(
                network, self._backend, samples=len(self.init_times) * calls, examples=examples
            )
        return self._network

    def _label(self, output: Frames, radius: Frames | None, inits: slice, leads: slice, refuse: Refuse) -> xr.Dataset:
        """The network's output as a forecast in the caller's own terms."""
        model = self.forecaster
        physical = self._physical(output)
        flags = flags_of(model.channels, output, physical, model.envelope)
        init_times, lead_times = self.init_times[inits], self.lead_times[leads]
        refuse_flagged(flags, refuse, init_times, lead_times)
        made = self._in_caller_terms(physical)
        if radius is not None:
            assert self.interval is not None
            for bound, ends in zip(BOUNDS, (output - radius, output + radius), strict=True):
                for name, values in self._in_caller_terms(self._physical(ends)).items():
                    attrs = bound_attrs(name, values.attrs, bound, self.interval)
                    made[bound_name(name, bound)] = values.drop_attrs().assign_attrs(attrs)
        return self.labelled(made, as_coordinate(flags), init_times, lead_times)

    def _physical(self, frames: Frames) -> dict[str, npt.NDArray[np.float32]]:
        """Each variable (init, lead, [level,] y, x) in physical units, within its limits, of normalized frames."""
        model = self.forecaster
        return {
            item.name: model.normalization.variables[item.name].invert(values).clip(*item.limits)
            for item, values in model.channels.unstack(frames, axis=2)
        }

    def _in_caller_terms(self, physical: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, xr.DataArray]:
        """Variables of the model by the caller's names and in the caller's units and order."""
        variables = (self.alignment.to_caller(item, physical[item.name]) for item in self.forecaster.channels.variables)
        return {str(some.name): some for some in variables}

    def labelled(
        self,
        variables: Mapping[str, xr.DataArray],
        flags: xr.Variable,
        init_times: Times,
        lead_times: npt.NDArray[np.timedelta64],
    ) -> xr.Dataset:
        """Variables (init_time, lead_time, …) with all labels of a forecast: the caller's, and ours."""
        found, (time, _, _) = self.alignment.found, self.alignment.dims
        coords = {
            name: coord
            for item in self.forecaster.channels.variables
            for name, coord in self.alignment.template(item).coords.items()
            if time not in coord.dims and name != time
        }
        forecast = xr.Dataset(
            dict(variables),
            {**coords, "init_time": init_times, "lead_time": lead_times, "quality_flag": flags},
            self.forecaster.attrs_of(found),
        )
        if self._backend in _ROUNDS:
            forecast.attrs["source"] += f", in {_ROUNDS[self._backend]}"
        return with_forecast_times(forecast, time_attrs=found[time].attrs)


# Networks are moved between devices, and one that computes uses all cores: one thread at a time.
_computing = threading.Lock()


def _as_slice(rows: Rows) -> Rows | slice:
    """Rows as a slice where they follow each other: files read those at once."""
    return slice(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else rows


def _version() -> str:
    return importlib.metadata.version("stforecast")
