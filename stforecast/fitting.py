"""From a prepared series to a fitted forecaster."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
import xarray as xr

from stforecast.channels import Channels
from stforecast.errors import ErrorKind, StforecastError, check_counts
from stforecast.files import check_writable
from stforecast.forecaster import Forecaster, is_first_process, versions_in_use
from stforecast.grid import Grid, check_finite, check_series, find_dims, times_of
from stforecast.guards import Envelope
from stforecast.limits import check_range
from stforecast.models.tau import frames_of_calls
from stforecast.networks import Context, NetworkConfig, NetworkShape, Tables
from stforecast.normalization import Normalization
from stforecast.split import Split, frames_in
from stforecast.store import group_of, open_store
from stforecast.store.versions import MANIFEST, lock
from stforecast.time_axis import Times, show_step, show_time
from stforecast.windows import (
    Rows,
    StoredFrames,
    StreamedWindows,
    WindowLoader,
    Windows,
    fits_in_memory,
    rows_of_windows,
    stored_windows,
    window_starts,
    windows_cut_by_gaps,
)

if TYPE_CHECKING:
    from stforecast.presets import PresetName
    from stforecast.training import TrainingConfig


def fit(
    series: str | Path | xr.Dataset,
    *,
    split: Split | None = None,
    preset: "PresetName | None" = None,
    history: int | None = None,
    horizon: int | None = None,
    network: NetworkConfig | None = None,
    training: "TrainingConfig | None" = None,
    memory_limit: int | None = None,
    run: str | Path | None = None,
    lightning: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Forecaster:
    """A forecaster fitted on the training period of a series; its validation period chose the weights.

    No window touches the test period. A store, given by its path or as `open_store` opened it, is read once if its
    frames fit in memory, and streamed at each pass if not. A series that was loaded or changed since has to fit.

    Args:
        series: a store that `prepare` made, by path or as `open_store` opened it; or any labelled Dataset that fits in
            memory, (time, [level,] Y, X) with units and without gaps or NaN, which is normalized by z-scores.
        split: the periods of a Dataset that is no store's; by default the first 70 % of its frames to train on, the
            next 10 % to validate.
        preset: "weather" or "traffic", what did best on such data; see `stforecast.presets`. Without one the published
            network learns to forecast the change since the last frame.
        history: how many frames the network sees; as the preset says, or 12.
        horizon: how many frames it learns to forecast; as the preset says, or 12.
        network: its size, and what it is told.
        training: epochs, batch size, learning rate, loss and seed.
        memory_limit: bytes that frames and batches may take; by default what a run was begun with, else half of what is
            free. The order in which a streamed store is learnt from follows from it, and so do the weights. To make the
            tables of first_guess="regression" before that, blocks of a streamed store take some 600 MB.
        run: a folder for checkpoints (each minute and epoch, the last two), run.json (what was asked for, of which
            data, with which versions), metrics.csv (losses by epoch) and loss_curve.png. A fit that was interrupted
            there is gone on with, to the same weights bit by bit on the same machine and number of threads. Another
            number of processes or another precision is another fit.
        lightning: what to tell `lightning.Trainer` besides, e.g. {"devices": 2, "strategy": "ddp"}, {"precision":
            "bf16-mixed"} or {"logger": TensorBoardLogger("logs")}, which gets training_loss by step, and by epoch
            training_loss_epoch and validation_loss. When the fit is done, each of several processes goes on with the
            caller's script.
        progress: whether to draw a progress bar.

    Raises:
        StforecastError: what `check_series` refuses; ARGUMENT for another split than a store's; CONST for a variable
            that does not vary; TIME_FREQ for lags between two steps;
            TIME_SHORT, naming the part, if a part has not one whole window, or naming the times of day of a mean cycle
            that the training period lacks; MEMORY_BUDGET, naming what it takes, if a series that is not as its store
            was opened does not fit, or not even a stream; NAN or INF for values that are not finite; TRAIN_DIVERGED
            if the loss stops being finite; RESUME_MISMATCH, naming what differs, if the run was begun otherwise;
            RUN_ACTIVE if another process fits into the run's folder; PERMISSION for one that cannot be made or written;
            BACKEND if a network that is to be compiled cannot be.
    """
    # Lightning takes seconds to import, and a forecast does without it.
    from stforecast.presets import Preset, preset_of
    from stforecast.training import ErrorWeights, Run, TrainingConfig, train

    if run is not None:
        check_writable(Path(run))
    chosen = Preset(12, 12, NetworkConfig(), TrainingConfig()) if preset is None else preset_of(preset)
    history = chosen.history if history is None else history
    horizon = chosen.horizon if horizon is None else horizon
    check_counts(history=history, horizon=horizon)
    config, size = training or chosen.training, network or chosen.network
    if config.lead_weighted and size.first_guess != "regression":
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"lead_weighted wants first_guess='regression', whose errors are known, not {size.first_guess!r}",
        )
    if memory_limit is None and run is not None:
        memory_limit = Run.memory_limit_of(Path(run))
    if memory_limit is None:
        memory_limit = psutil.virtual_memory().available // 2
    opened = _opened(series, split, memory_limit)
    split, stored = Split.from_attrs(opened.attrs), Normalization.from_json(opened.attrs["normalization"]).variables
    # The caller may have left out some of the variables.
    normalization = Normalization({name: scaling for name, scaling in stored.items() if name in opened.data_vars})
    step = check_series(opened, allow_gaps=True)
    _check_lags(size, step)
    rows = split.rows(opened["time"].to_numpy())
    times = opened["time"].to_numpy()
    at_once = horizon if size.frames_per_call is None else min(size.frames_per_call, horizon)
    horizons = {"train": at_once * config.rollout_steps, "validation": horizon}
    starts = {part: _part_starts(times, step, history, length, part, rows[part]) for part, length in horizons.items()}
    channels, grid = Channels.of(opened), Grid.of(opened)
    cut = {
        part: Cut(starts[part], history, length, config.batch_size, config.seed if part == "train" else None)
        for part, length in horizons.items()
    }
    group = group_of(opened)
    if group is None:
        windows = _windows_in_memory(opened, channels, normalization, cut, memory_limit)
    else:
        windows = _windows_of_store(group, channels, cut, memory_limit)
    shape = NetworkShape(history, at_once, len(channels))
    context = Context(times, step, history, None, size.lag_times)
    if size.sees_anomalies:
        reach = rows_of_windows(starts["train"], history + horizons["train"])
        part = _normalized(opened.isel(time=reach), reach, normalization, channels, windows["train"])
        tables = Tables.of(part, normalization, channels, history=history, horizon=at_once).of_config(size)
        for name, length in horizons.items():
            reached = np.arange(history + frames_of_calls(length, at_once))
            tables.check_known(np.unique(times[starts[name]][:, None] + step * reached))
        shape = replace(shape, columns=tables.columns, planes=tuple(tables.planes), is_joint=tables.is_joint)
        context = replace(context, columns=tables.columns, **_frames_for_lags(windows, size))
    cells = leads = None
    if config.area_weighted:
        cells = torch.from_numpy(grid.cell_area().to_numpy().astype(np.float32))[:, None]
    if config.lead_weighted:
        leads = torch.from_numpy(tables.lead_weights())
    begun = None
    alone: AbstractContextManager[None] = nullcontext()
    if run is not None:
        if _begins_first():
            alone = lock(Path(run), busy=ErrorKind.RUN_ACTIVE, doing="fitted into")
        asked = {"network": asdict(size), "training": asdict(config), "history": history, "horizon": horizon}
        data = _data_digest(opened, windows["train"])
        # How a store is streamed decides in which order its windows come.
        streamed = {"streamed within": _limits_of_streams(windows)}
        fingerprint = (
            _flat(asked | streamed) | {"data": data} | {f"version {k}": v for k, v in versions_in_use().items()}
        )
        machine = {"platform": platform.platform(), "threads": torch.get_num_threads()}
        begun = Run(Path(run), fingerprint, {"memory_limit": memory_limit} | machine)
    with alone, torch.random.fork_rng():
        torch.manual_seed(config.seed)
        built = shape.build(size, grid)
        if shape.columns is not None:
            tables.fill(built)
        record = train(
            built,
            windows["train"],
            windows["validation"],
            config,
            context=context,
            describe=lambda some: ", ".join(show_time(times[row]) for row in some.tolist()[:3]),
            weights=ErrorWeights(cells, leads),
            run=begun,
            trainer_options=lightning,
            progress=progress,
        )
    if begun is not None and is_first_process():
        from stforecast.plot import save, training_curve

        save(training_curve(asdict(record)), begun.folder / "loss_curve.png")
    lost = {part: windows_cut_by_gaps(times, step, history + horizons[part], part=rows[part]) for part in starts}
    fitted = Forecaster(
        network=built,
        config=size,
        shape=shape,
        channels=channels,
        grid=grid,
        step=step,
        history=history,
        horizon=horizon,
        normalization=normalization,
        split=split,
        training={
            "config": asdict(config),
            **asdict(record),
            "windows": {part: len(some) for part, some in starts.items()},
            "windows_cut_by_gaps": lost,
            "streamed_within": _limits_of_streams(windows),
            "versions": versions_in_use(),
        },
        envelope=_envelope(windows["train"], rows["train"]),
    )
    return fitted.calibrated(opened, batch_size=config.batch_size, backend="eager")


def _opened(series: str | Path | xr.Dataset, split: Split | None, memory_limit: int) -> xr.Dataset:
    """The series that is fitted on, with its split and statistics among its attributes."""
    opened = series if isinstance(series, xr.Dataset) else open_store(series)
    if not {"split", "normalization"} <= set(opened.attrs):
        return _in_memory(opened, split, memory_limit)
    if split is not None and split != Split.from_attrs(opened.attrs):
        raise StforecastError(
            ErrorKind.ARGUMENT,
            "the series is a store's and has its split, by which its statistics were taken; prepare it anew with the "
            "other split, or leave out split",
        )
    return opened


def _in_memory(series: xr.Dataset, split: Split | None, memory_limit: int) -> xr.Dataset:
    """A series that is no store's, loaded and checked as `prepare` would, with the statistics of its training part."""
    check_series(series)
    remedy = "make a store of it with stforecast.prepare(series, path, split), which is streamed"
    _check_memory(series, memory_limit, "the series takes", "it", remedy)
    (time,) = find_dims(series, "T")
    loaded = series.compute().astype(np.float32, keep_attrs=True)
    for variable in loaded.data_vars.values():
        check_finite(variable)
        check_range(variable)
    loaded = loaded if time == "time" else loaded.rename({time: "time"})
    times = times_of(loaded)
    chosen = Split.by_fraction(times) if split is None else split
    normalization = Normalization.of(loaded.isel(time=chosen.part_rows(times, "train")))
    return loaded.assign_attrs(split=chosen.to_json(), normalization=normalization.to_json())


def _part_starts(times: Times, step: np.timedelta64, history: int, horizon: int, part: str, rows: slice) -> Rows:
    starts = window_starts(times, step, history + horizon, part=rows)
    if not len(starts):
        raise StforecastError(
            ErrorKind.TIME_SHORT,
            f"the {part} period has no whole window: a history of {history} and a horizon of {horizon} need "
            f"{history + horizon} frames {show_step(step)} apart, it holds {frames_in(rows)} frames from "
            f"{show_time(times[rows.start])} to {show_time(times[rows.stop - 1])}",
        )
    return starts


def _begins_first() -> bool:
    """Whether this process is not one that another one began to train with it, as launchers tell by these."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
    return all(rank == "0" for rank in ranks)


def _check_lags(config: NetworkConfig, step: np.timedelta64) -> None:
    """Refuse lags at which no frame ever is."""
    between = [lag for lag, time in zip(config.lags, config.lag_times, strict=True) if time % step != np.timedelta64(0)]
    if between:
        raise StforecastError(
            ErrorKind.TIME_FREQ,
            f"lags of {', '.join(between)} are not whole numbers of the series' steps of {show_step(step)}, so there "
            "is never a frame; choose others",
        )


def _frames_for_lags(windows: Mapping[str, Windows], config: NetworkConfig) -> dict[str, Any]:
    """The frames that earlier ones are taken out of, if the network sees any."""
    if not config.lags:
        return {}
    train, validation = windows["train"], windows["validation"]
    if not isinstance(train, WindowLoader) or not isinstance(validation, WindowLoader):
        raise StforecastError(
            ErrorKind.MEMORY_BUDGET,
            f"the network is to see frames from {', '.join(config.lags)} before, which is possible only when all "
            "frames of training and validation are in memory, and they do not fit; raise memory_limit, or leave out "
            "lags",
        )
    assert train.frames is validation.frames
    return {"frames": train.frames, "first_row": train.first_row}


def _envelope(windows: Windows, train: slice) -> Envelope:
    """Between which values the frames of the training period lie; of a store that is streamed, block by block."""
    if isinstance(windows, WindowLoader):
        # Frames that are in no window are not there.
        first = max(train.start - windows.first_row, 0)
        return Envelope.of(windows.frames[first : train.stop - windows.first_row].numpy())
    assert isinstance(windows, StreamedWindows)
    blocks = range(train.start, train.stop, _ENVELOPE_FRAMES)
    return reduce(
        Envelope.merge,
        (
            Envelope.of(windows.stored.load(slice(row, min(row + _ENVELOPE_FRAMES, train.stop))).numpy())
            for row in blocks
        ),
    )


_ENVELOPE_FRAMES = 64


def _normalized(
    part: xr.Dataset, rows: slice, normalization: Normalization, channels: Channels, windows: Windows
) -> xr.Dataset:
    """A part of a series, (time, [level,] Y, X), normalized: frames that are in memory already, else lazily.

    Args:
        part: the part, in physical units.
        rows: which rows of the series it is.
        normalization: the statistics.
        channels: its channels.
        windows: windows that reach over these rows.
    """
    if not isinstance(windows, WindowLoader):
        plain = normalization.apply(part)
        for variable in plain.data_vars.values():
            # Statistics of scores are wanted here, where others would be of physical values.
            del variable.attrs["normalized"]
        return plain
    time, y, x = find_dims(part, "T", "Y", "X")
    frames = windows.frames[rows.start - windows.first_row : rows.stop - windows.first_row].numpy()
    behind = np.cumsum([item.channels for item in channels.variables])
    variables = {}
    for item, own in zip(channels.variables, np.split(frames, behind[:-1], axis=1), strict=True):
        dims = part[item.name].transpose(time, ..., y, x).dims
        variables[item.name] = (dims, own if item.levels else own[:, 0], {"units": "1"})
    return xr.Dataset(variables, part.coords, part.attrs)


@dataclass(frozen=True)
class Cut:
    """How windows are cut out of frames.

    Attributes:
        starts: their first rows.
        history: frames that the network sees.
        horizon: frames that it is to forecast.
        batch_size: windows a batch.
        seed: what shuffles them; None for windows in order of time.
    """

    starts: Rows
    history: int
    horizon: int
    batch_size: int
    seed: int | None


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values by their full names."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= {f"{name} {inner}": v for inner, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return json.loads(json.dumps(flat))  # type: ignore[no-any-return]  # tuples become lists, as a file gives them back


def _data_digest(opened: xr.Dataset, windows: Windows) -> str:
    """A sum that tells the data of a fit: what a store's manifest says of it, or the frames themselves."""
    digest = hashlib.sha256(opened.attrs["normalization"].encode() + opened.attrs["split"].encode())
    digest.update(opened["time"].to_numpy().tobytes())
    if isinstance(windows, WindowLoader):
        digest.update(np.ascontiguousarray(windows.frames.numpy()).data)
    else:
        digest.update((Path(opened.encoding["source"]).parent / MANIFEST).read_bytes())
    return digest.hexdigest()


def _limits_of_streams(windows: Mapping[str, Windows]) -> dict[str, int]:
    """What the parts that are streamed may take, by name."""
    return {part: some.memory_limit for part, some in windows.items() if isinstance(some, StreamedWindows)}


def _check_memory(series: xr.Dataset, memory_limit: int, takes: str, who: str, remedy: str) -> None:
    """Refuse a series whose float32 values are more than the memory that they may take."""
    needed = sum(variable.size * 4 for variable in series.data_vars.values())
    if needed > memory_limit:
        raise StforecastError(
            ErrorKind.MEMORY_BUDGET,
            f"{takes} {needed:,} bytes, more than the {memory_limit:,} that {who} may; {remedy}, or raise memory_limit",
        )


def _windows_in_memory(
    opened: xr.Dataset,
    channels: Channels,
    normalization: Normalization,
    cut: Mapping[str, Cut],
    memory_limit: int,
) -> dict[str, Windows]:
    """The windows of training and of validation, out of a series that somebody opened."""
    rows = _rows_of(cut)
    learnt = opened.isel(time=rows)
    remedy = "pass the path of the store, which is streamed then"
    _check_memory(learnt, memory_limit, "the frames of training and validation take", "they", remedy)
    learnt = learnt.load()
    for variable in learnt.data_vars.values():
        check_finite(variable)
    frames = torch.from_numpy(channels.stack(normalization.apply(learnt)))
    return _cut_out_of(frames, rows, cut)


def _rows_of(cut: Mapping[str, Cut]) -> slice:
    """The rows that windows of all parts together reach over."""
    reach = [rows_of_windows(some.starts, some.history + some.horizon) for some in cut.values()]
    return slice(min(some.start for some in reach), max(some.stop for some in reach))


def _cut_out_of(frames: torch.Tensor, rows: slice, cut: Mapping[str, Cut]) -> dict[str, Windows]:
    """The windows of all parts out of the same frames."""
    return {
        part: WindowLoader(
            frames, some.starts, some.history, some.horizon, some.batch_size, some.seed, first_row=rows.start
        )
        for part, some in cut.items()
    }


def _windows_of_store(group: Path, channels: Channels, cut: Mapping[str, Cut], memory_limit: int) -> dict[str, Windows]:
    """The windows of training and of validation, read once if they fit in memory together, else streamed."""
    stored, rows = StoredFrames.open(group, channels.names), _rows_of(cut)
    length = max(some.history + some.horizon for some in cut.values())
    batch_size = max(min(some.batch_size, len(some.starts)) for some in cut.values())
    if fits_in_memory(stored, rows, length, batch_size, memory_limit):
        return _cut_out_of(stored.load(rows), rows, cut)
    # Validation is the shorter part by far in any usual split, so what does not fit is mostly training.
    shares = {"validation": memory_limit // 4, "train": memory_limit - memory_limit // 4}
    return {
        part: stored_windows(
            group,
            channels.names,
            some.starts,
            some.history,
            some.horizon,
            some.batch_size,
            memory_limit=shares[part],
            seed=some.seed,
        )
        for part, some in cut.items()
    }
