"""The bridge between labelled series and networks: predict, save and load."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import safetensors.torch
import torch
import xarray as xr

from stforecast.alignment import Alignment
from stforecast.baselines import frames_at
from stforecast.channels import Channels, Variable
from stforecast.errors import ErrorKind, StforecastError, check_counts
from stforecast.files import faults_named, replacing, sha256
from stforecast.grid import Grid, check_series, find_dims, on_grid_of, times_of
from stforecast.guards import Envelope, Refuse
from stforecast.intervals import (
    BOUNDS,
    MOST_INIT_TIMES,
    Calibration,
    ErrorCycle,
    UsualError,
    bound_name,
)
from stforecast.local_time import nonexistent_times
from stforecast.models.inference import Backend, check_backend
from stforecast.models.openstl import Checkpoint
from stforecast.models.tau import frames_of_calls
from stforecast.networks import NetworkConfig, NetworkShape
from stforecast.normalization import Normalization, Scaling
from stforecast.planning import Fitted, Plan
from stforecast.split import PARTS, Split, frames_in
from stforecast.store import open_store
from stforecast.time_axis import Times, check_gaps, parse_times, show_step, show_time
from stforecast.windows import Rows, window_starts

# What is subtracted and what it is divided by, a number or one per level.
Statistics = tuple[npt.ArrayLike, npt.ArrayLike]

MODEL_VERSION = 2

# What tells that a series is of other data than a model.
OF_ANOTHER_KIND = (
    ErrorKind.CHANNELS,
    ErrorKind.GRID_SHAPE,
    ErrorKind.METADATA,
    ErrorKind.SHAPE,
    ErrorKind.TIME_FREQ,
    ErrorKind.UNITS,
)
WEIGHTS_FILE, MODEL_FILE, CALIBRATION_FILE = "weights.safetensors", "model.json", "calibration.safetensors"


@dataclass(frozen=True)
class Forecaster(Fitted):
    """A fitted network with all that it takes to forecast a labelled series in physical units.

    Its attributes are those of `Fitted`.
    """

    def __str__(self) -> str:
        variables = ", ".join(
            f"{item.name} ({item.units}{f', {len(item.levels)} levels' if item.levels else ''})"
            for item in self.channels.variables
        )
        return f"{variables} on {self.grid}, {self.horizon} steps of {show_step(self.step)} from {self.history} frames"

    def predict(
        self,
        series: xr.Dataset,
        *,
        init_times: npt.ArrayLike | None = None,
        horizon: int | None = None,
        batch_size: int = 16,
        backend: Backend | None = None,
        interval: float | None = None,
        refuse: Refuse = "impossible",
    ) -> xr.Dataset:
        """The forecast (init_time, lead_time, [level,] Y, X) in physical units, from the last frames of a series.

        Names of variables and dimensions, their order, latitude direction, longitude convention, units, float type and
        attributes are the caller's. A horizon below the fitted one is a slice of what the network gives, one above it a
        rollout on its own output. Values are cut at CF's valid_min and valid_max where the training data state them.
        The coordinate quality_flag (init_time, lead_time) says what is wrong with a lead time, 0 for nothing: values
        that are not finite or cannot be, and fields whose mean or variance is far from all of the training period.
        All of it is computed at once, in memory; `stforecast.predict` also does it block by block.

        With an interval each variable, here t2m, has t2m_lower and t2m_upper beside it, between which the truth lies in
        that share of cells as far as its distance from forecasts is like that of the validation period. Bounds are
        wider where forecasts of the ten days before went further astray than usual, as far as the series has those
        days; without them errors count as usual. See `Calibration` and docs/intervals.md.

        Args:
            series: (time, [level,] Y, X) with the step, variables and cells of the fit, and `history` frames before
                each init time. Variables may have other names that are in use for them and other units; there may be
                more variables, levels and cells.
            init_times: the last frame seen by each forecast; the last frame of the series by default.
            horizon: how many steps to forecast; as fitted by default.
            batch_size: forecasts computed at once; it bounds memory and changes no result beyond float32 rounding.
            backend: what computes the network: "eager", "folded", "openvino", "onnx" or "compiled", see
                `stforecast.models.inference`; it changes no result beyond float32 rounding. By default what repays its
                preparation. "bfloat16" rounds to three digits inside, for GPUs that are fast at it, and the forecast's
                source says so. "int8" computes in 8 bits and is for many forecasts: it is calibrated on the histories
                of up to 32 of those that are computed first, from the first to the last of them, so each forecast
                depends a little on the others, and its source says so.
            interval: the share of truth that is to lie between the bounds, as 0.9; no bounds without it.
            refuse: which forecasts are refused: "impossible" ones, with values that are not finite or cannot be; those
                that show "drift" besides; or "nothing", and the flags tell.

        Raises:
            StforecastError: CHANNELS, UNITS, GRID_SHAPE or TIME_FREQ if the series is not like the one of the fit;
                ARGUMENT for an interval that the calibration cannot give; CKPT_INCOMPLETE for one of a model without;
                TIME_RANGE, TIME_SHORT or TIME_GAP naming the init time that has no whole history; NAN, INF, RANGE or
                STATS naming the variable whose values are not there, cannot be, or are far from all that was fitted on;
                OUTPUT_INVALID naming what is wrong with the forecast; BACKEND if the one asked for is not installed,
                fails or differs from the network; MEMORY_BUDGET if there is too little memory for a batch.
        """
        plan = self.plan(
            series, init_times=init_times, horizon=horizon, batch_size=batch_size, backend=backend, interval=interval
        )
        return plan.whole(refuse)

    def plan(
        self,
        series: xr.Dataset,
        *,
        init_times: npt.ArrayLike | None = None,
        horizon: int | None = None,
        batch_size: int = 16,
        backend: Backend | None = None,
        interval: float | None = None,
    ) -> "Plan":
        """What `predict` is going to do, checked in all but the values, of which none is read.

        Raises:
            StforecastError: what `predict` raises before it looks at values.
        """
        horizon = self.horizon if horizon is None else horizon
        check_counts(horizon=horizon, batch_size=batch_size)
        if backend is not None:
            check_backend(backend, next((some.device.type for some in self.network.state_dict().values()), "cpu"))
        alignment = self._aligned(series)
        if interval is not None:
            self._check_interval(interval, horizon, set(alignment.names.values()))
        times = times_of(alignment.found)
        inits = times[-1:] if init_times is None else parse_times(init_times, name="init_times")
        starts = self._history_starts(times, inits)
        return Plan(self, alignment, times, inits, starts, horizon, batch_size, backend, interval)

    def _check_interval(self, interval: float, horizon: int, names: set[str]) -> None:
        """Refuse an interval that cannot be given to variables of these names."""
        if self.calibration is None:
            raise StforecastError(
                ErrorKind.CKPT_INCOMPLETE,
                "the model has no calibration, so it gives no intervals; make one of a store with its training and "
                "validation period: forecaster = forecaster.calibrated(store), which can be saved",
            )
        self.calibration.check(interval, horizon)
        taken = names & {bound_name(name, bound) for name in names for bound in BOUNDS}
        if taken:
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"bounds of an interval would be called {', '.join(sorted(taken))}, as a variable that is forecast is; "
                "rename it",
            )

    def calibrated(
        self,
        series: str | Path | xr.Dataset,
        *,
        horizon: int | None = None,
        batch_size: int = 16,
        backend: Backend | None = None,
    ) -> "Forecaster":
        """This forecaster, with intervals that are calibrated on the validation period of a series.

        How large errors usually are is learnt from forecasts of the training period, and how many of these sizes truth
        lies away from those of the validation period, and how much larger errors are where those of the days before
        were; up to 1000 init times each, drawn by a fixed seed. `fit` does this at its end.

        Args:
            series: a store that `prepare` made, by path or as `open_store` opened it, or another series like it.
            horizon: lead times that can have intervals; as fitted by default, more for those of a rollout.
            batch_size: see `predict`.
            backend: see `predict`.

        Raises:
            StforecastError: TIME_RANGE or TIME_SHORT if the series has no forecast with truth in one of both periods;
                what `predict` raises.
        """
        opened = series if isinstance(series, xr.Dataset) else open_store(series)
        options: dict[str, Any] = {"batch_size": batch_size, "backend": backend}
        times = times_of(opened)
        learnt = times[self.split.part_rows(times, "train")]
        late_from = learnt[0] + (learnt[-1] - learnt[0]) // 4 * 3
        candidates = ErrorCycle.candidates(learnt, self.step)
        horizon = self.horizon if horizon is None else horizon
        learning, judging = (
            self.plan(opened, init_times=self._drawn(opened, part, horizon), horizon=horizon, **options)
            for part in ("train", "validation")
        )
        usual = UsualError.of((learning.errors(some) for some in learning.parts()), candidates, late_from)
        scored = ((*judging.errors(some), judging.recent_errors(some, usual)) for some in judging.parts())
        return replace(self, calibration=Calibration.of(usual, scored))

    def _drawn(self, series: xr.Dataset, part: str, horizon: int) -> Times:
        """Init times of which all valid times lie in a part of the split, at most so many as errors are taken of."""
        inits = self.init_times(series, part=part, horizon=horizon)
        if len(inits) <= MOST_INIT_TIMES:
            return inits
        # Drawn, for a stride could meet the same hour every day.
        drawn: Times = np.sort(np.random.default_rng(0).choice(inits, MOST_INIT_TIMES, replace=False))
        return drawn

    def init_times(self, series: xr.Dataset, *, part: str | None = None, horizon: int | None = None) -> Times:
        """The times of a series that have a whole history up to them and `horizon` frames of truth behind them.

        Args:
            series: (time, [level,] Y, X).
            part: keeps to forecasts whose valid times all lie in this part of the split. The history may reach into the
                part before: a forecast made at that time would have had it.
            horizon: how many frames of truth there must be; as fitted by default, 0 for none.

        Raises:
            StforecastError: ARGUMENT for an unknown part or a negative horizon; TIME_RANGE if the series has no frame
                of the part, TIME_SHORT if it has none to forecast from.
        """
        horizon = self.horizon if horizon is None else horizon
        if horizon < 0:
            raise StforecastError(ErrorKind.ARGUMENT, f"horizon must be at least 0, not {horizon}")
        times = times_of(series)
        starts = window_starts(times, self.step, self.history + horizon)
        if part is not None:
            rows = self.split.part_rows(times, part)
            first = starts + self.history
            starts = starts[(first >= rows.start) & (first + horizon <= rows.stop)]
            if not len(starts):
                raise StforecastError(
                    ErrorKind.TIME_SHORT,
                    f"no forecast of {horizon} steps from {self.history} frames lies in the {part} period, which has "
                    f"{frames_in(rows)} frames; choose a shorter horizon",
                )
        inits: Times = times[starts + self.history - 1]
        return inits

    def frames_wanted(self, init_time: np.datetime64, *, horizon: int | None = None) -> tuple[Times, Times]:
        """The times of the frames that a forecast sees: its history, and earlier ones that it is told of besides.

        A forecast cannot be made without the whole history. Of the earlier frames each that is absent makes it see
        less. What intervals look back on is in neither.

        Args:
            init_time: the last frame of the history.
            horizon: steps to forecast; as fitted by default.
        """
        horizon = self.horizon if horizon is None else horizon
        history: Times = init_time - self.step * np.arange(self.history)[::-1]
        whole = self.history + frames_of_calls(horizon, self.frames_per_call)
        window = history[0] + self.step * np.arange(whole)
        lags = np.array(self.config.lag_times, "timedelta64[ns]")
        earlier = np.unique(window[:, None] - lags)
        earlier = earlier[(earlier <= init_time) & ~np.isin(earlier, history)]
        if self.shape.columns is not None and self.shape.columns.time_zone:
            earlier = earlier[~np.isin(earlier, nonexistent_times(earlier, self.shape.columns.time_zone))]
        return history.astype("datetime64[ns]"), earlier.astype("datetime64[ns]")

    def backtest(
        self,
        series: xr.Dataset,
        *,
        start: str | np.datetime64 | None = None,
        stride: int = 1,
        horizon: int | None = None,
        batch_size: int = 16,
        backend: Backend | None = None,
        refuse: Refuse = "impossible",
    ) -> xr.Dataset:
        """The forecasts that this model would have made: from each init time that has a whole history and whole truth.

        The model stays as it is. Without `start` all valid times lie in the test period, of which the fit knew nothing.

        Args:
            series: as for `predict`.
            start: the first init time; what lies before it is left out.
            stride: steps from one init time to the next.
            horizon: how many steps to forecast; as fitted by default.
            batch_size: see `predict`.
            backend: see `predict`.
            refuse: see `predict`.

        Raises:
            StforecastError: ARGUMENT for a stride below 1; TIME_RANGE if there is no init time from `start` on, or no
                test period in the series; what `predict` raises.
        """
        if stride < 1:
            raise StforecastError(ErrorKind.ARGUMENT, f"stride must be at least 1, not {stride}")
        inits = self.init_times(series, part="test" if start is None else None, horizon=horizon)
        if start is not None:
            (first,) = parse_times(start, name="start")
            if not len(inits) or first > inits[-1]:
                raise StforecastError(
                    ErrorKind.TIME_RANGE,
                    f"from {show_time(first)} on no init time has a whole history and whole truth; the last one that "
                    f"has is {show_time(inits[-1]) if len(inits) else 'none'}",
                )
            inits = inits[inits >= first]
        # Of steps, not of init times that there are: behind a gap the rhythm is still the same.
        inits = inits[(inits - inits[0]) % (stride * self.step) == np.timedelta64(0)]
        return self.predict(
            series, init_times=inits, horizon=horizon, batch_size=batch_size, backend=backend, refuse=refuse
        )

    def residuals(self, series: xr.Dataset, **options: Any) -> xr.Dataset:
        """Truth minus forecast, (init_time, lead_time, [level,] Y, X), in the units of the series.

        Args:
            series: as for `predict`.
            options: as for `backtest`.

        Raises:
            StforecastError: what `backtest` raises.
        """
        forecast = self.backtest(series, **options)
        truth = on_grid_of(series, forecast, name="the series")
        inits, leads = (forecast[name].to_numpy() for name in ("init_time", "lead_time"))
        observed = frames_at(truth, inits[:, None] + leads, inits, leads, source="truth")
        apart = {name: observed[name] - forecast[name] for name in forecast.data_vars}
        return forecast.assign({name: one.assign_attrs(forecast[name].attrs) for name, one in apart.items()})

    def check(self, series: xr.Dataset) -> None:
        """Refuse a series that is not of the model's variables, cells, step and clock; no value is looked at.

        Raises:
            StforecastError: CHANNELS, UNITS, GRID_SHAPE, SHAPE, TIME_FREQ or TIME_SHORT, as `predict`.
        """
        self._aligned(series)

    def _aligned(self, series: xr.Dataset) -> Alignment:
        """The model's variables and cells out of a series, whatever else it has; refused if they are not there."""
        try:
            alignment = Alignment.of(series, self.channels, self.grid)
        except StforecastError as error:
            if error.kind != ErrorKind.TIME_SHORT:
                raise
            raise StforecastError(error.kind, f"the model needs {self.history} frames: {error}") from error
        if alignment.step != self.step:
            raise StforecastError(
                ErrorKind.TIME_FREQ,
                f"the model steps by {show_step(self.step)} but the series by {show_step(alignment.step)}; resample it",
            )
        self._check_clock(alignment.found)
        return alignment

    def _check_clock(self, series: xr.Dataset) -> None:
        """Refuse times on another clock than the model's, if it is told of the hour."""
        (time,) = find_dims(series, "T")
        zone = str(series[time].attrs.get("time_zone", ""))
        if self.shape.columns is not None and zone != self.shape.columns.time_zone:
            raise StforecastError(
                ErrorKind.METADATA,
                f"the model knows the hour on the clock of {self.shape.columns.time_zone or 'UTC'}, but the series is "
                f"on that of {zone or 'UTC'}; convert its times, or set the time_zone of {time} if that is wrong",
            )

    def _history_starts(self, times: Times, inits: Times) -> Rows:
        """The row at which each init time's history begins."""
        rows = np.searchsorted(times, inits)
        for init, row in zip(inits, rows, strict=True):
            if row == len(times) or times[row] != init:
                raise StforecastError(
                    ErrorKind.TIME_RANGE,
                    f"init time {show_time(init)} is not a frame of the series, which runs from {show_time(times[0])} "
                    f"to {show_time(times[-1])}",
                )
            if row + 1 < self.history:
                raise StforecastError(
                    ErrorKind.TIME_SHORT,
                    f"the model needs {self.history} frames up to init time {show_time(init)}, the series has "
                    f"{row + 1}",
                )
            if times[row] - times[row + 1 - self.history] != (self.history - 1) * self.step:
                check_gaps(
                    times[row + 1 - self.history : row + 1],
                    self.step,
                    name=f"the history of init time {show_time(init)}",
                    remedy="choose an init time with a whole history, e.g. from Forecaster.init_times",
                )
        starts: Rows = rows + 1 - self.history
        return starts

    def save(self, folder: str | Path, *, half: bool = False) -> Path:
        """The folder, written whole or not at all: weights.safetensors, and model.json with all the rest.

        A calibration is a third file, calibration.safetensors. model.json holds SHA-256 sums of the others and of
        itself, which `load` checks. Of processes that train together the first one writes, and the others return at
        once.

        Args:
            folder: where to write; it must not be there yet.
            half: whether to round the weights to float16, for half the size; they are computed with in float32.

        Raises:
            StforecastError: OUTPUT_EXISTS if something is there already; DISK_FULL, PERMISSION or IO_ERROR.
        """
        folder = Path(folder)
        if not is_first_process():
            return folder
        if folder.exists():
            raise StforecastError(
                ErrorKind.OUTPUT_EXISTS, f"{folder} is there already; choose another folder or remove it"
            )
        weights = self.weight_bytes(torch.float16 if half else torch.float32)
        described = self._describe() | {"weights_sha256": sha256(weights)}
        calibration = None
        if self.calibration is not None:
            # Safetensors writes an array's memory as it lies, whatever its strides say.
            arrays = {name: np.ascontiguousarray(some) for name, some in self.calibration.to_arrays().items()}
            calibration = safetensors.numpy.save(arrays)
            described["calibration"] = self.calibration.to_json() | {"sha256": sha256(calibration)}
        with faults_named(folder), replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / WEIGHTS_FILE).write_bytes(weights)
            if calibration is not None:
                (temporary / CALIBRATION_FILE).write_bytes(calibration)
            (temporary / MODEL_FILE).write_text(json.dumps(described | {"sha256": _digest(described)}, indent=2) + "\n")
        return folder

    def _describe(self) -> dict[str, Any]:
        return {
            "stforecast_model_version": MODEL_VERSION,
            "network": {"name": "TAU", **asdict(self.config)},
            "shape": self.shape.to_json(),
            "history": self.history,
            "horizon": self.horizon,
            "step_seconds": int(self.step / np.timedelta64(1, "s")),
            "variables": [asdict(variable) for variable in self.channels.variables],
            "grid": {
                "y_name": self.grid.y_name,
                "x_name": self.grid.x_name,
                "y": self.grid.y.tolist(),
                "x": self.grid.x.tolist(),
                "is_geographic": self.grid.is_geographic,
            },
            "normalization": json.loads(self.normalization.to_json()),
            "split": json.loads(self.split.to_json()),
            "training": dict(self.training),
            "envelope": self.envelope and asdict(self.envelope),
        }

    @classmethod
    def load(cls, folder: str | Path) -> "Forecaster":
        """The forecaster that `save` wrote; nothing is unpickled.

        Raises:
            StforecastError: FILE_MISSING; CKPT_CORRUPT if a file was changed or cut; CKPT_INCOMPLETE if model.json
                lacks a part; STORE_VERSION if a newer stforecast wrote it.
        """
        folder = Path(folder)
        for name in (MODEL_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise StforecastError(ErrorKind.FILE_MISSING, f"{folder} is no saved forecaster: {name} is missing")
        described = _read_described(folder / MODEL_FILE)
        # Read once, so that what was checked is what is used.
        weights = (folder / WEIGHTS_FILE).read_bytes()
        if sha256(weights) != described["weights_sha256"]:
            raise StforecastError(
                ErrorKind.CKPT_CORRUPT,
                f"{folder / WEIGHTS_FILE} is not what {MODEL_FILE} was written with (its SHA-256 differs): it was "
                "changed or damaged; take another copy",
            )
        loaded = cls._from_described(described, safetensors.torch.load(weights), folder)
        stated = described.get("calibration")
        return loaded if stated is None else replace(loaded, calibration=_read_calibration(folder, stated))

    @classmethod
    def from_openstl(
        cls,
        path: str | Path,
        *,
        series: str | Path | xr.Dataset,
        variables: Sequence[str] | None = None,
        statistics: Mapping[str, Statistics] | None = None,
        split: Split | None = None,
        horizon: int | None = None,
    ) -> "Forecaster":
        """A forecaster with the weights of a TAU that OpenSTL trained; nothing in the file is run.

        OpenSTL's files hold neither names nor units, grid, step nor (but for Lightning's) statistics, so a series of
        the kind that it was trained on says these: a store that `prepare` made, or any labelled Dataset together with
        statistics and split. The weights themselves tell history, channels and all sizes of the network.

        Args:
            path: a bare state dict (`checkpoint.pth`), `latest.pth`, or Lightning's best.ckpt.
            series: (time, [level,] Y, X) on the grid and step that the weights are for; one frame pair is enough.
            variables: its variables in the order of the checkpoint's channels, each with all its levels; by default
                all, in the order of the series.
            statistics: by variable the (mean, standard deviation), or (minimum, range), that it was trained with, in
                the series' units, a number each or one per level: normalized = (value - first) / second. TaxiBJ in
                [0, 1] has (0, its largest count). By default those of the store, which are right only if it has the
                same training period.
            split: the periods it was trained, chosen and is to be judged on; by default the store's.
            horizon: how many frames it was trained to forecast; as many as it sees by default.

        Raises:
            StforecastError: what `Checkpoint.read` refuses; ARGUMENT if statistics or split are wanting; CHANNELS if
                the variables are not as many channels as the checkpoint has; STATS for statistics of another variable
                or shape, or a scale that is not above 0.
        """
        if horizon is not None and horizon < 1:
            raise StforecastError(ErrorKind.ARGUMENT, f"horizon must be at least 1, not {horizon}")
        opened = series if isinstance(series, xr.Dataset) else open_store(series)
        absent = [name for name in variables or () if name not in opened.data_vars]
        if absent:
            raise StforecastError(
                ErrorKind.CHANNELS,
                f"the series has no {', '.join(absent)}; it has {', '.join(map(str, opened.data_vars))}",
            )
        named = opened if variables is None else opened[list(variables)]
        step, channels = check_series(named, allow_gaps=True), Channels.of(named)
        normalization = _known_normalization(opened, channels, statistics)
        checkpoint = Checkpoint.read(path)
        sizes = asdict(checkpoint.sizes)
        history, count = sizes.pop("history"), sizes.pop("channels")
        if len(channels) != count:
            raise StforecastError(
                ErrorKind.CHANNELS,
                f"{path} has {count} channel(s) but {', '.join(channels.names)} make {len(channels)}; name those that "
                "it was trained on, in its order, with variables=",
            )
        config = NetworkConfig(**sizes, first_guess="none", circular=False, parity=True)
        shape, grid = NetworkShape(history, history, count), Grid.of(named)
        network = shape.build(config, grid)
        network.load_state_dict(checkpoint.weights, strict=True)
        return cls(
            network=network.eval(),
            config=config,
            shape=shape,
            channels=channels,
            grid=grid,
            step=step,
            history=history,
            horizon=horizon or history,
            normalization=normalization,
            split=split or Split.from_attrs(opened.attrs),
            training={"imported_from": Path(path).name, "sha256": checkpoint.sha256, "versions": versions_in_use()},
        )

    @classmethod
    def _from_described(cls, described: dict[str, Any], state: dict[str, torch.Tensor], folder: Path) -> "Forecaster":
        try:
            sizes = {key: value for key, value in described["network"].items() if key != "name"}
            listed = {name: tuple(sizes[name]) for name in ("tells", "lags") if name in sizes}
            config = NetworkConfig(**sizes | listed)
            shape = NetworkShape.from_json(described["shape"])
            channels = Channels(
                tuple(Variable(**item | {"levels": tuple(item["levels"])}) for item in described["variables"])
            )
            stated = described["grid"]
            axes = {axis: np.asarray(stated[axis], np.float64) for axis in ("y", "x")}
            grid = Grid(stated["y_name"], stated["x_name"], **axes, is_geographic=stated["is_geographic"])
            network = shape.build(config, grid)
            network.load_state_dict(state, strict=True)
            return cls(
                network=network.eval(),
                config=config,
                shape=shape,
                channels=channels,
                grid=grid,
                step=np.timedelta64(described["step_seconds"], "s"),
                history=described["history"],
                horizon=described["horizon"],
                normalization=Normalization.from_json(json.dumps(described["normalization"])),
                split=Split(**{part: tuple(described["split"][part]) for part in PARTS}),
                training=described["training"],
                envelope=described.get("envelope") and Envelope.from_json(described["envelope"]),
            )
        except (KeyError, TypeError) as error:
            raise StforecastError(
                ErrorKind.CKPT_INCOMPLETE, f"{folder / MODEL_FILE} lacks or misstates {error}"
            ) from error
        except RuntimeError as error:
            raise StforecastError(
                ErrorKind.CKPT_MISMATCH,
                f"the weights in {folder} do not fit the network that {MODEL_FILE} describes: "
                f"{' '.join(line.strip() for line in str(error).splitlines()[1:5])}",
            ) from error


def _known_normalization(
    series: xr.Dataset, channels: Channels, statistics: Mapping[str, Statistics] | None
) -> Normalization:
    """That of the series' store, or z-scores of stated statistics."""
    if statistics is None:
        if "normalization" not in series.attrs:
            raise StforecastError(
                ErrorKind.ARGUMENT,
                "the series has no statistics; pass statistics={name: (mean, standard deviation)} for "
                f"{', '.join(channels.names)}, or a store that stforecast.prepare made",
            )
        stored = Normalization.from_json(series.attrs["normalization"]).variables
        return Normalization({name: stored[name] for name in channels.names})
    if set(statistics) != set(channels.names):
        raise StforecastError(
            ErrorKind.STATS,
            f"statistics are of {', '.join(statistics) or 'nothing'}, wanted of {', '.join(channels.names)}",
        )
    return Normalization({item.name: _stated_scaling(item, statistics[item.name]) for item in channels.variables})


def _stated_scaling(item: Variable, statistics: Statistics) -> Scaling:
    location, scale = (np.asarray(value, np.float64) for value in statistics)
    shape = (len(item.levels),) if item.levels else ()
    if any(value.shape not in ((), shape) for value in (location, scale)):
        raise StforecastError(
            ErrorKind.STATS,
            f"statistics of {item.name} have shapes {location.shape} and {scale.shape}, wanted numbers"
            + (f" or one for each of {len(item.levels)} levels" if item.levels else ""),
        )
    if not (np.isfinite(location).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise StforecastError(
            ErrorKind.STATS,
            f"statistics of {item.name} are {location.tolist()} and {scale.tolist()}, wanted finite numbers and a "
            "second one above 0",
        )
    location, scale = (np.broadcast_to(value, shape).copy() for value in (location, scale))
    return Scaling("z-score", location, scale, item.units)


def _digest(described: Mapping[str, Any]) -> str:
    return sha256(json.dumps(described, sort_keys=True).encode())


def _read_described(path: Path) -> dict[str, Any]:
    """What model.json says, once it is known to be unchanged and of a version that this code reads."""
    try:
        described: dict[str, Any] = json.loads(path.read_bytes())
        stated = described.pop("sha256")
        version = described["stforecast_model_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StforecastError(
            ErrorKind.CKPT_CORRUPT, f"{path} is not a whole description of a model ({error}); take another copy"
        ) from error
    if version != MODEL_VERSION:
        raise StforecastError(
            ErrorKind.STORE_VERSION,
            f"{path} has model version {version}, this stforecast reads version {MODEL_VERSION}",
        )
    if stated != _digest(described):
        raise StforecastError(
            ErrorKind.CKPT_CORRUPT, f"{path} was changed after it was written (its SHA-256 differs); take another copy"
        )
    return described


def is_first_process() -> bool:
    """Whether this process is to write what a fit made; of several that train together only one is."""
    group = torch.distributed
    return not (group.is_available() and group.is_initialized()) or group.get_rank() == 0


def _read_calibration(folder: Path, described: Mapping[str, Any]) -> Calibration:
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        raise StforecastError(
            ErrorKind.FILE_MISSING,
            f"{folder} is no whole forecaster: {CALIBRATION_FILE} is missing; copy all its files",
        )
    content = path.read_bytes()
    try:
        if sha256(content) != described["sha256"]:
            raise StforecastError(
                ErrorKind.CKPT_CORRUPT,
                f"{path} is not what {MODEL_FILE} was written with (its SHA-256 differs): it was changed or damaged; "
                "take another copy",
            )
        return Calibration.from_arrays(safetensors.numpy.load(content), described)
    except KeyError as error:
        raise StforecastError(ErrorKind.CKPT_INCOMPLETE, f"{path} or {MODEL_FILE} lacks {error}") from error


def versions_in_use() -> dict[str, str]:
    """The versions of Python and of the packages that a fitted network depends on, by name."""
    packages = ("stforecast", "torch", "lightning", "numpy", "xarray")
    return {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}
