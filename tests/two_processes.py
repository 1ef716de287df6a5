"""Fits by two processes, the second of which finds its checkpoints due at other steps; run by a test."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from stforecast import training
from stforecast.fitting import fit
from stforecast.forecaster import Forecaster
from stforecast.networks import NetworkConfig


class Stop(Exception):
    pass


class Slow(training.Callback):
    """Steps long enough for checkpoints to be due within a pass."""

    def on_train_batch_start(self, *_: object) -> None:
        time.sleep(0.05)


class StopAt(training.Callback):
    """Ends a fit behind a step, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: object) -> None:
        if trainer.global_step == self.step:
            raise Stop


def fitted(store: Path, run: Path, *callbacks: training.Callback) -> Forecaster:
    return fit(
        store,
        history=4,
        horizon=2,
        # With stochastic depth each process draws its own random numbers.
        network=NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2, drop_path=0.5),
        training=training.TrainingConfig(epochs=2, batch_size=4),
        run=run,
        lightning={"accelerator": "cpu", "devices": 2, "strategy": "ddp", "callbacks": list(callbacks)},
    )


if __name__ == "__main__":
    # Lightning starts the second process by running this file again.
    torch.set_num_threads(1)
    store, folder = map(Path, sys.argv[1:])
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    training._CHECKPOINT_SECONDS = 0.2 + 0.1 * rank
    model = fitted(store, folder / "run", Slow())
    if rank == 0:
        model.save(folder / "model")
    training._CHECKPOINT_SECONDS = 0
    with suppress(Stop):
        fitted(store, folder / "cut", StopAt(4))
    assert any((folder / "cut" / "checkpoints").iterdir()), "there is nothing to go on from"
    for again, one in enumerate([model, fitted(store, folder / "cut")]):
        losses = [*one.training["training_loss"], *one.training["validation_loss"]]
        said = " ".join(f"{loss:.9g}" for loss in losses)
        (folder / f"{rank}{again}.txt").write_text(f"{one.weights_hash()} {said}")
