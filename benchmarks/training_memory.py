"""Whether memory grows over a long training: the resident set after each of many epochs of a tiny network.

python benchmarks/training_memory.py --epochs 400
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr
from lightning.pytorch.callbacks import Callback

import stforecast as stf
from stforecast.networks import NetworkConfig
from stforecast.split import Split
from stforecast.training import TrainingConfig

MIB = 2**20


class Resident(Callback):
    """Notes the resident set after each epoch, in bytes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def on_train_epoch_end(self, *_: Any) -> None:
        """Note it."""
        self.sizes.append(psutil.Process().memory_info().rss)


def city(frames: int = 960) -> xr.Dataset:
    """Twenty days of half-hourly counts on 8 x 8 cells."""
    times = np.datetime64("2016-01-04", "ns") + np.arange(frames) * np.timedelta64(30, "m")
    mean = 20 + 15 * np.sin(2 * np.pi * np.arange(frames) / 48)
    counts = np.random.default_rng(0).poisson(mean[:, None, None], (frames, 8, 8)).astype(np.float32)
    coords = {
        "time": times,
        "row": ("row", np.arange(8), {"axis": "Y"}),
        "column": ("column", np.arange(8), {"axis": "X"}),
    }
    return xr.Dataset({"inflow": (("time", "row", "column"), counts, {"units": "1", "valid_min": 0})}, coords)


def sizes_by_epoch(epochs: int, folder: Path) -> list[int]:
    """The resident set after each epoch of a fit that keeps checkpoints and a moving average of the weights."""
    series, resident = city(), Resident()
    stf.prepare(series, folder / "s.zarr", Split.by_fraction(series["time"].to_numpy()))
    stf.fit(
        folder / "s.zarr",
        history=4,
        horizon=4,
        network=NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2, first_guess="regression"),
        training=TrainingConfig(epochs=epochs, batch_size=64, weight_averaging=0.9),
        run=folder / "run",
        lightning={"callbacks": [resident], "accelerator": "cpu"},
    )
    return resident.sizes


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=400)
    epochs = parser.parse_args().epochs
    with tempfile.TemporaryDirectory() as folder:
        sizes = sizes_by_epoch(epochs, Path(folder))
    marks = sorted({1, *(2**n for n in range(3, 20) if 2**n < epochs), epochs})
    print("| epoch | resident MiB |\n|---|---|")
    for epoch in marks:
        print(f"| {epoch} | {sizes[epoch - 1] / MIB:.1f} |")
