"""Windows a CPU second by several feeds, in memory and out of a store, interleaved in one process: a Markdown table."""

import argparse
import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

# Before numpy and torch are loaded: all feeds are to gather on one thread.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
import xarray as xr
import zarr
from torch.utils.data import DataLoader, Dataset

import stforecast as stf
from stforecast.windows import StoredFrames, StreamedWindows, WindowLoader, window_starts

HISTORY, HORIZON, BATCH = 12, 12, 16
LENGTH = HISTORY + HORIZON
STEP = np.timedelta64(1, "h")

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Feed:
    """A way to get windows into a network.

    Attributes:
        name: what the table calls it.
        give: batches (history, target) of the windows that begin at these rows, in this order; None for its own order.
        windows: how many of them one measurement takes; none for a whole pass.
        rates: windows a CPU second and a second of the clock, one pair a measurement.
    """

    name: str
    give: Callable[[np.ndarray], Iterator[Pair]]
    windows: int | None = None
    rates: list[tuple[float, float]] = field(default_factory=list)

    def measure(self, starts: np.ndarray) -> None:
        """Take the windows once and note how fast they came."""
        asked = starts[: self.windows]
        wall, cpu = time.perf_counter(), time.process_time()
        given = sum(len(history) for history, _ in self.give(asked))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        assert given == len(asked)
        self.rates.append((given / cpu, given / wall))


def gather_into_one_buffer(frames: np.ndarray, starts: np.ndarray) -> Iterator[Pair]:
    """What memory allows: nothing but a copy of each frame, always to the same place, which no loop could keep."""
    buffer = np.empty((BATCH, LENGTH, *frames.shape[1:]), np.float32)
    offsets = np.arange(LENGTH)
    for first in range(0, len(starts), BATCH):
        some = starts[first : first + BATCH, None] + offsets
        # Unless it may clip, numpy gathers into a buffer of its own first.
        window = torch.from_numpy(np.take(frames, some, axis=0, out=buffer[: len(some)], mode="clip"))
        yield window[:, :HISTORY], window[:, HISTORY:]


def ours(windows: WindowLoader | StreamedWindows, starts: np.ndarray) -> Iterator[Pair]:
    """Our own loaders; they choose the order."""
    assert len(starts) == len(windows.starts)
    return ((history, target) for history, target, _ in windows)


class IndexedWindows(Dataset[Pair]):
    """As OpenSTL's weather data set does it: two fancy indices into an array, and a copy of each into a tensor."""

    def __init__(self, frames: np.ndarray, starts: np.ndarray) -> None:
        self.frames, self.starts = frames, starts
        self.seen, self.asked = np.arange(HISTORY), np.arange(HISTORY, LENGTH)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Pair:
        start = self.starts[index]
        return torch.tensor(self.frames[start + self.seen]), torch.tensor(self.frames[start + self.asked])


def openstl_like(frames: np.ndarray, starts: np.ndarray) -> Iterator[Pair]:
    """Its loader, on the order that is asked for instead of one of its own."""
    return iter(DataLoader(IndexedWindows(frames, starts), batch_size=BATCH, num_workers=0))


def stacked(windows: Iterator[np.ndarray]) -> Iterator[Pair]:
    """Batches out of single windows (time, channel, y, x)."""
    batch: list[np.ndarray] = []
    for window in windows:
        batch.append(window)
        if len(batch) == BATCH:
            yield split(batch)
            batch = []
    if batch:
        yield split(batch)


def split(batch: list[np.ndarray]) -> Pair:
    window = torch.from_numpy(np.stack(batch))
    return window[:, :HISTORY], window[:, HISTORY:]


def each_by_itself(array: "zarr.Array", starts: np.ndarray) -> Iterator[Pair]:
    """One read of a region for each window."""
    return stacked(np.asarray(array[start : start + LENGTH])[:, None] for start in starts)


def by_xbatcher(series: xr.DataArray, starts: np.ndarray) -> Iterator[Pair]:
    """One batch of xbatcher's for each window."""
    batches = batch_generator(series)
    return stacked(batches[int(start)].to_numpy()[:, None] for start in starts)


def by_map_dataset(series: xr.DataArray, starts: np.ndarray) -> Iterator[Pair]:
    """Its data set for torch with torch's loader."""
    from xbatcher.loaders.torch import MapDataset

    dataset = torch.utils.data.Subset(MapDataset(batch_generator(series)), starts.tolist())
    for window in DataLoader(dataset, batch_size=BATCH, num_workers=0):
        yield window[:, :HISTORY, None], window[:, HISTORY:, None]


def batch_generator(series: xr.DataArray) -> "xbatcher.BatchGenerator":  # noqa: F821  # an import of its own, below
    import xbatcher

    # Dimensions that it is not told of it would stack into one.
    lengths = {**series.sizes, "time": LENGTH}
    return xbatcher.BatchGenerator(series, input_dims=lengths, input_overlap={"time": LENGTH - 1})


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def feeds(group: Path, starts: np.ndarray, memory_limit: int) -> list[Feed]:
    """All that are measured; the first two are what others are compared with."""
    stored = StoredFrames.open(group, ["t2m"])
    frames = stored.load(slice(0, stored.shape[0]))
    values, array = frames.numpy(), zarr.open_group(group, mode="r")["t2m"]
    loader = WindowLoader(frames, starts, HISTORY, HORIZON, BATCH, seed=0)
    stream = StreamedWindows(stored, starts, HISTORY, HORIZON, BATCH, memory_limit, seed=0)
    lazy = xr.open_zarr(group, chunks=None)["t2m"]
    found = [
        Feed("numpy gather into one buffer", partial(gather_into_one_buffer, values)),
        Feed("**stforecast, in memory**", partial(ours, loader)),
        Feed("OpenSTL's way: Dataset + DataLoader", partial(openstl_like, values), 4096),
        Feed(f"**stforecast, streamed within {memory_limit / 2**20:.0f} MiB**", partial(ours, stream)),
        Feed("zarr, a region a window", partial(each_by_itself, array), 256),
    ]
    if has("zarrs"):
        found.append(Feed("zarr with `zarrs`, a region a window", partial(each_by_itself, with_zarrs(group)), 512))
    if has("xbatcher"):
        found += [
            Feed("xbatcher in memory", partial(by_xbatcher, lazy.compute()), 2048),
            Feed("xbatcher in memory, MapDataset + DataLoader", partial(by_map_dataset, lazy.compute()), 1024),
            Feed("xbatcher, lazy Zarr", partial(by_xbatcher, lazy), 256),
            Feed("xbatcher, Zarr through dask", partial(by_xbatcher, xr.open_zarr(group)["t2m"]), 64),
        ]
    return found


def with_zarrs(group: Path) -> "zarr.Array":
    # An array keeps the pipeline that it was opened with.
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr.open_group(group, mode="r")["t2m"]


def check(feed: Feed, frames: np.ndarray, starts: np.ndarray) -> None:
    """That a feed gives the windows that it was asked for, or, in an order of its own, all of them."""
    asked = starts[: min(40, feed.windows)] if feed.windows else starts
    found = [torch.cat(pair, 1).numpy() for pair in feed.give(asked)]
    rows = np.concatenate([[window.astype(np.float64).sum() for window in batch] for batch in found])
    expected = np.array([frames[start : start + LENGTH].astype(np.float64).sum() for start in asked])
    np.testing.assert_allclose(np.sort(rows), np.sort(expected), rtol=1e-9, err_msg=feed.name)
    if feed.windows:
        for window, start in zip(np.concatenate(found), asked, strict=True):
            np.testing.assert_array_equal(window, frames[start : start + LENGTH], err_msg=feed.name)


def make_store(folder: Path, years: int) -> Path:
    """The group of a store of hourly 5.625-degree temperatures."""
    stf.write_sample("weather", folder / "raw", years=years, step_hours=1)
    raw = stf.open_dataset(folder / "raw", variables=["t2m"])
    stf.prepare(raw, folder / "t2m.zarr", stf.Split.by_fraction(raw["time"].to_numpy()))
    return (folder / "t2m.zarr" / ".current").resolve()


def table(found: list[Feed]) -> str:
    """Medians, the spread of repetitions, and the ratio to the first feed."""
    base = median(cpu for cpu, _ in found[0].rates)
    lines = [
        "| feed | windows a CPU second | lowest to highest | of the gather | windows a second |",
        "|---|---|---|---|---|",
    ]
    for feed in found:
        cpu, wall = zip(*feed.rates, strict=True)
        lines.append(
            f"| {feed.name} | {median(cpu):,.0f} | {min(cpu):,.0f} to {max(cpu):,.0f} | {median(cpu) / base:.3f} | "
            f"{median(wall):,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one year and one repetition")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--memory-limit", type=int, default=64, help="MiB for the streamed windows")
    options = parser.parse_args()
    # A feed of others may warn of its own ways; they are measured as they are.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        group = make_store(Path(folder), 1 if options.quick else 2)
        times = xr.open_zarr(group, chunks=None)["time"].to_numpy()
        starts = window_starts(times, STEP, LENGTH)
        found = feeds(group, starts, options.memory_limit * 2**20)
        frames = np.asarray(zarr.open_group(group, mode="r")["t2m"])[:, None]
        order = np.random.default_rng(0).permutation(starts)
        for feed in found:
            check(feed, frames, order)
        for _ in range(1 if options.quick else options.repetitions):
            for feed in found:
                feed.measure(order)
        print(f"{len(starts):,} windows of {HISTORY} + {HORIZON} frames, {frames.nbytes / 1e6:.0f} MB")
        print(
            f"in batches of {BATCH}; medians of {len(found[0].rates)} interleaved repetitions, {os.cpu_count()} cores\n"
        )
        print(table(found))


if __name__ == "__main__":
    main()
