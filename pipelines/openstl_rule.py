"""How OpenSTL cuts, scales, chooses and scores, its faults included, for comparison with published numbers.

Tan et al.: OpenSTL: A Comprehensive Benchmark of Spatio-Temporal Predictive Learning, NeurIPS 2023, arXiv:2306.11249.
Nothing of this is in the package, where it would be a trap, but for the sums over a frame that the scores are made of.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import lightning
import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

import stforecast as stf
from stforecast.grid import Grid, check_finite, check_series
from stforecast.networks import Context, NetworkShape
from stforecast.sources.openstl import read_windows
from stforecast.time_axis import Times
from stforecast.training import TrainingRecord, train
from stforecast.verification import frame_sums
from stforecast.windows import Batch, Rows, WindowLoader, window_starts

PARTS = ("train", "test")
# Of timm's cosine schedule as OpenSTL sets it.
FIRST_RATE, LAST_RATE = 1e-5, 1e-6

_NO_SSIM = "SSIM is left out: the published one takes a range of 2 for values in [0, 1], and changed with scikit-image."


@dataclass(frozen=True)
class Material:
    """Frames as the published loaders hand them to the network.

    Attributes:
        frames: of each part, (time, channel, y, x), float32, in the network's units.
        starts: of each part, the windows' first rows.
        location: what is added to frames, once they are multiplied by `scale`, before they are scored, (channel, 1, 1).
        scale: likewise.
        units: of the scores.
        is_summed: whether errors are summed over channels and cells, rather than averaged.
        bridged: how many windows of each part go across a gap as if there were none.
        faults: what is wrong with the rule, in sentences, with the numbers of these data.
        remarks: what else has to be known to compare.
    """

    frames: dict[str, Tensor]
    starts: dict[str, Rows]
    location: Tensor
    scale: Tensor
    units: str
    is_summed: bool
    bridged: dict[str, int]
    faults: list[str]
    remarks: list[str] = field(default_factory=list)


def positional_starts(frames: int, history: int, horizon: int) -> Rows:
    """The rows at which windows begin by the published weather loader, which leaves the last one away."""
    return np.arange(max(frames - history - horizon, 0))


def across_gaps(times: Times, step: np.timedelta64, starts: Rows, length: int) -> int:
    """How many of some windows have frames that are not one step apart each."""
    return int((times[starts + length - 1] - times[starts] != (length - 1) * step).sum())


def weatherbench(series: xr.Dataset, split: stf.Split, history: int, horizon: int) -> Material:
    """One variable by the rule of OpenSTL 0.3's weather loader.

    Each part is standardised by its own mean and deviation, and both are turned back by those of training. The
    validation period is not looked at.

    Raises:
        StforecastError: what `Split.part_rows` raises; NAN or INF; TIME_SHORT for a part without a window.
    """
    (name,) = series.data_vars
    step = check_series(series, allow_gaps=True)
    frames, starts, bridged, moments = {}, {}, {}, {}
    for part in PARTS:
        rows = split.part_rows(series["time"].to_numpy(), part)
        variable = series[name].isel(time=slice(rows.start, rows.stop - 1)).load()
        check_finite(variable)
        values = variable.to_numpy().astype(np.float32)[:, None]
        moments[part] = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        frames[part] = torch.from_numpy(((values - moments[part][0]) / moments[part][1]).astype(np.float32))
        starts[part] = positional_starts(len(values), history, horizon)
        _check_any(starts[part], part, len(values) + 1, history + horizon + 2)
        bridged[part] = across_gaps(variable["time"].to_numpy(), step, starts[part], history + horizon)
    (mean, deviation), (test_mean, test_deviation) = (moments[part] for part in PARTS)
    units = str(series[name].attrs["units"])
    return Material(
        frames=frames,
        starts=starts,
        location=torch.tensor([[[mean]]], dtype=torch.float32),
        scale=torch.tensor([[[deviation]]], dtype=torch.float32),
        units=units,
        is_summed=False,
        bridged=bridged,
        faults=[
            "Each part is standardised by its own statistics and turned back by those of training: the test period's "
            f"mean ({test_mean:.4g} {units}, training {mean:.4g}) is known to its own forecasts, the difference of "
            f"{test_mean - mean:+.3g} {units} is in no score, and errors are multiplied by "
            f"{deviation / test_deviation:.4f}, the quotient of the deviations.",
            "There is no validation: the test windows chose the epoch.",
            "Cells are weighted alike, so that a row of cells at the pole counts as much as one at the equator.",
            f"Windows are cut by position: {bridged['train']} of {len(starts['train'])} to train and "
            f"{bridged['test']} of {len(starts['test'])} to test go across a gap as if it were one step.",
            "The last frame of each part, and the last window of the others, are left away.",
            "One number stands for all lead times.",
        ],
    )


def taxibj(series: xr.Dataset, test_windows: int, history: int, horizon: int) -> Material:
    """Flows in [0, 1], the last windows to test and all that end before them to train.

    Raises:
        StforecastError: NAN or INF; TIME_SHORT if no window is left to train on.
    """
    step = check_series(series, allow_gaps=True)
    series = series.load()
    for variable in series.data_vars.values():
        check_finite(variable)
    length, times = history + horizon, series["time"].to_numpy()
    whole = window_starts(times, step, length)
    test = whole[-test_windows:]
    training = whole[whole + length <= test[0]] if len(test) else test
    _check_any(training, "train", len(times), length + test_windows)
    counts = np.stack([variable.to_numpy() for variable in series.data_vars.values()], axis=1)
    lowest, highest = float(counts[: test[0]].min()), float(counts[: test[0]].max())
    frames = torch.from_numpy(((counts - lowest) / (highest - lowest)).astype(np.float32))
    left_out = len(times) - length + 1 - len(whole)
    return Material(
        **_in_unit_interval(frames, frames, training, test),
        faults=[
            "There is no validation: the test windows chose the epoch.",
            f"Errors are sums over {frames[0].numel()} values of a frame, in [0, 1]: they depend on the grid and on "
            f"the busiest cell, here of {highest:g} vehicles.",
            "One number stands for all lead times.",
        ],
        remarks=[
            "How the published archive was cut out of these files is not documented. Here windows with absent slots "
            f"are left out ({left_out} of {left_out + len(whole)}), the last {len(test)} are the test, training ends "
            "before their first frame, and its extremes scale both.",
            _NO_SSIM,
        ],
    )


def taxibj_archive(path: Path, history: int, horizon: int) -> Material:
    """The windows that OpenSTL's dataset.npz holds, in [0, 1].

    Raises:
        StforecastError: what `read_windows` raises; SHAPE if the windows are of other lengths.
    """
    frames, starts = {}, {}
    for part in PARTS:
        windows = read_windows(path, part=part)
        lengths = windows["history"].shape[1], windows["horizon"].shape[1]
        if lengths != (history, horizon):
            raise stf.StforecastError(
                stf.ErrorKind.SHAPE,
                f"{path} has windows of {lengths[0]} and {lengths[1]} frames, wanted {history} and {horizon}; set "
                "history and horizon to those",
            )
        both = np.concatenate([windows["history"].to_numpy(), windows["horizon"].to_numpy()], axis=1)
        frames[part] = torch.from_numpy((both.reshape(-1, *both.shape[2:]) + 1) / 2)
        starts[part] = np.arange(len(both)) * (history + horizon)
    return Material(
        **_in_unit_interval(frames["train"], frames["test"], starts["train"], starts["test"]),
        faults=[
            "There is no validation: the test windows chose the epoch.",
            f"Errors are sums over {frames['test'][0].numel()} values of a frame, in [0, 1].",
            "One number stands for all lead times.",
            "The archive has no times and no scale: whether windows go across gaps, and what the errors are in "
            "vehicles, cannot be told.",
        ],
        remarks=[_NO_SSIM],
    )


def _in_unit_interval(training: Tensor, test: Tensor, training_starts: Rows, test_starts: Rows) -> dict:
    return {
        "frames": {"train": training, "test": test},
        "starts": {"train": training_starts, "test": test_starts},
        "location": torch.zeros(1, 1, 1),
        "scale": torch.ones(1, 1, 1),
        "units": "1",
        "is_summed": True,
        "bridged": {"train": 0, "test": 0},
    }


def _check_any(starts: Rows, part: str, frames: int, wanted: int) -> None:
    if not len(starts):
        raise stf.StforecastError(
            stf.ErrorKind.TIME_SHORT,
            f"the {part} part has no window: {wanted} frames or more are wanted, {frames} are there",
        )


@dataclass(frozen=True)
class WholeBatches(WindowLoader):
    """Shuffled windows without those of the last batch that would be smaller, others in each pass."""

    def __len__(self) -> int:
        return len(self.starts) // self.batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of pass `number`, counted from 0."""
        order = np.random.default_rng([self.seed or 0, number]).permutation(self.starts)[: len(self) * self.batch_size]
        yield from WindowLoader(self.frames, order, self.history, self.horizon, self.batch_size).epoch(0)


class PublishedSchedule(lightning.Callback):
    """Sets the learning rate at the beginning of each epoch as timm's cosine with a linear warm-up does."""

    def __init__(self, highest: float, epochs: int, warm_up: int) -> None:
        self.highest, self.epochs, self.warm_up = highest, epochs, warm_up

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if epoch < self.warm_up:
            return FIRST_RATE + epoch * (self.highest - FIRST_RATE) / self.warm_up
        return LAST_RATE + (self.highest - LAST_RATE) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002, D102
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rate(trainer.current_epoch)


def fit(
    material: Material,
    network: stf.NetworkConfig,
    training: stf.TrainingConfig,
    schedule: PublishedSchedule,
    history: int,
    horizon: int,
) -> tuple[nn.Module, TrainingRecord]:
    """A network fitted on the training windows, its epoch chosen by the test windows.

    Raises:
        StforecastError: ARGUMENT for fewer windows than one batch has; what `train` raises.
    """
    channels, y, x = material.frames["train"].shape[1:]
    if len(material.starts["train"]) < training.batch_size:
        raise stf.StforecastError(
            stf.ErrorKind.ARGUMENT,
            f"{len(material.starts['train'])} training windows are fewer than a batch of {training.batch_size}, and "
            "only whole batches are learnt from; lower training.batch_size",
        )
    grid = Grid("y", "x", np.arange(float(y)), np.arange(float(x)), is_geographic=False)
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        built = NetworkShape(history, horizon, channels).build(network, grid)
        record = train(
            built,
            WholeBatches(
                material.frames["train"], material.starts["train"], history, horizon, training.batch_size, training.seed
            ),
            WindowLoader(material.frames["test"], material.starts["test"], history, horizon, training.batch_size),
            training,
            # Nothing is told of times, so the axis is only a length.
            context=Context(np.empty(0, "datetime64[ns]"), np.timedelta64(1, "h"), history),
            describe=lambda rows: f"rows {rows.tolist()[:3]}",
            trainer_options={"callbacks": [schedule]},
        )
    return built, record


def last_frame(horizon: int) -> Callable[[Tensor], Tensor]:
    """What repeats the last frame of a history (b, t, c, y, x) `horizon` times."""
    return lambda history: history[:, -1:].expand(-1, horizon, -1, -1, -1)


def scores(
    forecast: Callable[[Tensor], Tensor], material: Material, history: int, horizon: int, batch_size: int = 16
) -> dict[str, float]:
    """The published scores of a forecast over the test windows.

    Either means over everything, mse, rmse and mae in the units of the variable; or mse and mae as sums over channels
    and cells, averaged over frames, and psnr in dB, of predictions cut to [0, 1], averaged over frames.

    Args:
        forecast: maps frames (b, history, c, y, x) to (b, horizon, c, y, x).
        material: the test windows.
        history: frames that it sees.
        horizon: frames that it gives.
        batch_size: windows at once.
    """
    windows = WindowLoader(material.frames["test"], material.starts["test"], history, horizon, batch_size)
    square, absolute, ratio, frames, values = 0.0, 0.0, 0.0, 0, 0
    with torch.inference_mode():
        for seen, target, _ in windows:
            predicted, actual = (
                some.double() * material.scale + material.location for some in (forecast(seen), target)
            )
            error = (predicted - actual).numpy()  # (b, t, c, y, x)
            square += float(frame_sums(error, 2).sum())
            absolute += float(frame_sums(error, 1).sum())
            frames, values = frames + error[:, :, 0, 0, 0].size, values + error.size
            if material.is_summed:
                cut = (predicted.clip(0, 1) - actual).flatten(2)
                ratio += float(-10 * cut.square().mean(dim=-1).log10().sum())
    if material.is_summed:
        return {"mse": square / frames, "mae": absolute / frames, "psnr": ratio / frames}
    return {"mse": square / values, "rmse": math.sqrt(square / values), "mae": absolute / values}
