"""Which windows of a time axis are whole, and batches of them from memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from stforecast.time_axis import Times

Rows = npt.NDArray[np.intp]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def window_starts(times: Times, step: np.timedelta64, length: int, *, part: slice | None = None) -> Rows:
    """The rows at which `length` frames, one step apart each, begin.

    Args:
        times: a strictly increasing time axis on multiples of `step`, (time,).
        step: the step of the series.
        length: frames in a window, history and horizon together.
        part: the rows that a window must lie in as a whole; all by default.

    Returns:
        Increasing rows, (window,); empty where no window is whole.
    """
    first, behind, _ = (part or slice(None)).indices(len(times))
    starts: Rows = np.arange(first, behind - length + 1)
    # The axis increases, so frames are one step apart each exactly when the last is length - 1 steps after the first.
    whole: Rows = starts[times[starts + length - 1] - times[starts] == (length - 1) * step]
    return whole


def windows_cut_by_gaps(times: Times, step: np.timedelta64, length: int, *, part: slice | None = None) -> int:
    """How many windows a part would have besides, were no frame absent inside it."""
    first, behind, _ = (part or slice(None)).indices(len(times))
    if first >= behind:
        return 0
    frames = int((times[behind - 1] - times[first]) / step) + 1
    return max(frames - length + 1, 0) - len(window_starts(times, step, length, part=part))


@dataclass(frozen=True)
class WindowLoader:
    """Batches of windows cut out of frames in memory.

    Each pass gives (history, target, start): (batch, history, channel, y, x), (batch, horizon, channel, y, x), float32,
    and the windows' rows, (batch,). In a shuffled loader the order is a function of the seed and of how many passes
    there were before, so a run can be repeated; unshuffled, windows come in order of time.

    Attributes:
        frames: all frames, (time, channel, y, x), float32.
        starts: the windows' first rows, from `window_starts`.
        history: frames that the network sees.
        horizon: frames that it is to forecast.
        batch_size: windows a batch; the last one may be smaller.
        seed: None for windows in order, else what shuffles them.
    """

    frames: torch.Tensor
    starts: Rows
    history: int
    horizon: int
    batch_size: int
    seed: int | None = None

    def __len__(self) -> int:
        return -(-len(self.starts) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of pass `number`, counted from 0."""
        starts = torch.from_numpy(self.starts)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, number]).permutation(len(starts))
            starts = starts[torch.from_numpy(order)]
        offsets = torch.arange(self.history + self.horizon)
        for some in starts.split(self.batch_size):
            window = self.frames[some[:, None] + offsets]  # (batch, history + horizon, channel, y, x)
            yield window[:, : self.history], window[:, self.history :], some
